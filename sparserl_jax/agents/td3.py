"""TD3 (Fujimoto et al. 2018) on delayed multi-step targets (RLx2, sections 4.2.1 and Algorithm 1).

Actions live in [-1, 1]; noise scales are relative to that range. Twin critics are one stacked network and count as two
tensors per layer everywhere. Actor and targets move after every `policy_delay` critic updates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.agents.agent import Agent, Clock, Range
from sparserl_jax.agents.diagnose import dormant_shares
from sparserl_jax.agents.noise import scaled_normal
from sparserl_jax.agents.optimise import (
    Loss,
    Network,
    Trainer,
    adam,
    adopt_network,
    effective,
    init_network,
    masked_grad_norm,
    polyak,
    step_network,
)
from sparserl_jax.agents.targets import discounts, n_step_return
from sparserl_jax.networks import MLP, Actor, TwinCritic, actor_layers, twin_critic_layers
from sparserl_jax.sparsity.contract import Events, Evidence, Params, Sparsifier

CRITIC_DRAWS, ACTOR_DRAWS = range(2)


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

    Noise scales and the clip are relative to the action range [-1, 1]. TRACED: what may differ between members of one
    Program, with the values that make sense.
    """

    TRACED: ClassVar[Mapping[str, Range]] = {
        "learning_rate": Range(0.0, above=True),
        "gamma": Range(0.0, 1.0, above=True),
        "tau": Range(0.0, 1.0, above=True),
        "exploration_noise": Range(0.0),
        "target_noise": Range(0.0),
        "target_noise_clip": Range(0.0),
    }

    name: str = "td3"
    hidden: tuple[int, ...] = (256, 256)
    batch_size: int = 256
    learning_rate: float = 3e-4
    gamma: float = 0.99
    tau: float = 0.005
    policy_delay: int = 2
    exploration_noise: float = 0.1
    target_noise: float = 0.2
    target_noise_clip: float = 0.5

    def traced(self) -> Traced:
        """The traced numbers, as NumPy arrays."""
        scalars = {name: np.float32(getattr(self, name)) for name in Traced._fields if name != "discounts"}
        return Traced(discounts=discounts(self.gamma), **scalars)


class TD3State(NamedTuple):
    """One member: two networks, their targets as (params, extra), the key data of the initial draw, its numbers."""

    actor: Network
    critic: Network
    target_actor: tuple[Params, Any]
    target_critic: tuple[Params, Any]
    init_key: jax.Array
    traced: Traced


