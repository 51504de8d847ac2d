"""Methods that prune a dense network: masks after every event by hand and by NumPy, and their promises."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.conformance.laboratory import hasty
from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable, leaf
from sparserl_jax.sparsity import METHODS, allocation, magnitude, promised, pruning, synflow
from sparserl_jax.sparsity.contract import Events, Evidence
from tests.sparsity.common import draw, moments, rig

ACROSS = ("gradual", "gradual_uniform", "gradual_global", "one_shot", "global_magnitude")
ONCE = ("snip", "grasp")
EVENTS = Events(interval=10, end=100, drop_fraction=0.5)  # nine events, at ticks 10 to 90

TWO = LayerTable(
    [
        Layer("hidden_0", ("hidden_0", "kernel"), ("hidden_0", "bias"), "dense", (2, 3), outputs="hidden_0"),
        Layer(
            "output",
            ("output", "kernel"),
            ("output", "bias"),
            "dense",
            (3, 1),
            inputs="hidden_0",
            output=True,
        ),
    ]
)
"""Two small tensors, six and three weights."""
WEIGHTS: Any = {
    "hidden_0": {
        "kernel": np.float32([[0.9, -0.2, 0.3], [-0.8, 0.1, 0.7]]),
        "bias": np.zeros(3, np.float32),
    },
    "output": {"kernel": np.float32([[0.05], [-0.6], [0.04]]), "bias": np.zeros(1, np.float32)},
}
GRADIENT: Any = {
    "hidden_0": {
        "kernel": np.float32([[0.1, 1.0, 0.0], [-0.1, 3.0, 0.2]]),
        "bias": np.ones(3, np.float32),
    },
    "output": {"kernel": np.float32([[9.0], [0.1], [-8.0]]), "bias": np.ones(1, np.float32)},
}


def product(vector: Any) -> Any:
    """A made-up Hessian: twice the identity for tensors of three columns, minus that for all others."""
    return jax.tree.map(lambda x: (2.0 if x.shape[-1] == 3 else -2.0) * x, vector)


def seen(gradient: Any, hvp: Any = product) -> Evidence:
    return Evidence(lambda: gradient, hvp, *[None] * 4)


@functools.cache
def compiled(family: Any, layers: LayerTable, hvp: Any = product) -> tuple[Any, Any]:
    def event(key, tick, params, state, gradient):
        params, _, _, state, effects = family.evolve(key, tick, params, {}, None, state, seen(gradient, hvp))
        return params, state, effects

    return hasty(lambda key, params, settings: family.init(key, params, layers, settings)), hasty(event)


def flat(tree: Any, layers: LayerTable) -> list[np.ndarray]:
    """Every tensor, in the order of counts."""
    return [
        np.asarray(leaf(tree, layer.kernel)).reshape(layer.copies, -1)[copy] for layer, copy in layers.tensors
    ]


def masks_after(
    name: str,
    ticks: tuple[int, ...],
    knob: float,
    layers=TWO,
    weights=WEIGHTS,
    gradient=GRADIENT,
    events=EVENTS,
):
    """Masks after each of these ticks (weights do not move in between), and whether an event happened."""
    method = METHODS[name]
    init, event = compiled(method.family, layers)
    params, _, state = init(jax.random.key(0), weights, method.settings(layers, knob, events, "released"))
    found, happened = [], []
    for tick in ticks:
        after, changed, effects = event(jax.random.key(tick), np.int32(tick), params, state, gradient)
        if bool(effects.happened):
            params, state = after, changed
        found.append(flat(state.masks, layers))
        happened.append(bool(effects.happened))
        for w, m in zip(flat(params, layers), found[-1]):
            assert (w[~m] == 0).all()
    return found, happened


def bits(masks: list[np.ndarray]) -> list[str]:
    return ["".join(str(int(bit)) for bit in mask) for mask in masks]


# ---- by hand -------------------------------------------------------------------------------------------------


def test_gradual_pruning_by_hand():
    """Half of six and of three weights (three zeros and one) on the cubic: 1 - (1 - x)^3 at ticks 30, 50, 80."""
    found, happened = masks_after("gradual_uniform", (10, 20, 30, 40, 50, 60, 70, 80, 90), 0.5)
    # x = 1/6, 2/6, 3/6, 4/6, 5/6, 1 from tick 30 on: shares done .42, .70, .875, .96, .995, 1
    zeros = [
        [int(3 * share), int(1 * share)]
        for share in (0, 0, 91 / 216, 152 / 216, 0.875, 208 / 216, 215 / 216, 1, 1)
    ]
    assert [[int((~m).sum()) for m in masks] for masks in found] == zeros
    assert happened == [False, False, True, True, False, False, False, True, False]
    # |w| of the first tensor in order: .1 (index 4), .2 (1), .3 (2); of the second: .04 (2)
    assert bits(found[2]) == ["111101", "111"]
    assert bits(found[3]) == ["101101", "111"]
    assert bits(found[7]) == ["100101", "110"]


def test_one_threshold_for_all_tensors_by_hand():
    """Four of nine weights go: .04, .05 (both of the output), .1 and .2."""
    found, happened = masks_after("global_magnitude", (70, 80, 90), 0.5)
    assert happened == [False, True, False]
    assert bits(found[0]) == ["111111", "111"] and bits(found[1]) == bits(found[2]) == ["101101", "010"]
    assert bits(masks_after("gradual_global", (80,), 0.5)[0][0]) == ["101101", "010"]


def test_one_shot_prunes_every_tensor_to_its_own_count_at_80_percent():
    found, happened = masks_after("one_shot", (70, 80, 90), 0.5)
    counts = allocation.erk(TWO, 0.5)
    assert happened == [False, True, False]
    assert [int(m.sum()) for m in found[1]] == counts == [3, 2]
    assert bits(found[1]) == ["100101", "110"]


def test_snip_keeps_the_largest_products_of_gradient_and_weight_by_hand():
    """|g w| = .09 .2 0 | .08 .3 .14 and .45 .06 .32: five of nine stay; what comes later changes nothing."""
    found, happened = masks_after("snip", (10, 20), 0.5)
    assert happened == [True, False]
    assert bits(found[0]) == bits(found[1]) == ["010011", "101"]


def test_grasp_removes_the_highest_products_by_hand():
    """-w (H g) = -2 w g in the first tensor and 2 w g in the second.

    w g = .09 -.2 0 .08 .3 .14 and .45 -.06 -.32; negated and scaled: -.18 .4 0 -.16 -.6 -.28 and .9 -.12 -.64: the
    highest are .9, .4, 0 and -.12.
    """
    found, happened = masks_after("grasp", (10, 20), 0.5)
    assert happened == [True, False]
    assert bits(found[0]) == bits(found[1]) == ["100111", "001"]


@pytest.mark.slow
def test_synflow_by_hand_and_one_path_at_last():
    """One output: paths through hidden unit j have |w1j| + |w2j| times |vj|; two weights left make one path."""
    settings = METHODS["synflow"].settings(TWO, 7 / 9, EVENTS, "released")
    assert len(settings.kept) == 100 and settings.kept[-1] == 2 and (np.diff(settings.kept) <= 0).all()
    _, _, state = compiled(METHODS["synflow"].family, TWO)[0](jax.random.key(0), WEIGHTS, settings)
    scores = {
        "kernel": np.float32([[0.045, 0.12, 0.012], [0.04, 0.06, 0.028]]),
        "output": [0.085, 0.18, 0.04],
    }
    got = jax.tree.map(jnp.multiply, WEIGHTS, jax.grad(synflow.flow)(WEIGHTS, TWO))
    np.testing.assert_allclose(got["hidden_0"]["kernel"], scores["kernel"], rtol=1e-5)
    np.testing.assert_allclose(got["output"]["kernel"][:, 0], scores["output"], rtol=1e-5)
    assert float(synflow.flow(WEIGHTS, TWO)) == pytest.approx(sum(scores["output"]), rel=1e-5)
    assert bits(flat(state.masks, TWO)) == ["010000", "010"]


# ---- by NumPy --------------------------------------------------------------------------------------------------


def numpy_gradual(
    weights: list[np.ndarray], final: list[int], ticks, begin: float, end: float
) -> list[list[np.ndarray]]:
    """Gradual magnitude pruning restated: sort, cut, repeat."""
    alive, out = [np.ones(w.size, bool) for w in weights], []
    for tick in ticks:
        x = min(max((tick - begin) / (end - begin), 0), 1)
        for w, m, n in zip(weights, alive, final):
            zeros = int((w.size - n) * (1 - (1 - x) ** 3))
            order = np.argsort(np.where(m, np.abs(w), -1), kind="stable")
            m[order[:zeros]] = False
        out.append([m.copy() for m in alive])
    return out


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_gradual_pruning_agrees_with_a_restatement(network):
    r = rig(network)
    weights = draw(r.like, 3)
    found, _ = masks_after("gradual", tuple(range(10, 100, 10)), 0.7, r.layers, weights, weights)
    expected = numpy_gradual(
        flat(weights, r.layers), allocation.erk(r.layers, 0.7), range(10, 100, 10), 20, 80
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))


def test_snip_agrees_with_a_restatement_over_both_critics():
    r = rig("critic")
    weights, gradient = draw(r.like, 4), draw(r.like, 5)
    (found,), _ = masks_after("snip", (10,), 0.8, r.layers, weights, gradient)
    products = [np.abs(w * g) for w, g in zip(flat(weights, r.layers), flat(gradient, r.layers))]
    everything = np.sort(np.concatenate(products))[::-1]
    keep = len(everything) - int(0.8 * len(everything))
    assert everything[keep - 1] > everything[keep]  # no tie at the cut
    assert all((mask == (p >= everything[keep - 1])).all() for mask, p in zip(found, products))


# ---- among each other ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_different_methods_give_different_masks_after_three_events_on_one_tensor():
    events = Events(interval=25, end=100, drop_fraction=0.5)  # ticks 25, 50, 75: pruning must be over by then
    rng = np.random.default_rng(0)
    one = LayerTable([Layer("w", ("w", "kernel"), None, "dense", (8, 8), outputs="w", output=True)])
    weights, gradient = ({"w": {"kernel": rng.normal(size=(8, 8)).astype(np.float32)}} for _ in range(2))
    early = magnitude.by_tensor("early", pruning.gradually(0.2, 0.6), "")
    late = magnitude.by_tensor("late", pruning.at_once(0.3), "")
    found = {}
    for method in (early, late, METHODS["snip"], METHODS["grasp"], METHODS["synflow"]):
        init, event = compiled(method.family, one, lambda v: jax.tree.map(lambda x: x * x, v))
        params, _, state = init(jax.random.key(0), weights, method.settings(one, 0.6, events, "released"))
        history = []
        for tick in (25, 50, 75):
            after, changed, effects = event(jax.random.key(0), np.int32(tick), params, state, gradient)
            if bool(effects.happened):
                params, state = after, changed
            history.append(flat(state.masks, one)[0])
        assert int(history[-1].sum()) == 26
        found[method.name] = history
    last = {name: history[-1].tobytes() for name, history in found.items()}
    # On one tensor of weights that stand still, when and tensor by tensor makes no difference, and neither do paths.
    assert last["early"] == last["late"] == last["synflow"]
    assert len({last["early"], last["snip"], last["grasp"]}) == 3
    counts = [[int(m.sum()) for m in found[name]] for name in ("early", "late", "snip", "synflow")]
    assert counts == [[52, 27, 26], [64, 26, 26], [26] * 3, [26] * 3]


@pytest.mark.parametrize("over", [jax.vmap, None], ids=["vmap", "map"])
@pytest.mark.parametrize("name", ["gradual", "gradual_global", *ONCE, "synflow"])
@pytest.mark.slow
def test_members_of_other_knobs_together_equal_members_alone(name, over):
    r, knobs = rig("critic"), (0.3, 0.6, 0.85)
    family = METHODS[name].family
    settings = [METHODS[name].settings(r.layers, knob, EVENTS, "released") for knob in knobs]
    stack = functools.partial(jax.tree.map, lambda *x: np.stack(x))
    inputs = (
        jax.random.split(jax.random.key(1), 3),
        stack(*settings),
        stack(*(draw(r.like, seed) for seed in range(3))),
        stack(*(draw(r.like, 10 + seed) for seed in range(3))),
    )

    def life(key, own, weights, gradient):
        params, _, state = family.init(key, weights, r.layers, own)
        seen_by = seen(gradient, lambda v: jax.tree.map(lambda x: 3 * x * x, v))
        for tick in (10, 80):
            *_, changed, effects = family.evolve(key, jnp.int32(tick), params, {}, None, state, seen_by)
            state = jax.tree.map(functools.partial(jnp.where, effects.happened), changed, state)
            params = family.project(params, {}, None, state)[0]
        return params, state.masks

    single = hasty(life)
    together = hasty(over(life) if over else lambda *x: jax.lax.map(lambda one: life(*one), x))(*inputs)
    for i in range(3):
        alone = single(*jax.tree.map(lambda x, i=i: x[i], inputs))
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_array_equal(a, b[i])


# ---- promises --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ACROSS, *ONCE, "synflow"])
@pytest.mark.parametrize("network", ["actor", "critic"])
def test_promises_are_what_happens(name, network):
    r, method = rig(network), METHODS[name]
    promise = promised(method, r.layers, 0.7, EVENTS, "released")
    weights = draw(r.like, 1)
    found, happened = masks_after(name, tuple(range(10, 100, 10)), 0.7, r.layers, weights, weights)
    assert promise.events == sum(happened) and promise.dense_growth == (name in ONCE)
    for k, masks in enumerate(found, 1):
        counts = [int(m.sum()) for m in masks]
        if method.family.declares.budget == "per_tensor":
            assert counts == promise.at(k)
        else:
            assert sum(counts) == sum(promise.at(k))
    total = r.layers.weights
    assert sum(promise.counts) >= total - int(0.7 * total)
    if name not in ("gradual", "gradual_uniform", "one_shot"):
        assert sum(promise.counts) == total - int(0.7 * total)
    assert sum(promise.at(0)) == (sum(promise.counts) if name == "synflow" else total)


def test_training_is_charged_for_what_is_alive_on_the_way():
    """Dense up to tick 80 of 100, then half; dense up to tick 10; the cubic in between; and never dense."""
    layers = TWO
    means = {
        name: sum(promised(METHODS[name], layers, 0.5, EVENTS, "released").trained(EVENTS))
        for name in ("global_magnitude", "snip", "gradual_global", "synflow")
    }
    assert means["synflow"] == 5
    # Averages are rounded up in every tensor: two of them.
    assert means["global_magnitude"] == pytest.approx(0.8 * 9 + 0.2 * 5, abs=2)
    assert means["snip"] == pytest.approx(0.1 * 9 + 0.9 * 5, abs=2)
    lost = [0, 0, 0] + [int(4 * s) for s in (91 / 216, 152 / 216, 0.875, 208 / 216, 215 / 216, 1, 1)]
    assert means["gradual_global"] == pytest.approx(np.mean([9 - n for n in lost]), abs=2)
    assert means["snip"] < means["gradual_global"] < means["global_magnitude"]


@pytest.mark.slow
def test_removed_weights_do_not_come_back_and_slots_are_kept():
    r = rig("actor")
    method = METHODS["gradual"]
    weights = draw(r.like, 2)
    params, _, state = method.family.init(
        jax.random.key(0), weights, r.layers, method.settings(r.layers, 0.8, EVENTS, "released")
    )
    slots, past = moments(params, 7), None
    for tick in (30, 50, 80):
        params, _, after, state, _ = method.family.evolve(
            jax.random.key(tick), jnp.int32(tick), params, {}, slots, state, seen(weights)
        )
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(slots)))
        now = flat(state.masks, r.layers)
        assert past is None or all((~then & live).sum() == 0 for then, live in zip(past, now))
        past = now
        # Whatever an optimiser makes of the removed ones is undone, and gradients of them are zero.
        params, _, _ = method.family.project(draw(r.like, tick), {}, slots, state)
        grads = method.family.gradients(draw(r.like, tick), params, {}, state)
        trees = (flat(tree, r.layers) for tree in (grads, params, state.masks))
        assert all((g[~m] == 0).all() and (w[~m] == 0).all() for g, w, m in zip(*trees))


# ---- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: pruning.gradually(0.8, 0.2), "pruning begins at 0.8 and ends at 0.2 of training: let it end later"),
        (lambda: pruning.gradually(-0.1, 0.2), "both from 0 to below 1"),
        (lambda: pruning.at_once(1.0), "pruning at 1 of training: give a share"),
        (lambda: METHODS["gradual"].settings(TWO, 0.5, Events(51, 100, 0.5), "released"), "topology_interval at most"),
        (lambda: METHODS["snip"].settings(TWO, 1.5, EVENTS, "released"), "sparsity is 1.5: give the share"),
        (lambda: METHODS["synflow"].settings(TWO, -0.5, EVENTS, "released"), "sparsity is -0.5: give the share"),
        (lambda: METHODS["snip"].settings(TWO, 0.9, EVENTS, "released"), "use at most 0.777777"),
        (lambda: METHODS["gradual"].settings(TWO, 0.99, EVENTS, "released"), "leaves tensor"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(make, sentence):
    with pytest.raises(UserError) as refused:
        make()
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "end", "good", "bad"),
    [("gradual", 100, 20, 51), ("one_shot", 85, 17, 86), ("snip", 100, 99, 100)],
)
def test_the_interval_that_a_refusal_names_is_accepted(name, end, good, bad):
    own = METHODS[name]
    assert own.settings(TWO, 0.5, Events(good, end, 0.5), "released").happens.any()
    with pytest.raises(UserError, match=f"at most {good}\\."):
        own.settings(TWO, 0.5, Events(bad, end, 0.5), "released")
