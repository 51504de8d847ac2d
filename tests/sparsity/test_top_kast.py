"""Top-KAST: its two sets, its penalty and its steps by hand and by NumPy, and what it promises."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparserl_jax.agents.optimise import Trainer, init_network, step_network
from sparserl_jax.conformance.laboratory import EVIDENCE, hasty
from sparserl_jax.sparsity import METHODS, allocation, promised, top_kast
from sparserl_jax.sparsity.contract import Events
from tests.sparsity.common import draw, rig
from tests.sparsity.test_pruning import TWO, flat
from tests.sparsity.test_straight_through import ANSWERS, INPUTS, loss, table

EVENTS = Events(interval=3, end=100, drop_fraction=0.5)
FAMILY = top_kast.FAMILY
WEIGHTS: Any = {"w": {"kernel": np.float32([[0.9], [-0.2], [0.3], [-0.8], [0.1], [0.7], [0.05], [-0.6]])}}


def begun(knob: float, layers=None, weights=WEIGHTS, method=METHODS["top_kast"]) -> tuple[Any, Any]:
    layers = table(8, 1) if layers is None else layers
    settings = method.settings(layers, knob, EVENTS, "released")
    params, _, state = FAMILY.init(jax.random.key(0), weights, layers, settings)
    return params, state


def test_two_of_eight_compute_and_four_learn_by_hand():
    params, state = begun(0.75)
    assert flat(state.masks, table(8, 1))[0].astype(int).tolist() == [1, 0, 0, 1, 0, 0, 0, 0]
    assert flat(state.wider, table(8, 1))[0].astype(int).tolist() == [1, 0, 0, 1, 0, 1, 0, 1]
    expected = 1e-4 * (0.81 + 0.64 + (0.49 + 0.36) / (2 / 8))
    assert float(FAMILY.penalty(params, {}, state, None)) == pytest.approx(expected, rel=1e-6)
    # With all weights equal in the gradient, what the optimiser sees is B.
    ones = jax.tree.map(np.ones_like, params)
    found = FAMILY.gradients(ones, params, {}, state)["w"]["kernel"][:, 0]
    assert found.tolist() == [1, 0, 0, 1, 0, 1, 0, 1]
    for mode in ("learn", "act", "target", "deploy"):
        used = FAMILY.effective(params, {}, state, mode, jax.random.key(0))["w"]["kernel"][:, 0]
        np.testing.assert_array_equal(used, np.float32([0.9, 0, 0, -0.8, 0, 0, 0, 0]))


def numpy_sets(w: np.ndarray, counts: tuple[int, int]) -> list[np.ndarray]:
    order = np.argsort(-np.abs(w).ravel(), kind="stable")
    return [np.isin(np.arange(w.size), order[:n]).reshape(w.shape) for n in counts]


def test_a_training_with_three_events_agrees_with_a_restatement():
    """Eleven ticks by plain gradient descent, an event in place of ticks 3, 6 and 9, a penalty that is felt."""
    method = top_kast.method("felt", "", strength=0.05)
    layers, weights = table(8, 2), np.random.default_rng(3).normal(size=(8, 2)).astype(np.float32)
    trainer = Trainer(FAMILY, optax.sgd(0.3), layers, EVENTS)
    network = init_network(
        trainer,
        jax.random.key(0),
        {"w": {"kernel": jnp.asarray(weights)}},
        method.settings(layers, 0.75, EVENTS, "released"),
    )

    @hasty
    def step(network: Any, tick: jax.Array) -> Any:
        return step_network(
            trainer, network, loss, tick=tick, clock=None, key=jax.random.key(1), evidence=EVIDENCE
        )

    w = weights.astype(np.float64)
    inner, outer = first, _ = numpy_sets(w, (4, 8))
    for tick in range(1, 12):
        network, info = step(network, np.int32(tick))
        error = INPUTS @ (inner * w) - ANSWERS
        assert float(info.loss) == pytest.approx(np.mean(error**2), rel=1e-4)
        if tick % 3 == 0:
            inner, outer = numpy_sets(w, (4, 8))
        else:
            gradient = 2 * INPUTS.T @ error / error.size + 2 * 0.05 * w * np.where(inner, 1, 16 / 4)
            w = w - 0.3 * outer * gradient
        assert bool(info.effects.happened) == (tick % 3 == 0)
        np.testing.assert_allclose(network.params["w"]["kernel"], w, atol=1e-5)
        np.testing.assert_array_equal(network.sparsity.masks["w"]["kernel"], inner)
        np.testing.assert_array_equal(network.sparsity.wider["w"]["kernel"], outer)
    assert (inner != first).any()


def test_what_leaves_the_backward_set_stands_still_whatever_the_optimiser_remembers():
    layers, optimiser = table(8, 1), optax.adam(0.1)
    params, state = begun(0.75)
    slots = optimiser.init((params, {}))
    pulled = jax.tree.map(jnp.ones_like, params)
    for _ in range(3):
        updates, slots = optimiser.update((FAMILY.gradients(pulled, params, {}, state), {}), slots)
        params, _, slots = FAMILY.project(optax.apply_updates((params, {}), updates)[0], {}, slots, state)
    left = params["w"]["kernel"].at[0, 0].set(0.0)  # the largest of B falls out
    params, _, slots, state, _ = FAMILY.evolve(
        jax.random.key(0), jnp.int32(3), {"w": {"kernel": left}}, {}, slots, state, EVIDENCE
    )
    outside = ~flat(state.wider, layers)[0]
    assert outside[0] and not flat(state.masks, layers)[0][0]
    updates, slots = optimiser.update((FAMILY.gradients(pulled, params, {}, state), {}), slots)
    moved = optax.apply_updates((params, {}), updates)[0]
    assert float(moved["w"]["kernel"][0, 0]) != 0.0  # Adam's moments alone would move it
    held, _, _ = FAMILY.project(moved, {}, slots, state)
    np.testing.assert_array_equal(flat(held, layers)[0][outside], flat(params, layers)[0][outside])
    assert (flat(held, layers)[0][~outside] != flat(params, layers)[0][~outside]).all()


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_sets_are_nested_and_as_promised_in_every_copy(network):
    r = rig(network)
    weights = draw(r.like, 1)
    for knob in (0.3, 0.8):
        _, state = begun(knob, r.layers, weights)
        found = promised(METHODS["top_kast"], r.layers, knob, EVENTS, "released")
        assert found.counts == allocation.erk(r.layers, knob) and found.events == 33
        assert found.learned is not None and not found.dense_growth
        rows = zip(
            flat(weights, r.layers), flat(state.masks, r.layers), flat(state.wider, r.layers), strict=True
        )
        for (w, inner, outer), n, more in zip(rows, found.counts, found.learned, strict=True):
            assert more == min(2 * n, w.size)
            expected = numpy_sets(w, (n, more))
            np.testing.assert_array_equal(inner, expected[0])
            np.testing.assert_array_equal(outer, expected[1])


def test_a_backward_set_of_its_own_size():
    for wider, expected in ((1.0, [3, 2]), (1.5, [4, 3]), (9.0, [6, 3])):
        assert (
            promised(top_kast.method("own", "", wider=wider), TWO, 0.5, EVENTS, "released").learned
            == expected
        )
