"""SRigL: events by hand and by NumPy, equally many inputs after every one; new methods differ from each other."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl_jax.conformance.laboratory import hasty
from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable, leaf
from sparserl_jax.sparsity import METHODS, masks, promised, srigl
from sparserl_jax.sparsity.contract import Events
from tests.sparsity.common import draw, moments, rig
from tests.sparsity.test_pruning import compiled, flat, seen

EVENTS = Events(interval=10, end=60, drop_fraction=0.5)  # five events, at ticks 10 to 50
_rewired = hasty(srigl.rewired)


def rewired(*arguments: Any) -> np.ndarray:
    return np.asarray(_rewired(jax.random.key(0), *arguments))


def top(scores: np.ndarray, count: int, among: np.ndarray) -> np.ndarray:
    order = np.argsort(np.where(among, -scores, np.inf).ravel(), kind="stable")[: min(count, among.sum())]
    return np.isin(np.arange(scores.size), order).reshape(scores.shape)


def restated(w, g, live, budget: int, drops: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The mask after an event and which units stay, unit by unit."""
    w, g = np.abs(w), np.abs(g)
    drops = int(drops * live.sum() / budget + 1e-3)
    kept = top(w, live.sum() - drops, live)
    salient = (kept | top(g, drops, ~kept)).sum(axis=1)
    bar = share * (budget // len(w)) - 1e-4
    while (salient >= bar).sum() * w.shape[1] < budget:
        bar -= 0.5
    stays = salient >= bar
    fan_in = budget // stays.sum()
    mask = np.zeros_like(live)
    for unit in np.flatnonzero(stays):
        mine = top(w[unit], fan_in, kept[unit])
        mask[unit] = mine | top(g[unit], fan_in - mine.sum(), ~mine)
    return mask, stays


LIVE = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]], bool)
SIZES = np.float32([[0.9, 0.8, 0, 0], [0.1, 0.2, 0, 0], [0.7, 0, 0.05, 0]])
SLOPES = np.float32([[0, 0, 0.3, 0.1], [0.2, 0.1, 0.05, 0], [0, 0.4, 0.5, -0.6]])


def test_an_event_by_hand():
    """Kept: .9 .8 .7; grown first: .6 .5 .4, all of the last unit. Salient: 2, 0 and 4 of two inputs each.

    The second unit has too few, so that the others have 6 // 2 = 3: the first takes .3, the last .6 and .5.
    """
    found = rewired(SIZES, SLOPES, LIVE, 6, 3, np.float32(0.9))
    assert found.astype(int).tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1]]
    # Without ablation all keep two: the second unit takes .2 and .1.
    found = rewired(SIZES, SLOPES, LIVE, 6, 3, np.float32(0))
    assert found.astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 1]]


def test_a_unit_comes_back_when_it_is_salient_and_the_others_give():
    live = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1]], bool)
    sizes = np.float32([[0.9, 0.8, 0.7, 0], [0, 0, 0, 0], [0.5, 0, 0.6, 0.4]])
    slopes = np.float32([[0, 0, 0, 0.1], [9, 8, 7, 6], [0, 0.2, 0, 0]])
    found = rewired(sizes, slopes, live, 6, 1, np.float32(0.3))
    assert found.astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]]


def test_the_bar_stays_where_it_was_when_units_have_been_ablated():
    """Budget 4 on four units, k = 1; two are left with two each. Two thirds of k is one input, of 2 it is two."""
    live = np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0]], bool)
    sizes = np.float32([[0.9, 0.8, 0], [0.7, 0, 0.1], [0, 0, 0], [0, 0, 0]])
    slopes = np.float32([[0, 0, 0.1], [0, 0.2, 0.3], [0.4, 0, 0], [0, 0, 0]])
    # Kept .9 .8 .7, grown first .4: salient 2, 1, 1, 0. Three units are left, of 4 // 3 = 1 input.
    found = rewired(sizes, slopes, live, 4, 1, np.float32(2 / 3))
    assert found.astype(int).tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_as_many_units_stay_as_hold_the_budget():
    """Three weights in units of two inputs: two units at least, though the bar is at two salient inputs."""
    live = np.array([[1, 0], [0, 1], [1, 0]], bool)
    sizes = np.float32([[0.9, 0], [0, 0.2], [0.1, 0]])
    slopes = np.float32([[0, 9], [0, 1], [0, 0]])
    # Kept .9, grown first 9 and 1: salient 2, 1, 0. Two units have 3 // 2 = 1 input.
    found = rewired(sizes, slopes, live, 3, 2, np.float32(2.0))
    assert found.astype(int).tolist() == [[1, 0], [0, 1], [0, 0]]
    # Those with equally many stay together.
    found = rewired(sizes, np.zeros_like(slopes), live, 3, 0, np.float32(5.0))
    assert found.sum(axis=1).tolist() == [1, 1, 1]


