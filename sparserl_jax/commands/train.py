"""Commands that plan and train, and those that carry what they do to another machine and back."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sparserl_jax.arguments import (
    Bench,
    Datasets,
    Paper,
    PlanSuite,
    Profile,
    Stamp,
    Train,
    Tune,
    Unpack,
    flat,
)
from sparserl_jax.commands.console import say
from sparserl_jax.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from sparserl_jax.bench.plan import Plan


def show(plan: Plan, folder: Path, console: Console) -> None:
    """Tables, figures and the comparison with what is published, of a folder that is finished."""
    from sparserl_jax.bench import plots, publish, single, summary, tables

    found = summary.summarise(folder)
    tables.write(folder, found)
    say(console, *plots.write_where_installed(folder, found))
    tables.screen(found, console)
    if plan.suite.name != single.SINGLE:
        publish.beside(folder, found, console)
    say(console, f"Records, tables and plots: {folder}")


def bench(command: Bench, console: Console) -> int:
    """`sparserl bench`."""
    from sparserl_jax.bench import finished, pack, paths, records, select, suites
    from sparserl_jax.bench import plan as plans
    from sparserl_jax.bench import run as runs

    began = time.monotonic()
    runs.check_budget(command.time_budget)
    path = paths.suite_path(command.suite)
    plan = plans.make(suites.read(path, command.budget))
    folder = runs.folder_of(plan, command.out)
    if command.pack is not None:
        pack.check_target(command.pack, plan.suite.hash(), folder)
    done: set[str] = set()
    times = None
    if command.skip_finished is not None:
        done, times = finished.read(command.skip_finished, plan.suite.hash(), records.data_of(plan))
    plan, said = select.select(
        plan, folder, command.divided_as, flat(command.only), command.skip_published, done
    )
    plans.show(plan, console)
    say(console, *said)

    def packed() -> None:
        if command.pack is not None:
            say(console, pack.line(pack.pack(folder, command.pack, plan.suite.hash())))

    def packed_so_far() -> None:  # the machine may go at any time; what goes wrong here is told at the end
        if command.pack is not None:
            with contextlib.suppress(UserError, OSError):
                pack.pack(folder, command.pack, plan.suite.hash())

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
                after=packed_so_far,
            )
    except BaseException:  # what is finished leaves, however this ends
        try:
            packed()
        except (UserError, OSError) as error:
            say(console, str(error))
        raise
    packed()
    if plan.programs:
        show(plan, folder, console)
    return runs.EXIT_OK


def profile(command: Profile, console: Console) -> int:
    """`sparserl profile`."""
    from sparserl_jax.bench import only, paths, profiling, suites
    from sparserl_jax.bench import plan as plans

    plan = plans.make(suites.read(paths.suite_path(command.suite)))
    plan = only.select(plan, flat(command.only)) if command.only else plan
    found = profiling.profile(plan, command.out, command.dispatches)
    say(console, *profiling.lines(found, command.out))
    return 0


def stamp(command: Stamp, console: Console) -> int:
    """`sparserl stamp`."""
    from sparserl_jax.bench import stamp as stamping

    path, commit = stamping.write()
    say(console, f"{path}: commit {commit}; take it along with the copy of the work tree.")
    return 0


def unpack(command: Unpack, console: Console) -> int:
    """`sparserl unpack`."""
    from sparserl_jax.bench import unpack as unpacking

    say(console, *(found.line() for found in unpacking.unpack(command.files, command.into)))
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

    began = time.monotonic()
    runs.check_budget(command.time_budget)
    path = paths.suite_path(command.suite)
    plan = tunes.make(suites.read(path, command.budget))
    folder = runs.folder_of(plan, command.out)
    plans.show(plan, console)
    say(console, *tunes.lines(plan))
    runs.run(plan, folder, console, time_budget=command.time_budget, suite_file=path, began=began)
    trials.show(folder, console)
    return runs.EXIT_OK


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
    say(console, *(f"Page: {path}" for path in written))
    return 0


def train(command: Train, console: Console) -> int:
    """`sparserl train`."""
    from sparserl_jax.bench import plan as plans
    from sparserl_jax.bench import run as runs
    from sparserl_jax.bench import single

    began, settings = time.monotonic(), dict(vars(command))
    env, out, budget = settings.pop("env"), settings.pop("out"), settings.pop("time_budget")
    runs.check_budget(budget)
    made = plans.make(single.suite_of(env, **settings))
    folder = runs.folder_of(made, out)
    plans.show(made, console)
    say(console, *single.told(made.suite, settings))
    runs.run(made, folder, console, time_budget=budget, began=began)
    show(made, folder, console)
    return runs.EXIT_OK


def datasets(command: Datasets, console: Console) -> int:
    """`sparserl datasets`."""
    from sparserl_jax.bench import generate
    from sparserl_jax.bench import plan as plans
    from sparserl_jax.bench import run as runs

    wanted = generate.Wanted(
        command.reference, command.medium, command.expert, command.transitions, command.noise
    )
    wanted.check()
    plan = generate.training(
        command.env,
        command.agent,
        interval=command.interval,
        episodes=command.episodes,
        hidden=command.hidden,
        batch_size=command.batch_size,
        first_seed=command.seed,
        steps=command.steps,
    )
    plans.show(plan, console)
    order = generate.Order(plan, command.out, wanted, command.seed)
    for line in generate.make(order, console, command.time_budget):
        say(console, line)
    return runs.EXIT_OK
