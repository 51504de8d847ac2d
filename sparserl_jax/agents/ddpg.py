"""DDPG (Lillicrap et al. 2016), on request with hindsight experience replay (Andrychowicz et al. 2017).

    y        = clip(R + b gamma^(j+1) Q'(s_j, pi'(s_j)))                     (Algorithm 1; n-step where asked for)
    L_critic = mean (Q(s, a) - y)^2
    L_actor  = - mean Q(s, pi(s)) + c mean pi(s)^2
    targets  <- tau theta + (1 - tau) targets, after every update

with R the discounted rewards of the window, s_j the state behind its last row and b zero where it has terminated. There
is one critic, and both networks learn at every update, from the same batch. Actions live in [-1, 1]; training takes
pi(s) + N(0, sigma^2), clipped, or with a chance of epsilon any action.

A return of rewards between r_min and r_max lies between r_min / (1 - gamma) and r_max / (1 - gamma). Where these are
known targets are clipped to that: for rewards of -1 and 0 to [-1 / (1 - gamma), 0].

Defaults for sigma, epsilon, c, gamma, k, the learning rate and three layers of 256 units are what is remembered of
OpenAI's code of hindsight replay; they were not compared with it. Its targets move by 0.05 after every 40 updates,
here by tau after each; it normalises observations by running moments, which is not done here. Lillicrap et al.
explore by the noise of Ornstein and Uhlenbeck, draw the weights of last layers from +-0.003, where here the law is
that of TD3's networks, and give actions to the critic's second layer, where here they come with the observation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.agents import td3
from sparserl_jax.agents.actor_critic import ACTOR_DRAWS, ActorCritic, Modules
from sparserl_jax.agents.agent import LATER, Agent, Clock, Range, check_network, refuse_idle
from sparserl_jax.agents.noise import scaled_normal
from sparserl_jax.agents.optimise import Loss, Network
from sparserl_jax.agents.targets import discounts, n_step_return
from sparserl_jax.envs import GoalSpec
from sparserl_jax.errors import UserError, suggest
from sparserl_jax.networks import Critic
from sparserl_jax.replay import hindsight
from sparserl_jax.sparsity.contract import Events, Evidence, Params, Sparsifier

REPLAYS = ("plain", "hindsight")
ENDLESS = 1e6
"""Steps that 1 / (1 - gamma) counts as at most, so that bounds of returns stay numbers at gamma = 1."""


class Traced(NamedTuple):
    """Numbers of DDPG that no shape depends on, f32: members of one Program may differ in them.

    Scalars, but for discounts: gamma^k for k = 0 to 100, `[101]`. horizon: 1 / (1 - gamma). relabelled: share of a
    batch that gets another goal, k / (k + 1).
    """

    learning_rate: Any
    tau: Any
    discounts: Any
    horizon: Any
    exploration_noise: Any
    random_actions: Any
    action_l2: Any
    relabelled: Any


@dataclasses.dataclass(frozen=True)
class DDPGConfig:
    """Hyper-parameters of DDPG.

    exploration_noise: sigma, relative to [-1, 1]. random_actions: epsilon. action_l2: c. replay: `plain`, or
    `hindsight`, which needs an environment with goals and takes neither multi-step targets nor a dynamic buffer.
    later_goals: k, goals reached later for one that was wanted. reward_range: least and largest reward, for the clip of
    targets; None: with hindsight those that the environment's goals declare, otherwise no clip.

    network, hidden, TRACED, SCHEDULE, NETWORKS, BODIES and experience as in `TD3Config`. NEEDS: settings that change
    nothing unless another one has this value. policy_delay: both networks move at every update.
    """

    TRACED: ClassVar[Mapping[str, Range]] = {
        "learning_rate": Range(0.0, above=True),
        "gamma": Range(0.0, 1.0, above=True),
        "tau": Range(0.0, 1.0, above=True),
        "exploration_noise": Range(0.0),
        "random_actions": Range(0.0, 1.0),
        "action_l2": Range(0.0),
        "later_goals": Range(0.0),
    }
    NEEDS: ClassVar[Mapping[str, Mapping[str, str]]] = {"later_goals": {"replay": "hindsight"}}
    SCHEDULE: ClassVar[Mapping[str, int]] = {}
    NETWORKS: ClassVar[tuple[str, ...]] = ("actor", "critic")
    BODIES: ClassVar[tuple[str, ...]] = ("mlp", "simba")
    experience: ClassVar[str] = "replay"
    policy_delay: ClassVar[int] = 1

    name: str = "ddpg"
    hidden: tuple[int, ...] = (256, 256, 256)
    network: str = dataclasses.field(default="mlp", metadata=LATER)
    batch_size: int = 256
    learning_rate: float = 1e-3
    gamma: float = 0.98
    tau: float = 0.005
    exploration_noise: float = 0.2
    random_actions: float = 0.3
    action_l2: float = 1.0
    replay: Literal["plain", "hindsight"] = "plain"
    later_goals: float = 4.0
    reward_range: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_network(self)
        if self.replay not in REPLAYS:
            raise suggest(str(self.replay), list(REPLAYS), "replay of agent 'ddpg'")
        if self.later_goals != type(self).later_goals:
            refuse_idle(self, "later_goals", "agent 'ddpg'")
        bounds = self.reward_range
        if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
            raise UserError(
                f"agent.reward_range = {list(bounds)} must be the least and the largest reward; mend it."
            )

    def traced(self, source: str = "released") -> Traced:
        """The traced numbers, as NumPy arrays; the same for a recipe of either `source`."""
        made = {
            "discounts": discounts(self.gamma),
            "horizon": np.float32(1 / max(1 - self.gamma, 1 / ENDLESS)),
            "relabelled": np.float32(hindsight.share(self.later_goals)),
        }
        own = {name: np.float32(getattr(self, name)) for name in Traced._fields if name not in made}
        return Traced(**made, **own)

    def target_actions(self, n: int, source: str = "released") -> int:
        """Actor passes for the target of one window of n steps."""
        return 1


class DDPGState(NamedTuple):
    """One member: two networks, their targets as (params, extra), the key data of the initial draw, its numbers."""

    actor: Network
    critic: Network
    target_actor: tuple[Params, Any]
    target_critic: tuple[Params, Any]
    init_key: jax.Array
    traced: Traced


class _ActorCritic(ActorCritic):
    """An actor and one critic, which stands for both where there are twins elsewhere."""

    def first_value(self, params: Params, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Q, [...]."""
        return jnp.asarray(self.modules.critic.apply({"params": params}, obs, action))

    def values(self, params: Params, obs: jax.Array, action: jax.Array) -> jax.Array:
        """The same as [1, ...]."""
        return self.first_value(params, obs, action)[None]


