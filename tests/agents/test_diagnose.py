"""Diagnostics of a network on one batch, against NumPy: dormant units, gradients of masked weights, values."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sparserl_jax.agents import td3
from sparserl_jax.agents.agent import Clock
from sparserl_jax.agents.diagnose import TAU, dormant_share
from sparserl_jax.layers import leaf, with_leaf
from sparserl_jax.sparsity import METHODS, drop_grow
from tests.reference import conformance, rlx2_numpy
from tests.reference.conformance import NETWORKS, Laboratory, host

CONFIG = td3.TD3Config(**{**conformance.CONFIG.__dict__, "target_noise": 0.0})
BATCH = conformance.batch(3, 32)
HIDDEN = ("hidden_0", "hidden_1")


class Bench:
    """A TD3 whose diagnostics are compiled once; targets move without noise, so that NumPy can follow."""

    def __init__(self) -> None:
        self.lab = Laboratory(drop_grow.DROP_GROW, config=CONFIG)
        self.diagnose = jax.jit(self.lab.agent.diagnose)
        self.value = jax.jit(self.lab.agent.value)

    def begin(self, method: str) -> td3.TD3State:
        return self.lab.init(jax.random.key(0), self.lab.settings(METHODS[method], 0.6))

    def seen(self, state: td3.TD3State) -> dict[str, float]:
        clock = Clock(np.int32(100), np.int32(10))
        return {k: float(v) for k, v in self.diagnose(state, BATCH, jax.random.key(1), clock).items()}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def activations(mlp: dict[str, Any], x: np.ndarray) -> list[np.ndarray]:
    """Hidden activations [batch, unit] of one copy."""
    found = []
    for name in HIDDEN:
        x = np.maximum(x @ np.asarray(mlp[name]["kernel"]) + np.asarray(mlp[name]["bias"]), 0)
        found.append(x)
    return found


def copies(name: str, params: Any) -> list[tuple[dict[str, Any], np.ndarray]]:
    """(parameters, inputs) of each copy of a network."""
    if name == "actor":
        return [(params["mlp"], BATCH.obs)]
    inputs = np.concatenate([BATCH.obs, BATCH.action], axis=-1)
    return [(jax.tree.map(lambda x, i=i: np.asarray(x)[i], params["mlp"]), inputs) for i in range(2)]


def dormant_by_hand(name: str, params: Any, masks: Any) -> dict[str, float]:
    """Sokar et al. 2023, definition 3.1, unit by unit, over the units that exist."""
    counts = {layer: [0, 0] for layer in HIDDEN}
    live = copies(name, masks)
    for (mlp, x), (mask, _) in zip(copies(name, params), live, strict=True):
        for layer, h in zip(HIDDEN, activations(mlp, x), strict=True):
            units = [
                unit
                for unit in range(h.shape[1])
                if mask[layer]["bias"][unit] or mask[layer]["kernel"][:, unit].any()
            ]
            activity = {unit: np.abs(h[:, unit]).mean() for unit in units}
            mean = sum(activity.values()) / len(units)
            counts[layer][0] += sum(a / mean <= TAU if mean > 0 else True for a in activity.values())
            counts[layer][1] += len(units)
    return {layer: dead / of for layer, (dead, of) in counts.items()}


@pytest.mark.parametrize("method", ["dense", "rigl", "tiny"])
def test_dormant_shares_are_those_counted_by_hand(bench, method):
    state = bench.begin(method)
    seen, networks = bench.seen(state), bench.lab.agent.networks(state)
    masks = host(bench.lab.agent.masks(state))
    for name in NETWORKS:
        expected = dormant_by_hand(name, host(networks[name].params), masks[name])
        for layer, share in expected.items():
            assert seen[f"dormant_{name}_{layer}"] == pytest.approx(share, abs=1e-6)


def test_padding_of_a_narrow_network_is_not_dormant(bench):
    """Tiny's units are those of a narrow network; most of the wide one's are zero for ever."""
    masks = host(bench.lab.agent.masks(bench.begin("tiny")))["actor"]
    assert masks["mlp"]["hidden_0"]["bias"].sum() < 12
    assert bench.seen(bench.begin("tiny"))["dormant_actor_hidden_0"] < 0.5


@pytest.mark.parametrize("name", NETWORKS)
def test_dead_layer_shows_as_dormant_in_that_layer_alone(bench, name):
    """Biases so low that no unit of the layer ever fires."""
    state = bench.begin("rigl")
    before, network = bench.seen(state), bench.lab.agent.networks(state)[name]
    place = ("mlp", "hidden_1", "bias")
    dead = with_leaf(network.params, place, np.full_like(leaf(network.params, place), -100.0))
    after = bench.seen(state._replace(**{name: network._replace(params=dead)}))
    changed = {column for column in after if column.startswith("dormant") and after[column] != before[column]}
    assert after[f"dormant_{name}_hidden_1"] == 1.0 and before[f"dormant_{name}_hidden_1"] < 1.0
    assert changed == {f"dormant_{name}_hidden_1"}


finite = st.floats(0, 1e6, width=32, allow_subnormal=False)


@given(activity=arrays.arrays(np.float32, (2, 6), elements=finite), bits=st.integers(0, 2**12 - 1))
def test_dormant_share_counts_existing_units_at_or_below_a_fraction_of_their_mean(activity, bits):
    exists = np.array([bits >> i & 1 for i in range(activity.size)], bool).reshape(activity.shape)
    dead, near = 0, 0
    for values, there in zip(activity.astype(np.float64), exists, strict=True):
        own = values[there]
        bound = TAU * own.mean() if own.size else 0.0
        dead += int((own <= bound).sum())
        near += int((np.abs(own - bound) <= 1e-5 * bound).sum())  # float32 may decide either way
    share = float(dormant_share(activity, exists))
    assert abs(share * max(exists.sum(), 1) - dead) <= near + 1e-4


def test_share_of_a_network_that_is_no_number_is_none(bench):
    assert np.isnan(float(dormant_share(np.array([[np.nan, 1.0]]), np.ones((1, 2), bool))))


# ---- gradients of masked weights ---------------------------------------------------------------------------


def masked_norm_by_differences(loss: Any, params: Any, masks: Any, step: float = 1e-4) -> float:
    """Norm of the central differences of a NumPy loss at the entries outside the masks."""
    params = jax.tree.map(lambda x: np.array(x, np.float64), params)
    total = 0.0
    for value, mask in zip(jax.tree.leaves(params), jax.tree.leaves(masks), strict=True):
        for place in map(tuple, np.argwhere(~mask)):
            kept = value[place]
            value[place] = kept + step
            up = loss(params)
            value[place] = kept - step
            total += ((up - loss(params)) / (2 * step)) ** 2
            value[place] = kept
    return float(np.sqrt(total))


def test_norm_of_masked_gradients_is_that_of_finite_differences(bench):
    state = bench.begin("rigl")
    seen, masks = bench.seen(state), host(bench.lab.agent.masks(state))
    actor, critic = host(state.actor.params), host(state.critic.params)
    target = rlx2_numpy.td3_target(
        host(state.target_actor[0]), host(state.target_critic[0]), BATCH, CONFIG.gamma, np.float32(0)
    )
    losses = {
        "actor": lambda params: rlx2_numpy.actor_loss(params, critic, BATCH),
        "critic": lambda params: rlx2_numpy.critic_loss(params, BATCH, target),
    }
    for name, params in (("actor", actor), ("critic", critic)):
        expected = masked_norm_by_differences(losses[name], params, masks[name])
        assert expected > 1e-3
        np.testing.assert_allclose(seen[f"{name}_masked_grad_norm"], expected, rtol=5e-3)


@pytest.mark.parametrize("method", ["dense", "tiny"])
def test_norm_of_masked_gradients_is_zero_where_nothing_is_masked_or_nothing_arrives(bench, method):
    """Nothing is masked in dense; no gradient reaches the padding of tiny, whose units are zero and stay so."""
    seen = bench.seen(bench.begin(method))
    assert [seen[f"{name}_masked_grad_norm"] for name in NETWORKS] == [0.0, 0.0]


# ---- values ------------------------------------------------------------------------------------------------


def test_value_is_the_first_critic_at_the_policys_action(bench):
    state = bench.begin("rigl")
    actor, critic = host(state.actor.params), host(state.critic.params)
    obs = np.stack([conformance.observations(7), conformance.observations(8)])
    flat = obs.reshape(-1, obs.shape[-1])
    expected = rlx2_numpy.values(critic, flat, rlx2_numpy.action(actor, flat))[0].reshape(obs.shape[:-1])
    np.testing.assert_allclose(bench.value(state, obs), expected, rtol=1e-4, atol=1e-5)
