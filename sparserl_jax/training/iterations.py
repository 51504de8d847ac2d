"""How environment steps, iterations and updates of an algorithm fit into each other."""

from __future__ import annotations

import math
from typing import Any

from sparserl_jax.errors import UserError

LONGEST_DISPATCH = 1000
"""Environment steps of one dispatch at most, where nobody chose: Ctrl-C and the time budget act between dispatches."""


def grid_of(agent: Any, num_envs: int) -> tuple[int, str]:
    """Environment steps that all periods of a run are multiples of, and what they are, in words."""
    if agent.experience == "rollout":
        return num_envs * agent.rollout_steps, "parallel environments x rollout steps"
    return math.lcm(num_envs, agent.policy_delay), "parallel environments x policy delay"


def longest_dispatch(interval: int, unit: int) -> int:
    """Environment steps of one dispatch, where nobody chose: see `period`."""
    return period(interval, unit, LONGEST_DISPATCH)


def period(interval: int, unit: int, most: int) -> int:
    """The largest multiple of `unit` that divides `interval` and is at most `most`, in steps; `unit` where there is
    none."""
    fitting = [d for d in range(unit, min(interval, most) + 1, unit) if interval % d == 0]
    return max(fitting, default=unit)


def updates_of(agent: Any, steps: int) -> int:
    """Gradient updates that come of `steps` environment steps behind the warm-up."""
    if agent.experience != "rollout":
        return steps
    size = max(1, agent.batch_size)  # this is asked before a batch of nothing is refused
    return steps // size * agent.epochs


def check_iterations(agent: Any, num_envs: int, warm_up: int) -> None:
    """Refuse iterations that do not divide into minibatches, and a warm-up."""
    for name in ("rollout_steps", "epochs", "batch_size"):
        if getattr(agent, name) < 1:
            raise UserError(f"agent.{name} = {getattr(agent, name)} must be at least 1.")
    samples, named = grid_of(agent, num_envs)
    if samples % agent.batch_size:
        fitting = [size for size in range(1, samples + 1) if samples % size == 0]
        nearest = min(fitting, key=lambda size: abs(size - agent.batch_size))
        raise UserError(
            f"agent.batch_size = {agent.batch_size} does not divide the {samples} samples of an iteration ({named}): "
            f"the nearest valid value is {nearest}."
        )
    if warm_up:
        raise UserError(
            f"warm_up = {warm_up}: agent '{agent.name}' learns from its own rollouts alone; set warm_up = 0."
        )
