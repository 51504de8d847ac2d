"""N:M sparsity: of every M consecutive inputs of a unit, the N of largest |w| are in force (Zhou et al. 2021).

    m = top N of |w| in every group of M along the inputs,      w <- w - lr (dL/d(m w) + lambda_w (1 - m) w)

at every step, in every layer, output layers included (but see `nm_inner`). N:M is given as a sparsity, 1 - N/M, with
the shortest M of 4, 8 and 16 that has it: 0.5 is 2:4, 0.75 is 1:4, 0.875 is 1:8, 0.9375 is 1:16, and 0.9 is none.

    nm          lambda_w = 0: the straight-through estimator
    nm_sr_ste   lambda_w = 2e-4: SR-STE
    rnm_like    only weights in force have gradients, the others wait: after RNM-TD3 (Vrce, Kassler and Aydos 2026),
                which keeps all networks of TD3 row-wise N:M and updates active weights; details are ours
    nm_inner    as nm, but the first and the last layer stay dense, as Zhou et al. leave their first and last

The inputs of a network are whatever the environment says: where M does not divide them, the last group is shorter and
keeps its N largest, or all it has - the pattern that results when inputs are padded with zeros to a multiple of M, as a
runtime for N:M does. Hidden widths are a choice, and one that M does not divide is refused.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable, leaf, with_leaf
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity import straight_through
from sparserl_jax.sparsity.contract import Params
from sparserl_jax.sparsity.ste import DECAY

LENGTHS = (4, 8, 16)
"""M, from the shortest on; all divide `masks.GROUP`."""


def pattern(sparsity: float) -> tuple[int, int]:
    """(N, M) of a sparsity.

    Raises:
        UserError: it is none of 1 - N/M.
    """
    longest = LENGTHS[-1]
    for m in LENGTHS:
        n = round((1 - sparsity) * m) if math.isfinite(sparsity) else 0
        if 1 <= n <= m and abs((1 - sparsity) * m - n) < 1e-6:
            return n, m
    below = min(max(math.floor(sparsity * longest) if math.isfinite(sparsity) else 0, 0), longest - 1)
    near = sorted({below / longest, min(below + 1, longest - 1) / longest})
    words = " or ".join(f"{value:g} ({'{}:{}'.format(*pattern(value))})" for value in near)
    raise UserError(
        f"sparsity {sparsity:g} is no N:M, 1 - N/M with M of 4, 8 or 16: the nearest is {words}."
        if math.isfinite(sparsity)
        else f"sparsity is {sparsity}: give 1 - N/M with M of 4, 8 or 16, as 0.5 for 2:4."
    )


def support(layers: LayerTable, sparsity: float, inner: bool = False) -> tuple[Any, list[int]]:
    """(N, M) of every maskable layer, i32[L,2], and the live weights of every tensor.

    Args:
        inner: layers that read the network's inputs or put out its outputs stay dense (N = M).

    Raises:
        UserError: the sparsity is no N:M, or M does not divide a hidden width.
    """
    n, m = pattern(sparsity)
    hidden = {layer.outputs for layer in layers if not layer.output}
    whole_ones = {
        layer.name for layer in layers.maskable if inner and (layer.output or layer.inputs not in hidden)
    }
    for layer in layers.maskable:
        if layer.name not in whole_ones and layer.inputs in hidden and layer.units_in % m:
            raise UserError(
                f"{n}:{m} does not divide the {layer.units_in} inputs of {layer.name} {layer.shape}: make hidden "
                f"widths multiples of {m}, or choose another sparsity."
            )
    counts = []
    for layer, _ in layers.tensors:
        whole, rest = divmod(layer.units_in, m)
        live = layer.units_in if layer.name in whole_ones else whole * n + min(n, rest)
        counts.append(layer.size // layer.units_in * live)
    patterns = [(m if layer.name in whole_ones else n, m) for layer in layers.maskable]
    return np.array(patterns, np.int32), counts


def select(params: Params, masks: Params, wanted: Any, layers: LayerTable) -> Params:
    """The N largest |w| of every M inputs of a unit, at every place of a convolution's window."""
    for index, layer in enumerate(layers.maskable):
        chosen = mask_ops.top_of_groups(jnp.abs(leaf(params, layer.kernel)), *wanted[index])
        masks = with_leaf(masks, layer.kernel, chosen)
    return masks


def misfit(masks: Params, layers: LayerTable, settings: straight_through.Settings) -> str | None:
    """Which layer has more than N live weights among M consecutive inputs of a unit."""
    for layer, (n, m) in zip(layers.maskable, np.asarray(settings.support).tolist(), strict=True):
        live = np.asarray(leaf(masks, layer.kernel))
        starts = np.arange(0, layer.units_in, m)
        most = int(np.add.reduceat(live, starts, axis=-2, dtype=np.int64).max())
        if most > n:
            return f"{layer.name} has {most} live weights in a group of {m} inputs, where {n}:{m} has at most {n}"
    return None


FAMILY = straight_through.family("nm", select, misfit)
NM = straight_through.method(
    "nm", FAMILY, support, "N of every M inputs in force (0.5 is 2:4), straight-through"
)
NM_SR_STE = straight_through.method(
    "nm_sr_ste", FAMILY, support, "nm with a pull to zero on what is not in force", decay=DECAY
)
RNM_LIKE = straight_through.method(
    "rnm_like", FAMILY, support, "N:M where only weights in force learn (after RNM-TD3)", straight=False
)
NM_INNER = straight_through.method(
    "nm_inner",
    FAMILY,
    functools.partial(support, inner=True),
    "nm with a dense first and last layer",
)
