"""PPO computes what its equations say, with sparsity methods that mask and that draw, and known faults are caught."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl_jax.agents import ppo
from sparserl_jax.agents.advantages import generalised_advantages
from sparserl_jax.agents.agent import Minibatch, Rollout
from sparserl_jax.conformance.laboratory import clock_at, hasty
from sparserl_jax.distributions import Normal
from sparserl_jax.sparsity import METHODS, drop_grow
from tests.reference import conformance, ppo_numpy
from tests.reference.conformance import (
    ACTION,
    EVENTS,
    EVIDENCE,
    NO_EVENTS,
    OBS,
    Laboratory,
    host,
    zero_outside,
)

T, E = 12, 3
CONFIG = ppo.PPOConfig(
    hidden=(16, 16), batch_size=T * E, rollout_steps=T, learning_rate=1e-2, gamma=0.9, gae_lambda=0.8,
    entropy=0.01, anneal=False,
)  # fmt: skip
GATES = jax.random.key(7)


def laboratory(family: Any = drop_grow.DROP_GROW, events: Any = NO_EVENTS, **changes: Any) -> Laboratory:
    """Never shared: what is planted stays in what was traced."""
    return Laboratory(family, events, dataclasses.replace(CONFIG, **changes))


@functools.cache
def begin(method: str = "rigl", events: Any = NO_EVENTS) -> ppo.PPOState:
    lab = conformance.laboratory(drop_grow.DROP_GROW, events, CONFIG)
    state = lab.init(jax.random.key(0), lab.settings(METHODS[method], 0.6))
    return state._replace(log_std=jnp.asarray([-0.3, 0.2]))


def rollout(lab: Laboratory, state: ppo.PPOState) -> Rollout:
    """Made-up steps, some of which terminate and some of which are cut, with the policy's own actions."""
    rng = np.random.default_rng(0)
    obs, final = (rng.normal(size=(T, E, OBS)).astype(np.float32) for _ in range(2))
    kind = rng.choice(3, size=(T, E), p=[0.7, 0.15, 0.15])
    behave = hasty(jax.vmap(lambda obs, key: lab.agent.on_policy.behave(state, obs, GATES, key)))
    action, log_density = behave(obs, jax.random.split(jax.random.key(0), T))
    reward = rng.normal(size=(T, E)).astype(np.float32)
    return Rollout(obs, action, log_density, reward, kind == 1, kind == 2, final)


def samples_of(lab: Laboratory, steps: Rollout) -> ppo.Samples:
    return hasty(lab.agent.on_policy.samples)(begin(), steps, GATES)


@pytest.fixture(scope="module", autouse=True)
def sound() -> None:
    """Made before anything is planted, by every check but that of what makes it."""
    made()


@functools.cache
def made() -> tuple[Rollout, ppo.Samples]:
    lab = conformance.laboratory(drop_grow.DROP_GROW, NO_EVENTS, CONFIG)
    steps = rollout(lab, begin())
    return steps, samples_of(lab, steps)


def plain(state: ppo.PPOState) -> dict[str, Any]:
    return {name: host(getattr(state, name).params)["mlp"] for name in ("actor", "critic")}


# ---- advantages --------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 0.95, 1.0]), st.sampled_from([1, 7]))
def test_advantages_are_those_of_the_restatement(seed: int, trace: float, steps: int):
    rng = np.random.default_rng(seed)
    reward, value, following = rng.normal(size=(3, steps, 2)).astype(np.float32)
    kind = rng.choice(3, size=(steps, 2), p=[0.6, 0.2, 0.2])
    given_all = (reward, value, following, kind == 1, kind == 2, 0.9, trace)
    np.testing.assert_allclose(
        generalised_advantages(*given_all), ppo_numpy.advantages(*given_all), rtol=1e-5, atol=1e-5
    )


def test_a_time_limit_bootstraps_from_the_last_state_and_a_termination_does_not():
    """By hand: rewards 1, values 0, the state behind worth 10."""
    one, ten, no, yes = (
        jnp.ones((1, 1)),
        jnp.full((1, 1), 10.0),
        jnp.zeros((1, 1), bool),
        jnp.ones((1, 1), bool),
    )
    for terminated, truncated, expected in ((no, yes, 6.0), (yes, no, 1.0), (no, no, 6.0)):
        found = generalised_advantages(one, 0 * one, ten, terminated, truncated, 0.5, 0.9)
        assert float(found[0, 0]) == expected


