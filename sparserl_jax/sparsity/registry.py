"""The sparsity methods by name: one line each."""

from __future__ import annotations

from sparserl_jax.errors import suggest
from sparserl_jax.sparsity.contract import Method
from sparserl_jax.sparsity.dense import DENSE
from sparserl_jax.sparsity.rigl import RIGL
from sparserl_jax.sparsity.set import SET
from sparserl_jax.sparsity.static import STATIC
from sparserl_jax.sparsity.tiny import TINY

METHODS: dict[str, Method] = {method.name: method for method in (DENSE, TINY, STATIC, SET, RIGL)}


def method(name: str) -> Method:
    """The method called `name`."""
    if name not in METHODS:
        raise suggest(name, list(METHODS), "sparsifier")
    return METHODS[name]
