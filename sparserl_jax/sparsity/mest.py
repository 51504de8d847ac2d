"""MEST (Yuan et al. 2021): drop the active weights of least importance, grow random ones.

    keep the (n - k) active weights of largest |w| + lambda |g|, grow k others uniformly at random

where SET asks for |w| alone: a small weight that the loss pulls at stays. Only gradients of active weights are looked
at, which training has anyway; no dense gradient is needed. n and k are those of `drop_grow`. The elastic variants of
the paper, which hold more weights for a while, are not here: this is the plain one.

Per-tensor budgets are ERK. The initial mask holds the largest initial weights of each tensor
(`source = released`, as all methods here) or is drawn uniformly (`source = paper`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sparserl_jax.sparsity import drop_grow, rows
from sparserl_jax.sparsity.contract import Effects, Evidence, Params
from sparserl_jax.sparsity.set import settings

LAMBDA = 0.01
"""Weight of the gradient in the importance of a weight."""


def evolve(
    key: jax.Array,
    tick: jax.Array,
    params: Params,
    extra: Any,
    opt_state: Any,
    state: drop_grow.State,
    evidence: Evidence,
) -> tuple[Params, Any, Any, drop_grow.State, Effects]:
    """The least |w| + lambda |g| go, as many others come."""
    chosen, layers = state.settings, state.layers
    weights, live = rows.to_rows(params, layers), rows.to_rows(state.masks, layers)
    gradient = rows.to_rows(evidence.grad(), layers)
    drops = drop_grow.scheduled(chosen, tick)
    drop_key, grow_key = jax.random.split(key)
    keep = rows.top(jnp.abs(weights) + LAMBDA * jnp.abs(gradient), chosen.counts - drops, drop_key, live)
    grow = rows.sample(grow_key, drops, rows.exists(state.masks, layers) & ~keep)
    params, opt_state, masks = drop_grow.replant(
        params, opt_state, state, (keep, grow), (weights, live), chosen.zero_slots
    )
    return params, extra, opt_state, state._replace(masks=masks), Effects.of(happened=chosen.evolves)


FAMILY = drop_grow.DROP_GROW._replace(name="mest", evolve=evolve)


MEST = drop_grow.method(
    "mest", settings, "drop the least |w| + lambda |gradient|, grow random ones", family=FAMILY
)
