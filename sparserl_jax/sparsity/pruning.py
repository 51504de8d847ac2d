"""What methods share that begin dense and remove weights at events, for good.

Such a method is a score, a rule among what weights compete, and a table of how many live after every event. At event k

    keep the counts[k] weights of largest score among those still alive

of each tensor (`per_tensor`) or of all tensors of the network together (`over_all`, the sum of the row). Gradients of
removed weights are zero and the weights stay zero, so they never come back; biases are never removed. Between the
tables' first and last row an event that removes nothing is none: the optimiser step is taken as on any other tick.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import drop_grow, rows, schedules
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import (
    Declares,
    Effects,
    Events,
    Evidence,
    Method,
    Params,
    Promise,
    Sparsifier,
)


class Settings(NamedTuple):
    """When a member is pruned, and how far. T tensors, K events.

    counts: i32[K + 1, T], live weights after k events (row 0: the beginning). Where all tensors compete, only the sum
        of a row counts.
    happens: bool[K + 1], whether event k takes place: whether it removes anything.
    interval: i32, ticks between events.
    """

    counts: Any
    happens: Any
    interval: Any


Score = Callable[[Params, Evidence], Params]
"""Weights and what an event may look at, to a tree like the weights: the larger, the more worth keeping."""
Select = Callable[[jax.Array, Params, Params, jax.Array, LayerTable], Params]
"""(key, scores, masks, counts i32[T], layers) to masks within the given ones."""


# ---- on the host -----------------------------------------------------------------------------------------------------


def sizes(layers: LayerTable) -> np.ndarray:
    """Weights of every tensor, i64[T]."""
    return np.array([layer.size for layer, _ in layers.tensors], np.int64)


def in_all(layers: LayerTable, sparsity: float) -> list[int]:
    """Live weights per tensor, shared out evenly, of a network that keeps N - int(sparsity N) of its N weights.

    For methods in which all tensors compete: the sum is exact, what each of them gets is decided by scores.

    Raises:
        UserError: the sparsity is out of range or leaves fewer weights than there are tensors.
    """
    if not 0 <= sparsity <= 1:
        raise UserError(
            f"sparsity is {sparsity}: give the share of weights removed, a number from 0 to below 1."
        )
    total, tensors = int(sizes(layers).sum()), len(layers.tensors)
    kept = total - int(sparsity * total)
    if kept < tensors:
        most = math.floor((total - tensors) / total * 1e6) / 1e6
        raise UserError(
            f"sparsity {sparsity} leaves {kept} weight(s) to {tensors} tensors: use at most {most:.6f} for this "
            "network, or a wider one."
        )
    return _evenly(layers, kept).tolist()


def _evenly(layers: LayerTable, kept: int) -> np.ndarray:
    """`kept` weights shared out over the tensors by their sizes, i64[T], none more than it has."""
    ends = np.cumsum(sizes(layers))
    return np.diff(ends * kept // ends[-1], prepend=0)


def gradually(begin: float, end: float) -> Callable[[Events], list[float]]:
    """Share of all removals done after 0, 1, ..., K events: 1 - (1 - x)^3, x from 0 to 1 between two shares of
    training (Zhu and Gupta 2017).

    Raises:
        UserError: `begin` is not before `end`, or they are no shares of training.
    """
    if not 0 <= begin < end < 1:
        raise UserError(
            f"pruning begins at {begin:g} and ends at {end:g} of training: let it end later than it begins, both "
            "from 0 to below 1."
        )

    def done(events: Events) -> list[float]:
        first, last = begin * events.end, end * events.end
        if not events.count or events.count * events.interval < last:
            mend = (
                "train for more steps"
                if events.interval == 1
                else f"make topology_interval at most {max(int(events.end - last), 1)}"
            )
            raise UserError(
                f"pruning ends at {end:.0%} of training (tick {last:g} of {events.end}), but topology events come "
                f"every {events.interval} tick(s) and none after that: {mend}."
            )
        return [schedules.cubic(1.0, k * events.interval, first, last) for k in range(events.count + 1)]

    return done


def at_once(when: float) -> Callable[[Events], list[float]]:
    """Share of all removals done after 0, 1, ..., K events: all at the first event at or behind a share of training.

    `when` = 0: at the very first event.

    Raises:
        UserError: `when` is no share of training.
    """
    if not 0 <= when < 1:
        raise UserError(f"pruning at {when:g} of training: give a share from 0 to below 1.")

    def done(events: Events) -> list[float]:
        if not events.count or events.count * events.interval < when * events.end:
            raise UserError(
                f"pruning is due at {when:.0%} of training ({events.end} ticks), but topology events come every "
                f"{events.interval} ticks and none after that: make topology_interval at most "
                f"{max(int(events.end - max(when * events.end, 1)), 1)}."
            )
        return [float(k >= 1 and k * events.interval >= when * events.end) for k in range(events.count + 1)]

    return done


def settings(layers: LayerTable, counts: list[int], events: Events, done: list[float]) -> Settings:
    """Settings of one network, as NumPy arrays; every tensor has lost int(done[k] its zeros) after k events.

    Args:
        counts: live weights of each tensor at the end.
        done: share of the removals done after k events, K + 1 numbers that never fall, from 0 to 1.
    """
    full = sizes(layers)
    zeros = full - np.asarray(counts, np.int64)
    table = np.stack([full - (share * zeros).astype(np.int64) for share in done])
    return Settings(
        counts=table.astype(np.int32),
        happens=np.concatenate([[False], (np.diff(table, axis=0) != 0).any(axis=1)]),
        interval=np.int32(events.interval),
    )


def settings_in_all(layers: LayerTable, sparsity: float, events: Events, done: list[float]) -> Settings:
    """As `settings`, for methods in which all tensors compete: int(done[k] all zeros) are gone after k events."""
    total = int(sizes(layers).sum())
    zeros = total - sum(in_all(layers, sparsity))
    table = np.array([_evenly(layers, total - int(share * zeros)) for share in done])
    return Settings(
        counts=table.astype(np.int32),
        happens=np.concatenate([[False], np.diff(table.sum(axis=1)) != 0]),
        interval=np.int32(events.interval),
    )


# ---- at events -------------------------------------------------------------------------------------------------------


def per_tensor(
    key: jax.Array, scores: Params, masks: Params, counts: jax.Array, layers: LayerTable
) -> Params:
    """The `counts[t]` live weights of largest score of every tensor t."""
    kept = rows.top(rows.to_rows(scores, layers), counts, key, rows.to_rows(masks, layers))
    return rows.from_rows(kept, masks, layers)


def over_all(key: jax.Array, scores: Params, masks: Params, counts: jax.Array, layers: LayerTable) -> Params:
    """The `sum(counts)` live weights of largest score of the whole network, all copies of a twin critic together."""
    every, live = rows.to_rows(scores, layers), rows.to_rows(masks, layers)
    return rows.from_rows(mask_ops.top_count(every, jnp.sum(counts), key, live), masks, layers)


def magnitude(params: Params, evidence: Evidence) -> Params:
    """|w|."""
    return jax.tree.map(jnp.abs, params)


def init(
    key: jax.Array, params: Params, layers: LayerTable, settings: Any
) -> tuple[Params, Any, drop_grow.State]:
    """Every weight alive."""
    alive = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
    return params, {}, drop_grow.State(alive, settings, layers)


def family(name: str, score: Score, select: Select) -> Sparsifier:
    """The family of methods that prune by this score among these weights; members differ in `Settings`."""

    def evolve(
        key: jax.Array,
        tick: jax.Array,
        params: Params,
        extra: Any,
        opt_state: Any,
        state: drop_grow.State,
        evidence: Evidence,
    ) -> tuple[Params, Any, Any, drop_grow.State, Effects]:
        """Keep the best of what is alive."""
        chosen: Any = state.settings
        event = jnp.clip(tick // chosen.interval, 0, len(chosen.counts) - 1)
        masks = select(key, score(params, evidence), state.masks, chosen.counts[event], state.layers)
        pruned = mask_ops.apply(masks, params)
        return (
            pruned,
            extra,
            opt_state,
            state._replace(masks=masks),
            Effects.of(happened=chosen.happens[event]),
        )

    return drop_grow.DROP_GROW._replace(
        name=name,
        init=init,
        evolve=evolve,
        declares=Declares(
            budget="global" if select is over_all else "per_tensor", targets="online", slots="keep"
        ),
    )


def method(
    name: str,
    family: Sparsifier,
    settings: Callable[[LayerTable, float, Events, str], Any],
    summary: str,
    dense_growth: bool = False,
) -> Method:
    """A method of such a family; what it promises is read off its table.

    Args:
        settings: makes the `Settings` of one network (or a record with the same fields and more).
        dense_growth: whether its score looks at gradients.
    """

    def promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
        chosen = settings(layers, knob, events, source)
        *phases, last = np.asarray(chosen.counts).tolist()
        while phases and phases[-1] == last:
            phases.pop()
        happening = int(np.sum(chosen.happens))
        return Promise(last, events=happening, dense_growth=dense_growth and happening > 0, phases=phases)

    return Method(name, family, settings, promise, summary)
