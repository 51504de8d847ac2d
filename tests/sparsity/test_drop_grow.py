"""Drop-and-grow agrees with its NumPy re-statement and never breaks a budget."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserl_jax.conformance.laboratory import hasty
from sparserl_jax.layers import leaf
from sparserl_jax.networks import Actor, actor_layers
from sparserl_jax.sparsity import METHODS, allocation, drop_grow, masks, promised
from sparserl_jax.sparsity.contract import Events, Evidence
from sparserl_jax.training.config import Evaluation, Schedule, TD3Config, Training
from sparserl_jax.training.population import events_of
from tests.reference import rlx2_numpy
from tests.reference.conformance import equal, host, slots_of, zero_outside
from tests.sparsity.common import EVENTS, draw, moments, rig

# ---- agreement with the re-statement -----------------------------------------------------------------------


@pytest.mark.parametrize("network, sparsity", [("actor", 0.7), ("critic", 0.6)])
@pytest.mark.slow
def test_five_events_equal_the_restatement_exactly(network, sparsity):
    r = rig(network)
    own = r.settings(sparsity, evolves=True, grow_by_gradient=True)
    params, _, state = r.init(jax.random.key(0), draw(r.like, 0), own)
    opt_state, changes = moments(params, 5), 0
    for number, tick in enumerate(range(10, 60, 10)):
        # Training between events: every active weight moves, inactive ones are zero.
        params = masks.apply(state.masks, draw(r.like, 100 + number))
        gradient = draw(r.like, 200 + number)
        expected = []
        for w, m, g, n in zip(
            r.tensors(params), r.tensors(state.masks), r.tensors(gradient), own.counts, strict=True
        ):
            k = rlx2_numpy.dropped(int(n), 0.5, tick, EVENTS.end)
            expected.append(rlx2_numpy.drop_grow(w, m, np.abs(g), k))
        before = state
        params, _, state, effects = r.event(
            jax.random.key(number), np.int32(tick), params, opt_state, state, gradient
        )
        for (mask, weight), m, w in zip(expected, r.tensors(state.masks), r.tensors(params), strict=True):
            np.testing.assert_array_equal(m, mask)
            np.testing.assert_array_equal(w, weight)
        assert bool(effects.happened) and not bool(effects.reset_targets) and not bool(effects.reset_replay)
        changes += not equal(before.masks, state.masks)
    assert changes >= 4
    if network == "critic":
        assert not np.array_equal(*np.asarray(state.masks["mlp"]["hidden_1"]["kernel"]))


@pytest.mark.slow
def test_ties_are_decided_by_the_key_and_counts_hold_anyway():
    r = rig("critic")
    own = r.settings(0.6, evolves=True, grow_by_gradient=True)
    same = jax.tree.map(np.ones_like, r.like)
    params, _, state = r.init(jax.random.key(0), same, own)
    outcomes = [
        r.event(jax.random.key(seed), np.int32(10), params, moments(params, 5), state, same)[2].masks
        for seed in (1, 1, 2)
    ]
    assert equal(outcomes[0], outcomes[1]) and not equal(outcomes[0], outcomes[2])
    for outcome in outcomes:
        np.testing.assert_array_equal(masks.nnz_table(r.layers, outcome), own.counts)


@pytest.mark.slow
def test_active_weights_of_exactly_zero_are_ranked_before_inactive_ones():
    # All weights zero: without the rule, keeping would pick arbitrary entries, also such that never were active.
    r = rig("actor")
    own = r.settings(0.7, evolves=True, grow_by_gradient=True)
    _, _, state = r.init(jax.random.key(0), draw(r.like, 0), own)
    gradient = jax.tree.map(lambda m: np.where(m, 1.0, 0.0).astype(np.float32), host(state.masks))
    after = r.event(jax.random.key(1), np.int32(10), r.like, moments(r.like, 5), state, gradient)[2]
    # The kept ones are active, and by this gradient the dropped ones are grown again: nothing changes.
    assert equal(after.masks, state.masks)


def test_random_growth_ignores_the_gradient_and_drops_by_magnitude():
    r = rig("critic")
    own = r.settings(0.6, evolves=True)
    params, _, state = r.init(jax.random.key(0), draw(r.like, 0), own)
    results = [
        r.event(jax.random.key(key), np.int32(10), params, moments(params, 5), state, draw(r.like, seed))[2]
        for key, seed in ((1, 1), (1, 2), (2, 1))
    ]
    assert equal(results[0].masks, results[1].masks) and not equal(results[0].masks, results[2].masks)
    for w, m, n, drop, after in zip(
        r.tensors(params),
        r.tensors(state.masks),
        own.counts,
        own.drops[0],
        r.tensors(results[0].masks),
        strict=True,
    ):
        keep = m if drop == 0 else rlx2_numpy.largest(np.where(m, np.abs(w), -1), n - drop)
        assert after[keep].all() and after.sum() == n


@pytest.mark.slow
def test_random_growth_is_uniform_over_all_entries_not_kept():
    r = rig("actor")
    own = r.settings(0.7, evolves=True)
    params, _, state = r.init(jax.random.key(0), draw(r.like, 0), own)
    repeats = 400
    many = jax.tree.map(
        lambda x: np.broadcast_to(x, (repeats, *np.shape(x))), (params, moments(params, 5), state)
    )
    keys = jax.random.split(jax.random.key(9), repeats)
    grown = np.asarray(r.events(keys, np.int32(10), *many, many[0])[2].masks["mlp"]["hidden_1"]["kernel"])
    n, k = int(own.counts[1]), int(own.drops[0][1])
    keep = rlx2_numpy.largest(np.abs(np.asarray(params["mlp"]["hidden_1"]["kernel"])), n - k)
    chance = k / (~keep).sum()
    deviation = (grown.mean(axis=0)[~keep] - chance) / np.sqrt(chance * (1 - chance) / repeats)
    assert np.abs(deviation).max() < 5 and 0.6 < deviation.std() < 1.4


# ---- promises at any event ---------------------------------------------------------------------------------


@given(
    network=st.sampled_from(["actor", "critic"]),
    seed=st.integers(0, 10_000),
    sparsity=st.floats(0.0, 0.85),
    tick=st.sampled_from([10, 20, 30, 40, 50]),
    by_gradient=st.booleans(),
    random_mask=st.booleans(),
    zero_slots=st.booleans(),
    evolves=st.sampled_from([True, True, True, False]),
    zeroed=st.floats(0, 1),
    coarse=st.booleans(),
)
@pytest.mark.slow
def test_an_event_keeps_every_promise(
    network, seed, sparsity, tick, by_gradient, random_mask, zero_slots, evolves, zeroed, coarse
):
    r, rng = rig(network), np.random.default_rng(seed)
    own = r.settings(
        sparsity,
        evolves=evolves,
        grow_by_gradient=by_gradient,
        random_mask=random_mask,
        zero_slots=zero_slots,
    )
    params, _, state = r.init(jax.random.key(seed), draw(r.like, seed), own)
    # Some active weights are exactly zero; coarse values tie.
    params = jax.tree.map(
        lambda x: np.where(rng.random(x.shape) < zeroed, 0, np.round(x, 1) if coarse else x).astype(
            np.float32
        ),
        host(params),
    )
    gradient = jax.tree.map(lambda x: np.round(x, 1) if coarse else x, draw(r.like, seed + 1))
    opt_state = moments(params, seed + 2)
    after, slots, new, effects = r.event(
        jax.random.key(seed + 3), np.int32(tick), params, opt_state, state, gradient
    )
    old_masks, new_masks = host(state.masks), host(new.masks)

    np.testing.assert_array_equal(masks.nnz_table(r.layers, new_masks), own.counts)
    assert zero_outside(after, new_masks)
    assert equal(new.settings, state.settings) and bool(effects.happened) == evolves
    for layer in r.layers:
        assert leaf(new_masks, layer.bias).all()
        np.testing.assert_array_equal(leaf(after, layer.bias), leaf(params, layer.bias))
    for w, m, w2, m2, n, drop in zip(
        *map(r.tensors, (params, old_masks, after, new_masks)),
        own.counts,
        own.drops[tick // 10 - 1],
        strict=True,
    ):
        np.testing.assert_array_equal(w2[m & m2], w[m & m2])  # kept and re-grown weights keep their values
        assert np.all(w2[m2 & ~m] == 0)  # newly grown ones start at zero
        assert (m2 & ~m).sum() <= drop  # no more change than the schedule allows
        if not evolves or n == m.size:
            np.testing.assert_array_equal(m2, m)  # dense tensors and methods without events are left alone
            np.testing.assert_array_equal(w2, w)
        else:
            weakest = np.sort(np.abs(w[m]))[:drop]
            lost = np.abs(w[m & ~m2])
            assert lost.size == 0 or lost.max() <= weakest.max()  # only the weakest active ones are dropped

    fresh = jax.tree.map(lambda now, then: now & ~then, new_masks, old_masks)
    for earlier, later in zip(slots_of(opt_state, params), slots_of(slots, params), strict=True):
        expected = jax.tree.map(lambda x, f: np.where(f & zero_slots, np.float32(0), x), host(earlier), fresh)
        assert equal(later, expected)


@pytest.mark.parametrize("zero_slots", [False, True])
def test_slots_of_grown_weights_are_kept_or_zeroed_as_set(zero_slots):
    r = rig("actor")
    own = r.settings(0.7, evolves=True, grow_by_gradient=True, zero_slots=zero_slots)
    params, _, state = r.init(jax.random.key(0), draw(r.like, 0), own)
    opt_state = moments(params, 5)
    _, after, new, _ = r.event(jax.random.key(1), np.int32(10), params, opt_state, state, draw(r.like, 9))
    grown = np.asarray(new.masks["mlp"]["hidden_1"]["kernel"] & ~state.masks["mlp"]["hidden_1"]["kernel"])
    assert grown.any()
    first = np.asarray(after[0].mu[0]["mlp"]["hidden_1"]["kernel"])
    assert np.all((first[grown] == 0) == zero_slots)
    np.testing.assert_array_equal(first[~grown], opt_state[0].mu[0]["mlp"]["hidden_1"]["kernel"][~grown])
    assert int(after[0].count) == int(opt_state[0].count)


@pytest.mark.slow
def test_members_with_other_methods_and_knobs_equal_single_calls():
    r = rig("critic")
    chosen = [
        r.settings(0.0),
        r.settings(0.6, evolves=True),
        r.settings(0.8, evolves=True, grow_by_gradient=True),
        r.settings(0.8, evolves=True, grow_by_gradient=True, random_mask=True, zero_slots=True),
        r.settings(0.3),
        METHODS["tiny"].settings(r.layers, 0.7, EVENTS, "released"),
    ]
    keys = jax.random.split(jax.random.key(4), len(chosen))
    begun = [r.init(key, draw(r.like, i), own) for i, (key, own) in enumerate(zip(keys, chosen, strict=True))]
    inputs = [(params, moments(params, 5 + i), state) for i, (params, _, state) in enumerate(begun)]
    gradients = [draw(r.like, 50 + i) for i in range(len(chosen))]
    stacked, gradient = (jax.tree.map(lambda *x: np.stack(x), *trees) for trees in (inputs, gradients))
    together = host(r.events(keys, np.int32(20), *stacked, gradient))
    for i, (mine, own_gradient) in enumerate(zip(inputs, gradients, strict=True)):
        alone = r.event(keys[i], np.int32(20), *mine, own_gradient)
        assert equal(alone, jax.tree.map(lambda x, i=i: x[i], together))


# ---- initial masks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["actor", "critic"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.85])
def test_the_released_initial_mask_holds_the_largest_initial_weights(network, sparsity):
    r = rig(network)
    fresh = draw(r.like, 3)
    params, extra, state = r.init(jax.random.key(0), fresh, r.settings(sparsity))
    counts = allocation.er(r.layers, sparsity)
    for w0, w, m, n in zip(*map(r.tensors, (fresh, params, state.masks)), counts, strict=True):
        np.testing.assert_array_equal(m, rlx2_numpy.largest(np.abs(w0), n))
        np.testing.assert_array_equal(w, np.where(m, w0, 0))  # survivors are not rescaled
    for layer in r.layers:
        np.testing.assert_array_equal(leaf(params, layer.bias), leaf(fresh, layer.bias))
    assert extra == {}


def test_the_random_initial_mask_has_exact_counts_and_ignores_the_weights():
    r = rig("critic")
    own = r.settings(0.7, random_mask=True)
    states = [
        r.init(jax.random.key(key), draw(r.like, seed), own)[2] for key, seed in ((0, 1), (0, 2), (5, 1))
    ]
    assert equal(states[0].masks, states[1].masks) and not equal(states[0].masks, states[2].masks)
    for state in states:
        np.testing.assert_array_equal(masks.nnz_table(r.layers, state.masks), allocation.er(r.layers, 0.7))
    first, second = np.asarray(states[0].masks["mlp"]["hidden_1"]["kernel"])
    assert not np.array_equal(first, second)


@pytest.mark.slow
def test_the_random_initial_mask_is_uniform():
    r = rig("actor")
    own, repeats = r.settings(0.7, random_mask=True), 300
    drawn = jax.jit(jax.vmap(lambda key: drop_grow.init(key, r.like, r.layers, own)[2].masks))(
        jax.random.split(jax.random.key(0), repeats)
    )
    for layer, n in zip(r.layers, own.counts, strict=True):
        chance = n / layer.size
        if n < layer.size:
            share = np.asarray(leaf(drawn, layer.kernel)).mean(axis=0)
            assert np.abs(share - chance).max() < 5 * np.sqrt(chance * (1 - chance) / repeats)


@pytest.mark.parametrize("method", ["static", "set", "rigl"])
def test_methods_differ_by_source_only_in_the_initial_mask(method):
    r = rig("actor")
    released, paper = (
        METHODS[method].settings(r.layers, 0.7, EVENTS, source) for source in ("released", "paper")
    )
    assert not released.random_mask and paper.random_mask
    assert equal(released._replace(random_mask=0), paper._replace(random_mask=0))
    assert released.counts.tolist() == allocation.er(r.layers, 0.7)


def test_the_six_methods_are_six_settings_of_one_family():
    r = rig("critic")
    made = {
        name: method.settings(r.layers, 0.7, EVENTS, "released")
        for name, method in METHODS.items()
        if method.family is drop_grow.DROP_GROW
    }
    shapes = {tuple((np.shape(x), np.asarray(x).dtype) for x in own) for own in made.values()}
    assert len(shapes) == 1
    assert {name: (bool(own.evolves), bool(own.grow_by_gradient)) for name, own in made.items()} == {
        "dense": (False, False),
        "tiny": (False, False),
        "static": (False, False),
        "set": (True, False),
        "rigl": (True, True),
        "anf": (True, False),
    }
    assert all((made[name].drops == 0).all() for name in ("dense", "tiny", "static"))
    assert made["dense"].counts.sum() == r.layers.weights


@pytest.mark.parametrize("name", ["rigl", "anf", "mest", "rigl_16x1", "ds_td3", "srigl", "top_kast"])
def test_a_network_that_is_dense_has_no_events(name):
    """Each would cost it an optimiser step, and there is nothing to grow."""
    layers = actor_layers(Actor((16, 16), 16), 16)
    dense, sparse = (promised(METHODS[name], layers, knob, EVENTS, "released") for knob in (0.0, 0.5))
    assert (dense.events, sparse.events) == (0, EVENTS.count) and not dense.dense_growth
    params = {"mlp": {x.name: {"kernel": jnp.ones(x.shape), "bias": jnp.ones(x.shape[-1:])} for x in layers}}
    family = METHODS[name].family

    @hasty
    def happened(chosen):
        begun, _, state = family.init(jax.random.key(0), params, layers, chosen)
        evidence = Evidence(lambda: params, *[None] * 5)
        return family.evolve(jax.random.key(1), jnp.int32(10), begun, {}, {}, state, evidence)[-1].happened

    knobs = (0.0, 0.5)
    assert [bool(happened(METHODS[name].settings(layers, knob, EVENTS, "released"))) for knob in knobs] == [
        False,
        True,
    ]


# ---- counting events ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end, expected", [(2_975_000, 297), (1_487_500, 148)])
def test_the_published_schedule_fires_297_and_148_times(end, expected):
    schedule = Events(10_000, end, 0.5)
    due = schedule.due(np.arange(1, end + 1))
    assert schedule.count == expected == due.sum()


def test_a_published_run_has_297_critic_and_148_actor_events():
    published = Training(
        "any", TD3Config(), 3_000_000, warm_up=25_000, schedule=Schedule(), evaluation=Evaluation(5_000)
    )
    assert {name: events.count for name, events in events_of(published).items()} == {
        "critic": 297,
        "actor": 148,
    }


@pytest.mark.parametrize("interval, end", [(1, 1), (1, 2), (5, 15), (5, 16), (7, 3), (4, 0), (3, 100)])
def test_the_count_of_events_is_the_number_of_ticks_due(interval, end):
    schedule = Events(interval, end, 0.5)
    assert schedule.count == schedule.due(np.arange(1, 200)).sum()
    counts = drop_grow.settings(rig("actor").layers, [1, 1, 1], schedule, evolves=True)
    assert counts.drops.shape == (schedule.count, 3)


def test_the_event_at_a_tick_uses_its_own_row_of_the_table():
    r = rig("actor")
    own = r.settings(0.5, evolves=True, grow_by_gradient=True)
    assert [int(row[1]) for row in own.drops] == [
        rlx2_numpy.dropped(int(own.counts[1]), 0.5, tick, 60) for tick in (10, 20, 30, 40, 50)
    ]
    params, _, state = r.init(jax.random.key(0), draw(r.like, 0), own)
    gradient = jax.tree.map(lambda m: np.where(m, 0.0, 1.0).astype(np.float32), host(state.masks))
    changed = []
    for tick in (10, 20, 30, 40, 50):
        new = r.event(jax.random.key(0), np.int32(tick), params, moments(params, 5), state, gradient)[2]
        changed.append(
            int(jnp.sum(new.masks["mlp"]["hidden_1"]["kernel"] & ~state.masks["mlp"]["hidden_1"]["kernel"]))
        )
    assert changed == [int(row[1]) for row in own.drops] and changed == sorted(changed, reverse=True)
