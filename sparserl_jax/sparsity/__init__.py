"""Sparsity methods: one contract, one file per method."""

from sparserl_jax.sparsity.contract import (
    Declares,
    Effects,
    Events,
    Evidence,
    Method,
    Promise,
    Sparsifier,
)
from sparserl_jax.sparsity.registry import METHODS, method, promised

__all__ = [
    "METHODS",
    "Declares",
    "Effects",
    "Events",
    "Evidence",
    "Method",
    "Promise",
    "Sparsifier",
    "method",
    "promised",
]
