"""TD3 computes what its equations say, and a padded narrow network is a narrow network."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparserl_jax.agents import td3
from sparserl_jax.agents.optimise import Network
from sparserl_jax.layers import leaf, with_leaf
from sparserl_jax.networks import Actor, TwinCritic
from sparserl_jax.sparsity import METHODS, drop_grow
from tests.reference import conformance, rlx2_numpy
from tests.reference.conformance import (
    ACTION,
    CONFIG,
    EVENTS,
    EVIDENCE,
    NETWORKS,
    NO_EVENTS,
    OBS,
    Laboratory,
    equal,
    host,
    laboratory,
    zero_outside,
)

RIGL = METHODS["rigl"]


@pytest.fixture(scope="module")
def lab() -> Laboratory:
    return laboratory(drop_grow.DROP_GROW)


def begin(lab: Laboratory, dense_targets: bool = False, seed: int = 0, method: str = "rigl") -> td3.TD3State:
    return lab.init(jax.random.key(seed), lab.settings(METHODS[method], 0.6, dense_targets=dense_targets))


# ---- when things happen ------------------------------------------------------------------------------------


def test_only_the_delayed_part_moves_actor_and_targets(lab):
    for moment in conformance.train(lab, begin(lab), 3):
        before, after = moment.before, moment.after
        still = ["actor", "target_actor", "target_critic"] if moment.part == "update" else ["critic"]
        for name in td3.TD3State._fields:
            same = equal(getattr(before, name), getattr(after, name))
            assert same == (name in still or name in ("init_key", "traced")), (moment.part, name)


def test_ticks_count_gradient_computations_of_each_network(lab):
    assert lab.agent.delay == 2
    assert lab.agent.ticks(0) == {"critic": 0, "actor": 0}
    assert lab.agent.ticks(5) == {"critic": 5, "actor": 2}
    assert lab.agent.ticks(20_000) == {"critic": 20_000, "actor": 10_000}


def test_topology_changes_on_each_networks_own_ticks(lab):
    changed: dict[str, list[int]] = {name: [] for name in NETWORKS}
    for moment in conformance.train(lab, begin(lab), 8):
        for name in NETWORKS:
            if not equal(lab.agent.masks(moment.before)[name], lab.agent.masks(moment.after)[name]):
                changed[name].append(moment.updates)
    assert changed == {"critic": [4, 8, 12, 16], "actor": [8, 16]}  # the actor ticks on every second update


def test_an_event_of_the_critic_leaves_actor_and_target_updates_alone(lab):
    moments = conformance.train(lab, begin(lab), 2)
    event, delayed = moments[4], moments[5]
    assert event.updates == 4 and not equal(lab.agent.masks(event.before), lab.agent.masks(event.after))
    assert equal(event.before.critic.opt_state, event.after.critic.opt_state)
    assert not equal(delayed.before.actor.params, delayed.after.actor.params)
    assert not equal(delayed.before.target_critic, delayed.after.target_critic)


# ---- masks -------------------------------------------------------------------------------------------------


def test_the_twin_critics_have_masks_of_their_own(lab):
    for source in ("released", "paper"):
        settings = lab.settings(RIGL, 0.6, source)
        masks = host(lab.agent.masks(lab.init(jax.random.key(0), settings))["critic"])
        first, second = masks["mlp"]["hidden_1"]["kernel"]
        assert not np.array_equal(first, second) and first.sum() == second.sum()


def test_dense_targets_stay_dense_until_the_first_target_update(lab):
    state = begin(lab, dense_targets=True)
    untouched = begin(lab, method="dense")  # same draw
    for name in NETWORKS:
        masks = lab.agent.masks(state)[name]
        target = getattr(state, f"target_{name}")[0]
        # The draw is computed twice in the program, which an unoptimised compilation may round differently.
        conformance.same(getattr(untouched, name).params, target, f"target {name}", tolerance=1e-6)
        assert not zero_outside(target, masks)
    for moment in conformance.train(lab, state, 1):
        for name in NETWORKS:
            target = getattr(moment.after, f"target_{name}")[0]
            masked = zero_outside(target, lab.agent.masks(moment.after)[name])
            assert masked == (moment.part == "delayed")
            assert (moment.part == "delayed") or equal(target, getattr(state, f"target_{name}")[0])


def test_targets_are_masked_from_the_start_otherwise(lab):
    state = begin(lab)
    for name in NETWORKS:
        assert equal(getattr(state, f"target_{name}"), (getattr(state, name).params, {}))
    for moment in conformance.train(lab, state, 5):
        for name in NETWORKS:
            # An event of the critic takes effect in its target with the next target update.
            masks = lab.agent.masks(moment.before if moment.part == "update" else moment.after)[name]
            assert zero_outside(getattr(moment.after, f"target_{name}")[0], masks)


def test_targets_are_averages_under_the_current_mask(lab):
    moment = conformance.train(lab, begin(lab), 4)[-1]
    for name in NETWORKS:
        online, masks = getattr(moment.after, name).params, lab.agent.masks(moment.after)[name]
        before, after = (getattr(state, f"target_{name}")[0] for state in (moment.before, moment.after))
        for w, t, m, out in zip(
            *map(jax.tree.leaves, map(host, (online, before, masks, after))), strict=True
        ):
            np.testing.assert_allclose(out, np.where(m, CONFIG.tau * w + (1 - CONFIG.tau) * t, 0), atol=1e-6)


# ---- equations ---------------------------------------------------------------------------------------------


def test_the_critic_loss_is_that_of_the_restatement(lab):
    state = conformance.train(lab, begin(lab), 3)[-1].after
    windows = conformance.batch(42, 32)
    drawn = np.random.default_rng(0).normal(size=(32, ACTION)).astype(np.float32) * 4
    quiet = Laboratory(drop_grow.DROP_GROW, NO_EVENTS)
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # the draw is given, so the result does not depend on how keys split
        patch.setattr(td3, "scaled_normal", lambda key, shape, scale: scale * jnp.asarray(drawn))
        _, metrics = quiet.update(state, windows, 0, 6)
    noise = np.clip(CONFIG.target_noise * drawn, -CONFIG.target_noise_clip, CONFIG.target_noise_clip)
    assert 0.1 < (np.abs(noise) == CONFIG.target_noise_clip).mean() < 0.9
    target = rlx2_numpy.td3_target(
        host(state.target_actor[0]), host(state.target_critic[0]), windows, CONFIG.gamma, noise
    )
    critic = host(state.critic.params)
    np.testing.assert_allclose(
        metrics["critic_loss"], rlx2_numpy.critic_loss(critic, windows, target), rtol=1e-5
    )
    np.testing.assert_allclose(
        metrics["q"], rlx2_numpy.values(critic, windows.obs, windows.action).mean(), rtol=1e-4, atol=1e-6
    )


def test_the_actor_loss_is_that_of_the_restatement(lab):
    state = conformance.train(lab, begin(lab), 3)[-1].after
    windows = conformance.batch(43)
    _, metrics = lab.delayed(state, windows, 0, 6)
    expected = rlx2_numpy.actor_loss(host(state.actor.params), host(state.critic.params), windows)
    np.testing.assert_allclose(metrics["actor_loss"], expected, rtol=1e-5)


def test_windows_that_are_not_valid_have_no_weight(lab):
    state, windows = begin(lab), conformance.batch(44)
    spoilt = windows._replace(valid=np.arange(8) != 3, rewards=windows.rewards.copy(), obs=windows.obs.copy())
    other = spoilt._replace(rewards=spoilt.rewards.copy(), obs=spoilt.obs.copy())
    other.rewards[3] += 100
    other.obs[3] += 1
    assert equal(lab.update(state, spoilt, 0, 0)[0], lab.update(state, other, 0, 0)[0])
    assert not equal(lab.update(state, spoilt, 0, 0)[0], lab.update(state, windows, 0, 0)[0])


def test_exploration_is_clipped_noise_around_the_policy(lab):
    state, obs = begin(lab), conformance.observations(1, 2000)
    explored, mean = lab.act(state, obs, explore=True)
    greedy, _ = lab.act(state, obs)
    np.testing.assert_allclose(mean, greedy, atol=1e-6)
    np.testing.assert_allclose(greedy, rlx2_numpy.action(host(state.actor.params), obs), atol=1e-5)
    assert np.abs(explored).max() <= 1
    inside = np.abs(explored) < 1
    assert (explored - mean)[inside].std() == pytest.approx(CONFIG.exploration_noise, rel=0.1)


def test_events_may_ask_for_the_initial_weights_and_for_activations():
    """What a method sees of its network: the draw before sparsification, and hidden activations on this batch."""
    seen: dict[str, Any] = {}

    def evolve(key, tick, params, extra, opt_state, state, evidence):
        name = "critic" if params["mlp"]["output"]["bias"].ndim == 2 else "actor"
        seen[name] = (evidence.init_params(), evidence.activations())
        return drop_grow.evolve(key, tick, params, extra, opt_state, state, evidence)

    eager = td3.make(
        CONFIG,
        OBS,
        ACTION,
        dict.fromkeys(NETWORKS, drop_grow.DROP_GROW._replace(evolve=evolve)),
        dict.fromkeys(NETWORKS, EVENTS),
    )
    lab = laboratory(drop_grow.DROP_GROW)
    state, windows = begin(lab), conformance.batch(3)
    dense = begin(lab, method="dense")
    clock = td3.Clock(jnp.int32(8), jnp.int32(3))

    def observe(state, clock):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.lax, "cond", lambda flag, yes, no: yes())
            eager.update(state, windows, jax.random.key(0), clock, EVIDENCE)
            eager.delayed(state, windows, jax.random.key(0), clock, EVIDENCE)
        return dict(seen)

    found = host(jax.jit(observe)(state, clock))
    for name in NETWORKS:
        initial, hidden = found[name]
        drawn = host(getattr(dense, name).params)
        for one, other in zip(jax.tree.leaves(initial), jax.tree.leaves(drawn), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
        stack = (2,) if name == "critic" else ()
        assert sorted(hidden) == ["hidden_0", "hidden_1"]
        assert {value.shape for value in hidden.values()} == {(*stack, conformance.BATCH, 16)}
    weights = host(state.actor.params)["mlp"]["hidden_0"]
    np.testing.assert_allclose(
        found["actor"][1]["hidden_0"],
        np.maximum(windows.obs @ weights["kernel"] + weights["bias"], 0),
        atol=1e-5,
    )


# ---- a narrow network inside a wide one --------------------------------------------------------------------


NARROW = 5


def padded(narrow: Any, layers: Any) -> Any:
    """Narrow parameters in the leading units of zero wide ones."""
    wide = narrow
    for layer in layers:
        for path, shape in ((layer.kernel, layer.shape), (layer.bias, layer.shape[-1:])):
            value = leaf(narrow, path)
            room = np.zeros(layer.stack + shape, np.float32)
            room[tuple(slice(n) for n in value.shape)] = value
            wide = with_leaf(wide, path, room)
    return wide


def assembled(params: dict[str, Any], targets: dict[str, Any], states: dict[str, drop_grow.State]) -> Any:
    """A TD3 state around given parameters, without drawing anything."""
    networks = {}
    for name in NETWORKS:
        slots = optax.adam(CONFIG.learning_rate).init((params[name], {}))
        networks[name] = Network(params[name], {}, slots, states[name])
    return td3.TD3State(
        networks["actor"],
        networks["critic"],
        (targets["actor"], {}),
        (targets["critic"], {}),
        np.zeros(2, np.uint32),
        CONFIG.traced(),
    )


@pytest.mark.slow
def test_a_padded_narrow_td3_trains_like_a_really_narrow_one():
    wide = laboratory(drop_grow.DROP_GROW, NO_EVENTS)
    config = td3.TD3Config(**{**CONFIG.__dict__, "hidden": (NARROW, NARROW)})
    narrow = Laboratory(drop_grow.DROP_GROW, NO_EVENTS, config)
    modules = {"actor": Actor((NARROW, NARROW), ACTION), "critic": TwinCritic((NARROW, NARROW))}
    inputs = {"actor": (np.zeros(OBS),), "critic": (np.zeros(OBS), np.zeros(ACTION))}
    draws = [
        {n: host(jax.jit(modules[n].init)(jax.random.key(seed), *inputs[n])["params"]) for n in NETWORKS}
        for seed in (0, 1)
    ]  # the networks and their targets
    states = {}
    for name in NETWORKS:
        own = METHODS["dense"].settings(narrow.layers[name], 0, NO_EVENTS, "released")
        masks = jax.tree.map(lambda x: np.ones(x.shape, bool), draws[0][name])
        states[name] = drop_grow.State(masks, own, narrow.layers[name])
    small = assembled(*draws, states)

    states = {}
    for name, (units_in, units_out, copies) in {
        "actor": (OBS, ACTION, 1),
        "critic": (OBS + ACTION, 1, 2),
    }.items():
        counts = [n for n in (units_in * NARROW, NARROW**2, NARROW * units_out) for _ in range(copies)]
        widths = {"hidden_0": NARROW, "hidden_1": NARROW}
        own = drop_grow.settings(wide.layers[name], counts, NO_EVENTS, widths=widths)
        start = jax.jit(drop_grow.init, static_argnums=2)
        params = padded(draws[0][name], wide.layers[name])
        states[name] = start(jax.random.key(0), params, wide.layers[name], own)[2]
    big = assembled(*({n: padded(draw[n], wide.layers[n]) for n in NETWORKS} for draw in draws), states)

    obs = conformance.observations(5, 16)
    start = small
    for update in range(20):
        windows = conformance.batch(500 + update)
        small, told_small = narrow.update(small, windows, update, update)
        big, told_big = wide.update(big, windows, update, update)
        np.testing.assert_allclose(told_small["critic_loss"], told_big["critic_loss"], rtol=1e-3)
        if update % 2:
            small, _ = narrow.delayed(small, windows, update, update + 1)
            big, _ = wide.delayed(big, windows, update, update + 1)
        for explore in (False, True):
            for one, other in zip(
                narrow.act(small, obs, 3, explore), wide.act(big, obs, 3, explore), strict=True
            ):
                np.testing.assert_allclose(one, other, atol=1e-4)
    assert not equal(start.target_actor, small.target_actor)
    for name in NETWORKS:
        for mine, theirs in (
            (getattr(big, name).params, getattr(small, name).params),
            (getattr(big, f"target_{name}")[0], getattr(small, f"target_{name}")[0]),
        ):
            expected = padded(host(theirs), wide.layers[name])
            for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-4)
        assert zero_outside(getattr(big, name).params, getattr(big, name).sparsity.masks)