def make(
    config: TD3Config,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """TD3 for observations of length `obs_dim` and actions of length `action_dim`.

    `sparsifiers` and `events` have one entry per network, `actor` and `critic`. The settings given to `init` are
    `{"actor": ..., "critic": ..., "dense_targets": bool, "traced": Traced}`: each network's method settings, whether
    targets are copied before sparsification (they then stay dense until the first target update), and the member's own
    numbers, where they are not those of `config`.
    """
    actor, critic = Actor(config.hidden, action_dim), TwinCritic(config.hidden)
    layers = {
        "actor": actor_layers(actor, obs_dim),
        "critic": twin_critic_layers(critic, obs_dim, action_dim),
    }
    trainers = {name: Trainer(sparsifiers[name], adam(), layers[name], events[name]) for name in layers}

    def policy(params: Params, obs: jax.Array) -> jax.Array:
        return jnp.asarray(actor.apply({"params": params}, obs))

    def values(params: Params, obs: jax.Array, action: jax.Array) -> jax.Array:
        return jnp.asarray(critic.apply({"params": params}, obs, action))

    def fresh(key: jax.Array) -> dict[str, Params]:
        obs, action = jnp.zeros(obs_dim), jnp.zeros(action_dim)
        actor_key, critic_key = jax.random.split(key)
        return {
            "actor": actor.init(actor_key, obs)["params"],
            "critic": critic.init(critic_key, obs, action)["params"],
        }

    def init(key: jax.Array, settings: dict[str, Any]) -> TD3State:
        draw_key, actor_key, critic_key = jax.random.split(key, 3)
        dense = fresh(draw_key)
        networks = {
            name: init_network(trainers[name], mask_key, dense[name], settings[name])
            for name, mask_key in (("actor", actor_key), ("critic", critic_key))
        }

        def target(name: str) -> tuple[Params, Any]:
            online = networks[name]
            params = jax.tree.map(
                lambda before, after: jnp.where(settings["dense_targets"], before, after),
                dense[name],
                online.params,
            )
            return params, online.extra

        return TD3State(
            networks["actor"],
            networks["critic"],
            target("actor"),
            target("critic"),
            jax.random.key_data(draw_key),
            jax.tree.map(jnp.asarray, settings.get("traced", config.traced())),
        )

    def begin(state: TD3State, given: dict[str, tuple[Params, Params]]) -> TD3State:
        """Trained networks in place of fresh ones; their targets are copies of them."""
        taken = {
            name: adopt_network(trainers[name], networks(state)[name], *jax.tree.map(jnp.asarray, pair))
            for name, pair in given.items()
        }
        changed: dict[str, Any] = dict(taken)
        changed |= {f"target_{name}": (network.params, network.extra) for name, network in taken.items()}
        return state._replace(**changed)

    def deployed(state: TD3State) -> tuple[Params, Params, str]:
        return sparsifiers["actor"].deployed(state.actor.params, state.actor.extra, state.actor.sparsity)

    def act(state: TD3State, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, jax.Array]:
        gate_key, noise_key = jax.random.split(key)
        mean = policy(effective(trainers["actor"], state.actor, "act", gate_key), obs)
        if not explore:
            return mean, mean
        noise = scaled_normal(noise_key, mean.shape, state.traced.exploration_noise)
        return jnp.clip(mean + noise, -1.0, 1.0), mean

    def target_values(state: TD3State, batch: Any, key: jax.Array) -> jax.Array:
        """y = R + b gamma^(j+1) min(Q1', Q2')(s_boot, pi'(s_boot) + clipped noise); `[batch]`."""
        noise_key, actor_key, critic_key = jax.random.split(key, 3)
        actor_target = Network(*state.target_actor, None, state.actor.sparsity)
        critic_target = Network(*state.target_critic, None, state.critic.sparsity)
        mean = policy(effective(trainers["actor"], actor_target, "target", actor_key), batch.closing_obs)
        noise = scaled_normal(noise_key, mean.shape, state.traced.target_noise)
        noise = jnp.clip(noise, -state.traced.target_noise_clip, state.traced.target_noise_clip)
        action = jnp.clip(mean + noise, -1.0, 1.0)
        twin = values(
            effective(trainers["critic"], critic_target, "target", critic_key), batch.closing_obs, action
        )
        reward, discount = n_step_return(batch, state.traced.discounts)
        return reward + discount * jnp.min(twin, axis=0)

    def critic_loss(state: TD3State, batch: Any, key: jax.Array) -> Loss:
        """Mean squared error of both critics to the common target; beside it their mean value."""
        target = jax.lax.stop_gradient(target_values(state, batch, key))
        weight = batch.valid.astype(jnp.float32)

        def loss(params: Params) -> tuple[jax.Array, jax.Array]:
            twin = values(params, batch.obs, batch.action)
            return jnp.sum(jnp.mean(weight * (twin - target) ** 2, axis=-1)), jnp.mean(twin)

        return loss

    def first_value(critic_params: Params, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Q1 alone; `[...]`."""
        first = jax.tree.map(lambda x: x[0], critic_params["mlp"])
        inputs = jnp.concatenate([obs, action], axis=-1)
        return jnp.asarray(single.apply({"params": first}, inputs))[..., 0]

    def actor_loss(state: TD3State, batch: Any, key: jax.Array) -> Loss:
        """Mean of -Q1(s, pi(s))."""
        critic_params = effective(trainers["critic"], state.critic, "learn", key)
        weight = batch.valid.astype(jnp.float32)

        def loss(params: Params) -> tuple[jax.Array, None]:
            return -jnp.mean(weight * first_value(critic_params, batch.obs, policy(params, batch.obs))), None

        return loss

    def hidden_units(name: str, params: Params, batch: Any) -> dict[str, jax.Array]:
        module, inputs = (actor, (batch.obs,)) if name == "actor" else (critic, (batch.obs, batch.action))
        _, sown = module.apply({"params": params}, *inputs, mutable=["intermediates"])
        units = sown["intermediates"]["mlp"]
        return {layer.name: units[f"{layer.name}_units"][0] for layer in layers[name] if not layer.output}

    def seen_by(name: str, state: TD3State, evidence: Evidence, batch: Any, key: jax.Array) -> Evidence:
        def activations() -> dict[str, jax.Array]:
            return hidden_units(name, effective(trainers[name], networks(state)[name], "learn", key), batch)

        def init_params() -> Params:
            return fresh(jax.random.wrap_key_data(state.init_key))[name]

        return evidence._replace(activations=activations, init_params=init_params)

    def update(
        state: TD3State, batch: Any, key: jax.Array, clock: Clock, evidence: Evidence
    ) -> tuple[TD3State, dict[str, jax.Array]]:
        """One critic tick."""
        target_key, step_key, look_key = jax.random.split(jax.random.fold_in(key, CRITIC_DRAWS), 3)
        trained, info = step_network(
            trainers["critic"],
            state.critic,
            critic_loss(state, batch, target_key),
            tick=clock.update + 1,
            clock=clock,
            key=step_key,
            evidence=seen_by("critic", state, evidence, batch, look_key),
            learning_rate=state.traced.learning_rate,
        )
        state = reset_targets(state._replace(critic=trained), info.effects.reset_targets)
        metrics = {"critic_loss": info.loss, "q": info.aux, "critic_grad_norm": info.grad_norm}
        return state, with_effects(metrics, info, "critic")

    def delayed(
        state: TD3State, batch: Any, key: jax.Array, clock: Clock, evidence: Evidence
    ) -> tuple[TD3State, dict[str, jax.Array]]:
        """One actor tick on -Q1, then Polyak averaging of both targets under the current masks."""
        step_key, gate_key, look_key = jax.random.split(jax.random.fold_in(key, ACTOR_DRAWS), 3)
        trained, info = step_network(
            trainers["actor"],
            state.actor,
            actor_loss(state, batch, gate_key),
            tick=clock.update // config.policy_delay,
            clock=clock,
            key=step_key,
            evidence=seen_by("actor", state, evidence, batch, look_key),
            learning_rate=state.traced.learning_rate,
        )
        state, tau = state._replace(actor=trained), state.traced.tau
        state = state._replace(
            target_actor=polyak(trainers["actor"], state.actor, state.target_actor, tau),
            target_critic=polyak(trainers["critic"], state.critic, state.target_critic, tau),
        )
        state = reset_targets(state, info.effects.reset_targets)
        metrics = {"actor_loss": info.loss, "actor_grad_norm": info.grad_norm}
        return state, with_effects(metrics, info, "actor")

    def reset_targets(state: TD3State, flag: jax.Array) -> TD3State:
        """Targets copied from the online networks where a method asks for it."""
        if not any("targets" in sparsifier.declares.resets for sparsifier in sparsifiers.values()):
            return state

        def copied(target: tuple[Params, Any], network: Network) -> tuple[Params, Any]:
            online = (network.params, network.extra)
            return jax.tree.map(lambda new, old: jnp.where(flag, new, old), online, target)

        return state._replace(
            target_actor=copied(state.target_actor, state.actor),
            target_critic=copied(state.target_critic, state.critic),
        )

    def with_effects(metrics: dict[str, Any], info: Any, name: str) -> dict[str, Any]:
        metrics["events"] = {name: info.effects.happened}
        if any("replay" in sparsifier.declares.resets for sparsifier in sparsifiers.values()):
            metrics["reset_replay"] = info.effects.reset_replay
        return metrics

    def networks(state: TD3State) -> dict[str, Network]:
        return {"actor": state.actor, "critic": state.critic}

    def masks(state: TD3State) -> dict[str, Params]:
        return {
            name: sparsifiers[name].deployed(network.params, network.extra, network.sparsity)[1]
            for name, network in networks(state).items()
        }

    def gamma(state: TD3State) -> jax.Array:
        return state.traced.discounts[..., 1]

    def value(state: TD3State, obs: jax.Array) -> jax.Array:
        params, _, _ = deployed(state)
        critic_params, _, _ = sparsifiers["critic"].deployed(
            state.critic.params, state.critic.extra, state.critic.sparsity
        )
        return first_value(critic_params, obs, policy(params, obs))

    def diagnose(state: TD3State, batch: Any, key: jax.Array, clock: Clock) -> dict[str, jax.Array]:
        """Dormant shares of the networks as deployed, and what this batch's losses would do to masked weights."""
        losses = {"actor": actor_loss, "critic": critic_loss}
        seen = {}
        for (name, network), own in zip(networks(state).items(), jax.random.split(key), strict=True):
            loss_key, gate_key = jax.random.split(own)
            loss = losses[name](state, batch, loss_key)
            seen[f"{name}_masked_grad_norm"] = masked_grad_norm(
                trainers[name], network, loss, clock=clock, key=gate_key
            )
            params, live, _ = sparsifiers[name].deployed(network.params, network.extra, network.sparsity)
            shares = dormant_shares(layers[name], live, hidden_units(name, params, batch))
            seen |= {f"dormant_{name}_{layer}": share for layer, share in shares.items()}
        return seen

    def ticks(updates: int) -> dict[str, int]:
        return {"critic": updates, "actor": updates // config.policy_delay}

    single = MLP(config.hidden, 1)
    return Agent(
        "td3",
        "replay",
        config.policy_delay,
        layers,
        init,
        act,
        policy,
        deployed,
        update,
        delayed,
        ticks,
        networks,
        masks,
        gamma,
        value,
        diagnose,
        begin,
    )
