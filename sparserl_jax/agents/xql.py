"""XQL, extreme Q-learning (Garg et al. 2023): soft values by Gumbel regression.

    L_V  = mean exp(-m) (exp(z) - z - 1),   z = min((min Q'(s, a) - V(s)) / beta, 7),   m = max(max z, -1)
    L_Q  = mean (r + (1 - d) gamma V(s') - Q(s, a))^2, for both critics
    L_pi = mean - min(exp((min Q'(s, a) - V(s)) / temperature), 100) log pi(a | s)

Without clip and factor L_V is least at V(s) = beta log mean exp(Q(s, a) / beta), the soft maximum over the logged
actions. The clip of z, and the factor from the batch's largest z, through which nothing is differentiated, keep the
exponential in bounds, as in the authors' code. That has an error of Huber's kind for the critics (delta 20), with no
equation for it. What the code released with FtTPO calls XQL takes expectiles in the place of L_V, with noise on the
actions, and so is a kind of IQL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from sparserl_jax.agents.agent import Agent, Range
from sparserl_jax.agents.in_sample import InSample, InSampleConfig, exponential, mean
from sparserl_jax.agents.optimise import Loss
from sparserl_jax.sparsity.contract import Events, Params, Sparsifier

LARGEST = 7.0
"""Clip of z."""


class Traced(NamedTuple):
    """Numbers of XQL that no shape depends on, f32 scalars, but for discounts: gamma^k for k = 0 to 100, `[101]`."""

    learning_rate: Any
    tau: Any
    discounts: Any
    beta: Any
    temperature: Any


@dataclasses.dataclass(frozen=True)
class XQLConfig(InSampleConfig):
    """Hyper-parameters of XQL. beta: scale of the Gumbel regression; the paper's policy has it for its temperature,
    too, the authors' code that of IQL, which is the default. Others as in `InSampleConfig`."""

    TRACED: ClassVar[Mapping[str, Range]] = {
        **InSampleConfig.TRACED,
        "beta": Range(0.0, above=True),
        "temperature": Range(0.0, above=True),
    }
    NUMBERS: ClassVar[Callable[..., Any]] = Traced

    name: str = "xql"
    beta: float = 2.0
    temperature: float = 1 / 3


def gumbel(error: jax.Array, beta: jax.Array | float, valid: jax.Array) -> jax.Array:
    """The terms of L_V, `[batch]`, of errors Q - V; `valid` bool: those that count for the largest."""
    z = jnp.minimum(error / beta, LARGEST)
    most = jax.lax.stop_gradient(jnp.max(jnp.where(valid, z, -1.0), initial=-1.0))
    return jnp.exp(z - most) - (z + 1.0) * jnp.exp(-most)


def make(
    config: XQLConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """XQL for observations of length `obs_dim` and actions of length `action_dim`; arguments and settings as of
    `td3.make`, with a third network, `value`."""
    common = InSample(config, obs_dim, action_dim, sparsifiers, events)

    def value_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        """L_V."""
        found = common.logged(state, batch, key)

        def loss(params: Params) -> tuple[jax.Array, None]:
            error = found - common.state_value(params, batch.obs)
            return mean(batch, gumbel(error, state.traced.beta, batch.valid)), None

        return loss

    def actor_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        """L_pi."""
        advantage = common.advantage(state, batch, key, of_targets=True)
        return common.likelihood(batch, exponential(advantage, state.traced.temperature))

    return common.learner({"value": value_loss, "critic": common.bootstrapped, "actor": actor_loss})
