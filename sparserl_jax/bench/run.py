"""Executing a plan: program by program into one folder, resumable, with one writer.

runs/<suite>-<hash>/  configuration.json   what the folder belongs to
                      suite.toml           the file it came from, where there was one
                      records/             finished runs
                      programs/            checkpoints of the program in progress, and what began it (origin.json)
                      compiled/            compiled programs, kept under a time budget and on accelerators
                      divisions.json       how a time budget divided programs; rates.json: what was measured for it
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparserl_jax.bench import cache, finished, origins, paths, provenance, rates, records, slices, sources
from sparserl_jax.bench.plan import Plan
from sparserl_jax.bench.progress import Interrupt, Live
from sparserl_jax.bench.single import SINGLE
from sparserl_jax.bench.slices import InOrder, Slices, TooLong
from sparserl_jax.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_OK, EXIT_CHECK_FAILED, EXIT_USER, EXIT_TIME_BUDGET, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes of the command line: done, `check` found problems, a user's mistake, `--time-budget` used up (run again
to go on), Ctrl-C or SIGTERM (run again to go on)."""


class Unfinished(Exception):
    """The suite stopped before its end with its state saved; `code` is the exit code that says why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def folder_of(plan: Plan, out: Path | None = None) -> Path:
    """Folder of a suite: `out`, or `runs/<suite>-<hash>` in the working directory."""
    return out if out is not None else Path("runs") / f"{plan.suite.name}-{plan.suite.hash()}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; `UserError` if another process holds it. A folder that is refused inside is left as it
    was."""
    lock = folder / ".lock"
    try:
        fresh = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        new = not lock.exists()
        file = lock.open("a")
    except OSError as error:
        raise UserError(
            f"cannot write to '{folder}' ({error.strerror}); give another folder with --out."
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"'{folder}' is in use by another run; wait for it, or give another folder with --out."
            ) from None
        except OSError as error:
            raise UserError(
                f"'{folder}' cannot be locked ({error.strerror}): its file system has no locks; give a folder on "
                "another one with --out."
            ) from None
        try:
            yield
        except UserError:
            if new:
                lock.unlink(missing_ok=True)
            if fresh:
                with contextlib.suppress(OSError):  # something was written before
                    folder.rmdir()
            raise


def _difference(ours: Any, theirs: Any, where: str = "") -> str:
    """The first setting in which two configurations differ, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        # A name or a setting says more than the runs and hashes that follow from it, and the title decides nothing.
        late, first = ("runs", "suite_hash", "title"), ("name",)
        for key in sorted(set(ours) | set(theirs), key=lambda key: (key in late, key not in first, key)):
            if ours.get(key) != theirs.get(key):
                return _difference(ours.get(key), theirs.get(key), f"{where}.{key}" if where else key)
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            if mine != other:
                return _difference(mine, other, f"{where}[{index}]")
    return f"{where} is {json.dumps(theirs):.80} there and {json.dumps(ours):.80} here"


def claim(folder: Path, plan: Plan) -> None:
    """Make the folder this configuration's; refuse one that belongs to another, or that holds somebody else's files."""
    claim_as(folder, records.configuration(plan))


def claim_as(folder: Path, ours: dict[str, Any], write: bool = True) -> None:
    """The same with what `configuration.json` shall hold; without `write`, only the refusals."""
    path = folder / records.CONFIGURATION
    if path.exists():
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            theirs = None
        if not isinstance(theirs, dict) or not isinstance(theirs.get("suite"), dict):
            raise UserError(
                f"'{folder}' holds a damaged {records.CONFIGURATION}; restore it, or give another folder with --out."
            )
        _refuse_other_data(folder, ours, theirs)
        if {**theirs, "suite": {**theirs["suite"], "title": ""}} != {
            **ours,
            "suite": {**ours["suite"], "title": ""},
        }:
            raise UserError(
                f"'{folder}' holds another configuration ({_difference(ours, theirs)}); "
                "give another folder with --out, or move this one away."
            )
        return
    # Of a process killed in its first moments, and a list that was brought along.
    ours_unfinished = (".lock", f".{records.CONFIGURATION}.part", finished.FILE)
    strangers = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours_unfinished)
    if strangers:
        raise UserError(
            f"'{folder}' is not empty and no suite made it ('{strangers[0]}'); give another with --out."
        )
    if write:
        records.write_atomic(path, (json.dumps(ours, indent=1, sort_keys=True) + "\n").encode())


def _refuse_other_data(folder: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Refuse to go on with a file of other content than the one that the folder's runs learn from."""
    if ours["suite_hash"] != theirs.get("suite_hash"):
        return  # another suite, which says more
    for env, now in ours.get("data", {}).items():
        then = theirs.get("data", {}).get(env, {})
        if then.get("sha256") != now["sha256"]:
            raise UserError(
                f"'{folder}' was begun with other data: the SHA-256 of '{now['name']}' for {env} was "
                f"{str(then.get('sha256')):.12} and is {now['sha256'][:12]}; bring back that file, or give another "
                "folder with --out."
            )


