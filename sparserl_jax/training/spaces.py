"""Whether what a run would train fits the spaces and goals of its environment, asked before anything is compiled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sparserl_jax.agents.registry import AGENTS, trained_by
from sparserl_jax.envs import EnvSpec
from sparserl_jax.errors import UserError
from sparserl_jax.networks import cnn
from sparserl_jax.training.config import Run


def check_observations(agent: Any, image: tuple[int, ...] | None, where: str) -> None:
    """Refuse a configuration whose network reads images where there are none; `where` names the environment."""
    if agent.network == "cnn":
        cnn.check(image, where)


def check_spaces(runs: Iterable[Run], spec: EnvSpec) -> None:
    """Refuse runs whose algorithm, or a part of whose recipe, is not defined for the environment's kind of actions, and
    hindsight where there are no goals."""
    for run in runs:
        name = run.training.agent.name
        if spec.actions not in trained_by(name).actions:
            fitting = [f"'{other}'" for other, known in AGENTS.items() if spec.actions in known.actions]
            mend = f"take {' or '.join(fitting)}, or another environment" if fitting else "take another one"
            raise UserError(
                f"agent '{name}' does not choose {spec.actions} actions, which environment '{spec.name}' has: {mend}."
            )
        if spec.actions == "discrete" and run.recipe.buffer == "dynamic":
            raise UserError(
                f"recipe '{run.recipe.name}' has a dynamic buffer, and the distance of policies that it goes by is "
                f"defined for real actions only, not for the discrete ones of environment '{spec.name}': take one of "
                "fixed buffer, such as 'rigl' (on an arm of a suite: set = { buffer = \"fixed\" })."
            )
        if run.training.hindsight and spec.goal is None:
            raise UserError(
                f"agent '{name}' is to learn from hindsight replay, but environment '{spec.name}' does not say where "
                'goals lie in its observations: set replay = "plain", or give its EnvSpec a goal.'
            )
