"""AWAC, advantage weighted actor-critic (Nair et al. 2020): a critic of the policy itself, and a policy that clones
what is better than itself.

    L_Q  = mean (r + (1 - d) gamma min Q'(s', a') - Q(s, a))^2, for both critics, a' ~ pi(. | s')    (equation 5)
    L_pi = mean - min(exp(A / temperature), 100) log pi(a | s)                                       (equation 13)
    A    = min Q(s, a) - min Q(s, b), b ~ pi(. | s)

with their lambda for the temperature; the clip, which the paper has not, keeps single weights from overflowing. The
authors' code and the one released with FtTPO put the softmax of A / temperature over the batch, times its size, in the
place of the weights: the same but for a factor of the batch, which a step of Adam feels little of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax

from sparserl_jax.agents import in_sample
from sparserl_jax.agents.actor_critic import Modules
from sparserl_jax.agents.agent import Agent, Range
from sparserl_jax.agents.in_sample import InSample, InSampleConfig, exponential
from sparserl_jax.agents.optimise import Loss, Network
from sparserl_jax.sparsity.contract import Events, Params, Sparsifier


class Traced(NamedTuple):
    """Numbers of AWAC that no shape depends on, f32 scalars, but for discounts: gamma^k for k = 0 to 100, `[101]`."""

    learning_rate: Any
    tau: Any
    discounts: Any
    temperature: Any


@dataclasses.dataclass(frozen=True)
class AWACConfig(InSampleConfig):
    """Hyper-parameters of AWAC, as in `InSampleConfig`."""

    TRACED: ClassVar[Mapping[str, Range]] = {
        **InSampleConfig.TRACED,
        "temperature": Range(0.0, above=True),
    }
    NUMBERS: ClassVar[Callable[..., Any]] = Traced
    NETWORKS: ClassVar[tuple[str, ...]] = ("actor", "critic")

    name: str = "awac"
    temperature: float = 1.0


class State(NamedTuple):
    """One member, as `in_sample.State`, without a state value."""

    actor: Network
    critic: Network
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
    """The networks of AWAC and the policy's mode."""
    return in_sample.modules(hidden, action_dim, network, image, policy, beside=())


def make(
    config: AWACConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """AWAC for observations of length `obs_dim` and actions of length `action_dim`; arguments and settings as of
    `td3.make`."""
    common = InSample(config, obs_dim, action_dim, sparsifiers, events)

    def critic_loss(state: State, batch: Any, key: jax.Array) -> Loss:
        """L_Q."""
        following, _ = common.drawn(state, batch.closing_obs, key)
        return common.bellman(state, batch, following)

    def actor_loss(state: State, batch: Any, key: jax.Array) -> Loss:
        """L_pi."""
        draw_key, actor_key, critic_key = jax.random.split(key, 3)
        policy = common.distribution(common.online("actor", state, "learn", actor_key), batch.obs)
        critic_params = common.online("critic", state, "learn", critic_key)
        logged, drawn = (
            common.worst(critic_params, batch.obs, action)
            for action in (batch.action, policy.sample(draw_key))
        )
        return common.likelihood(batch, exponential(logged - drawn, state.traced.temperature))

    return common.learner({"critic": critic_loss, "actor": actor_loss}, State)
