"""STE, SR-STE and N:M: supports, gradients and steps by hand and by NumPy, promises, costs, mistakes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserl_jax.agents.optimise import Network, Trainer, init_network, polyak, step_network
from sparserl_jax.bench import costs
from sparserl_jax.conformance.laboratory import EVIDENCE, hasty
from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable
from sparserl_jax.sparsity import METHODS, allocation, masks, nm, promised
from sparserl_jax.sparsity.contract import Events
from sparserl_jax.training import recipe
from sparserl_jax.training.config import Run
from tests.reference import small
from tests.sparsity.common import draw, rig
from tests.sparsity.test_pruning import TWO, WEIGHTS, bits, flat

EVENTS = Events(interval=2, end=100, drop_fraction=0.5)
NAMES = ("ste", "sr_ste", "nm", "nm_sr_ste", "rnm_like")


def table(inputs: int, outputs: int) -> LayerTable:
    """One tensor that reads the network's input and is its output."""
    return LayerTable(
        [Layer("w", ("w", "kernel"), None, "dense", (inputs, outputs), outputs="w", output=True)]
    )


def begun(name: str, knob: float, layers: LayerTable, weights: Any) -> tuple[Any, Any]:
    method = METHODS[name]
    params, extra, state = method.family.init(
        jax.random.key(0), weights, layers, method.settings(layers, knob, EVENTS, "released")
    )
    assert extra == {} and params is weights  # the weights stay whole
    return params, state


def numpy_groups(weights: np.ndarray, n: int, m: int) -> np.ndarray:
    """The pattern restated: group after group, a stable sort."""
    mask = np.zeros(weights.shape, bool)
    for column in range(weights.shape[1]):
        for first in range(0, len(weights), m):
            group = np.abs(weights[first : first + m, column])
            mask[first + np.argsort(-group, kind="stable")[:n], column] = True
    return mask


# ---- what is in force ----------------------------------------------------------------------------------------


def test_the_largest_of_every_tensor_are_in_force_by_hand_and_follow_the_weights():
    """Three of six and two of three, as |w| has it; then one weight grows past another."""
    params, state = begun("ste", 0.5, TWO, WEIGHTS)
    assert allocation.erk(TWO, 0.5) == [3, 2]
    assert bits(flat(state.masks, TWO)) == ["100101", "110"]
    moved = {**params, "output": {**params["output"], "kernel": np.float32([[0.05], [-0.6], [0.07]])}}
    assert bits(flat(METHODS["ste"].family.refresh(moved, {}, state).masks, TWO)) == ["100101", "011"]


def test_two_of_four_by_hand_with_a_group_cut_short():
    """Six inputs: a group of four and one of two; among equals the first."""
    weights = {"w": {"kernel": np.float32([[1, 3], [-2, 3], [0, 3], [3, -3], [0.1, 0], [0, 0]])}}
    found = {}
    for knob in (0.5, 0.75, 0.25):
        _, state = begun("nm", knob, table(6, 2), weights)
        found[knob] = np.asarray(state.masks["w"]["kernel"]).astype(int).T.tolist()
    assert found[0.5] == [[0, 1, 0, 1, 1, 1], [1, 1, 0, 0, 1, 1]]
    assert found[0.75] == [[0, 0, 0, 1, 1, 0], [1, 0, 0, 0, 1, 0]]
    assert found[0.25] == [[1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 1, 1]]


@pytest.mark.slow
def test_the_inner_pattern_leaves_what_reads_inputs_and_what_puts_out_dense():
    three = LayerTable(
        [
            Layer("a", ("a", "kernel"), None, "dense", (3, 8), inputs="in", outputs="a"),
            Layer("b", ("b", "kernel"), None, "dense", (8, 8), inputs="a", outputs="b"),
            Layer("c", ("c", "kernel"), None, "dense", (8, 1), inputs="b", outputs="c", output=True),
        ]
    )
    weights = {
        name: {"kernel": np.random.default_rng(3).normal(size=shape).astype(np.float32)}
        for name, shape in zip("abc", [(3, 8), (8, 8), (8, 1)], strict=True)
    }
    _, state = begun("nm_inner", 0.75, three, weights)
    found = promised(METHODS["nm_inner"], three, 0.75, EVENTS, "released")
    assert [int(m.sum()) for m in flat(state.masks, three)] == found.counts == [24, 16, 8]
    np.testing.assert_array_equal(state.masks["b"]["kernel"], numpy_groups(weights["b"]["kernel"], 1, 4))
    assert METHODS["nm_inner"].family.misfit(state.masks, three, state.settings) is None
    assert promised(METHODS["nm"], three, 0.75, EVENTS, "released").counts == [8, 16, 2]


