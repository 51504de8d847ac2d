"""The plan: what a suite will do, before any of it is done. Printed by `sparserl plan`, executed by `bench/run.py`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparserl_jax.bench import continuing, costs, sources
from sparserl_jax.bench.suites import Arm, Suite, Task
from sparserl_jax.errors import UserError, located
from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import Promise, method, promised
from sparserl_jax.training import datasets
from sparserl_jax.training.config import Run
from sparserl_jax.training.population import events_of
from sparserl_jax.training.spaces import check_observations, check_spaces

if TYPE_CHECKING:
    from rich.console import Console


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run with its place in the suite."""

    task: Task
    arm: Arm
    run: Run

    @property
    def folder(self) -> Path:
        """Folder of the run's files, relative to that of the suite's records."""
        return Path(slug(self.task.name)) / self.run.id


@dataclasses.dataclass(frozen=True)
class Plan:
    """A suite resolved into runs and programs.

    specs: environment descriptions by environment name. layers: LayerTables by environment name and network, of the
    suite's networks; others: the same by (environment name, agent) of arms that have a width or an algorithm of their
    own; see `layers_of`.
    declared: promised counts by environment name and (recipe, knobs); see `promise`.
    wholes: by name of a program that is part of another one, that one's name and number of members; see `slices.py`.
    """

    suite: Suite
    runs: tuple[Planned, ...]
    programs: tuple[Any, ...]
    specs: dict[str, Any]
    layers: dict[str, dict[str, LayerTable]]
    declared: dict[Any, dict[str, Promise]]
    wholes: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    others: dict[tuple[str, Any], dict[str, LayerTable]] = dataclasses.field(default_factory=dict)

    def layers_of(self, run: Run) -> dict[str, LayerTable]:
        """LayerTables of a run's networks."""
        env = run.training.env
        return self.others.get((env, run.training.agent), self.layers[env])

    def promise(self, run: Run) -> dict[str, Promise]:
        """The live weights per tensor that a run's method declares, by network."""
        return self.declared[_promise_key(run)]

    def of(self, program: Any) -> list[Planned]:
        """The planned runs of a program, in the program's order of members."""
        by_run = {(planned.run.training.env, planned.run.id): planned for planned in self.runs}
        return [by_run[run.training.env, run.id] for run in program.runs]


def slug(name: str) -> str:
    """An environment's name as a folder name: letters of ASCII, digits, `.`, `_` and single `-`."""
    kept = "".join(
        letter if (letter.isascii() and letter.isalnum()) or letter in "._" else "-" for letter in name
    )
    return "-".join(part for part in kept.split("-") if part.strip(".")) or "environment"


def _promise_key(run: Run) -> tuple[Any, ...]:
    knobs = run.knobs
    method = (run.recipe.method, run.recipe.source)
    return (run.training.env, run.training.agent, *method, knobs["actor"], knobs["critic"])


def _describe(source: Any) -> Any:
    """Spec of an environment; a user's own is tried out first, so that its faults are told in a sentence."""
    from sparserl_jax import envs

    env = envs.make(source)
    envs.check_named(source, env)
    return env.spec


def _logged(suite: Suite, task: Task, spec: Any) -> Any:
    """The dataset of an environment's file, read and checked; None where it has none."""
    where = f"suite '{suite.name}', environment '{spec.name}'"
    return None if task.dataset is None else datasets.read(task.dataset, spec, suite.folder, where)


def _try_method(run: Run, layers: dict[str, LayerTable]) -> None:
    """A user's own sparsity method is looked at by shape, so that its faults are told in a sentence."""
    if ":" not in run.recipe.method:
        return
    from sparserl_jax.conformance.broken import Broken
    from sparserl_jax.conformance.functions import check_functions

    name, events = run.recipe.method, events_of(run.training)
    for network in events:
        try:
            check_functions(
                method(name), layers[network], run.knobs[network], events[network], run.recipe.source
            )
        except Broken as broken:
            raise UserError(
                f"sparsity method '{name}': {broken}; mend it and try `sparserl conformance {name}`."
            ) from broken


