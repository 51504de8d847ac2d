"""Tiny is a narrow dense network in the leading units of the wide one, and stays there."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from sparserl_jax.sparsity import METHODS, allocation, drop_grow, tiny
from tests.reference.conformance import host, zero_outside
from tests.sparsity.common import ACTION, EVENTS, HIDDEN, OBS, draw, moments, rig


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_dead_units_of_tiny_are_never_active(network):
    r = rig(network)
    own = METHODS["tiny"].settings(r.layers, 0.7, EVENTS, "released")
    params, _, state = r.init(jax.random.key(0), draw(r.like, 0), own)
    width = tiny.widths(r.layers, 0.7)["hidden_0"]
    assert 1 < width < 9
    noisy = draw(r.like, 8)  # whatever training did to the padding, the next projection clears it
    for tree, kept in ((params, state.masks), (drop_grow.project(noisy, {}, None, state)[0], state.masks)):
        after = r.event(jax.random.key(1), np.int32(10), tree, moments(tree, 5), state, draw(r.like, 9))
        for values, found in ((tree, kept), (after[0], after[2].masks)):
            assert zero_outside(values, found)
            mlp = host(found)["mlp"]
            for name in ("hidden_0", "hidden_1"):
                assert mlp[name]["bias"][..., :width].all() and not mlp[name]["bias"][..., width:].any()
                assert not mlp[name]["kernel"][..., :, width:].any()
            assert not mlp["hidden_1"]["kernel"][..., width:, :].any()
            assert not mlp["output"]["kernel"][..., width:, :].any()
            assert mlp["hidden_1"]["kernel"][..., :width, :width].all()
        assert not bool(after[3].happened)


def test_tiny_is_the_smallest_network_that_reaches_the_sparse_arm():
    for network in ("actor", "critic"):
        layers = rig(network).layers
        own = METHODS["tiny"].settings(layers, 0.7, EVENTS, "released")
        width, wanted = tiny.widths(layers, 0.7)["hidden_0"], sum(allocation.er(layers, 0.7))
        ends, copies = (OBS + ACTION, 1) if network == "actor" else (OBS + ACTION + 1, 2)
        assert own.counts.sum() == copies * (ends * width + width**2) >= wanted
        assert copies * (ends * (width - 1) + (width - 1) ** 2) < wanted


def test_tiny_starts_from_the_narrow_networks_own_law():
    r = rig("actor")
    own = METHODS["tiny"].settings(r.layers, 0.7, EVENTS, "released")
    width = tiny.widths(r.layers, 0.7)["hidden_0"]
    fan_in = {
        "hidden_0": (OBS, OBS),
        "hidden_1": (HIDDEN[0], width),
        "output": (HIDDEN[1], width),
    }  # wide, narrow
    # Weights at the edge of the wide law land on the edge of the narrow one.
    edge = {
        "mlp": {n: jax.tree.map(lambda x, n=n: x + fan_in[n][0] ** -0.5, r.like["mlp"][n]) for n in fan_in}
    }
    params, _, state = r.init(jax.random.key(0), edge, own)
    for name, (_, narrow) in fan_in.items():
        for part in ("kernel", "bias"):
            live = np.asarray(params["mlp"][name][part])[np.asarray(state.masks["mlp"][name][part])]
            np.testing.assert_allclose(live, narrow**-0.5, rtol=1e-6)
