"""How a promise is found to be broken: what was expected, what was found, and where."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Broken(AssertionError):
    """A promise that is not kept."""

    def __init__(self, expected: Any, found: Any, where: str) -> None:
        super().__init__(f"expected {expected}, found {found}, in {where}")
        self.expected, self.found, self.where = str(expected), str(found), where


def require(good: Any, expected: Any, found: Any, where: str) -> None:
    """Raise `Broken` unless `good`."""
    if not good:
        raise Broken(expected, found, where)


def _data(x: Any) -> np.ndarray:
    is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def host(tree: Any) -> Any:
    """A tree of NumPy arrays; keys become their data."""
    return jax.tree.map(_data, tree)


def same(expected: Any, found: Any, where: str, tolerance: float = 0.0) -> None:
    """Raise `Broken` at the first entry that differs: exactly, or floats by more than `tolerance` (NaN equals NaN)."""
    structures: list[Any] = [jax.tree.structure(tree) for tree in (expected, found)]
    require(structures[0] == structures[1], structures[0], structures[1], where)
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(host(expected)), jax.tree.leaves(host(found)), strict=True
    )
    for (path, a), b in pairs:
        place = f"{where}{', ' if path else ''}{jax.tree_util.keystr(path)}"
        shapes = [f"{x.dtype}{list(x.shape)}" for x in (a, b)]
        require(shapes[0] == shapes[1], shapes[0], shapes[1], place)
        if a.dtype.kind == "f":
            equal = np.isclose(a, b, rtol=0, atol=tolerance, equal_nan=True)
        else:
            equal = np.asarray(a == b)
        if not equal.all():
            at = tuple(int(i) for i in np.argwhere(~equal)[0])
            index = f"[{', '.join(map(str, at))}]" if at else ""
            raise Broken(a[at], f"{b[at]} ({int((~equal).sum())} entries differ)", f"{place}{index}")
