"""How active the units of a layer are: who exists, and who is dormant (Sokar et al. 2023, definition 3.1).

    s_i = E|h_i| / mean_k E|h_k|        dormant: s_i <= tau

over a batch, h_i the activation of unit i of the layer.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparserl_jax.layers import Layer, leaf
from sparserl_jax.sparsity.contract import Params


def activity(layer: Layer, values: jax.Array) -> jax.Array:
    """E|h_i| of every unit, f32[copy, unit], of activations f32[*stack, batch, ..., unit]."""
    return jnp.mean(jnp.abs(values).reshape(layer.copies, -1, layer.units_out), axis=1)


def exists(layer: Layer, masks: Params) -> jax.Array:
    """Whether a unit's bias or any weight into it is live, bool[copy, unit]."""
    found = jnp.any(leaf(masks, layer.kernel).reshape(layer.copies, -1, layer.units_out), axis=1)
    return found if layer.bias is None else found | leaf(masks, layer.bias).reshape(found.shape)


def dormant(activity: jax.Array, exists: jax.Array, tau: float) -> tuple[jax.Array, jax.Array]:
    """Which units have an activity of at most tau times the mean of their layer, bool[copy, unit], and that mean.

    A layer in which nothing moves is dormant as a whole. Units that do not exist count neither as dormant nor in the
    mean.
    """
    activity = jnp.where(exists, activity, 0.0)
    mean = jnp.sum(activity, axis=-1) / jnp.maximum(jnp.sum(exists, axis=-1), 1)
    return exists & (activity <= tau * mean[..., None]), mean
