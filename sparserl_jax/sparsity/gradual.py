"""Gradual magnitude pruning (Zhu and Gupta 2017), see magnitude.py for the equations.

Begins dense; between 20 and 80 % of training every event removes the smallest live weights, fewer and fewer. Tensors
have Erdos-Renyi-kernel (`gradual`) or equal sparsities (`gradual_uniform`), or compete (`gradual_global`).
"""

from __future__ import annotations

from sparserl_jax.sparsity import allocation, magnitude
from sparserl_jax.sparsity.pruning import gradually

_DONE = gradually(magnitude.BEGIN, magnitude.END)

GRADUAL = magnitude.by_tensor(
    "gradual", _DONE, "from dense, remove the smallest weights on a cubic schedule (ERK)"
)
GRADUAL_UNIFORM = magnitude.by_tensor(
    "gradual_uniform", _DONE, "gradual with equal sparsity in every tensor", allocation.uniform
)
GRADUAL_GLOBAL = magnitude.together("gradual_global", _DONE, "gradual with one threshold for all tensors")
