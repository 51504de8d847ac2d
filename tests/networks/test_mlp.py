"""The networks of TD3 and SAC: shapes, the law of their initial weights, and what their layer tables count."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from sparserl_jax.layers import leaf
from sparserl_jax.networks import MLP, Actor, GaussianActor, TwinCritic, actor_layers, critic_layers
from tests.reference import rlx2_numpy

OBS, ACTION = 17, 6


@pytest.fixture(scope="module")
def wide():
    actor, critic = Actor((64, 48), ACTION), TwinCritic((64, 48))
    obs, action = np.zeros(OBS, np.float32), np.zeros(ACTION, np.float32)
    return {
        "actor": (actor, actor.init(jax.random.key(0), obs)["params"], actor_layers(actor, OBS)),
        "critic": (
            critic,
            critic.init(jax.random.key(1), obs, action)["params"],
            critic_layers(critic, OBS, ACTION),
        ),
    }


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_weights_and_biases_follow_the_uniform_law_of_the_fan_in(wide, network):
    _, params, layers = wide[network]
    for layer in layers:
        bound = layer.units_in**-0.5
        kernel, bias = np.asarray(leaf(params, layer.kernel)), np.asarray(leaf(params, layer.bias))
        assert np.abs(kernel).max() <= bound and np.abs(bias).max() <= bound
        assert np.abs(kernel).max() > 0.9 * bound and abs(kernel.mean()) < 0.1 * bound
        assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert np.unique(bias).size == bias.size  # not the zeros of the usual default


def test_twin_critics_start_from_different_weights(wide):
    _, params, layers = wide["critic"]
    for layer in layers:
        first, second = np.asarray(leaf(params, layer.kernel))
        assert not np.any(first == second)


def test_outputs_have_the_documented_shapes_and_values(wide):
    rng = np.random.default_rng(0)
    obs, action = (
        rng.normal(size=(5, OBS)).astype(np.float32),
        rng.uniform(-1, 1, (5, ACTION)).astype(np.float32),
    )
    actor, params, _ = wide["actor"]
    acted = actor.apply({"params": params}, obs)
    assert acted.shape == (5, ACTION) and actor.apply({"params": params}, obs[0]).shape == (ACTION,)
    np.testing.assert_allclose(acted, rlx2_numpy.action(params, obs), atol=1e-5)
    critic, params, _ = wide["critic"]
    twin = critic.apply({"params": params}, obs, action)
    assert twin.shape == (2, 5) and critic.apply({"params": params}, obs[0], action[0]).shape == (2,)
    np.testing.assert_allclose(twin, rlx2_numpy.values(params, obs, action), atol=1e-5)


def test_actions_stay_inside_their_range(wide):
    actor, params, _ = wide["actor"]
    acted = np.asarray(
        actor.apply({"params": jax.tree.map(lambda x: 100 * x, params)}, np.ones((1, OBS), np.float32))
    )
    assert np.abs(acted).max() <= 1


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_hidden_activations_can_be_asked_for_layer_by_layer(wide, network):
    module, params, layers = wide[network]
    inputs = [np.ones((4, OBS), np.float32)] + [np.ones((4, ACTION), np.float32)] * (network == "critic")
    _, sown = module.apply({"params": params}, *inputs, mutable=["intermediates"])
    shapes = {value.shape for value in jax.tree.leaves(sown)}
    assert shapes == {(*layer.stack, 4, layer.units_out) for layer in layers[:-1]}
    assert all(value.min() >= 0 for value in jax.tree.leaves(sown))


@pytest.mark.parametrize(
    "obs, action, actor_weights, critic_weights",
    [(17, 6, 71_424, 143_360), (11, 3, 69_120, 138_752), (111, 8, 96_000, 192_512)],
)
def test_weight_counts_are_the_published_ones(obs, action, actor_weights, critic_weights):
    actor = actor_layers(Actor((256, 256), action), obs)
    critic = critic_layers(TwinCritic((256, 256)), obs, action)
    assert (actor.weights, critic.weights) == (actor_weights, critic_weights)
    assert (actor.biases, critic.biases) == (512 + action, 2 * 513)
    assert [layer.shape for layer in actor] == [(obs, 256), (256, 256), (256, action)]
    assert [layer.shape for layer in critic] == [(obs + action, 256), (256, 256), (256, 1)]
    assert {layer.stack for layer in critic} == {(2,)} and {layer.stack for layer in actor} == {()}


def test_tables_say_where_every_tensor_is(wide):
    for network in ("actor", "critic"):
        _, params, layers = wide[network]
        assert len(layers) == 3 and [layer.output for layer in layers] == [False, False, True]
        for layer in layers:
            assert leaf(params, layer.kernel).shape == layer.stack + layer.shape
            assert leaf(params, layer.bias).shape == layer.stack + layer.shape[-1:]
            assert layer.kind == "dense" and layer.maskable
        assert [(layer.inputs, layer.outputs) for layer in layers] == [
            ("input", "hidden_0"),
            ("hidden_0", "hidden_1"),
            ("hidden_1", "output"),
        ]


def test_more_than_ten_hidden_layers_keep_the_order_of_the_forward_pass():
    hidden = tuple(range(20, 33))  # every width names its layer
    for layers in (actor_layers(Actor(hidden, 2), 3), critic_layers(TwinCritic(hidden), 3, 2)):
        assert [layer.name for layer in layers] == [*(f"hidden_{i}" for i in range(13)), "output"]
        assert [layer.units_out for layer in layers[:-1]] == list(hidden)
        for before, after in zip(layers[:-1], layers[1:], strict=True):
            assert after.inputs == before.outputs and after.units_in == before.units_out
        assert layers[-1].output and not any(layer.output for layer in layers[:-1])


def test_a_single_network_maps_features_to_features():
    module = MLP((4,), 3)
    params = module.init(jax.random.key(0), np.zeros(2, np.float32))["params"]
    assert list(params) == ["hidden_0", "output"]
    assert module.apply({"params": params}, np.zeros((7, 5, 2), np.float32)).shape == (7, 5, 3)


# ---- the networks of SAC -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def orthogonal():
    actor, critic = GaussianActor((24, 16), ACTION), TwinCritic((24, 16), "orthogonal")
    obs, action = np.zeros(OBS, np.float32), np.zeros(ACTION, np.float32)
    return {
        "actor": (actor, jax.jit(actor.init)(jax.random.key(0), obs)["params"], actor_layers(actor, OBS)),
        "critic": (
            critic,
            jax.jit(critic.init)(jax.random.key(1), obs, action)["params"],
            critic_layers(critic, OBS, ACTION),
        ),
    }


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_orthogonal_weights_have_gain_one_and_their_biases_are_zero(orthogonal, network):
    _, params, layers = orthogonal[network]
    assert {layer.law for layer in layers} == {"orthogonal"}
    for layer in layers:
        kernels = np.asarray(leaf(params, layer.kernel)).reshape(layer.copies, *layer.shape)
        for kernel in kernels:
            narrow = kernel if kernel.shape[0] >= kernel.shape[1] else kernel.T
            np.testing.assert_allclose(narrow.T @ narrow, np.eye(narrow.shape[1]), atol=1e-5)
        assert not np.asarray(leaf(params, layer.bias)).any()
        if layer.copies == 2:
            assert not np.allclose(*kernels, atol=1e-2)


def test_a_gaussian_actor_gives_means_and_spreads_of_the_published_size(orthogonal):
    actor, params, layers = orthogonal["actor"]
    obs = np.random.default_rng(0).normal(size=(5, OBS)).astype(np.float32)
    mean, spread = actor.apply({"params": params}, obs)
    outputs = rlx2_numpy.forward(params["mlp"], obs)
    np.testing.assert_allclose(np.concatenate([mean, spread], axis=-1), outputs, atol=1e-5)
    assert layers[-1].shape == (16, 2 * ACTION) and layers[-1].output
    for obs_dim, action_dim, weights in ((17, 6, 72_960), (11, 3, 69_888), (111, 8, 98_048)):
        assert actor_layers(GaussianActor((256, 256), action_dim), obs_dim).weights == weights
