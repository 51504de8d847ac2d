"""DQN (Mnih et al. 2015) with double estimation (van Hasselt et al. 2016) on delayed multi-step targets (RLx2, section
4.2.1).

    y = R + b gamma^(j+1) Q'(s_j, argmax_a Q(s_j, a))          double
    y = R + b gamma^(j+1) max_a Q'(s_j, a)                     otherwise

with R the discounted rewards of the window, s_j the state behind its last row, b zero where it has terminated, Q the
trained network and Q' its target. The loss is the mean square of Q(s, a) - y, which goes better with Adam
(Obando-Ceron and Castro 2021), or Huber's, which is the clipped error of Mnih et al.

One network is all there is. It is called `actor`, like whatever acts and is deployed in this suite; its policy is the
choice of largest value, one-hot. Exploration is epsilon-greedy; epsilon falls linearly with the updates, of which there
is one per environment step after the warm-up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparserl_jax.agents.actor_critic import hidden_units
from sparserl_jax.agents.agent import LATER, Agent, Clock, Range, check_network, refuse_idle
from sparserl_jax.agents.diagnose import dormant_shares, of_method
from sparserl_jax.agents.optimise import (
    Loss,
    Network,
    Trainer,
    adam,
    adopt_network,
    effective,
    init_network,
    left_of,
    masked_grad_norm,
    polyak,
    step_network,
)
from sparserl_jax.agents.targets import discounts, n_step_return
from sparserl_jax.errors import UserError, suggest
from sparserl_jax.layers import LayerTable
from sparserl_jax.networks import KINDS, ActionValues, actor_layers
from sparserl_jax.sparsity.contract import Events, Evidence, Params, Sparsifier

TARGETS = ("hard", "polyak")
LOSSES = ("squared", "huber")


class Traced(NamedTuple):
    """Numbers of DQN that no shape depends on, f32: members of one Program may differ in them.

    Scalars, but for discounts: gamma^k for k = 0 to 100, `[101]`.
    """

    learning_rate: Any
    tau: Any
    discounts: Any
    epsilon_start: Any
    epsilon_end: Any
    epsilon_steps: Any


@dataclasses.dataclass(frozen=True)
class DQNConfig:
    """Hyper-parameters of DQN.

    network: `mlp`, `cnn` (for images) or `simba`; see `sparserl_jax/networks`. hidden: widths of its dense layers, or
    of residual blocks. double: the choice in the target is that of the trained network. loss: `squared` or `huber`, of
    the error of values. target: how the target network follows, `hard`: a copy after every `target_period` updates, or
    `polyak`: by `tau` at every update; under the masks of that moment either way. epsilon_start, epsilon_end: chance of
    a random choice, before and after the first `epsilon_steps` updates.

    TRACED: what may differ between members of one Program, with the values that make sense. NEEDS: settings that change
    nothing unless another one has this value. SCHEDULE: where its published schedule is not that of `Schedule`.
    NETWORKS: what is trained. BODIES: networks to choose from. experience: what it learns from, see `Agent`.
    policy_delay: there is nothing to delay.
    """

    TRACED: ClassVar[Mapping[str, Range]] = {
        "learning_rate": Range(0.0, above=True),
        "gamma": Range(0.0, 1.0, above=True),
        "tau": Range(0.0, 1.0, above=True),
        "epsilon_start": Range(0.0, 1.0),
        "epsilon_end": Range(0.0, 1.0),
        "epsilon_steps": Range(1.0, whole=True),
    }
    NEEDS: ClassVar[Mapping[str, Mapping[str, str]]] = {"tau": {"target": "polyak"}}
    SCHEDULE: ClassVar[Mapping[str, int]] = {}
    NETWORKS: ClassVar[tuple[str, ...]] = ("actor",)
    experience: ClassVar[str] = "replay"
    BODIES: ClassVar[tuple[str, ...]] = tuple(KINDS)
    policy_delay: ClassVar[int] = 1

    name: str = "dqn"
    hidden: tuple[int, ...] = (256, 256)
    network: str = dataclasses.field(default="mlp", metadata=LATER)
    batch_size: int = 128
    learning_rate: float = 3e-4
    gamma: float = 0.99
    double: bool = True
    loss: Literal["squared", "huber"] = "squared"
    target: Literal["hard", "polyak"] = "hard"
    target_period: int = 500
    tau: float = 0.005
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_steps: int = 10_000

    def __post_init__(self) -> None:
        check_network(self)
        if self.target not in TARGETS:
            raise suggest(str(self.target), list(TARGETS), "target of agent 'dqn'")
        if self.loss not in LOSSES:
            raise suggest(str(self.loss), list(LOSSES), "loss of agent 'dqn'")
        if self.target_period < 1:
            raise UserError(f"agent.target_period = {self.target_period} must be at least 1.")
        if self.tau != DQNConfig.tau:
            refuse_idle(self, "tau", "agent 'dqn'")

    def traced(self, source: str = "released") -> Traced:
        """The traced numbers, as NumPy arrays; the same for a recipe of either `source`."""
        scalars = {name: np.float32(getattr(self, name)) for name in Traced._fields if name != "discounts"}
        return Traced(discounts=discounts(self.gamma), **scalars)

    def target_actions(self, n: int, source: str = "released") -> int:
        """Forward passes for the target of one window of n steps."""
        return 2 if self.double else 1


class DQNState(NamedTuple):
    """One member: the network, its target as (params, extra), its method's state when a hard target was copied (None
    where the target is averaged), the chance of a random choice f32[], key data of the initial draw, its numbers."""

    actor: Network
    target: tuple[Params, Any]
    target_sparsity: Any
    epsilon: jax.Array
    init_key: jax.Array
    traced: Traced


class Modules(NamedTuple):
    """The network, as a function of parameters and observations to values `[..., choice]`, and its greedy policy."""

    actor: ActionValues
    policy: Callable[[Params, jax.Array], jax.Array]

    def values(self, params: Params, obs: jax.Array) -> jax.Array:
        """Q(s, .), [..., choice]."""
        return jnp.asarray(self.actor.apply({"params": params}, obs))

    def layers(self, obs_dim: int, action_dim: int) -> dict[str, LayerTable]:
        """LayerTables by network."""
        return {"actor": actor_layers(self.actor, obs_dim)}

    def fresh(self, key: jax.Array, obs_dim: int, action_dim: int) -> dict[str, Params]:
        """Parameters by network, dense, as first drawn."""
        return {"actor": self.actor.init(key, jnp.zeros(obs_dim))["params"]}


def greedy(values: jax.Array) -> jax.Array:
    """The choice of largest value, one-hot, [..., choice]."""
    return jax.nn.one_hot(jnp.argmax(values, axis=-1), values.shape[-1])


def modules(
    hidden: tuple[int, ...], action_dim: int, network: str = "mlp", image: tuple[int, ...] | None = None
) -> Modules:
    """The network of DQN and its policy."""
    values = ActionValues(hidden, action_dim, kind=network, image=image)
    return Modules(values, lambda params, obs: greedy(jnp.asarray(values.apply({"params": params}, obs))))


def make(
    config: DQNConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
    image: tuple[int, ...] | None = None,
) -> Agent:
    """DQN for observations of length `obs_dim` and `action_dim` choices; arguments and settings as of `td3.make`, of
    which those of the one network, `actor`, are used. `image`: shape of observations that are images."""
    parts = modules(config.hidden, action_dim, config.network, image)
    layers, policy, values = parts.layers(obs_dim, action_dim)["actor"], parts.policy, parts.values
    sparsifier = sparsifiers["actor"]
    trainer = Trainer(sparsifier, adam(), layers, events["actor"])

    def fresh(key_data: jax.Array) -> Params:
        return parts.fresh(jax.random.wrap_key_data(key_data), obs_dim, action_dim)["actor"]

    def init(key: jax.Array, settings: dict[str, Any]) -> DQNState:
        draw_key, mask_key = jax.random.split(key)
        init_key = jax.random.key_data(draw_key)
        dense = fresh(init_key)
        network = init_network(trainer, mask_key, dense, settings["actor"])
        target = jax.tree.map(
            lambda before, after: jnp.where(settings["dense_targets"], before, after), dense, network.params
        )
        traced = jax.tree.map(jnp.asarray, settings.get("traced", config.traced()))
        return DQNState(
            network, (target, network.extra), kept(network), traced.epsilon_start, init_key, traced
        )

    def kept(network: Network) -> Any:
        """What a copy of the network needs to stay what it was: masks in the method's state may move at every step."""
        return network.sparsity if config.target == "hard" else None

    def begin(state: DQNState, given: dict[str, tuple[Params, Params]]) -> DQNState:
        """A trained network in place of the fresh one; its target is a copy of it."""
        network = adopt_network(trainer, state.actor, *jax.tree.map(jnp.asarray, given["actor"]))
        return state._replace(
            actor=network, target=(network.params, network.extra), target_sparsity=kept(network)
        )

    def deployed(state: DQNState) -> tuple[Params, Params, str]:
        return sparsifier.deployed(state.actor.params, state.actor.extra, state.actor.sparsity)

    # ---- acting ------------------------------------------------------------------------------------------------------

    def act(state: DQNState, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, jax.Array]:
        """Epsilon-greedy: with chance epsilon any choice, each as likely as the others."""
        gate_key, chance_key, choice_key = jax.random.split(key, 3)
        best = policy(effective(trainer, state.actor, "act", gate_key), obs)
        if not explore:
            return best, best
        any_of_them = jax.nn.one_hot(
            jax.random.randint(choice_key, best.shape[:-1], 0, action_dim), action_dim
        )
        random = jax.random.uniform(chance_key, (*best.shape[:-1], 1)) < state.epsilon
        return jnp.where(random, any_of_them, best), best

    def epsilon_after(traced: Traced, updates: jax.Array) -> jax.Array:
        """Linear from `epsilon_start` to `epsilon_end`, which it keeps."""
        done = jnp.minimum(updates / traced.epsilon_steps, 1.0)
        return traced.epsilon_start + done * (traced.epsilon_end - traced.epsilon_start)

    # ---- learning ----------------------------------------------------------------------------------------------------

    def target_values(state: DQNState, batch: Any, gates: jax.Array, key: jax.Array) -> jax.Array:
        """The target y of the module's head, `[batch]`; the choice is that of the very network that is trained, under
        the same `gates`."""
        params, extra = state.target
        known = state.actor.sparsity if config.target == "polyak" else state.target_sparsity
        frozen = effective(trainer, Network(params, extra, None, known), "target", key)
        following = values(frozen, batch.closing_obs)
        chooser = following
        if config.double:
            chooser = values(effective(trainer, state.actor, "learn", gates), batch.closing_obs)
        reward, discount = n_step_return(batch, state.traced.discounts)
        return reward + discount * jnp.sum(greedy(chooser) * following, axis=-1)

    def td_loss(state: DQNState, batch: Any, gates: jax.Array, key: jax.Array) -> Loss:
        """Mean loss of Q(s, a) - y; beside it the mean of Q(s, a)."""
        target = jax.lax.stop_gradient(target_values(state, batch, gates, key))
        weight = batch.valid.astype(jnp.float32)
        taken = greedy(batch.action)
        size = optax.huber_loss if config.loss == "huber" else jnp.square

        def loss(params: Params) -> tuple[jax.Array, jax.Array]:
            chosen = jnp.sum(taken * values(params, batch.obs), axis=-1)
            return jnp.mean(weight * size(chosen - target)), jnp.mean(chosen)

        return loss

    def followed(state: DQNState, updates: jax.Array) -> DQNState:
        """The state with its target as it is after that many updates."""
        if config.target == "polyak":
            return state._replace(target=polyak(trainer, state.actor, state.target, state.traced.tau))
        # Between copies it stays as it was copied, links that an event has cut since included.
        copy = polyak(trainer, state.actor, state.target, 1.0)
        return retargeted(state, copy, updates % config.target_period == 0)

    def retargeted(state: DQNState, target: tuple[Params, Any], flag: jax.Array) -> DQNState:
        """The state with another target, made from the network as it is, where `flag` bool[] says so."""
        new, old = (target, kept(state.actor)), (state.target, state.target_sparsity)
        target, known = jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)
        return state._replace(target=target, target_sparsity=known)

    def update(
        state: DQNState, batch: Any, key: jax.Array, clock: Clock, evidence: Evidence
    ) -> tuple[DQNState, dict[str, Any]]:
        """One tick of the network, then its target and epsilon."""
        target_key, step_key, look_key = jax.random.split(key, 3)
        gates, value_key = jax.random.split(target_key)

        def activations() -> dict[str, jax.Array]:
            return hidden_units(
                parts.actor, layers, effective(trainer, state.actor, "learn", look_key), batch.obs
            )

        network, info = step_network(
            trainer,
            state.actor,
            td_loss(state, batch, gates, value_key),
            tick=clock.update + 1,
            clock=clock,
            key=step_key,
            evidence=evidence._replace(activations=activations, init_params=lambda: fresh(state.init_key)),
            learning_rate=state.traced.learning_rate,
            gates=gates,
        )
        state = state._replace(actor=network, epsilon=epsilon_after(state.traced, clock.update + 1))
        state = followed(state, clock.update + 1)
        metrics: dict[str, Any] = {"actor_loss": info.loss, "q": info.aux, "actor_grad_norm": info.grad_norm}
        metrics["events"] = {"actor": info.effects.happened}
        if "targets" in sparsifier.declares.resets:
            state = retargeted(state, (network.params, network.extra), info.effects.reset_targets)
        if "replay" in sparsifier.declares.resets:
            metrics["reset_replay"] = info.effects.reset_replay
        return state, metrics

    def diagnose(state: DQNState, batch: Any, key: jax.Array, clock: Clock) -> dict[str, jax.Array]:
        """Epsilon, dormant shares of the network as deployed, and what this batch would do to its masked weights."""
        gates, value_key = jax.random.split(key)
        params, masks, _ = deployed(state)
        shares = dormant_shares(layers, masks, hidden_units(parts.actor, layers, params, batch.obs))
        loss = td_loss(state, batch, gates, value_key)
        pull = masked_grad_norm(trainer, state.actor, loss, clock=clock, key=gates)
        return {
            "epsilon": state.epsilon,
            "actor_masked_grad_norm": pull,
            **{f"dormant_actor_{name}": share for name, share in shares.items()},
            **of_method(sparsifier, "actor", state.actor),
        }

    return Agent(
        name="dqn",
        experience=config.experience,
        delay=config.policy_delay,
        layers={"actor": layers},
        init=init,
        act=act,
        policy=policy,
        deployed=deployed,
        update=update,
        delayed=lambda state, batch, key, clock, evidence: (state, {}),
        ticks=lambda updates: {"actor": updates},
        networks=lambda state: {"actor": state.actor},
        masks=lambda state: {"actor": deployed(state)[1]},
        weights=lambda state: {"actor": left_of(sparsifier, state.actor)},
        gamma=lambda state: state.traced.discounts[..., 1],
        value=lambda state, obs: jnp.max(values(deployed(state)[0], obs), axis=-1),
        diagnose=diagnose,
        begin=begin,
        under=lambda state, masks: begin(state, {"actor": (fresh(state.init_key), masks["actor"])}),
    )
