"""The raw file of a network: the bytes that `accounting.sizes.raw_blob` counts, and the way back.

Only content is in the file: no header, no names, no padding. What lies where is told beside it, one `Tensor` per layer.
A kernel is stored as W [R, C], R output units (or channels) by C weights that feed each of them (a convolution's
[height, width, in] merged, in that order), row by row, and of the formats of `accounting.sizes`

    dense          values f32[R C]
    bitmask        bits u8[ceil(R C / 8)], first weight in the highest bit; values f32[nnz]; no bits where all live
    csr8, csr32    pointers [R + 1], columns [nnz], values f32[nnz]; row r has entries pointers[r] to pointers[r + 1]
    coo16, coo32   rows [nnz], columns [nnz], values f32[nnz]

Biases, and scales and biases of normalisations, are f32 vectors. All numbers are little endian. Arrays of wide items
come first (32, 16, 8 bits), each in the order of the layers, so every array is aligned without padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparserl_jax.accounting import sizes
from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable, leaf

FILED = tuple(name for name in sizes.FORMATS if name != "entropy")
"""Formats that a file can have; `entropy` is a bound."""


class Tensor(NamedTuple):
    """One layer in the file.

    shape: of its kernel, [..., in, out]. arrays: by name, see the module; the vectors `bias`, `norm_scale`, `norm_bias`
    among them. places: where the kernel (`values`) and the vectors are among the network's parameters, `path/to/leaf`.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    arrays: dict[str, np.ndarray]
    places: dict[str, str]


def encode(
    layers: LayerTable, params: Mapping[str, Any], masks: Mapping[str, Any], formats: Sequence[str]
) -> list[Tensor]:
    """The layers of a network as they are filed, each in the smallest of some formats.

    Args:
        layers: the network, without stacks.
        params, masks: its weights and their masks, which mirror each other.
        formats: of `FILED`; on equal bytes the earlier wins.

    Raises:
        UserError: weights that are not finite.
    """
    assert not any(layer.stack for layer in layers), "no policy has copies"
    assert all(layer.maskable for layer in layers), "accounting counts others last"
    every = [np.asarray(leaf(masks, layer.kernel), bool) for layer in layers]
    choice = sizes.raw_blob(layers, [int(mask.sum()) for mask in every], formats=formats).formats
    found = []
    for layer, mask, chosen in zip(layers, every, choice, strict=True):
        live = _rows(layer, mask)
        weights = _rows(layer, np.asarray(leaf(params, layer.kernel), np.float32))
        arrays = _arrays(layer, np.where(live, weights, 0), live, chosen)
        places = _places(layer)
        arrays |= {name: np.asarray(leaf(params, places[name]), "<f4") for name in places if name != "values"}
        if not all(np.isfinite(arrays[name]).all() for name in arrays if arrays[name].dtype.kind == "f"):
            raise UserError(
                f"the weights of layer {layer.name} are not finite; export a policy that did not diverge."
            )
        found.append(
            Tensor(layer.name, layer.shape, chosen, arrays, {k: "/".join(v) for k, v in places.items()})
        )
    return found