def check_machine(plan: Plan, folder: Path, limit: int | None = None) -> None:
    """Refuse a machine that would compute on the CPU beside an accelerator, and programs that are to be computed in
    `folder` and do not fit.

    `limit`: bytes a program may hold; default what the device offers. Raises `UserError`.
    """
    from sparserl_jax import accelerator
    from sparserl_jax.training import memory

    problem = accelerator.unseen()
    if problem is not None:
        raise UserError(problem)
    for program in plan.programs:
        if not all(
            records.finished(folder, run_id, plan.suite.hash()) for run_id in slices.ids(plan, program)
        ):
            memory.check(int(program.memory()), program.layout, program.name, limit)


def check_budget(seconds: float | None) -> None:
    """Refuse a time budget in which nothing could be done."""
    if seconds is not None and not seconds > 0:
        raise UserError(f"--time-budget must be a positive number of seconds, not {seconds:g}.")


def run(
    plan: Plan,
    folder: Path,
    console: Console,
    *,
    time_budget: float | None = None,
    suite_file: Path | None = None,
    execute: Callable[..., list[Any]] | None = None,
    divide: bool = False,
    began: float | None = None,
    times: bytes | None = None,
    compiled: Path | None = None,
    elsewhere: Path | None = None,
    after: Callable[[], None] = lambda: None,
) -> Path:
    """Execute what is not finished yet; returns the folder.

    Args:
        time_budget: seconds after which the work stops, within one dispatch or evaluation.
        divide: with a time budget, take up only programs that fit into it, divided by seeds where that makes them fit
            (see `bench/slices.py`).
        began: `time.monotonic()` value from which the time budget counts; default now.
        times: what other folders measured, see `finished.read`.
        elsewhere: another folder of this suite with finished runs that others take masks or policies from.
        compiled: folder in which compiled programs are kept; default: none, but one in `folder` with a divided plan
            and on accelerators.
        suite_file: copied into the folder.
        execute: programs to outcomes; default `training.runner.execute`.
        after: called when the records of another program are there.

    Raises:
        Unfinished: time budget or Ctrl-C; running again goes on.
        UserError: the folder belongs to another configuration or another process.
    """
    from sparserl_jax.training.runner import Stopped

    if execute is None:
        from sparserl_jax.training.runner import execute as execute_program

        execute = execute_program
    check_budget(time_budget)
    began = time.monotonic() if began is None else began
    deadline = None if time_budget is None else began + time_budget
    plan, divided = slices.for_memory(plan, folder)
    check_machine(plan, folder)
    with locked(folder):
        places = [folder] if elsewhere is None else [folder, elsewhere]
        sources.require(plan, places)
        sources.check_data(plan, places[1:])
        claim(folder, plan)
        if divided:
            slices.keep(plan, folder)
            text = "note: programs that this machine cannot hold are divided by seeds, and stay so in this folder."
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        found = provenance.collect()
        problem = provenance.unclean(found)
        if found["git_commit"] is None:
            problem = "no git commit of this code is known; train in a clone, or take a stamp along (`sparserl stamp`)."
        if problem is not None and plan.suite.result and plan.suite.name != SINGLE:
            text = f"note: what is trained now can never be published: {problem}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        if suite_file is not None:
            records.write_atomic(folder / "suite.toml", suite_file.read_bytes())
        rates.merge(folder, times)
        queue = InOrder(plan)
        sliced = divide and time_budget is not None
        if compiled is None and cache.wanted(found["system"], sliced):
            compiled = folder / cache.FOLDER
        if divide and time_budget is not None and deadline is not None:
            queue = Slices(plan, folder, _known(folder, found), time_budget, deadline)
            queue.ready = lambda program: not sources.lacking(plan, program, places)
        for line in queue.lines():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        total = sum(len(program.runs) for program in queue.waiting()) * plan.suite.steps
        interrupt, number, trained = Interrupt(), 0, 0
        kept = None if compiled is None else compiled / cache.machine(found["system"])
        with cache.used(kept), interrupt.watch(), Live(console, interrupt, total) as live:
            while (program := queue.next()) is not None:
                number += 1
                label = queue.label(number)
                try:
                    made = _one(queue, program, label, folder, places, live, deadline, execute, found)
                    trained += made
                    if made:
                        after()
                except TooLong:
                    number -= 1
                    live.warn(program.name, f"{program.name} does not fit into the time left as it is.")
                except Stopped as stop:
                    code = EXIT_INTERRUPTED if stop.reason == "interrupted" else EXIT_TIME_BUDGET
                    idle = " (all of it went into compiling: give a larger --time-budget)"
                    why = f"{stop.reason} at step {stop.step:,}{idle if stop.idle and not trained else ''}"
                    raise Unfinished(code, _sentence(why, queue.rest())) from None
                except KeyboardInterrupt:
                    raise Unfinished(EXIT_INTERRUPTED, _sentence("interrupted", queue.rest())) from None
        if queue.rest():
            raise Unfinished(EXIT_TIME_BUDGET, _sentence("time budget", queue.rest()))
    return folder