_groups = hasty(masks.top_of_groups)


@given(st.integers(1, 37), st.sampled_from((4, 8, 16)), st.data())
def test_groups_agree_with_a_restatement(inputs, m, data):
    n = data.draw(st.integers(1, m))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    weights = np.zeros((37, 3), np.float32)
    # Few different values: most groups have ties.
    weights[:inputs] = rng.integers(-3, 4, (inputs, 3))
    padded = np.where(np.arange(37)[:, None] < inputs, np.abs(weights), -1).astype(np.float32)
    found = np.asarray(_groups(padded, n, m))[:inputs]
    np.testing.assert_array_equal(found, numpy_groups(weights[:inputs], n, m))


def test_weights_that_are_no_numbers_are_in_force_last():
    scores = np.float32([[np.nan], [0], [np.inf], [1], [np.nan]])
    assert np.asarray(_groups(scores, 2, 4))[:, 0].tolist() == [False, False, True, True, True]
    assert np.asarray(_groups(scores, 3, 4))[:, 0].tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("network", ["actor", "critic"])
@pytest.mark.slow
def test_counts_are_as_promised_in_every_copy_and_layer(network):
    r = rig(network)
    weights = draw(r.like, 1)
    for knob in (0.6, 0.8):
        _, state = begun("ste", knob, r.layers, weights)
        found = [int(m.sum()) for m in flat(state.masks, r.layers)]
        assert found == promised(METHODS["ste"], r.layers, knob, EVENTS, "released").counts
        for w, m in zip(flat(weights, r.layers), flat(state.masks, r.layers), strict=True):
            assert np.abs(w[m]).min() > np.abs(w[~m]).max(initial=0)
    layers = LayerTable(layer for layer in r.layers if layer.units_in != 9)  # 4 does not divide it
    for knob in (0, 0.25, 0.5, 0.75):
        _, state = begun("nm", knob, layers, weights)
        found = promised(METHODS["nm"], layers, knob, EVENTS, "released")
        assert [int(m.sum()) for m in flat(state.masks, layers)] == found.counts
        n, m = nm.pattern(knob)
        for (layer, _), w, mask in zip(
            layers.tensors, flat(weights, layers), flat(state.masks, layers), strict=True
        ):
            np.testing.assert_array_equal(
                mask.reshape(layer.shape), numpy_groups(w.reshape(layer.shape), n, m)
            )


def test_a_convolution_has_groups_along_its_inputs_at_every_place():
    conv = LayerTable([Layer("c", ("c", "kernel"), None, "conv", (2, 1, 8, 3), outputs="c", output=True)])
    kernel = np.random.default_rng(0).normal(size=(2, 1, 8, 3)).astype(np.float32)
    _, state = begun("nm", 0.75, conv, {"c": {"kernel": kernel}})
    expected = np.stack([numpy_groups(kernel[i, 0], 1, 4) for i in range(2)])[:, None]
    np.testing.assert_array_equal(state.masks["c"]["kernel"], expected)
    assert nm.support(conv, 0.75)[1] == [12]


# ---- what learns ----------------------------------------------------------------------------------------------

INPUTS = np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32)
ANSWERS = (INPUTS @ np.random.default_rng(2).normal(size=(8, 2))).astype(np.float32)


def loss(params: Any) -> tuple[jax.Array, None]:
    return jnp.mean((INPUTS @ params["w"]["kernel"] - ANSWERS) ** 2), None


def numpy_training(weights: np.ndarray, steps: int, choose: Any, decay: float, straight: bool) -> list[Any]:
    """Plain gradient descent restated: (weights, mask, loss) after every step."""
    w, out = weights.astype(np.float64), []
    for _ in range(steps):
        m = choose(w)
        error = INPUTS @ (m * w) - ANSWERS
        gradient = 2 * INPUTS.T @ error / error.size
        w = w - 0.3 * (gradient * (m | straight) + decay * ~m * w)
        out.append((w, choose(w), np.mean(error**2)))
    return out