def _refuse_no_event(run: Run, layers: dict[str, LayerTable]) -> None:
    """A method that acts at events, in a run that has none, is another method."""
    own = method(run.recipe.method)
    for network, events in events_of(run.training).items():
        if events.count or events.end < 2:
            continue
        often = dataclasses.replace(events, interval=max(1, events.end // 10))
        if promised(own, layers[network], run.knobs[network], often, run.recipe.source).events:
            raise UserError(
                f"method '{run.recipe.method}' acts every schedule.topology_interval = {events.interval} ticks of the "
                f"{network}, of which a run has {events.end}: make it smaller."
            )


def make(
    suite: Suite,
    group: Callable[[list[Run]], list[Any]] | None = None,
    describe: Callable[[Any], Any] | None = None,
) -> Plan:
    """Resolve a suite; raises `UserError` for unknown environments, periods that do not fit, unreachable sparsities.

    Args:
        group: runs to programs; default `training.program.group`.
        describe: an environment's name or object to its spec; default: that of `envs.make`, checked if it is
            the user's own.
    """
    if group is None:
        from sparserl_jax.training.program import group as group_runs

        group = group_runs
    describe = _describe if describe is None else describe
    found = [describe(task.name if task.object is None else task.object) for task in suite.tasks]
    # The canonical name says what a default left unsaid (a physics backend): it goes into keys and records.
    tasks = tuple(
        dataclasses.replace(task, name=spec.name, logged=_logged(suite, task, spec))
        for task, spec in zip(suite.tasks, found, strict=True)
    )
    written = [task.name for task in suite.tasks]
    canonical = dict(zip(written, (task.name for task in tasks), strict=True))
    arms = tuple(
        dataclasses.replace(
            arm, by_environment=tuple(sorted((canonical[env], values) for env, values in arm.by_environment))
        )
        for arm in suite.arms
    )
    suite = dataclasses.replace(suite, tasks=tasks, arms=arms)
    specs = {spec.name: spec for spec in found}
    for name, spec in specs.items():
        check_observations(suite.agent, spec.image, f"environment '{name}'")
    layers = {
        name: costs.layer_tables(suite.agent, spec.obs_dim, spec.action_dim, spec.image)
        for name, spec in specs.items()
    }
    for task in suite.tasks:
        suite.training(task).check()
    runs = tuple(Planned(*entry) for entry in suite.runs())
    _refuse_doubles(suite, runs, written)
    for planned in runs:
        with _told(suite, planned):
            check_spaces([planned.run], specs[planned.task.name])
    plan = Plan(suite, runs, (), specs, layers, {}, others=_others(runs, specs))
    for planned in runs:
        key, run = _promise_key(planned.run), planned.run
        if key not in plan.declared:
            with _told(suite, planned):
                _try_method(run, plan.layers_of(run))
                plan.declared[key] = costs.declared(run, plan.layers_of(run))
                _refuse_no_event(run, plan.layers_of(run))
    if suite.start is not None:
        for planned in runs:
            with _told(suite, planned):
                continuing.check(suite.start, planned.run, plan.layers_of(planned.run))
    sources.check(runs, plan.promise, f"suite '{suite.name}'")
    programs = sources.ordered(group([planned.run for planned in runs]))
    sources.check_programs(programs)
    return dataclasses.replace(plan, programs=programs)


def _told(suite: Suite, planned: Planned) -> contextlib.AbstractContextManager[None]:
    """Suite, arm and environment in front of what is refused about a run."""
    return located(f"suite '{suite.name}', arm '{planned.arm.name}' on {planned.task.name}")


def _others(runs: Iterable[Planned], specs: dict[str, Any]) -> dict[tuple[str, Any], dict[str, LayerTable]]:
    """LayerTables of the arms with a width or an algorithm of their own, see `Plan`."""
    found = {}
    for planned in runs:
        env, agent = planned.task.name, planned.run.training.agent
        own = planned.arm.width is not None or planned.arm.agent is not None
        if own and (env, agent) not in found:
            spec = specs[env]
            check_observations(agent, spec.image, f"arm '{planned.arm.name}' on environment '{env}'")
            found[env, agent] = costs.layer_tables(agent, spec.obs_dim, spec.action_dim, spec.image)
    return found


def _refuse_doubles(suite: Suite, runs: tuple[Planned, ...], written: list[str]) -> None:
    """Refuse two runs that would be the same numbers twice, or of which one would overwrite the other.

    `written`: the environments' names as the suite has them; canonical ones may be equal.
    """
    members = len(runs) // len(written)
    keys: dict[str, str] = {}
    places: dict[Path, str] = {}
    for index, planned in enumerate(runs):
        run = planned.run
        critic = "" if run.critic_sparsity is None else f" (critic {run.critic_sparsity!r})"
        label = f"'{planned.arm.name}' at {run.sparsity!r}{critic}, seed {run.seed}, on {written[index // members]}"
        other = keys.setdefault(f"{run.key_name}|{run.overrides}|{planned.arm.agent}", label)
        if other != label:
            raise UserError(
                f"suite '{suite.name}': {other} and {label} are the same run (equal recipe, sparsities, seed and "
                "environment); drop one of them or give it other seeds."
            )
        other = places.setdefault(planned.folder, label)
        if other != label:
            raise UserError(
                f"suite '{suite.name}': {other} and {label} would share the record folder '{planned.folder}'; drop "
                "one of them, or write it so that letters, digits or the first three decimals differ."
            )


def theory(plan: Plan, planned: Planned) -> dict[str, Any]:
    """Costs of a planned run from its declared counts; see `costs.costs`."""
    promised = plan.promise(planned.run)
    counts = {network: promised[network].counts for network in promised}
    return costs.costs(planned.run, plan.layers_of(planned.run), counts, promised)


def evaluation_steps(plan: Plan, task: Task) -> tuple[int, int]:
    """Environment steps of all evaluations of one run: (in total, one after another when episodes run in parallel)."""
    evaluation, limit = plan.suite.evaluation_of(task), plan.specs[task.name].max_episode_steps
    repeats = plan.suite.points + -(-evaluation.final_episodes // evaluation.episodes)
    return (plan.suite.points * evaluation.episodes + evaluation.final_episodes) * limit, repeats * limit


def _quantity(value: float, unit: str = "", base: int = 1000) -> str:
    prefixes = (
        ["", "k", "M", "G", "T", "P", "E"] if base == 1000 else ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
    )
    index = 0
    while value >= base and index < len(prefixes) - 1:
        value, index = value / base, index + 1
    number = f"{value:.0f}" if value >= 100 or index == 0 else f"{value:.3g}"
    return f"{number} {prefixes[index]}{unit}".rstrip()


def lines(plan: Plan) -> list[str]:
    """The plan as text: totals, then one paragraph per program."""
    suite = plan.suite
    chosen = [planned for program in plan.programs for planned in plan.of(program)]  # fewer with --only
    total = sum(theory(plan, planned)["training_flops_theory"] for planned in chosen)
    executed = sum(theory(plan, planned)["training_flops_executed"] for planned in chosen)
    compilations = sum(int(program.compilations) for program in plan.programs)
    training = suite.training(suite.tasks[0])
    dispatches = suite.steps // training.dispatch_steps
    members = len(plan.runs) // len(suite.tasks)
    text = [
        f"suite {suite.name}-{suite.hash()}: {suite.title}" + ("" if suite.result else "  [never a result]"),
        f"{len(plan.runs)} runs = {len(suite.tasks)} environments x {members} members; "
        f"{len(plan.programs)} programs, {compilations} compilations",
        "per run: "
        + ("" if training.dataset is not None else f"{suite.steps:,} steps, ")
        + f"{training.updates:,} updates, {suite.points} evaluations",
        f"dispatch: {training.dispatch_steps} steps, {dispatches} per program, "
        f"{dispatches * len(plan.programs)} in all",
        f"training FLOPs: {_quantity(total)} in theory, {_quantity(executed)} executed (masked-dense saves none)",
    ]
    if suite.start is not None:
        text.append(continuing.line(suite.start))
    text.extend(datasets.line(task.logged, task.name) for task in suite.tasks if task.logged is not None)
    for task in suite.tasks:
        evaluation = suite.evaluation_of(task)
        steps, serial = evaluation_steps(plan, task)
        mine = [planned for planned in plan.runs if planned.task.name == task.name]
        acting = sum(costs.forward_dense(plan.layers_of(one.run)["actor"]) for one in mine) / len(mine)
        work = sum(theory(plan, planned)["training_flops_executed"] for planned in mine) / len(mine)
        # In parallel environments several updates come of one step of the physics, and all of them are serial.
        alone = 100 * serial / (serial + suite.steps / suite.num_envs)
        physics = f"{alone:.0f} % of its serial steps of the physics, " if suite.num_envs > 1 else ""
        text.append(
            f"evaluation on {task.name}: {evaluation.episodes} episodes at a time, {evaluation.final_episodes} at the "
            f"end; at most {steps:,} environment steps per run ({serial:,} one after another) = "
            f"{100 * acting * steps / (acting * steps + work):.2g} % of its FLOPs, "
            f"{physics}{100 * serial / (serial + suite.steps):.0f} % of its serial steps"
        )
    for program in plan.programs:
        text.extend(_paragraph(plan, program))
    return text


def _paragraph(plan: Plan, program: Any) -> list[str]:
    planned = plan.of(program)
    arms: dict[str, int] = {}
    for entry in planned:
        label = (
            entry.arm.name
            if entry.arm.role in ("dense", "aa")
            else f"{entry.arm.name}@{entry.run.sparsity:g}"
        )
        arms[label] = arms.get(label, 0) + 1
    members = ", ".join(f"{label} x{count}" for label, count in arms.items())
    whole = plan.wholes.get(program.name)
    layout = program.layout
    each = "" if len(layout.devices) == 1 else " on each"
    text = [
        f"program {program.name}: {planned[0].task.name}, {layout}, {program.compilations} compilations, "
        f"memory {_quantity(int(program.memory()), 'B', 1024)}{each}",
        f"    why: {program.why}",
        *([] if whole is None else [f"    part of: {whole[0]}, which has {whole[1]} members"]),
        f"    members: {members}",
        *sources.lines(plan, program),
    ]
    dense = [entry.run for entry in planned if entry.run.recipe.method == "dense"]
    events = max(promise.events for entry in planned for promise in plan.promise(entry.run).values())
    if 0 < len(dense) < len(planned):
        share = costs.surcharge(dense[0], plan.layers_of(dense[0]), events)
        text.append(
            f"    surcharge: its dense members carry masks and {events} events for the family, at least "
            f"{100 * share:.2g} % more operations than a program of their own (time is not compared from this program)"
        )
    return text


def show(plan: Plan, console: Console) -> None:
    """Print the plan."""
    for line in lines(plan):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
