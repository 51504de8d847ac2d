"""SQL, sparse Q-learning (Xu et al. 2023): implicit value regularisation by the chi-square divergence.

    L_V  = mean ([1 + z]_+^2 + V(s) / alpha),   z = (min Q'(s, a) - V(s)) / (2 alpha)
    L_Q  = mean (r + (1 - d) gamma V(s') - Q(s, a))^2, for both critics
    L_pi = mean - min([1 + z]_+, 100) log pi(a | s)

L_V is least where the mean of [1 + z]_+ over the logged actions of a state is 1: the weights are the density ratio of
the best regularised policy to the data, and 0 for actions that are worse than V by more than 2 alpha. So the paper; the
authors' code, and the one released with FtTPO, weigh by min([Q - V]_+, 100) instead, which has no alpha in it and drops
all actions below V.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from sparserl_jax.agents.agent import Agent, Range
from sparserl_jax.agents.in_sample import LARGEST_WEIGHT, InSample, InSampleConfig, mean
from sparserl_jax.agents.optimise import Loss
from sparserl_jax.sparsity.contract import Events, Params, Sparsifier


class Traced(NamedTuple):
    """Numbers of SQL that no shape depends on, f32 scalars, but for discounts: gamma^k for k = 0 to 100, `[101]`."""

    learning_rate: Any
    tau: Any
    discounts: Any
    alpha: Any


@dataclasses.dataclass(frozen=True)
class SQLConfig(InSampleConfig):
    """Hyper-parameters of SQL. alpha: of the regularisation; published with FtTPO: 2 or 5. Others as in
    `InSampleConfig`."""

    TRACED: ClassVar[Mapping[str, Range]] = {**InSampleConfig.TRACED, "alpha": Range(0.0, above=True)}
    NUMBERS: ClassVar[Callable[..., Any]] = Traced

    name: str = "sql"
    alpha: float = 2.0


def ratio(advantage: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """[1 + A / (2 alpha)]_+: how much more often the regularised policy acts so than the data do."""
    return jnp.maximum(1.0 + advantage / (2.0 * alpha), 0.0)


def make(
    config: SQLConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """SQL for observations of length `obs_dim` and actions of length `action_dim`; arguments and settings as of
    `td3.make`, with a third network, `value`."""
    common = InSample(config, obs_dim, action_dim, sparsifiers, events)

    def value_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        """L_V."""
        found, alpha = common.logged(state, batch, key), state.traced.alpha

        def loss(params: Params) -> tuple[jax.Array, None]:
            value = common.state_value(params, batch.obs)
            return mean(batch, ratio(found - value, alpha) ** 2 + value / alpha), None

        return loss

    def actor_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        """L_pi."""
        weight = ratio(common.advantage(state, batch, key, of_targets=True), state.traced.alpha)
        return common.likelihood(batch, jnp.minimum(weight, LARGEST_WEIGHT))

    return common.learner({"value": value_loss, "critic": common.bootstrapped, "actor": actor_loss})
