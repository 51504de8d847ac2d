"""Networks beyond the MLP: what they compute, how they begin, what their tables say and what that costs."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from sparserl_jax.accounting import flops, sizes
from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable, leaf
from sparserl_jax.networks import (
    ActionValues,
    LinearActor,
    TwinCritic,
    Value,
    actor_layers,
    critic_layers,
)
from tests.reference import networks_numpy

IMAGE, CHOICES = (5, 4, 3), 3
FLAT = 60
OBS, ACTION, WIDTH = 5, 2, 6


def noisy(params: Any, seed: int = 0) -> Any:
    """No zero biases, no scales of one."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (np.asarray(x) + rng.normal(0, 0.3, x.shape)).astype(np.float32), params)


def everything(layers: LayerTable, params: Any) -> None:
    """A table knows every parameter: what is no weight is one of its other values."""
    assert {path: leaf(params, path).shape for path in layers.shapes} == layers.shapes
    sizes = [value.size for value in jax.tree.leaves(params)]
    assert len(sizes) == len(layers.shapes) and sum(sizes) == layers.weights + layers.biases


@pytest.fixture(scope="module")
def cnn() -> tuple[Any, Any, LayerTable]:
    module = ActionValues((7, 6), CHOICES, kind="cnn", image=IMAGE)
    return module, jax.jit(module.init)(jax.random.key(0), np.zeros(FLAT)), actor_layers(module, FLAT)


@pytest.fixture(scope="module")
def simba() -> tuple[Any, Any, LayerTable]:
    module = TwinCritic((WIDTH, WIDTH), kind="simba")
    params = jax.jit(module.init)(jax.random.key(1), np.zeros(OBS), np.zeros(ACTION))
    return module, params, critic_layers(module, OBS, ACTION)


def test_the_cnn_computes_what_its_restatement_does(cnn):
    module, made, _ = cnn
    params = noisy(made["params"])
    obs = np.random.default_rng(1).normal(size=(4, FLAT)).astype(np.float32)
    found = module.apply({"params": params}, obs)
    assert found.shape == (4, CHOICES)
    np.testing.assert_allclose(found, networks_numpy.cnn(params["cnn"], obs, IMAGE), atol=1e-5)
    np.testing.assert_allclose(module.apply({"params": params}, obs[2]), found[2], atol=1e-5)
    assert module.apply({"params": params}, obs.reshape(2, 2, FLAT)).shape == (2, 2, CHOICES)


def test_simba_computes_what_its_restatement_does(simba):
    module, made, _ = simba
    params = noisy(made["params"])
    rng = np.random.default_rng(1)
    obs, action = (rng.normal(size=(4, size)).astype(np.float32) for size in (OBS, ACTION))
    twin = np.asarray(module.apply({"params": params}, obs, action))
    assert twin.shape == (2, 4)
    for copy in range(2):
        own = jax.tree.map(lambda x: x[copy], params["simba"])  # noqa: B023
        expected = networks_numpy.simba(own, np.concatenate([obs, action], axis=1))[:, 0]
        np.testing.assert_allclose(twin[copy], expected, atol=1e-5)


def test_the_table_of_a_cnn_says_where_every_tensor_is(cnn):
    _, made, layers = cnn
    assert [layer.name for layer in layers] == ["conv", "hidden_0", "hidden_1", "output"]
    assert [layer.kind for layer in layers] == ["conv", "dense", "dense", "dense"]
    assert [layer.shape for layer in layers] == [(3, 3, 3, 16), (3, 2, 16, 7), (7, 6), (6, 3)]
    assert [layer.fan_in for layer in layers] == [27, 96, 7, 6] and layers[0].positions == 3 * 2
    assert [layer.inputs for layer in layers] == ["input", "conv", "hidden_0", "hidden_1"]
    assert [layer.name for layer in layers.first] == ["conv"] and layers.hidden == layers[:-1]
    assert all(layer.maskable for layer in layers)
    for layer in layers:
        assert leaf(made["params"], layer.kernel).shape == layer.shape
    everything(layers, made["params"])


def test_the_table_of_simba_knows_stream_and_normalisations(simba):
    _, made, layers = simba
    names = ["embed", "hidden_0", "merge_0", "hidden_1", "merge_1", "output"]
    assert [layer.name for layer in layers] == names
    inner = 4 * WIDTH
    shapes = [(7, WIDTH), (WIDTH, inner), (inner, WIDTH), (WIDTH, inner), (inner, WIDTH), (WIDTH, 1)]
    assert [layer.shape for layer in layers] == shapes and {layer.stack for layer in layers} == {(2,)}
    assert [layer.name for layer in layers.hidden] == ["hidden_0", "hidden_1"]
    assert {layer.outputs for layer in layers if layer not in layers.hidden} == {"stream", "output"}
    normalised = {layer.name: layer.norm for layer in layers if layer.norm}
    assert normalised == {
        "hidden_0": ("simba", "norm_0"),
        "hidden_1": ("simba", "norm_1"),
        "output": ("simba", "norm"),
    }
    for path in normalised.values():
        for part in ("scale", "bias"):
            assert leaf(made["params"], (*path, part)).shape == (2, WIDTH)
    everything(layers, made["params"])


