"""SET (Mocanu et al. 2018): drop the smallest active weights, grow random ones.

Per-tensor budgets are ERK. The initial mask holds the largest initial weights of each tensor
(`source = released`) or is drawn uniformly (`source = paper`); see RLx2, "initial mask".
"""

from __future__ import annotations

from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import allocation, drop_grow
from sparserl_jax.sparsity.contract import Events


def settings(layers: LayerTable, knob: float, events: Events, source: str) -> drop_grow.Settings:
    """Erdos-Renyi-kernel budgets at sparsity `knob`."""
    counts = allocation.erk(layers, knob)
    evolves = drop_grow.room(layers, counts)
    return drop_grow.settings(layers, counts, events, evolves=evolves, random_mask=source == "paper")


SET = drop_grow.method("set", settings, "drop the smallest active weights, grow random ones")
