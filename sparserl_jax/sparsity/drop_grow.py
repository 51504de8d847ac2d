"""The family of mask methods that drop the weakest weights and grow others (dense, tiny, static, SET, RigL).

One set of functions; what distinguishes the methods is `Settings`, traced arrays. At an event, in every tensor with
inactive weights (RigL, Evci et al. 2020; RLx2, section "topology evolution"):

    keep = the (n - k) active weights of largest |w|
    grow = the k others of largest score: |gradient| (RigL) or uniform noise (SET)

with n the tensor's budget and k = int(n zeta(tick)) from a table made on the host. A dropped weight may be grown again
at once and then keeps its value; a weight that was inactive starts at zero. Masks have the structure of the
parameters, every leaf a full bool array; biases stay active except those of the padding units of `tiny`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax import orthogonal
from sparserl_jax.layers import Layer, LayerTable, leaf, with_leaf
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity import rows, schedules
from sparserl_jax.sparsity.contract import (
    Declares,
    Effects,
    Events,
    Evidence,
    Method,
    Params,
    Promise,
    Sparsifier,
    identity_effective,
    no_penalty,
)
from sparserl_jax.sparsity.slots import map_slots


class Settings(NamedTuple):
    """What makes a member of the family one method or another. T tensors, L layers, K events.

    counts: i32[T], active weights of each tensor.
    drops: i32[K, T], weights dropped and grown at each event.
    interval: i32, ticks between events.
    evolves: bool, whether events happen at all; where not, the optimiser step of an event tick is taken as usual.
    grow_by_gradient: bool, |gradient| (RigL) or uniform noise (SET).
    random_mask: bool, the initial mask is drawn uniformly or holds the largest |w| of the initial weights.
    zero_slots: bool, optimiser slots of grown weights restart at zero.
    live_in, live_out: i32[L], leading units of each layer that exist (all of them except in `tiny`).
    scale: f32[L], factor on the initial weights and biases (1 except in `tiny`) of layers whose law scales with their
        fans; orthogonal weights of a narrow layer are made orthogonal again.
    """

    counts: Any
    drops: Any
    interval: Any
    evolves: Any
    grow_by_gradient: Any
    random_mask: Any
    zero_slots: Any
    live_in: Any
    live_out: Any
    scale: Any


class State(NamedTuple):
    """Masks (structure of the parameters) and settings of one network of one member."""

    masks: Params
    settings: Settings
    layers: LayerTable


jax.tree_util.register_pytree_node(
    State,
    lambda state: ((state.masks, state.settings), state.layers),
    lambda layers, children: State(*children, layers),
)


def room(layers: LayerTable, counts: Sequence[int]) -> bool:
    """Whether any tensor has fewer live weights than entries, so that links can move. A network that is dense
    anyway, as a critic may be, is to have no events: each would take an optimiser step's place."""
    return any(count < layer.size for (layer, _), count in zip(layers.tensors, counts, strict=True))


def settings(
    layers: LayerTable,
    counts: list[int],
    events: Events,
    *,
    evolves: bool = False,
    grow_by_gradient: bool = False,
    random_mask: bool = False,
    zero_slots: bool = False,
    widths: dict[str, int] | None = None,
) -> Settings:
    """Settings of one network, as NumPy arrays.

    Args:
        layers: the network.
        counts: active weights of each tensor, in the order of `layers.tensors`.
        events: when topology may change; sets the length of the drop table.
        widths: for `tiny`: number of existing units per unit group; groups not named are whole.
    """
    widths = widths or {}
    sizes = np.array([layer.size for layer, _ in layers.tensors], np.int64)
    active = np.asarray(counts, np.int64)
    drops = np.asarray(schedules.drop_counts(counts, events.drop_fraction, events.interval, events.end))
    # Only tensors with something to grow take part, and only if the method has events.
    drops = np.where(evolves & (active < sizes), drops, 0).reshape(-1, len(counts))
    live_in = [min(widths.get(layer.inputs, layer.units_in), layer.units_in) for layer in layers]
    live_out = [min(widths.get(layer.outputs, layer.units_out), layer.units_out) for layer in layers]
    shares = [
        (layer.fan_in + layer.units_out) / (layer.window * rows_in + columns)
        if layer.law == "xavier_uniform"
        else layer.units_in / rows_in
        for layer, rows_in, columns in zip(layers, live_in, live_out, strict=True)
    ]
    return Settings(
        counts=active.astype(np.int32),
        drops=drops.astype(np.int32),
        interval=np.int32(events.interval),
        evolves=np.bool_(evolves),
        grow_by_gradient=np.bool_(grow_by_gradient),
        random_mask=np.bool_(random_mask),
        zero_slots=np.bool_(zero_slots),
        live_in=np.array(live_in, np.int32),
        live_out=np.array(live_out, np.int32),
        # The narrow network's own initialiser: its law scales with 1/sqrt(fan_in), Xavier's with both fans.
        scale=np.sqrt(np.array(shares, np.float64)).astype(np.float32),
    )


