"""Model sizes in bytes under the formats in use, from live-weight counts.

What is included is the caller's choice of tables and stated with every number: usually the actor alone, which
is what is deployed. Biases are dense values of the same type, as are scales and biases of normalisations.
Headers and names are not charged. In `tiny`, pass the narrow network's own table.

Per tensor of R rows (output units), C columns (inputs), N = R * C weights, nnz live and b bits per value:

    dense     b * N
    bitmask   b * nnz + N; no mask where every weight lives (RigL, MicroNet)
    csr8      b * nnz + index * nnz + pointer * (R + 1); index of 8 bits up to 256 columns, else 16 or 32;
              pointer of 16 bits up to 65,535 live weights, else 32
    csr32     the same with 32-bit indices and pointers
    coo16     b * nnz + 2 * 8 * nnz where both sides are at most 256, wider otherwise
    coo32     b * nnz + 2 * 32 * nnz
    entropy   b * nnz + N * H(nnz / N): lower bound for a random mask

Every tensor is stored in the named format, also where it is dense; `raw_blob` chooses the cheapest per
tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sparserl_jax.accounting.flops import live_weights
from sparserl_jax.layers import Layer, LayerTable


class Parts(NamedTuple):
    """Bytes of one stored tensor."""

    values: int
    indices: int = 0
    pointers: int = 0

    @property
    def total(self) -> int:
        """All bytes."""
        return self.values + self.indices + self.pointers


def _bytes(bits: float) -> int:
    # The guard keeps rounding noise of an entropy that is a whole number of bytes from costing one more.
    return math.ceil(bits / 8 - 1e-9)


def width(distinct: int) -> int:
    """Narrowest of 8, 16 and 32 bits that tells `distinct` values apart."""
    return next((bits for bits in (8, 16) if distinct <= 1 << bits), 32)


def _entropy(density: float) -> float:
    """Binary entropy in bits."""
    return -sum(p * math.log2(p) for p in (density, 1 - density) if p > 0)


def tensor_parts(layer: Layer, nnz: int, format: str, value_bits: int = 32) -> Parts:
    """Bytes of one tensor of `nnz` live weights in one of the formats above."""
    rows, columns = layer.units_out, layer.fan_in
    values = _bytes(value_bits * nnz)
    if format == "dense":
        return Parts(_bytes(value_bits * layer.size))
    if format == "bitmask":
        return Parts(values, _bytes(layer.size) if nnz < layer.size else 0)
    if format == "csr8":
        pointer = max(width(nnz + 1), 16)
        return Parts(values, _bytes(width(columns) * nnz), _bytes(pointer * (rows + 1)))
    if format == "csr32":
        return Parts(values, _bytes(32 * nnz), _bytes(32 * (rows + 1)))
    if format == "coo16":
        return Parts(values, _bytes((width(rows) + width(columns)) * nnz))
    if format == "coo32":
        return Parts(values, _bytes(64 * nnz))
    if format == "entropy":
        return Parts(values, _bytes(layer.size * _entropy(nnz / layer.size)))
    raise ValueError(f"unknown format {format!r}")


FORMATS = ("dense", "bitmask", "csr8", "csr32", "coo16", "coo32", "entropy")
"""Formats that `sizes` reports."""

BLOB_FORMATS = ("dense", "bitmask", "csr8")
"""Formats that `raw_blob` chooses from; on equal bytes the earlier wins."""


class Blob(NamedTuple):
    """One raw file of a network: bytes by content, and the format chosen for each tensor."""

    values: int
    indices: int
    pointers: int
    biases: int
    normaliser: int
    formats: tuple[str, ...]

    @property
    def total(self) -> int:
        """Bytes of the file."""
        return self.values + self.indices + self.pointers + self.biases + self.normaliser

    @property
    def choice(self) -> str:
        """The choice in words, e.g. `csr8, csr8, dense`."""
        return ", ".join(self.formats)


def raw_blob(
    layers: LayerTable,
    nnz: Sequence[int] | None = None,
    value_bits: int = 32,
    include_bias: bool = True,
    normaliser: int = 0,
    formats: Sequence[str] = BLOB_FORMATS,
) -> Blob:
    """Smallest raw file: values, indices, pointers, biases and normaliser, the cheapest format for each
    tensor.

    Args:
        layers: the network.
        nnz: live weights per tensor in the order of `layers.tensors`; None: dense.
        value_bits: bits per weight and bias.
        include_bias: charge the biases.
        normaliser: number of 32-bit values of an observation normaliser.
        formats: to choose from; one of them alone stores every tensor in it.

    Returns:
        The parts and the choices: maskable tensors in the order of `layers.tensors`, then the others.
    """
    values = indices = pointers = 0
    chosen = []
    for layer, kept in live_weights(layers, nnz):
        parts = {name: tensor_parts(layer, kept, name, value_bits) for name in formats}
        best = min(formats, key=lambda name: parts[name].total)
        values, indices, pointers = (
            values + parts[best].values,
            indices + parts[best].indices,
            pointers + parts[best].pointers,
        )
        chosen.append(best)
    biases = _bytes(value_bits * layers.biases) if include_bias else 0
    return Blob(values, indices, pointers, biases, 4 * normaliser, tuple(chosen))


def sizes(
    layers: LayerTable,
    nnz: Sequence[int] | None = None,
    include_bias: bool = True,
    value_bits: int = 32,
) -> dict[str, int]:
    """Size of a network, all copies, in every format.

    Returns:
        `params`, `dense_params`: numbers of live and of all parameters; every name of `FORMATS` and
        `raw_blob`: bytes.

    Raises:
        UserError: `nnz` does not fit the table.
    """
    tensors = live_weights(layers, nnz)
    biases = layers.biases if include_bias else 0
    result = {"params": sum(kept for _, kept in tensors) + biases, "dense_params": layers.weights + biases}
    for name in FORMATS:
        weights = sum(tensor_parts(layer, kept, name, value_bits).total for layer, kept in tensors)
        result[name] = weights + _bytes(value_bits * biases)
    result["raw_blob"] = raw_blob(layers, nnz, value_bits, include_bias).total
    return result


def compression(measured: Mapping[str, int]) -> dict[str, float]:
    """Factors by which each format of a `sizes` dictionary beats dense; `params` counts parameters."""
    factors = {"params": measured["dense_params"] / measured["params"]}
    names = (*(name for name in FORMATS if name != "dense"), "raw_blob")
    return factors | {name: measured["dense"] / measured[name] for name in names}


def weight_share(live: Mapping[str, int], full: Mapping[str, int], target_actor: bool = True) -> float:
    """Model size relative to dense as RLx2 reports it: weights of online and target networks, no biases or indices.

    TD3 (`target_actor`): (2a + 2c) / (2A + 2C); SAC, which has no target actor: (a + 2c) / (A + 2C).

    Args:
        live, full: weights of the `actor` (a, A) and, where there is one, of the `critic` (c, C), both together.
    """
    actors = 2 if target_actor else 1
    kept, every = (actors * counts["actor"] + 2 * counts.get("critic", 0) for counts in (live, full))
    return kept / every
