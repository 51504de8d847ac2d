"""L0 regularisation: gates by hand, what each mode uses, the gated loss by NumPy, what is said of emptied layers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl_jax.agents.agent import Minibatch
from sparserl_jax.agents.diagnose import of_method
from sparserl_jax.agents.optimise import Network, Trainer, adam, init_network, step_network
from sparserl_jax.conformance.laboratory import hasty
from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable
from sparserl_jax.sparsity import METHODS, l0, promised
from sparserl_jax.sparsity.contract import Events
from sparserl_jax.training import diagnostics, execute, group, runner
from sparserl_jax.training.config import Run
from sparserl_jax.training.recipe import Recipe
from tests.agents import test_dqn, test_ppo
from tests.reference import conformance, dqn_numpy, small
from tests.reference.conformance import EVIDENCE, equal, host
from tests.sparsity.common import draw, rig
from tests.sparsity.test_pruning import EVENTS, TWO, WEIGHTS, flat

BOTH = pytest.mark.parametrize("name", ["l0", "l0_unit"])
FAST = l0.method("l0_fast", METHODS["l0"].family, "", learning_rate=0.2)
"""Gates that close within a training of tests."""
MEAN = l0.method("l0_mean", METHODS["l0"].family, "", drawn_targets=False)
"""Targets under mean gates."""

# log_alpha, P(z != 0), P(z == 1), mean gate: from the formulas, by hand.
VECTORS = [
    (-4.605, 0.04714, 0.00202, 0.0),
    (-2.3979, 0.31017, 0.01805, 0.0),
    (0.0, 0.83182, 0.16818, 0.5),
    (0.8473, 0.92026, 0.32054, 0.74),
    (1.3863, 0.95189, 0.44712, 0.86),
    (2.3979, 0.98195, 0.68983, 1.0),
    (4.605, 0.99798, 0.95286, 1.0),
]


def begun(name: str, knob: float = 0.3, layers: LayerTable = TWO, weights: Any = WEIGHTS) -> Network:
    """A fresh network without optimiser slots."""
    method = METHODS[name]
    chosen = method.settings(layers, knob, EVENTS, "released")
    params, extra, state = method.family.init(jax.random.key(0), weights, layers, chosen)
    return Network(params, extra, None, state)


def used(name: str, network: Network, mode: Any, seed: int = 0) -> Any:
    family = METHODS[name].family
    return host(family.effective(network.params, network.extra, network.sparsity, mode, jax.random.key(seed)))


def noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """u of the gates drawn by a key."""
    return jax.random.uniform(key, shape, minval=l0.EPSILON, maxval=1 - l0.EPSILON)


def gated(network: Network, **gates: Any) -> Network:
    """With these log_alpha in the layers named."""
    extra = {"log_alpha": {**network.extra["log_alpha"], **gates}}
    return network._replace(extra=extra, sparsity=l0.refresh(network.params, extra, network.sparsity))


# ---- gates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("log_alpha", "open_", "whole", "mean"), VECTORS)
def test_gates_are_open_whole_and_on_average_as_the_formulas_say(log_alpha, open_, whole, mean):
    x = jnp.float32(log_alpha)
    chance, slope = jax.value_and_grad(l0.chance_open)(x)
    assert float(chance) == pytest.approx(open_, abs=1e-5)
    assert float(slope) == pytest.approx(open_ * (1 - open_), abs=1e-5)
    gate, slope = jax.value_and_grad(l0.mean_gate)(x)
    share = 1 / (1 + math.exp(-log_alpha))
    assert float(gate) == pytest.approx(mean, abs=1e-4)
    if abs(log_alpha) != 2.3979:
        inside = abs(log_alpha) < 2.3979
        assert float(slope) == pytest.approx(1.2 * share * (1 - share) * inside, abs=1e-5)
    drawn = np.asarray(l0.drawn_gate(x, (jnp.arange(100_000) + 0.5) / 100_000))
    assert np.mean(drawn != 0) == pytest.approx(open_, abs=1e-4)
    assert np.mean(drawn == 1) == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize(("log_alpha", "mean"), [(math.log(9), 0.8784), (l0.LIMIT, 0.9869), (0.0, 0.5)])
def test_the_mean_gate_is_above_the_mean_of_open_gates(log_alpha, mean):
    """Why targets draw: values under mean gates are too large for the networks that are trained."""
    x = jnp.float32(log_alpha)
    drawn = float(jnp.mean(l0.drawn_gate(x, (jnp.arange(100_000) + 0.5) / 100_000)))
    assert drawn == pytest.approx(mean, abs=1e-4)
    assert float(l0.mean_gate(x)) - drawn > 0.01 or log_alpha == 0.0


@pytest.mark.parametrize(
    ("u", "log_alpha", "s", "z"),
    [(0.5, 0.0, 0.5, 0.5), (0.9, 0.0, 0.96429, 1.0), (0.1, 0.0, 0.03571, 0.0), (0.5, 1.0, 0.81757, 0.88109)],
)
def test_a_drawn_gate_and_its_gradient_are_those_of_the_noise(u, log_alpha, s, z):
    gate, slope = jax.value_and_grad(l0.drawn_gate)(jnp.float32(log_alpha), jnp.float32(u))
    assert float(gate) == pytest.approx(z, abs=1e-5)
    assert float(slope) == pytest.approx(1.2 * s * (1 - s) / (2 / 3) if 0 < z < 1 else 0.0, abs=1e-4)


@BOTH
@pytest.mark.parametrize("network", ["actor", "critic"])
@pytest.mark.slow
def test_the_penalty_is_the_share_of_weights_behind_open_gates(name, network):
    """With its gradient, lambda P (1 - P) times the weights behind a gate over all weights."""
    r = rig(network)
    built = begun(name, 0.25, r.layers, draw(r.like, 1))
    gates = draw(built.extra["log_alpha"], 2)
    state = built.sparsity._replace(tick=jnp.int32(EVENTS.end))

    def cost(log_alpha: Any) -> jax.Array:
        return METHODS[name].family.penalty(built.params, {"log_alpha": log_alpha}, state, None)

    value, slopes = jax.value_and_grad(cost)(gates)
    weights, expected = sum(layer.size * layer.copies for layer in r.layers), 0.0
    for layer in r.layers:
        gate = np.asarray(gates[layer.name], np.float64)
        assert gate.shape == layer.stack + (layer.shape if name == "l0" else (layer.shape[0], 1))
        chance = 1 / (1 + np.exp(-(gate - 2 / 3 * math.log(1 / 11))))
        behind = 1 if name == "l0" else layer.shape[1]
        expected += 0.25 * behind * chance.sum() / weights
        np.testing.assert_allclose(
            slopes[layer.name], 0.25 * behind * chance * (1 - chance) / weights, rtol=1e-5
        )
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_a_convolution_has_a_gate_per_filter():
    assert l0.per_unit(Layer("c", ("c", "kernel"), None, "conv", (3, 3, 4, 16))) == (1, 1, 1, 16)


def test_the_coefficient_is_zero_then_rises_then_stays():
    chosen = METHODS["l0"].settings(TWO, 0.4, Events(10, 1000, 0.5), "released")
    found = [float(l0.coefficient(chosen, jnp.int32(tick))) for tick in (0, 100, 150, 200, 300, 999)]
    assert found == pytest.approx([0.0, 0.0, 0.1, 0.2, 0.4, 0.4], abs=1e-6)


# ---- modes ---------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.slow
def test_losses_and_targets_draw_and_what_acts_or_leaves_uses_the_mean_gate(name):
    built = begun(name)
    shape = built.extra["log_alpha"]["hidden_0"].shape
    gates = np.resize(np.float32([-3.0, 0.0, 5.0]), shape)
    built = gated(built, hidden_0=gates)
    weights = WEIGHTS["hidden_0"]["kernel"]
    first, again, other = (used(name, built, "learn", seed)["hidden_0"]["kernel"] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    u = noise(jax.random.fold_in(jax.random.key(1), 0), shape)
    np.testing.assert_allclose(first, weights * np.asarray(l0.drawn_gate(gates, u)), rtol=1e-6)
    params, masks, form = METHODS[name].family.deployed(built.params, built.extra, built.sparsity)
    assert equal(used(name, built, "target", 1)["hidden_0"]["kernel"], first)
    still = built.sparsity._replace(settings=built.sparsity.settings._replace(drawn_targets=np.bool_(False)))
    assert equal(used(name, built._replace(sparsity=still), "target"), host(params))
    for mode in ("act", "deploy"):
        assert equal(used(name, built, mode), host(params)) and form == "plain"
    mean = np.clip(1.2 / (1 + np.exp(-np.float64(gates))) - 0.1, 0, 1)
    np.testing.assert_allclose(params["hidden_0"]["kernel"], weights * mean, atol=1e-7)
    np.testing.assert_array_equal(masks["hidden_0"]["kernel"], np.broadcast_to(gates > -2.398, weights.shape))
    assert np.all(masks["hidden_0"]["bias"]) and equal(params["output"]["bias"], WEIGHTS["output"]["bias"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
@pytest.mark.slow
def test_live_weights_are_those_whose_gate_is_above_minus_log_11(seed):
    built = begun("l0")
    values = np.random.default_rng(seed).uniform(-5, 5, (2, 3)).astype(np.float32)
    _, masks, _ = METHODS["l0"].family.deployed(
        built.params, gated(built, hidden_0=values).extra, built.sparsity
    )
    assert int(flat(masks, TWO)[0].sum()) == int((values > -2.398).sum())


@BOTH
def test_open_gates_act_as_the_dense_network(name):
    built = begun(name)
    whole = gated(built, **jax.tree.map(lambda x: jnp.full_like(x, 2.398), built.extra["log_alpha"]))
    assert equal(used(name, whole, "act"), WEIGHTS) and not equal(used(name, whole, "learn"), WEIGHTS)


@BOTH
@pytest.mark.slow
def test_without_a_coefficient_nothing_is_drawn_or_closed_and_gates_stay_where_they_are(name):
    """The network is dense in every mode, also behind the limits that hold other gates."""
    built, family = begun(name, 0.0), METHODS[name].family
    params, extra, _ = family.project(built.params, built.extra, "slots", built.sparsity)
    assert equal(extra, built.extra)
    for mode in ("learn", "target", "act", "deploy"):
        assert all(equal(used(name, built, mode, seed), WEIGHTS) for seed in range(20))
    assert all(np.all(mask) for mask in jax.tree.leaves(family.deployed(params, extra, built.sparsity)[1]))

    def loss(log_alpha: Any, key: Any) -> jax.Array:
        weights = family.effective(params, {"log_alpha": log_alpha}, built.sparsity, "learn", key)
        late = built.sparsity._replace(tick=jnp.int32(EVENTS.end))
        priced = family.penalty(params, {"log_alpha": log_alpha}, late, None)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(weights)) + priced

    slopes = jax.grad(loss)(extra["log_alpha"], jax.random.key(3))
    assert all(np.all(np.asarray(slope) == 0) for slope in jax.tree.leaves(slopes))
    found = of_method(family, "actor", built)
    assert float(found["sparsity_actor"]) == 0.0 and float(found["expected_sparsity_actor"]) == 0.0


@BOTH
def test_gates_are_kept_within_their_limits_and_begin_nearly_open(name):
    built, family = begun(name), METHODS[name].family
    starts = np.concatenate([np.ravel(gate) for gate in built.extra["log_alpha"].values()])
    np.testing.assert_allclose(starts, math.log(0.9 / 0.1), atol=0.05)
    wild = jax.tree.map(lambda x: jnp.asarray(np.resize([-9.0, 1.0, 9.0], x.shape)), built.extra)
    params, extra, slots = family.project(built.params, wild, "slots", built.sparsity)
    assert params is built.params and slots == "slots"
    for gate, before in zip(jax.tree.leaves(extra), jax.tree.leaves(wild), strict=True):
        np.testing.assert_allclose(gate, np.clip(before, -math.log(100), math.log(100)), rtol=1e-6)


def test_the_knob_is_a_coefficient_and_promises_nothing():
    for name in ("l0", "l0_unit"):
        found = promised(METHODS[name], TWO, 0.3, EVENTS, "released")
        assert found.counts == [6, 3] and found.events == 0 and not found.dense_growth
        for knob in (-0.1, float("nan"), float("inf")):
            with pytest.raises(UserError, match=f"{name}: the penalty coefficient is .*: give a number"):
                promised(METHODS[name], TWO, knob, EVENTS, "released")


# ---- training ------------------------------------------------------------------------------------------------

ONE = LayerTable([Layer("output", ("output", "kernel"), ("output", "bias"), "dense", (10, 1), output=True)])


def regression(method: Any, knob: float, steps: int) -> Network:
    """Ten inputs, of which the first three matter, by the function that trains every network."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 10)).astype(np.float32)
    y = x[:, :3] @ np.float32([1.0, -0.8, 0.6]) + 0.1 * rng.normal(size=256).astype(np.float32)
    events = Events(max(steps, 1), steps, 0.5)
    trainer = Trainer(method.family, adam(), ONE, dataclasses.replace(events, end=0))
    weights = {"output": {"kernel": np.full((10, 1), 0.3, np.float32), "bias": np.zeros(1, np.float32)}}
    chosen = method.settings(ONE, knob, events, "released")

    def loss(params: Any) -> Any:
        return jnp.mean((x @ params["output"]["kernel"] + params["output"]["bias"] - y[:, None]) ** 2), None

    def step(tick: Any, network: Network) -> Network:
        return step_network(
            trainer, network, loss, tick=tick, clock=tick, evidence=EVIDENCE, learning_rate=1e-3,
            key=jax.random.fold_in(jax.random.key(1), tick),
        )[0]  # fmt: skip

    def train() -> Network:
        start = init_network(trainer, jax.random.key(0), weights, chosen)
        return jax.lax.fori_loop(1, steps + 1, step, start)

    return hasty(train)()


