"""PPO (Schulman et al. 2017): the clipped surrogate, K epochs of minibatches on each rollout of the policy's own.

    r(theta)  = pi_theta(a | s) / pi_old(a | s)
    L_actor   = - mean min(r A, clip(r, 1 - eps, 1 + eps) A) - c H(pi_theta)         (equation 7, and the entropy bonus)
    L_critic  = mean (V(s) - R)^2,   R = A + V_old(s)

with A the generalised advantages of the rollout (`advantages.py`), normalised in every minibatch for the actor alone.

Actor and critic are separate networks and each has an optimiser of its own (so no coefficient weighs the value loss),
one tick per minibatch. Of discrete actions the policy draws one with the probabilities softmax(actor(s)). Of actions in
[-1, 1] it is N(actor(s), sigma^2); the environment gets them clipped, what is learned from is the action as drawn and
its density. log sigma does not depend on the state. It is no network: it has no sparsity, is no part of the deployed
policy, and moves at every tick, also where an event replaces the actor's optimiser step. The deployed policy takes the
mean, or the likeliest action.

Where others differ. cleanrl's continuous PPO: tanh units, gain sqrt(2) in hidden layers and 0.01 in the actor's last,
one optimiser and one gradient norm for both networks, a clipped value loss, observations and rewards normalised by
running moments; log sigma does not depend on the state there, either, and starts at 0, too. Brax: a tanh-squashed
normal whose sigma comes out of the network, observations normalised, rewards scaled by a constant. Here: ReLU, gain 1,
no clipped value loss, and nothing is normalised but the advantages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparserl_jax.agents.actor_critic import ACTOR_DRAWS, CRITIC_DRAWS, ActorCritic, Modules, hidden_units
from sparserl_jax.agents.advantages import generalised_advantages, normalised
from sparserl_jax.agents.agent import (
    LATER,
    Agent,
    Clock,
    Minibatch,
    OnPolicy,
    Range,
    Rollout,
    check_network,
)
from sparserl_jax.agents.optimise import Loss, Network, adam
from sparserl_jax.distributions import Categorical, Normal
from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable
from sparserl_jax.networks import KINDS, LinearActor, Value, actor_layers, value_layers
from sparserl_jax.sparsity.contract import Events, Evidence, Params, Sparsifier

EPSILON = 1e-5
"""Adam's (cleanrl, and OpenAI's code of the paper)."""


class Traced(NamedTuple):
    """Numbers of PPO that no shape depends on, f32 scalars: members of one Program may differ in them."""

    learning_rate: Any
    gamma: Any
    gae_lambda: Any
    clip: Any
    entropy: Any


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Hyper-parameters of PPO.

    network: `mlp`, `cnn` (for images) or `simba`, of actor and critic; see `sparserl_jax/networks`. hidden: widths of
    its dense layers, or of residual blocks. rollout_steps: T, steps of each parallel environment per iteration. epochs:
    K, passes over what an iteration has collected, in minibatches of `batch_size` samples, shuffled anew for each.
    clip: eps. entropy: c. anneal: whether the learning rate falls linearly to 0 at the end of training.
    largest_gradient: norm that the gradient of either network is scaled down to where it is larger. log_std: logarithm
    of sigma at the start, in units of [-1, 1].

    TRACED, SCHEDULE, NETWORKS, BODIES and experience as in `TD3Config`. policy_delay: both networks move at every
    update.
    """

    TRACED: ClassVar[Mapping[str, Range]] = {
        "learning_rate": Range(0.0, above=True),
        "gamma": Range(0.0, 1.0, above=True),
        "gae_lambda": Range(0.0, 1.0),
        "clip": Range(0.0, above=True),
        "entropy": Range(0.0),
    }
    SCHEDULE: ClassVar[Mapping[str, int]] = {}
    NETWORKS: ClassVar[tuple[str, ...]] = ("actor", "critic")
    experience: ClassVar[str] = "rollout"
    BODIES: ClassVar[tuple[str, ...]] = tuple(KINDS)
    policy_delay: ClassVar[int] = 1

    name: str = "ppo"
    hidden: tuple[int, ...] = (64, 64)
    network: str = dataclasses.field(default="mlp", metadata=LATER)
    rollout_steps: int = 128
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.0
    anneal: bool = True
    largest_gradient: float = 0.5
    log_std: float = 0.0

    def __post_init__(self) -> None:
        check_network(self)
        if not self.largest_gradient > 0.0:
            raise UserError(f"agent.largest_gradient = {self.largest_gradient} must be above 0.")
        if self.batch_size == 1:
            raise UserError(
                "agent.batch_size = 1: advantages are normalised over a minibatch, which makes a single one 0; give "
                "2 or more."
            )

    def traced(self, source: str = "released") -> Traced:
        """The traced numbers, as NumPy arrays; the same for a recipe of either `source`."""
        return Traced(*(np.float32(getattr(self, name)) for name in Traced._fields))

    def target_actions(self, n: int, source: str = "released") -> int:
        """Actor passes for a target: none."""
        return 0