def test_what_is_dropped_is_a_share_of_what_lives():
    """Half of the budget of 4 is 2, half of the 2 that ablation has left is 1: .9 is kept."""
    live = np.array([[1, 0, 0], [1, 0, 0]], bool)
    sizes = np.float32([[0.9, 0, 0], [0.1, 0, 0]])
    slopes = np.float32([[0, 0.5, 0.6], [0, 0.3, 0.4]])
    found = rewired(sizes, slopes, live, 4, 2, np.float32(0.3))
    assert found.astype(int).tolist() == [[1, 0, 1], [0, 1, 1]]


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 7), st.floats(0, 1), st.sampled_from((0.0, 0.3, 0.6, 0.95)))
def test_events_agree_with_a_restatement(seed, fan_in, zeta, share):
    """Three events in a row on eight units of seven inputs, gradients concentrated on some units."""
    rng = np.random.default_rng(seed)
    live = np.argsort(rng.random((8, 7)), axis=1) < fan_in
    budget = int(live.sum())
    for _ in range(3):
        sizes = draw(np.zeros((8, 7)), int(rng.integers(999))) * live
        slopes = draw(np.zeros((8, 7)), int(rng.integers(999))) * rng.choice([0.01, 1], (8, 1))
        slopes = slopes.astype(np.float32)
        drops = int(zeta * budget) if fan_in < 7 else 0
        found = rewired(sizes, slopes, live, budget, drops, np.float32(share))
        expected, stays = restated(sizes, slopes, live, budget, drops, float(np.float32(share)))
        np.testing.assert_array_equal(found, expected)
        inputs = found.sum(axis=1)
        assert set(inputs[stays]) == {budget // stays.sum()} and not inputs[~stays].any()
        assert 0 <= budget - inputs.sum() < stays.sum() and (inputs.sum() == budget or not stays.all())
        live = found


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_all_units_of_a_layer_have_equally_many_inputs_after_every_event(network):
    r, method = rig(network), METHODS["srigl"]
    init, event = compiled(srigl.FAMILY, r.layers)
    own = method.settings(r.layers, 0.6, EVENTS, "released")
    own = own._replace(share=np.float32(0.9))  # so that units are ablated
    promise = promised(method, r.layers, 0.6, EVENTS, "released")
    params, _, state = init(jax.random.key(0), draw(r.like, 1), own)
    assert [int(m.sum()) for m in flat(state.masks, r.layers)] == promise.counts == own.counts.tolist()
    assert promise.dense_growth and promise.events == 5
    ablated = 0
    for tick in (10, 20, 30, 40, 50):
        before, gradient = state, draw(r.like, tick)
        old = params = masks.apply(state.masks, draw(r.like, tick + 1))  # what was grown has learnt
        params, state, effects = event(jax.random.key(tick), np.int32(tick), params, state, gradient)
        assert bool(effects.happened)
        trees = (flat(t, r.layers) for t in (old, gradient, before.masks, state.masks, params))
        for (layer, _), *rows, n, drops in zip(
            r.layers.tensors, *trees, promise.counts, own.drops[tick // 10 - 1], strict=True
        ):
            w, g, live, found, after = (x.reshape(-1, layer.units_out).T for x in rows)
            expected, stays = restated(w, g, live, n, drops, 0.0 if layer.output else float(own.share))
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(after, np.where(live & found, w, 0))
            assert len(set(found.sum(axis=1)[stays])) == 1 and (stays.all() or not layer.output)
            assert n - stays.sum() < found.sum() <= n
            ablated += int((~stays).sum())
    assert ablated and all(np.asarray(leaf(state.masks, layer.bias)).all() for layer in r.layers)


def test_slots_stay_as_they_are_and_gradients_are_of_live_weights():
    r, method = rig("actor"), METHODS["srigl"]
    params, _, state = compiled(srigl.FAMILY, r.layers)[0](
        jax.random.key(0), draw(r.like, 1), method.settings(r.layers, 0.6, EVENTS, "released")
    )
    slots = moments(params, 3)
    event = hasty(
        lambda p, o, s, g: srigl.FAMILY.evolve(jax.random.key(1), np.int32(10), p, {}, o, s, seen(g))
    )
    _, _, after, state, _ = event(params, slots, state, draw(r.like, 2))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(slots), jax.tree.leaves(after)))
    grads = srigl.FAMILY.gradients(draw(r.like, 4), params, {}, state)
    for g, m in zip(flat(grads, r.layers), flat(state.masks, r.layers), strict=True):
        assert (g[~m] == 0).all() and (g[m] != 0).all()


