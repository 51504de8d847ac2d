"""DDPG computes what its equations say, whatever sparsity methods its networks carry, and explores as declared."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.agents import ddpg
from sparserl_jax.envs import GoalSpec
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import METHODS, drop_grow
from tests.reference import conformance, ddpg_numpy, in_sample_numpy, rlx2_numpy
from tests.reference.conformance import (
    ACTION,
    BATCH,
    EVENTS,
    NETWORKS,
    NO_EVENTS,
    OBS,
    Laboratory,
    equal,
    host,
    laboratory,
    zero_outside,
)

CONFIG = ddpg.DDPGConfig(hidden=(16, 16), batch_size=BATCH, learning_rate=1e-2, gamma=0.9, tau=0.05)
FAMILIES = {method.family.name: name for name, method in reversed(METHODS.items())}


@pytest.fixture(scope="module")
def lab() -> Laboratory:
    return laboratory(drop_grow.DROP_GROW, NO_EVENTS, CONFIG)


def begin(lab: Laboratory, method: str = "static") -> ddpg.DDPGState:
    settings = lab.settings(METHODS[method], 0.6, dense_targets=False)
    return lab.init(jax.random.key(0), {**settings, "traced": lab.config.traced()})


def apart(state: ddpg.DDPGState) -> ddpg.DDPGState:
    """A state whose targets are other networks than the trained ones, so that they cannot be taken for each other."""
    actor, critic = (
        jax.tree.map(lambda x: 1.5 * jnp.flip(x, -1), getattr(state, name).params) for name in NETWORKS
    )
    return state._replace(target_actor=(actor, {}), target_critic=(critic, {}))


@pytest.mark.parametrize(("rewards", "window"), [(None, 3), ((-0.02, 0.03), 3), ((-0.02, 0.0), 1)])
@pytest.mark.slow
def test_the_critic_loss_is_that_of_the_restatement(rewards, window):
    lab = laboratory(drop_grow.DROP_GROW, NO_EVENTS, dataclasses.replace(CONFIG, reward_range=rewards))
    state, windows = apart(begin(lab)), conformance.batch(7, 32, window)
    _, metrics = lab.update(state, windows, 0, 0)
    bounds = (
        (-np.inf, np.inf) if rewards is None else (10 * rewards[0], 10 * rewards[1])
    )  # 1 / (1 - gamma) = 10
    free = ddpg_numpy.target(host(state.target_actor[0]), host(state.target_critic[0]), windows, CONFIG.gamma)
    y = np.clip(free, *bounds)
    assert rewards is None or 0.2 < (y != free).mean() < 1
    critic = host(state.critic.params)
    np.testing.assert_allclose(metrics["critic_loss"], ddpg_numpy.critic_loss(critic, windows, y), rtol=1e-5)
    expected = ddpg_numpy.value(critic, windows.obs, windows.action).mean()
    np.testing.assert_allclose(metrics["q"], expected, rtol=1e-4, atol=1e-6)


def test_targets_are_clipped_to_what_goals_declare_in_hindsight_alone():
    """A range of positive rewards, too: an episode may end after the first of them."""
    cases = {
        ("plain", (-1.0, 0.0), None): None,
        ("hindsight", None, None): None,
        ("hindsight", (-1.0, 0.0), None): (-10.0, 0.0),
        ("hindsight", (-1.0, 0.0), (-2.0, 1.0)): (-20.0, 10.0),
        ("hindsight", (0.5, 1.0), None): (0.5, 10.0),
        ("plain", (-1.0, 0.0), (-2.0, -1.0)): (-20.0, -1.0),
    }
    data = conformance.batch(7)._replace(
        rewards=np.linspace(-90, 90, BATCH, dtype=np.float32)[:, None], terminated=np.ones((BATCH, 1), bool),
        truncated=np.zeros((BATCH, 1), bool), used=np.ones(BATCH, np.int32),
    )  # fmt: skip
    for (replay, declared, own), bounds in cases.items():
        config = dataclasses.replace(CONFIG, replay=replay, reward_range=own)
        goal = GoalSpec((0, 1), (1, 2), lambda achieved, desired: achieved[..., 0], declared)
        families, events = dict.fromkeys(NETWORKS, drop_grow.DROP_GROW), dict.fromkeys(NETWORKS, NO_EVENTS)
        agent = ddpg.make(config, OBS, ACTION, families, events, goal=goal)
        lab = laboratory(drop_grow.DROP_GROW, NO_EVENTS, CONFIG)
        state = begin(lab)
        loss = float(told(agent)(state, data)["critic_loss"])
        y = data.rewards[:, 0] if bounds is None else np.clip(data.rewards[:, 0], *bounds)
        assert loss == pytest.approx(ddpg_numpy.critic_loss(host(state.critic.params), data, y), rel=1e-5)
        assert (agent.hindsight is None) == (replay == "plain")
        if agent.hindsight is not None:
            assert float(agent.hindsight(state)) == pytest.approx(0.8)


def told(agent: Any) -> Any:
    """An update's metrics, compiled without optimisation."""
    clock = ddpg.Clock(np.int32(0), np.int32(0))
    return jax.jit(
        lambda state, data: agent.update(state, data, jax.random.key(0), clock, conformance.EVIDENCE)[1],
        compiler_options={"xla_backend_optimization_level": "0"},
    )


