"""A method that keeps every promise, and copies of it that break one each."""

from __future__ import annotations

from typing import Any

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
    Params,
    Promise,
    Sparsifier,
    identity_effective,
    no_penalty,
)
from sparserl_jax.sparsity.ds_td3 import DS_TD3
from sparserl_jax.sparsity.slots import map_slots
from tests.reference.toy_methods import MaskState, Plan, _mask_deployed, _mask_gradients, _mask_project


def settings(layers: LayerTable, knob: float, events: Events, source: str) -> np.ndarray:
    """Live weights per tensor, i32[T]."""
    return np.array([round((1 - knob) * layer.size) for layer, _ in layers.tensors], np.int32)


def init(key: jax.Array, params: Params, layers: LayerTable, own: Any) -> tuple[Params, Any, MaskState]:
    """The largest initial weights live."""
    masks = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
    masks = mask_ops.largest(masks, params, own, layers)
    return mask_ops.apply(masks, params), {}, MaskState(masks, own, Plan(layers))


def evolve(
    key: jax.Array,
    tick: jax.Array,
    params: Params,
    extra: Any,
    slots: Any,
    state: MaskState,
    evidence: Evidence,
) -> tuple[Params, Any, Any, MaskState, Effects]:
    """The largest weights live, after a small shake that lets dead ones come back."""
    keys = jax.random.split(key, len(jax.tree.leaves(params)))
    keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
    shaken = jax.tree.map(lambda w, k: w + 0.1 * jax.random.normal(k, w.shape), params, keys)
    masks = mask_ops.largest(state.masks, shaken, state.settings, state.plan.layers)
    slots = map_slots(lambda slot: mask_ops.apply(masks, slot), slots, params)
    return mask_ops.apply(masks, params), extra, slots, state._replace(masks=masks), Effects.of(True)


def promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
    """The counts of the settings, and an event at every interval."""
    return Promise(settings(layers, knob, events, source).tolist(), events=events.count)


FAMILY = Sparsifier(
    name="magnitude",
    init=init,
    effective=identity_effective,
    penalty=no_penalty,
    gradients=_mask_gradients,
    project=_mask_project,
    evolve=evolve,
    deployed=_mask_deployed,
    declares=Declares(budget="per_tensor", targets="online", slots="zero_inactive"),
)
GOOD = Method("magnitude", FAMILY, settings, promise, "the largest weights live")


def _with(**functions: Any) -> Method:
    return GOOD._replace(name="faulty", family=FAMILY._replace(**functions))


def _more(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
    found = promise(layers, knob, events, source)
    return found._replace(counts=[found.counts[0] + 1, *found.counts[1:]])


def _more_at_last(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
    """As it is up to the last event, and one weight more from there on."""
    found = promise(layers, knob, events, source)
    return _more(layers, knob, events, source)._replace(phases=[found.counts] * events.count)


def _branch(params: Params, extra: Any, state: MaskState, clock: Any) -> jax.Array:
    return jnp.float32(1) if params["mlp"]["output"]["bias"].sum() > 0 else jnp.float32(0)


def _unequal(params: Params, extra: Any, state: MaskState) -> tuple[Params, Params, str]:
    return params, jax.tree.map(lambda mask: mask.astype(jnp.float32), state.masks), "plain"


def _shaky(params: Params, extra: Any, state: MaskState, mode: str, key: jax.Array) -> Params:
    if mode != "act":
        return params
    return jax.tree.map(lambda w, m: jnp.where(m, w + 0.05 * jnp.sign(w), w), params, state.masks)


def _of_slots(params: Params, extra: Any, opt_state: Any, state: MaskState) -> tuple[Params, Any, Any]:
    return (mask_ops.apply(state.masks, params) if opt_state is None else params), extra, opt_state


def _not_of_targets(params: Params, extra: Any, opt_state: Any, state: MaskState) -> tuple[Params, Any, Any]:
    return (params if opt_state is None else mask_ops.apply(state.masks, params)), extra, opt_state


def _masked_unless(unmasked: str) -> Any:
    """`effective` that masks in every mode but one."""

    def effective(params: Params, extra: Any, state: MaskState, mode: str, key: jax.Array) -> Params:
        return params if mode == unmasked else mask_ops.apply(state.masks, params)

    return effective


def _with_gradient(key: jax.Array, tick: jax.Array, params: Params, *rest: Any) -> Any:
    """Dead weights may come back by their gradients."""
    *_, evidence = rest
    params = jax.tree.map(lambda w, g: w - g, params, evidence.grad())
    return evolve(key, tick, params, *rest)


def _asks(*arguments: Any) -> Any:
    *rest, _ = evolve(*arguments)
    return *rest, Effects.of(True, reset_replay=True)


def _host_noise(params: Params, extra: Any, state: MaskState, clock: Any) -> jax.Array:
    weight = np.float32(np.random.default_rng().uniform(0.1, 0.2))
    return weight * sum(jnp.sum(w**2) for w in jax.tree.leaves(params))


def _among_members(*arguments: Any) -> Any:
    """Biases fall by the mean of what is computed together: by NumPy, hence over all members."""
    params, extra, slots, state, effects = evolve(*arguments)

    def centred(bias: np.ndarray) -> np.ndarray:
        return np.asarray(bias - np.mean(bias), np.float32)

    path = state.plan.layers[0].bias
    shape = jax.ShapeDtypeStruct(leaf(params, path).shape, jnp.float32)
    moved = jax.pure_callback(centred, shape, leaf(params, path), vmap_method="broadcast_all")
    return with_leaf(params, path, moved), extra, slots, state, effects


def _explodes(params: Params, extra: Any, state: MaskState, clock: Any) -> jax.Array:
    return jnp.float32(1e30) * sum(jnp.sum(w**4) for w in jax.tree.leaves(params)) * jnp.float32(1e30)


def _choosy() -> Method:
    """Targets are promised to be cut to their own weights, and are not."""
    return DS_TD3._replace(family=DS_TD3.family._replace(project=_not_of_targets))


FAULTS: dict[str, list[Method]] = {
    "functions": [
        _with(penalty=_branch),
        _with(deployed=_unequal),
        _with(adopt=lambda params, masks, state: (params, {}, masks)),
        _with(extra_rate=lambda state: jnp.zeros(2)),
        _with(diagnose=lambda params, extra, state: {"live": jnp.int32(3)}),
    ],
    "finite": [_with(penalty=_explodes)],
    "deployment": [_with(effective=_shaky)],
    "actions": [_with(effective=_masked_unless("act"), project=_of_slots)],
    "learning": [_with(effective=_masked_unless("learn"), project=_of_slots)],
    "targets": [_with(project=_not_of_targets), _choosy()],
    "budget": [GOOD._replace(promise=_more), GOOD._replace(promise=_more_at_last)],
    "events": [
        GOOD._replace(promise=lambda *a: promise(*a)._replace(events=0)),
        GOOD._replace(promise=lambda *a: promise(*a)._replace(events=promise(*a).events - 1)),
    ],
    "growth": [_with(evolve=_with_gradient)],
    "slots": [_with(declares=FAMILY.declares._replace(slots="keep"))],
    "resets": [_with(evolve=_asks)],
    "members": [_with(evolve=_among_members)],
    "resumes": [_with(penalty=_host_noise)],
}
"""By the promise that each breaks, and no other."""
