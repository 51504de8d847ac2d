"""MEST, DS-TD3 and ANF: what an event keeps, by hand; counts under anything; no two of them the same."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserl_jax.conformance.laboratory import hasty
from sparserl_jax.errors import UserError
from sparserl_jax.networks import Actor, TwinCritic, actor_layers, critic_layers
from sparserl_jax.sparsity import (
    METHODS,
    allocation,
    drop_grow,
    ds_td3,
    l0,
    masks,
    mest,
    promised,
    rows,
    srigl,
    top_kast,
)
from sparserl_jax.sparsity.contract import Evidence
from tests.reference.conformance import equal, zero_outside
from tests.sparsity.common import EVENTS, draw, moments, rig
from tests.sparsity.test_pruning import TWO, WEIGHTS, flat

FAMILIES = {"set": drop_grow.DROP_GROW, "mest": mest.FAMILY, "ds_td3": ds_td3.FAMILY}


@functools.cache
def compiled(name: str, network: str) -> tuple[Any, Any]:
    """`init` and one event of a family on a network of the rig."""
    family, layers = FAMILIES[name], rig(network).layers

    def event(key, tick, params, opt_state, state, gradient):
        evidence = Evidence(lambda: gradient, *[None] * 5)
        params, _, opt_state, state, _ = family.evolve(key, tick, params, {}, opt_state, state, evidence)
        return params, opt_state, state

    return hasty(lambda key, params, own: family.init(key, params, layers, own)), hasty(event)


def after_one(family: Any, own: Any, weights: Any, gradient: Any, keys: int) -> list[Any]:
    """Masks of `TWO` after `init` and one event, by key of the event."""
    params, _, state = family.init(jax.random.key(9), weights, TWO, own)
    evidence = Evidence(lambda: gradient, *[None] * 5)
    event = hasty(
        lambda key, params, state: (
            family.evolve(key, jnp.int32(10), params, {}, None, state, evidence)[3].masks
        )
    )
    return [event(jax.random.key(key), params, state) for key in range(keys)]


def hidden(values: Any, output: Any = (0.05, -0.6, 0.04)) -> Any:
    """Weights of `TWO`."""
    return {
        "hidden_0": {"kernel": np.float32(values).reshape(2, 3), "bias": np.zeros(3, np.float32)},
        "output": {"kernel": np.float32(output).reshape(3, 1), "bias": np.zeros(1, np.float32)},
    }


def test_mest_keeps_a_small_weight_that_the_loss_pulls_at():
    """Live: 0.9, 0.3, -0.8, 0.7, of which one goes. |w| + 0.01 |g|: 0.901, 0.9, 0.801, 0.702: it is 0.7, in SET 0.3."""
    own = drop_grow.settings(TWO, [4, 2], EVENTS, evolves=True)
    assert own.drops[0].tolist() == [1, 0]
    gradient = hidden([[0.1, 99, 60], [-0.1, 99, 0.2]], (9, 0.1, 99))
    grown = set()
    for after in after_one(mest.FAMILY, own, WEIGHTS, gradient, 12):
        found = flat(after, TWO)
        assert found[0][[0, 2, 3]].all() and found[0].sum() == 4 and found[1].tolist() == [True, True, False]
        grown |= set(np.flatnonzero(found[0])) - {0, 2, 3}
    assert grown == {1, 4, 5}  # any of the rest may come, the dropped one, too
    by_size = [flat(after, TWO)[0] for after in after_one(drop_grow.DROP_GROW, own, WEIGHTS, gradient, 12)]
    kept = np.sum(by_size, axis=0)
    assert kept[[0, 3, 5]].tolist() == [12, 12, 12] and kept[2] < 12


def test_ds_td3_drops_a_share_of_either_sign():
    """Positive 0.1, 0.2: half is one. Negative -0.5, -0.7, -0.8, -0.9: half is two. By size alone 0.2 would go."""
    weights = hidden([[0.1, -0.9, -0.5], [0.2, -0.8, -0.7]], (0.3, -0.1, 0.0))
    table = drop_grow.settings(TWO, [6, 3], EVENTS, evolves=True)
    params, _, state = ds_td3.FAMILY.init(
        jax.random.key(0), weights, TWO, ds_td3.Settings(table, np.float32(0.5))
    )
    # As if three weights fewer had been alive: all must then be found among the three dropped ones.
    fewer: Any = ds_td3.Settings(table._replace(counts=np.int32([3, 3])), np.float32(0.5))
    evolved = ds_td3.FAMILY.evolve(
        jax.random.key(0), jnp.int32(10), params, {}, None, state._replace(settings=fewer), None
    )
    assert flat(evolved[3].masks, TWO)[0].tolist() == [False, True, False, True, True, False]
    # A dense tensor grows again what it has dropped, with its values.
    assert flat(evolved[3].masks, TWO)[1].all() and equal(evolved[0]["output"], weights["output"])


def test_ds_td3_drops_zeros_first_among_the_positive_and_does_not_anneal():
    weights = hidden([[0.0, 0.4, 0.3], [0.2, 0.1, -0.7]])
    own = ds_td3.Settings(drop_grow.settings(TWO, [6, 3], EVENTS, evolves=True), np.float32(0.2))
    _, _, state = ds_td3.FAMILY.init(jax.random.key(0), weights, TWO, own)
    fewer: Any = own._replace(common=own.common._replace(counts=np.int32([5, 3])))
    for tick in (10, 50):
        evolved = ds_td3.FAMILY.evolve(
            jax.random.key(0), jnp.int32(tick), weights, {}, None, state._replace(settings=fewer), None
        )
        assert flat(evolved[3].masks, TWO)[0].tolist() == [False, True, True, True, True, True]


def test_ds_td3_replaces_the_published_share_whatever_the_schedule_drops():
    """No schedule that falls to zero is behind it, so that the first share of one that does is no share for it."""
    for share in (0.1, 0.9):
        events = dataclasses.replace(EVENTS, drop_fraction=share)
        assert METHODS["ds_td3"].settings(TWO, 0.2, events, "released").zeta == np.float32(0.05)


def test_a_target_of_ds_td3_keeps_its_own_largest_weights():
    own: Any = ds_td3.Settings(drop_grow.settings(TWO, [2, 3], EVENTS, evolves=True), np.float32(0.5))
    _, _, state = ds_td3.FAMILY.init(jax.random.key(0), WEIGHTS, TWO, own)
    target = hidden([[0.1, -0.4, 0.3], [0.2, 0.05, 0.0]])
    found, _, slots = ds_td3.FAMILY.project(target, {}, None, state)
    assert np.array_equal(found["hidden_0"]["kernel"], np.float32([[0, -0.4, 0.3], [0, 0, 0]]))
    assert slots is None and equal(found["output"], target["output"])
    assert equal(found["hidden_0"]["bias"], target["hidden_0"]["bias"])
    online, _, _ = ds_td3.FAMILY.project(target, {}, (), state)  # with optimiser slots: the active ones
    assert zero_outside(online, state.masks)


def test_what_is_sampled_is_uniform_among_its_candidates():
    among = np.zeros((2, 9), bool)
    among[0, :6], among[1, 4:] = True, True
    keys = jax.random.split(jax.random.key(1), 600)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: rows.sample(key, jnp.int32([2, 3]), among)))(keys))
    assert (drawn.sum(axis=2) == [2, 3]).all() and not drawn[:, ~among].any()
    for row, chance in ((drawn[:, 0, :6], 2 / 6), (drawn[:, 1, 4:], 3 / 5)):
        assert np.abs(row.mean(axis=0) - chance).max() < 5 * np.sqrt(chance * (1 - chance) / 600)


@given(
    name=st.sampled_from(["mest", "ds_td3"]),
    network=st.sampled_from(["actor", "critic"]),
    seed=st.integers(0, 10_000),
    sparsity=st.floats(0.0, 0.6),
    zeta=st.floats(0.0, 1.0),
    zeroed=st.floats(0, 1),
    coarse=st.booleans(),
)
def test_an_event_keeps_counts_and_values(name, network, seed, sparsity, zeta, zeroed, coarse):
    r, (init, event) = rig(network), compiled(name, network)
    own: Any = r.settings(sparsity, evolves=True)
    counts, drops = own.counts, own.drops[1]
    if name == "ds_td3":
        own = ds_td3.Settings(own, np.float32(zeta))
    params, _, state = init(jax.random.key(seed), draw(r.like, seed), own)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: np.where(rng.random(x.shape) < zeroed, 0, np.round(x, 1) if coarse else x).astype(
            np.float32
        ),
        params,
    )
    opt_state = moments(params, seed + 2)
    after, slots, new = event(
        jax.random.key(seed), np.int32(20), params, opt_state, state, draw(r.like, seed + 1)
    )
    np.testing.assert_array_equal(masks.nnz_table(r.layers, new.masks), counts)
    assert zero_outside(after, new.masks) and equal(slots, opt_state) and equal(new.settings, own)
    quads = zip(*map(r.tensors, (params, state.masks, after, new.masks)), drops, strict=True)
    for w, m, w2, m2, drop in quads:
        np.testing.assert_array_equal(w2[m & m2], w[m & m2])
        assert np.all(w2[m2 & ~m] == 0)
        if name == "ds_td3":
            signs = (m & (w >= 0), m & (w < 0))
            most = [int(np.floor(np.float32(zeta) * np.float32(sign.sum()))) for sign in signs]
            for sign, number in zip(signs, most, strict=True):
                lost = np.abs(w[sign & ~m2])
                assert lost.size <= number
                assert lost.size == 0 or lost.max() <= np.sort(np.abs(w[sign]))[number - 1]
        else:
            assert (m & ~m2).sum() <= drop


def test_three_events_of_different_methods_leave_different_masks():
    """On the same weights, gradients and keys."""
    r = rig("critic")
    found = {}
    for name in ("set", "rigl", "mest", "ds_td3", "anf"):
        init, event = compiled(name if name in FAMILIES else "set", "critic")
        own = METHODS[name].settings(r.layers, 0.5, EVENTS, "released")
        params, _, state = init(jax.random.key(0), draw(r.like, 0), own)
        for number, tick in enumerate((10, 20, 30)):
            params = masks.apply(state.masks, draw(r.like, 100 + number))
            gradient = draw(r.like, 200 + number)
            params, _, state = event(
                jax.random.key(number), np.int32(tick), params, moments(params, 5), state, gradient
            )
        found[name] = state.masks
    names = list(found)
    assert not any(equal(found[a], found[b]) for i, a in enumerate(names) for b in names[:i])
    for copy in range(2):
        assert found["anf"]["mlp"]["hidden_1"]["kernel"][copy].all()
        assert found["ds_td3"]["mlp"]["output"]["kernel"][copy].all()
        assert found["anf"]["mlp"]["hidden_0"]["kernel"][copy].sum() == 9 * 12 - 54


# ---- budgets -------------------------------------------------------------------------------------------------------


def test_ds_td3_has_the_published_densities_at_the_published_sparsity():
    """HalfCheetah (17, 6) at 256 units: 7 (in + 256) / (in 256) of the input layer, half of the square one."""
    for layers, wide in (
        (actor_layers(Actor((256, 256), 6), 17), 17),
        (critic_layers(TwinCritic((256, 256)), 17, 6), 23),
    ):
        zeros = wide * 256 - 7 * (wide + 256) + 256 * 256 // 2
        total = layers.weights // layers[0].copies
        sparsity = zeros / total
        found = ds_td3.counts(layers, sparsity)[:: layers[0].copies]
        assert found[0] == pytest.approx(7 * (wide + 256), abs=1) and found[1] == pytest.approx(32768, abs=1)
        assert found[2] == layers[-1].size


@given(st.floats(0.0, 0.85))
def test_layers_that_share_make_up_for_those_that_do_not(sparsity):
    layers = critic_layers(TwinCritic((64, 48)), 17, 6)
    found = allocation.er_within(layers, sparsity, lambda layer: not layer.output)
    assert found[-2:] == [48, 48]
    assert 0 <= sum(found) - (1 - sparsity) * layers.weights < len(found)
    everywhere = allocation.er_within(layers, sparsity, lambda layer: True)
    assert everywhere == allocation.er(layers, sparsity)


def test_anf_is_sparse_in_the_input_layer_alone():
    layers = actor_layers(Actor((256, 256), 6), 17)
    own = promised(METHODS["anf"], layers, 0.8, EVENTS, "paper")
    assert own.counts == [4352 - 3481, 65536, 1536] and own.events == 5 and not own.dense_growth
    found = METHODS["anf"].settings(layers, 0.8, EVENTS, "paper")
    assert found.random_mask and (found.drops[:, 1:] == 0).all() and found.drops[0, 0] > 0


@pytest.mark.parametrize(
    ("name", "knob", "sentence"),
    [
        ("mest", 0.99, "leaves tensor"),
        ("ds_td3", 0.99, "leaves tensor hidden_0"),
        ("ds_td3", 1.5, "sparsity is 1.5: give the share"),
        ("anf", 0.9, "leaves tensor hidden_0 (2, 3) fewer than 1 weight"),
        ("anf", -1, "sparsity is -1: give the share"),
    ],
)
def test_a_sparsity_that_leaves_a_layer_nothing_is_a_sentence(name, knob, sentence):
    with pytest.raises(UserError) as refused:
        promised(METHODS[name], TWO, knob, EVENTS, "released")
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ds_td3.method("x", "", zeta=1.5), "zeta = 1.5 is no share of either sign"),
        (lambda: srigl.method("x", "", ablation=-0.1), "ablation = -0.1 is no share of a unit's inputs"),
        (lambda: top_kast.method("x", "", wider=0.5), "wider = 0.5 has to be at least 1"),
        (lambda: top_kast.method("x", "", strength=float("nan")), "strength = nan at least 0; change"),
        (
            lambda: l0.method("x", METHODS["l0"].family, "", drop_rate=1.0),
            "drop_rate = 1.0 is not between 0 and 1",
        ),
    ],
)
def test_a_number_of_a_methods_own_that_is_out_of_range_is_a_sentence(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
