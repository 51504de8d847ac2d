"""The command line: `sparserl bench | plan | check | publish | train | table | plot | list`.

Exit codes: 0 done; 1 `check` found problems; 2 a mistake in the input, told in one sentence; 3 the time budget is used
up (run again to go on); 130 Ctrl-C (run again to go on).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sparserl_jax.errors import UserError

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


@dataclasses.dataclass(frozen=True)
class PlanSuite:
    """Print what a suite would do, and do nothing."""

    suite: tyro.conf.Positional[str] = "quick"
    """A shipped suite by name, or your own by path."""


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
    diagnostics: bool = False
    """Also draw the diagnostics of training, a figure per environment and sparsity."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Train one recipe on one environment, all seeds together."""

    env: str
    """brax:hopper, gymnax:Pendulum-v1, my_pkg.my_module:Factory."""
    agent: str = "td3"
    """See `sparserl list agents`."""
    recipe: str = "rlx2"
    """See `sparserl list recipes`."""
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
    out: Path | None = None
    """Folder for the results; default runs/train-<hash>."""
    time_budget: float | None = None
    """Seconds after which to stop with exit code 3; run again to go on."""


@dataclasses.dataclass(frozen=True)
class List:
    """List what can be chosen by name."""

    what: tyro.conf.Positional[Literal["agents", "diagnostics", "envs", "recipes", "sparsifiers", "suites"]]
    """What to list."""


Command = (
    Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[PlanSuite, tyro.conf.subcommand("plan")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Publish, tyro.conf.subcommand("publish")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Table, tyro.conf.subcommand("table")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
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
    from sparserl_jax.bench import paths, suites
    from sparserl_jax.bench import plan as plans
    from sparserl_jax.bench import run as runs

    path = paths.suite_path(command.suite)
    plan = plans.make(suites.read(path))
    folder = runs.folder_of(plan, command.out)
    plans.show(plan, console)
    runs.run(plan, folder, console, time_budget=command.time_budget, suite_file=path)
    _show(plan, folder, console)
    return runs.EXIT_OK


def plan(command: PlanSuite, console: Console) -> int:
    """`sparserl plan`."""
    from sparserl_jax.bench import paths, suites
    from sparserl_jax.bench import plan as plans

    plans.show(plans.make(suites.read(paths.suite_path(command.suite))), console)
    return 0


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


def table(command: Table, console: Console) -> int:
    """`sparserl table`."""
    from sparserl_jax.bench import summary, tables

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
    made = plans.make(single.suite_of(env, **settings))
    folder = runs.folder_of(made, out)
    plans.show(made, console)
    runs.run(made, folder, console, time_budget=budget)
    _show(made, folder, console)
    return runs.EXIT_OK


def listing(command: List, console: Console) -> int:
    """`sparserl list`."""
    from sparserl_jax.bench.catalogue import lines

    for line in lines(command.what):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


_COMMANDS: dict[type, Callable[[Any, Console], int]] = {
    Bench: bench,
    PlanSuite: plan,
    Check: check,
    Publish: publish,
    Train: train,
    Table: table,
    Plot: plot,
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


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
