"""ANF, automatic noise filtering (Grooten et al. 2023): SET on the input layer alone, all other layers dense.

    drop the smallest |w| of the input layer, grow random others in it

so that weights move away from observations that say nothing. The knob is the sparsity of the input layer (0.8 in the
paper), not of the network: what the network then has is in each record. A twin critic has two input layers, which also
read the action.

The initial mask holds the largest initial weights (`source = released`, as all methods here) or is drawn uniformly
(`source = paper`).
"""

from __future__ import annotations

from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import allocation, drop_grow
from sparserl_jax.sparsity.contract import Events


def counts(layers: LayerTable, knob: float) -> list[int]:
    """Live weights of each tensor: the input layers at sparsity `knob`, all of the others."""
    first = layers.maskable.first
    kept = dict(zip((layer.name for layer, _ in first.tensors), allocation.uniform(first, knob), strict=True))
    return [kept.get(layer.name, layer.size) for layer, _ in layers.tensors]


def settings(layers: LayerTable, knob: float, events: Events, source: str) -> drop_grow.Settings:
    """The input layer at sparsity `knob`."""
    kept = counts(layers, knob)
    evolves = drop_grow.room(layers, kept)
    return drop_grow.settings(layers, kept, events, evolves=evolves, random_mask=source == "paper")


ANF = drop_grow.method("anf", settings, "SET on the input layer alone; the knob is that layer's sparsity")
