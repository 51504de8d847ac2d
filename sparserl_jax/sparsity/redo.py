"""ReDo (Sokar et al. 2023): at every event, units that have fallen asleep begin anew.

For each hidden unit i with s_i <= tau (see activity.py; tau = 0.1), judged by the event's minibatch:

    incoming weights and bias    drawn anew from the law of their initial values
    outgoing weights             zero: the network computes on as if the unit were still asleep
    their optimiser slots        zero

Alone (`redo`) every weight of the network is active and stays so. `method` puts ReDo on top of any other method: its
own event comes first, and what is dead stays dead. An event that finds no unit asleep is none.

A layer's law is known by what it drew: new weights are picked at random from the initial weights of their layer. Target
networks are not touched; they follow.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable, leaf, with_leaf
from sparserl_jax.sparsity import activity
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Effects, Events, Evidence, Method, Params, Promise, Sparsifier
from sparserl_jax.sparsity.dense import DENSE
from sparserl_jax.sparsity.slots import map_slots

TAU = 0.1
"""A unit is asleep whose activity is at most this fraction of its layer's mean."""


def redrawn(key: jax.Array, initial: jax.Array, copies: int) -> jax.Array:
    """As many values as `initial` has, each picked at random from those of its own copy."""
    flat = initial.reshape(copies, -1)
    picks = jax.random.randint(key, flat.shape, 0, flat.shape[1])
    return jnp.take_along_axis(flat, picks, axis=1).reshape(initial.shape)


def _along(units: jax.Array, layer: Layer, axis: int) -> jax.Array:
    """bool[copy, unit] as wide as the layer's kernel, units along its input (-2) or output (-1) axis."""
    shape = [1] * len(layer.shape)
    shape[axis] = units.shape[1]
    return jnp.broadcast_to(units.reshape(*layer.stack, *shape), layer.stack + layer.shape)


def recycle(
    key: jax.Array, params: Params, masks: Params, layers: LayerTable, evidence: Evidence
) -> tuple[Params, Params]:
    """(parameters with sleeping units begun anew, bool tree of what that concerns)."""
    hidden, initial = evidence.activations(), evidence.init_params()
    concerns: Params = jax.tree.map(lambda value: jnp.zeros(value.shape, bool), params)
    asleep: dict[str, jax.Array] = {}
    for number, layer in enumerate(layers.hidden):
        found, _ = activity.dormant(
            activity.activity(layer, hidden[layer.name]), activity.exists(layer, masks), TAU
        )
        asleep[layer.outputs] = found
        keys = jax.random.split(jax.random.fold_in(key, number))
        into = _along(found, layer, -1)
        fresh = redrawn(keys[0], leaf(initial, layer.kernel), layer.copies)
        params = with_leaf(params, layer.kernel, jnp.where(into, fresh, leaf(params, layer.kernel)))
        concerns = with_leaf(concerns, layer.kernel, into)
        if layer.bias is not None:
            units = found.reshape(leaf(params, layer.bias).shape)
            fresh = redrawn(keys[1], leaf(initial, layer.bias), layer.copies)
            params = with_leaf(params, layer.bias, jnp.where(units, fresh, leaf(params, layer.bias)))
            concerns = with_leaf(concerns, layer.bias, units)
    # Behind all draws: a weight between two sleeping units is zero.
    for layer in layers:
        if layer.inputs in asleep:
            out = _along(asleep[layer.inputs], layer, -2)
            params = with_leaf(params, layer.kernel, jnp.where(out, 0.0, leaf(params, layer.kernel)))
            concerns = with_leaf(concerns, layer.kernel, leaf(concerns, layer.kernel) | out)
    # What is masked and not of these units is the method's own: of some it waits at its value.
    dead = jax.tree.map(lambda at, live: at & ~live, concerns, masks)
    return jax.tree.map(lambda value, at: jnp.where(at, 0.0, value), params, dead), concerns


@functools.cache
def over(inner: Sparsifier) -> Sparsifier:
    """A family with ReDo behind every event of its own; its state knows its layers."""

    def evolve(
        key: jax.Array,
        tick: jax.Array,
        params: Params,
        extra: Any,
        opt_state: Any,
        state: Any,
        evidence: Evidence,
    ) -> tuple[Params, Any, Any, Any, Effects]:
        """The inner event, if it happens, and sleeping units begun anew."""
        inner_key, own_key = jax.random.split(key)
        before = (params, extra, opt_state, state)
        *after, effects = inner.evolve(inner_key, tick, *before, evidence)
        params, extra, opt_state, state = jax.tree.map(
            lambda new, old: jnp.where(effects.happened, new, old), tuple(after), before
        )
        _, masks, _ = inner.deployed(params, extra, state)
        params, concerns = recycle(own_key, params, masks, state.layers, evidence)
        opt_state = map_slots(
            lambda slots: jax.tree.map(
                lambda slot, at: jnp.where(at, jnp.zeros_like(slot), slot), slots, concerns
            ),
            opt_state,
            params,
        )
        some = mask_ops.count(concerns) > 0
        return params, extra, opt_state, state, effects.kept()._replace(happened=effects.happened | some)

    return inner._replace(
        name=f"redo_{inner.name}", evolve=evolve, declares=inner.declares._replace(slots="zero_changed")
    )


def method(name: str, inner: Method, summary: str) -> Method:
    """ReDo on top of a method whose state knows its layers, as those shipped here do.

    Where `inner` looks at dense gradients at its events, costs count them at every event, as if all were its own.
    """

    def promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
        promised = inner.promise(layers, knob, events, source)
        if promised.narrow is not None:
            raise UserError(
                f"method '{name}': ReDo draws weights anew by the law of the wide network, and '{inner.name}' is a "
                "narrow one; put it on another method."
            )
        return promised._replace(events=events.count)

    return Method(name, over(inner.family), inner.settings, promise, summary, coefficient=inner.coefficient)


REDO = method("redo", DENSE, "dense, with sleeping units begun anew at every event")
