"""TD3 (Fujimoto et al. 2018) on delayed multi-step targets (RLx2, sections 4.2.1 and Algorithm 1).

Actions live in [-1, 1]; noise scales are relative to that range. Twin critics are one stacked network and count as two
tensors per layer everywhere. Actor and targets move after every `policy_delay` critic updates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.agents.actor_critic import ACTOR_DRAWS, ActorCritic, Modules
from sparserl_jax.agents.agent import LATER, Agent, Clock, Range, check_network
from sparserl_jax.agents.noise import scaled_normal
from sparserl_jax.agents.optimise import Loss, Network
from sparserl_jax.agents.targets import discounts, n_step_return
from sparserl_jax.networks import Actor, TwinCritic
from sparserl_jax.sparsity.contract import Events, Evidence, Params, Sparsifier


class Traced(NamedTuple):
    """Numbers of TD3 that no shape depends on, f32: members of one Program may differ in them.

    Scalars, but for discounts: gamma^k for k = 0 to 100, `[101]`.
    """

    learning_rate: Any
    tau: Any
    discounts: Any
    exploration_noise: Any
    target_noise: Any
    target_noise_clip: Any


@dataclasses.dataclass(frozen=True)
class TD3Config:
    """Hyper-parameters of TD3; defaults are those of RLx2's experiments.

    network: `mlp` or `simba`, of actor and critics; see `sparserl_jax/networks`. hidden: widths of hidden layers, or of
    residual blocks. Noise scales and the clip are relative to the action range [-1, 1]. TRACED: what may differ between
    members of one Program, with the values that make sense. SCHEDULE: where its published schedule is not that of
    `Schedule`. NETWORKS: what is trained. BODIES: networks to choose from; critics also read actions, so there is none
    for images. experience: what it learns from, see `Agent`.
    """

    TRACED: ClassVar[Mapping[str, Range]] = {
        "learning_rate": Range(0.0, above=True),
        "gamma": Range(0.0, 1.0, above=True),
        "tau": Range(0.0, 1.0, above=True),
        "exploration_noise": Range(0.0),
        "target_noise": Range(0.0),
        "target_noise_clip": Range(0.0),
    }
    SCHEDULE: ClassVar[Mapping[str, int]] = {}
    NETWORKS: ClassVar[tuple[str, ...]] = ("actor", "critic")
    experience: ClassVar[str] = "replay"
    BODIES: ClassVar[tuple[str, ...]] = ("mlp", "simba")

    name: str = "td3"
    hidden: tuple[int, ...] = (256, 256)
    network: str = dataclasses.field(default="mlp", metadata=LATER)
    batch_size: int = 256
    learning_rate: float = 3e-4
    gamma: float = 0.99
    tau: float = 0.005
    policy_delay: int = 2
    exploration_noise: float = 0.1
    target_noise: float = 0.2
    target_noise_clip: float = 0.5

    def __post_init__(self) -> None:
        check_network(self)

    def traced(self, source: str = "released") -> Traced:
        """The traced numbers, as NumPy arrays; the same for a recipe of either `source`."""
        scalars = {name: np.float32(getattr(self, name)) for name in Traced._fields if name != "discounts"}
        return Traced(discounts=discounts(self.gamma), **scalars)

    def target_actions(self, n: int, source: str = "released") -> int:
        """Actor passes for the target of one window of n steps."""
        return 1


class TD3State(NamedTuple):
    """One member: two networks, their targets as (params, extra), the key data of the initial draw, its numbers."""

    actor: Network
    critic: Network
    target_actor: tuple[Params, Any]
    target_critic: tuple[Params, Any]
    init_key: jax.Array
    traced: Traced


def modules(
    hidden: tuple[int, ...], action_dim: int, network: str = "mlp", image: tuple[int, ...] | None = None
) -> Modules:
    """The networks of TD3 and its policy; none of them reads an `image`."""
    actor = Actor(hidden, action_dim, kind=network)

    def policy(params: Params, obs: jax.Array) -> jax.Array:
        return jnp.asarray(actor.apply({"params": params}, obs))

    return Modules(actor, TwinCritic(hidden, kind=network), policy)


def objective(traced: Any, value: jax.Array, action: jax.Array, batch: Any) -> jax.Array:
    """What the actor is trained on: the mean of -Q1(s, pi(s)) over the valid entries of a batch.

    value: Q1(s, pi(s)) [batch]. action: pi(s) [batch, action].
    """
    return -jnp.mean(batch.valid.astype(jnp.float32) * value)


def make(
    config: Any,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
    objective: Callable[[Any, jax.Array, jax.Array, Any], jax.Array] = objective,
) -> Agent:
    """TD3 for observations of length `obs_dim` and actions of length `action_dim`.

    `sparsifiers` and `events` have one entry per network, `actor` and `critic`. The settings given to `init` are
    `{"actor": ..., "critic": ..., "dense_targets": bool, "traced": Traced}`: each network's method settings, whether
    targets are copied before sparsification (they then stay dense until the first target update), and the member's own
    numbers, where they are not those of `config`. `objective`: what the actor is trained on, where that is another one.
    """
    parts = modules(config.hidden, action_dim, config.network)
    common = ActorCritic(parts, obs_dim, action_dim, sparsifiers, events, targets=("actor", "critic"))
    policy = parts.policy

    def init(key: jax.Array, settings: dict[str, Any]) -> TD3State:
        traced = jax.tree.map(jnp.asarray, settings.get("traced", config.traced()))
        return TD3State(**common.init(key, settings), traced=traced)

    def act(state: TD3State, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, jax.Array]:
        gate_key, noise_key = jax.random.split(key)
        mean = policy(common.online("actor", state, "act", gate_key), obs)
        if not explore or config.experience == "dataset":
            return mean, mean
        noise = scaled_normal(noise_key, mean.shape, state.traced.exploration_noise)
        return jnp.clip(mean + noise, -1.0, 1.0), mean

    def target_values(state: TD3State, batch: Any, key: jax.Array) -> jax.Array:
        """y = R + b gamma^(j+1) min(Q1', Q2')(s_boot, pi'(s_boot) + clipped noise); `[batch]`."""
        noise_key, actor_key, critic_key = jax.random.split(key, 3)
        mean = policy(common.target("actor", state, actor_key), batch.closing_obs)
        noise = scaled_normal(noise_key, mean.shape, state.traced.target_noise)
        noise = jnp.clip(noise, -state.traced.target_noise_clip, state.traced.target_noise_clip)
        action = jnp.clip(mean + noise, -1.0, 1.0)
        twin = common.values(common.target("critic", state, critic_key), batch.closing_obs, action)
        reward, discount = n_step_return(batch, state.traced.discounts)
        return reward + discount * jnp.min(twin, axis=0)

    def critic_loss(state: TD3State, batch: Any, key: jax.Array) -> Loss:
        """Mean squared error of both critics to the common target; beside it their mean value."""
        return common.squared_error(batch, target_values(state, batch, key))

    def actor_loss(state: TD3State, batch: Any, key: jax.Array) -> Loss:
        """The objective of Q1(s, pi(s))."""
        critic_params = common.online("critic", state, "learn", key)

        def loss(params: Params) -> tuple[jax.Array, None]:
            action = policy(params, batch.obs)
            value = common.first_value(critic_params, batch.obs, action)
            return objective(state.traced, value, action, batch), None

        return loss

    def delayed(
        state: TD3State, batch: Any, key: jax.Array, clock: Clock, evidence: Evidence
    ) -> tuple[TD3State, dict[str, jax.Array]]:
        """One actor tick, then Polyak averaging of both targets under the current masks."""
        step_key, gate_key, look_key = jax.random.split(jax.random.fold_in(key, ACTOR_DRAWS), 3)
        loss, keys = actor_loss(state, batch, gate_key), (step_key, look_key)
        tick = clock.update // config.policy_delay
        state, info = common.step(
            "actor", state, loss, batch, tick=tick, clock=clock, keys=keys, evidence=evidence
        )
        state = common.reset_targets(common.averaged(state), info.effects.reset_targets)
        return state, common.told("actor", info)

    def diagnose(state: TD3State, batch: Any, key: jax.Array, clock: Clock) -> dict[str, jax.Array]:
        """Dormant shares of the networks as deployed, and what this batch's losses would do to masked weights."""
        return common.diagnose(state, {"actor": actor_loss, "critic": critic_loss}, batch, key, clock)

    return common.agent(
        name=config.name,
        experience=config.experience,
        delay=config.policy_delay,
        init=init,
        act=act,
        policy=policy,
        critic_loss=critic_loss,
        delayed=delayed,
        diagnose=diagnose,
    )
