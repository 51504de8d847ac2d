"""STE and SR-STE without a pattern (Zhou et al. 2021, there for N:M): the support is the largest |w| of each tensor.

    m = the n largest |w| of a tensor,      w <- w - lr (dL/d(m w) + lambda_w (1 - m) w)

at every step, with Erdos-Renyi-kernel counts n. lambda_w is 0 (`ste`, the straight-through estimator of
Bengio et al. 2013) or 2e-4 (`sr_ste`, sparse-refined: what is not in force is pulled to zero, so that the support
settles). See straight_through.py for what learns and what acts, nm.py for the N:M pattern.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import allocation, rows, straight_through
from sparserl_jax.sparsity.contract import Params

DECAY = 2e-4
"""lambda_w of SR-STE, of its weight decay's order (Zhou et al. 2021)."""


def select(params: Params, masks: Params, counts: Any, layers: LayerTable) -> Params:
    """The `counts[t]` largest |w| of every tensor t; among equals the first."""
    weights = jnp.abs(rows.to_rows(params, layers))
    everything = rows.exists(jax.tree.map(jnp.asarray, params), layers)
    return rows.from_rows(rows.top(weights, counts, None, everything), masks, layers)


def support(layers: LayerTable, sparsity: float) -> tuple[Any, list[int]]:
    """Erdos-Renyi-kernel counts at this sparsity."""
    counts = allocation.erk(layers, sparsity)
    return np.array(counts, np.int32), counts


FAMILY = straight_through.family("ste", select)
STE = straight_through.method(
    "ste", FAMILY, support, "dense weights, the largest in force at every step (straight-through)"
)
SR_STE = straight_through.method(
    "sr_ste", FAMILY, support, "ste with a pull to zero on what is not in force", decay=DECAY
)
