"""SRigL (Lasby et al. 2023): RigL in which all units of a layer have equally many inputs.

A unit j of a layer with I inputs and O units has k inputs or none; n = k O is the budget, k the nearest whole number to
what Erdos-Renyi densities say. At an event (section 3.2), with the share zeta of the live weights to drop, K:

    kept    = all live weights of the layer but the K of smallest |w|
    salient = kept, and the K others of largest |g|
    ablated = units with fewer than gamma k salient inputs; they lose all inputs         (gamma = 0.3)
    k'      = n // (units that are left)
    mask    = in every unit left: kept weights, filled up to k' by largest |g|

Where fewer units are left they have more inputs each, so that the layer keeps its n weights up to a remainder smaller
than the number of its units, as in the released code. As there, at least so many units stay as have n inputs together
(those of most salient ones, with all that have as many), and output units are not ablated. Whether a unit is ablated
is asked anew at every event: one that has become salient comes back. Its bias stays: an ablated unit is a constant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable, leaf, with_leaf
from sparserl_jax.sparsity import allocation, drop_grow
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Declares, Effects, Events, Evidence, Method, Params, Promise

ABLATION = 0.3
"""gamma: share of a unit's inputs that have to be salient."""


class Settings(NamedTuple):
    """As in `drop_grow.Settings`: counts i32[T], drops i32[K, T], interval i32, random_mask bool. share: f32, gamma."""

    counts: Any
    drops: Any
    interval: Any
    evolves: Any
    random_mask: Any
    share: Any


def by_unit(tree: Params, layer: Layer) -> jax.Array:
    """The kernel of a layer as [copies, units, inputs]."""
    flat = leaf(tree, layer.kernel).reshape(layer.copies, layer.fan_in, layer.units_out)
    return jnp.swapaxes(flat, 1, 2)


def with_units(tree: Params, layer: Layer, units: jax.Array) -> Params:
    """`tree` with the kernel of a layer from [copies, units, inputs]."""
    kernel = jnp.swapaxes(units, 1, 2).reshape(layer.stack + layer.shape)
    return with_leaf(tree, layer.kernel, kernel)


def top_of_units(scores: jax.Array, counts: jax.Array, key: jax.Array, among: jax.Array) -> jax.Array:
    """The `counts[j]` candidates of largest score of every unit j, bool[O, I]."""
    return jax.vmap(mask_ops.top_count)(scores, counts, jax.random.split(key, len(scores)), among)


