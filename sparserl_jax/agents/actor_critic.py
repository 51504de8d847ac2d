"""What algorithms with one actor and twin critics have in common: networks, masked targets, diagnostics.

PPO, which has a state value in the place of the twins and no targets, overrides what concerns them.

The state of such an algorithm is a NamedTuple with `actor`, `critic` and whatever else it trains (Network),
`target_<name>` as (params, extra) for every network that has a target, `init_key` (key data of the initial draw) and
`traced` (the member's own numbers, among them `learning_rate` and `discounts`). Twin critics are one stacked network
and count as two tensors per layer everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from sparserl_jax.agents.agent import Agent, Clock
from sparserl_jax.agents.diagnose import dormant_shares, of_method
from sparserl_jax.agents.optimise import (
    Loss,
    Network,
    StepInfo,
    Trainer,
    adam,
    adopt_network,
    copied,
    effective,
    init_network,
    left_of,
    masked_grad_norm,
    polyak,
    step_network,
)
from sparserl_jax.layers import LayerTable, leaf
from sparserl_jax.networks import actor_layers, critic_layers, one_critic
from sparserl_jax.sparsity.contract import Events, Evidence, Mode, Params, Sparsifier

CRITIC_DRAWS, ACTOR_DRAWS = range(2)
"""What the key of an update is folded with for the draws of either tick."""


class Modules(NamedTuple):
    """The networks of an algorithm, and its deterministic policy.

    policy(params, obs [..., obs]) -> action [..., action] in [-1, 1].
    beside: further networks by name, which read observations alone, such as a state value.
    """

    actor: Any
    critic: Any
    policy: Callable[[Params, jax.Array], jax.Array]
    beside: Mapping[str, Any] = MappingProxyType({})

    def module(self, name: str) -> Any:
        """A network by name."""
        return self.beside[name] if name in self.beside else getattr(self, name)

    def layers(self, obs_dim: int, action_dim: int) -> dict[str, LayerTable]:
        """LayerTables by network."""
        return {
            "actor": actor_layers(self.actor, obs_dim),
            "critic": critic_layers(self.critic, obs_dim, action_dim),
            **{name: actor_layers(module, obs_dim) for name, module in self.beside.items()},
        }

    def fresh(self, key: jax.Array, obs_dim: int, action_dim: int) -> dict[str, Params]:
        """Parameters by network, dense, as first drawn."""
        obs, action = jnp.zeros(obs_dim), jnp.zeros(action_dim)
        actor_key, critic_key, *keys = jax.random.split(key, 2 + len(self.beside))
        return {
            "actor": self.actor.init(actor_key, obs)["params"],
            "critic": self.critic.init(critic_key, obs, action)["params"],
            **{
                name: module.init(own, obs)["params"]
                for own, (name, module) in zip(keys, self.beside.items(), strict=True)
            },
        }


def hidden_units(
    module: nn.Module, layers: LayerTable, params: Params, *inputs: jax.Array
) -> dict[str, jax.Array]:
    """Hidden activations of a network by layer, sown beside it as `<name>_units`."""
    _, sown = module.apply({"params": params}, *inputs, mutable=["intermediates"])
    units = {
        layer.name: leaf(sown["intermediates"], (*layer.kernel[:-2], f"{layer.name}_units"))
        for layer in layers.hidden
    }
    return {name: found[0] for name, found in units.items()}


class ActorCritic:
    """Actor, twin critics and what is trained beside them under their sparsity methods; static. `targets`: the networks
    that have a target."""

    def __init__(
        self,
        modules: Modules,
        obs_dim: int,
        action_dim: int,
        sparsifiers: dict[str, Sparsifier],
        events: dict[str, Events],
        targets: tuple[str, ...],
        optimizer: optax.GradientTransformation | None = None,
    ) -> None:
        optimizer = adam() if optimizer is None else optimizer
        self.modules, self.targets, self.sparsifiers = modules, targets, sparsifiers
        self.obs_dim, self.action_dim = obs_dim, action_dim
        self.layers = modules.layers(obs_dim, action_dim)
        self.trainers = {
            name: Trainer(sparsifiers[name], optimizer, self.layers[name], events[name])
            for name in self.layers
        }

    # ---- state -----------------------------------------------------------------------------------------------------

    def init(self, key: jax.Array, settings: dict[str, Any]) -> dict[str, Any]:
        """Fields of a fresh state, `traced` left out.

        Settings: each network's method settings under its name, and `dense_targets`: whether targets are copied before
        sparsification (they then stay dense until the first target update).
        """
        draw_key, *mask_keys = jax.random.split(key, 1 + len(self.layers))
        dense = self._fresh(draw_key)
        networks = {
            name: init_network(self.trainers[name], mask_key, dense[name], settings[name])
            for name, mask_key in zip(self.layers, mask_keys, strict=True)
        }

        def target(name: str) -> tuple[Params, Any]:
            online = networks[name]
            params = jax.tree.map(
                lambda before, after: jnp.where(settings["dense_targets"], before, after),
                dense[name],
                online.params,
            )
            return params, online.extra

        targets = {f"target_{name}": target(name) for name in self.targets}
        return {**networks, **targets, "init_key": jax.random.key_data(draw_key)}

    def _fresh(self, key: jax.Array) -> dict[str, Params]:
        return self.modules.fresh(key, self.obs_dim, self.action_dim)

    def begin(self, state: Any, given: dict[str, tuple[Params, Params]]) -> Any:
        """Trained networks in place of fresh ones; their targets are copies of them."""
        taken = {
            name: adopt_network(
                self.trainers[name], self.networks(state)[name], *jax.tree.map(jnp.asarray, pair)
            )
            for name, pair in given.items()
        }
        changed: dict[str, Any] = dict(taken)
        changed |= {
            f"target_{name}": (taken[name].params, taken[name].extra)
            for name in self.targets
            if name in taken
        }
        return state._replace(**changed)

    def under(self, state: Any, masks: dict[str, Params]) -> Any:
        """A state at its start with its initial draw, dense, under given masks; targets are copies of that."""
        fresh = self._fresh(jax.random.wrap_key_data(state.init_key))
        return self.begin(state, {name: (fresh[name], masks[name]) for name in masks})

    def networks(self, state: Any) -> dict[str, Network]:
        """Trained networks by name."""
        return {name: getattr(state, name) for name in self.layers}

    def deployed(self, state: Any) -> tuple[Params, Params, str]:
        """The actor as it leaves the building."""
        return self.sparsifiers["actor"].deployed(state.actor.params, state.actor.extra, state.actor.sparsity)

    def masks(self, state: Any) -> dict[str, Params]:
        """Masks by network."""
        return {
            name: self.sparsifiers[name].deployed(network.params, network.extra, network.sparsity)[1]
            for name, network in self.networks(state).items()
        }

    def weights(self, state: Any) -> dict[str, Params]:
        """What is left of each network, by network."""
        return {name: left_of(self.sparsifiers[name], own) for name, own in self.networks(state).items()}

    def gamma(self, state: Any) -> jax.Array:
        """Discount per step."""
        return state.traced.discounts[..., 1]

    # ---- networks as functions -------------------------------------------------------------------------------------

    def online(self, name: str, state: Any, mode: Mode, key: jax.Array) -> Params:
        """Effective weights of a trained network."""
        return effective(self.trainers[name], self.networks(state)[name], mode, key)

    def target(self, name: str, state: Any, key: jax.Array) -> Params:
        """Effective weights of a target network, under the online network's own state."""
        params, extra = getattr(state, f"target_{name}")
        network = Network(params, extra, None, getattr(state, name).sparsity)
        return effective(self.trainers[name], network, "target", key)

    def values(self, params: Params, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Both critics, [2, ...]."""
        return jnp.asarray(self.modules.critic.apply({"params": params}, obs, action))

    def first_value(self, params: Params, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Q1 alone, [...]."""
        critic = self.modules.critic
        first = jax.tree.map(lambda x: x[0], params[critic.kind])
        inputs = jnp.concatenate([obs, action], axis=-1)
        return jnp.asarray(one_critic(critic).apply({"params": first}, inputs))[..., 0]

    def value(self, state: Any, obs: jax.Array) -> jax.Array:
        """Q1(s, pi(s)) of the networks as deployed, [...]."""
        params, _, _ = self.deployed(state)
        critic_params, _, _ = self.sparsifiers["critic"].deployed(
            state.critic.params, state.critic.extra, state.critic.sparsity
        )
        return self.first_value(critic_params, obs, self.modules.policy(params, obs))

    def hidden_units(self, name: str, params: Params, batch: Any) -> dict[str, jax.Array]:
        """Hidden activations on a batch by layer."""
        inputs = (batch.obs, batch.action) if name == "critic" else (batch.obs,)
        return hidden_units(self.modules.module(name), self.layers[name], params, *inputs)

    # ---- training --------------------------------------------------------------------------------------------------

    def squared_error(self, batch: Any, target: jax.Array) -> Loss:
        """Mean squared error of both critics to the common target [batch], summed; beside it their mean value."""
        target = jax.lax.stop_gradient(target)
        weight = batch.valid.astype(jnp.float32)

        def loss(params: Params) -> tuple[jax.Array, jax.Array]:
            twin = self.values(params, batch.obs, batch.action)
            return jnp.sum(jnp.mean(weight * (twin - target) ** 2, axis=-1)), jnp.mean(twin)

        return loss

    def step(
        self,
        name: str,
        state: Any,
        loss: Loss,
        batch: Any,
        *,
        tick: jax.Array,
        clock: Clock,
        keys: tuple[jax.Array, jax.Array],
        evidence: Evidence,
        left: jax.Array | float | None = None,
        gates: jax.Array | None = None,
    ) -> tuple[Any, StepInfo]:
        """One tick of one network.

        Args:
            keys: for gates and an event of the step, and for what an event may look at.
            Others as of `optimise.step_network`.
        """
        step_key, look_key = keys
        trained, info = step_network(
            self.trainers[name],
            self.networks(state)[name],
            loss,
            tick=tick,
            clock=clock,
            key=step_key,
            evidence=self._seen_by(name, state, evidence, batch, look_key),
            learning_rate=state.traced.learning_rate,
            left=left,
            gates=gates,
        )
        return state._replace(**{name: trained}), info

    def _seen_by(self, name: str, state: Any, evidence: Evidence, batch: Any, key: jax.Array) -> Evidence:
        def activations() -> dict[str, jax.Array]:
            return self.hidden_units(name, self.online(name, state, "learn", key), batch)

        def init_params() -> Params:
            return self._fresh(jax.random.wrap_key_data(state.init_key))[name]

        return evidence._replace(activations=activations, init_params=init_params)

    def averaged(self, state: Any) -> Any:
        """Polyak averaging of all targets under the current masks."""
        return state._replace(
            **{
                f"target_{name}": polyak(
                    self.trainers[name],
                    getattr(state, name),
                    getattr(state, f"target_{name}"),
                    state.traced.tau,
                )
                for name in self.targets
            }
        )

    def reset_targets(self, state: Any, flag: jax.Array) -> Any:
        """Targets copied from the online networks where a method asks for it."""
        if not any("targets" in sparsifier.declares.resets for sparsifier in self.sparsifiers.values()):
            return state

        targets = {name: (getattr(state, name), getattr(state, f"target_{name}")) for name in self.targets}
        return state._replace(**{f"target_{name}": copied(*pair, flag) for name, pair in targets.items()})

    def told(self, name: str, info: StepInfo, **more: jax.Array) -> dict[str, Any]:
        """Metrics of one tick, with the effects of an event among them."""
        metrics: dict[str, Any] = {f"{name}_loss": info.loss, **more, f"{name}_grad_norm": info.grad_norm}
        metrics["events"] = {name: info.effects.happened}
        if any("replay" in sparsifier.declares.resets for sparsifier in self.sparsifiers.values()):
            metrics["reset_replay"] = info.effects.reset_replay
        return metrics

    def diagnose(
        self,
        state: Any,
        losses: Mapping[str, Callable[[Any, Any, jax.Array], Loss]],
        batch: Any,
        key: jax.Array,
        clock: Clock,
        gates: Mapping[str, jax.Array] | None = None,
    ) -> dict[str, jax.Array]:
        """Dormant shares of the networks as deployed, and what this batch's losses would do to masked weights.

        `losses`: (state, batch, key) to the loss, by network. `gates`: keys for gates, where they have to be those of a
        rollout.
        """
        seen, networks = {}, self.networks(state)
        for (name, network), own in zip(networks.items(), jax.random.split(key, len(networks)), strict=True):
            loss_key, gate_key = jax.random.split(own)
            gate_key = gate_key if gates is None else gates[name]
            loss = losses[name](state, batch, loss_key)
            seen[f"{name}_masked_grad_norm"] = masked_grad_norm(
                self.trainers[name], network, loss, clock=clock, key=gate_key
            )
            params, live, _ = self.sparsifiers[name].deployed(network.params, network.extra, network.sparsity)
            shares = dormant_shares(self.layers[name], live, self.hidden_units(name, params, batch))
            seen |= {f"dormant_{name}_{layer}": share for layer, share in shares.items()}
            seen |= of_method(self.sparsifiers[name], name, network)
        return seen

    # ---- the whole -------------------------------------------------------------------------------------------------

    def agent(
        self,
        *,
        name: str,
        delay: int,
        init: Callable[..., Any],
        act: Callable[..., tuple[jax.Array, jax.Array]],
        policy: Callable[..., jax.Array],
        critic_loss: Callable[[Any, Any, jax.Array], Loss],
        delayed: Callable[..., tuple[Any, dict[str, jax.Array]]],
        diagnose: Callable[..., dict[str, jax.Array]],
        successors: bool = False,
        experience: str = "replay",
        sample_policy: Callable[[Any, jax.Array, jax.Array], jax.Array] | None = None,
    ) -> Agent:
        """The algorithm: every update is a critic tick on `critic_loss(state, batch, key)`, every `delay`-th is also
        followed by `delayed`; the rest of the Agent contract is the same for all such algorithms."""

        def update(
            state: Any, batch: Any, key: jax.Array, clock: Clock, evidence: Evidence
        ) -> tuple[Any, dict[str, jax.Array]]:
            target_key, *keys = jax.random.split(jax.random.fold_in(key, CRITIC_DRAWS), 3)
            loss, tick = critic_loss(state, batch, target_key), clock.update + 1
            state, info = self.step(
                "critic", state, loss, batch, tick=tick, clock=clock, keys=tuple(keys), evidence=evidence
            )
            state = self.reset_targets(state, info.effects.reset_targets)
            return state, self.told("critic", info, q=info.aux)

        return Agent(
            name=name,
            experience=experience,
            delay=delay,
            layers=self.layers,
            init=init,
            act=act,
            policy=policy,
            deployed=self.deployed,
            update=update,
            delayed=delayed,
            ticks=lambda updates: {"critic": updates, "actor": updates // delay},
            networks=self.networks,
            masks=self.masks,
            weights=self.weights,
            gamma=self.gamma,
            value=self.value,
            diagnose=diagnose,
            begin=self.begin,
            under=self.under,
            successors=successors,
            sample_policy=sample_policy,
        )