def stepped(
    name: str, knob: float, weights: np.ndarray, steps: int, tick: int = 0
) -> list[tuple[Network, Any]]:
    """Every network of a training of one layer by plain gradient descent, and the losses."""
    method, layers = METHODS[name], table(8, 2)
    trainer = Trainer(method.family, optax.sgd(0.3), layers, EVENTS)
    network = init_network(
        trainer,
        jax.random.key(0),
        {"w": {"kernel": jnp.asarray(weights)}},
        method.settings(layers, knob, EVENTS, "released"),
    )

    @hasty
    def step(network: Network, tick: jax.Array) -> Any:
        return step_network(
            trainer, network, loss, tick=tick, clock=None, key=jax.random.key(1), evidence=EVIDENCE
        )

    seen = []
    for now in range(tick + 1, tick + steps + 1):
        network, info = step(network, np.int32(now))
        assert not bool(info.effects.happened)
        seen.append((network, float(info.loss)))
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_a_training_agrees_with_a_restatement_step_by_step(name):
    """Ticks 1 to 6, of which every other is an event's: no step may be missing."""
    weights = np.random.default_rng(3).normal(size=(8, 2)).astype(np.float32)

    def largest(w: np.ndarray) -> np.ndarray:
        return np.abs(w) >= np.sort(np.abs(w).ravel())[-8]

    choose = largest if name in ("ste", "sr_ste") else lambda w: numpy_groups(w, 2, 4)
    settings = METHODS[name].settings(table(8, 2), 0.5, EVENTS, "released")
    decay = float(settings.decay)
    assert decay == pytest.approx(2e-4 if "sr_ste" in name else 0)
    expected = numpy_training(weights, 6, choose, decay, name != "rnm_like")
    for (network, value), (w, mask, error) in zip(stepped(name, 0.5, weights, 6), expected, strict=True):
        np.testing.assert_allclose(network.params["w"]["kernel"], w, atol=1e-5)
        np.testing.assert_array_equal(network.sparsity.masks["w"]["kernel"], mask)
        assert value == pytest.approx(error, rel=1e-4)
    assert (expected[0][1] != expected[-1][1]).any()


def test_the_pull_of_sr_ste_is_on_what_is_not_in_force_alone():
    family = METHODS["sr_ste"].family
    params, state = begun("sr_ste", 0.5, TWO, WEIGHTS)
    state = state._replace(settings=state.settings._replace(decay=np.float32(0.5)))
    zeros = jax.tree.map(np.zeros_like, params)
    found = family.gradients(zeros, params, {}, state)
    np.testing.assert_allclose(found["hidden_0"]["kernel"], [[0, -0.1, 0.15], [0, 0.05, 0]], rtol=1e-6)
    np.testing.assert_allclose(found["output"]["kernel"], [[0], [0], [0.02]], rtol=1e-6)
    assert not np.any(found["hidden_0"]["bias"])


@pytest.mark.slow
def test_second_derivatives_pass_straight_through_too():
    """L = (m w)^4 summed: the product with 1 is 12 (m w)^2, which is 0 outside."""
    params, state = begun("ste", 0.5, TWO, WEIGHTS)

    def value(weights: Any) -> jax.Array:
        used = METHODS["ste"].family.effective(weights, {}, state, "learn", jax.random.key(0))
        return sum(jnp.sum(w**4) for w in jax.tree.leaves(used))

    ones = jax.tree.map(jnp.ones_like, params)
    product = jax.jvp(jax.grad(value), (params,), (ones,))[1]
    inside = masks.apply(state.masks, params)
    for found, used in zip(jax.tree.leaves(product), jax.tree.leaves(inside), strict=True):
        np.testing.assert_allclose(found, 12 * used**2, rtol=1e-5)


