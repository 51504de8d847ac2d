"""SAC computes what its equations say, with every sparsity method, and keeps what methods promise."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparserl_jax.agents import sac
from sparserl_jax.distributions import TanhNormal
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import METHODS, drop_grow
from tests.reference import conformance, rlx2_numpy, sac_numpy
from tests.reference.conformance import ACTION, BATCH, EVENTS, NETWORKS, WINDOW, Laboratory, equal, host

CONFIG = sac.SACConfig(hidden=(16, 16), batch_size=BATCH, learning_rate=1e-2, tau=0.05, gamma=0.9)
RIGL = METHODS["rigl"]


@pytest.fixture(scope="module")
def lab() -> Laboratory:
    return conformance.laboratory(drop_grow.DROP_GROW, EVENTS, CONFIG)


def begin(lab: Laboratory, method: str = "rigl", **changes: Any) -> sac.SACState:
    return lab.init(jax.random.key(0), lab.settings(METHODS[method], 0.6, **changes))


@pytest.fixture(scope="module")
def moments(lab) -> list[conformance.Moment]:
    return conformance.train(lab, begin(lab), 9)


@pytest.fixture(scope="module")
def trained(moments) -> sac.SACState:
    return moments[-1].after._replace(log_temperature=jnp.float32(math.log(0.3)))


def with_noise(patch: pytest.MonkeyPatch, noise: np.ndarray) -> None:
    """Draws of the policy come from this noise, whatever the key."""
    patch.setattr(TanhNormal, "sample", lambda self, key: self.at(jnp.asarray(noise, jnp.float32)))


def losses(config: sac.SACConfig, state: sac.SACState, windows: Any, noise: np.ndarray, part: str) -> Any:
    """Metrics of one update or delayed part whose draws are given."""
    quiet = Laboratory(drop_grow.DROP_GROW, conformance.NO_EVENTS, config)
    with pytest.MonkeyPatch.context() as patch:
        with_noise(patch, noise)
        return getattr(quiet, part)(state, windows, 0, 6)


# ---- equations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entropy", ["path", "bootstrap", None])
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.slow
def test_the_critic_loss_is_that_of_the_restatement(trained, entropy, window):
    windows = conformance.batch(42, 24, window, successors=True)
    noise = np.random.default_rng(0).normal(size=(24, window, ACTION)).astype(np.float32)
    config = dataclasses.replace(CONFIG, entropy=entropy)
    state = trained._replace(traced=config.traced())
    if entropy == "bootstrap":  # its programs never read the states inside the window
        last = np.take_along_axis(noise, windows.used[:, None, None] - 1, axis=1)
        _, metrics = losses(config, state, windows._replace(successors=None), last, "update")
    else:
        _, metrics = losses(config, state, windows, noise, "update")
    target = sac_numpy.target(
        host(state.actor.params),
        host(state.target_critic[0]),
        windows,
        CONFIG.gamma,
        0.3,
        noise,
        path=entropy != "bootstrap",
    )
    critic = host(state.critic.params)
    expected = rlx2_numpy.critic_loss(critic, windows, target)
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-4)
    mean = rlx2_numpy.values(critic, windows.obs, windows.action).mean()
    np.testing.assert_allclose(metrics["q"], mean, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_source_chooses_the_entropy_of_members_that_share_a_program(trained):
    """The traced flag gives both targets; a configuration that says which leaves nothing to the source."""
    windows = conformance.batch(43, 24, successors=True)
    noise = np.random.default_rng(1).normal(size=(24, WINDOW, ACTION)).astype(np.float32)
    found = {}
    for source in ("released", "paper"):
        state = trained._replace(traced=CONFIG.traced(source))
        found[source] = float(losses(CONFIG, state, windows, noise, "update")[1]["critic_loss"])
        networks = host(state.actor.params), host(state.target_critic[0])
        target = sac_numpy.target(*networks, windows, CONFIG.gamma, 0.3, noise, path=source == "released")
        expected = rlx2_numpy.critic_loss(host(state.critic.params), windows, target)
        assert found[source] == pytest.approx(expected, rel=1e-4)
    assert found["released"] != pytest.approx(found["paper"], rel=1e-2)
    for entropy in ("path", "bootstrap"):
        chosen = dataclasses.replace(CONFIG, entropy=entropy)
        assert {bool(chosen.traced(source).path) for source in found} == {entropy == "path"}


def test_the_actor_loss_is_that_of_the_restatement(trained):
    windows = conformance.batch(44, 16)
    noise = np.random.default_rng(2).normal(size=(16, ACTION)).astype(np.float32)
    _, metrics = losses(CONFIG, trained, windows, noise, "delayed")
    expected, _ = sac_numpy.actor_loss(
        host(trained.actor.params), host(trained.critic.params), windows, 0.3, noise
    )
    np.testing.assert_allclose(metrics["actor_loss"], expected, rtol=1e-4)


def test_the_temperature_follows_adam_on_the_entropys_distance_from_its_target(lab):
    """Three steps against optax's own Adam on d/dlog(alpha) of -alpha (mean log pi - actions)."""
    state, optimiser = begin(lab), optax.adam(CONFIG.learning_rate)
    assert float(state.log_temperature) == 0.0
    expected, slots = np.float32(0.0), optimiser.init(np.float32(0.0))
    quiet = Laboratory(drop_grow.DROP_GROW, conformance.NO_EVENTS, CONFIG)
    rng = np.random.default_rng(3)
    with pytest.MonkeyPatch.context() as patch:
        noise = rng.normal(size=(BATCH, ACTION)).astype(np.float32)
        with_noise(patch, noise)
        for step in range(3):
            windows = conformance.batch(70 + step)
            networks = host(state.actor.params), host(state.critic.params)
            _, log_density = sac_numpy.actor_loss(
                *networks, windows, math.exp(float(state.log_temperature)), noise
            )
            gradient = -math.exp(expected) * (log_density - ACTION)
            change, slots = optimiser.update(np.float32(gradient), slots)
            expected = np.float32(expected + change)
            state, _ = quiet.delayed(state, windows, 0, step + 1)
            np.testing.assert_allclose(state.log_temperature, expected, rtol=1e-4)
    # A fresh policy's entropy is above the target of -2 nats: the temperature falls.
    assert -log_density > -ACTION and expected < 0


