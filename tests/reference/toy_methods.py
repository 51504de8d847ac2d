"""Three deliberately different methods, written against the Sparsifier contract alone: is it wide enough?

- `GATES`: a trained gate on every parameter, soft while learning, hard everywhere else.
- `DORMANT`: every event removes the least active hidden unit, judged by activations.
- `TICKET`: every event prunes by magnitude and rewinds the rest to the initial weights (lottery ticket).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.layers import LayerTable, leaf, with_leaf
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import (
    Declares,
    Effects,
    Events,
    Evidence,
    Method,
    Mode,
    Params,
    Promise,
    Sparsifier,
    identity_effective,
    no_events,
    no_penalty,
)
from sparserl_jax.sparsity.slots import map_slots

LARGEST_LOGIT = 4.0


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Plan:
    """What a method keeps of its network's description."""

    layers: LayerTable


class MaskState(NamedTuple):
    """Masks, settings, and the static layer table."""

    masks: Params
    settings: Any
    plan: Plan


def _mask_gradients(grads: Params, params: Params, extra: Any, state: MaskState) -> Params:
    return mask_ops.apply(state.masks, grads)


def _mask_project(params: Params, extra: Any, opt_state: Any, state: MaskState) -> tuple[Params, Any, Any]:
    return mask_ops.apply(state.masks, params), extra, opt_state


def _mask_deployed(params: Params, extra: Any, state: MaskState) -> tuple[Params, Params, str]:
    return mask_ops.apply(state.masks, params), state.masks, "plain"


def _all_active(params: Params) -> Params:
    return jax.tree.map(lambda value: jnp.ones(value.shape, bool), params)


# ---- gates -------------------------------------------------------------------------------------------------


class GateSettings(NamedTuple):
    """centre: f32, mean of the initial logits. strength: f32, weight of the penalty on open gates."""

    centre: np.ndarray
    strength: np.ndarray


def _gate_init(
    key: jax.Array, params: Params, layers: LayerTable, settings: GateSettings
) -> tuple[Params, Any, GateSettings]:
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    logits = [
        settings.centre + jax.random.normal(k, value.shape) for k, value in zip(keys, leaves, strict=True)
    ]
    return params, {"log_gates": jax.tree.unflatten(structure, logits)}, settings


def _gate_effective(params: Params, extra: Any, state: GateSettings, mode: Mode, key: jax.Array) -> Params:
    if mode == "learn":
        return jax.tree.map(lambda w, z: w * jax.nn.sigmoid(z), params, extra["log_gates"])
    return jax.tree.map(lambda w, z: jnp.where(z > 0, w, 0.0), params, extra["log_gates"])


def _gate_penalty(params: Params, extra: Any, state: GateSettings, clock: Any) -> jax.Array:
    return state.strength * sum(jnp.sum(jax.nn.sigmoid(z)) for z in jax.tree.leaves(extra))


def _gate_project(params: Params, extra: Any, opt_state: Any, state: GateSettings) -> tuple[Params, Any, Any]:
    return params, jax.tree.map(lambda z: jnp.clip(z, -LARGEST_LOGIT, LARGEST_LOGIT), extra), opt_state


def _gate_deployed(params: Params, extra: Any, state: GateSettings) -> tuple[Params, Params, str]:
    masks = jax.tree.map(lambda z: z > 0, extra["log_gates"])
    return mask_ops.apply(masks, params), masks, "plain"


def _gate_settings(layers: LayerTable, knob: float, events: Events, source: str) -> GateSettings:
    return GateSettings(np.float32(1 - 2 * knob), np.float32(0.01 + knob / 10))


GATES = Method(
    "gates",
    Sparsifier(
        name="gates",
        init=_gate_init,
        effective=_gate_effective,
        penalty=_gate_penalty,
        gradients=lambda grads, params, extra, state: grads,
        project=_gate_project,
        evolve=no_events,
        deployed=_gate_deployed,
        declares=Declares(budget="none", targets="none", slots="keep", learning="dense"),
    ),
    _gate_settings,
    lambda layers, knob, events, source: Promise([layer.size for layer, _ in layers.tensors]),
    "a trained gate on every parameter",
)


# ---- least active units ------------------------------------------------------------------------------------


class DormantSettings(NamedTuple):
    """least: i32, hidden units that every layer keeps."""

    least: np.ndarray


def _dormant_init(
    key: jax.Array, params: Params, layers: LayerTable, settings: DormantSettings
) -> tuple[Params, Any, MaskState]:
    return params, {}, MaskState(_all_active(params), settings, Plan(layers))


