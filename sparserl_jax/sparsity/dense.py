"""Dense: every weight active, no event. The baseline all verdicts refer to."""

from __future__ import annotations

from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import drop_grow
from sparserl_jax.sparsity.contract import Events


def settings(layers: LayerTable, knob: float, events: Events, source: str) -> drop_grow.Settings:
    """All weights active, whatever the knob says."""
    return drop_grow.settings(layers, [layer.size for layer, _ in layers.tensors], events)


DENSE = drop_grow.method("dense", settings, "every weight active")