def _own_draw(layer: Layer, kernel: jax.Array, exists: jax.Array, chosen: Settings, index: int) -> jax.Array:
    """The wide network's draw of a kernel as one of the network that exists in its leading units."""
    if layer.law != "orthogonal":
        return kernel * chosen.scale[index]
    narrow = (chosen.live_in[index] < layer.units_in) | (chosen.live_out[index] < layer.units_out)
    matrix = jnp.where(exists, kernel, 0.0).reshape(*layer.stack, layer.fan_in, layer.units_out)
    return jnp.where(narrow, orthogonal.nearest(matrix).reshape(kernel.shape), kernel)


def init(key: jax.Array, params: Params, layers: LayerTable, settings: Settings) -> tuple[Params, Any, State]:
    """Initial masks with exact counts, and the parameters under them."""
    masks: Params = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
    for index, layer in enumerate(layers):
        live_rows = jnp.arange(layer.units_in) < settings.live_in[index]
        live_columns = jnp.arange(layer.units_out) < settings.live_out[index]
        exists = jnp.broadcast_to(live_rows[:, None] & live_columns, layer.stack + layer.shape)
        masks = with_leaf(masks, layer.kernel, exists)
        params = with_leaf(
            params, layer.kernel, _own_draw(layer, leaf(params, layer.kernel), exists, settings, index)
        )
        if layer.bias is not None:
            bias = leaf(params, layer.bias)
            params = with_leaf(params, layer.bias, bias * settings.scale[index])
            masks = with_leaf(masks, layer.bias, jnp.broadcast_to(live_columns, bias.shape))

    noise_key, tie_key = jax.random.split(key)
    weights, exists = rows.to_rows(params, layers), rows.to_rows(masks, layers)
    noise = jax.random.uniform(noise_key, weights.shape)
    score = jnp.where(settings.random_mask, noise, jnp.abs(weights))
    chosen = jax.vmap(mask_ops.top_count)(
        score, settings.counts, jax.random.split(tie_key, len(weights)), exists
    )
    masks = rows.from_rows(chosen, masks, layers)
    return mask_ops.apply(masks, params), {}, State(masks, settings, layers)


def gradients(grads: Params, params: Params, extra: Any, state: State) -> Params:
    """Gradients of active weights only."""
    return mask_ops.apply(state.masks, grads)


def project(params: Params, extra: Any, opt_state: Any, state: State) -> tuple[Params, Any, Any]:
    """Inactive weights back to exact zero: old Adam moments move a dropped weight even at zero gradient."""
    return mask_ops.apply(state.masks, params), extra, opt_state


