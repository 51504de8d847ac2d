"""Programs divided by seeds, so that a slice of time on a device finishes some of them.

A part of a Program has all its rows (arms, sparsities) and some of their seeds: the same computation with fewer
members. A result depends on its Program's members in its last bits, so a division is kept: records name their members
and the whole they are part of, `divisions.json` names the parts still to come, and `--divided-as FOLDER` divides again
as the records of a folder were. Parts that have begun, or of which a record exists, are never divided anew.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sparserl_jax.bench import rates, records
from sparserl_jax.bench.plan import Plan
from sparserl_jax.bench.progress import duration
from sparserl_jax.bench.suites import plain
from sparserl_jax.errors import UserError

FILE = "divisions.json"
MARGIN = 1.1
"""Forecasts are held against the time left with this factor."""


def part(plan: Plan, program: Any, run_ids: Iterable[str]) -> Any:
    """The Program of some members of `program`, in the order given; itself where they are all of them."""
    runs = {planned.folder.as_posix(): planned.run for planned in plan.of(program)}
    chosen = tuple(runs[run_id] for run_id in run_ids)
    return program if chosen == tuple(program.runs) else dataclasses.replace(program, runs=chosen)


def ids(plan: Plan, program: Any) -> list[str]:
    """Run ids of a program's members."""
    return [planned.folder.as_posix() for planned in plan.of(program)]


def by_seed(plan: Plan, program: Any) -> list[list[str]]:
    """Run ids of a program's members by their place in their row: first seeds of all rows, second seeds, ..."""
    places: dict[Any, int] = {}
    groups: list[list[str]] = []
    for planned in plan.of(program):
        row = (planned.arm.name, planned.run.sparsity, planned.run.critic_sparsity)
        place = places.get(row, 0)
        places[row] = place + 1
        if place == len(groups):
            groups.append([])
        groups[place].append(planned.folder.as_posix())
    return groups


def cut(plan: Plan, program: Any, count: int) -> list[Any]:
    """A program in `count` parts by seeds, as equal as can be; members keep their order."""
    groups = by_seed(plan, program)
    count = max(1, min(count, len(groups)))
    order = {run_id: index for index, run_id in enumerate(ids(plan, program))}
    # The larger parts first, as NumPy's array_split has them.
    small, larger = divmod(len(groups), count)
    parts, start = [], 0
    for index in range(count):
        stop = start + small + (index < larger)
        members = sorted((run_id for group in groups[start:stop] for run_id in group), key=order.__getitem__)
        parts.append(part(plan, program, members))
        start = stop
    return parts


def with_parts(plan: Plan, parts: dict[str, list[Any]]) -> Plan:
    """The plan with some programs, by name, replaced by their parts; the wholes stay known."""
    programs, wholes = [], dict(plan.wholes)
    for program in plan.programs:
        own = parts.get(program.name, [program])
        programs += own
        for one in own:
            if one.name != program.name:
                whole = plan.wholes.get(program.name)
                wholes[one.name] = (program.name, len(program.runs)) if whole is None else whole
    return dataclasses.replace(plan, programs=tuple(programs), wholes=wholes)


# ---- what was decided before ---------------------------------------------------------------------------------------