def test_a_policy_of_too_little_entropy_heats_up(lab):
    """The log standard deviations at their lower bound: an entropy near -7 nats, five below the target."""
    state = begin(lab, "dense")
    output = dict(state.actor.params["mlp"]["output"])
    output["bias"] = jnp.array([0.0] * ACTION + [-100.0] * ACTION)
    params = {"mlp": {**state.actor.params["mlp"], "output": output}}
    cold = state._replace(actor=state.actor._replace(params=params))
    after, _ = lab.delayed(cold, conformance.batch(5), 0, 1)
    assert float(after.log_temperature) == pytest.approx(CONFIG.learning_rate, rel=1e-3)


def test_exploration_draws_from_the_policy_or_takes_its_mean(lab, trained):
    obs = conformance.observations(1, 2000)
    explored, mean = lab.act(trained, obs, explore=True)
    greedy, same = lab.act(trained, obs)
    np.testing.assert_array_equal(greedy, same)
    np.testing.assert_allclose(mean, greedy, atol=1e-6)
    by_hand, log_std = sac_numpy.policy(host(trained.actor.params), obs)
    np.testing.assert_allclose(greedy, np.tanh(by_hand), atol=1e-5)
    inside = np.abs(explored) < 0.999
    standard = (np.arctanh(explored.astype(np.float64)) - by_hand) / np.exp(log_std)
    assert standard[inside].std() == pytest.approx(1.0, abs=0.05) and np.abs(explored).max() <= 1
    still = Laboratory(drop_grow.DROP_GROW, EVENTS, dataclasses.replace(CONFIG, explore="mean"))
    np.testing.assert_array_equal(*still.act(trained, obs, explore=True))


@pytest.mark.parametrize("field, value", [("explore", "samples"), ("entropy", "paths")])
def test_settings_that_do_not_exist_are_refused_with_a_suggestion(field, value):
    with pytest.raises(UserError, match=f"did you mean '{value[:-1]}'"):
        sac.SACConfig(**{field: value})


# ---- when things happen ------------------------------------------------------------------------------------


def test_only_the_delayed_part_moves_actor_temperature_and_target(moments):
    for moment in moments:
        before, after = moment.before, moment.after
        still = (
            ["actor", "target_critic", "log_temperature", "temperature_slots"]
            if moment.part == "update"
            else ["critic"]
        )
        for name in sac.SACState._fields:
            same = equal(getattr(before, name), getattr(after, name))
            assert same == (name in still or name in ("init_key", "traced")), (moment.part, name)


def test_both_networks_tick_and_change_at_every_update_of_their_schedule(lab, moments):
    assert lab.agent.delay == 1 and lab.agent.ticks(5) == {"critic": 5, "actor": 5}
    changed: dict[str, list[int]] = {name: [] for name in NETWORKS}
    for moment in moments:
        for name in NETWORKS:
            if not equal(lab.agent.masks(moment.before)[name], lab.agent.masks(moment.after)[name]):
                changed[name].append(moment.tick(name))
    assert changed == {"critic": [4, 8], "actor": [4, 8]}


