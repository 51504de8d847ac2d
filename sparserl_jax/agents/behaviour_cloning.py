"""Behaviour cloning: the actor alone, by regression onto what an expert did.

    L(theta) = mean over a batch of (s, a), and over the dimensions of a, of (pi_theta(s) - a)^2

RLx2 (Figure 7) trains tickets so, too, to see whether a mask is worth something for representing a policy or only for
finding one; its text does not print the loss. The networks, their first draw and their masks are those of TD3's actor.

`cloner` is what this has in common with cloning a dataset by other policies (`bc.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.agents.actor_critic import Modules, hidden_units
from sparserl_jax.agents.agent import LATER, Agent, Clock, Range, check_network
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
    step_network,
)
from sparserl_jax.agents.td3 import modules
from sparserl_jax.sparsity.contract import Events, Evidence, Params, Sparsifier


class Traced(NamedTuple):
    """Numbers that no shape depends on, f32 scalars."""

    learning_rate: Any


@dataclasses.dataclass(frozen=True)
class BehaviourCloningConfig:
    """Hyper-parameters; in a suite, those of its algorithm.

    network, TRACED, SCHEDULE, NETWORKS, BODIES and experience as in `TD3Config`. policy_delay: the actor moves at every
    update.
    """

    TRACED: ClassVar[Mapping[str, Range]] = {"learning_rate": Range(0.0, above=True)}
    SCHEDULE: ClassVar[Mapping[str, int]] = {}
    NETWORKS: ClassVar[tuple[str, ...]] = ("actor",)
    experience: ClassVar[str] = "dataset"
    BODIES: ClassVar[tuple[str, ...]] = ("mlp", "simba")
    policy_delay: ClassVar[int] = 1

    name: str = "behaviour_cloning"
    hidden: tuple[int, ...] = (256, 256)
    network: str = dataclasses.field(default="mlp", metadata=LATER)
    batch_size: int = 256
    learning_rate: float = 3e-4

    def __post_init__(self) -> None:
        check_network(self)

    def traced(self, source: str = "released") -> Traced:
        """The traced numbers, as NumPy arrays."""
        return Traced(np.float32(self.learning_rate))

    def target_actions(self, n: int, source: str = "released") -> int:
        """There are no targets."""
        return 0


Error = Callable[[Params, Any], jax.Array]
"""Of (parameters, batch), `[batch]`: how far a policy is from what was done."""


class State(NamedTuple):
    """One member: its actor, the key data of the initial draw, its numbers."""

    actor: Network
    init_key: jax.Array
    traced: Traced


def make(
    config: BehaviourCloningConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """Behaviour cloning for observations of length `obs_dim` and actions of length `action_dim`; arguments and settings
    as of `td3.make`, of which the actor's parts are used."""
    parts = modules(config.hidden, action_dim, config.network)
    sizes = obs_dim, action_dim
    return cloner(config, parts, squared_error(parts.policy), sizes, sparsifiers["actor"], events["actor"])


def squared_error(policy: Callable[[Params, jax.Array], jax.Array]) -> Error:
    """Mean over the dimensions of an action of (pi(s) - a)^2, `[batch]`."""

    def each(params: Params, batch: Any) -> jax.Array:
        return jnp.mean((policy(params, batch.obs) - batch.action) ** 2, axis=-1)

    return each


def cloner(
    config: BehaviourCloningConfig,
    parts: Modules,
    each: Error,
    sizes: tuple[int, int],
    sparsifier: Sparsifier,
    events: Events,
    sample: Callable[..., jax.Array] | None = None,
) -> Agent:
    """An actor alone that learns by the mean error to what was done.

    Args:
        parts: networks, of which the actor is used.
        each: the error.
        sizes: lengths of observations and actions.
        sparsifier, events: the actor's.
        sample: see `Agent.sample_policy`; None: there is nothing to draw.
    """
    obs_dim, action_dim = sizes
    layers = parts.layers(obs_dim, action_dim)["actor"]
    trainer = Trainer(sparsifier, adam(), layers, events)
    deploy, policy = trainer.sparsifier.deployed, parts.policy

    def init(key: jax.Array, settings: dict[str, Any]) -> State:
        # Split as by an actor with critics, so that the same key draws the same actor.
        draw_key, actor_key, _ = jax.random.split(key, 3)
        fresh = parts.fresh(draw_key, obs_dim, action_dim)["actor"]
        actor = init_network(trainer, actor_key, fresh, settings["actor"])
        traced = jax.tree.map(jnp.asarray, settings.get("traced", config.traced()))
        return State(actor, jax.random.key_data(draw_key), traced)

    def under(state: State, masks: dict[str, Params]) -> State:
        """The initial draw, dense, under given masks."""
        fresh = parts.fresh(jax.random.wrap_key_data(state.init_key), obs_dim, action_dim)["actor"]
        return state._replace(actor=adopt_network(trainer, state.actor, fresh, masks["actor"]))

    def deployed(state: State) -> tuple[Params, Params, str]:
        return deploy(state.actor.params, state.actor.extra, state.actor.sparsity)

    def act(state: State, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, jax.Array]:
        action = policy(effective(trainer, state.actor, "act", key), obs)
        return action, action

    def error(batch: Any) -> Loss:
        """Mean error to the actions that were done."""
        weight = batch.valid.astype(jnp.float32)

        def loss(params: Params) -> tuple[jax.Array, None]:
            return jnp.mean(weight * each(params, batch)), None

        return loss

    def update(
        state: State, batch: Any, key: jax.Array, clock: Clock, evidence: Evidence
    ) -> tuple[State, dict[str, Any]]:
        """One tick of the actor."""
        step_key, look_key = jax.random.split(key)

        def activations() -> dict[str, jax.Array]:
            params = effective(trainer, state.actor, "learn", look_key)
            return hidden_units(parts.actor, layers, params, batch.obs)

        def init_params() -> Params:
            return parts.fresh(jax.random.wrap_key_data(state.init_key), obs_dim, action_dim)["actor"]

        actor, info = step_network(
            trainer,
            state.actor,
            error(batch),
            tick=clock.update + 1,
            clock=clock,
            key=step_key,
            evidence=evidence._replace(activations=activations, init_params=init_params),
            learning_rate=state.traced.learning_rate,
        )
        seen: dict[str, Any] = {"actor_loss": info.loss, "actor_grad_norm": info.grad_norm}
        return state._replace(actor=actor), {**seen, "events": {"actor": info.effects.happened}}

    def diagnose(state: State, batch: Any, key: jax.Array, clock: Clock) -> dict[str, jax.Array]:
        """Dormant shares of the actor as deployed, and what this batch would do to its masked weights."""
        params, masks, _ = deployed(state)
        units = hidden_units(parts.actor, layers, params, batch.obs)
        shares = dormant_shares(layers, masks, units)
        pull = masked_grad_norm(trainer, state.actor, error(batch), clock=clock, key=key)
        return {
            "actor_masked_grad_norm": pull,
            **{f"dormant_actor_{n}": x for n, x in shares.items()},
            **of_method(trainer.sparsifier, "actor", state.actor),
        }

    return Agent(
        name=config.name,
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
        gamma=lambda state: jnp.ones(()),
        value=lambda state, obs: jnp.full(obs.shape[:-1], jnp.nan),  # there is no critic
        diagnose=diagnose,
        under=under,
        sample_policy=sample,
    )