def begun(folder: Path) -> list[list[str]]:
    """Members of the programs of which the folder has a record."""
    found: dict[tuple[str, ...], None] = {}
    for path in sorted(folder.glob("records/*/*/record.json")):
        try:
            found.setdefault(tuple(records.read(path.parent)["provenance"]["program_members"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # told by `check`, and made again by `run`
    return [list(members) for members in found]


def decided(folder: Path) -> list[list[str]]:
    """Members of the parts that `divisions.json` names."""
    try:
        listed = json.loads((folder / FILE).read_text(encoding="utf-8"))
        sound = isinstance(listed, list) and all(
            isinstance(group, list) and all(isinstance(name, str) for name in group) for group in listed
        )
        return listed if sound else []
    except (OSError, ValueError):
        return []


def divide(plan: Plan, folder: Path, like: Path | None = None) -> Plan:
    """The plan divided as the folder's records are, as was decided there, and as the records of `like` are.

    Raises:
        UserError: `like` holds no records of this suite.
    """
    groups = begun(folder) + decided(folder)
    if like is not None:
        settings, found = records.load_all(like)
        if settings["suite_hash"] != plan.suite.hash() or not found:
            raise UserError(
                f"--divided-as '{like}' holds no records of this suite (configuration {plan.suite.hash()}); give the "
                "folder whose rows you make again."
            )
        groups += begun(like)
    parts: dict[str, list[Any]] = {}
    for program in plan.programs:
        left = dict.fromkeys(ids(plan, program))
        own: list[list[str]] = []
        for group in groups:
            # A group of another plan, or one that an earlier group has taken members of, decides nothing.
            if group and all(run_id in left for run_id in group):
                own.append(group)
                for run_id in group:
                    del left[run_id]
        if not own:
            continue
        own += [list(left)] if left else []
        made = [part(plan, program, group) for group in own]
        if len(made) > 1 or made[0].name != program.name:
            parts[program.name] = made
    return with_parts(plan, parts) if parts else plan


def without(plan: Plan, skipped: set[str]) -> Plan:
    """The plan without some runs; programs of which some members are left become parts."""
    parts: dict[str, list[Any]] = {}
    for program in plan.programs:
        left = [run_id for run_id in ids(plan, program) if run_id not in skipped]
        if len(left) < len(program.runs):
            parts[program.name] = [part(plan, program, left)] if left else []
    return with_parts(plan, parts) if parts else plan


def keep(plan: Plan, folder: Path) -> None:
    """Write the division of a plan down."""
    planned = {run_id for program in plan.programs for run_id in ids(plan, program)}
    # What this command leaves out (`--only`) stays divided as it was.
    listed = [group for group in decided(folder) if not planned.issuperset(group)]
    listed += [ids(plan, program) for program in plan.programs if program.name in plan.wholes]
    records.write_atomic(folder / FILE, (json.dumps(listed, indent=1) + "\n").encode())


def resumes(program: Any, folder: Path) -> bool:
    """Whether a program has a checkpoint."""
    return any((folder / "programs" / program.name).glob("checkpoint-*"))


def for_memory(plan: Plan, folder: Path) -> tuple[Plan, bool]:
    """The plan with programs that the devices cannot hold in the fewest parts by seeds that they can, and whether there
    are any. What has begun stays as it is, and so does what would not fit however it is divided."""
    from sparserl_jax.training.memory import fits

    fixed, parts = {name for group in begun(folder) for name in group}, dict[str, list[Any]]()
    for program in plan.programs:
        if fits(program) or resumes(program, folder) or not fixed.isdisjoint(ids(plan, program)):
            continue
        divisions = (cut(plan, program, count) for count in range(2, len(by_seed(plan, program)) + 1))
        own = next((found for found in divisions if all(map(fits, found))), None)
        if own is not None:
            parts[program.name] = own
    return with_parts(plan, parts), bool(parts)


# ---- what is done next ---------------------------------------------------------------------------------------------


class TooLong(Exception):
    """A program that was rehearsed would not finish in the time left."""


class InOrder:
    """The programs of a plan one after another, whatever time they take."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self._next = plan, iter(plan.programs)

    def next(self) -> Any | None:
        """The program to take up now; None at the end."""
        return next(self._next, None)

    def label(self, number: int) -> str:
        """What to call the program that is taken up as `number`, counted from 1."""
        return f"program {number}/{len(self.plan.programs)}"

    def unsure(self, program: Any) -> bool:
        """Whether a program is to be rehearsed."""
        return False

    def rehearsed(self, program: Any, seconds: float, compile_seconds: float) -> None:
        """Never called."""

    def took(self, program: Any) -> None:
        """A program is finished."""

    def waiting(self) -> list[Any]:
        """All programs: finished ones are found out one by one."""
        return list(self.plan.programs)

    def lines(self) -> list[str]:
        """Nothing beside the plan."""
        return []

    def rest(self) -> str:
        """Nothing is forecast."""
        return ""


class Slices(InOrder):
    """The programs of a plan in the order in which a time budget takes them up, divided so that they fit.

    Programs with a checkpoint come first, then those of which nothing is finished, in the order of the plan. One is
    taken up if its forecast fits into the time left; failing that, one whose time is not known well enough, to be
    rehearsed; failing that, one that fits into no such budget however it is divided: it stops at the deadline and goes
    on from its checkpoint. Where all that is left has to wait for a fresh budget, nothing is taken up.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        known: rates.Rates,
        budget: float,
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan, self.folder, self.known = plan, folder, known
        self.budget, self.deadline, self.clock = budget, deadline, clock
        self.fixed = {name for group in begun(folder) for name in group}
        self._finished: set[str] = set()
        # Whether what a program takes from other runs is there.
        self.ready: Callable[[Any], bool] = lambda program: True

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.deadline - self.clock()

    def missing(self, program: Any) -> list[str]:
        """Runs of a program that have no record."""
        suite_hash = self.plan.suite.hash()
        for run_id in ids(self.plan, program):
            if run_id not in self._finished and records.finished(self.folder, run_id, suite_hash):
                self._finished.add(run_id)
        return [run_id for run_id in ids(self.plan, program) if run_id not in self._finished]

    def label(self, number: int) -> str:
        """See InOrder.label; how many there will be depends on how they are divided."""
        return f"program {number}"

    def waiting(self) -> list[Any]:
        """Programs still to be done, those with a checkpoint first."""
        left = [program for program in self.plan.programs if self.missing(program)]
        return sorted(left, key=lambda program: not self._resumes(program))

    def forecast(self, program: Any) -> rates.Forecast | None:
        """Seconds of a program on this device."""
        return self.known.forecast(*self._work(program))

    def unsure(self, program: Any) -> bool:
        """Whether a program is to be rehearsed before it begins."""
        told = self.forecast(program)
        return (told is None or not told.sure) and not self._resumes(program)

    def next(self) -> Any | None:
        """The program to take up now; None where nothing is left, or nothing that is left fits."""
        self._divide()
        unknown = endless = None
        for program in filter(self.ready, self.waiting()):
            told = self.forecast(program)
            if told is None:
                return program if self.left > 0 else None
            if self.left <= told.compile_seconds * MARGIN:
                continue  # nothing could be done before the deadline
            if self._resumes(program) or told.seconds * MARGIN <= self.left:
                return program
            if not told.sure:
                unknown = program if unknown is None else unknown
            elif told.seconds * MARGIN > self.budget:
                endless = program if endless is None else endless
        return endless if unknown is None else unknown

    def rehearsed(self, program: Any, seconds: float, compile_seconds: float) -> None:
        """Take in a rehearsal: the seconds of all dispatches and evaluations of a program that has been compiled.

        Raises:
            TooLong: they are more than are left, and would fit after a division or at another time.
        """
        sample = rates.Sample(self.known.device, *self._work(program), seconds, compile_seconds)
        self.known.add(sample)
        rates.store(self.folder, [sample])
        fits = seconds * MARGIN <= self.left
        never = (compile_seconds + seconds) * MARGIN > self.budget and len(self._fitting(program)) == 1
        if not fits and not never:
            raise TooLong

    def took(self, program: Any) -> None:
        """A program is finished: its own time is known now."""
        for sample in rates.recorded(self.folder, ids(self.plan, program)):
            if sample.device == self.known.device:
                self.known.add(sample)

    def lines(self) -> list[str]:
        """The programs to be done, how they are divided, and how long they may take."""
        self._divide()
        said = []
        for program in self.waiting():
            told = self.forecast(program)
            of = self.plan.wholes.get(program.name)
            whole = "" if of is None else f" of the {of[1]} of {of[0]}"
            time_ = (
                ("its time is not known" + ("" if program.host else ", it is rehearsed before it begins"))
                if told is None
                else f"about {duration(told.seconds)} ({told.basis})"
            )
            said.append(f"slice {program.name}: {len(program.runs)} members{whole}; {time_}")
        return said

    def rest(self) -> str:
        """What is left, in words; empty where nothing is."""
        waiting = self.waiting()
        if not waiting:
            return ""
        runs = sum(len(self.missing(program)) for program in waiting)
        told = [self.forecast(program) for program in waiting]
        seconds = sum(one.seconds for one in told if one is not None)
        about = f", about {duration(seconds)} on this device" if None not in told else ""
        return f"{runs} runs in {len(waiting)} programs are left{about}"

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _work(self, program: Any) -> tuple[str, str, int, float]:
        """Environment, kind, members and FLOPs of a program."""
        training = program.runs[0].training
        work = rates.flops(self.plan, program)
        return training.env, rates.kind_of(plain(training)), len(program.runs), work

    def _resumes(self, program: Any) -> bool:
        return resumes(program, self.folder)

    def _is_fixed(self, program: Any) -> bool:
        return self._resumes(program) or any(run_id in self.fixed for run_id in ids(self.plan, program))

    def _divide(self) -> None:
        """Divide what does not fit, by what is known of its own environment, and keep the division."""
        parts: dict[str, list[Any]] = {}
        for program in self.waiting():
            own = self._fitting(program)
            if len(own) > 1:
                parts[program.name] = own
        if parts:
            self.plan = with_parts(self.plan, parts)
            keep(self.plan, self.folder)

    def _fitting(self, program: Any) -> list[Any]:
        """The fewest parts that fit; the program alone where it fits, where no parts would, or where it has begun."""
        told = self.forecast(program)
        # Late in a budget, parts are made for the next one: few members use a device badly.
        room = self.left if self.left > self.budget / 2 else self.budget
        if told is None or not told.own or told.seconds * MARGIN <= room or self._is_fixed(program):
            return [program]
        if self.known.accelerated and not told.sure:
            return [program]  # to be rehearsed whole: what is divided stays so
        for count in range(2, len(by_seed(self.plan, program)) + 1):
            parts = cut(self.plan, program, count)
            largest = self.known.forecast(*self._work(parts[0]))
            if largest is not None and largest.seconds * MARGIN <= room:
                return parts
        return [program]