def scheduled(settings: Settings, tick: jax.Array) -> jax.Array:
    """Weights of each tensor that the event at `tick` drops and grows, i32[T]."""
    if not len(settings.drops):  # a network that is too short for an event
        return jnp.zeros(settings.drops.shape[1:], settings.drops.dtype)
    return settings.drops[jnp.clip(tick // settings.interval - 1, 0, len(settings.drops) - 1)]


def replant(
    params: Params,
    opt_state: Any,
    state: State,
    chosen: tuple[jax.Array, jax.Array],
    was: tuple[jax.Array, jax.Array],
    zero_slots: jax.Array,
) -> tuple[Params, Any, Params]:
    """(params, opt_state, masks) in which exactly what is kept and what is grown lives, grown weights at zero.

    A weight that is grown and was alive keeps its value.

    Args:
        chosen: (keep, grow), bool[T, W], disjoint (see `rows`).
        was: (weights, masks) before, f32[T, W] and bool[T, W].
        zero_slots: optimiser slots of weights that were not alive restart at zero.
    """
    (keep, grow), (weights, live), layers = chosen, was, state.layers
    fresh = grow & ~live
    weights = jnp.where((keep | grow) & ~fresh, weights, 0.0)

    params = rows.from_rows(weights, params, layers)
    grown = rows.from_rows(fresh, jax.tree.map(jnp.zeros_like, state.masks), layers)
    masks = rows.from_rows(keep | grow, state.masks, layers)
    if opt_state is not None:
        opt_state = map_slots(
            lambda slots, fresh: jax.tree.map(
                lambda slot, new: jnp.where(new & zero_slots, jnp.zeros_like(slot), slot), slots, fresh
            ),
            opt_state,
            params,
            grown,
        )
    return params, opt_state, masks


def evolve(
    key: jax.Array,
    tick: jax.Array,
    params: Params,
    extra: Any,
    opt_state: Any,
    state: State,
    evidence: Evidence,
) -> tuple[Params, Any, Any, State, Effects]:
    """One drop-and-grow event in every tensor that has inactive weights."""
    chosen, layers = state.settings, state.layers
    weights, live = rows.to_rows(params, layers), rows.to_rows(state.masks, layers)
    gradient = rows.to_rows(evidence.grad(), layers)
    drops = scheduled(chosen, tick)
    drop_key, noise_key, grow_key = jax.random.split(key, 3)
    noise = jax.random.uniform(noise_key, weights.shape)
    # Only active entries are ranked for keeping: an active weight of exactly zero still beats an inactive one.
    keep = rows.top(jnp.abs(weights), chosen.counts - drops, drop_key, live)
    exists = rows.exists(state.masks, layers)
    score = jnp.where(chosen.grow_by_gradient, jnp.abs(gradient), noise)
    grow = rows.top(score, drops, grow_key, exists & ~keep)
    params, opt_state, masks = replant(
        params, opt_state, state, (keep, grow), (weights, live), chosen.zero_slots
    )
    return params, extra, opt_state, State(masks, chosen, layers), Effects.of(happened=chosen.evolves)


def deployed(params: Params, extra: Any, state: State) -> tuple[Params, Params, str]:
    """Masked weights, their masks, plain form."""
    return mask_ops.apply(state.masks, params), state.masks, "plain"


def adopt(params: Params, masks: Params, state: State) -> tuple[Params, Any, State]:
    """Trained weights under their masks; settings stay those of this run."""
    return mask_ops.apply(masks, params), {}, State(masks, state.settings, state.layers)


DROP_GROW = Sparsifier(
    name="drop_grow",
    init=init,
    effective=identity_effective,
    penalty=no_penalty,
    gradients=gradients,
    project=project,
    evolve=evolve,
    deployed=deployed,
    declares=Declares(budget="per_tensor", targets="online", slots="setting"),
    adopt=adopt,
)


def method(
    name: str,
    settings: Callable[[LayerTable, float, Events, str], Settings],
    summary: str,
    narrow: bool = False,
    family: Sparsifier = DROP_GROW,
) -> Method:
    """A method of this family, or of another one with the same settings; what it promises is read off its settings.

    Args:
        settings: makes the `Settings` of one network, usually by `drop_grow.settings`.
        narrow: the existing units are those of a really narrow network, by which its costs are told.
    """

    def promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
        # The drop table of a long run is large and not needed: counts do not depend on the schedule.
        chosen = settings(layers, knob, Events(1, 1, 0.0), source)
        widths = zip(layers, chosen.live_in.tolist(), chosen.live_out.tolist(), strict=True)
        return Promise(
            [int(count) for count in chosen.counts],
            narrow=LayerTable(
                dataclasses.replace(layer, shape=(*layer.shape[:-2], wide_in, wide_out))
                for layer, wide_in, wide_out in widths
            )
            if narrow
            else None,
            events=events.count if chosen.evolves else 0,
            dense_growth=bool(chosen.evolves and chosen.grow_by_gradient),
        )

    return Method(name, family, settings, promise, summary)