def _dormant_evolve(
    key: jax.Array,
    tick: jax.Array,
    params: Params,
    extra: Any,
    opt_state: Any,
    state: MaskState,
    evidence: Evidence,
) -> tuple[Params, Any, Any, MaskState, Effects]:
    layers, masks, hidden = state.plan.layers, state.masks, evidence.activations()
    for layer, following in zip(layers[:-1], layers[1:], strict=True):
        activity = jnp.mean(jnp.abs(hidden[layer.name]), axis=-2)  # [..., units]
        alive = leaf(masks, layer.bias)
        worst = jnp.argmin(jnp.where(alive, activity, jnp.inf), axis=-1)
        remove = jnp.arange(layer.units_out) == worst[..., None]
        remove &= jnp.sum(alive, axis=-1, keepdims=True) > state.settings.least
        masks = with_leaf(masks, layer.bias, alive & ~remove)
        masks = with_leaf(masks, layer.kernel, leaf(masks, layer.kernel) & ~remove[..., None, :])
        masks = with_leaf(masks, following.kernel, leaf(masks, following.kernel) & ~remove[..., :, None])
    opt_state = map_slots(lambda slots: mask_ops.apply(masks, slots), opt_state, params)
    return mask_ops.apply(masks, params), extra, opt_state, state._replace(masks=masks), Effects.of(True)


def _dormant_settings(layers: LayerTable, knob: float, events: Events, source: str) -> DormantSettings:
    return DormantSettings(np.int32(round((1 - knob) * layers[0].units_out)))


DORMANT = Method(
    "dormant",
    Sparsifier(
        name="dormant",
        init=_dormant_init,
        effective=identity_effective,
        penalty=no_penalty,
        gradients=_mask_gradients,
        project=_mask_project,
        evolve=_dormant_evolve,
        deployed=_mask_deployed,
        declares=Declares(budget="at_most", targets="online", slots="zero_inactive"),
    ),
    _dormant_settings,
    lambda layers, knob, events, source: Promise(
        [layer.size for layer, _ in layers.tensors], events=events.count
    ),
    "every event removes the least active unit of every hidden layer",
)


# ---- lottery ticket ----------------------------------------------------------------------------------------


class TicketSettings(NamedTuple):
    """counts: i32[K + 1, T], live weights per tensor after the k-th event. interval: i32, ticks between events."""

    counts: np.ndarray
    interval: np.ndarray


def _ticket_init(
    key: jax.Array, params: Params, layers: LayerTable, settings: TicketSettings
) -> tuple[Params, Any, MaskState]:
    return params, {}, MaskState(_all_active(params), settings, Plan(layers))


def _ticket_evolve(
    key: jax.Array,
    tick: jax.Array,
    params: Params,
    extra: Any,
    opt_state: Any,
    state: MaskState,
    evidence: Evidence,
) -> tuple[Params, Any, Any, MaskState, Effects]:
    layers, masks, at = state.plan.layers, state.masks, 0
    counts = state.settings.counts[tick // state.settings.interval]
    for layer in layers.maskable:
        weights, alive = (leaf(tree, layer.kernel).reshape(layer.copies, -1) for tree in (params, masks))
        keep = jax.vmap(lambda score, count, among: mask_ops.top_count(score, count, None, among))(
            jnp.abs(weights), counts[at : at + layer.copies], alive
        )
        masks = with_leaf(masks, layer.kernel, keep.reshape(layer.stack + layer.shape))
        at += layer.copies
    rewound = mask_ops.apply(masks, evidence.init_params())
    effects = Effects.of(happened=True, reset_replay=True, reset_targets=True)
    return rewound, extra, jax.tree.map(jnp.zeros_like, opt_state), state._replace(masks=masks), effects


def _ticket_settings(layers: LayerTable, knob: float, events: Events, source: str) -> TicketSettings:
    sizes = np.array([layer.size for layer, _ in layers.tensors])
    share = (1 - knob) ** (np.arange(events.count + 1) / max(events.count, 1))
    return TicketSettings(np.ceil(np.outer(share, sizes)).astype(np.int32), np.int32(events.interval))


def _ticket_promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
    counts = _ticket_settings(layers, knob, events, source).counts.tolist()
    return Promise(counts[-1], events=events.count, phases=counts[:-1])


TICKET = Method(
    "ticket",
    Sparsifier(
        name="ticket",
        init=_ticket_init,
        effective=identity_effective,
        penalty=no_penalty,
        gradients=_mask_gradients,
        project=_mask_project,
        evolve=_ticket_evolve,
        deployed=_mask_deployed,
        declares=Declares(
            budget="per_tensor", targets="online", slots="zero_inactive", resets=("replay", "targets")
        ),
    ),
    _ticket_settings,
    _ticket_promise,
    "magnitude pruning with rewinding to the initial weights",
)