def test_what_acts_is_what_is_deployed_and_targets_keep_what_is_not_in_force():
    method, key = METHODS["nm"], jax.random.key(0)
    weights = np.arange(1, 17, dtype=np.float32).reshape(8, 2)
    network = stepped("nm", 0.5, weights, 1)[0][0]
    deployed, live, form = method.family.deployed(*network[:2], network.sparsity)
    assert form == "plain"
    for mode in ("learn", "act", "deploy"):
        used = method.family.effective(network.params, {}, network.sparsity, mode, key)
        np.testing.assert_array_equal(used["w"]["kernel"], deployed["w"]["kernel"])
    trainer = Trainer(method.family, optax.sgd(0.3), table(8, 2), EVENTS)
    target = ({"w": {"kernel": jnp.asarray(weights)}}, {})
    averaged, _ = polyak(trainer, network, target, 0.5)
    np.testing.assert_allclose(
        averaged["w"]["kernel"], (weights + network.params["w"]["kernel"]) / 2, rtol=1e-6
    )
    used = method.family.effective(averaged, {}, network.sparsity, "target", key)
    np.testing.assert_array_equal(used["w"]["kernel"] != 0, live["w"]["kernel"])


# ---- promises, costs, mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_training_is_charged_for_the_gradients_of_all_weights(name):
    """Beyond the three passes over live weights: two operations for every weight that learns and is not in force."""
    run = Run(small.training(), recipe(name), 0.5, 0, name)
    agent, updates = run.training.agent, run.training.updates
    layers = costs.layer_tables(agent, 3, 1)
    promised = costs.declared(run, layers)
    counts = {network: promised[network].counts for network in layers}
    found = costs.costs(run, layers, counts, promised)["training_flops_theory"]
    without = {network: own._replace(learned=None) for network, own in promised.items()}
    extra = found - costs.costs(run, layers, counts, without)["training_flops_theory"]
    outside = {network: layers[network].weights - sum(counts[network]) for network in layers}
    wide = (
        2
        * agent.batch_size
        * (updates * outside["critic"] + updates // agent.policy_delay * outside["actor"])
    )
    assert updates > 99 and extra == (0 if name == "rnm_like" else wide)


@pytest.mark.parametrize("name", NAMES)
def test_promises(name):
    layers, knob = table(8, 2), 0.5
    found = promised(METHODS[name], layers, knob, EVENTS, "released")
    assert found.counts == [8] and found.events == 0 and not found.dense_growth and not found.phases
    assert found.learned == (None if name == "rnm_like" else [16])


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [(0, (4, 4)), (0.25, (3, 4)), (0.5, (2, 4)), (0.75, (1, 4)), (0.625, (3, 8)), (0.875, (1, 8)), (0.9375, (1, 16))],
)  # fmt: skip
def test_a_sparsity_is_the_shortest_pattern_that_has_it(sparsity, expected):
    assert nm.pattern(sparsity) == expected


@pytest.mark.parametrize(
    ("sparsity", "sentence"),
    [
        (0.9, "sparsity 0.9 is no N:M, 1 - N/M with M of 4, 8 or 16: the nearest is 0.875 (1:8) or 0.9375 (1:16)."),
        (0.95, "the nearest is 0.9375 (1:16)."),
        (1.0, "the nearest is 0.9375 (1:16)."),
        (-0.5, "the nearest is 0 (4:4) or 0.0625 (15:16)."),
        (float("nan"), "sparsity is nan: give 1 - N/M"),
    ],
)  # fmt: skip
def test_a_sparsity_that_is_no_pattern_is_one_sentence(sparsity, sentence):
    with pytest.raises(UserError) as refused:
        promised(METHODS["nm"], table(8, 2), sparsity, EVENTS, "released")
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_a_hidden_width_that_m_does_not_divide_is_one_sentence_and_an_input_is_not():
    with pytest.raises(UserError) as refused:
        nm.support(rig("actor").layers, 0.5)
    assert str(refused.value) == (
        "2:4 does not divide the 9 inputs of output (9, 3): make hidden widths multiples of 4, or choose another "
        "sparsity."
    )
    assert nm.support(table(11, 2), 0.5)[1] == [2 * (2 + 2 + 2)]
    assert nm.support(table(9, 2), 0.5)[1] == [2 * (2 + 2 + 1)]


@pytest.mark.slow
def test_a_trained_network_goes_on_with_what_it_had_in_force():
    params, state = begun("nm", 0.5, table(8, 2), {"w": {"kernel": draw(np.zeros((8, 2)), 4)}})
    other = numpy_groups(draw(np.zeros((8, 2)), 5), 2, 4)
    trained, _, state = METHODS["nm"].family.adopt(params, {"w": {"kernel": other}}, state)
    np.testing.assert_array_equal(state.masks["w"]["kernel"], other)
    np.testing.assert_array_equal(trained["w"]["kernel"], params["w"]["kernel"] * other)
