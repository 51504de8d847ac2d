"""Every form in which one trained network may leave the building, side by side: bytes of one raw file, and FLOPs.

The savings of a mask and of a low rank are those of different forms: a file is the one or the other, so they stand in
rows of their own and are never multiplied. A row of factors stores every tensor densely, also a layer that stays plain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sparserl_jax.accounting import flops, sizes
from sparserl_jax.deploy import low_rank
from sparserl_jax.layers import LayerTable

SPARSE = ("bitmask", "csr8", "csr32", "coo16", "coo32")
"""Forms that hold the live weights and where they are; see `accounting.sizes`."""
FACTORS = {2: "two factors", 3: "three factors"}


class Form(NamedTuple):
    """One form. weights: stored, biases excluded. flops: of one forward pass per sample that skips what is not stored.

    blob: bytes of its file by content, biases included.
    """

    name: str
    weights: int
    blob: sizes.Blob
    flops: int


def forms(
    layers: LayerTable,
    nnz: Sequence[int],
    ranks: Sequence[int],
    convention: str = "mac2",
    positions: Mapping[str, int] | None = None,
) -> list[Form]:
    """All forms of a network of the given live weights and ranks: dense, sparse, the cheapest of these layer by layer
    (`raw_blob`), two and three factors.

    Args:
        layers: the network, as narrow as it really is.
        nnz: live weights per tensor in the order of `layers.tensors`.
        ranks: one per layer.
        convention, positions: see `accounting.flops.forward`; positions by the names of `layers`.
    """

    if positions is not None:  # a convolution's factors are applied where it is
        parts = ("", ".left", ".scale", ".right")
        positions = {name + part: count for name, count in positions.items() for part in parts}

    def form(name: str, table: LayerTable, kept: Sequence[int] | None, formats: Sequence[str]) -> Form:
        return Form(
            name,
            sum(live for _, live in flops.live_weights(table, kept)),
            sizes.raw_blob(table, kept, formats=formats),
            flops.forward(table, kept, convention, positions),
        )

    found = [form("dense", layers, None, ("dense",))]
    found += [form(name, layers, nnz, (name,)) for name in SPARSE]
    found.append(form("raw_blob", layers, nnz, sizes.BLOB_FORMATS))
    for factors, name in FACTORS.items():
        found.append(form(name, low_rank.stored_layers(layers, ranks, factors), None, ("dense",)))
    return found