def rewired(
    key: jax.Array,
    weights: jax.Array,
    gradient: jax.Array,
    live: jax.Array,
    budget: jax.Array,
    drops: jax.Array,
    share: jax.Array,
) -> jax.Array:
    """The mask of one tensor after an event, bool[O, I] like `weights`, `gradient` and `live`."""
    drop_key, saliency_key, keep_key, grow_key = jax.random.split(key, 4)
    size, slope = jnp.abs(weights), jnp.abs(gradient)
    units, inputs = weights.shape
    alive = jnp.sum(live, dtype=jnp.int32)
    # The same share of what lives, where ablation has left a remainder. A hair more: a product may be not quite whole.
    drops = jnp.floor(drops * (alive / budget) + 1e-3).astype(jnp.int32)
    kept = mask_ops.top_count(size, alive - drops, drop_key, live)
    salient = jnp.sum(kept | mask_ops.top_count(slope, drops, saliency_key, ~kept), axis=1)
    # Of the k of all units, not of the more that those have who are left: the bar would rise with every ablation.
    # A hair less: 0.3 times 10 is not quite 3.
    enough = share * (budget // units) - 1e-4
    # As many units stay as hold the budget.
    least = -(-budget // inputs)
    stays = salient >= jnp.minimum(enough, jnp.sort(salient)[units - least])
    fan_in = budget // jnp.sum(stays, dtype=jnp.int32)
    wanted = jnp.where(stays, fan_in, 0)
    # More than its share is kept only where a unit has come back and the others have to give.
    kept = top_of_units(size, wanted, keep_key, kept)
    return kept | top_of_units(slope, wanted - jnp.sum(kept, axis=1, dtype=jnp.int32), grow_key, ~kept)


def init(
    key: jax.Array, params: Params, layers: LayerTable, settings: Any
) -> tuple[Params, Any, drop_grow.State]:
    """Every unit with as many inputs as its layer's others: those of largest initial |w|, or random ones."""
    masks, at = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params), 0
    for layer, own in zip(layers.maskable, jax.random.split(key, len(layers.maskable)), strict=True):
        weights = by_unit(params, layer)
        noise = jax.random.uniform(own, weights.shape)
        score = jnp.where(settings.random_mask, noise, jnp.abs(weights))
        fan_in = settings.counts[at : at + layer.copies, None] // layer.units_out
        chosen = jax.vmap(top_of_units)(
            score,
            jnp.broadcast_to(fan_in, weights.shape[:2]),
            jax.random.split(jax.random.fold_in(own, 1), layer.copies),
            jnp.ones(weights.shape, bool),
        )
        masks = with_units(masks, layer, chosen)
        at += layer.copies
    return mask_ops.apply(masks, params), {}, drop_grow.State(masks, settings, layers)


def evolve(
    key: jax.Array,
    tick: jax.Array,
    params: Params,
    extra: Any,
    opt_state: Any,
    state: drop_grow.State,
    evidence: Evidence,
) -> tuple[Params, Any, Any, drop_grow.State, Effects]:
    """One event in every tensor; what was not live before starts at zero."""
    chosen: Any = state.settings
    layers, gradient = state.layers, evidence.grad()
    event: Any = jax.vmap(rewired, in_axes=(0, 0, 0, 0, 0, 0, None))
    drops = drop_grow.scheduled(chosen, tick)
    masks, at = state.masks, 0
    for layer, own in zip(layers.maskable, jax.random.split(key, len(layers.maskable)), strict=True):
        here = slice(at, at + layer.copies)
        # Actions and values are there to be computed, and a residual stream is not one layer's.
        share = chosen.share if layer in layers.hidden else jnp.float32(0)
        after = event(
            jax.random.split(own, layer.copies),
            *(by_unit(tree, layer) for tree in (params, gradient, state.masks)),
            chosen.counts[here],
            drops[here],
            share,
        )
        masks = with_units(masks, layer, after)
        at += layer.copies
    params = mask_ops.apply(jax.tree.map(jnp.logical_and, masks, state.masks), params)
    return params, extra, opt_state, state._replace(masks=masks), Effects.of(happened=chosen.evolves)


def misfit(masks: Params, layers: LayerTable, settings: Settings) -> str | None:
    """Which layer has units of several numbers of inputs, none aside."""
    for layer in layers.maskable:
        live = np.asarray(leaf(masks, layer.kernel)).reshape(layer.copies, layer.fan_in, layer.units_out)
        for inputs in live.sum(axis=1):
            # Output units are never ablated.
            few, most = int(min(inputs if layer.output else inputs[inputs > 0], default=0)), int(max(inputs))
            if few < most:
                return f"units of {layer.name} have from {few} to {most} live inputs, where all have equally many"
    return None


FAMILY = drop_grow.DROP_GROW._replace(
    name="srigl",
    init=init,
    evolve=evolve,
    # Which units are ablated, and with them the remainder, is known only when it happens.
    declares=Declares(budget="at_most", targets="online", slots="keep"),
    misfit=misfit,
)


def budgets(layers: LayerTable, sparsity: float) -> list[int]:
    """Live weights of every tensor: equally many inputs for all its units.

    Raises:
        UserError: a tensor's units would have no inputs.
    """
    counts = []
    for (layer, copy), count in zip(layers.tensors, allocation.erk(layers, sparsity), strict=True):
        fan_in = round(count / layer.units_out)
        if fan_in < 1:
            raise UserError(
                f"sparsity {sparsity} leaves the units of {layers.describe(layer, copy)} half an input each or less: "
                "use a smaller one for this network."
            )
        counts.append(fan_in * layer.units_out)
    return counts


def method(name: str, summary: str, *, ablation: float = ABLATION) -> Method:
    """A method of this family.

    Args:
        ablation: gamma, from 0 (no unit is ablated) to 1.

    Raises:
        UserError: gamma is no share.
    """
    if not 0 <= ablation <= 1:
        raise UserError(
            f"{name}: ablation = {ablation} is no share of a unit's inputs: give one from 0 to 1."
        )

    def settings(layers: LayerTable, knob: float, events: Events, source: str) -> Settings:
        counts = budgets(layers, knob)
        evolves = drop_grow.room(layers, counts)
        own = drop_grow.settings(layers, counts, events, evolves=evolves, random_mask=source == "paper")
        return Settings(
            own.counts, own.drops, own.interval, own.evolves, own.random_mask, np.float32(ablation)
        )

    def promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
        counts = budgets(layers, knob)
        evolves = drop_grow.room(layers, counts)
        return Promise(counts, events=events.count if evolves else 0, dense_growth=evolves)

    return Method(name, FAMILY, settings, promise, summary)


SRIGL = method("srigl", "RigL with equally many inputs for all units of a layer, or none")