def test_an_event_of_the_actor_leaves_temperature_and_target_alone(moments):
    (event,) = [m for m in moments if m.part == "delayed" and m.tick("actor") == 4]
    assert event.events == {"actor": True}
    assert equal(event.before.actor.opt_state, event.after.actor.opt_state)
    assert not equal(event.before.log_temperature, event.after.log_temperature)
    assert not equal(event.before.target_critic, event.after.target_critic)


def test_windows_that_are_not_valid_have_no_weight(lab):
    state, windows = begin(lab), conformance.batch(44, successors=True)
    spoilt = windows._replace(valid=np.arange(BATCH) != 3)
    other = spoilt._replace(rewards=spoilt.rewards.copy(), obs=spoilt.obs.copy())
    other.rewards[3] += 100
    other.obs[3] += 1
    assert equal(lab.update(state, spoilt, 0, 0)[0], lab.update(state, other, 0, 0)[0])
    assert equal(lab.delayed(state, spoilt, 0, 1)[0], lab.delayed(state, other, 0, 1)[0])
    assert not equal(lab.delayed(state, spoilt, 0, 1)[0], lab.delayed(state, windows, 0, 1)[0])


def test_members_have_their_own_learning_rate_discount_and_tau():
    assert set(sac.SACConfig.TRACED) <= {field.name for field in dataclasses.fields(sac.SACConfig)}
    for name in sac.SACConfig.TRACED:
        changed = dataclasses.replace(CONFIG, **{name: 0.123}).traced()
        pairs = zip(sac.Traced._fields, changed, CONFIG.traced(), strict=True)
        differ = [key for key, mine, theirs in pairs if not np.array_equal(mine, theirs)]
        assert differ == ["discounts" if name == "gamma" else name]


def test_only_the_critic_has_a_target_and_it_is_kept_under_the_mask(lab, moments):
    assert [name for name in sac.SACState._fields if name.startswith("target")] == ["target_critic"]
    dense = begin(lab, dense_targets=True)
    assert not conformance.zero_outside(dense.target_critic[0], lab.agent.masks(dense)["critic"])
    moment = moments[-1]
    online, masks = moment.after.critic.params, lab.agent.masks(moment.after)["critic"]
    before, after = moment.before.target_critic[0], moment.after.target_critic[0]
    for w, t, m, out in zip(*map(jax.tree.leaves, map(host, (online, before, masks, after))), strict=True):
        np.testing.assert_allclose(out, np.where(m, CONFIG.tau * w + (1 - CONFIG.tau) * t, 0), atol=1e-6)


# ---- what methods promise, on this agent -------------------------------------------------------------------


@pytest.mark.parametrize("method", [n for n, own in METHODS.items() if own.family is drop_grow.DROP_GROW])
@pytest.mark.slow
def test_every_method_keeps_its_promises(lab, method):
    own = METHODS[method]
    start = begin(lab, method)
    promises = {name: own.promise(lab.layers[name], 0.6, lab.events, "released") for name in NETWORKS}
    moments = conformance.train(lab, start, 9)
    conformance.check_budget(lab, moments, lambda name, tick: promises[name].counts)
    for state in (start, moments[-1].after):
        conformance.check_one_function(lab, state)
        conformance.check_actions_ignore_the_rest(lab, state)
    conformance.check_targets_ignore_the_rest(lab, moments[-2].after, 9)
    events = conformance.check_slots(lab, moments, lab.family.declares.slots)
    assert events == (4 if method in ("set", "rigl", "anf") else 0)
    assert not equal(start.actor.params, moments[-1].after.actor.params)


def test_a_training_resumes_bit_for_bit(lab):
    from sparserl_jax.conformance.promises import check_resumes

    check_resumes(lab, begin(lab), cycles=5)


@pytest.mark.slow
def test_diagnostics_tell_temperature_and_entropy(lab, trained):
    seen = jax.jit(lab.agent.diagnose)(
        trained, conformance.batch(3, 4096), jax.random.key(1), conformance_clock(10)
    )
    assert float(seen["temperature"]) == pytest.approx(0.3, rel=1e-5)
    noise = np.random.default_rng(5).normal(size=(4096, ACTION)).astype(np.float32)
    _, log_density = sac_numpy.drawn(host(trained.actor.params), conformance.batch(3, 4096).obs, noise)
    assert float(seen["policy_entropy"]) == pytest.approx(-log_density.mean(), abs=0.1)
    value = lab.agent.value(trained, conformance.observations(7))
    mean, _ = sac_numpy.policy(host(trained.actor.params), conformance.observations(7))
    expected = rlx2_numpy.values(host(trained.critic.params), conformance.observations(7), np.tanh(mean))[0]
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def conformance_clock(updates: int) -> Any:
    from sparserl_jax.conformance.laboratory import clock_at

    return clock_at(updates)