def test_the_actor_loss_is_that_of_the_restatement(lab):
    state, windows = apart(begin(lab)), conformance.batch(43)
    for action_l2 in (1.0, 0.0):
        own = state._replace(traced=state.traced._replace(action_l2=np.float32(action_l2)))
        _, metrics = lab.delayed(own, windows, 0, 1)
        expected = ddpg_numpy.actor_loss(
            host(state.actor.params), host(state.critic.params), windows, action_l2
        )
        np.testing.assert_allclose(metrics["actor_loss"], expected, rtol=1e-5)


def test_the_actor_learns_through_its_values_and_the_price_of_its_actions(lab):
    """Its gradient is that of the restatement by central differences."""
    state, windows = begin(lab), conformance.batch(43)
    actor, critic = (in_sample_numpy.double(host(getattr(state, name).params)) for name in NETWORKS)
    masks = host(lab.agent.masks(state)["actor"])
    for action_l2 in (1.0, 0.0):
        own = state._replace(traced=state.traced._replace(action_l2=np.float32(action_l2)))
        _, metrics = lab.delayed(own, windows, 0, 1)
        _, norm = in_sample_numpy.live_gradient(
            lambda price=action_l2: ddpg_numpy.actor_loss(actor, critic, windows, price), actor, masks
        )
        np.testing.assert_allclose(metrics["actor_grad_norm"], norm, rtol=1e-3)


def test_both_networks_learn_at_every_update_and_targets_follow_by_tau(lab):
    assert lab.agent.delay == 1 and lab.agent.ticks(7) == {"critic": 7, "actor": 7}
    moments = conformance.train(lab, begin(lab), 2)
    assert [moment.part for moment in moments] == ["update", "delayed"] * 2
    for moment in moments:
        moved = ["critic"] if moment.part == "update" else ["actor", "target_actor", "target_critic"]
        for name in ddpg.DDPGState._fields:
            assert equal(getattr(moment.before, name), getattr(moment.after, name)) == (name not in moved)
    before, after = moments[-1].before, moments[-1].after
    for name in NETWORKS:
        online, old, new = (
            host(tree)
            for tree in (
                getattr(after, name).params,
                getattr(before, f"target_{name}")[0],
                getattr(after, f"target_{name}")[0],
            )
        )
        jax.tree.map(
            lambda w, t, out: np.testing.assert_allclose(out, 0.05 * w + 0.95 * t, atol=1e-6),
            online,
            old,
            new,
        )


