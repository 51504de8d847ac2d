"""Neuron pruning: remove whole units on a cubic schedule, the least active first.

From dense; between 20 and 80 % of training every event keeps, in every hidden layer,

    the u(t) units of largest E|h_i|,   u(t) = u_0 - int((u_0 - u) (1 - (1 - x)^3)),   x as in `gradual`

of those still alive, judged by the event's minibatch (the score of Sokar et al. 2023, whose division by the mean of the
layer changes no order; schedule of Zhu and Gupta 2017). A removed unit loses its row, its column and its bias: what is
left is a really narrow network.

u is the width of `tiny` at the same knob, so that both end with networks of the same shape, one grown up narrow and one
made so. Copies of a twin critic choose their units each for itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.layers import LayerTable, leaf, with_leaf
from sparserl_jax.sparsity import activity, drop_grow, magnitude, pruning, tiny
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Declares, Effects, Events, Evidence, Params


class Settings(NamedTuple):
    """As `pruning.Settings`; units: i32[K + 1, L], living output units of each layer after k events."""

    counts: Any
    happens: Any
    interval: Any
    units: Any


def without(masks: Params, alive: dict[str, jax.Array], layers: LayerTable) -> Params:
    """`masks` without the rows, columns and biases of dead units; `alive`: bool[copy, unit] by unit group."""
    for layer in layers:
        mask, window = leaf(masks, layer.kernel), (1,) * len(layer.shape[:-2])
        if layer.inputs in alive:
            mask &= alive[layer.inputs].reshape(*layer.stack, *window, -1, 1)
        if layer.outputs in alive:
            mask &= alive[layer.outputs].reshape(*layer.stack, *window, 1, -1)
            if layer.bias is not None:
                bias = leaf(masks, layer.bias)
                masks = with_leaf(masks, layer.bias, bias & alive[layer.outputs].reshape(bias.shape))
        masks = with_leaf(masks, layer.kernel, mask)
    return masks


def evolve(
    key: jax.Array,
    tick: jax.Array,
    params: Params,
    extra: Any,
    opt_state: Any,
    state: drop_grow.State,
    evidence: Evidence,
) -> tuple[Params, Any, Any, drop_grow.State, Effects]:
    """The most active units of every hidden layer stay."""
    chosen: Any = state.settings
    event = jnp.clip(tick // chosen.interval, 0, len(chosen.units) - 1)
    hidden, alive = evidence.activations(), {}
    for index, layer in enumerate(state.layers):
        if layer in state.layers.hidden:
            keys = jax.random.split(jax.random.fold_in(key, index), layer.copies)
            scores = activity.activity(layer, hidden[layer.name])
            among = activity.exists(layer, state.masks)
            top = jax.vmap(mask_ops.top_count, in_axes=(0, None, 0, 0))
            alive[layer.outputs] = top(scores, chosen.units[event, index], keys, among)
    masks = without(state.masks, alive, state.layers)
    pruned = mask_ops.apply(masks, params)
    return (
        pruned,
        extra,
        opt_state,
        state._replace(masks=masks),
        Effects.of(happened=chosen.happens[event]),
    )


FAMILY = drop_grow.DROP_GROW._replace(
    name="neurons",
    init=pruning.init,
    evolve=evolve,
    declares=Declares(budget="per_tensor", targets="online", slots="keep"),
)


def settings(layers: LayerTable, knob: float, events: Events, source: str) -> Settings:
    """From all units to those of `tiny` at the same knob."""
    done = pruning.gradually(magnitude.BEGIN, magnitude.END)(events)
    narrow = tiny.widths(layers, knob)

    def width(group: str, full: int, share: float) -> int:
        return full - int(share * (full - narrow.get(group, full)))

    units = np.array([[width(layer.outputs, layer.units_out, share) for layer in layers] for share in done])
    counts = [
        [
            layer.window
            * width(layer.inputs, layer.units_in, share)
            * width(layer.outputs, layer.units_out, share)
            for layer, _ in layers.tensors
        ]
        for share in done
    ]
    return Settings(
        counts=np.array(counts, np.int32),
        happens=np.concatenate([[False], (np.diff(units, axis=0) != 0).any(axis=1)]),
        interval=np.int32(events.interval),
        units=units.astype(np.int32),
    )


NEURONS = pruning.method(
    "neurons", FAMILY, settings, "from dense, remove the least active units on a cubic schedule"
)
