"""SynFlow (Tanaka et al. 2020): prune without data, a little in each of 100 rounds.

    R = 1' |W_L| ... |W_1| 1,   score = w dR/dw,   after round r of n keep the best (1 - S)^(r / n) of all weights

The score of a weight is the sum over all paths through it of the product of their |w|, so a tensor that gets thin gets
valuable: without a residual stream no layer dies before the whole network does (around a block of SimBa the stream
carries the paths, and the block may be emptied). Copies of a twin critic are paths of their own and compete.

No gradient step comes before the end of warm-up, so pruning there and pruning the initial weights are the same: this
happens in `init`, the network is sparse from the first step, and there are no events.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.layers import LayerTable, leaf
from sparserl_jax.sparsity import drop_grow, pruning
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Declares, Events, Method, Params, Promise, no_events

ROUNDS = 100


class Settings(NamedTuple):
    """kept: i32[rounds], live weights of the whole network after each round."""

    kept: Any


def flow(params: Params, layers: LayerTable) -> jax.Array:
    """R: what ones at the input come to at the output, through |weights| alone, summed over outputs and copies; f32[].

    Biases and nonlinearities are left out; a convolution counts by the sum over its window.
    """
    units: dict[str, jax.Array] = {}
    for layer in layers:
        kernel = jnp.abs(leaf(params, layer.kernel)).reshape(
            layer.copies, -1, layer.units_in, layer.units_out
        )
        arriving = units.get(layer.inputs, jnp.ones((layer.copies, layer.units_in)))
        through = jnp.einsum("cwio,ci->co", kernel, arriving)
        units[layer.outputs] = units.get(layer.outputs, 0.0) + through
    return sum((jnp.sum(units[layer.outputs]) for layer in layers if layer.output), jnp.float32(0))


def init(
    key: jax.Array, params: Params, layers: LayerTable, settings: Any
) -> tuple[Params, Any, drop_grow.State]:
    """What is left of the initial weights after all rounds."""

    def prune(masks: Params, at: tuple[jax.Array, jax.Array]) -> tuple[Params, None]:
        kept, key = at
        live = mask_ops.apply(masks, params)
        scores = jax.tree.map(jnp.multiply, live, jax.grad(flow)(live, layers))
        return pruning.over_all(key, scores, masks, kept, layers), None

    dense = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
    keys = jax.random.split(key, len(settings.kept))
    masks, _ = jax.lax.scan(prune, dense, (settings.kept, keys))
    return mask_ops.apply(masks, params), {}, drop_grow.State(masks, settings, layers)


FAMILY = drop_grow.DROP_GROW._replace(
    name="synflow",
    init=init,
    evolve=no_events,
    declares=Declares(budget="global", targets="online", slots="keep"),
)


def settings(layers: LayerTable, knob: float, events: Events, source: str) -> Settings:
    """The exponential schedule, exact at its end."""
    total, last = int(pruning.sizes(layers).sum()), sum(pruning.in_all(layers, knob))
    density = (last / total) ** (np.arange(1, ROUNDS + 1) / ROUNDS)
    kept = np.maximum(np.ceil(density * total - 1e-6), last)
    kept[-1] = last
    return Settings(kept.astype(np.int32))


SYNFLOW = Method(
    "synflow",
    FAMILY,
    settings,
    lambda layers, knob, events, source: Promise(pruning.in_all(layers, knob)),
    "before training and without data, keep the weights on the strongest paths",
)