def modules(
    hidden: tuple[int, ...], action_dim: int, network: str = "mlp", image: tuple[int, ...] | None = None
) -> Modules:
    """The networks of DDPG and its policy: those of TD3, with one critic."""
    return td3.modules(hidden, action_dim, network, image)._replace(critic=Critic(hidden, kind=network))


def make(
    config: DDPGConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
    goal: GoalSpec | None = None,
) -> Agent:
    """DDPG for observations of length `obs_dim` and actions of length `action_dim`.

    Arguments and the settings given to `init` as of `td3.make`; `goal`: the environment's, if it has one.
    """
    parts = modules(config.hidden, action_dim, config.network)
    common = _ActorCritic(parts, obs_dim, action_dim, sparsifiers, events, targets=("actor", "critic"))
    policy, relabels = parts.policy, config.replay == "hindsight"
    declared = goal.reward_range if relabels and goal is not None else None
    rewards = config.reward_range or declared

    def init(key: jax.Array, settings: dict[str, Any]) -> DDPGState:
        traced = jax.tree.map(jnp.asarray, settings.get("traced", config.traced()))
        return DDPGState(**common.init(key, settings), traced=traced)

    def act(state: DDPGState, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, jax.Array]:
        gate_key, noise_key, chance_key, action_key = jax.random.split(key, 4)
        mean = policy(common.online("actor", state, "act", gate_key), obs)
        if not explore:
            return mean, mean
        noisy = jnp.clip(
            mean + scaled_normal(noise_key, mean.shape, state.traced.exploration_noise), -1.0, 1.0
        )
        any_of_them = jax.random.uniform(action_key, mean.shape, minval=-1.0, maxval=1.0)
        random = jax.random.uniform(chance_key, (*mean.shape[:-1], 1)) < state.traced.random_actions
        return jnp.where(random, any_of_them, noisy), mean

    def bounded(state: DDPGState, value: jax.Array) -> jax.Array:
        """Values cut to what returns can be; an episode may also end after its first reward."""
        if rewards is None:
            return value
        low, high = (bound * state.traced.horizon for bound in rewards)
        return jnp.clip(value, jnp.minimum(low, rewards[0]), jnp.maximum(high, rewards[1]))

    def target_values(state: DDPGState, batch: Any, key: jax.Array) -> jax.Array:
        """The target y of the module's head, `[batch]`."""
        actor_key, critic_key = jax.random.split(key)
        action = policy(common.target("actor", state, actor_key), batch.closing_obs)
        following = common.first_value(common.target("critic", state, critic_key), batch.closing_obs, action)
        reward, discount = n_step_return(batch, state.traced.discounts)
        return bounded(state, reward + discount * following)

    def critic_loss(state: DDPGState, batch: Any, key: jax.Array) -> Loss:
        """L_critic; beside it the mean value."""
        return common.squared_error(batch, target_values(state, batch, key))

    def actor_loss(state: DDPGState, batch: Any, key: jax.Array) -> Loss:
        """L_actor."""
        critic_params = common.online("critic", state, "learn", key)
        weight = batch.valid.astype(jnp.float32)

        def loss(params: Params) -> tuple[jax.Array, None]:
            action = policy(params, batch.obs)
            size = jnp.mean(action**2, axis=-1)
            value = common.first_value(critic_params, batch.obs, action)
            return jnp.mean(weight * (state.traced.action_l2 * size - value)), None

        return loss

    def delayed(
        state: DDPGState, batch: Any, key: jax.Array, clock: Clock, evidence: Evidence
    ) -> tuple[DDPGState, dict[str, jax.Array]]:
        """One actor tick, after that of the critic on the same batch, and Polyak averaging of both targets under the
        current masks."""
        step_key, gate_key, look_key = jax.random.split(jax.random.fold_in(key, ACTOR_DRAWS), 3)
        loss, keys = actor_loss(state, batch, gate_key), (step_key, look_key)
        state, info = common.step(
            "actor", state, loss, batch, tick=clock.update, clock=clock, keys=keys, evidence=evidence
        )
        state = common.reset_targets(common.averaged(state), info.effects.reset_targets)
        return state, common.told("actor", info)

    def diagnose(state: DDPGState, batch: Any, key: jax.Array, clock: Clock) -> dict[str, jax.Array]:
        """As of TD3."""
        return common.diagnose(state, {"actor": actor_loss, "critic": critic_loss}, batch, key, clock)

    made = common.agent(
        name="ddpg",
        delay=config.policy_delay,
        init=init,
        act=act,
        policy=policy,
        critic_loss=critic_loss,
        delayed=delayed,
        diagnose=diagnose,
    )
    return made._replace(hindsight=lambda state: state.traced.relabelled) if relabels else made
