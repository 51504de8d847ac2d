"""ReDo, neuron pruning and blocks: events by hand, counts, and what does not fit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserl_jax.conformance.laboratory import hasty
from sparserl_jax.errors import UserError
from sparserl_jax.layers import leaf
from sparserl_jax.networks import Actor, TwinCritic, actor_layers, critic_layers
from sparserl_jax.sparsity import METHODS, blocks, neurons, promised, pruning, redo, tiny
from sparserl_jax.sparsity.contract import Events, Evidence
from tests.reference.conformance import equal, slots_of, zero_outside
from tests.sparsity.common import moments
from tests.sparsity.test_pruning import EVENTS, TWO, WEIGHTS, flat

NOTHING: Any = [None] * 6


def seen(activity: Any, initial: Any = WEIGHTS, gradient: Any = WEIGHTS) -> Evidence:
    """Evidence with these activations of the hidden layer of `TWO`, f32[batch, 3]."""
    return Evidence(*NOTHING)._replace(
        grad=lambda: gradient,
        activations=lambda: {"hidden_0": jnp.asarray(activity, jnp.float32)},
        init_params=lambda: initial,
    )


# ---- ReDo ----------------------------------------------------------------------------------------------------------

INITIAL: Any = jax.tree.map(lambda x: np.arange(11, 11 + x.size, dtype=np.float32).reshape(x.shape), WEIGHTS)
"""Numbers that are found again."""


def recycled(activity: Any, key: int = 0, method: Any = None) -> Any:
    own = method or METHODS["redo"]
    settings = own.settings(TWO, 0.0, EVENTS, "released")
    params, extra, state = own.family.init(jax.random.key(0), WEIGHTS, TWO, settings)
    slots = moments(params, 3)
    found = own.family.evolve(
        jax.random.key(key), jnp.int32(10), params, extra, slots, state, seen(activity, INITIAL)
    )
    return params, slots, found


def test_a_sleeping_unit_begins_anew():
    """Activities 1, 0.05 and 2: the mean is 1.02, and 0.05 is below a tenth of it, 1 and 2 are not."""
    before, slots, (params, _, after, state, effects) = recycled([[1, 0.1, -2], [1, 0.0, 2]])
    assert bool(effects.happened)
    kernel, bias = params["hidden_0"]["kernel"], params["hidden_0"]["bias"]
    assert set(np.asarray(kernel[:, 1]).tolist()) <= set(range(11, 17)) and bias[1] in (11, 12, 13)
    for unit in (0, 2):
        assert np.array_equal(kernel[:, unit], before["hidden_0"]["kernel"][:, unit]) and bias[unit] == 0
    assert np.array_equal(params["output"]["kernel"], np.float32([[0.05], [0], [0.04]]))
    assert equal(params["output"]["bias"], before["output"]["bias"])
    assert all(mask.all() for mask in flat(state.masks, TWO))
    for old, new in zip(slots_of(slots, params), slots_of(after, params), strict=True):
        assert np.all(new["hidden_0"]["kernel"][:, 1] == 0) and new["hidden_0"]["bias"][1] == 0
        assert new["output"]["kernel"][1] == 0
        for unit in (0, 2):
            assert np.array_equal(new["hidden_0"]["kernel"][:, unit], old["hidden_0"]["kernel"][:, unit])
            assert new["output"]["kernel"][unit] == old["output"]["kernel"][unit]


def test_where_nobody_sleeps_nothing_happens_and_a_dead_layer_sleeps_as_a_whole():
    assert not bool(recycled([[1, 0.5, 2]])[2][-1].happened)
    params, *_ = recycled([[0, 0, 0]])[2]
    assert np.all(np.asarray(params["output"]["kernel"]) == 0)
    assert set(np.asarray(params["hidden_0"]["kernel"]).ravel().tolist()) <= set(range(11, 17))


def test_redo_on_top_of_a_penalty_is_swept_by_its_coefficient():
    assert redo.method("x", METHODS["l1"], "").coefficient and not METHODS["redo"].coefficient


def test_redo_on_top_of_a_mask_leaves_the_dead_dead():
    own = redo.method("redo_static", METHODS["static"], "static with ReDo")
    settings = own.settings(TWO, 0.3, EVENTS, "released")
    params, extra, state = own.family.init(jax.random.key(0), WEIGHTS, TWO, settings)
    found, _, _, after, effects = own.family.evolve(
        jax.random.key(0), jnp.int32(10), params, extra, moments(params, 3), state, seen([[0, 0, 0]], INITIAL)
    )
    assert bool(effects.happened) and equal(after.masks, state.masks)
    assert any(not mask.all() for mask in flat(state.masks, TWO)) and zero_outside(found, after.masks)
    assert promised(own, TWO, 0.3, EVENTS, "released").events == EVENTS.count


def test_redo_on_top_of_a_method_whose_other_weights_wait_leaves_those_of_units_awake():
    own = redo.method("redo_ste", METHODS["ste"], "ste with ReDo")
    settings = own.settings(TWO, 0.3, EVENTS, "released")
    params, extra, state = own.family.init(jax.random.key(0), WEIGHTS, TWO, settings)
    waiting = [~np.asarray(leaf(state.masks, layer.kernel)) for layer in TWO]
    assert any(part.any() for part in waiting)
    found, *_ = own.family.evolve(
        jax.random.key(0),
        jnp.int32(10),
        params,
        extra,
        moments(params, 3),
        state,
        seen([[1, 0.1, -2], [1, 0.0, 2]], INITIAL),
    )
    before, after = (tree["hidden_0"]["kernel"] for tree in (params, found))
    assert np.array_equal(after[:, [0, 2]], before[:, [0, 2]]) and not np.array_equal(after, before)


# ---- neurons -------------------------------------------------------------------------------------------------------


def test_the_least_active_unit_goes_with_its_row_column_and_bias_and_none_comes_back():
    table = neurons.Settings(
        np.int32([[6, 3], [4, 2], [2, 1]]),
        np.bool_([False, True, True]),
        np.int32(10),
        np.int32([[3, 1], [2, 1], [1, 1]]),
    )
    params, extra, state = neurons.FAMILY.init(jax.random.key(0), WEIGHTS, TWO, table)
    left = []
    # What is gone is not ranked again, however loud: unit 0 goes first, then unit 2.
    for tick, activity in ((10, [[0.1, 3, -1]]), (20, [[9, 3, -1]])):
        params, extra, _, state, effects = neurons.FAMILY.evolve(
            jax.random.key(0), jnp.int32(tick), params, extra, None, state, seen(activity)
        )
        assert bool(effects.happened) and zero_outside(params, state.masks)
        left.append(
            [mask.tolist() for mask in flat(state.masks, TWO)]
            + [np.asarray(state.masks["hidden_0"]["bias"]).tolist()]
        )
    yes, no = True, False
    assert left[0] == [[no, yes, yes] * 2, [no, yes, yes], [no, yes, yes]]
    assert left[1] == [[no, yes, no] * 2, [no, yes, no], [no, yes, no]]


@given(st.floats(0.05, 0.9))
def test_neurons_end_where_tiny_is_and_never_grow(knob):
    layers = critic_layers(TwinCritic((32, 24)), 9, 3)
    found = promised(METHODS["neurons"], layers, knob, EVENTS, "released")
    assert found.counts == promised(METHODS["tiny"], layers, knob, EVENTS, "released").counts
    table = np.array([found.at(k) for k in range(EVENTS.count + 1)])
    assert (table[0] == pruning.sizes(layers)).all() and (np.diff(table, axis=0) <= 0).all()
    assert (np.diff(table, axis=0) != 0).any(axis=1).sum() == found.events
    units = METHODS["neurons"].settings(layers, knob, EVENTS, "released").units[-1]
    assert units.tolist() == [*tiny.widths(layers, knob).values(), 1]


# ---- blocks --------------------------------------------------------------------------------------------------------

WIDE = actor_layers(Actor((4, 8), 3), 2)
"""Blocks of 4 outputs by 1 input fit the hidden layers, turned ones the output layer of (8, 3)."""


def weights(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return {
        "mlp": {
            layer.name: {
                "kernel": rng.normal(size=layer.shape).astype(np.float32),
                "bias": np.zeros(layer.shape[-1], np.float32),
            }
            for layer in WIDE
        }
    }


def whole(values: Any) -> dict[str, np.ndarray]:
    """Sum of |.| by block of 4, by layer: blocks as [inputs, groups of outputs], of the output layer turned."""
    return {
        "hidden_0": np.abs(np.asarray(values["mlp"]["hidden_0"]["kernel"], np.float32))
        .reshape(2, 1, 4)
        .sum(2),
        "hidden_1": np.abs(np.asarray(values["mlp"]["hidden_1"]["kernel"], np.float32))
        .reshape(4, 2, 4)
        .sum(2),
        "output": np.abs(np.asarray(values["mlp"]["output"]["kernel"], np.float32)).reshape(2, 4, 3).sum(1),
    }


RIGL4, SET4, GRADUAL4 = (make("mine", (1, 4)) for make in (blocks.rigl, blocks.set_, blocks.gradual))


def after_three(method: Any) -> list[Any]:
    settings = method.settings(WIDE, 0.4, EVENTS, "released")
    params, extra, state = hasty(lambda key, w, s: method.family.init(key, w, WIDE, s))(
        jax.random.key(0), weights(0), settings
    )

    def event(key: Any, tick: Any, params: Any, state: Any, gradient: Any) -> Any:
        evidence = Evidence(*NOTHING)._replace(grad=lambda: gradient)
        after = method.family.evolve(key, tick, params, {}, None, state, evidence)
        return after[0], after[3]

    compiled, found = hasty(event), [(params, state.masks, None)]
    for number, tick in enumerate((30, 40, 50)):
        gradient = weights(10 + number)
        params, state = compiled(jax.random.key(number), np.int32(tick), params, state, gradient)
        found.append((params, state.masks, gradient))
    return found


def test_blocks_live_and_die_whole_and_rigl_takes_the_best():
    """Each event restated with NumPy on the sums of blocks."""
    trace = {method: after_three(method) for method in (RIGL4, SET4, GRADUAL4)}
    drops = RIGL4.settings(WIDE, 0.4, EVENTS, "released").drops
    for method, found in trace.items():
        promise = promised(method, WIDE, 0.4, EVENTS, "released")
        for number, (params, masks, _) in enumerate(found):
            sums = whole(masks)
            assert all(set(np.unique(part)) <= {0.0, 4.0} for part in sums.values())
            kept = [int(part.sum()) for part in sums.values()]
            assert kept == promise.at(0 if number == 0 else number + 2)
            assert zero_outside(params, masks)
    for (params, masks, _), (_, after, gradient), row in zip(
        trace[RIGL4], trace[RIGL4][1:], drops[2:], strict=False
    ):
        for (name, size), drop in zip(whole(params).items(), row, strict=True):
            live, score = whole(masks)[name] > 0, whole(gradient)[name]
            order = np.argsort(np.where(live, size, np.inf).ravel())
            keep = live.ravel().copy()
            keep[order[:drop]] = False
            grow = np.argsort(np.where(keep, -np.inf, score.ravel()))[::-1][:drop]
            keep[grow] = True
            assert (whole(after)[name] > 0).ravel().tolist() == keep.tolist()
    ends = [found[-1][1] for found in trace.values()]
    assert not any(equal(a, b) for i, a in enumerate(ends) for b in ends[:i])


@given(st.floats(0.0, 0.7), st.sampled_from([(1, 16), (4, 4), (8, 1)]))
def test_blocks_round_up_and_by_less_than_one(knob, block):
    layers = actor_layers(Actor((32, 48), 4), 8)
    try:
        single = promised(METHODS["set"], layers, knob, EVENTS, "released").counts
        found = promised(blocks.set_("mine", block), layers, knob, EVENTS, "released").counts
    except UserError as refused:
        assert "leaves tensor" in str(refused)
        return
    size = block[0] * block[1]
    assert all(n % size == 0 and 0 <= n - m < size for n, m in zip(found, single, strict=True))


NARROW, SMALL = (actor_layers(Actor((width, width), 2), 5) for width in (20, 16))


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: promised(METHODS["rigl_16x1"], NARROW, 0.5, EVENTS, ""), "do not fit layer hidden_0 (5, 20)"),
        (lambda: promised(METHODS["gradual_16x1"], NARROW, 0.5, EVENTS, ""), "multiples of 16"),
        (lambda: promised(METHODS["set_16x1"], SMALL, 0.95, EVENTS, ""), "fewer than 16 weight"),
        (lambda: promised(METHODS["neurons"], TWO, 0.99, EVENTS, ""), "leaves tensor"),
        (lambda: promised(METHODS["neurons"], TWO, 0.3, Events(51, 100, 0.5), ""), "topology_interval at most"),
        (lambda: promised(redo.method("x", METHODS["tiny"], ""), TWO, 0.5, EVENTS, ""), "put it on another method"),
        (lambda: pruning.gradually(0.8, 0.2), "begins at 0.8 and ends at 0.2 of training: let it end later"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_a_sentence(ask, sentence):
    with pytest.raises(UserError) as refused:
        ask()
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