@BOTH
@pytest.mark.slow
def test_the_inputs_that_matter_are_recovered(name):
    found = regression(METHODS[name], 0.3, 6000)
    params, masks, _ = METHODS[name].family.deployed(found.params, found.extra, found.sparsity)
    assert np.asarray(masks["output"]["kernel"])[:, 0].tolist() == [True] * 3 + [False] * 7
    np.testing.assert_allclose(np.asarray(params["output"]["kernel"])[:3, 0], [1.0, -0.8, 0.6], atol=0.05)
    assert int(found.sparsity.tick) == 6000


def test_gates_have_a_learning_rate_of_their_own():
    """Adam's first step is about the learning rate, whatever the gradient."""
    start, after = regression(METHODS["l0"], 0.3, 0), regression(METHODS["l0"], 0.3, 1)
    for one, other, size in ((start.params, after.params, 1e-3), (start.extra, after.extra, 1e-2)):
        moved = [np.abs(a - b) for a, b in zip(jax.tree.leaves(host(one)), jax.tree.leaves(host(other)))]
        moved = np.concatenate([x.ravel() for x in moved])
        moved = moved[moved > 0]  # a gate whose draw was cut has no gradient before the penalty begins
        assert moved.size > 2
        np.testing.assert_allclose(moved, size, rtol=1e-2)