def _known(folder: Path, found: dict[str, Any]) -> rates.Rates:
    """What is known of this device's speed, from this folder and from published ones."""
    root = paths.checkout()
    return rates.known(folder, None if root is None else root / "results", found["system"])


def _sentence(why: str, rest: str) -> str:
    return f"{why}{rest and ': ' + rest}; run again to go on."


def _one(
    queue: InOrder,
    program: Any,
    label: str,
    folder: Path,
    places: list[Path],
    live: Live,
    deadline: float | None,
    execute: Callable[..., list[Any]],
    found: dict[str, Any],
) -> bool:
    """One program: skip it if all its records exist, else execute and write the records that do not. Returns whether it
    was executed.

    `places`: folders with finished runs that it may take from. `found`: where this process's results come from, as
    `provenance.collect` saw it before any training.
    """
    plan = queue.plan
    planned = plan.of(program)
    checkpoints = folder / "programs" / program.name
    live.begin(label, len(planned), plan.suite.steps)
    missing = [
        index
        for index, entry in enumerate(planned)
        if not records.finished(folder, entry.folder.as_posix(), plan.suite.hash())
    ]
    if missing:
        _still_time(deadline)
        program, taken = sources.take(plan, program, places)
        sources.forget(checkpoints, taken, lambda text: live.warn(program.name, text))
        other = origins.noted(checkpoints, provenance.origin(found))
        if other is not None and plan.suite.result:
            live.warn(
                program.name,
                f"{program.name} goes on from a checkpoint of other code, or of another kind of machine: its records "
                "can never be published.",
            )
        sources.note(checkpoints, taken)
        more: dict[str, Any] = {}
        if queue.unsure(program):
            more["rehearsed"] = lambda seconds, compiling: queue.rehearsed(program, seconds, compiling)
        outcomes = execute(program, folder=checkpoints, deadline=deadline, progress=live, **more)
        said = {**found, "created_utc": provenance.now()}
        if other is not None:
            # Two codes made these numbers: neither commit describes them.
            said.update(resumed_from=other, git_dirty=True)
        for index in missing:
            records.write(folder, plan, planned[index], outcomes[index], program, {**said, **taken[index]})
        os.sync()  # power may fail, too
    # Only now may the checkpoint go: a kill before this line finds it again and loses nothing.
    shutil.rmtree(checkpoints, ignore_errors=True)
    queue.took(program)
    live.finish(plan.suite.steps)
    return bool(missing)


def _still_time(deadline: float | None) -> None:
    """Do not begin to compile a program that has no time left."""
    from sparserl_jax.training.runner import Stopped

    if deadline is not None and time.monotonic() >= deadline:
        raise Stopped("time budget", 0)
