"""RigL (Evci et al. 2020): drop the smallest active weights, grow those of largest gradient.

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
    return drop_grow.settings(
        layers,
        counts,
        events,
        evolves=drop_grow.room(layers, counts),
        grow_by_gradient=True,
        random_mask=source == "paper",
    )


RIGL = drop_grow.method("rigl", settings, "drop the smallest active weights, grow those of largest gradient")
