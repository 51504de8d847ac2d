"""GraSP (Wang et al. 2020): prune once so that the gradient keeps flowing.

    score = -w * (H g),   remove the HIGHEST S share of all weights of the network

with g the gradient and H the Hessian of one minibatch's loss. When: as `snip`, see there. The product H g costs about
two gradients at the one event; theory FLOPs charge the dense gradient of that event alone.
"""

from __future__ import annotations

import jax

from sparserl_jax.sparsity import pruning, snip
from sparserl_jax.sparsity.contract import Evidence, Params


def score(params: Params, evidence: Evidence) -> Params:
    """w * (H g): what is kept has the largest, as what is removed has the highest of its negative."""
    return jax.tree.map(lambda w, product: w * product, params, evidence.hvp(evidence.grad()))


FAMILY = pruning.family("grasp", score, pruning.over_all)
GRASP = pruning.method(
    "grasp",
    FAMILY,
    snip.settings,
    "once, at the first event, remove the highest -w (Hessian * gradient)",
    True,
)
