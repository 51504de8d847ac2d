"""The `sparserl` command in a process that is meant to be killed: it says where it is, and waits there.

    python -m tests.faults.driver HOOK LOG bench SUITE --out FOLDER

HOOK is JSON, `null` for an undisturbed process; it names the place at which the process writes a line to standard
output and then holds still, or goes on while it is killed:

    {"line": "record", "call": 2, "at": 7}    before the 7th line of the second call of one of FUNCTIONS, or at its end
    {"enter": "dispatch", "call": 2}          at its beginning, and goes on
    {"half": "curve.csv", "call": 2}          half of the file is written, for the second such file
    {"fail": "curve.csv", "call": 2}          that file cannot be written: the disk is full

Nothing of this is known to the package: functions of its modules are replaced by wrapped ones here. LOG receives what
a killed process must leave behind as knowledge of what it had done: a line per dispatch, checkpoint and resume; and,
of an undisturbed process, the number of lines in each call of the functions that hooks may name.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

HERE = "here I am"
FUNCTIONS = {
    "compile": "sparserl_jax.training.program:Program.compile",
    "dispatch": "sparserl_jax.training.runner:Execution.dispatch",
    "evaluate": "sparserl_jax.training.runner:Execution.evaluate",
    "save": "sparserl_jax.training.checkpoint:save",
    "final": "sparserl_jax.training.runner:Execution.final_returns",
    "outcomes": "sparserl_jax.training.runner:Execution.outcomes",
    "record": "sparserl_jax.bench.records:write",
    "program": "sparserl_jax.bench.run:_one",
    "summary": "sparserl_jax.bench.summary:summarise",
    "tables": "sparserl_jax.bench.tables:write",
    "plots": "sparserl_jax.bench.plots:write",
}
"""Functions that hooks may name, by a short name."""


def say() -> None:
    """Tell the parent that the place is reached."""
    os.write(1, f"{HERE}\n".encode())


def hold() -> None:
    """Tell it, and stay until killed, or until there is no parent any more that could do it."""
    parent = os.getppid()
    say()
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


class Log:
    """Lines that survive the process, each written by one system call."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, *words: Any) -> None:
        os.write(self.file, (" ".join(map(str, words)) + "\n").encode())


def wrap(name: str, around: Callable[..., Any]) -> None:
    """Replace a function by `around(it, *arguments)`."""
    module, _, path = name.partition(":")
    *owners, last = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    inner = getattr(owner, last)
    setattr(owner, last, functools.wraps(inner)(functools.partial(around, inner)))
    if owners:  # a partial is no method by itself
        bound = getattr(owner, last)
        setattr(owner, last, lambda *arguments, **named: bound(*arguments, **named))


@contextlib.contextmanager
def lines_of(function: Any, seen: Callable[[int], None]) -> Iterator[None]:
    """Call `seen` with 0, 1, 2, ... before every line that `function` itself executes."""
    code, count = function.__code__, [0]

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            seen(count[0])
            count[0] += 1
        return local

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return local if frame.f_code is code else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


def stop_at_line(hook: dict[str, Any]) -> None:
    """Install a hook on the lines of a function."""
    calls = [0]

    def around(inner: Any, *arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] != hook["call"]:
            return inner(*arguments, **named)
        with lines_of(inner, lambda line: hold() if line == hook["at"] else None):
            inner(*arguments, **named)
        hold()  # this call had fewer lines

    wrap(FUNCTIONS[hook["line"]], around)


def tell_entry(hook: dict[str, Any]) -> None:
    """Install a hook on the beginning of a function, which goes on."""
    calls = [0]

    def around(inner: Any, *arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == hook["call"]:
            say()
        return inner(*arguments, **named)

    wrap(FUNCTIONS[hook["enter"]], around)


class Interrupted:
    """A file of which the first half is written before `then` is called."""

    def __init__(self, file: Any, then: Callable[[], None]) -> None:
        self.file, self.then = file, then

    def write(self, data: Any) -> int:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.then()
        return self.file.write(data[len(data) // 2 :])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Interrupted:
        return self

    def __exit__(self, *details: Any) -> None:
        self.file.close()


def disk_full() -> None:
    """What the system says when nothing can be written any more."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stop_in_file(name: str, call: int, then: Callable[[], None]) -> None:
    """Install a hook on writing a file of this name, or its temporary copy."""
    opened, calls = io.open, [0]

    def look(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        stream = opened(file, mode, *arguments, **named)
        found = os.path.basename(str(file)).removeprefix(".").removesuffix(".part")
        if found != name or "w" not in mode:
            return stream
        calls[0] += 1
        return Interrupted(stream, then) if calls[0] == call else stream

    io.open = look  # type: ignore[assignment]


def keep_log(log: Log) -> None:
    """Note down dispatches, checkpoints and resumes."""

    def dispatch(inner: Any, self: Any) -> Any:
        result = inner(self)
        log("step", self.program.name, self.step)
        return result

    def save(inner: Any, folder: Path, step: int, *arguments: Any) -> Any:
        result = inner(folder, step, *arguments)
        log("saved", folder.name, step)
        return result

    def restore(inner: Any, folder: Path, *arguments: Any) -> Any:
        found = inner(folder, *arguments)
        log("begins", folder.name, 0 if found is None else found[0])
        return found

    wrap(FUNCTIONS["dispatch"], dispatch)
    wrap(FUNCTIONS["save"], save)
    wrap("sparserl_jax.training.checkpoint:restore", restore)


def count_lines(log: Log) -> None:
    """Note down how many lines each call of the functions executes."""
    totals: Counter[str] = Counter()

    def around(name: str, inner: Any, *arguments: Any, **named: Any) -> Any:
        if sys.gettrace() is not None:  # called by one that is being counted
            return inner(*arguments, **named)
        count = [0]
        with lines_of(inner, lambda line: count.__setitem__(0, line + 1)):
            result = inner(*arguments, **named)
        totals[name] += 1
        log("lines", name, totals[name], count[0])
        return result

    for name, function in FUNCTIONS.items():
        if name not in ("program", "compile"):  # the whole program would run under the eyes of the tracer
            wrap(function, functools.partial(_swapped, around, name))


def _swapped(around: Callable[..., Any], name: str, inner: Any, *arguments: Any, **named: Any) -> Any:
    return around(name, inner, *arguments, **named)


def main() -> None:
    """Install the hook and hand over to the command line."""
    hook, path, *arguments = sys.argv[1:]
    log = Log(Path(path))
    log("start")
    from sparserl_jax import cli
    from sparserl_jax.training import runner

    # A checkpoint after every dispatch, as far as the real rule allows it.
    runner.CHECKPOINT_SHARE = float("inf")
    runner.execute = functools.partial(runner.execute, checkpoint_seconds=0.0)
    found = json.loads(hook)
    if found is None:
        count_lines(log)
    elif "line" in found:
        stop_at_line(found)
    elif "enter" in found:
        tell_entry(found)
    elif "half" in found:
        stop_in_file(found["half"], found["call"], hold)
    elif "fail" in found:
        stop_in_file(found["fail"], found["call"], disk_full)
    keep_log(log)
    code = cli.run(arguments)
    log("end", code)
    sys.exit(code)


if __name__ == "__main__":
    main()
