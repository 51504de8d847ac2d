"""SAC (Haarnoja et al. 2018; learned temperature: 2018b) on delayed multi-step targets (RLx2, section 4.2.1).

Actions live in [-1, 1] and follow a tanh-squashed normal; entropies are in units of that range (see
`distributions/tanh_normal.py`). There is no target actor: the actions of the targets are fresh ones of the current
actor. Actor, temperature and critic targets move after every `policy_delay` critic updates (1 as published).

Two soft multi-step targets, which are one and the same for n = 1 (`targets.entropy_discounts` has the coefficients):

    path        y = R + sum_k b_k gamma^(k+1) (-alpha log pi(a~_k | s'_k)) + b gamma^(j+1) min Q'(s'_j, a~_j)
    bootstrap   y = R + b gamma^(j+1) (min Q'(s'_j, a~_j) - alpha log pi(a~_j | s'_j))

with R the discounted rewards of the window, s'_k the state after its row k, j its last row, a~_k a fresh action of the
current actor in s'_k, and b, b_k zero where the window has terminated. `path` is the target of RLx2's released code:
the soft n-step return, its entropy terms sampled anew along the stored path. `bootstrap` puts the soft value where the
paper's equation has the bootstrap value, and leaves the rewards as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparserl_jax.agents.actor_critic import ACTOR_DRAWS, ActorCritic, Modules
from sparserl_jax.agents.agent import LATER, Agent, Clock, Range, check_network
from sparserl_jax.agents.optimise import Loss, Network, adam
from sparserl_jax.agents.policies import Policy
from sparserl_jax.agents.targets import discounts, entropy_discounts, n_step_return
from sparserl_jax.distributions import TanhNormal, bounded_log_std
from sparserl_jax.errors import suggest
from sparserl_jax.networks import GaussianActor, TwinCritic
from sparserl_jax.sparsity.contract import Events, Evidence, Params, Sparsifier

EXPLORE = ("sample", "mean")
ENTROPY = ("path", "bootstrap")


class Traced(NamedTuple):
    """Numbers of SAC that no shape depends on: members of one Program may differ in them.

    learning_rate, tau: f32. discounts: gamma^k for k = 0 to 100, f32[101]. path: bool, the entropy of multi-step
    targets is that of the whole path.
    """

    learning_rate: Any
    tau: Any
    discounts: Any
    path: Any


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """Hyper-parameters of SAC; defaults are those of RLx2's experiments, but for `explore`.

    network, hidden: as in `TD3Config`. learning_rate: of actor, critics and temperature. explore: how training acts:
    `sample` draws from the policy, `mean` takes its deterministic action, as RLx2's released code does. entropy: where
    it enters multi-step targets, `path` or `bootstrap` (see the module); None follows the recipe's source: `path` for
    `released`, and for `paper`, whose text leaves it open, `bootstrap`.

    TRACED, SCHEDULE, NETWORKS, BODIES and experience as in `TD3Config`.
    """

    TRACED: ClassVar[Mapping[str, Range]] = {
        "learning_rate": Range(0.0, above=True),
        "gamma": Range(0.0, 1.0, above=True),
        "tau": Range(0.0, 1.0, above=True),
    }
    SCHEDULE: ClassVar[Mapping[str, int]] = {"buffer_max": 3_000_000, "buffer_min": 200_000}
    NETWORKS: ClassVar[tuple[str, ...]] = ("actor", "critic")
    experience: ClassVar[str] = "replay"
    BODIES: ClassVar[tuple[str, ...]] = ("mlp", "simba")

    name: str = "sac"
    hidden: tuple[int, ...] = (256, 256)
    network: str = dataclasses.field(default="mlp", metadata=LATER)
    batch_size: int = 256
    learning_rate: float = 3e-4
    gamma: float = 0.99
    tau: float = 0.005
    policy_delay: int = 1
    explore: Literal["sample", "mean"] = "sample"
    entropy: Literal["path", "bootstrap"] | None = None

    def __post_init__(self) -> None:
        check_network(self)
        if self.explore not in EXPLORE:
            raise suggest(str(self.explore), list(EXPLORE), "explore of agent 'sac'")
        if self.entropy is not None and self.entropy not in ENTROPY:
            raise suggest(str(self.entropy), list(ENTROPY), "entropy of agent 'sac'")

    def _path(self, source: str) -> bool:
        return (self.entropy or {"released": "path", "paper": "bootstrap"}[source]) == "path"

    def traced(self, source: str = "released") -> Traced:
        """The traced numbers for a recipe of this `source`, as NumPy arrays."""
        rate, tau = np.float32(self.learning_rate), np.float32(self.tau)
        return Traced(rate, tau, discounts(self.gamma), np.bool_(self._path(source)))

    def target_actions(self, n: int, source: str = "released") -> int:
        """Actor passes for the target of one window of n steps."""
        return n if self._path(source) else 1


class SACState(NamedTuple):
    """One member: two networks, the critic's target as (params, extra), the logarithm of the temperature with its
    optimiser slots, the key data of the initial draw, its numbers."""

    actor: Network
    critic: Network
    target_critic: tuple[Params, Any]
    log_temperature: jax.Array
    temperature_slots: Any
    init_key: jax.Array
    traced: Traced


def policy_of(actor: GaussianActor, params: Params, obs: jax.Array) -> TanhNormal:
    """pi(. | s), over `[..., action]`."""
    outputs: Any = actor.apply({"params": params}, obs)
    mean, spread = outputs
    return TanhNormal(mean, bounded_log_std(spread))


def law(config: SACConfig, action_dim: int) -> Policy:
    """What deployed weights of a training draw from."""
    actor = modules(config.hidden, action_dim, config.network).actor
    return Policy(actor, "squashed", lambda mean, spread: TanhNormal(mean, bounded_log_std(spread)))


def modules(
    hidden: tuple[int, ...], action_dim: int, network: str = "mlp", image: tuple[int, ...] | None = None
) -> Modules:
    """The networks of SAC and its deterministic policy, tanh of the mean."""
    actor = GaussianActor(hidden, action_dim, "orthogonal", network)

    def policy(params: Params, obs: jax.Array) -> jax.Array:
        return policy_of(actor, params, obs).mode

    return Modules(actor, TwinCritic(hidden, "orthogonal", network), policy)


def make(
    config: SACConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """SAC for observations of length `obs_dim` and actions of length `action_dim`.

    Arguments and the settings given to `init` as of `td3.make`. The temperature starts at 1; its target entropy is
    minus the number of action dimensions. It is no network: it has no sparsity, and it moves at every actor tick, also
    where an event replaces the actor's optimiser step.
    """
    parts = modules(config.hidden, action_dim, config.network)
    common = ActorCritic(parts, obs_dim, action_dim, sparsifiers, events, targets=("critic",))
    policy, temperature_optimizer = parts.policy, optax.with_extra_args_support(adam())

    def distribution(params: Params, obs: jax.Array) -> TanhNormal:
        return policy_of(parts.actor, params, obs)

    def init(key: jax.Array, settings: dict[str, Any]) -> SACState:
        traced = jax.tree.map(jnp.asarray, settings.get("traced", config.traced()))
        start = jnp.zeros((), jnp.float32)
        return SACState(
            **common.init(key, settings),
            log_temperature=start,
            temperature_slots=temperature_optimizer.init(start),
            traced=traced,
        )

    def act(state: SACState, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, jax.Array]:
        gate_key, noise_key = jax.random.split(key)
        drawn_from = distribution(common.online("actor", state, "act", gate_key), obs)
        mean = drawn_from.mode
        if not explore or config.explore == "mean":
            return mean, mean
        return drawn_from.sample(noise_key)[0], mean

    def target_values(state: SACState, batch: Any, key: jax.Array) -> jax.Array:
        """The soft target y of the module's head, `[batch]`."""
        draw_key, actor_key, critic_key = jax.random.split(key, 3)
        reward, discount = n_step_return(batch, state.traced.discounts)
        if batch.successors is None:  # without the states inside the window only the last one can count
            seen, counts, last = batch.closing_obs[:, None], discount[:, None], jnp.zeros_like(batch.used)
        else:
            counts = entropy_discounts(batch, state.traced.discounts, state.traced.path)
            seen, last = batch.successors, batch.used - 1
        drawn, log_density = distribution(common.online("actor", state, "target", actor_key), seen).sample(
            draw_key
        )
        action = jnp.take_along_axis(drawn, last[:, None, None], axis=1)[:, 0]
        twin = common.values(common.target("critic", state, critic_key), batch.closing_obs, action)
        entropy = -jnp.exp(state.log_temperature) * jnp.sum(counts * log_density, axis=1)
        return reward + entropy + discount * jnp.min(twin, axis=0)

    def critic_loss(state: SACState, batch: Any, key: jax.Array) -> Loss:
        """Mean squared error of both critics to the common target; beside it their mean value."""
        return common.squared_error(batch, target_values(state, batch, key))

    def actor_loss(state: SACState, batch: Any, key: jax.Array) -> Loss:
        """Mean of alpha log pi(a | s) - min(Q1, Q2)(s, a), a ~ pi(. | s); beside it that of log pi(a | s)."""
        gate_key, draw_key = jax.random.split(key)
        critic_params = common.online("critic", state, "learn", gate_key)
        temperature, weight = jnp.exp(state.log_temperature), batch.valid.astype(jnp.float32)

        def loss(params: Params) -> tuple[jax.Array, jax.Array]:
            action, log_density = distribution(params, batch.obs).sample(draw_key)
            worst = jnp.min(common.values(critic_params, batch.obs, action), axis=0)
            return jnp.mean(weight * (temperature * log_density - worst)), jnp.mean(weight * log_density)

        return loss

    def warmed(state: SACState, log_density: jax.Array, weight: jax.Array) -> SACState:
        """One Adam step on J(alpha) = -alpha (mean log pi + target entropy), taken by log alpha (2018b, eq. 18)."""
        excess = log_density - action_dim * weight  # the target entropy is -action_dim
        gradient = jax.grad(lambda log_alpha: -jnp.exp(log_alpha) * excess)(state.log_temperature)
        step, slots = temperature_optimizer.update(
            gradient, state.temperature_slots, learning_rate=state.traced.learning_rate
        )
        return state._replace(log_temperature=state.log_temperature + step, temperature_slots=slots)

    def delayed(
        state: SACState, batch: Any, key: jax.Array, clock: Clock, evidence: Evidence
    ) -> tuple[SACState, dict[str, jax.Array]]:
        """One actor tick, one step of the temperature on the same actions, and Polyak averaging of the critic's target
        under the current mask."""
        step_key, loss_key, look_key = jax.random.split(jax.random.fold_in(key, ACTOR_DRAWS), 3)
        loss, keys = actor_loss(state, batch, loss_key), (step_key, look_key)
        tick = clock.update // config.policy_delay
        state, info = common.step(
            "actor", state, loss, batch, tick=tick, clock=clock, keys=keys, evidence=evidence
        )
        state = warmed(state, info.aux, jnp.mean(batch.valid.astype(jnp.float32)))
        state = common.reset_targets(common.averaged(state), info.effects.reset_targets)
        return state, common.told("actor", info)

    def diagnose(state: SACState, batch: Any, key: jax.Array, clock: Clock) -> dict[str, jax.Array]:
        """As of TD3, and the temperature and the policy's entropy on this batch."""
        common_key, draw_key = jax.random.split(key)
        losses = {"actor": actor_loss, "critic": critic_loss}
        params, _, _ = common.deployed(state)
        _, log_density = distribution(params, batch.obs).sample(draw_key)
        return {
            "temperature": jnp.exp(state.log_temperature),
            "policy_entropy": -jnp.mean(log_density),
            **common.diagnose(state, losses, batch, common_key, clock),
        }

    return common.agent(
        name="sac",
        delay=config.policy_delay,
        init=init,
        act=act,
        policy=policy,
        critic_loss=critic_loss,
        delayed=delayed,
        diagnose=diagnose,
        successors=config.entropy != "bootstrap",
        sample_policy=lambda params, obs, key: distribution(params, obs).sample(key)[0],
    )
