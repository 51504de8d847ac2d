"""What the numbers of a suite must satisfy before anything is planned; every refusal is one sentence with the place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparserl_jax.bench import algorithms
from sparserl_jax.errors import UserError
from sparserl_jax.training import datasets, precision
from sparserl_jax.training.config import AgentConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparserl_jax.bench.suites import Arm, Suite, Task

LONGEST_NAME = 150
"""Bytes of an arm's or environment's name: files are called so, and a system has at most some 250."""
WIDEST = 32_768
"""Units of a hidden layer: the weights between two of them are counted in 32 bits."""
MOST_STEPS = 2**31 - 1
"""Environment steps, which are counted in 32 bits, too."""
MOST_SEEDS = 10_000
"""Of one arm: every run is planned by itself, and a slip of the pen would fill the memory."""


def require(good: bool, where: str, sentence: str) -> None:
    """Raise `UserError` with the place unless `good`."""
    if not good:
        raise UserError(f"{where}: {sentence}")


def check_knob(knob: float, where: str, coefficient: bool = False) -> None:
    """Refuse a sparsity outside [0, 1), and a `coefficient` that is none."""
    if coefficient:
        require(0.0 <= knob < math.inf, where, f"coefficient {knob:g} is no number from 0 on.")
        return
    require(
        0.0 <= knob < 1.0,
        where,
        f"sparsity {knob:g} is outside [0, 1); it is the fraction of weights removed.",
    )


def check_ranges(suite: Suite, where: str) -> None:
    """Refuse numbers that no training could use."""
    precision.check(suite.matmul_precision, f"{where}: 'matmul_precision'")
    evaluation, schedule = suite.evaluation, suite.schedule
    for place, agent in algorithms.every(suite):
        for task in suite.tasks:
            there = f"{where}, {place}'{task.name}'"
            datasets.check(agent, task.dataset, suite.num_envs, suite.warm_up, there)
        _check_agent(agent, f"{place}agent", where)
    agent = suite.agent
    replayed = suite.training(suite.tasks[0]).replayed
    for what, name in [("arm", arm.name) for arm in suite.arms] + [
        ("environment", t.name) for t in suite.tasks
    ]:
        require(
            len(name.encode()) <= LONGEST_NAME,
            where,
            f"{what} '{name[:40]}...' has a name of {len(name.encode())} bytes, and files are called so; give it at "
            f"most {LONGEST_NAME}.",
        )
    widest = max((arm.width or 1) * max((arm.agent or agent).hidden, default=0) for arm in suite.arms)
    require(widest <= WIDEST, where, f"a hidden layer has {widest:,} units; give at most {WIDEST:,}.")
    require(suite.steps <= MOST_STEPS, where, f"'steps' is {suite.steps:,}; give at most {MOST_STEPS:,}.")
    positive = {
        "steps": suite.steps,
        "warm_up": suite.warm_up if replayed else 1,
        "num_envs": suite.num_envs,
        "dispatch": 1 if suite.dispatch is None else suite.dispatch,
        "evaluation.interval": evaluation.interval,
        "evaluation.episodes": evaluation.episodes,
        "evaluation.final_episodes": evaluation.final_episodes,
        "schedule.topology_interval": schedule.topology_interval,
        "schedule.delay": schedule.delay,
        "schedule.buffer_max": schedule.buffer_max,
        "schedule.buffer_check": schedule.buffer_check,
    }
    for key, value in positive.items():
        require(value > 0, where, f"'{key}' must be positive, not {value}.")
    for task in suite.tasks:
        for key in ("episodes", "final_episodes"):
            own = getattr(suite.evaluation_of(task), key)
            require(own > 0, where, f"'{key}' of environment '{task.name}' must be positive, not {own}.")
    own_critics = [knob for arm in suite.arms for knob in arm.critic_sparsities]
    own_critics += [task.critic_sparsity for task in suite.tasks]
    require(
        "critic" in agent.NETWORKS or not any(knob is not None for knob in own_critics),
        where,
        f"agent '{agent.name}' has no critic that could have a sparsity of its own; drop it.",
    )
    drop = schedule.drop_fraction
    require(0.0 <= drop <= 1.0, where, f"'schedule.drop_fraction' {drop:g} is outside [0, 1].")
    require(
        suite.warm_up < suite.steps,
        where,
        f"warm_up {suite.warm_up} leaves nothing of {suite.steps} steps; lower it.",
    )
    batch = agent.batch_size
    require(
        not replayed or suite.warm_up >= batch,
        where,
        f"warm_up {suite.warm_up} is less than one batch ({batch}); raise it.",
    )
    require(
        0 <= schedule.buffer_min <= schedule.buffer_max,
        where,
        f"'schedule.buffer_min' {schedule.buffer_min} must lie between 0 and buffer_max ({schedule.buffer_max}).",
    )


def _check_agent(agent: AgentConfig, called: str, where: str) -> None:
    """Refuse numbers of an algorithm that no training could use."""
    for key in ("batch_size", "learning_rate", "policy_delay"):
        value = getattr(agent, key)
        require(value > 0, where, f"'{called}.{key}' must be positive, not {value}.")
    require(
        len(agent.hidden) > 0 and min(agent.hidden) > 0, where, f"'{called}.hidden' needs positive widths."
    )
    for key, allowed in agent.TRACED.items():
        own = getattr(agent, key)
        a_number = "a number " if allowed.whole else ""
        require(allowed.holds(own), where, f"'{called}.{key}' must be {a_number}{allowed}, not {own:g}.")


def refuse_replay(agent: AgentConfig, schedule: Any, where: str) -> None:
    """Refuse what a schedule says about a replay or its targets where the algorithm has none."""
    if agent.experience == "replay" or not isinstance(schedule, Mapping):
        return
    targets = "targets" if agent.experience == "rollout" else "delayed targets"
    for key in schedule:
        require(
            key in ("topology_interval", "drop_fraction"),
            where,
            f"agent '{agent.name}' has no replay and no {targets} that '{key}' could be about; drop it.",
        )


def check_unique(names: list[str], what: str, where: str) -> None:
    """Refuse a name that appears twice."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.get(name.casefold())
        seen[name.casefold()] = name
        require(other != name, where, f"{what} '{name}' appears twice; give one of them another name.")
        require(
            other is None,
            where,
            f"{what}s '{other}' and '{name}' are one name to systems that read small and large letters alike, and "
            "files are called so; give one of them another.",
        )


