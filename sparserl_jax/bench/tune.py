"""`sparserl tune`: a suite's grid of traced settings as a suite of its own.

Every trial (one arm with one combination of values) is an arm of the derived suite `<suite>-tune`, so planning,
running, resuming and recording are those of any suite, and trials share Programs. All trials use the same seeds and,
because a run's key does not depend on its overrides, the same random numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sparserl_jax.bench import plan, tuning
from sparserl_jax.bench.suites import Arm, Suite
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import method as find_method
from sparserl_jax.training.config import Run
from sparserl_jax.training.population import events_of


def suite_of(suite: Suite, without: dict[str, tuple[str, ...]] | None = None) -> Suite:
    """The suite whose arms are the trials; `without`: settings left out by arm, because they change nothing there.

    Raises:
        UserError: the suite has no `[tune]` table, or leaves open what to select by or at which sparsity.
    """
    tune = suite.tune
    if tune is None:
        raise UserError(
            f"suite '{suite.name}' has no [tune] table; give it one with seeds, seeds_from and a [tune.grid]."
        )
    unlevelled = [task.name for task in suite.tasks if task.random is None]
    if unlevelled and len(suite.tasks) > 1:
        raise UserError(
            f"suite '{suite.name}': a trial's score is z over all environments, but '{unlevelled[0]}' has no levels; "
            "give it random, learned and reference."
        )
    trials, names = [], []
    for arm in (arm for arm in suite.arms if arm.name in tune.arms):
        points = tuning.points(tune.grid_of(arm.name), (without or {}).get(arm.name, ()))
        mine = [
            _trial(suite, arm, f"{arm.name}_t{i:0{len(str(len(points) - 1))}d}", point)
            for i, point in enumerate(points)
        ]
        trials += mine
        names.append((arm.name, tuple(trial.name for trial in mine)))
    dense = {arm.name: arm.recipe for arm in suite.arms if arm.role == "dense" and arm.name in tune.arms}
    apart = tune.by_environment or any(arm.by_environment for arm in suite.arms)
    search = tuning.Search(
        suite=suite.name,
        grid=dict(tune.grid),
        seeds=tune.seeds,
        space_sha256=tuning.space_sha256(tune.grid),
        grids={arm: dict(grid) for arm, grid in tune.grids},
        by_environment=tune.by_environment,
        environments=tuple(task.name for task in suite.tasks) if apart else (),
        trials=tuple(names),
        chosen_for=tuple(
            (arm.name, name)
            for name, recipe in dense.items()
            for arm in suite.arms
            if arm.role == "aa" and arm.recipe.method == recipe.method
        ),
    )
    return dataclasses.replace(
        suite,
        name=f"{suite.name}-tune",
        title=f"Tuning of {suite.title}",
        result=False,
        arms=tuple(trials),
        tune=None,
        unequal_tuning=False,
        search=search,
    )


def _trial(suite: Suite, arm: Arm, name: str, point: tuning.Overrides) -> Arm:
    """One arm at one knob with the values of one point of the grid."""
    tune = suite.tune
    assert tune is not None
    knob = arm.recipe.sparsity if arm.recipe.sparsity is not None else tune.sparsity
    penalty = find_method(arm.recipe.method).coefficient
    if penalty and (knob not in arm.sparsities or tuning.swept_by_sparsity(suite.arms, tune.arms)):
        knob = None  # a sparsity, which is no coefficient
    values = tuple(sorted({**dict(arm.overrides), **dict(point)}.items()))
    not_searched = [
        (env, tuple(value for value in own if value[0] not in dict(point))) for env, own in arm.by_environment
    ]
    stay = tuple((env, own) for env, own in not_searched if own)
    kept: dict[str, Any] = {"width": arm.width, "agent": arm.agent, "by_environment": stay}
    if knob is None and not arm.sparsities:  # tuned where it is compared: at every environment's own
        return Arm(arm.recipe, name, arm.role, (), tune.seeds, (), values, **kept)
    if knob is None:
        if len(arm.sparsities) > 1 and penalty:
            raise UserError(
                f"suite '{suite.name}' [tune]: arm '{arm.name}' has several coefficients; tune such arms apart from "
                "those with sparsities, and say at which of theirs with 'sparsity'."
            )
        if len(arm.sparsities) > 1:
            raise UserError(
                f"suite '{suite.name}' [tune]: arm '{arm.name}' has several sparsities; say at which to tune with "
                "'sparsity'."
            )
        knob = arm.sparsities[0]
    critic: tuple[float | None, ...] = ()
    if arm.critic_sparsities:
        if knob not in arm.sparsities:
            raise UserError(
                f"suite '{suite.name}' [tune]: arm '{arm.name}' has critic_sparsities, but none for sparsity {knob:g}; "
                "tune it at one of its own."
            )
        critic = (arm.critic_sparsity(knob),)
    return Arm(arm.recipe, name, arm.role, (knob,), tune.seeds, critic, values, **kept)


def make(suite: Suite, make_plan: Callable[[Suite], plan.Plan] | None = None) -> plan.Plan:
    """The plan of a suite's tuning.

    Raises:
        UserError: as `suite_of`; or a setting of the grid changes nothing in some arm, which would then have fewer
            different trials than others, and the suite does not allow that.
    """
    make_plan = plan.make if make_plan is None else make_plan
    made = make_plan(suite_of(suite))
    tune = suite.tune
    assert tune is not None
    without = _idle(made, tune)
    if not without:
        return made
    if not tune.unequal:
        arm, names = next(iter(without.items()))
        raise UserError(
            f"suite '{suite.name}' [tune]: '{names[0]}' changes nothing in arm '{arm}', which would have fewer trials "
            "than others: take it out of the grid, or say 'unequal = true' and the caption will say it too."
        )
    return make_plan(suite_of(suite, without))


def _idle(made: plan.Plan, tune: tuning.Tune) -> dict[str, tuple[str, ...]]:
    """Settings of the grids that change nothing, by arm."""
    search, found = made.suite.search, {}
    assert search is not None
    for arm, trials in search.trials:
        run = next(planned.run for planned in made.runs if planned.arm.name == trials[0])
        used = {"drop_fraction": _drops(made, run), "buffer_threshold": run.recipe.buffer == "dynamic"}
        idle = tuple(name for name, _ in tune.grid_of(arm) if not used.get(name, True))
        if idle:
            found[arm] = idle
    return found


def _drops(made: plan.Plan, run: Run) -> bool:
    """Whether the drop fraction enters any number of the run's method: with none and with all dropped they differ."""
    chosen, layers, knobs = find_method(run.recipe.method), made.layers_of(run), run.knobs
    none, every = (
        [
            chosen.settings(
                layers[name], knobs[name], dataclasses.replace(own, drop_fraction=share), run.recipe.source
            )
            for name, own in events_of(run.training).items()
        ]
        for share in (0.0, 1.0)
    )
    return not all(map(np.array_equal, jax.tree.leaves(none), jax.tree.leaves(every)))


def lines(made: plan.Plan) -> list[str]:
    """What will be tried, in words."""
    suite, search = made.suite, made.suite.search
    assert search is not None
    counts = {arm: len(trials) for arm, trials in search.trials}
    seeds, environments = len(search.seeds), len(suite.tasks)
    spaces = {"": search.grid, **{f" of {arm}": grid for arm, grid in search.grids.items()}}
    each = sorted(set(counts.values()))
    told = (
        f"{each[0]} trials for every arm"
        if len(each) == 1
        else "UNEQUAL trials (" + ", ".join(f"{arm} {n}" for arm, n in counts.items()) + ")"
    )
    return [
        f"tuning: {told}, each on seeds {tuning.span(search.seeds)}, which no arm is evaluated on",
        *(f"grid{whose}: {_words(grid)}" for whose, grid in spaces.items() if grid),
        f"{sum(counts.values())} trials of {len(counts)} arm{'s' if len(counts) > 1 else ''} x {seeds} seeds x "
        f"{environments} environment{'s' if environments > 1 else ''} = {len(made.runs)} runs",
    ]


def _words(grid: Mapping[str, Sequence[float]]) -> str:
    return "; ".join(f"{name}: {', '.join(f'{v:g}' for v in values)}" for name, values in grid.items())