# ---- checks ------------------------------------------------------------------------------------------------


def check_samples() -> None:
    """Advantages and targets of a rollout are those of the restatement."""
    state, steps = begin(), made()[0]
    value, following = (
        ppo_numpy.forward(plain(state)["critic"], np.asarray(x))[0][..., 0]
        for x in (steps.obs, steps.final_obs)
    )
    expected = ppo_numpy.advantages(
        steps.reward, value, following, steps.terminated, steps.truncated, CONFIG.gamma, CONFIG.gae_lambda
    )
    found = samples_of(laboratory(), steps)
    np.testing.assert_allclose(found.advantage, expected.reshape(-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.target, (expected + value).reshape(-1), rtol=1e-4, atol=1e-5)


def check_update(method: str = "rigl") -> None:
    """Three whole updates on fixed batches, the first at ratio 1, are those of the restatement."""
    lab = laboratory(clip=0.05, largest_gradient=0.05)
    state, adam = begin(method)._replace(traced=lab.config.traced()), ppo_numpy.Adam(ppo.EPSILON)
    batch, masks = made()[1], jax.tree.map(np.asarray, lab.agent.masks(state))
    live = {name: masks[name]["mlp"] for name in masks}
    networks, log_std = plain(state), np.asarray(state.log_std, np.float64)
    for update in range(3):
        state, metrics = lab.update(state, Minibatch(batch, GATES), 0, update)
        networks, log_std, losses = ppo_numpy.updated(
            networks, live, log_std, batch, adam, rate=CONFIG.learning_rate, clip=0.05, entropy=CONFIG.entropy,
            largest=0.05,
        )  # fmt: skip
        for name, loss in losses.items():
            np.testing.assert_allclose(metrics[name], loss, rtol=1e-4, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain(state), networks)
        np.testing.assert_allclose(state.log_std, log_std, atol=1e-5)
    assert float(metrics["clipped"]) > 0.2, "nothing was clipped, so the clip was not looked at"
    for name in ("actor", "critic"):
        assert zero_outside(getattr(state, name).params, masks[name])


def check_ratio() -> None:
    """The policy that is trained first is the one that acted, also where its weights are drawn."""
    lab = laboratory(drop_grow.DROP_GROW._replace(effective=drawn))
    batch = samples_of(lab, rollout(lab, begin()))
    _, metrics = lab.update(begin(), Minibatch(batch, GATES), 0, 0)
    assert float(metrics["policy_kl"]) == pytest.approx(0.0, abs=1e-6), "the ratio is not 1"


def test_discrete_actions_are_learned_as_restated():
    """Three updates of a policy over choices, with their losses."""
    networks = dict.fromkeys(conformance.NETWORKS, drop_grow.DROP_GROW)
    config = dataclasses.replace(CONFIG, clip=0.05, largest_gradient=0.05)
    agent = ppo.make(config, OBS, ACTION, networks, dict.fromkeys(networks, NO_EVENTS), actions="discrete")
    state = begin()._replace(log_std=(), log_std_slots=(), traced=config.traced())
    obs = np.random.default_rng(1).normal(size=(300, OBS)).astype(np.float32)
    action, log_density = agent.on_policy.behave(state, obs, GATES, jax.random.key(1))
    action = np.asarray(action)
    logits, _ = ppo_numpy.forward(plain(state)["actor"], obs)
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    assert set(np.unique(action)) == {0.0, 1.0} and np.all(action.sum(axis=-1) == 1)
    np.testing.assert_allclose(action.mean(axis=0), shares.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(log_density, np.log(shares)[action == 1], atol=1e-5)
    advantage, target = np.random.default_rng(2).normal(size=(2, 300)).astype(np.float32)
    batch = ppo.Samples(obs, action, log_density, advantage, target)
    update = hasty(lambda state, clock: agent.update(state, Minibatch(batch, GATES), GATES, clock, EVIDENCE))
    masks, ours, adam = (
        jax.tree.map(np.asarray, agent.masks(state)),
        plain(state),
        ppo_numpy.Adam(ppo.EPSILON),
    )
    live = {name: masks[name]["mlp"] for name in masks}
    for step in range(3):
        state, metrics = update(state, clock_at(step))
        ours, _, losses = ppo_numpy.updated(
            ours,
            live,
            None,
            batch,
            adam,
            rate=CONFIG.learning_rate,
            clip=0.05,
            entropy=CONFIG.entropy,
            largest=0.05,
        )
        for name, loss in losses.items():
            np.testing.assert_allclose(metrics[name], loss, rtol=1e-4, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain(state), ours)


def drawn(params: Any, extra: Any, state: Any, mode: str, key: jax.Array) -> Any:
    """Weights under multiplicative noise: a stand-in for methods with stochastic gates."""
    return jax.tree.map(lambda x: x * (1 + 0.5 * jax.random.normal(key, x.shape)), params)


@pytest.mark.parametrize(
    "check", [check_samples, check_update, check_ratio], ids=lambda check: check.__name__[6:]
)
def test_the_checks_pass_on_the_code(check):
    check()


def test_a_dense_network_is_updated_as_restated():
    check_update("dense")


# ---- planted faults ----------------------------------------------------------------------------------------


def test_a_time_limit_taken_for_a_termination_is_caught(monkeypatch):
    def faulty(reward, value, following, terminated, truncated, *rest):
        return generalised_advantages(reward, value, following, terminated | truncated, truncated, *rest)

    monkeypatch.setattr(ppo, "generalised_advantages", faulty)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_samples()


def test_a_trace_that_runs_into_the_next_episode_is_caught(monkeypatch):
    def faulty(reward, value, following, terminated, truncated, *rest):
        return generalised_advantages(reward, value, following, terminated, truncated & False, *rest)

    monkeypatch.setattr(ppo, "generalised_advantages", faulty)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_samples()


REAL = ppo.surrogate


def unstopped(policy: Normal, samples: ppo.Samples, clip: Any, entropy: Any) -> jax.Array:
    """As if the advantages came out of the network that is trained."""
    flow = jnp.sum(policy.mean - jax.lax.stop_gradient(policy.mean), axis=-1)
    return REAL(policy, samples._replace(advantage=samples.advantage + flow), clip, entropy)


def unclipped(policy: Normal, samples: ppo.Samples, clip: Any, entropy: Any) -> jax.Array:
    return REAL(policy, samples, 1e9, entropy)


def unnormalised(policy: Normal, samples: ppo.Samples, clip: Any, entropy: Any) -> jax.Array:
    ratio = jnp.exp(policy.log_density(samples.action) - samples.log_density)
    bounded = jnp.clip(ratio, 1 - clip, 1 + clip)
    gain = jnp.minimum(ratio * samples.advantage, bounded * samples.advantage)
    return -jnp.mean(gain) - entropy * jnp.mean(policy.entropy)


def less_entropy(policy: Normal, samples: ppo.Samples, clip: Any, entropy: Any) -> jax.Array:
    return REAL(policy, samples, clip, -entropy)


def hopeful(policy: Normal, samples: ppo.Samples, clip: Any, entropy: Any) -> jax.Array:
    """Bounded ratios alone: the surrogate is no lower bound any more."""
    ratio = jnp.exp(policy.log_density(samples.action) - samples.log_density)
    gain = jnp.clip(ratio, 1 - clip, 1 + clip) * ppo.normalised(samples.advantage)
    return -jnp.mean(gain) - entropy * jnp.mean(policy.entropy)


@pytest.mark.parametrize(
    "fault",
    [
        unstopped,
        unclipped,
        *(pytest.param(fault, marks=pytest.mark.long) for fault in (unnormalised, less_entropy, hopeful)),
    ],
    ids=lambda fault: fault.__name__,
)
def test_a_wrong_surrogate_is_caught(fault, monkeypatch):
    monkeypatch.setattr(ppo, "surrogate", fault)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_update()


def test_gates_drawn_anew_after_the_rollout_are_caught(monkeypatch):
    real = ppo.ActorCritic.step
    monkeypatch.setattr(
        ppo.ActorCritic, "step", lambda self, *given, gates, **rest: real(self, *given, **rest)
    )
    with pytest.raises(AssertionError, match="ratio is not 1"):
        check_ratio()


# ---- the rest of the contract ------------------------------------------------------------------------------


def test_an_event_takes_the_place_of_the_networks_optimiser_step_and_log_sigma_moves_on():
    lab, state = conformance.laboratory(drop_grow.DROP_GROW, EVENTS, CONFIG), begin(events=EVENTS)
    batch = Minibatch(made()[1], GATES)
    before = jax.tree.map(np.asarray, lab.agent.masks(state))
    after, metrics = lab.update(state, batch, 0, EVENTS.interval - 1)
    assert bool(metrics["events"]["actor"]) and bool(metrics["events"]["critic"])
    for name, masks in jax.tree.map(np.asarray, lab.agent.masks(after)).items():
        kept = jax.tree.map(lambda a, b: a & b, before[name], masks)
        old, new = host(getattr(state, name).params), host(getattr(after, name).params)
        jax.tree.map(lambda live, a, b: np.testing.assert_array_equal(a[live], b[live]), kept, old, new)
        assert any(
            np.any(a != b) for a, b in zip(jax.tree.leaves(before[name]), jax.tree.leaves(masks), strict=True)
        )
    assert np.all(after.log_std != state.log_std)


def test_an_annealed_learning_rate_is_zero_where_training_ends():
    lab, state = laboratory(events=dataclasses.replace(EVENTS, interval=1000), anneal=True), begin()
    batch = Minibatch(made()[1], GATES)
    first, _ = lab.update(state, batch, 0, 0)
    half, _ = lab.update(state, batch, 0, (EVENTS.end + 1) // 2)
    last, _ = lab.update(state, batch, 0, EVENTS.end)
    moved = [np.abs(np.asarray(after.log_std - state.log_std)).max() for after in (first, half, last)]
    assert moved[0] == pytest.approx(CONFIG.learning_rate, rel=1e-2)
    assert moved[1] == pytest.approx(CONFIG.learning_rate * (1 - 21 / 41), rel=1e-2)
    assert moved[2] == 0.0
    # What the networks move by falls with it: Adam's first step from the same gradient is as long as its rate.
    for name in ("actor", "critic"):
        steps = [
            np.concatenate([
                np.abs(new - old).ravel()
                for new, old in zip(
                    jax.tree.leaves(host(getattr(after, name).params)),
                    jax.tree.leaves(host(getattr(state, name).params)),
                    strict=True,
                )
            ])
            for after in (first, half, last)
        ]  # fmt: skip
        assert steps[0].max() == pytest.approx(CONFIG.learning_rate, rel=1e-2)
        np.testing.assert_allclose(steps[1], steps[0] * (1 - 21 / 41), rtol=1e-2, atol=1e-6)
        assert steps[2].max() < 1e-8  # the rounding of 1 - 1


def test_rates_of_gates_fall_with_those_of_weights():
    lab = laboratory(METHODS["l0"].family, dataclasses.replace(EVENTS, interval=1000), anneal=True)
    state = lab.init(jax.random.key(0), lab.settings(METHODS["l0"], 1.0))
    batch = Minibatch(made()[1], GATES)
    for name in ("actor", "critic"):
        before = jax.tree.leaves(getattr(state, name).extra)
        longest = []
        for updates in (0, (EVENTS.end + 1) // 2, EVENTS.end):
            after = jax.tree.leaves(getattr(lab.update(state, batch, 0, updates)[0], name).extra)
            longest.append(
                max(float(np.abs(new - old).max()) for new, old in zip(after, before, strict=True))
            )
        assert longest == pytest.approx([0.01, 0.01 * (1 - 21 / 41), 0.0], rel=1e-2, abs=1e-8)


def test_the_policy_is_the_mean_of_the_live_weights():
    lab, state = conformance.laboratory(drop_grow.DROP_GROW, NO_EVENTS, CONFIG), begin()
    obs = np.random.default_rng(3).normal(size=(20, OBS)).astype(np.float32)
    mean = ppo_numpy.forward(plain(state)["actor"], obs)[0]
    assert mean.shape == (20, ACTION)
    params, _, _ = lab.agent.deployed(state)
    for found in (lab.policy(params, obs), lab.act(state, obs)[0]):
        np.testing.assert_allclose(found, mean, atol=1e-6)
    explored, _ = lab.act(state, obs, explore=True)
    many = np.tile(obs, (100, 1))  # 2,000 draws: the standard error of a spread is 1.6 % of it
    spread = (lab.act(state, many, explore=True)[0] - np.tile(mean, (100, 1))).std(axis=0)
    np.testing.assert_allclose(spread, np.exp(state.log_std), rtol=0.07)
    assert not np.array_equal(explored, mean)
