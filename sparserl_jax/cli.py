"""The command line; `sparserl --help` lists the commands.

Exit codes: 0 done; 1 `check` or `conformance` found problems, or `evaluate` other numbers than the record's; 2 a
mistake in the input, told in one sentence; 3 the time budget is used up (run again to go on); 130 Ctrl-C (run again to
go on).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from sparserl_jax.accelerator import device_per_core, keep_freed_memory
from sparserl_jax.arguments import (
    Bench,
    Check,
    Command,
    Compare,
    Conformance,
    Evaluate,
    Inspect,
    List,
    Paper,
    PlanSuite,
    Plot,
    Profile,
    Publish,
    Stamp,
    Table,
    Train,
    Tune,
    Unpack,
    flat,
)
from sparserl_jax.errors import DISK, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from sparserl_jax.bench.plan import Plan


def _console() -> Console:
    """Standard output; logs and pipes get room for the whole table."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def _say(console: Console, *lines: str) -> None:
    """Lines as they are."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _show(plan: Plan, folder: Path, console: Console) -> None:
    """Tables, figures and the comparison with what is published, of a folder that is finished."""
    from sparserl_jax.bench import plots, publish, single, summary, tables

    found = summary.summarise(folder)
    tables.write(folder, found)
    try:
        plots.write(folder, found)
    except (
        ModuleNotFoundError
    ) as missing:  # a machine lent for its accelerator may have only what training needs
        if (missing.name or "").partition(".")[0] not in ("matplotlib", "pandas"):
            raise
        _say(
            console,
            f"No plots: {missing.name} is not installed here; `sparserl plot` draws them where it is.",
        )
    tables.screen(found, console)
    if plan.suite.name != single.SINGLE:
        publish.beside(folder, found, console)
    console.print(f"Records, tables and plots: {folder}", markup=False, highlight=False, soft_wrap=True)


def bench(command: Bench, console: Console) -> int:
    """`sparserl bench`."""
    from sparserl_jax.bench import finished, pack, paths, select, suites
    from sparserl_jax.bench import plan as plans
    from sparserl_jax.bench import run as runs

    began = time.monotonic()
    runs.check_budget(command.time_budget)
    path = paths.suite_path(command.suite)
    plan = plans.make(suites.read(path, command.budget))
    folder = runs.folder_of(plan, command.out)
    if command.pack is not None:
        pack.check_target(command.pack, plan.suite.hash())
    done, times = (
        finished.read(command.skip_finished, plan.suite.hash()) if command.skip_finished else ((), None)
    )
    plan, said = select.select(
        plan, folder, command.divided_as, flat(command.only), command.skip_published, done
    )
    plans.show(plan, console)
    _say(console, *said)
    try:
        if plan.programs:
            runs.run(
                plan,
                folder,
                console,
                time_budget=command.time_budget,
                suite_file=path,
                divide=True,
                began=began,
                times=times,
                compiled=command.compilation_cache,
                elsewhere=command.sources,
            )
    finally:
        if command.pack is not None:  # what is finished leaves, however this ends
            _say(console, pack.line(pack.pack(folder, command.pack, plan.suite.hash())))
    if plan.programs:
        _show(plan, folder, console)
    return runs.EXIT_OK


def profile(command: Profile, console: Console) -> int:
    """`sparserl profile`."""
    from sparserl_jax.bench import only, paths, profiling, suites
    from sparserl_jax.bench import plan as plans

    plan = plans.make(suites.read(paths.suite_path(command.suite)))
    plan = only.select(plan, flat(command.only)) if command.only else plan
    found = profiling.profile(plan, command.out, command.dispatches)
    _say(console, *profiling.lines(found, command.out))
    return 0


def stamp(command: Stamp, console: Console) -> int:
    """`sparserl stamp`."""
    from sparserl_jax.bench import stamp as stamping

    path, commit = stamping.write()
    _say(console, f"{path}: commit {commit}; take it along with the copy of the work tree.")
    return 0


def unpack(command: Unpack, console: Console) -> int:
    """`sparserl unpack`."""
    from sparserl_jax.bench import unpack as unpacking

    _say(console, *(found.line() for found in unpacking.unpack(command.files, command.into)))
    return 0


def plan(command: PlanSuite, console: Console) -> int:
    """`sparserl plan`."""
    from sparserl_jax.bench import paths, suites
    from sparserl_jax.bench import plan as plans

    found = suites.read(paths.suite_path(command.suite), command.budget)
    plans.show(plans.make(found), console)
    return 0


def tune(command: Tune, console: Console) -> int:
    """`sparserl tune`."""
    from sparserl_jax.bench import paths, suites, trials
    from sparserl_jax.bench import plan as plans
    from sparserl_jax.bench import run as runs
    from sparserl_jax.bench import tune as tunes

    path = paths.suite_path(command.suite)
    plan = tunes.make(suites.read(path, command.budget))
    folder = runs.folder_of(plan, command.out)
    plans.show(plan, console)
    for line in tunes.lines(plan):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    runs.run(plan, folder, console, time_budget=command.time_budget, suite_file=path)
    trials.show(folder, console)
    return runs.EXIT_OK


def check(command: Check, console: Console) -> int:
    """`sparserl check`."""
    from sparserl_jax.bench import check as checks
    from sparserl_jax.bench import run as runs

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    code, folders = runs.EXIT_OK, checks.folders(command.folder)
    for folder in folders:
        problems = checks.check(folder)
        for problem in problems:
            say(problem)
        say(checks.verdict(folder, problems))
        code = runs.EXIT_CHECK_FAILED if problems else code
    if not folders:
        raise UserError(
            f"nothing to check in '{command.folder}': give a folder that `sparserl bench` or `sparserl publish` made."
        )
    return code


def publish(command: Publish, console: Console) -> int:
    """`sparserl publish`."""
    from sparserl_jax.bench import publish as publishing

    target = publishing.publish(command.folder, replace=command.replace, partial=command.partial)
    console.print(f"Published: {target}", markup=False, highlight=False, soft_wrap=True)
    for line in publishing.left_out(target):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def compare(command: Compare, console: Console) -> int:
    """`sparserl compare`."""
    from sparserl_jax.bench import compare as comparing
    from sparserl_jax.bench import tables

    found = comparing.compare(command.folders, command.out)
    tables.screen(found, console)
    if command.out is not None:
        console.print(f"Tables: {command.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def paper(command: Paper, console: Console) -> int:
    """`sparserl paper`."""
    from sparserl_jax.bench import paper_page

    written = paper_page.execute(
        command.paper,
        console,
        step=command.step,
        chosen=command.suites,
        budget=command.budget,
        time_budget=command.time_budget,
        skip_published=command.skip_published,
        out=command.out,
    )
    for path in written:
        console.print(f"Page: {path}", markup=False, highlight=False, soft_wrap=True)
    return 0


def table(command: Table, console: Console) -> int:
    """`sparserl table`."""
    from sparserl_jax.bench import summary, tables, trials

    if trials.is_tuning(command.folder):
        trials.show(command.folder, console)
        return 0
    found = summary.summarise(command.folder)
    tables.write(command.folder, found)
    tables.screen(found, console)
    return 0


def plot(command: Plot, console: Console) -> int:
    """`sparserl plot`."""
    from sparserl_jax.bench import plots, plots_diagnostics, summary

    found = summary.summarise(command.folder)
    made = plots.write(command.folder, found)
    if command.diagnostics:
        made += plots_diagnostics.write(command.folder, found)
    for path in made:
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)
    return 0


def train(command: Train, console: Console) -> int:
    """`sparserl train`."""
    from sparserl_jax.bench import plan as plans
    from sparserl_jax.bench import run as runs
    from sparserl_jax.bench import single

    settings = dict(vars(command))
    env, out, budget = settings.pop("env"), settings.pop("out"), settings.pop("time_budget")
    runs.check_budget(budget)
    made = plans.make(single.suite_of(env, **settings))
    folder = runs.folder_of(made, out)
    plans.show(made, console)
    runs.run(made, folder, console, time_budget=budget)
    _show(made, folder, console)
    return runs.EXIT_OK


def conformance(command: Conformance, console: Console) -> int:
    """`sparserl conformance`."""
    from sparserl_jax.bench import ranges
    from sparserl_jax.bench import run as runs
    from sparserl_jax.conformance import report
    from sparserl_jax.sparsity import method

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    chosen = method(command.method)
    ranges.check_knob(command.sparsity, "--sparsity", chosen.coefficient)
    kept = report.check(chosen, command.sparsity, say)
    return runs.EXIT_OK if kept else runs.EXIT_CHECK_FAILED


def evaluate(command: Evaluate, console: Console) -> int:
    """`sparserl evaluate`."""
    from sparserl_jax.bench import evaluate as evaluation
    from sparserl_jax.bench import run as runs
    from sparserl_jax.bench import saved

    found = saved.find(command.path)
    if found.record is None or (command.episodes, command.seed, command.env) != (None, None, None):
        episodes = evaluation.EPISODES if command.episodes is None else command.episodes
        seed = 0 if command.seed is None else command.seed
        returns = evaluation.fresh(found, command.env, episodes, seed)
        for line in evaluation.fresh_lines(found, command.env, returns, seed):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return runs.EXIT_OK
    compared = evaluation.reproduce(found)
    console.print(compared.line(), markup=False, highlight=False, soft_wrap=True)
    return runs.EXIT_OK if compared.agrees else runs.EXIT_CHECK_FAILED


def inspect(command: Inspect, console: Console) -> int:
    """`sparserl inspect`."""
    from sparserl_jax.bench import inspect as inspection
    from sparserl_jax.bench import saved

    inspection.show(saved.find(command.path), console)
    return 0


def listing(command: List, console: Console) -> int:
    """`sparserl list`."""
    from sparserl_jax.bench.catalogue import lines

    for line in lines(command.what):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


_COMMANDS: dict[type, Callable[[Any, Console], int]] = {
    Bench: bench,
    PlanSuite: plan,
    Tune: tune,
    Profile: profile,
    Stamp: stamp,
    Unpack: unpack,
    Check: check,
    Publish: publish,
    Compare: compare,
    Paper: paper,
    Train: train,
    Evaluate: evaluate,
    Inspect: inspect,
    Table: table,
    Plot: plot,
    Conformance: conformance,
    List: listing,
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Execute a command line; returns the exit code. Mistakes in the form of the arguments raise `SystemExit(2)`."""
    command = tyro.cli(Command, prog="sparserl", description="Sparse deep RL in JAX.", args=arguments)  # type: ignore[call-overload]
    from sparserl_jax.bench.run import EXIT_INTERRUPTED, EXIT_USER, Unfinished

    try:
        return _COMMANDS[type(command)](command, _console())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    except Unfinished as stop:
        print(str(stop), file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(
            f"error: {error.strerror}: make room and run the same command again; what is finished is kept.",
            file=sys.stderr,
        )
        return EXIT_USER


def main() -> None:
    """Entry point of the console script."""
    device_per_core()
    keep_freed_memory()
    sys.exit(run())


if __name__ == "__main__":
    main()
