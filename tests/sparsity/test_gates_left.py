"""What a gated network leaves and what it takes up: deployed weights, and gates that act as the given network did."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl_jax.conformance.laboratory import NETWORKS, hasty, laboratory
from sparserl_jax.layers import leaf
from sparserl_jax.sparsity import METHODS, l0
from tests.reference.conformance import equal, host
from tests.sparsity.test_l0 import BOTH, begun, closing, used
from tests.sparsity.test_pruning import EVENTS, TWO, WEIGHTS


def masks_of(seed: int, density: float = 0.5) -> Any:
    """Random masks of the weights, biases live."""
    generator = np.random.default_rng(seed)
    masks = jax.tree.map(lambda x: np.ones(np.shape(x), bool), WEIGHTS)
    for layer in TWO:
        masks[layer.kernel[0]]["kernel"] = generator.random(leaf(WEIGHTS, layer.kernel).shape) < density
    return masks


@BOTH
@given(seed=st.integers(0, 2**32 - 1), density=st.floats(0.0, 1.0))
@settings(max_examples=20)
def test_a_network_that_is_taken_up_acts_as_it_did(name, seed, density):
    family, masks = METHODS[name].family, masks_of(seed, density)
    given_weights = jax.tree.map(lambda w, live: np.where(live, w, 0), host(WEIGHTS), masks)
    fresh = begun(name).sparsity
    params, extra, state = family.adopt(WEIGHTS, masks, fresh)
    acting, live, _ = family.deployed(params, extra, state)
    for ours, theirs in zip(jax.tree.leaves(acting), jax.tree.leaves(given_weights), strict=True):
        assert np.allclose(ours, theirs, rtol=1e-6, atol=0)
    assert equal(live, state.masks) and int(state.tick) == 0
    for layer in TWO:
        mine, theirs = leaf(live, layer.kernel), leaf(masks, layer.kernel)
        units = np.broadcast_to(theirs.any(axis=-1, keepdims=True), theirs.shape)
        assert np.array_equal(mine, theirs if name == "l0" else units)
        gates = np.unique(extra["log_alpha"][layer.name])
        assert set(gates) <= {np.float32(np.log(9)), np.float32(-l0.LIMIT)}
        assert extra["log_alpha"][layer.name].shape == begun(name).extra["log_alpha"][layer.name].shape


@BOTH
def test_a_sparse_network_taken_up_without_a_coefficient_is_dense_and_acts_as_it_did(name):
    built = begun(name, 0.0)
    masks = jax.tree.map(lambda x: np.ones(x.shape, bool), WEIGHTS)
    masks["hidden_0"]["kernel"][0] = False
    params, extra, state = METHODS[name].family.adopt(WEIGHTS, masks, built.sparsity)
    kernel = np.where(masks["hidden_0"]["kernel"], WEIGHTS["hidden_0"]["kernel"], 0)
    acting = used(name, built._replace(params=params, extra=extra, sparsity=state), "learn")
    assert equal(acting["hidden_0"]["kernel"], kernel)
    assert all(np.all(mask) for mask in jax.tree.leaves(state.masks))


def test_a_method_that_begins_with_closed_gates_opens_those_of_live_weights():
    closed = l0.method("l0_closed", METHODS["l0"].family, "", drop_rate=0.99)
    network = begun("l0")
    state = network.sparsity._replace(settings=closed.settings(TWO, 0.3, EVENTS, "released"))
    params, extra, state = closed.family.adopt(WEIGHTS, masks_of(0, 1.0), state)
    acting, live, _ = closed.family.deployed(params, extra, state)
    assert all(map(np.allclose, jax.tree.leaves(acting), jax.tree.leaves(WEIGHTS)))
    assert all(np.all(one) for one in jax.tree.leaves(live))


def test_a_finished_run_leaves_what_its_gates_make_of_the_weights_and_goes_on_from_that():
    """Critics too: without its gates, a network's weights are another network."""
    method = METHODS["l0"]
    lab = laboratory(method.family)
    state = lab.init(jax.random.key(0), lab.settings(method, 0.3))
    for seed, name in enumerate(NETWORKS):
        own = getattr(state, name)
        gates = closing(own.extra, seed)
        own = own._replace(extra=gates, sparsity=l0.refresh(own.params, gates, own.sparsity))
        state = state._replace(**{name: own})
    left, masks = lab.agent.weights(state), lab.agent.masks(state)
    for name in NETWORKS:
        own = getattr(state, name)
        for layer in lab.layers[name]:
            gate = np.asarray(l0.mean_gate(own.extra["log_alpha"][layer.name]))
            assert 0.3 < np.mean(gate == 0) < 0.7
            assert np.allclose(leaf(left[name], layer.kernel), leaf(own.params, layer.kernel) * gate)
    again = hasty(lab.agent.begin)(state, {name: (left[name], masks[name]) for name in NETWORKS})
    found, live = lab.agent.weights(again), lab.agent.masks(again)
    for name in NETWORKS:
        assert equal(live[name], masks[name])
        for ours, theirs in zip(jax.tree.leaves(found[name]), jax.tree.leaves(left[name]), strict=True):
            assert np.allclose(ours, theirs, rtol=1e-5, atol=0)


def test_methods_of_masks_leave_the_very_weights_that_they_train():
    """Also those outside the support, where a method trains them: files of such runs are what they were."""
    for name in ("set", "l1"):
        lab = laboratory(METHODS[name].family)
        state = lab.init(jax.random.key(0), lab.settings(METHODS[name], 0.5))
        left = lab.agent.weights(state)
        assert all(left[network] is getattr(state, network).params for network in NETWORKS)