@pytest.mark.parametrize(("method", "double"), [(METHODS["l0"], True), (MEAN, False)])
@pytest.mark.slow
def test_dqns_gated_loss_is_that_of_the_restatement(method, double, monkeypatch):
    """One sample for the values and, where the target is double, for its choice; the target has one of its own."""
    monkeypatch.setitem(METHODS, method.name, method)
    lab = test_dqn.Lab(method.name, 0.3, double=double)
    rng = np.random.default_rng(3)

    def spread(gates: Any) -> Any:
        return jax.tree.map(lambda x: rng.normal(0, 2, x.shape).astype(np.float32), gates)

    network = lab.start.actor._replace(extra=spread(lab.start.actor.extra))
    other = jax.tree.map(lambda x: 1.5 * np.flip(x, -1), host(network.params))
    target = (other, spread(network.extra))
    state, windows = lab.start._replace(actor=network, target=target), test_dqn.batch(7)
    _, metrics = lab.update(state, windows, 0)

    keys = jax.random.split(jax.random.split(jax.random.key(0), 3)[0])
    online, frozen = ({"mlp": dict(tree["mlp"])} for tree in (host(network.params), host(other)))
    for index, layer in enumerate(lab.agent.layers["actor"]):
        for tree, log_alpha, key in ((online, network.extra, keys[0]), (frozen, target[1], keys[1])):
            alpha, own = np.float64(log_alpha["log_alpha"][layer.name]), tree["mlp"][layer.name]
            u = np.float64(noise(jax.random.fold_in(key, index), alpha.shape))
            z = np.clip(1.2 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + alpha) * 1.5)) - 0.1, 0, 1)
            if tree is frozen and method is MEAN:
                z = np.clip(1.2 / (1 + np.exp(-alpha)) - 0.1, 0, 1)
            tree["mlp"][layer.name] = {"kernel": own["kernel"] * z, "bias": own["bias"]}
    y = dqn_numpy.target(online, frozen, windows, test_dqn.CONFIG.gamma, double)
    assert float(metrics["actor_loss"]) == pytest.approx(dqn_numpy.loss(online, windows, y), rel=1e-5)
    acted, _ = lab.act(state, windows.obs, jax.random.key(0), False)
    params, _, _ = lab.agent.deployed(state)
    np.testing.assert_array_equal(acted, lab.agent.policy(params, windows.obs))