class PPOState(NamedTuple):
    """One member: two networks, log sigma f32[action] with its optimiser slots (`()` both where actions are discrete),
    the key data of the initial draw, its numbers."""

    actor: Network
    critic: Network
    log_std: Any
    log_std_slots: Any
    init_key: jax.Array
    traced: Traced


class Samples(NamedTuple):
    """What one iteration has collected, or a minibatch of it, [samples, ...].

    obs; action as drawn and its log_density when it was drawn; advantage, not normalised; target of the value.
    """

    obs: jax.Array
    action: jax.Array
    log_density: jax.Array
    advantage: jax.Array
    target: jax.Array


class _Modules(Modules):
    """A critic of states alone."""

    def layers(self, obs_dim: int, action_dim: int) -> dict[str, LayerTable]:
        return {"actor": actor_layers(self.actor, obs_dim), "critic": value_layers(self.critic, obs_dim)}

    def fresh(self, key: jax.Array, obs_dim: int, action_dim: int) -> dict[str, Params]:
        obs = jnp.zeros(obs_dim)
        actor_key, critic_key = jax.random.split(key)
        return {
            "actor": self.actor.init(actor_key, obs)["params"],
            "critic": self.critic.init(critic_key, obs)["params"],
        }


class _ActorCritic(ActorCritic):
    """An actor and a critic of states alone, without targets."""

    def state_value(self, params: Params, obs: jax.Array) -> jax.Array:
        """V(s), [...]."""
        return jnp.asarray(self.modules.critic.apply({"params": params}, obs))

    def value(self, state: Any, obs: jax.Array) -> jax.Array:
        params, _, _ = self.sparsifiers["critic"].deployed(
            state.critic.params, state.critic.extra, state.critic.sparsity
        )
        return self.state_value(params, obs)

    def hidden_units(self, name: str, params: Params, batch: Any) -> dict[str, jax.Array]:
        return hidden_units(getattr(self.modules, name), self.layers[name], params, batch.obs)


def modules(
    hidden: tuple[int, ...], action_dim: int, network: str = "mlp", image: tuple[int, ...] | None = None
) -> Modules:
    """The networks of PPO, and its deterministic policy as `envs.as_taken` reads it: the mean, not yet clipped, or a
    number for each choice, of which the largest is meant."""
    actor = LinearActor(hidden, action_dim, kind=network, image=image)

    def policy(params: Params, obs: jax.Array) -> jax.Array:
        return jnp.asarray(actor.apply({"params": params}, obs))

    return _Modules(actor, Value(hidden, kind=network, image=image), policy)


Policy = Normal | Categorical


