"""One arm on one environment as a suite of its own: what `sparserl train` and `sparserl_jax.train` run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparserl_jax.agents.registry import Algorithm, algorithm
from sparserl_jax.bench import continuing
from sparserl_jax.bench.ranges import MOST_SEEDS, check_knob, check_ranges
from sparserl_jax.bench.suites import Arm, Suite, Task
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import method as find_method
from sparserl_jax.training.config import Evaluation, Schedule
from sparserl_jax.training.iterations import grid_of, longest_dispatch
from sparserl_jax.training.recipe import fixed_sparsity
from sparserl_jax.training.recipe import recipe as find_recipe

SINGLE = "train"
"""Name of the suite that a single training is."""
RECIPE = "rlx2"
"""Where none is given; see `_usual_recipe`."""
SPARSITY = 0.9
"""Where none is given."""
DROPS = 9
"""Checks after which a buffer that loses a tenth at every one of them keeps its size: 0.9 (9 + 1) = 9."""
POINTS = 20
"""Evaluations during training."""
STEPS = 100_000
"""Environment steps where none are given, or the nearest number that evaluations divide into whole iterations."""


def suite_of(
    env: Any,
    *,
    agent: str = "td3",
    recipe: str | None = None,
    method: str | None = None,
    sparsity: float | None = None,
    critic_sparsity: float | None = None,
    seeds: int = 8,
    first_seed: int = 0,
    steps: int | None = None,
    warm_up: int | None = None,
    num_envs: int = 1,
    network: str | None = None,
    hidden: tuple[int, ...] | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    episodes: int = 10,
    final_episodes: int = 100,
    matmul_precision: str | None = None,
    start: str | Path | None = None,
    dataset: str | None = None,
) -> Suite:
    """A suite of one arm.

    Args:
        env: an environment's name, or an object with `reset` and `step`.
        agent, recipe: see `sparserl list agents|recipes`; your own recipe or method is `my_pkg.my_module:name`. The
            default recipe is `rlx2`, and `rigl` for agents that have no replay, or no real actions, as it asks for.
        method: sparsity method in place of the recipe's; see `sparserl list sparsifiers`.
        sparsity: fraction of weights removed, in [0, 1), default 0.9; ignored by recipes with a fixed one (dense). The
            coefficient of methods that are swept by one (l0, l1, l2), which has no default.
        critic_sparsity: the critic's own; default as the actor's.
        seeds: number of members, trained together; counted from `first_seed`.
        steps: environment steps per member, a multiple of 20 evaluations times parallel environments and policy delay
            (PPO: times steps per rollout); default the one that is nearest to 100,000.
        warm_up: random steps before the first update; default 5 % of `steps`, at most 25,000, and none for PPO and
            with a dataset.
        num_envs: parallel environments per member.
        network, hidden, batch_size, learning_rate: of the agent; default its own.
        episodes, final_episodes: per evaluation, and at the end.
        matmul_precision: of all stages; default what JAX is configured for, and failing that `highest`. See
            `training/precision.py`.
        start: a finished run's folder, or its policy.npz: every member begins from its networks and masks, with fresh
            optimiser and replay; `network` and `hidden` are then that run's where not given. See `bench/continuing.py`.
        dataset: what is learned from in place of steps, see `training/datasets.py`; `steps` are then updates, and there
            is no warm-up.

    The schedule is the published one of RLx2 scaled to `steps`.
    """
    where = "train"
    found = algorithm(agent)
    chosen = find_recipe(_usual_recipe(found) if recipe is None else recipe)
    if method is not None:
        named = f"{chosen.name}_{find_method(method).name}"
        kept = fixed_sparsity(chosen, method)
        chosen = dataclasses.replace(chosen, method=method, name=named, sparsity=kept, summary="")
    begun = None if start is None else continuing.read(start)
    if begun is not None and hidden is None:
        hidden = continuing.hidden(begun)
    if begun is not None and network is None:
        network = continuing.network(begun)
    changes = {"network": network, "hidden": hidden, "batch_size": batch_size, "learning_rate": learning_rate}
    config = dataclasses.replace(found.config(), **{k: v for k, v in changes.items() if v is not None})
    coefficient, fixed = find_method(chosen.method).coefficient, chosen.sparsity is not None
    if sparsity is None and coefficient and not fixed:
        raise UserError(
            f"method '{chosen.method}' is swept by a coefficient, not by a sparsity, and has no default: give one as "
            "sparsity, such as 10."
        )
    sparsity = SPARSITY if sparsity is None else sparsity
    for knob in (sparsity, critic_sparsity):
        if knob is not None:
            check_knob(knob, where, coefficient)
    if critic_sparsity is not None and fixed:
        raise UserError(
            f"critic_sparsity = {critic_sparsity:g}, but the sparsity of recipe '{chosen.name}' is its own in all "
            "networks; leave it out, or choose another recipe."
        )
    if seeds > MOST_SEEDS:
        raise UserError(f"seeds = {seeds}: give at most {MOST_SEEDS}.")
    if seeds < 1 or first_seed < 0:
        raise UserError(f"seeds = {seeds} from {first_seed}: give at least one seed, counted from 0 or more.")
    if num_envs < 1 or config.policy_delay < 1:
        raise UserError(f"num_envs = {num_envs}: give at least 1.")
    unit, unit_named = grid_of(config, num_envs)
    if steps is None:
        steps = max(round(STEPS / (POINTS * unit)), 1) * POINTS * unit
    if steps < 1 or steps % (POINTS * unit):
        low = max(steps // (POINTS * unit), 1) * POINTS * unit
        raise UserError(
            f"steps = {steps} is not a positive multiple of {POINTS * unit} ({POINTS} evaluations x {unit_named}): the "
            f"nearest valid values are {low} and {low + POINTS * unit}."
        )
    interval = steps // POINTS
    grid = longest_dispatch(interval, unit)
    if warm_up is None and config.experience != "replay":
        warm_up = 0
    elif warm_up is None:
        wanted = max(min(25_000, steps // 20), config.batch_size, 8 * num_envs)
        warm_up = -(-wanted // grid) * grid
    name = env if isinstance(env, str) else _name_of(env)
    knob = chosen.sparsity if chosen.sparsity is not None else sparsity
    suite = Suite(
        name=SINGLE,
        title=(
            f"{chosen.name} on {name}"
            if fixed
            else f"{chosen.name} at {'coefficient' if coefficient else 'sparsity'} {sparsity:g} on {name}"
        )
        + ("" if begun is None else f", from {begun.source}"),
        result=True,
        agent=config,
        steps=steps,
        warm_up=warm_up,
        num_envs=num_envs,
        schedule=Schedule.scaled(
            steps, config, unit, math.gcd(interval, warm_up), dynamic=chosen.buffer == "dynamic"
        ),
        evaluation=Evaluation(interval, episodes, final_episodes),
        dispatch=None,
        tasks=(Task(name, dataset=dataset, object=None if isinstance(env, str) else env),),
        arms=(
            Arm(
                chosen,
                chosen.name,
                "dense" if chosen.name == "dense" else "method",
                (knob,),
                tuple(range(first_seed, first_seed + seeds)),
                () if critic_sparsity is None else (critic_sparsity,),
            ),
        ),
        start=begun,
        matmul_precision=matmul_precision,
    )
    check_ranges(suite, where)
    return suite


def told(suite: Suite, given: Mapping[str, Any]) -> list[str]:
    """What `suite_of` chose for arguments that were not given and that has no usual value, in words; often nothing."""
    said = []
    if given.get("steps") is None and suite.steps != STEPS:
        unit, named = grid_of(suite.agent, suite.num_envs)
        said.append(
            f"steps: {suite.steps:,}, the multiple of {POINTS * unit:,} ({POINTS} evaluations x {named}) that is "
            f"nearest to {STEPS:,}"
        )
    held, check = DROPS * suite.schedule.buffer_check, f"{suite.schedule.buffer_check:,}"
    recipe = suite.arms[0].recipe
    if recipe.buffer == "dynamic" and recipe.source == "released" and held > suite.schedule.buffer_min:
        said.append(
            f"buffer: looked at every {check} steps, the least here, so that dropping a tenth each time holds it at "
            f"about {held:,} transitions; its smallest size, {suite.schedule.buffer_min:,}, is not reached"
        )
    usual = _usual_recipe(algorithm(suite.agent.name))
    if given.get("recipe") is None and usual != RECIPE:
        said.append(f"recipe: {usual}, for '{suite.agent.name}' has not what '{RECIPE}' asks for")
    return said


def _usual_recipe(found: Algorithm) -> str:
    """The default recipe of an algorithm: a dynamic buffer needs a replay, and the distance of real actions."""
    config: Any = found.config
    return RECIPE if config.experience == "replay" and "continuous" in found.actions else "rigl"


def _name_of(env: Any) -> str:
    """What an environment object is called in files: its spec's name, else its class."""
    spec = getattr(env, "spec", None)
    return str(getattr(spec, "name", None) or getattr(env, "__name__", None) or type(env).__name__)
