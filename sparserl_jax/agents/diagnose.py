"""What a network's activations say about its units: the share that is dormant (Sokar et al. 2023); and what its method
says about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import activity as units
from sparserl_jax.sparsity.contract import Params, Sparsifier

TAU = 0.025
"""A unit is dormant whose activity is at most this fraction of its layer's mean (Sokar et al. 2023, definition 3.1)."""


def dormant_share(activity: jax.Array, exists: jax.Array, tau: float = TAU) -> jax.Array:
    """Share of units with activity <= tau times the mean activity of their layer, f32[].

    A layer in which nothing moves is dormant as a whole: the share is 1. Units that do not exist count neither as
    dormant nor in the mean: the padding of a narrow network in wide shapes is no dead unit. NaN where an activity is
    not finite.

    Args:
        activity: mean absolute activation over a batch, f32[copy, unit]; every copy is a layer of its own.
        exists: bool[copy, unit].
        tau: fraction of the layer's mean.
    """
    dormant, mean = units.dormant(activity, exists, tau)
    share = jnp.sum(dormant) / jnp.maximum(jnp.sum(exists), 1)
    return jnp.where(jnp.all(jnp.isfinite(mean)), share, jnp.nan).astype(jnp.float32)


def dormant_shares(
    layers: LayerTable, masks: Params, activations: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """`dormant_share` of every hidden layer, by name.

    A unit exists if its bias or any weight into it is live.

    Args:
        layers: the network.
        masks: trees of bool, structure of the parameters.
        activations: per hidden layer f32[*stack, batch, ..., unit], axes between batch and units (positions of an
            image) averaged over like the batch.
    """
    return {
        layer.name: dormant_share(units.activity(layer, activations[layer.name]), units.exists(layer, masks))
        for layer in layers
        if not layer.output
    }


def of_method(sparsifier: Sparsifier, name: str, network: Any) -> dict[str, jax.Array]:
    """What the method of the network called `name` shows of it, by column: `<what>_<network>`, or for each layer
    `<what>_<network>_<layer>`.

    Args:
        network: `optimise.Network`.
    """
    if sparsifier.diagnose is None:
        return {}
    found = sparsifier.diagnose(network.params, network.extra, network.sparsity)
    columns: dict[str, jax.Array] = {}
    for what, value in found.items():
        if isinstance(value, Mapping):
            columns |= {f"{what}_{name}_{layer}": share for layer, share in value.items()}
        else:
            columns[f"{what}_{name}"] = value
    return columns