def closing(gates: Any, seed: int) -> Any:
    """Half of the gates closed."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.where(rng.random(x.shape) < 0.5, -4.0, 1.0).astype(np.float32), host(gates)
    )


@pytest.mark.slow
@BOTH
def test_weights_behind_closed_gates_influence_no_action_and_no_target(name):
    method = METHODS[name]
    lab = conformance.laboratory(method.family)
    state = lab.init(jax.random.key(0), lab.settings(method, 0.3))
    for seed, network in enumerate(("actor", "critic")):
        own = getattr(state, network)
        gates = closing(own.extra, seed)
        own = own._replace(extra=gates, sparsity=l0.refresh(own.params, gates, own.sparsity))
        target = (getattr(state, f"target_{network}")[0], gates)
        state = state._replace(**{network: own, f"target_{network}": target})
    conformance.check_one_function(lab, state)
    conformance.check_actions_ignore_the_rest(lab, state)
    conformance.check_targets_ignore_the_rest(lab, state, 2)


def check_ratio() -> None:
    """What PPO trains first is the policy that acted, gates included; what it deploys is under mean gates."""
    lab = test_ppo.laboratory(METHODS["l0"].family)
    state = lab.init(jax.random.key(0), lab.settings(METHODS["l0"], 0.3))
    state = state._replace(actor=state.actor._replace(extra=closing(state.actor.extra, 0)))
    steps = test_ppo.rollout(lab, state)
    samples = hasty(lab.agent.on_policy.samples)(state, steps, test_ppo.GATES)
    _, metrics = lab.update(state, Minibatch(samples, test_ppo.GATES), 0, 0)
    assert float(metrics["policy_kl"]) == pytest.approx(0.0, abs=1e-6), "the ratio is not 1"
    mean = np.asarray(lab.policy(lab.agent.deployed(state)[0], steps.obs))
    np.testing.assert_allclose(lab.act(state, steps.obs)[0], mean, atol=1e-6)


@pytest.mark.slow
def test_ppo_trains_first_the_gates_that_acted():
    check_ratio()


@pytest.mark.slow
def test_ppo_that_acts_with_other_gates_is_caught(monkeypatch):
    real = test_ppo.ppo.ActorCritic.step
    monkeypatch.setattr(
        test_ppo.ppo.ActorCritic, "step", lambda self, *given, gates, **rest: real(self, *given, **rest)
    )
    with pytest.raises(AssertionError, match="ratio is not 1"):
        check_ratio()


# ---- what is shown ---------------------------------------------------------------------------------------------


def test_a_curve_point_shows_both_sparsities_and_what_is_left_of_every_layer():
    built = gated(
        begun("l0"), hidden_0=np.float32([[-4.605, -4.605, 0], [0, 0, 0]]), output=np.full((3, 1), 4.605)
    )
    found = of_method(METHODS["l0"].family, "actor", built)
    assert all(diagnostics.column_of(name) is not None for name in found)
    assert {name: round(float(value), 4) for name, value in found.items()} == {
        "sparsity_actor": round(2 / 9, 4),
        "expected_sparsity_actor": round(1 - (2 * 0.04714 + 4 * 0.83182 + 3 * 0.99798) / 9, 4),
        "live_actor_hidden_0": round(4 / 6, 4),
        "live_actor_output": 1.0,
    }
    assert of_method(METHODS["l1"].family, "actor", built) == {}


def test_of_twin_critics_the_emptier_copy_counts():
    r = rig("critic")
    built = begun("l0_unit", 0.3, r.layers, draw(r.like, 1))
    gates = np.array(built.extra["log_alpha"]["hidden_1"])
    gates[1] = -4.0
    found = of_method(METHODS["l0_unit"].family, "critic", gated(built, hidden_1=gates))
    assert float(found["live_critic_hidden_1"]) == 0.0 and float(found["live_critic_hidden_0"]) == 1.0


def test_emptied_layers_are_found_at_their_first_point_unless_the_run_has_diverged():
    curve = {
        "env_step": [10, 20, 30],
        "return": [1.0, 2.0, None],
        "live_actor_hidden_0": [0.5, 0.0, 0.0],
        "live_critic_output": [0.5, 0.5, 0.0],
        "sparsity_actor": [0.0, 0.0, 0.0],
    }
    assert diagnostics.emptied(curve) == [("actor", "hidden_0", 20)]


def fast(monkeypatch: Any) -> Any:
    """A Program of two members, the second with a coefficient that nothing stands."""
    monkeypatch.setitem(METHODS, "l0_fast", FAST)
    runs = [Run(small.training(), Recipe("l0_fast", "l0_fast"), knob, 0, "l0_fast") for knob in (0.0, 1e4)]
    return group(runs)[0]


def test_a_coefficient_that_empties_a_layer_is_named_with_layer_and_step(monkeypatch):
    """Once, at the curve point that sees it first."""
    watch = small.Watch()
    execution = runner.Execution(fast(monkeypatch), None, watch, 0.0)
    for step, live in ((120, [0.5, 0.5]), (240, [0.5, 0.0]), (360, [0.5, 0.0])):
        execution.step = step
        point = {"env_step": np.full(2, step), "return": np.ones(2), "live_critic_hidden_1": np.array(live)}
        execution.points.append(point)
        execution.tell_emptied()
    assert watch.warnings == [
        "l0_fast-c10000-seed000 on tests.reference.small:Drift: layer 'hidden_1' of the critic has no weight left "
        "at environment step 240; its coefficient 10000 is too large for this network: give a smaller one."
    ]


@pytest.mark.long
def test_a_run_whose_layers_are_emptied_is_finished(monkeypatch):
    watch = small.Watch()
    free, lost = execute(fast(monkeypatch), progress=watch)
    assert free.status == lost.status == "ok" and np.isfinite(lost.final_returns).all()
    assert sum(free.nnz["critic"]) > 0 == sum(lost.nnz["critic"]) == sum(lost.nnz["actor"])
    assert diagnostics.emptied(free.curve) == []
    assert len(watch.warnings) == len(diagnostics.emptied(lost.curve)) == 6
    assert lost.curve["sparsity_critic"][-1] == 1.0 > lost.curve["expected_sparsity_critic"][-1] > 0.9