def test_the_initial_mask_holds_the_largest_of_every_unit_or_random_ones():
    r, method, weights = rig("critic"), METHODS["srigl"], draw(rig("critic").like, 1)
    found = {}
    for source, seed in (("released", 0), ("paper", 0), ("paper", 1)):
        own = method.settings(r.layers, 0.7, EVENTS, source)
        _, _, state = compiled(srigl.FAMILY, r.layers)[0](jax.random.key(seed), weights, own)
        found[source, seed] = flat(state.masks, r.layers)
        for (layer, _), w, m, n in zip(
            r.layers.tensors, flat(weights, r.layers), found[source, seed], own.counts, strict=True
        ):
            inputs = m.reshape(-1, layer.units_out)
            assert set(inputs.sum(axis=0)) == {n // layer.units_out}
            if source == "released":
                columns = np.abs(w).reshape(inputs.shape).T
                expected = [top(row, n // layer.units_out, np.ones(row.shape, bool)) for row in columns]
                np.testing.assert_array_equal(inputs.T, expected)
    a, b, c = (np.concatenate(every) for every in found.values())
    assert (a != b).any() and (b != c).any()


def test_a_sparsity_that_leaves_units_without_inputs_is_one_sentence():
    with pytest.raises(UserError) as refused:
        promised(METHODS["srigl"], rig("actor").layers, 0.95, EVENTS, "released")
    assert "leaves the units of hidden_" in str(refused.value) and "\n" not in str(refused.value)


def test_new_methods_give_different_masks_after_three_events_on_one_tensor():
    """Weights that move between events, as an optimiser that follows one gradient moves those that learn."""
    one = LayerTable([Layer("w", ("w", "kernel"), None, "dense", (8, 8), outputs="w")])
    rng = np.random.default_rng(0)
    weights, gradient = ({"w": {"kernel": rng.normal(size=(8, 8)).astype(np.float32)}} for _ in range(2))
    found = {}
    for name in ("rigl", "set", "srigl", "ste", "sr_ste", "nm", "nm_sr_ste", "rnm_like", "top_kast"):
        method = METHODS[name]
        own = method.settings(
            one, 0.75, EVENTS, "released"
        )  # at a half all weights of Top-KAST learn, as of STE
        if "sr_ste" in name:
            own = own._replace(decay=np.float32(0.5))  # felt within three steps
        init, event = compiled(method.family, one)
        params, extra, state = init(jax.random.key(0), weights, own)
        for tick in (10, 20, 30):
            grads = method.family.gradients(gradient, params, extra, state)
            params = jax.tree.map(lambda w, g: w - 0.4 * g, params, grads)
            params, _, _ = method.family.project(params, extra, "slots", state)
            if method.family.refresh is not None:
                state = method.family.refresh(params, extra, state)
            after, changed, effects = event(jax.random.key(tick), np.int32(tick), params, state, gradient)
            if bool(effects.happened):
                params, state = after, changed
        found[name] = flat(state.masks, one)[0]
        assert found[name].sum() == 16 or name == "srigl"  # which may have ablated a unit
    assert len({mask.tobytes() for mask in found.values()}) == len(found)
