"""Two direct ways to train a policy of bounded support on a dataset (Zhu et al. 2025 hold FtTPO against them).

Values are TAWAC's (`tawac.py`), whose weight of an action is w = clip([1 + (q - 1) A / temperature]_+^(1/(q - 1)),
1e-8, 1e4). The policy is thin, a product of q-Gaussians with q = 0, so that a logged action a outside its support has
no likelihood:

    tawac_nearest   L_pi = mean -w(s, a) log pi(a^ | s)       a^ is a where pi can draw it, and otherwise the nearest of
                                                              100 draws of pi; A = min Q(s, a) - V(s)
    tawac_reverse   L_pi = mean log pi(b | s) - log pi_b(b | s) - log w(s, b)       b ~ pi(. | s), where w > 0
                    L_b  = mean -log pi_b(a | s)                                    A = min Q(s, b) - V(s)

The first replaces actions at random (RAR). The second is KL(pi || pi_b w / Z), with pi_b a clone of the behaviour, on
draws of pi alone: nothing is asked about logged actions. Its gradient goes through b, into Q and pi_b as well; the code
released with FtTPO holds critics, value and clone, which leaves a thin policy's mean without any. Draws
whose weight is 0 are left out of its mean, for there is no direction in them: what the divergence would forbid, here
pushes nowhere. Near the edge of w the slope of -log w is large.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from sparserl_jax.agents.agent import Agent
from sparserl_jax.agents.in_sample import WEIGHTS, InSample, mean, tsallis
from sparserl_jax.agents.inac import State
from sparserl_jax.agents.optimise import Loss
from sparserl_jax.agents.policies import policy_of
from sparserl_jax.agents.tawac import TAWACConfig, evaluated
from sparserl_jax.sparsity.contract import Events, Params, Sparsifier

DRAWS = 100
"""From which the nearest replaces a logged action."""


@dataclasses.dataclass(frozen=True)
class NearestConfig(TAWACConfig):
    """Hyper-parameters of `tawac_nearest`, as of TAWAC."""

    POLICIES: ClassVar[tuple[str, ...]] = ("thin",)

    name: str = "tawac_nearest"
    policy: str = "thin"

    def refusal(self) -> str:
        """As of `InSampleConfig.refusal`."""
        return " is about policies of bounded support: give policy = \"thin\", or take the agent 'tawac'."


@dataclasses.dataclass(frozen=True)
class ReverseConfig(NearestConfig):
    """Hyper-parameters of `tawac_reverse`, as of TAWAC. The clone of the behaviour is a normal, whose deviation has a
    floor: a squashed one collapses where logged actions lie on the edge of the box, and its slope is in the loss."""

    NETWORKS: ClassVar[tuple[str, ...]] = ("actor", "critic", "value", "behaviour")

    name: str = "tawac_reverse"


def replaced(policy: Any, action: jax.Array, key: jax.Array) -> jax.Array:
    """Actions [batch, action] with a density: each as it is, or the nearest of DRAWS of the distributions `policy`."""
    keys = jax.random.split(key, DRAWS)
    draws = jax.lax.stop_gradient(jax.vmap(policy.sample)(keys))  # [DRAWS, batch, action]
    nearest = jnp.argmin(jnp.sum((draws - action) ** 2, axis=-1), axis=0)
    chosen = jnp.take_along_axis(draws, nearest[None, :, None], axis=0)[0]
    return jnp.where(jnp.isfinite(policy.log_density(action))[:, None], action, chosen)


def make_nearest(
    config: NearestConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """TAWAC for a thin policy, actions replaced; arguments and settings as of `tawac.make`."""
    common = InSample(config, obs_dim, action_dim, sparsifiers, events)

    def actor_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        value_key, draw_key = jax.random.split(key)
        advantage = common.advantage(state, batch, value_key)
        weight = tsallis(advantage, state.traced.temperature, 2.0 - config.q)

        def loss(params: Params) -> tuple[jax.Array, None]:
            policy = common.distribution(params, batch.obs)
            action = jax.lax.stop_gradient(replaced(policy, batch.action, draw_key))
            return -mean(batch, weight * policy.log_density(action)), None

        return loss

    return common.learner({**evaluated(common), "actor": actor_loss})


def make_reverse(
    config: ReverseConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """TAWAC for a thin policy, by reverse KL; arguments and settings as of `tawac.make`, with a fourth network,
    `behaviour`."""
    common = InSample(config, obs_dim, action_dim, sparsifiers, events)
    clone = policy_of("normal", config.hidden, action_dim, config.network)

    def behaviour_loss(state: State, batch: Any, key: jax.Array) -> Loss:
        """L_b."""
        return common.likelihood(batch, 1.0, clone)

    def actor_loss(state: State, batch: Any, key: jax.Array) -> Loss:
        """L_pi."""
        draw_key, critic_key, value_key, behaviour_key = jax.random.split(key, 4)
        critic = common.online("critic", state, "learn", critic_key)
        baseline = common.baseline(state, batch.obs, value_key)
        behaviour = clone.distribution(common.online("behaviour", state, "target", behaviour_key), batch.obs)

        def loss(params: Params) -> tuple[jax.Array, None]:
            action, log_density = common.distribution(params, batch.obs).sample_with_density(draw_key)
            advantage = common.worst(critic, batch.obs, action) - baseline
            weight = tsallis(advantage, state.traced.temperature, 2.0 - config.q)
            counted = (weight > WEIGHTS[0]).astype(jnp.float32)
            share = jnp.maximum(mean(batch, counted), 1.0 / len(counted))
            each = log_density - behaviour.log_density(action) - jnp.log(weight)
            return mean(batch, counted * each) / share, None

        return loss

    return common.learner({"behaviour": behaviour_loss, **evaluated(common), "actor": actor_loss}, State)
