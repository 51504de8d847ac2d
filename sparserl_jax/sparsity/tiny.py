"""Tiny: the honest small dense baseline: a narrow network with as many weights as the sparse arm keeps.

Width: the smallest number of hidden units whose weight count reaches the sparse arm's (RLx2, baseline "Tiny"). A
convolution keeps the share of its channels that this is of the widest dense layer. Of a network with a residual stream
only the units inside its blocks are fewer: the stream, which is normalised as a whole, stays as wide as it is. The
narrow network sits in the leading units of the wide tensors, drawn from the narrow network's own initialiser (a wide
draw whose law scales with 1/sqrt(fan_in) is rescaled; orthogonal weights: see `orthogonal.py`); all other
weights and biases are masked. It then computes exactly what a really narrow network computes. Its speed, memory and
executed FLOPs are always reported from a really narrow program.
"""

from __future__ import annotations

from functools import lru_cache

from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import allocation, drop_grow
from sparserl_jax.sparsity.contract import Events


@lru_cache(maxsize=1024)  # every seed of an arm asks
def widths(layers: LayerTable, knob: float) -> dict[str, int]:
    """Units per hidden unit group of the narrow network whose weight count matches sparsity `knob`."""
    nnz = sum(allocation.erk(layers, knob))
    return allocation.narrowed(layers, allocation.tiny_width(layers, nnz))


def settings(layers: LayerTable, knob: float, events: Events, source: str) -> drop_grow.Settings:
    """The leading `widths(layers, knob)` units of every hidden group, densely connected."""
    narrow = widths(layers, knob)
    counts = [
        layer.window * narrow.get(layer.inputs, layer.units_in) * narrow.get(layer.outputs, layer.units_out)
        for layer, _ in layers.tensors
    ]
    return drop_grow.settings(layers, counts, events, widths=narrow)


TINY = drop_grow.method("tiny", settings, "a narrow dense network of equal weight count", narrow=True)
