"""The family of penalties on the size of weights (l1, l2): train dense, act with what is not small.

    loss + lambda sum |w|   or   loss + lambda sum w^2,      support: |w| >= threshold * std of its tensor

over all weights of a network, biases left out; lambda is the knob, and sparsity an outcome. The support is looked up at
every topology event and holds until the next: it is what acts, what is evaluated and deployed, and what target networks
are cut down to. Learning sees all weights, so that one which was small may come back. Everything is alive until the
first event, and stays so where lambda is 0: such a network has no events.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable, leaf, with_leaf
from sparserl_jax.sparsity import drop_grow, pruning
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Declares, Effects, Events, Evidence, Method, Mode, Params, Promise

THRESHOLD = 1e-3
"""Share of the standard deviation of a tensor below which a weight counts as zero."""


class Settings(NamedTuple):
    """strength: f32, lambda. squared: bool, w^2 or |w|. threshold: f32, share of the tensor's standard deviation."""

    strength: Any
    squared: Any
    threshold: Any


def effective(params: Params, extra: Any, state: drop_grow.State, mode: Mode, key: jax.Array) -> Params:
    """All weights while learning, the support in every other mode."""
    return params if mode == "learn" else mask_ops.apply(state.masks, params)


def penalty(params: Params, extra: Any, state: drop_grow.State, clock: Any) -> jax.Array:
    """lambda times the sum of |w| or of w^2."""
    chosen: Any = state.settings
    sums = [
        jnp.sum(jnp.where(chosen.squared, weights**2, jnp.abs(weights)))
        for weights in (leaf(params, layer.kernel) for layer in state.layers.maskable)
    ]
    return chosen.strength * sum(sums, jnp.float32(0))


def gradients(grads: Params, params: Params, extra: Any, state: drop_grow.State) -> Params:
    """Of all weights."""
    return grads


def project(params: Params, extra: Any, opt_state: Any, state: drop_grow.State) -> tuple[Params, Any, Any]:
    """Targets are cut down to the support of the online network; that one stays as it is."""
    return (mask_ops.apply(state.masks, params) if opt_state is None else params), extra, opt_state


def support(masks: Params, params: Params, threshold: jax.Array, layers: LayerTable) -> Params:
    """`masks` with the weights of every tensor alive that are at least `threshold` of its standard deviations."""
    for layer in layers.maskable:
        weights = leaf(params, layer.kernel).reshape(layer.copies, layer.size)
        large = jnp.abs(weights) >= threshold * jnp.std(weights, axis=1, keepdims=True)
        masks = with_leaf(masks, layer.kernel, large.reshape(layer.stack + layer.shape))
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
    """Look the support up; without a penalty there is none, and no event."""
    chosen: Any = state.settings
    masks = support(state.masks, params, chosen.threshold, state.layers)
    return params, extra, opt_state, state._replace(masks=masks), Effects.of(happened=chosen.strength > 0)


FAMILY = drop_grow.DROP_GROW._replace(
    name="penalised",
    init=pruning.init,
    effective=effective,
    penalty=penalty,
    gradients=gradients,
    project=project,
    evolve=evolve,
    declares=Declares(budget="none", targets="online", slots="keep", learning="dense"),
)


def strength(name: str, knob: float) -> np.float32:
    """The knob of the method called `name` as a coefficient of a penalty."""
    if not (knob >= 0 and np.isfinite(knob)):
        raise UserError(f"{name}: the penalty coefficient is {knob}: give a number from 0 on.")
    return np.float32(knob)


def method(name: str, squared: bool, summary: str, threshold: float = THRESHOLD) -> Method:
    """A method of this family, at a threshold of its own, of 0 or more."""
    if not (threshold >= 0 and np.isfinite(threshold)):
        raise UserError(f"{name}: the threshold is {threshold}: give a number from 0 on.")

    def settings(layers: LayerTable, knob: float, events: Events, source: str) -> Settings:
        return Settings(strength(name, knob), np.bool_(squared), np.float32(threshold))

    def promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
        settings(layers, knob, events, source)
        return Promise(pruning.sizes(layers).tolist(), events=events.count)  # at most

    return Method(name, FAMILY, settings, promise, summary, coefficient=True)
