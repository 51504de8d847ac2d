"""Bytes and FLOPs of every form, by hand."""

from __future__ import annotations

import dataclasses

from sparserl_jax.accounting import sizes
from sparserl_jax.deploy import forms
from sparserl_jax.layers import LayerTable
from tests.accounting.networks import network


def test_forms_of_one_network_by_hand():
    """3-64-64-1 with 100, 200 and 20 live weights, the middle layer at rank 10 and the others plain."""
    layers, biases = network(3, 64, 64, 1), 129 * 4
    found = {one.name: one for one in forms.forms(layers, [100, 200, 20], [3, 10, 1])}
    assert list(found) == [
        *("dense", "bitmask", "csr8", "csr32", "coo16", "coo32", "raw_blob"),
        *("two factors", "three factors"),
    ]
    assert {one.blob.biases for one in found.values()} == {biases}
    dense = found["dense"]
    assert (dense.weights, dense.blob.total, dense.flops) == (4352, 4 * 4352 + biases, 2 * 4352)
    mask = found["bitmask"]
    assert (mask.weights, mask.blob.values, mask.blob.indices) == (320, 1280, (192 + 4096 + 64) // 8)
    assert mask.flops == 2 * 320
    rows = found["csr8"]
    assert (rows.blob.values, rows.blob.indices, rows.blob.pointers) == (1280, 320, 2 * (65 + 65 + 2))
    two, three = found["two factors"], found["three factors"]
    assert two.weights == 192 + 10 * 128 + 64 and three.weights == two.weights + 10
    for one in (two, three):
        # Dense inside, whatever the mask: the savings are not multiplied.
        assert one.blob == sizes.Blob(4 * one.weights, 0, 0, biases, 0, one.blob.formats)
        assert set(one.blob.formats) == {"dense"} and one.flops == 2 * one.weights


def test_bytes_are_those_that_records_publish():
    layers, nnz = network(3, 64, 64, 1), [100, 200, 20]
    published = sizes.sizes(layers, nnz)
    found = {one.name: one.blob.total for one in forms.forms(layers, nnz, [3, 10, 1])}
    assert {name: published[name] for name in (*forms.SPARSE, "dense", "raw_blob")} == {
        name: total for name, total in found.items() if "factors" not in name
    }


def test_factors_of_a_convolution_are_applied_at_every_position():
    (conv,) = network(18, 8)
    conv = dataclasses.replace(conv, kind="conv", shape=(3, 3, 2, 8))
    found = {one.name: one for one in forms.forms(LayerTable((conv,)), [50], [3], positions={"layer_0": 9})}
    assert found["dense"].flops == 9 * 2 * 144 and found["csr8"].flops == 9 * 2 * 50
    assert found["three factors"].flops == 9 * 2 * 3 * (18 + 8 + 1)
    assert found["two factors"].flops == 9 * 2 * 3 * (18 + 8)