def surrogate(policy: Policy, samples: Samples, clip: jax.Array, entropy: jax.Array) -> jax.Array:
    """L_actor of the module's head on a minibatch, f32[]."""
    ratio = jnp.exp(policy.log_density(samples.action) - samples.log_density)
    advantage = normalised(samples.advantage)
    gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)
    return -jnp.mean(gain) - entropy * jnp.mean(policy.entropy)


def make(
    config: PPOConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
    actions: str = "continuous",
    image: tuple[int, ...] | None = None,
) -> Agent:
    """PPO for observations of length `obs_dim` (flat images, where `image` is their shape) and `actions` of length
    `action_dim`, see `EnvSpec.actions`.

    Other arguments and the settings given to `init` as of `td3.make`; there are no targets that `dense_targets` could
    be about. Training ends where events do: there an annealed learning rate is 0.
    """
    parts = modules(config.hidden, action_dim, config.network, image)
    end = max(1, events["critic"].end)
    clipped_adam = adam(EPSILON, config.largest_gradient)
    common = _ActorCritic(parts, obs_dim, action_dim, sparsifiers, events, (), clipped_adam)
    sigma_optimizer = optax.with_extra_args_support(adam(EPSILON))

    def policy_of(outputs: jax.Array, log_std: Any) -> Policy:
        return Categorical(outputs) if actions == "discrete" else Normal(outputs, log_std)

    def distribution(params: Params, state: PPOState, obs: jax.Array) -> Policy:
        return policy_of(parts.policy(params, obs), state.log_std)

    def init(key: jax.Array, settings: dict[str, Any]) -> PPOState:
        traced = jax.tree.map(jnp.asarray, settings.get("traced", config.traced()))
        start = () if actions == "discrete" else jnp.full(action_dim, config.log_std, jnp.float32)
        slots = () if actions == "discrete" else sigma_optimizer.init(start)
        return PPOState(**common.init(key, settings), log_std=start, log_std_slots=slots, traced=traced)

    # ---- acting ----------------------------------------------------------------------------------------------------

    def behave(
        state: PPOState, obs: jax.Array, gates: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        params = common.online("actor", state, "learn", jax.random.fold_in(gates, ACTOR_DRAWS))
        drawn_from = distribution(params, state, obs)
        action = drawn_from.sample(key)
        return action, drawn_from.log_density(action)

    def act(state: PPOState, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, jax.Array]:
        gate_key, noise_key = jax.random.split(key)
        outputs = parts.policy(common.online("actor", state, "act", gate_key), obs)
        action = policy_of(outputs, state.log_std).sample(noise_key) if explore else outputs
        return action, outputs

    def samples(state: PPOState, rollout: Rollout, gates: jax.Array) -> Samples:
        params = common.online("critic", state, "learn", jax.random.fold_in(gates, CRITIC_DRAWS))
        value, following = (common.state_value(params, obs) for obs in (rollout.obs, rollout.final_obs))
        advantage = generalised_advantages(
            rollout.reward,
            value,
            following,
            rollout.terminated,
            rollout.truncated,
            state.traced.gamma,
            state.traced.gae_lambda,
        )
        made = Samples(rollout.obs, rollout.action, rollout.log_density, advantage, advantage + value)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), made)

    # ---- learning --------------------------------------------------------------------------------------------------

    def actor_loss(state: PPOState, batch: Samples, key: jax.Array) -> Loss:
        """L_actor; beside it what the actor puts out."""

        def loss(params: Params) -> tuple[jax.Array, jax.Array]:
            outputs = parts.policy(params, batch.obs)
            policy = policy_of(outputs, state.log_std)
            return surrogate(policy, batch, state.traced.clip, state.traced.entropy), outputs

        return loss

    def critic_loss(state: PPOState, batch: Samples, key: jax.Array) -> Loss:
        """L_critic; beside it the mean value."""

        def loss(params: Params) -> tuple[jax.Array, jax.Array]:
            value = common.state_value(params, batch.obs)
            return jnp.mean((value - batch.target) ** 2), jnp.mean(value)

        return loss

    def spread(state: PPOState, mean: jax.Array, batch: Samples, rate: jax.Array) -> PPOState:
        """One Adam step of log sigma, where there is one, on L_actor, at the means of this tick."""
        if actions == "discrete":
            return state
        gradient = jax.grad(
            lambda log_std: surrogate(Normal(mean, log_std), batch, state.traced.clip, state.traced.entropy)
        )(state.log_std)
        step, slots = sigma_optimizer.update(gradient, state.log_std_slots, learning_rate=rate)
        return state._replace(log_std=state.log_std + step, log_std_slots=slots)

    def update(
        state: PPOState, batch: Minibatch, key: jax.Array, clock: Clock, evidence: Evidence
    ) -> tuple[PPOState, dict[str, Any]]:
        """One tick of both networks and one step of log sigma, all on one minibatch."""
        left = 1.0 - clock.update / end if config.anneal else 1.0
        rate = state.traced.learning_rate * left
        metrics: dict[str, Any] = {}
        for name, draws, of in (("actor", ACTOR_DRAWS, actor_loss), ("critic", CRITIC_DRAWS, critic_loss)):
            step_key, look_key = jax.random.split(jax.random.fold_in(key, draws))
            before = state
            state, info = common.step(
                name,
                state,
                of(state, batch.samples, look_key),
                batch.samples,
                tick=clock.update + 1,
                clock=clock,
                keys=(step_key, look_key),
                evidence=evidence,
                left=left if config.anneal else None,
                gates=jax.random.fold_in(batch.gates, draws),
            )
            if name == "actor":
                state = spread(state, info.aux, batch.samples, rate)
                more = moved(before, info.aux, batch.samples)
            else:
                more = {"q": info.aux}
            told = common.told(name, info, **more)
            metrics |= {**told, "events": {**metrics.get("events", {}), **told["events"]}}
        return state, metrics

    def moved(state: PPOState, outputs: jax.Array, batch: Samples) -> dict[str, jax.Array]:
        """How far the policy is from the one that acted: the KL divergence, estimated by mean (r - 1 - log r)
        (Schulman 2020, "Approximating KL divergence"), and the share of ratios beyond the clip."""
        log_ratio = policy_of(outputs, state.log_std).log_density(batch.action) - batch.log_density
        ratio = jnp.exp(log_ratio)
        beyond = jnp.abs(ratio - 1.0) > state.traced.clip
        return {
            "policy_kl": jnp.mean(ratio - 1.0 - log_ratio),
            "clipped": jnp.mean(beyond.astype(jnp.float32)),
        }

    def diagnose(state: PPOState, batch: Minibatch, key: jax.Array, clock: Clock) -> dict[str, jax.Array]:
        """As of TD3, and the policy's entropy."""
        losses = {"actor": actor_loss, "critic": critic_loss}
        params, _, _ = common.deployed(state)
        draws = {"actor": ACTOR_DRAWS, "critic": CRITIC_DRAWS}
        gates = {name: jax.random.fold_in(batch.gates, own) for name, own in draws.items()}
        return {
            "policy_entropy": jnp.mean(distribution(params, state, batch.samples.obs).entropy),
            **common.diagnose(state, losses, batch.samples, key, clock, gates),
        }

    return Agent(
        name="ppo",
        experience=config.experience,
        delay=config.policy_delay,
        layers=common.layers,
        init=init,
        act=act,
        policy=parts.policy,
        deployed=common.deployed,
        update=update,
        delayed=lambda state, batch, key, clock, evidence: (state, {}),
        ticks=lambda updates: {"actor": updates, "critic": updates},
        networks=common.networks,
        masks=common.masks,
        weights=common.weights,
        gamma=lambda state: state.traced.gamma,
        value=common.value,
        diagnose=diagnose,
        begin=common.begin,
        under=common.under,
        on_policy=OnPolicy(behave, samples),
    )