@pytest.mark.parametrize("law", ["fan_in_uniform", "orthogonal"])
def test_convolutions_begin_by_the_law_of_their_windows(law):
    image = (6, 6, 2)
    module = (ActionValues if law == "fan_in_uniform" else LinearActor)((32,), 2, law, "cnn", image)
    params = jax.jit(module.init)(jax.random.key(0), np.zeros(72))["params"]
    for layer in actor_layers(module, 72):
        kernel, bias = np.asarray(leaf(params, layer.kernel)), np.asarray(leaf(params, layer.bias))
        if law == "fan_in_uniform":
            bound = layer.fan_in**-0.5
            assert np.abs(kernel).max() <= bound and np.abs(kernel).max() > 0.9 * bound
            assert np.abs(bias).max() <= bound and np.unique(bias).size == bias.size
        else:
            matrix = kernel.reshape(layer.fan_in, layer.units_out)
            narrow = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
            np.testing.assert_allclose(narrow.T @ narrow, np.eye(narrow.shape[1]), atol=1e-5)
            assert not bias.any()


def test_hidden_activations_are_those_of_units_that_can_be_removed(cnn, simba):
    module, made, layers = cnn
    _, sown = module.apply(made, np.ones((4, FLAT), np.float32), mutable=["intermediates"])
    shapes = {
        name.removesuffix("_units"): value[0].shape for name, value in sown["intermediates"]["cnn"].items()
    }
    assert shapes == {"conv": (4, 3, 2, 16), "hidden_0": (4, 7), "hidden_1": (4, 6)}
    assert set(shapes) == {layer.name for layer in layers.hidden}
    module, made, layers = simba
    inputs = np.ones((4, OBS), np.float32), np.ones((4, ACTION), np.float32)
    _, sown = module.apply(made, *inputs, mutable=["intermediates"])
    shapes = {
        name.removesuffix("_units"): value[0].shape for name, value in sown["intermediates"]["simba"].items()
    }
    assert shapes == {layer.name: (2, 4, 4 * WIDTH) for layer in layers.hidden}


def test_flops_of_a_convolution_count_the_places_it_is_applied_at(cnn):
    """MinAtar's Breakout by hand: 8 x 8 places of 3 x 3 windows, all of which feed 128 units."""
    layers = actor_layers(ActionValues((128,), 3, kind="cnn", image=(10, 10, 4)), 400)
    conv, first, output = 3 * 3 * 4 * 16, 8 * 8 * 16 * 128, 128 * 3
    assert [layer.size for layer in layers] == [conv, first, output]
    assert flops.forward(layers) == 2 * (64 * conv + first + output) == 336_640
    assert flops.forward(layers, [100, 1000, 10]) == 2 * (64 * 100 + 1000 + 10)
    assert flops.forward(layers, convention="minus1") == 64 * 16 * 71 + 128 * (2 * 1024 - 1) + 3 * 255
    assert flops.forward(layers, [576, 0, 0], "micronet") == 64 * (2 * 576 + 16)
    assert flops.forward(cnn[2]) == 2 * (6 * 27 * 16 + 96 * 7 + 42 + 18)


def test_sizes_count_normalisations_as_values_that_live(simba):
    layers = simba[2]
    scales = 2 * 3 * 2 * WIDTH
    biases = 2 * (WIDTH + 2 * (4 * WIDTH + WIDTH) + 1)
    assert layers.biases == scales + biases
    kept = [6] * len(layers.tensors)
    assert sizes.sizes(layers, kept)["params"] == 6 * 12 + scales + biases
    assert sizes.sizes(layers)["dense"] == 4 * (layers.weights + scales + biases)
    assert flops.forward(layers, kept) == 2 * 6 * 12


def test_values_of_images_and_of_residual_networks_are_numbers():
    for kind, image in (("cnn", IMAGE), ("simba", None)):
        module = Value((8,), kind=kind, image=image)
        params = jax.jit(module.init)(jax.random.key(0), np.zeros(FLAT))
        assert module.apply(params, np.ones((3, FLAT), np.float32)).shape == (3,)


@pytest.mark.parametrize(
    ("agent", "changes", "sentence"),
    [
        ("dqn", {"network": "cn"}, "unknown network of agent 'dqn' 'cn': did you mean 'cnn'"),
        ("td3", {"network": "cnn"}, "unknown network of agent 'td3' 'cnn'"),
        ("sac", {"network": "simb"}, "did you mean 'simba'"),
        (
            "ppo",
            {"network": "simba", "hidden": (8, 16)},
            "agent.hidden = [8, 16]: network 'simba' has one residual",
        ),
    ],
)
def test_networks_that_an_agent_has_not_are_one_sentence(agent, changes, sentence):
    from sparserl_jax.agents.registry import algorithm

    with pytest.raises(UserError) as refused:
        algorithm(agent).config(**changes)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
