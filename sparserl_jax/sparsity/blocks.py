"""Blocks of weights that live and die together: RigL, SET and gradual magnitude pruning on 16x1 blocks.

The methods are those on single weights, with a block's sums in the place of a weight's numbers:

    sum |w| of a block for |w|,    sum |g| of a block for |gradient|

A block of 16x1 is 16 outputs by 1 input, which a processor with vectors of 16 multiplies at once; in a layer whose
outputs it does not divide (the output layer, as a rule) it is 16 inputs by 1 output. Budgets are those of the method on
single weights, rounded up to whole blocks in every tensor.

Another shape is one line in a module of your own: `rigl("rigl_4x4", (4, 4))`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable, leaf, with_leaf
from sparserl_jax.sparsity import allocation, drop_grow, magnitude, pruning, rows
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Effects, Events, Evidence, Method, Params, Promise, Sparsifier

Block = tuple[int, int]
"""Inputs by outputs."""
BLOCK: Block = (1, 16)


def coarse(layers: LayerTable, block: Block) -> LayerTable:
    """A table with a block in the place of each weight, without biases.

    Raises:
        UserError: neither the block nor the block turned fits a layer.
    """
    found = []
    for layer in layers.maskable:
        turned = [
            b for b in (block, block[::-1]) if layer.units_in % b[0] == 0 and layer.units_out % b[1] == 0
        ]
        if not turned:
            raise UserError(
                f"blocks of {block[0]} inputs by {block[1]} outputs, or turned, do not fit layer {layer.name} "
                f"{layer.shape}: choose hidden widths that are multiples of {max(block)}, or other blocks."
            )
        (high, wide), *_ = turned
        shape = (*layer.shape[:-2], layer.units_in // high, layer.units_out // wide)
        found.append(dataclasses.replace(layer, shape=shape, bias=None, law="fan_in_uniform"))
    return LayerTable(found)


def summed(tree: Params, layers: LayerTable, table: LayerTable) -> Params:
    """`tree` with the sum of |.| over each block in the place of its entries."""
    for layer, small in zip(layers.maskable, table, strict=True):
        parts = _parts(jnp.abs(leaf(tree, layer.kernel).astype(jnp.float32)), small.shape)
        tree = with_leaf(tree, layer.kernel, jnp.sum(parts, axis=(-3, -1)))
    return tree


def _parts(values: Any, shape: tuple[int, ...]) -> Any:
    """[..., in, out] as [..., blocks, inputs of a block, blocks, outputs of a block]."""
    *front, high, wide = values.shape
    return values.reshape(*front, shape[-2], high // shape[-2], shape[-1], wide // shape[-1])


def spread(tree: Params, masks: Params, layers: LayerTable, table: LayerTable) -> Params:
    """`masks` with each block as it is in `tree`, whose kernels have one entry per block."""
    for layer, small in zip(layers.maskable, table, strict=True):
        whole = _parts(leaf(masks, layer.kernel), small.shape)
        block = jnp.expand_dims(leaf(tree, layer.kernel), (-3, -1))
        kernel = jnp.broadcast_to(block, whole.shape).reshape(layer.stack + layer.shape)
        masks = with_leaf(masks, layer.kernel, kernel)
    return masks


def _live(masks: Params, layers: LayerTable, table: LayerTable) -> Params:
    """Which blocks live."""
    sums = summed(masks, layers, table)
    for small in table:
        sums = with_leaf(sums, small.kernel, leaf(sums, small.kernel) > 0)
    return sums


def _misfit(block: Block) -> Callable[[Params, LayerTable, Any], str | None]:
    """Which layer has blocks of which a part lives."""

    def misfit(masks: Params, layers: LayerTable, settings: Any) -> str | None:
        for layer, small in zip(layers.maskable, coarse(layers, block), strict=True):
            parts = _parts(np.asarray(leaf(masks, layer.kernel)), small.shape)
            if np.any(parts.any(axis=(-3, -1)) != parts.all(axis=(-3, -1))):
                return f"{layer.name} has blocks of {max(block)}x{min(block)} of which a part lives"
        return None

    return misfit


def _counts(layers: LayerTable, knob: float, block: Block) -> list[int]:
    """Live blocks of each tensor at sparsity `knob`."""
    size = block[0] * block[1]
    kept = allocation.erk(layers, knob, minimum=size)
    # As many blocks dead as the dead weights fill: rounded in favour of the weights, as everywhere.
    return [
        layer.size // size - (layer.size - n) // size
        for (layer, _), n in zip(layers.tensors, kept, strict=True)
    ]


@functools.cache
def drop_grow_family(block: Block) -> Sparsifier:
    """Drop-and-grow on blocks; `counts` and `drops` of its settings are numbers of blocks."""

    def init(key: jax.Array, params: Params, layers: LayerTable, settings: Any) -> tuple[Params, Any, Any]:
        table = coarse(layers, block)
        _, _, small = drop_grow.init(key, summed(params, layers, table), table, settings)
        masks: Params = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
        masks = spread(small.masks, masks, layers, table)
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
        """The blocks of least sum |w| go, those of largest sum |gradient| or random ones come."""
        chosen, layers, table = state.settings, state.layers, coarse(state.layers, block)
        blocks = _live(state.masks, layers, table)
        weights, live, gradient = (
            rows.to_rows(tree, table)
            for tree in (summed(params, layers, table), blocks, summed(evidence.grad(), layers, table))
        )
        drops = drop_grow.scheduled(chosen, tick)
        drop_key, noise_key, grow_key = jax.random.split(key, 3)
        keep = rows.top(weights, chosen.counts - drops, drop_key, live)
        score = jnp.where(chosen.grow_by_gradient, gradient, jax.random.uniform(noise_key, weights.shape))
        grow = rows.top(score, drops, grow_key, rows.exists(blocks, table) & ~keep)

        def whole(chosen: jax.Array) -> jax.Array:
            return rows.to_rows(
                spread(rows.from_rows(chosen, blocks, table), state.masks, layers, table), layers
            )

        params, opt_state, masks = drop_grow.replant(
            params,
            opt_state,
            state,
            (whole(keep), whole(grow)),
            (rows.to_rows(params, layers), rows.to_rows(state.masks, layers)),
            chosen.zero_slots,
        )
        return params, extra, opt_state, state._replace(masks=masks), Effects.of(happened=chosen.evolves)

    name = f"blocks_{block[0]}x{block[1]}"
    return drop_grow.DROP_GROW._replace(name=name, init=init, evolve=evolve, misfit=_misfit(block))


@functools.cache
def pruning_family(block: Block) -> Sparsifier:
    """Pruning by magnitude of whole blocks."""

    def select(
        key: jax.Array, scores: Params, masks: Params, counts: jax.Array, layers: LayerTable
    ) -> Params:
        table = coarse(layers, block)
        blocks = _live(masks, layers, table)
        every, live = rows.to_rows(summed(scores, layers, table), table), rows.to_rows(blocks, table)
        kept = rows.top(every, counts // (block[0] * block[1]), key, live)
        return spread(rows.from_rows(kept, blocks, table), masks, layers, table)

    own = pruning.family(f"magnitude_{block[0]}x{block[1]}", pruning.magnitude, select)
    return own._replace(misfit=_misfit(block))


def _drop_and_grow(name: str, block: Block, by_gradient: bool, summary: str) -> Method:
    def settings(layers: LayerTable, knob: float, events: Events, source: str) -> drop_grow.Settings:
        table, counts = coarse(layers, block), _counts(layers, knob, block)
        return drop_grow.settings(
            table,
            counts,
            events,
            evolves=drop_grow.room(table, counts),
            grow_by_gradient=by_gradient,
            random_mask=source == "paper",
        )

    def promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
        coarse(layers, block)
        size = block[0] * block[1]
        counts = [n * size for n in _counts(layers, knob, block)]
        evolves = drop_grow.room(layers, counts)
        return Promise(counts, events=events.count if evolves else 0, dense_growth=evolves and by_gradient)

    return Method(name, drop_grow_family(block), settings, promise, summary)


def rigl(name: str, block: Block) -> Method:
    """RigL on blocks."""
    return _drop_and_grow(name, block, True, f"rigl on blocks of {max(block)}x{min(block)}")


def set_(name: str, block: Block) -> Method:
    """SET on blocks."""
    return _drop_and_grow(name, block, False, f"set on blocks of {max(block)}x{min(block)}")


def gradual(name: str, block: Block) -> Method:
    """Gradual magnitude pruning on blocks."""
    done = pruning.gradually(magnitude.BEGIN, magnitude.END)

    def settings(layers: LayerTable, knob: float, events: Events, source: str) -> pruning.Settings:
        own = pruning.settings(coarse(layers, block), _counts(layers, knob, block), events, done(events))
        return own._replace(counts=np.int32(own.counts * (block[0] * block[1])))

    return pruning.method(
        name, pruning_family(block), settings, f"gradual on blocks of {max(block)}x{min(block)}"
    )


RIGL_16X1 = rigl("rigl_16x1", BLOCK)
SET_16X1 = set_("set_16x1", BLOCK)
GRADUAL_16X1 = gradual("gradual_16x1", BLOCK)
