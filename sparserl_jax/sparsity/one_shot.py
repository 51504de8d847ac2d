"""Magnitude pruning in one event, at 80 % of training (see magnitude.py): what gradual pruning has to beat.

Tensors have Erdos-Renyi-kernel sparsities (`one_shot`) or compete (`global_magnitude`). Another moment is one line in a
module of your own: `magnitude.by_tensor("half_way", pruning.at_once(0.5), "...")`.
"""

from __future__ import annotations

from sparserl_jax.sparsity import magnitude
from sparserl_jax.sparsity.pruning import at_once

_DONE = at_once(magnitude.WHEN)

ONE_SHOT = magnitude.by_tensor("one_shot", _DONE, "from dense, remove the smallest weights at once (ERK)")
GLOBAL_MAGNITUDE = magnitude.together(
    "global_magnitude", _DONE, "one_shot with one threshold for all tensors"
)
