"""Masks: choosing exactly k entries, applying, counting, comparing and packing them.

A mask is a tree of full bool arrays that mirrors the parameters, True where a parameter lives. Functions are
written for one member; training maps them over members with `jax.vmap`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from sparserl_jax.layers import LayerTable, leaf, with_leaf

_SIGN = 0x8000_0000
_INFINITY = 0x7F80_0000


def _ordered(scores: jax.Array) -> jax.Array:
    """Image of f32 scores in uint32 with the same order: NaN is 0 (lowest), -0.0 and 0.0 coincide.

    All comparisons are on bits, because float comparisons flush subnormal numbers on some devices and would
    turn distinct scores into ties.
    """
    bits = lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.uint32)
    sign = jnp.uint32(_SIGN)
    bits = jnp.where(bits == sign, jnp.uint32(0), bits)
    image = jnp.where(bits >= sign, ~bits, bits | sign)
    return jnp.where((bits & ~sign) > jnp.uint32(_INFINITY), jnp.uint32(0), image)


def _split(
    image: jax.Array, among: jax.Array, want: jax.Array, bits: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Entries surely among the `want` largest, those tied at the threshold, and how many of the tied to take.

    The threshold is the largest number that at least `want` images reach, found bit by bit from the top: at most
    `bits` reductions and no sort, so that `want` may be traced and differ between members. On CPUs the search ends as
    soon as exactly `want` images reach the threshold, usually half way; a tie-break with nothing to decide costs
    nothing. On accelerators the host would have to read after every bit whether that is so; all bits are looked at
    there, which chooses the same entries.
    """

    def undecided(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        bit, _, reached = state
        return (bit > 0) & (reached > want) & (want > 0)

    def narrow(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        bit, threshold, reached = state
        trial = threshold | (jnp.uint32(1) << (bit - 1).astype(jnp.uint32))
        count = jnp.sum(among & (image >= trial), dtype=jnp.int32)
        enough = count >= want
        return bit - 1, jnp.where(enough, trial, threshold), jnp.where(enough, count, reached)

    start = (jnp.int32(bits), jnp.uint32(0), jnp.sum(among, dtype=jnp.int32))
    if jax.default_backend() == "cpu":
        _, threshold, reached = lax.while_loop(undecided, narrow, start)
    else:
        _, threshold, reached = lax.fori_loop(0, bits, lambda _, state: narrow(state), start)
    exact, some = reached == want, want > 0
    sure = among & some & ((image > threshold) | (exact & (image == threshold)))
    tied = among & some & ~exact & (image == threshold)
    return sure, tied, want - jnp.sum(sure, dtype=jnp.int32)


def top_count(
    scores: jax.Array,
    count: ArrayLike,
    key: jax.Array | None = None,
    among: jax.Array | None = None,
) -> jax.Array:
    """Mask of exactly `count` entries with the largest scores.

    Args:
        scores: f32[...]; NaN ranks below -inf.
        count: how many entries to choose, i32[], may be traced; clipped to [0, number of candidates].
        key: typed key that decides ties: winners are uniformly random among equal scores (drawn by 32 random
            bits per entry; the rare equal draws fall back to the index). None: the lowest row-major index
            wins.
        among: bool[...], the candidates; None: every entry.

    Returns:
        bool[...], True for exactly min(count, candidates) entries, all of them candidates.
    """
    among = jnp.ones(scores.shape, bool) if among is None else among
    candidates = jnp.sum(among, dtype=jnp.int32)
    want = jnp.clip(jnp.asarray(count, jnp.int32), 0, candidates)
    chosen, tied, want = _split(_ordered(scores), among, want, 32)
    if key is not None:
        sure, tied, want = _split(jax.random.bits(key, scores.shape, jnp.uint32), tied, want, 32)
        chosen |= sure
    entries = max(scores.size, 1)
    reverse = (entries - 1) - jnp.arange(scores.size, dtype=jnp.uint32).reshape(scores.shape)
    sure, tied, want = _split(reverse, tied, want, max((entries - 1).bit_length(), 1))
    # Indices are distinct, hence at most one entry sits at the last threshold.
    return chosen | sure | (tied & (want > 0))


GROUP = 16
"""Longest group that `top_of_groups` knows; shorter ones divide it."""


def top_of_groups(scores: jax.Array, n: ArrayLike, m: ArrayLike) -> jax.Array:
    """Mask of the `n` largest of every `m` consecutive entries along the last axis but one; among equals the first.

    A last group that is cut short keeps its `n` largest too, or all it has.

    Args:
        scores: f32[..., I, O]; NaN ranks lowest.
        n, m: i32[], may be traced; m divides `GROUP`.
    """
    *front, length, outputs = scores.shape
    # Behind the end: as low as NaN, and later than all that is real.
    image = jnp.pad(_ordered(scores), [(0, 0)] * len(front) + [(0, -length % GROUP), (0, 0)])
    blocks = image.reshape(*front, -1, GROUP, outputs)
    place = jnp.arange(GROUP)
    together = place // m == (place // m)[:, None]
    mine, other = blocks[..., :, None, :], blocks[..., None, :, :]
    earlier = (place < place[:, None])[..., None]
    beaten = together[..., None] & ((other > mine) | ((other == mine) & earlier))
    chosen = jnp.sum(beaten, axis=-2, dtype=jnp.int32) < n
    return chosen.reshape(*front, -1, outputs)[..., :length, :]


def largest(masks: Any, params: Any, counts: jax.Array, layers: LayerTable) -> Any:
    """`masks` with exactly the `counts[t]` weights of largest |w| alive in tensor t; all other leaves are as they were.

    Args:
        counts: i32[T], in the order of `layers.tensors`; may be traced.
    """
    at = 0
    for layer in layers.maskable:
        rows = jnp.abs(leaf(params, layer.kernel)).reshape(layer.copies, layer.size)
        chosen = jax.vmap(top_count)(rows, counts[at : at + layer.copies])
        masks = with_leaf(masks, layer.kernel, chosen.reshape(layer.stack + layer.shape))
        at += layer.copies
    return masks


def count(mask: Any) -> jax.Array:
    """Number of True entries of a bool array or a tree of them, i32[]."""
    return sum((jnp.sum(part, dtype=jnp.int32) for part in jax.tree.leaves(mask)), jnp.int32(0))


def apply(masks: Any, params: Any) -> Any:
    """Parameters with exactly 0 where the mask is False (also where they were NaN or infinite)."""
    return jax.tree.map(lambda mask, value: jnp.where(mask, value, jnp.zeros_like(value)), masks, params)


def nnz_table(layers: LayerTable, masks: Any) -> jax.Array:
    """Live weights per tensor, i32[T], in the order of `layers.tensors`; biases are not counted."""
    per_layer = [
        jnp.sum(leaf(masks, layer.kernel).reshape(layer.copies, -1), axis=1, dtype=jnp.int32)
        for layer in layers.maskable
    ]
    return jnp.concatenate(per_layer) if per_layer else jnp.zeros((0,), jnp.int32)


def overlap(masks: Any, others: Any, layers: LayerTable | None = None) -> jax.Array:
    """Share of the live entries of `masks` that also live in `others`, f32[] in [0, 1]; 1 where nothing
    lives.

    With `layers` only the maskable weights are compared (biases, always live, would flatter the number). For
    masks of equal counts the measure is symmetric, and turnover is one minus it.
    """
    if layers is not None:
        masks, others = ([leaf(tree, layer.kernel) for layer in layers.maskable] for tree in (masks, others))
    shared = count(jax.tree.map(jnp.logical_and, masks, others))
    alive = count(masks)
    ratio = shared.astype(jnp.float32) / jnp.maximum(alive, 1).astype(jnp.float32)
    return jnp.where(alive > 0, ratio, jnp.float32(1))


def pack(mask: np.ndarray) -> np.ndarray:
    """One bit per entry, row-major, first entry in the highest bit: uint8[ceil(entries / 8)] (host)."""
    return np.packbits(np.asarray(mask, bool).reshape(-1))


def unpack(bits: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Mask of the given shape from `pack`'s bytes, bool[shape] (host).

    Raises:
        ValueError: the number of bytes does not belong to the shape.
    """
    entries = math.prod(shape)
    if bits.size != -(-entries // 8):
        raise ValueError(f"{bits.size} packed bytes do not hold a mask of shape {tuple(shape)}")
    return np.unpackbits(bits, count=entries).astype(bool).reshape(tuple(shape))