def test_windows_that_are_not_valid_have_no_weight(lab):
    state, windows = begin(lab), conformance.batch(44)
    spoilt = windows._replace(
        valid=np.arange(BATCH) != 3, rewards=windows.rewards.copy(), obs=windows.obs.copy()
    )
    other = spoilt._replace(rewards=spoilt.rewards.copy(), obs=spoilt.obs.copy())
    other.rewards[3] += 100
    other.obs[3] += 1
    for part, updates in ((lab.update, 0), (lab.delayed, 1)):
        assert equal(part(state, spoilt, 0, updates)[0], part(state, other, 0, updates)[0])
        assert not equal(part(state, spoilt, 0, updates)[0], part(state, windows, 0, updates)[0])


@pytest.mark.parametrize(("epsilon", "sigma"), [(0.0, 0.2), (0.3, 0.0), (1.0, 0.2)])
def test_exploration_is_clipped_noise_or_any_action(lab, epsilon, sigma):
    state, obs = begin(lab), conformance.observations(1, 6000)
    traced = state.traced._replace(random_actions=np.float32(epsilon), exploration_noise=np.float32(sigma))
    taken, mean = lab.act(state._replace(traced=traced), obs, explore=True)
    np.testing.assert_allclose(mean, rlx2_numpy.action(host(state.actor.params), obs), atol=1e-5)
    assert np.abs(taken).max() <= 1
    if sigma == 0.0:  # then what is not random is the policy's own
        assert (np.abs(taken - mean).max(axis=1) > 0).mean() == pytest.approx(epsilon, abs=0.02)
    elif epsilon == 0.0:
        inside = np.abs(taken) < 1
        assert (taken - mean)[inside].std() == pytest.approx(sigma, rel=0.1)
    else:
        np.testing.assert_allclose(np.quantile(taken, [0.1, 0.5, 0.9]), [-0.8, 0.0, 0.8], atol=0.03)
    greedy, _ = lab.act(state._replace(traced=traced), obs)
    np.testing.assert_allclose(greedy, mean, atol=1e-6)


def test_the_value_is_that_of_the_deployed_action(lab):
    state, obs = begin(lab), conformance.observations(3, 9)
    found = host(jax.jit(lab.agent.value)(state, obs))
    actor, critic = host(state.actor.params), host(state.critic.params)
    np.testing.assert_allclose(found, ddpg_numpy.value(critic, obs, rlx2_numpy.action(actor, obs)), rtol=1e-5)
    assert lab.layers["critic"][0].shape == (OBS + ACTION, 16) and lab.layers["critic"][0].stack == ()


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in ("drop_grow", "l0") else pytest.mark.long) for f in sorted(FAMILIES)],
)
@pytest.mark.slow
def test_every_family_of_methods_trains_and_keeps_what_is_dead_out(family):
    """Nine updates with events: losses are numbers, and neither trained nor target networks have anything outside."""
    method = METHODS["rigl" if family == "drop_grow" else FAMILIES[family]]
    lab = laboratory(method.family, EVENTS, CONFIG)
    settings = lab.settings(method, 0.5, dense_targets=False)
    start = lab.init(jax.random.key(0), {**settings, "traced": CONFIG.traced()})
    last = conformance.train(lab, start, 9)[-1].after
    assert not equal(start.actor.params, last.actor.params)
    deployed = jax.jit(lambda *state: method.family.deployed(*state)[:2])
    for name in NETWORKS:
        network = getattr(last, name)
        params, masks = deployed(network.params, network.extra, network.sparsity)
        assert zero_outside(params, masks)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(host(params)))
        if method.family.declares.targets == "online":
            assert zero_outside(getattr(last, f"target_{name}")[0], masks)
        if family == "drop_grow":
            assert not equal(masks, lab.agent.masks(start)[name])
    conformance.check_actions_ignore_the_rest(lab, last)
    conformance.check_targets_ignore_the_rest(lab, last, 9)


@pytest.mark.slow
def test_configurations_that_mean_nothing_are_refused():
    with pytest.raises(
        UserError, match="unknown replay of agent 'ddpg' 'hindsigt': did you mean 'hindsight'"
    ):
        ddpg.DDPGConfig(replay="hindsigt")
    for bounds in ((0.0, -1.0), (1.0,)):
        with pytest.raises(UserError, match="reward_range = .* must be the least and the largest reward"):
            ddpg.DDPGConfig(reward_range=bounds)
