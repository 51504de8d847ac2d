"""Top-KAST (Jayakumar et al. 2020): compute with the largest weights, learn a few more of them.

With forward density d and backward density e > d of a tensor, looked up at every topology event and fixed until the
next:

    A = the d largest |w|      forward pass with w on A
    B = the e largest |w|      the gradient is applied on B, which holds A; outside B weights stay as they are
    loss + lambda (sum over A of w^2 + sum over B but not A of w^2 / d)

The penalty, stronger outside A, keeps a weight of B from entering A unless the loss wants it there. Counts of A are
Erdos-Renyi-kernel at the knob's sparsity; e = 2 d (90 % forward goes with 80 % backward), at most 1.

Only A acts, is evaluated and deployed. Target networks are averages of all weights, used on the online A.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable, leaf
from sparserl_jax.sparsity import allocation, drop_grow, pruning, straight_through
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Declares, Effects, Events, Evidence, Method, Mode, Params, Promise
from sparserl_jax.sparsity.ste import select

WIDER = 2.0
"""Weights of B for each one of A."""
STRENGTH = 1e-4
"""lambda, of the size of a weight decay."""


class Settings(NamedTuple):
    """counts, wider: i32[T], weights of A and of B in each tensor. strength: f32, lambda."""

    counts: Any
    wider: Any
    strength: Any


class State(NamedTuple):
    """masks: A. wider: B. rest: the weights as they were when B was looked up, for those outside it."""

    masks: Params
    wider: Params
    rest: Params
    settings: Settings
    layers: LayerTable


jax.tree_util.register_pytree_node(
    State,
    lambda state: ((state.masks, state.wider, state.rest, state.settings), state.layers),
    lambda layers, children: State(*children, layers),
)


def looked_up(params: Params, settings: Settings, layers: LayerTable) -> State:
    """A and B of the weights as they are."""
    alive = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
    inner, outer = (select(params, alive, counts, layers) for counts in (settings.counts, settings.wider))
    return State(inner, outer, params, settings, layers)


def init(key: jax.Array, params: Params, layers: LayerTable, settings: Any) -> tuple[Params, Any, State]:
    """All weights, and which of them compute and learn."""
    return params, {}, looked_up(params, settings, layers)


def effective(params: Params, extra: Any, state: State, mode: Mode, key: jax.Array) -> Params:
    """A, whatever the mode; while learning, gradients pass straight to all weights."""
    if mode == "learn":
        return straight_through.through(state.masks, params)
    return mask_ops.apply(state.masks, params)


def penalty(params: Params, extra: Any, state: State, clock: Any) -> jax.Array:
    """lambda times the squares of A, and those of the rest of B by their tensor's density."""
    total, at = jnp.float32(0), 0
    for layer in state.layers.maskable:
        squares, inner, outer = (
            leaf(tree, layer.kernel).reshape(layer.copies, layer.size)
            for tree in (jax.tree.map(jnp.square, params), state.masks, state.wider)
        )
        density = state.settings.counts[at : at + layer.copies, None] / layer.size
        weight = jnp.where(inner, 1.0, jnp.where(outer, 1 / density, 0.0))
        total += jnp.sum(weight * squares)
        at += layer.copies
    return state.settings.strength * total


def gradients(grads: Params, params: Params, extra: Any, state: State) -> Params:
    """Of B."""
    return mask_ops.apply(state.wider, grads)


def project(params: Params, extra: Any, opt_state: Any, state: State) -> tuple[Params, Any, Any]:
    """Outside B nothing moves, though old Adam moments would move it."""
    return jax.tree.map(jnp.where, state.wider, params, state.rest), extra, opt_state


def evolve(
    key: jax.Array,
    tick: jax.Array,
    params: Params,
    extra: Any,
    opt_state: Any,
    state: State,
    evidence: Evidence,
) -> tuple[Params, Any, Any, State, Effects]:
    """Look A and B up."""
    some = jnp.any(jnp.asarray(state.settings.counts) < pruning.sizes(state.layers))  # else all act and learn
    return params, extra, opt_state, looked_up(params, state.settings, state.layers), Effects.of(some)


FAMILY = drop_grow.DROP_GROW._replace(
    name="top_kast",
    init=init,
    effective=effective,
    penalty=penalty,
    gradients=gradients,
    project=project,
    evolve=evolve,
    declares=Declares(budget="per_tensor", targets="none", slots="keep"),
    # What leaves the building is A: a network that starts from it has no B.
    adopt=None,
)


def method(name: str, summary: str, *, wider: float = WIDER, strength: float = STRENGTH) -> Method:
    """A method of this family with densities and a penalty of its own.

    Args:
        wider: e / d, from 1 (nothing but A learns) on.
        strength: lambda, from 0 on.

    Raises:
        UserError: a number out of range.
    """
    if not (wider >= 1 and strength >= 0 and np.isfinite([wider, strength]).all()):
        raise UserError(
            f"{name}: wider = {wider} has to be at least 1, for what acts learns, too, and strength = {strength} at "
            "least 0; change them."
        )

    def settings(layers: LayerTable, knob: float, events: Events, source: str) -> Settings:
        counts = np.array(allocation.erk(layers, knob), np.int64)
        outer = np.minimum((wider * counts).astype(np.int64), pruning.sizes(layers))
        return Settings(counts.astype(np.int32), outer.astype(np.int32), np.float32(strength))

    def promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
        chosen = settings(layers, knob, events, source)
        moves = drop_grow.room(layers, chosen.counts.tolist())
        return Promise(
            chosen.counts.tolist(), events=events.count if moves else 0, learned=chosen.wider.tolist()
        )

    return Method(name, FAMILY, settings, promise, summary)


TOP_KAST = method("top_kast", "compute with the largest weights, learn twice as many of them")
