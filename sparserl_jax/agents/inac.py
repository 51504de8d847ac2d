"""InAC, in-sample actor-critic (Xiao et al. 2023): the soft maximum over actions that the data hold.

    L_b  = mean - log pi_b(a | s)
    L_V  = mean (V(s) - (min Q'(s, b) - temperature log pi(b | s)))^2, b ~ pi(. | s)
    L_Q  = mean (r + (1 - d) gamma (min Q'(s', a') - temperature log pi(a' | s')) - Q(s, a))^2, a' ~ pi(. | s')
    L_pi = mean - clip(exp(A / temperature - log pi_b(a | s)), 1e-8, 1e4) log pi(a | s),   A = min Q(s, a) - V(s)

pi_b is the behaviour policy that made the data, cloned along the way by a network of its own: dividing by it makes
the weighted clones follow exp(Q / temperature) on the support of the data, instead of what the data did often. These
are the losses of the authors' code, but for constant factors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from sparserl_jax.agents import in_sample
from sparserl_jax.agents.actor_critic import Modules
from sparserl_jax.agents.agent import Agent, Range
from sparserl_jax.agents.in_sample import WEIGHTS, InSample, InSampleConfig
from sparserl_jax.agents.optimise import Loss, Network
from sparserl_jax.sparsity.contract import Events, Params, Sparsifier


class Traced(NamedTuple):
    """Numbers of InAC that no shape depends on, f32 scalars, but for discounts: gamma^k for k = 0 to 100, `[101]`."""

    learning_rate: Any
    tau: Any
    discounts: Any
    temperature: Any


@dataclasses.dataclass(frozen=True)
class InACConfig(InSampleConfig):
    """Hyper-parameters of InAC, as in `InSampleConfig`; published temperatures are 0.5, 0.33, 0.1 and 0.01, one for
    each dataset."""

    TRACED: ClassVar[Mapping[str, Range]] = {
        **InSampleConfig.TRACED,
        "temperature": Range(0.0, above=True),
    }
    NUMBERS: ClassVar[Callable[..., Any]] = Traced
    NETWORKS: ClassVar[tuple[str, ...]] = ("actor", "critic", "value", "behaviour")

    name: str = "inac"
    temperature: float = 0.33


class State(NamedTuple):
    """One member, as `in_sample.State`, and the behaviour policy."""

    actor: Network
    critic: Network
    value: Network
    behaviour: Network
    target_critic: tuple[Params, Any]
    init_key: jax.Array
    traced: Traced


def modules(
    hidden: tuple[int, ...],
    action_dim: int,
    network: str = "mlp",
    image: tuple[int, ...] | None = None,
    policy: str = "squashed",
) -> Modules:
    """The networks of InAC and the policy's mode."""
    return in_sample.modules(hidden, action_dim, network, image, policy, beside=("value", "behaviour"))


def make(
    config: InACConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """InAC for observations of length `obs_dim` and actions of length `action_dim`; arguments and settings as of
    `td3.make`, with a third network, `value`, and a fourth, `behaviour`."""
    common = InSample(config, obs_dim, action_dim, sparsifiers, events)

    def soft_value(state: State, obs: jax.Array, key: jax.Array) -> jax.Array:
        """min Q'(s, b) - temperature log pi(b | s) of an action drawn in every s, `[batch]`."""
        value, log_density = common.drawn(state, obs, key)
        return value - state.traced.temperature * log_density

    def behaviour_loss(state: State, batch: Any, key: jax.Array) -> Loss:
        """L_b."""
        return common.likelihood(batch, 1.0)

    def value_loss(state: State, batch: Any, key: jax.Array) -> Loss:
        """L_V."""
        return common.value_error(batch, soft_value(state, batch.obs, key))

    def critic_loss(state: State, batch: Any, key: jax.Array) -> Loss:
        """L_Q."""
        return common.bellman(state, batch, soft_value(state, batch.closing_obs, key))

    def actor_loss(state: State, batch: Any, key: jax.Array) -> Loss:
        """L_pi."""
        advantage_key, behaviour_key = jax.random.split(key)
        behaviour = common.distribution(common.online("behaviour", state, "target", behaviour_key), batch.obs)
        exponent = common.advantage(state, batch, advantage_key) / state.traced.temperature
        weight = jnp.exp(exponent - behaviour.log_density(batch.action))
        return common.likelihood(batch, jnp.clip(weight, *WEIGHTS))

    losses = {
        "behaviour": behaviour_loss,
        "value": value_loss,
        "critic": critic_loss,
        "actor": actor_loss,
    }
    return common.learner(losses, State)
