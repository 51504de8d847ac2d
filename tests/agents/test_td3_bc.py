"""TD3+BC computes what its equations say."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.agents import td3, td3_bc
from sparserl_jax.agents.td3_bc import TD3BCConfig
from sparserl_jax.sparsity import METHODS, drop_grow
from tests.reference import conformance, rlx2_numpy
from tests.reference.conformance import ACTION, CONFIG, NO_EVENTS, Laboratory, host

OWN = {name: value for name, value in vars(CONFIG).items() if name not in ("name", "exploration_noise")}
ALPHA = 0.7


@pytest.fixture(scope="module")
def lab() -> Laboratory:
    return Laboratory(drop_grow.DROP_GROW, NO_EVENTS, TD3BCConfig(alpha=ALPHA, **OWN))


@pytest.fixture(scope="module")
def state(lab: Laboratory) -> Any:
    return conformance.train(lab, lab.init(jax.random.key(0), lab.settings(METHODS["rigl"], 0.6)), 3)[
        -1
    ].after


def actor_loss(state: Any, batch: Any, alpha: float) -> float:
    """-lambda Q1(s, pi(s)) + (pi(s) - a)^2, lambda = alpha / mean |Q1|; entries that are not valid weigh nothing."""
    action = rlx2_numpy.action(host(state.actor.params), batch.obs)
    value = rlx2_numpy.values(host(state.critic.params), batch.obs, action)[0].reshape(-1)
    error = np.mean((action - batch.action) ** 2, axis=-1)
    size = np.mean(batch.valid * np.abs(value))
    return float(-alpha / size * np.mean(batch.valid * value) + np.mean(batch.valid * error))


@pytest.mark.parametrize("lost", [0, 3])
def test_the_actor_loss_is_that_of_the_definition(lab, state, lost: int):
    batch = conformance.batch(43)._replace(valid=np.arange(conformance.BATCH) >= lost)
    _, metrics = lab.delayed(state, batch, 0, 6)
    np.testing.assert_allclose(metrics["actor_loss"], actor_loss(state, batch, ALPHA), rtol=1e-5)


def test_the_critic_loss_is_td3s(lab, state):
    windows = conformance.batch(42, 32)
    drawn = np.random.default_rng(0).normal(size=(32, ACTION)).astype(np.float32) * 4
    fresh = Laboratory(drop_grow.DROP_GROW, NO_EVENTS, lab.config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(td3, "scaled_normal", lambda key, shape, scale: scale * jnp.asarray(drawn))
        _, metrics = fresh.update(state, windows, 0, 6)
    noise = np.clip(CONFIG.target_noise * drawn, -CONFIG.target_noise_clip, CONFIG.target_noise_clip)
    target = rlx2_numpy.td3_target(
        host(state.target_actor[0]), host(state.target_critic[0]), windows, CONFIG.gamma, noise
    )
    expected = rlx2_numpy.critic_loss(host(state.critic.params), windows, target)
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-5)


def test_lambda_is_constant_in_the_gradient_and_alpha_belongs_to_the_member():
    batch = conformance.batch(5)
    value, action = np.random.default_rng(1).normal(size=(2, conformance.BATCH)).astype(np.float32)
    action = np.tile(action[:, None], (1, ACTION))
    for alpha in (0.0, 0.5, 2.5):
        traced = TD3BCConfig(alpha=alpha).traced()
        slopes = jax.grad(lambda v, a, own: td3_bc.objective(own, v, a, batch), (0, 1))(value, action, traced)
        weight = batch.valid.astype(np.float64) / conformance.BATCH
        size = np.mean(batch.valid * np.abs(value))
        np.testing.assert_allclose(slopes[0], -alpha / size * weight, rtol=1e-5)
        np.testing.assert_allclose(
            slopes[1], 2 / ACTION * weight[:, None] * (action - batch.action), rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("alpha", [2.5, 10.0])
def test_a_critic_that_says_nothing_harms_nothing(alpha):
    """Neither the loss nor its slope, which is that at the least size of Q that counts."""
    batch, nothing = conformance.batch(6), np.zeros(conformance.BATCH, np.float32)
    traced = TD3BCConfig(alpha=alpha).traced()
    assert td3_bc.objective(traced, nothing, batch.action, batch) == 0.0
    slope = jax.grad(lambda value: td3_bc.objective(traced, value, batch.action, batch))(nothing)
    np.testing.assert_allclose(slope, -alpha / 1e-6 * batch.valid / conformance.BATCH, rtol=1e-5)


def test_it_does_not_explore(lab, state):
    obs = conformance.observations(1, 20)
    explored, mean = lab.act(state, obs, explore=True)
    np.testing.assert_array_equal(explored, mean)
    assert not hasattr(TD3BCConfig(), "exploration_noise") and "exploration_noise" not in TD3BCConfig.TRACED


def test_a_draw_from_it_is_its_one_action(lab, state):
    """Where the actions of other policies are drawn."""
    params, _, _ = lab.agent.deployed(state)
    obs = conformance.batch(7).obs
    drawn = lab.agent.sample_policy(params, obs, jax.random.key(0))
    np.testing.assert_array_equal(drawn, lab.agent.policy(params, obs))
