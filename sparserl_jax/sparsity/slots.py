"""Optimiser slots: the parts of an optimiser's state that mirror the parameters (moments, traces, averages).

They are found by matching tree structure and shapes, never by the optimiser's class, so that any optax chain
works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def map_slots(fn: Callable[..., Any], opt_state: Any, params: Any, *trees: Any) -> Any:
    """Optimiser state with `fn(slot, *trees)` in place of every slot; the rest is untouched.

    A slot is an outermost sub-tree whose structure equals that of `params` and whose leaves have the same
    shapes (dtypes may differ). A transformation that covers only part of the parameters (`optax.masked`,
    `multi_transform`) holds place-markers where the others were and has therefore no slot in this sense.

    Args:
        fn: takes one slot and then `trees`, which usually mirror `params` too (masks); returns the new slot.
        opt_state: any tree.
        params: the parameters that the optimiser was initialised with.
        trees: handed on to `fn` unchanged.
    """
    structure: Any = jax.tree.structure(params)
    shapes = [jnp.shape(value) for value in jax.tree.leaves(params)]

    def is_slot(node: Any) -> bool:
        if jax.tree.structure(node) != structure:
            return False
        return [jnp.shape(value) for value in jax.tree.leaves(node)] == shapes

    return jax.tree.map(lambda node: fn(node, *trees) if is_slot(node) else node, opt_state, is_leaf=is_slot)
