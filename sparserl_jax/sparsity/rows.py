"""All weight tensors of a network as the rows of one array, so that selecting in them is one mapped call."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sparserl_jax.layers import LayerTable, leaf, with_leaf
from sparserl_jax.sparsity import masks as mask_ops


def to_rows(tree: Any, layers: LayerTable) -> jax.Array:
    """All maskable tensors of a tree as rows [T, widest tensor], padded behind with zeros or False.

    One row per tensor lets every selection be one mapped call; a call per tensor would compile the same loops anew
    for each shape.
    """
    width = max(layer.size for layer in layers.maskable)
    rows = []
    for layer in layers.maskable:
        flat = leaf(tree, layer.kernel).reshape(layer.copies, layer.size)
        rows.append(jnp.pad(flat, ((0, 0), (0, width - layer.size))))
    return jnp.concatenate(rows)


def from_rows(rows: jax.Array, tree: Any, layers: LayerTable) -> Any:
    """`tree` with its maskable tensors replaced by those in `rows`."""
    at = 0
    for layer in layers.maskable:
        kernel = rows[at : at + layer.copies, : layer.size].reshape(layer.stack + layer.shape)
        tree = with_leaf(tree, layer.kernel, kernel)
        at += layer.copies
    return tree


def top(
    scores: jax.Array, counts: jax.Array, key: jax.Array | None = None, among: jax.Array | None = None
) -> jax.Array:
    """Mask of the `counts[t]` entries with the largest scores in row t, bool[T, W]; ties as in `masks.top_count`.

    Args:
        scores: f32[T, W]. counts: i32[T], may be traced. among: bool[T, W], the candidates.
    """
    keys = None if key is None else jax.random.split(key, len(scores))
    each = (scores, counts, keys, among)
    if jax.default_backend() != "cpu":
        return jax.vmap(mask_ops.top_count)(*each)
    # One tensor after the other: the counting passes of one stay in the cache, those of all would not.
    return jax.lax.map(lambda row: mask_ops.top_count(*row), each)


def sample(key: jax.Array, counts: jax.Array, among: jax.Array) -> jax.Array:
    """Mask of `counts[t]` entries of row t, drawn uniformly from those in `among`, bool[T, W]."""
    noise_key, tie_key = jax.random.split(key)
    return top(jax.random.uniform(noise_key, among.shape), counts, tie_key, among)


def exists(tree: Any, layers: LayerTable) -> jax.Array:
    """Which entries of the rows of `tree` are weights and not padding, bool[T, W]."""
    return to_rows(jax.tree.map(lambda x: jnp.ones(jnp.shape(x), bool), tree), layers)
