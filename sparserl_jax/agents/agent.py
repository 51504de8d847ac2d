"""The Agent contract: an algorithm as a record of pure functions over one member."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sparserl_jax.errors import UserError, suggest
from sparserl_jax.layers import LayerTable
from sparserl_jax.networks import simba

LATER = {"later": True}
"""Metadata of fields that configurations got later: left out of files and hashes where they have their default, so that
older ones stay what they were."""


def check_network(config: Any) -> None:
    """Refuse a `network` that an algorithm has not (its `BODIES` are those it has), and widths that it cannot have."""
    if config.network not in config.BODIES:
        raise suggest(str(config.network), list(config.BODIES), f"network of agent '{config.name}'")
    if config.network == "simba":
        simba.check(config.hidden, "agent.hidden")


def unspoken(config: Any) -> tuple[str, ...]:
    """Fields of a configuration that were added later and have their defaults, see `LATER`."""
    return tuple(
        field.name
        for field in dataclasses.fields(config)
        if field.metadata.get("later") and getattr(config, field.name) == field.default
    )


class Rollout(NamedTuple):
    """T consecutive steps of E environments of one member, each field [T, E, ...].

    obs f32[T,E,O]; action f32[T,E,A] as drawn, before anything is clipped; log_density f32[T,E], that of the action
    when it was drawn; reward f32[T,E]; terminated, truncated bool[T,E]; final_obs f32[T,E,O]: the true next
    observation, before any reset.
    """

    obs: jax.Array
    action: jax.Array
    log_density: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    final_obs: jax.Array


class Minibatch(NamedTuple):
    """What one update of an algorithm with `rollout` experience learns from.

    samples: tree `[batch, ...]`, part of what `OnPolicy.samples` made. gates: typed key, that of the whole iteration.
    """

    samples: Any
    gates: jax.Array


class OnPolicy(NamedTuple):
    """What an algorithm that learns from its own rollouts adds to the contract.

    `gates` is one key per iteration: whatever of a network is drawn (stochastic gates) is drawn from it when acting, in
    the values and in every epoch, all in mode `learn`, so that the policy that is trained first is the one that acted.

    behave(state, obs [E, obs], gates, key) -> (action [E, action] as drawn, its log density [E]).
    samples(state, rollout: Rollout, gates) -> tree [T * E, ...] of what the minibatches are cut from.
    """

    behave: Callable[..., tuple[jax.Array, jax.Array]]
    samples: Callable[..., Any]


class Agent(NamedTuple):
    """An algorithm; all functions are per member and are vmapped over members by the training loop.

    init(key, settings) -> state. `settings` holds the traced settings of the member, one entry per network plus the
        agent's own (see the agent's file): among them `traced`, the numbers of its configuration that may differ
        between members of one Program (`Config.TRACED` names them, `Config.traced()` makes them); the state keeps them.
    act(state, obs [..., obs], key, explore: bool) -> (action [..., action] in [-1, 1], noise-free action).
    policy(params, obs [..., obs]) -> action [..., action]: the deterministic policy of deployed parameters. Of both,
        environments get what `envs.as_taken` makes of them.
    deployed(state) -> (params, masks, form): the acting network as it leaves the building.
    update(state, batch, key, clock, evidence) -> (state, metrics): one gradient tick on `batch`.
    delayed(state, batch, key, clock, evidence) -> (state, metrics): what happens after every `delay` updates, on the
        batch of the last of them.
        metrics may hold, besides f32 scalars, `events` ({network: bool, an event happened}) and `reset_replay` (bool).
    ticks(update: int) -> {network: ticks after that many updates}.
    networks(state) -> {network: agents.optimise.Network}. masks(state) -> {network: masks}, trees of bool arrays.
    weights(state) -> {network: params}, what is left of each to go on from (`agents.optimise.left_of`).
    begin(state, {network: (params, masks)}) -> state with these trained networks in place of its own: fresh optimiser
        slots, targets copied from them. None where the algorithm cannot.
    under(state, {network: masks}) -> state at its start, with its initial draw under these masks in place of its own.
        None where the algorithm cannot.
    gamma(state) -> discount per step, f32 scalar.
    value(state, obs [..., obs]) -> [...]: the critic's estimate of the discounted return of the deployed policy.
    diagnose(state, batch, key, clock) -> {name: f32 scalar}: what one batch shows without training on it, with at least
        `dormant_<network>_<layer>` and `<network>_masked_grad_norm`; names are documented in training/diagnostics.py.
    layers: {network: LayerTable}. experience: `replay`, `rollout` or `dataset`. successors: whether batches of
        multi-step windows must come with the observations inside them (`replay.Batch.successors`). on_policy: what
        `rollout` takes besides; batches are then `Minibatch`, and `delayed` is not called.
    hindsight(state) -> f32 scalar: share of what is drawn from the replay that is relabelled with goals reached later
        (`replay/hindsight.py`). None: nothing is.
    sample_policy(params, obs [..., obs], key) -> action [..., action] drawn from the policy of deployed parameters, for
        evaluations that draw; of a deterministic policy that may stand beside such ones its one action. None where
        there is nothing to draw.
    """

    name: str
    experience: str
    delay: int
    layers: dict[str, LayerTable]
    init: Callable[..., Any]
    act: Callable[..., tuple[jax.Array, jax.Array]]
    policy: Callable[..., jax.Array]
    deployed: Callable[[Any], tuple[Any, Any, str]]
    update: Callable[..., tuple[Any, dict[str, jax.Array]]]
    delayed: Callable[..., tuple[Any, dict[str, jax.Array]]]
    ticks: Callable[[int], dict[str, int]]
    networks: Callable[[Any], dict[str, Any]]
    masks: Callable[[Any], dict[str, Any]]
    weights: Callable[[Any], dict[str, Any]]
    gamma: Callable[[Any], jax.Array]
    value: Callable[[Any, jax.Array], jax.Array]
    diagnose: Callable[..., dict[str, jax.Array]]
    begin: Callable[[Any, dict[str, tuple[Any, Any]]], Any] | None = None
    under: Callable[[Any, dict[str, Any]], Any] | None = None
    successors: bool = False
    on_policy: OnPolicy | None = None
    hindsight: Callable[[Any], jax.Array] | None = None
    sample_policy: Callable[[Any, jax.Array, jax.Array], jax.Array] | None = None


class Range(NamedTuple):
    """Numbers from `low` to `high`; `above`: `low` itself is not one of them; `whole`: integers only."""

    low: float
    high: float = math.inf
    above: bool = False
    whole: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is in the range."""
        return (
            (value > self.low if self.above else value >= self.low)
            and value <= self.high
            and value < math.inf
            and (not self.whole or value == int(value))
        )

    def __str__(self) -> str:
        whole = "that is whole and " if self.whole else ""
        if self.high == math.inf:
            return f"{whole}{'above' if self.above else 'at least'} {self.low:g}"
        return f"{whole}in {'(' if self.above else '['}{self.low:g}, {self.high:g}]"


def one_action(policy: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The `Agent.sample_policy` of a deterministic policy: a draw from one action in every state is that one."""
    return lambda params, obs, key: policy(params, obs)


def refuse_idle(config: Any, name: str, where: str) -> None:
    """Refuse a value for a setting that changes nothing in this configuration of an algorithm (its `NEEDS`, if any).

    Raises:
        UserError: it does not.
    """
    for field, needed in getattr(config, "NEEDS", {}).get(name, {}).items():
        if getattr(config, field) != needed:
            raise UserError(
                f"{where}: '{name}' changes nothing where {field} = \"{getattr(config, field)}\": drop it, or set "
                f'{field} = "{needed}".'
            )


class Clock(NamedTuple):
    """Where training stands: i32 scalars without a member axis, so that `lax.cond` on them stays a branch.

    step: environment steps of each member. update: gradient updates of each member.
    """

    step: Any
    update: Any
