"""A LayerTable describes a network's tensors as the forward pass uses them."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from sparserl_jax.layers import Layer, LayerTable, derive, leaf, with_leaf

FIRST = Layer("first", ("first", "kernel"), ("first", "bias"), "dense", (5, 7), (2,), "input", "first")
LAST = Layer("last", ("last", "kernel"), None, "dense", (7, 1), (2,), "first", "last", output=True)
TABLE = LayerTable((FIRST, LAST))


def test_a_layer_counts_one_copy_and_a_table_counts_all():
    assert (FIRST.size, FIRST.copies, FIRST.fan_in, FIRST.units_in, FIRST.units_out) == (35, 2, 5, 5, 7)
    assert (TABLE.weights, TABLE.biases) == (2 * (35 + 7), 2 * 7)


def test_tensors_come_layer_by_layer_then_copy_by_copy():
    assert [(layer.name, copy) for layer, copy in TABLE.tensors] == [
        ("first", 0),
        ("first", 1),
        ("last", 0),
        ("last", 1),
    ]


def test_layers_that_may_not_be_masked_are_no_tensors():
    table = LayerTable((FIRST, dataclasses.replace(LAST, maskable=False)))
    assert [layer.name for layer in table.maskable] == ["first"]
    assert len(table.tensors) == 2 and table.weights == TABLE.weights


def test_tensors_are_named_with_their_copy_and_shape():
    assert TABLE.describe(FIRST, 1) == "first[1] (5, 7)"
    assert TABLE.describe(dataclasses.replace(FIRST, stack=()), 0) == "first (5, 7)"


def test_tables_are_static_values():
    assert hash(TABLE) == hash(LayerTable((FIRST, LAST))) and TABLE == LayerTable((FIRST, LAST))


def test_with_leaf_copies_only_the_way_to_the_leaf():
    tree = {"a": {"kernel": 1, "bias": 2}, "b": {"kernel": 3}}
    changed = with_leaf(tree, ("a", "kernel"), 9)
    assert changed == {"a": {"kernel": 9, "bias": 2}, "b": {"kernel": 3}}
    assert tree["a"]["kernel"] == 1 and changed["b"] is tree["b"]
    assert leaf(changed, ("a", "kernel")) == 9
    with pytest.raises(KeyError):
        leaf(tree, ("c", "kernel"))


class Eye(nn.Module):
    """Convolutions, then dense layers; names sort differently from the order of use."""

    @nn.compact
    def __call__(self, image):
        x = nn.relu(nn.Conv(8, (3, 2), name="z_conv")(image))
        x = nn.relu(nn.Conv(4, (2, 2), use_bias=False, name="a_conv")(x))
        return nn.Dense(2, name="head")(x.mean(axis=(-3, -2)))


def test_a_users_own_module_is_described_by_tracing():
    layers = derive(
        lambda key, image: Eye().init(key, image)["params"], jax.ShapeDtypeStruct((6, 6, 3), jnp.float32)
    )
    assert [layer.name for layer in layers] == ["z_conv", "a_conv", "head"]
    assert [layer.kind for layer in layers] == ["conv", "conv", "dense"]
    assert [layer.shape for layer in layers] == [(3, 2, 3, 8), (2, 2, 8, 4), (4, 2)]
    assert [layer.bias is None for layer in layers] == [False, True, False]
    assert [layer.inputs for layer in layers] == ["input", "z_conv", "a_conv"]
    assert layers[0].fan_in == 18 and (layers[0].units_in, layers[0].units_out) == (3, 8)
    assert [layer.output for layer in layers] == [False, False, True]
