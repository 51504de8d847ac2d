"""The topology of DS-TD3 and DS-SAC (Sokar et al. 2022): drop by sign, grow at random, targets by their own weights.

At an event, in every hidden matrix with n+ active weights that are positive and n- that are negative,

    drop the int(zeta n+) smallest positive and the int(zeta n-) largest negative ones
    grow as many others, uniformly at random

with zeta = 0.05 as published, at all events: the drop fraction of the schedule, made to fall to zero, is not asked.
Zeros count as positive. After every Polyak step a target keeps, in every tensor, as many weights as the online network
has there: its own largest ones, wherever they are.

Output layers are dense; the other densities are lambda_l (in + out) / (in * out) up to a common factor, made to fit the
sparsity of the whole network. lambda is 7 in the input layer and 64 behind it, the numbers of the paper: near a
sparsity of 0.5 the densities are the published ones. The initial mask is random.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import allocation, drop_grow, rows
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Effects, Events, Evidence, Method, Params, Promise

INPUT, BEHIND = 7.0, 64.0
"""lambda of the layers that read the network's input, and of the hidden ones behind them."""
ZETA = 0.05
"""Share of either sign that an event replaces."""


class Settings(NamedTuple):
    """common: as in `drop_grow`, its table of drops not used. zeta: f32, share dropped of either sign."""

    common: drop_grow.Settings
    zeta: Any


def init(
    key: jax.Array, params: Params, layers: LayerTable, settings: Settings
) -> tuple[Params, Any, drop_grow.State]:
    """Random masks with exact counts, and the parameters under them."""
    params, extra, state = drop_grow.init(key, params, layers, settings.common)
    return params, extra, drop_grow.State(state.masks, settings, layers)  # type: ignore[arg-type]


def project(params: Params, extra: Any, opt_state: Any, state: drop_grow.State) -> tuple[Params, Any, Any]:
    """Of a target the largest weights of every tensor, as many as are active online; otherwise the active ones."""
    if opt_state is not None:
        return drop_grow.project(params, extra, opt_state, state)
    chosen: Any = state.settings
    kept = rows.top(jnp.abs(rows.to_rows(params, state.layers)), chosen.common.counts)
    masks = rows.from_rows(kept, state.masks, state.layers)
    return mask_ops.apply(masks, params), extra, opt_state


def evolve(
    key: jax.Array,
    tick: jax.Array,
    params: Params,
    extra: Any,
    opt_state: Any,
    state: drop_grow.State,
    evidence: Evidence,
) -> tuple[Params, Any, Any, drop_grow.State, Effects]:
    """Of either sign the share zeta nearest to zero goes, as many others come."""
    chosen: Any = state.settings
    layers = state.layers
    weights, live = rows.to_rows(params, layers), rows.to_rows(state.masks, layers)
    positive_key, negative_key, grow_key = jax.random.split(key, 3)

    def kept(sign: jax.Array, key: jax.Array) -> jax.Array:
        number = jnp.sum(sign, axis=1, dtype=jnp.int32)
        drops = jnp.floor(chosen.zeta * number).astype(jnp.int32)
        return rows.top(jnp.abs(weights), number - drops, key, sign)

    keep = kept(live & (weights >= 0), positive_key) | kept(live & (weights < 0), negative_key)
    # A dense tensor can but grow again, with its value, what it has dropped.
    grown = chosen.common.counts - jnp.sum(keep, axis=1, dtype=jnp.int32)
    grow = rows.sample(grow_key, grown, rows.exists(state.masks, layers) & ~keep)
    params, opt_state, masks = drop_grow.replant(
        params, opt_state, state, (keep, grow), (weights, live), chosen.common.zero_slots
    )
    return params, extra, opt_state, state._replace(masks=masks), Effects.of(happened=chosen.common.evolves)


FAMILY = drop_grow.DROP_GROW._replace(
    name="ds_td3",
    init=init,
    project=project,
    evolve=evolve,
    declares=drop_grow.DROP_GROW.declares._replace(targets="own"),
)


def counts(layers: LayerTable, knob: float) -> list[int]:
    """Live weights of each tensor at sparsity `knob` of the network, output layers dense."""
    first = layers.maskable.first
    return allocation.er_within(
        layers, knob, lambda layer: not layer.output, lambda layer: INPUT if layer in first else BEHIND
    )


def method(name: str, summary: str, *, zeta: float = ZETA) -> Method:
    """A method of this family.

    Args:
        zeta: share of either sign that an event replaces, from 0 to 1.

    Raises:
        UserError: zeta is no share.
    """
    if not 0 <= zeta <= 1:
        raise UserError(
            f"{name}: zeta = {zeta} is no share of either sign that an event replaces: give one from 0 to 1."
        )

    def settings(layers: LayerTable, knob: float, events: Events, source: str) -> Settings:
        # Zeros for the table that is not used: what no number depends on, no setting may show.
        unasked = dataclasses.replace(events, drop_fraction=0.0)
        kept = counts(layers, knob)
        evolves = drop_grow.room(layers, kept)
        common = drop_grow.settings(layers, kept, unasked, evolves=evolves, random_mask=True)
        return Settings(common, np.float32(zeta))

    def promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
        kept = counts(layers, knob)
        return Promise(kept, events=events.count if drop_grow.room(layers, kept) else 0)

    return Method(name, FAMILY, settings, promise, summary)


DS_TD3 = method("ds_td3", "drop of either sign, grow random ones; hidden layers only (DS-TD3)")