def decode(tensors: Sequence[Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters f32 of a network, and which of them are stored (of a layer in the format `dense` all); the inverse of
    `encode`."""
    params: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    for tensor in tensors:
        weights, live = (x.T.reshape(tensor.shape) for x in dense(tensor))
        for name, place in tensor.places.items():
            kernel, value = name == "values", tensor.arrays[name]
            _put(params, place, weights if kernel else value)
            _put(masks, place, live if kernel else np.ones(value.shape, bool))
    return params, masks


def dense(tensor: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """W f32[R, C] and which of its weights live, bool[R, C]; `ValueError` where they have not one value each."""
    rows, columns = tensor.shape[-1], int(np.prod(tensor.shape[:-1]))
    arrays, live = tensor.arrays, np.zeros((rows, columns), bool)
    if tensor.format == "dense" or (tensor.format == "bitmask" and "bits" not in arrays):
        live[:] = True
    elif tensor.format == "bitmask":
        live = np.unpackbits(arrays["bits"], count=rows * columns).astype(bool).reshape(rows, columns)
    else:
        if tensor.format.startswith("csr"):
            ends = arrays["pointers"].astype(np.int64)
            row = np.repeat(np.arange(rows), ends[1:] - ends[:-1])
        else:
            row = arrays["rows"]
        live[row, arrays["columns"]] = True
    if len(arrays["values"]) != np.count_nonzero(live):
        raise ValueError("not one value for each live weight")
    weights = np.zeros((rows, columns), np.float32)
    weights[live] = arrays["values"]  # entries are in the order of rows and columns in every format
    return weights, live


def placed(tensors: Sequence[Tensor]) -> list[tuple[int, str, int]]:
    """Every array of the file in its order: (number of the tensor, name of the array, offset in bytes)."""
    every = [(index, name) for index, tensor in enumerate(tensors) for name in tensor.arrays]
    every.sort(key=lambda item: -tensors[item[0]].arrays[item[1]].itemsize)
    found, offset = [], 0
    for index, name in every:
        found.append((index, name, offset))
        offset += tensors[index].arrays[name].nbytes
    return found


def write(tensors: Sequence[Tensor]) -> bytes:
    """The content of the file."""
    return b"".join(tensors[index].arrays[name].tobytes() for index, name, _ in placed(tensors))


def described(tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    """What lies where, as JSON: of every layer its name, shape, format and places, and `[offset, dtype, length]` of its
    arrays."""
    found: list[dict[str, Any]] = [{**t._asdict(), "shape": list(t.shape), "arrays": {}} for t in tensors]
    for index, name, offset in placed(tensors):
        array = tensors[index].arrays[name]
        found[index]["arrays"][name] = [offset, array.dtype.str, len(array)]
    return found


_INDICES = ("bits", "pointers", "columns", "rows")
"""Arrays of unsigned numbers; all others are f32."""


def read(data: bytes, description: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """The layers in a file by its description; damaged ones raise `ValueError`, `KeyError` or `TypeError`."""
    found = []
    for entry in description:
        kinds = {name: np.dtype(dtype).str for name, (_, dtype, _) in entry["arrays"].items()}
        if any(
            kind not in (("|u1", "<u2", "<u4") if name in _INDICES else ("<f4",))
            for name, kind in kinds.items()
        ):
            raise ValueError("arrays of other numbers than a file has")
        arrays = {
            name: np.frombuffer(data, dtype, length, offset)
            for name, (offset, dtype, length) in entry["arrays"].items()
        }
        found.append(
            Tensor(entry["name"], tuple(entry["shape"]), entry["format"], arrays, dict(entry["places"]))
        )
    return found


def _rows(layer: Layer, kernel: np.ndarray) -> np.ndarray:
    """A kernel [..., in, out] as [R, C]."""
    return kernel.reshape(layer.fan_in, layer.units_out).T


def _places(layer: Layer) -> dict[str, tuple[str, ...]]:
    """Where the kernel and the vectors of a layer are among the parameters, by their names in the file."""
    found = {"values": layer.kernel}
    if layer.bias is not None:
        found["bias"] = layer.bias
    if layer.norm is not None:
        found |= {"norm_scale": (*layer.norm, "scale"), "norm_bias": (*layer.norm, "bias")}
    return found


def _put(tree: dict[str, Any], place: str, value: np.ndarray) -> None:
    *path, last = place.split("/")
    for key in path:
        tree = tree.setdefault(key, {})
    tree[last] = value


def _narrowest(distinct: int, least: int = 8) -> str:
    """The type of unsigned numbers that tells `distinct` values apart, of at least so many bits."""
    return f"<u{max(sizes.width(distinct), least) // 8}"


def _arrays(layer: Layer, weights: np.ndarray, live: np.ndarray, format: str) -> dict[str, np.ndarray]:
    """The weights [R, C] of a layer in one of `FILED`."""
    if format == "dense":
        return {"values": weights.astype("<f4").ravel()}
    values = weights[live].astype("<f4")
    if format == "bitmask":
        return {**({} if live.all() else {"bits": np.packbits(live)}), "values": values}
    wide, (row, column) = format.endswith("32"), live.nonzero()
    columns = column.astype("<u4" if wide else _narrowest(layer.fan_in))
    if format.startswith("csr"):
        ends = np.concatenate([[0], np.cumsum(live.sum(axis=1))])
        pointers = ends.astype("<u4" if wide else _narrowest(len(values) + 1, 16))
        return {"pointers": pointers, "columns": columns, "values": values}
    rows = row.astype("<u4" if wide else _narrowest(layer.units_out))
    return {"rows": rows, "columns": columns, "values": values}
