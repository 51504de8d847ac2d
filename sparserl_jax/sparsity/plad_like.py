"""A reconstruction of PlaD, plasticity-driven sparsity training (ICLR 2024 submission).

What it names, and how it is done here, where its details are not known to us:

    dense-to-sparse magnitude pruning    that of `gradual`: cubic between 20 and 80 % of training, ERK
    periodic emptying of the replay      at 20, 40, 60 and 80 % of training, at the first event of each network behind,
                                         which for an actor of rarer events may be another step
                                         (its buffer of 0.2M transitions fills five times in its 1M steps)
    dynamic weight rescaling             the live weights of each tensor are scaled after pruning to the sum of squares
                                         that the tensor had before: w <- w sqrt(sum w_before^2 / sum w_kept^2)

PlaD standardises the live weights of a layer, (w - mean) / sqrt(var + eps). Without normalisation layers that would
throw away the scale of Q at every event, which is why only the energy is restored here. Hence `_like`: its numbers are
not PlaD's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import allocation, drop_grow, magnitude, pruning, rows
from sparserl_jax.sparsity.contract import Effects, Events, Evidence, Params

RESETS = (0.2, 0.4, 0.6, 0.8)
"""Shares of training at which the replay is emptied."""


class Settings(NamedTuple):
    """As `pruning.Settings`, where an event also happens if it only empties the replay.

    resets: bool[K + 1], whether event k does.
    """

    counts: Any
    happens: Any
    interval: Any
    resets: Any


def rescaled(before: Params, after: Params, layers: LayerTable) -> Params:
    """`after` with every tensor scaled to the sum of squares it had `before`; a tensor of zeros stays."""
    old, new = rows.to_rows(before, layers), rows.to_rows(after, layers)
    had, has = (jnp.sum(x**2, axis=1, keepdims=True) for x in (old, new))
    # Where nothing went the factor is 1 to the last bit.
    factor = jnp.where((has > 0) & (has < had), jnp.sqrt(had / jnp.where(has > 0, has, 1.0)), 1.0)
    return rows.from_rows(new * factor, after, layers)


_GRADUAL = pruning.family("gradual", pruning.magnitude, pruning.per_tensor)


def evolve(
    key: jax.Array,
    tick: jax.Array,
    params: Params,
    extra: Any,
    opt_state: Any,
    state: drop_grow.State,
    evidence: Evidence,
) -> tuple[Params, Any, Any, drop_grow.State, Effects]:
    """Prune, rescale what is left, and empty the replay where it is due."""
    chosen: Any = state.settings
    pruned, extra, opt_state, state, effects = _GRADUAL.evolve(
        key, tick, params, extra, opt_state, state, evidence
    )
    event = jnp.clip(tick // chosen.interval, 0, len(chosen.resets) - 1)
    effects = Effects.of(effects.happened, reset_replay=chosen.resets[event])
    return rescaled(params, pruned, state.layers), extra, opt_state, state, effects


FAMILY = _GRADUAL._replace(
    name="plad_like", evolve=evolve, declares=_GRADUAL.declares._replace(resets=("replay",))
)


def settings(layers: LayerTable, knob: float, events: Events, source: str) -> Settings:
    """The table of `gradual`, and the first events behind each of `RESETS`."""
    done = pruning.gradually(magnitude.BEGIN, magnitude.END)(events)
    own = pruning.settings(layers, allocation.erk(layers, knob), events, done)
    passed = [sum(k * events.interval >= at * events.end for at in RESETS) for k in range(events.count + 1)]
    resets = np.diff(np.array(passed), prepend=0) > 0
    return Settings(own.counts, own.happens | resets, own.interval, resets)


PLAD_LIKE = pruning.method(
    "plad_like",
    FAMILY,
    settings,
    "gradual with rescaled weights and a replay emptied four times (after PlaD)",
)
