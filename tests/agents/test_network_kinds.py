"""Agents with networks beyond the MLP: what they value is what the restatement says, and masks hold through updates."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from sparserl_jax.agents import dqn, td3
from sparserl_jax.agents.agent import Clock
from sparserl_jax.conformance.laboratory import hasty
from sparserl_jax.sparsity import METHODS
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Events
from tests.reference import conformance, networks_numpy
from tests.reference.conformance import EVIDENCE, equal, host, zero_outside

IMAGE, CHOICES = (4, 4, 2), 2
FLAT, SIZE = 32, 16


def images(seed: int) -> Any:
    """Windows of one step over random images."""
    rng, windows = np.random.default_rng(seed), conformance.batch(seed, SIZE, 1)
    obs, closing = (rng.integers(0, 2, (SIZE, FLAT)).astype(np.float32) for _ in range(2))
    taken = np.eye(CHOICES, dtype=np.float32)[rng.integers(0, CHOICES, SIZE)]
    return windows._replace(obs=obs, action=taken, closing_obs=closing)


def test_dqn_keeps_the_masks_of_its_convolution_through_updates_and_events():
    method, events = METHODS["rigl"], Events(4, 41, 0.5)
    config = dqn.DQNConfig(network="cnn", hidden=(12,), batch_size=SIZE, learning_rate=1e-2, target_period=3)
    agent = dqn.make(config, FLAT, CHOICES, {"actor": method.family}, {"actor": events}, image=IMAGE)
    layers = agent.layers["actor"]
    own = method.settings(layers, 0.6, events, "released")
    settings = {"actor": own, "dense_targets": np.bool_(False), "traced": config.traced()}
    state = start = hasty(agent.init)(jax.random.key(0), settings)
    update = hasty(lambda state, data, key, clock: agent.update(state, data, key, clock, EVIDENCE))
    happened, copied = 0, agent.masks(start)["actor"]
    for done in range(9):
        clock = Clock(np.int32(done), np.int32(done))
        state, metrics = update(state, images(done), jax.random.key(done), clock)
        happened += int(metrics["events"]["actor"])
        assert np.isfinite(metrics["actor_loss"])
        masks = agent.masks(state)["actor"]
        if (done + 1) % config.target_period == 0:
            copied = masks
        assert zero_outside(state.actor.params, masks) and zero_outside(state.target[0], copied)
        np.testing.assert_array_equal(mask_ops.nnz_table(layers, masks), own.counts)
    before = host(agent.masks(start)["actor"])["cnn"]
    after = host(agent.masks(state)["actor"])["cnn"]
    assert happened == 2 and not equal(after["hidden_0"]["kernel"], before["hidden_0"]["kernel"])
    assert not after["conv"]["kernel"].all()
    obs = images(99).obs
    expected = networks_numpy.cnn(host(state.actor.params)["cnn"], obs, IMAGE)
    np.testing.assert_allclose(agent.value(state, obs), expected.max(axis=1), atol=1e-5)
    seen = hasty(lambda state, data: agent.diagnose(state, data, jax.random.key(0), Clock(0, 0)))(
        state, images(5)
    )
    assert {"dormant_actor_conv", "dormant_actor_hidden_0"} <= set(seen)
    assert all(np.isfinite(value) for value in seen.values())


def test_td3_trains_twin_residual_critics_under_masks():
    config = td3.TD3Config(network="simba", hidden=(8, 8), batch_size=conformance.BATCH, learning_rate=1e-2)
    lab = conformance.Laboratory(METHODS["rigl"].family, Events(2, 41, 0.5), config)
    state = lab.init(jax.random.key(0), lab.settings(METHODS["rigl"], 0.6))
    start = lab.agent.masks(state)
    for done in range(4):
        state, metrics = lab.update(state, conformance.batch(done), done, done)
        assert np.isfinite(metrics["critic_loss"])
        state, _ = lab.delayed(state, conformance.batch(done), done, done + 1)
    masks = lab.agent.masks(state)
    for name in ("actor", "critic"):
        params = getattr(state, name).params
        assert zero_outside(params, masks[name])
        norms = [leaf for path, leaf in params["simba"].items() if path.startswith("norm")]
        assert all((np.asarray(norm["scale"]) != 1).any() for norm in norms)  # they learn, unmasked
        counts = [mask_ops.nnz_table(lab.layers[name], tree[name]) for tree in (start, masks)]
        np.testing.assert_array_equal(*counts)
    assert zero_outside(state.target_critic[0], masks["critic"]) and not equal(masks, start)
    obs = conformance.observations(3, 5)
    action = np.asarray(lab.agent.policy(lab.agent.deployed(state)[0], obs))
    acted = np.tanh(networks_numpy.simba(host(lab.agent.deployed(state)[0])["simba"], obs))
    np.testing.assert_allclose(action, acted, atol=1e-5)
    first = jax.tree.map(lambda x: x[0], host(state.critic.params)["simba"])
    expected = networks_numpy.simba(first, np.concatenate([obs, action], axis=1))[:, 0]
    np.testing.assert_allclose(lab.agent.value(state, obs), expected, atol=1e-5)
