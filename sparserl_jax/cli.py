"""The command line; `sparserl --help` lists the commands.

Exit codes: 0 done; 1 `check` or `conformance` found problems, or `evaluate` other numbers than the record's; 2 a
mistake in the input, told in one sentence; 3 the time budget is used up (run again to go on); 130 Ctrl-C (run again to
go on).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sparserl_jax.errors import DISK, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from sparserl_jax.bench.plan import Plan


@dataclasses.dataclass(frozen=True)
class Bench:
    """Run a suite (or go on with it) and print its table."""

    suite: tyro.conf.Positional[str] = "quick"
    """A shipped suite by name, or your own by path (my_suite.toml)."""
    out: Path | None = None
    """Folder for records and tables; default runs/<suite>-<hash>."""
    time_budget: float | None = None
    """Seconds after which to stop with exit code 3; run again to go on."""
    only: tuple[str, ...] = ()
    """Run only the programs that hold these rows, each written ENV/ARM@SPARSITY, ARM@SPARSITY or ARM."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Put the arms of several result folders into one table; refuse what may not be compared."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """What `sparserl bench` or `sparserl publish` made, e.g. runs/mine results/quick."""
    out: Path | None = None
    """Folder for table.md, table.csv, table.tex and reproduce.md; default: print only."""


@dataclasses.dataclass(frozen=True)
class PlanSuite:
    """Print what a suite would do, and do nothing."""

    suite: tyro.conf.Positional[str] = "quick"
    """A shipped suite by name, or your own by path."""


@dataclasses.dataclass(frozen=True)
class Tune:
    """Search a suite's grid of settings (or go on with it), on seeds of its own; writes tuned.toml."""

    suite: tyro.conf.Positional[str]
    """A shipped suite by name, or your own by path, with a [tune] table."""
    out: Path | None = None
    """Folder for records and tables; default runs/<suite>-tune-<hash>."""
    time_budget: float | None = None
    """Seconds after which to stop with exit code 3; run again to go on."""


@dataclasses.dataclass(frozen=True)
class Check:
    """Check every record of a folder; exit code 1 if anything is wrong."""

    folder: tyro.conf.Positional[Path]
    """What `sparserl bench` or `sparserl publish` made, or a folder of such folders (results)."""


@dataclasses.dataclass(frozen=True)
class Publish:
    """Copy a finished and checked folder into results/."""

    folder: tyro.conf.Positional[Path]
    """What `sparserl bench` made."""
    replace: bool = False
    """Overwrite published records whose results differ."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Make the tables of a folder again from its records, and print them."""

    folder: tyro.conf.Positional[Path]
    """What `sparserl bench` made."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw the figures of a folder again from its records."""

    folder: tyro.conf.Positional[Path]
    """What `sparserl bench` made."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Train one recipe on one environment, all seeds together."""

    env: str
    """brax:hopper, gymnax:Pendulum-v1, my_pkg.my_module:Factory."""
    agent: str = "td3"
    """See `sparserl list agents`."""
    recipe: str = "rlx2"
    """See `sparserl list recipes`; your own recipe or sparsity method: my_pkg.my_module:name."""
    method: str | None = None
    """Sparsity method in place of the recipe's; see `sparserl list sparsifiers`, or my_pkg.my_module:name."""
    sparsity: float = 0.9
    """Fraction of weights removed, in [0, 1)."""
    critic_sparsity: float | None = None
    """The critic's own sparsity; default as the actor's."""
    seeds: int = 8
    """Number of seeds."""
    first_seed: int = 0
    """Seeds are counted from here."""
    steps: int = 100_000
    """Environment steps per seed."""
    warm_up: int | None = None
    """Random steps before the first update; default 5 % of the steps, at most 25,000."""
    num_envs: int = 1
    """Parallel environments per seed."""
    hidden: tuple[int, ...] | None = None
    """Widths of the hidden layers."""
    batch_size: int | None = None
    """Samples per update."""
    learning_rate: float | None = None
    """Of all networks."""
    episodes: int = 10
    """Episodes per evaluation."""
    final_episodes: int = 100
    """Episodes of the final evaluation."""
    start: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A finished run's folder (or its policy.npz): begin from its networks and masks."""
    out: Path | None = None
    """Folder for the results; default runs/train-<hash>."""
    time_budget: float | None = None
    """Seconds after which to stop with exit code 3; run again to go on."""