def check_levels(tasks: Sequence[Task], where: str) -> None:
    """Refuse ends of a score that are not all there, or in another order, and known returns that are no numbers."""
    for task in tasks:
        levels = (task.random, task.reference, task.learned)
        require(
            all(v is None for v in levels) or all(v is not None for v in levels),
            where,
            f"environment '{task.name}' needs random, reference and learned together, or none of them.",
        )
        known = {} if task.known is None else task.known
        numbers = isinstance(known, Mapping) and all(
            isinstance(value, int | float) and math.isfinite(value) for value in known.values()
        )
        require(
            numbers, where, f"environment '{task.name}': 'known' must be a table of returns, not {known!r}."
        )
        if task.random is not None and task.reference is not None:
            require(task.reference > task.random, where, f"'{task.name}': reference must exceed random.")
        if task.failed is not None and task.learned is not None:
            require(task.failed <= task.learned, where, f"'{task.name}': failed must not exceed learned.")
        if task.random is not None and task.learned is not None:
            require(task.learned > task.random, where, f"'{task.name}': learned must exceed random.")


def check_own_sparsities(tasks: Sequence[Task], sparsities: Sequence[float], where: str) -> None:
    """All environments have sparsities of their own, or none; `sparsities`: those at the top of the suite, which say
    nothing beside them."""
    own = [task for task in tasks if task.sparsity is not None]
    for task in tasks:
        require(
            task.sparsity is not None or (task.critic_sparsity is None and not own),
            where,
            f"environment '{task.name}' has no 'sparsity', but it or another one has sparsities of its own; give it "
            "one.",
        )
        for knob in (task.sparsity, task.critic_sparsity):
            if knob is not None:
                check_knob(knob, f"{where}, environment '{task.name}'")
    require(
        not own or not sparsities,
        where,
        "'sparsities' at the top say nothing where every environment has its own; drop them, or give them to arms.",
    )


def check_reference(arms: Sequence[Arm], where: str) -> None:
    """Refuse several arms, or a sparse one, as what all others are compared with, and A/A arms that are another."""
    references = [arm for arm in arms if arm.role == "dense"]
    require(len(references) <= 1, where, "only one arm may have the role 'dense'.")
    if not references:
        return
    dense = references[0]
    require(
        dense.recipe.method == "dense",
        where,
        f"arm '{dense.name}' is what all others are compared with, so its recipe must leave the networks dense, which "
        f"'{dense.recipe.name}' does not.",
    )
    for arm in (arm for arm in arms if arm.role == "aa"):
        chance = f"arm '{arm.name}' shows what chance alone does"
        require(
            arm.recipe == dense.recipe,
            where,
            f"{chance}: give it recipe = '{dense.recipe.name}', that of arm '{dense.name}'.",
        )
        require(
            (arm.overrides, arm.by_environment) == (dense.overrides, dense.by_environment),
            where,
            f"{chance}, so it needs the values of '{dense.name}': give it the same 'overrides' and 'by_environment'.",
        )


def check_seeds(arms: list[Arm], tasks: Sequence[Task], where: str) -> None:
    """Two arms with the same recipe, knob and seed would be one run counted twice: the A/A row must use other seeds."""
    seen: dict[tuple[Any, ...], str] = {}
    every = ((task, arm, *knobs) for task in tasks for arm in arms for knobs in arm.knobs(task))
    for task, arm, knob, own in every:
        # The key of a run folds in the recipe, not the arm's name.
        critic = knob if own is None else own
        for seed in arm.seeds:
            taken = arm.ticket, arm.clone
            key = (task.name, arm.recipe, arm.values(task), taken, arm.width, arm.agent, knob, critic, seed)
            other = seen.setdefault(key, arm.name)
            require(
                other == arm.name,
                where,
                f"arms '{other}' and '{arm.name}' are the same runs (seed {seed}); give one of them 'seeds_from'.",
            )
