"""A reconstruction of Eau De Q-Network (Vincent et al. 2025): sparsity at the agent's own pace.

The original trains several online networks of different sparsity towards one target; at every target update the one of
least loss becomes the target and the others start again as pruned copies of it, one of them unpruned. No final sparsity
is chosen. Here a member has one network, and its candidates live for one event: the network with the shares

    0, 1/4, 2/4, 3/4 and all of its share d

of its live weights removed, the smallest of all tensors together. The candidate of least loss on the event's minibatch
stays; among equal ones the sparsest. Where pruning does no harm to the loss, noise decides and sparsity grows; where it
does, it stops. d = 1 - (1 - S)^(2 / K) for K events: at its fastest a network is at S after half of training. S, the
knob, is only the most it may reach.

Hence `_like`: candidates are compared before they are trained, by one minibatch, not by a loss summed over training.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import drop_grow, pruning, rows
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Declares, Effects, Events, Evidence, Method, Params, Promise

SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Of d, by candidate; the sparsest first, so that it is the first of equal losses."""


class Settings(NamedTuple):
    """least: i32, live weights that a network keeps in any case. removed: f32[C], shares of the live weights that the
    candidates lose."""

    least: Any
    removed: Any


def evolve(
    key: jax.Array,
    tick: jax.Array,
    params: Params,
    extra: Any,
    opt_state: Any,
    state: drop_grow.State,
    evidence: Evidence,
) -> tuple[Params, Any, Any, drop_grow.State, Effects]:
    """The candidate of least loss."""
    chosen: Any = state.settings
    layers, scores = state.layers, pruning.magnitude(params, evidence)
    alive = jnp.sum(rows.to_rows(state.masks, layers), dtype=jnp.int32)
    counts = alive - jnp.floor(alive * chosen.removed).astype(jnp.int32)
    counts = jnp.maximum(counts, jnp.minimum(chosen.least, alive))

    def candidate(count: jax.Array) -> Params:
        return pruning.over_all(key, scores, state.masks, count, layers)

    losses = jax.lax.map(lambda n: evidence.loss(mask_ops.apply(candidate(n), params)), counts)
    # A loss that is no number wins nothing.
    best = counts[jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses))]
    masks = candidate(best)
    pruned = mask_ops.apply(masks, params)
    return pruned, extra, opt_state, state._replace(masks=masks), Effects.of(happened=best < alive)


FAMILY = drop_grow.DROP_GROW._replace(
    name="eau_like",
    init=pruning.init,
    evolve=evolve,
    declares=Declares(budget="at_most", targets="online", slots="keep"),
)


def settings(layers: LayerTable, knob: float, events: Events, source: str) -> Settings:
    """The pace at which half of the events reach sparsity `knob`."""
    least = sum(pruning.in_all(layers, knob))
    density = least / int(pruning.sizes(layers).sum())
    pace = 1 - density ** (2 / max(events.count, 2))
    return Settings(np.int32(least), (pace * np.array(SHARES)).astype(np.float32))


def promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
    """Anything from dense to `knob`: training is charged as dense, for nothing else is certain."""
    pruning.in_all(layers, knob)
    return Promise(pruning.sizes(layers).tolist(), events=events.count)


EAU_LIKE = Method(
    "eau_like",
    FAMILY,
    settings,
    promise,
    "prune as far as the loss allows, at most to the knob (after EauDeQN)",
)
