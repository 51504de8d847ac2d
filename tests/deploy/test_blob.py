"""The raw file is as long as accounting says, and gives back what went in."""

from __future__ import annotations

import dataclasses
import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from sparserl_jax.accounting import sizes
from sparserl_jax.deploy import blob
from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable
from tests.accounting.networks import network


def filled(layers: LayerTable, density: float, seed: int) -> tuple[dict, dict]:
    """Random parameters of a network and masks of about that density; no live weight is zero."""
    rng, params, masks = np.random.default_rng(seed), {}, {}
    for path, shape in layers.shapes.items():
        kernel = path[-1] == "kernel"
        mask = rng.random(shape) < density if kernel else np.ones(shape, bool)
        value = np.where(mask, rng.uniform(0.5, 1.5, shape), 0).astype(np.float32)
        for tree, leaf in ((params, value), (masks, mask)):
            node = tree
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = leaf
    return params, masks


def through_a_file(tensors: list[blob.Tensor]) -> list[blob.Tensor]:
    """Tensors written and read again by their description as JSON."""
    return blob.read(blob.write(tensors), json.loads(json.dumps(blob.described(tensors))))


def image_network() -> LayerTable:
    """A convolution, a normalisation, and a layer without a bias."""
    first, second = network(18, 8, 5)
    conv = dataclasses.replace(first, kind="conv", shape=(3, 3, 2, 8))
    return LayerTable((conv, dataclasses.replace(second, bias=None, norm=("norm",))))


@given(
    widths=st.lists(st.integers(1, 20), min_size=2, max_size=4),
    density=st.floats(0, 1),
    formats=st.sampled_from([sizes.BLOB_FORMATS, *((name,) for name in blob.FILED)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_file_is_as_long_as_counted_and_gives_back_every_bit(widths, density, formats, seed):
    layers = network(*widths)
    params, masks = filled(layers, density, seed)
    tensors = blob.encode(layers, params, masks, formats)
    nnz = [int(masks[layer.kernel[0]]["kernel"].sum()) for layer in layers]
    counted = sizes.raw_blob(layers, nnz, formats=formats)
    assert len(blob.write(tensors)) == counted.total
    assert tuple(tensor.format for tensor in tensors) == counted.formats
    again, stored = blob.decode(through_a_file(tensors))
    for tensor in tensors:
        name = tensor.name
        assert params[name].keys() == again[name].keys() == stored[name].keys()
        for part, value in params[name].items():
            assert np.array_equal(again[name][part], value)
            assert np.array_equal(stored[name][part], masks[name][part]) or tensor.format == "dense"


@pytest.mark.parametrize("format", blob.FILED)
def test_convolutions_normalisations_and_missing_biases_come_back(format):
    layers = image_network()
    params, masks = filled(layers, 0.3, 0)
    tensors = blob.encode(layers, params, masks, (format,))
    kernels = [int(masks[layer.kernel[0]]["kernel"].sum()) for layer in layers]
    assert len(blob.write(tensors)) == sizes.raw_blob(layers, kernels, formats=(format,)).total
    again, _ = blob.decode(through_a_file(tensors))
    for path in layers.shapes:
        assert np.array_equal(again[path[0]][path[1]], params[path[0]][path[1]]), path


def test_one_layer_by_hand():
    """W = [[0, 2, 0], [3, 0, 4]]: its bytes one by one."""
    layer = Layer("w", ("w", "kernel"), ("w", "bias"), "dense", (3, 2))
    kernel = np.array([[0, 3], [2, 0], [0, 4]], np.float32)
    params = {"w": {"kernel": kernel, "bias": np.array([5, 6], np.float32)}}
    masks = {"w": {"kernel": kernel != 0, "bias": np.ones(2, bool)}}
    values, bias = np.array([2, 3, 4], "<f4").tobytes(), np.array([5, 6], "<f4").tobytes()
    rows = np.array([0, 1, 3], "<u2").tobytes()
    expected = {
        "dense": np.array([0, 2, 0, 3, 0, 4], "<f4").tobytes() + bias,
        "bitmask": values + bias + bytes([0b01010100]),
        "csr8": values + bias + rows + bytes([1, 0, 2]),
        "coo16": values + bias + bytes([0, 1, 1]) + bytes([1, 0, 2]),
    }
    for format, content in expected.items():
        assert blob.write(blob.encode(LayerTable((layer,)), params, masks, (format,))) == content, format


def test_numbers_wider_than_a_byte_lie_on_their_own_multiples():
    """Of a layer with 300 inputs, whose columns need 16 bits, and one of 40, whose columns need 8."""
    layers = network(300, 40, 3)
    tensors = blob.encode(layers, *filled(layers, 0.2, 1), ("csr8",))
    assert [tensor.arrays["columns"].itemsize for tensor in tensors] == [2, 1]
    for index, name, offset in blob.placed(tensors):
        assert offset % tensors[index].arrays[name].itemsize == 0


def test_weights_outside_the_mask_are_not_in_the_file():
    layers = network(4, 3)
    params, masks = filled(layers, 1.0, 0)
    masks["layer_0"]["kernel"][0, 0] = False
    for format in blob.FILED:
        (tensor,) = blob.encode(layers, params, masks, (format,))
        assert blob.dense(tensor)[0][0, 0] == 0


def test_weights_that_are_no_numbers_are_refused():
    layers = network(4, 3)
    params, masks = filled(layers, 1.0, 0)
    params["layer_0"]["bias"][1] = np.nan
    with pytest.raises(UserError, match="layer_0 are not finite"):
        blob.encode(layers, params, masks, ("dense",))


@pytest.mark.parametrize(
    ("widths", "nnz", "format", "array", "expected"),
    [
        ((256, 1), 9, "csr8", "columns", "<u1"),
        ((257, 1), 9, "csr8", "columns", "<u2"),
        ((2, 257), 9, "coo16", "rows", "<u2"),
        ((256, 256), 65_535, "csr8", "pointers", "<u2"),
        ((256, 257), 65_536, "csr8", "pointers", "<u4"),
    ],
)
def test_numbers_are_as_wide_as_they_must_be(widths, nnz, format, array, expected):
    layers = network(*widths)
    kernel = np.zeros(layers[0].size, np.float32)
    kernel[-nnz:] = 1.0
    params = {"layer_0": {"kernel": kernel.reshape(widths), "bias": np.zeros(widths[1], np.float32)}}
    masks = {"layer_0": {"kernel": params["layer_0"]["kernel"] != 0, "bias": np.ones(widths[1], bool)}}
    (tensor,) = blob.encode(layers, params, masks, (format,))
    assert tensor.arrays[array].dtype.str.replace("|", "<") == expected
    again, _ = blob.decode(through_a_file([tensor]))
    assert np.array_equal(again["layer_0"]["kernel"], params["layer_0"]["kernel"])
    assert len(blob.write([tensor])) == sizes.raw_blob(layers, [nnz], formats=(format,)).total