@dataclasses.dataclass(frozen=True)
class Conformance:
    """Hold a sparsity method to what it declares; exit code 1 if a promise is broken."""

    method: tyro.conf.Positional[str]
    """A shipped method by name, or your own: my_pkg.my_module:my_method."""
    sparsity: float = 0.6
    """The method's knob, on networks of 16 units."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate a recorded run again and compare, bit for bit; or a policy on fresh episodes."""

    path: tyro.conf.Positional[Path]
    """A run's folder (records/<environment>/<run>) or its policy.npz."""
    episodes: int | None = None
    """Fresh episodes instead of the recorded ones; default 100 where there is no record."""
    seed: int | None = None
    """Which fresh episodes; default 0."""
    env: str | None = None
    """Another environment for the fresh episodes."""


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Show what a trained policy is made of: layers, dead units, bytes."""

    path: tyro.conf.Positional[Path]
    """A run's folder (records/<environment>/<run>) or its policy.npz."""


@dataclasses.dataclass(frozen=True)
class List:
    """List what can be chosen by name."""

    what: tyro.conf.Positional[Literal["agents", "envs", "recipes", "sparsifiers", "suites"]]
    """What to list."""


Command = (
    Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[PlanSuite, tyro.conf.subcommand("plan")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Publish, tyro.conf.subcommand("publish")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Table, tyro.conf.subcommand("table")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
    | Annotated[Conformance, tyro.conf.subcommand("conformance")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


def _console() -> Console:
    """Standard output; logs and pipes get room for the whole table."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def _show(plan: Plan, folder: Path, console: Console) -> None:
    """Tables, figures and the comparison with what is published, of a folder that is finished."""
    from sparserl_jax.bench import plots, publish, single, summary, tables

    found = summary.summarise(folder)
    tables.write(folder, found)
    plots.write(folder, found)
    tables.screen(found, console)
    if plan.suite.name != single.SINGLE:
        publish.beside(folder, found, console)
    console.print(f"Records, tables and plots: {folder}", markup=False, highlight=False, soft_wrap=True)


def bench(command: Bench, console: Console) -> int:
    """`sparserl bench`."""
    from sparserl_jax.bench import only, paths, suites
    from sparserl_jax.bench import plan as plans
    from sparserl_jax.bench import run as runs

    runs.check_budget(command.time_budget)
    path = paths.suite_path(command.suite)
    plan = plans.make(suites.read(path))
    folder = runs.folder_of(plan, command.out)
    if command.only:
        plan = only.select(plan, command.only)
    plans.show(plan, console)
    for line in only.lines(plan, command.only) if command.only else []:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    runs.run(plan, folder, console, time_budget=command.time_budget, suite_file=path)
    _show(plan, folder, console)
    return runs.EXIT_OK


def plan(command: PlanSuite, console: Console) -> int:
    """`sparserl plan`."""
    from sparserl_jax.bench import paths, suites
    from sparserl_jax.bench import plan as plans

    plans.show(plans.make(suites.read(paths.suite_path(command.suite))), console)
    return 0


def tune(command: Tune, console: Console) -> int:
    """`sparserl tune`."""
    from sparserl_jax.bench import paths, suites, trials
    from sparserl_jax.bench import plan as plans
    from sparserl_jax.bench import run as runs
    from sparserl_jax.bench import tune as tunes

    path = paths.suite_path(command.suite)
    plan = tunes.make(suites.read(path))
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
        say(f"{folder}: {f'{len(problems)} problems' if problems else 'every record is sound'}.")
        code = runs.EXIT_CHECK_FAILED if problems else code
    if not folders:
        raise UserError(
            f"nothing to check in '{command.folder}': give a folder that `sparserl bench` or `sparserl publish` made."
        )
    return code


def publish(command: Publish, console: Console) -> int:
    """`sparserl publish`."""
    from sparserl_jax.bench import publish as publishing

    target = publishing.publish(command.folder, replace=command.replace)
    console.print(f"Published: {target}", markup=False, highlight=False, soft_wrap=True)
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
    from sparserl_jax.bench import plots

    for path in plots.write(command.folder):
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
    from sparserl_jax.bench import run as runs
    from sparserl_jax.conformance import report
    from sparserl_jax.sparsity import method

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    kept = report.check(method(command.method), command.sparsity, say)
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
    Check: check,
    Publish: publish,
    Compare: compare,
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
    sys.exit(run())


if __name__ == "__main__":
    main()
