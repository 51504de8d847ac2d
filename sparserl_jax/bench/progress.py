"""Live progress of a suite on a terminal, plain lines elsewhere; and the safe moment for Ctrl-C and SIGTERM."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 30.0
"""Least time between two lines of a log that is not a terminal."""


def duration(seconds: float) -> str:
    """Seconds in words; a clock that went back counts as none."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Interrupt:
    """Turns the first Ctrl-C or SIGTERM into a flag that is looked at between dispatches, where the state is whole.

    A second one interrupts at once.
    """

    def __init__(self) -> None:
        self.asked = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def look(self) -> None:
        """Raise `KeyboardInterrupt` if one came."""
        if self.asked:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def watch(self) -> Iterator[Interrupt]:
        """Handle both while the block runs; nothing outside the main thread, where signals cannot be set."""
        from sparserl_jax.training.interrupts import SIGNALS, handled

        with handled(dict.fromkeys(SIGNALS, self._handle)):
            yield self


@contextlib.contextmanager
def ended_as_interrupted() -> Iterator[None]:
    """SIGTERM is Ctrl-C while the block runs."""
    from sparserl_jax.training.interrupts import handled

    with handled({signal.SIGTERM: signal.default_int_handler}):
        yield


class Live:
    """Progress bars of a suite: one for all its steps, with time left, one for the running program.

    Work is measured in member steps; the estimate of the time left uses the steps of this session only, so that
    resumed work does not flatter it.
    """

    def __init__(self, console: Console, interrupt: Interrupt, total: int) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self.console, self.interrupt, self.total = console, interrupt, total
        self.done, self.fresh, self.members, self.step = 0, 0, 1, 0
        self.began = self.spoke = time.monotonic()
        self.label, self.note = "", ""
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.all = self.bars.add_task("suite", total=total, text="")
        self.now = self.bars.add_task("program", total=1, text="")

    def __enter__(self) -> Live:
        self.bars.start()
        return self

    def __exit__(self, *details: Any) -> None:
        self.bars.stop()

    def begin(self, label: str, members: int, steps: int) -> None:
        """A program of `members` runs of `steps` steps starts."""
        self.label, self.members, self.step, self.note = label, members, -1, ""
        self.bars.reset(self.now, total=steps, description=label, text="")
        self.say(f"{label}: {members} members", always=True)

    def finish(self, steps: int) -> None:
        """The program is done (or was done already)."""
        self.done += self.members * steps
        self.step = -1
        self.bars.update(self.all, completed=self.done, text=self.left())

    def left(self) -> str:
        """Time left, in words; empty until something is known."""
        seconds = time.monotonic() - self.began
        current = self.done + self.members * max(self.step, 0)
        if self.fresh <= 0 or seconds <= 0:
            return ""
        rest = (self.total - current) * seconds / self.fresh
        return f"about {duration(rest)} left"

    def say(self, text: str, *, always: bool = False) -> None:
        """One line in a log that is not a terminal, not too often."""
        if self.console.is_terminal:
            return
        if always or time.monotonic() - self.spoke >= LINE_SECONDS:
            self.spoke = time.monotonic()
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    # What `training.runner.execute` calls, between dispatches: the safe moments.

    def stage(self, program: str, text: str) -> None:
        """Something other than training goes on."""
        self.interrupt.look()
        self.bars.update(self.now, text=text)
        self.say(f"{self.label}: {text}")

    def advance(self, program: str, step: int, steps: int) -> None:
        """Environment step `step` of `steps` has been reached."""
        # The first report of a resumed program only says where it stands.
        self.fresh += self.members * (step - self.step) if self.step >= 0 else 0
        self.step = step
        self.bars.update(self.now, completed=step, text=self.note)
        self.bars.update(self.all, completed=self.done + self.members * step, text=self.left())
        self.say(f"{self.label}: step {step:,} of {steps:,}{self.note and '; ' + self.note}; {self.left()}")
        self.interrupt.look()

    def score(self, program: str, step: int, returns: list[float]) -> None:
        """Mean evaluation return of every member."""
        ordered = sorted(value for value in returns if math.isfinite(value))
        told = (
            [f"return {ordered[0]:.4g} .. {ordered[len(ordered) // 2]:.4g} .. {ordered[-1]:.4g}"]
            if ordered
            else []
        )
        lost = len(returns) - len(ordered)
        self.note = "; ".join([*told, *([f"{lost} diverged"] if lost else [])])

    def warn(self, program: str, text: str) -> None:
        """A sentence the user should read."""
        self.console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)
