"""Memory of trees of arrays, known before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax


def tree_bytes(tree: Any) -> int:
    """Bytes of all leaves of a tree of arrays or of shapes (`jax.ShapeDtypeStruct`), typed keys included."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def forecast(fn: Callable[..., Any], *args: Any) -> int:
    """Bytes of the result of `fn(*args)`, which is traced and not run; arguments may be shapes."""
    return tree_bytes(jax.eval_shape(fn, *args))


def breakdown(tree: Any) -> dict[str, int]:
    """Bytes of each immediate branch of a mapping or named tuple, largest first."""
    branches = tree._asdict() if hasattr(tree, "_asdict") else tree
    if not isinstance(branches, Mapping):
        raise TypeError(f"breakdown needs a mapping or a named tuple, not {type(tree).__name__}")
    named = {str(name): tree_bytes(branch) for name, branch in branches.items()}
    return dict(sorted(named.items(), key=lambda item: -item[1]))
