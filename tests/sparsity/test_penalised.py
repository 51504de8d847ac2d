"""Penalties on the size of weights: loss, support, and what learns and acts, by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.errors import UserError
from sparserl_jax.layers import leaf
from sparserl_jax.sparsity import METHODS, penalised, promised
from sparserl_jax.sparsity.contract import Events, Evidence
from tests.sparsity.common import draw, rig
from tests.sparsity.test_pruning import EVENTS, TWO, WEIGHTS, flat, seen

FAMILY = penalised.FAMILY


def begun(method, knob: float, layers=TWO, weights=WEIGHTS) -> tuple[Any, Any]:
    params, _, state = FAMILY.init(
        jax.random.key(0), weights, layers, method.settings(layers, knob, EVENTS, "released")
    )
    return params, state


def looked(params: Any, state: Any) -> Any:
    """The state after an event."""
    after, _, _, state, effects = FAMILY.evolve(
        jax.random.key(0), jnp.int32(10), params, {}, None, state, seen(params)
    )
    assert bool(effects.happened)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(params)))
    return state


def test_the_penalty_is_the_sum_over_all_weights_without_biases():
    loud = {**WEIGHTS, "output": {**WEIGHTS["output"], "bias": np.float32([100.0])}}
    sizes = np.abs(np.concatenate(flat(WEIGHTS, TWO)))
    for name, expected in (("l1", sizes.sum()), ("l2", (sizes**2).sum())):
        params, state = begun(METHODS[name], 0.25, weights=loud)
        assert float(FAMILY.penalty(params, {}, state, None)) == pytest.approx(0.25 * expected, rel=1e-6)


def test_the_support_is_what_is_large_in_its_own_tensor():
    """Standard deviations .615 and .307: .2 of them cuts .1 of the first tensor, .05 and .04 of the second."""
    method = penalised.method("coarse", False, "", threshold=0.2)
    params, state = begun(method, 0.1)
    assert all(m.all() for m in flat(state.masks, TWO))
    state = looked(params, state)
    assert [m.astype(int).tolist() for m in flat(state.masks, TWO)] == [[1, 1, 1, 1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_the_support_agrees_with_numpy_in_every_copy(network):
    r = rig(network)
    method = penalised.method("coarse", True, "", threshold=0.5)
    params, state = begun(method, 0.1, r.layers, draw(r.like, 1))
    found = flat(looked(params, state).masks, r.layers)
    for weights, mask in zip(flat(params, r.layers), found, strict=True):
        np.testing.assert_array_equal(mask, np.abs(weights) >= 0.5 * weights.std())
        assert 0 < mask.sum() < mask.size


def test_all_weights_learn_and_the_support_acts_and_comes_back():
    params, state = begun(penalised.method("coarse", False, "", threshold=0.2), 0.1)
    state = looked(params, state)
    key = jax.random.key(0)
    used = {
        mode: FAMILY.effective(params, {}, state, mode, key) for mode in ("learn", "act", "target", "deploy")
    }
    assert np.array_equal(leaf(used["learn"], ("hidden_0", "kernel")), WEIGHTS["hidden_0"]["kernel"])
    for mode in ("act", "target", "deploy"):
        assert (
            leaf(used[mode], ("hidden_0", "kernel"))[1, 1] == 0
            and leaf(used[mode], ("output", "kernel"))[0, 0] == 0
        )
    kept, _, _ = FAMILY.project(params, {}, "slots", state)
    target, _, _ = FAMILY.project(params, {}, None, state)
    assert kept is params and leaf(target, ("hidden_0", "kernel"))[1, 1] == 0
    grown = jax.tree.map(lambda w: jnp.sign(w + 1e-9) * 0.5, params)
    assert all(m.all() for m in flat(looked(grown, state).masks, TWO))


def test_l1_drives_useless_weights_below_the_threshold_and_l2_does_not():
    """Least squares on three inputs of which the third says nothing, by gradient descent of falling step size."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 2)).astype(np.float32)
    target = x @ np.float32([[0.9], [-0.7]])
    inputs = np.concatenate([x, 0.01 * rng.normal(size=(64, 1)).astype(np.float32)], axis=1)
    one = TWO[1:]  # three weights to one output
    layers = type(TWO)([one[0]])
    weights = {"output": {"kernel": np.float32([[0.5], [0.5], [0.5]]), "bias": np.zeros(1, np.float32)}}
    small = {}
    for name in ("l1", "l2"):
        _, state = begun(METHODS[name], 0.02, layers, weights)

        def loss(params, state=state):
            error = inputs @ params["output"]["kernel"] - target
            return jnp.mean(error**2) + FAMILY.penalty(params, {}, state, None)

        def step(t, params, loss=loss):
            return jax.tree.map(lambda w, g: w - 0.5 / (1 + t) ** 0.6 * g, params, jax.grad(loss)(params))

        params = jax.lax.fori_loop(0, 20_000, step, weights)
        small[name] = np.abs(np.asarray(params["output"]["kernel"]))[:, 0]
        mask = flat(looked(params, state).masks, layers)[0]
        assert mask.tolist() == [True, True, name == "l2"]
    assert small["l1"][2] < 1e-3 * small["l1"].std() < small["l2"][2]


def test_a_network_without_a_penalty_stays_dense_and_has_no_events():
    """As the critic has where a suite sweeps the actor's penalty alone; small weights are then no zeros."""
    params, state = begun(METHODS["l1"], 0.0)
    evidence = Evidence(lambda: params, *[None] * 5)
    *_, effects = FAMILY.evolve(jax.random.key(0), jnp.int32(10), params, {}, None, state, evidence)
    assert not effects.happened  # by which the state, too, stays what it was


def test_a_threshold_below_zero_is_refused():
    with pytest.raises(UserError, match="the threshold is -1: give a number from 0 on"):
        penalised.method("x", False, "", threshold=-1)


def test_the_knob_is_a_coefficient_and_promises_nothing():
    for name in ("l1", "l2"):
        found = promised(METHODS[name], TWO, 0.3, EVENTS, "released")
        assert found.counts == [6, 3] and found.events == 9 and not found.dense_growth and not found.phases
        assert promised(METHODS[name], TWO, 0.3, Events(10, 0, 0.5), "released").events == 0
        for knob in (-0.1, float("nan"), float("inf")):
            with pytest.raises(
                UserError, match=f"{name}: the penalty coefficient is .*: give a number from 0 on"
            ):
                promised(METHODS[name], TWO, knob, EVENTS, "released")
