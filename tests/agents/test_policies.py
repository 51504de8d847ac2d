"""Policies: draws lie in their support and in the box, densities are those of their laws, heads have their bounds."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparserl_jax.agents.policies import BOX, KINDS, Policy, danger_of, policy_of
from sparserl_jax.envs.treatment import TreatmentIII
from sparserl_jax.errors import UserError
from sparserl_jax.networks import actor_layers
from sparserl_jax.sparsity import drop_grow
from sparserl_jax.sparsity.contract import Events
from sparserl_jax.sparsity.static import settings as static
from sparserl_jax.sparsity.tiny import settings as tiny

OBS, ACTION, HIDDEN = 3, 2, (8, 8)


def fresh(policy: Policy, seed: int = 0) -> Any:
    return policy.module.init(jax.random.key(seed), jnp.zeros(OBS))["params"]


def with_outputs(policy: Policy, *outputs: Any) -> Any:
    """Parameters under which the network puts out these numbers, whatever it sees."""
    params = jax.tree.map(jnp.zeros_like, fresh(policy))
    bias = jnp.concatenate([jnp.ravel(jnp.asarray(part, jnp.float32)) for part in outputs])
    return {"mlp": {**params["mlp"], "output": {**params["mlp"]["output"], "bias": bias}}}


def at(kind: str, *outputs: Any, **settings: Any) -> Any:
    policy = policy_of(kind, HIDDEN, ACTION, **settings)
    return policy.distribution(with_outputs(policy, *outputs), jnp.ones(OBS))


def outputs_of(kind: str) -> tuple[Any, ...]:
    return ([0.3, -0.4], [-1.0, -2.0], *([0.7] if kind == "student" else []))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_densities_are_those_of_the_law_and_of_draws(kind):
    known = at(kind, *outputs_of(kind))
    action = np.random.default_rng(0).uniform(-0.1, 0.1, (16, ACTION)) + np.tanh([0.3, -0.4])
    mean = BOX * np.tanh([0.3, -0.4])
    scale = np.exp([-1.0, -2.0])
    soft = lambda x: np.logaddexp(0, x)  # noqa: E731
    alpha, beta = soft(np.array([0.3, -0.4])) + 1, soft(np.array([-1.0, -2.0])) + 1
    half = np.cbrt(1.5 * scale)
    expected = {
        "squashed": lambda a: stats.norm([0.3, -0.4], scale).logpdf(np.arctanh(a)) - np.log(1 - a**2),
        "normal": lambda a: stats.norm(mean, scale).logpdf(a),
        "thin": lambda a: np.log((half**2 - (a - mean) ** 2) / (2 * scale)),
        "fat": lambda a: stats.cauchy(mean, np.sqrt(scale)).logpdf(a),
        "student": lambda a: stats.t(soft(0.7) + 1 + 1e-6, mean, scale**2).logpdf(a),
        "beta": lambda a: stats.beta(alpha, beta).logpdf((a + 1) / 2) - math.log(2),
    }[kind](action).sum(axis=1)
    np.testing.assert_allclose(
        known.log_density(jnp.asarray(action, jnp.float32)), expected, rtol=1e-4, atol=1e-4
    )
    drawn, density = known.sample_with_density(jax.random.key(3))
    np.testing.assert_array_equal(drawn, known.sample(jax.random.key(3)))
    np.testing.assert_allclose(density, known.log_density(drawn), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "form, densities", [("product", "corrected"), ("joint", "corrected"), (None, "released")]
)
@settings(max_examples=25)
@given(data=st.data())
@pytest.mark.slow
def test_draws_of_a_thin_policy_lie_in_its_support_and_in_the_box(form, densities, data):
    """Also where the network's outputs are out of all bounds; each draw has a finite density and a finite gradient."""
    number = st.floats(-30, 30, width=32)
    outputs = jnp.array([[data.draw(number) for _ in range(ACTION)] for _ in range(2)])
    q = data.draw(st.sampled_from([0.0, -3.0, 0.9]))
    policy = policy_of("thin", HIDDEN, ACTION, q=q, form=form, densities=densities)
    drawn, low, high, density, slope = _probed(policy, outputs, jax.random.key(data.draw(st.integers(0, 99))))
    assert np.all(np.abs(drawn) <= 1)
    assert np.all(drawn >= low - 1e-6) and np.all(drawn <= high + 1e-6) and np.all(low <= high)
    assert np.all(np.isfinite(density)) and np.all(np.isfinite(slope))


_COMPILED: dict[Any, Any] = {}


def _probed(policy: Policy, outputs: jax.Array, key: jax.Array) -> list[np.ndarray]:
    """500 draws, the support, log densities, and the gradient of one of the latter by the outputs."""

    def density(outputs: jax.Array, key: jax.Array) -> jax.Array:
        return policy.distribution(with_outputs(policy, *outputs), jnp.ones(OBS)).sample_with_density(key)[1]

    def look(outputs: jax.Array, key: jax.Array) -> Any:
        known = policy.distribution(with_outputs(policy, *outputs), jnp.ones(OBS))
        drawn, found = jax.vmap(known.sample_with_density)(jax.random.split(key, 500))
        return drawn, *known.support, found, jax.grad(density)(outputs, key)

    law = policy.law(jnp.zeros(ACTION), jnp.zeros(ACTION))
    compiled = _COMPILED.setdefault((type(law), law.q, law.form), jax.jit(look))
    return [np.asarray(x, np.float64) for x in compiled(outputs, key)]


@pytest.mark.parametrize("form", ["product", "joint"])
@pytest.mark.slow
def test_actions_outside_the_support_make_no_gradient_a_nan(form):
    """Their log density is -inf and moves nothing; neither does a mean over a batch with such actions in it."""
    policy = policy_of("thin", HIDDEN, ACTION, form=form)
    params = with_outputs(policy, [0.0, 0.5], [-9.0, -9.0])
    actions = jnp.array([[0.9, -0.9], [-1.0, 1.0], [0.0, 0.46]])

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        found = policy.distribution(params, jnp.ones((3, OBS))).log_density(actions)
        return -jnp.mean(jnp.where(jnp.isfinite(found), found, 0.0)), found

    slopes, found = jax.grad(loss, has_aux=True)(params)
    assert np.isneginf(found).tolist() == [True, True, False]
    leaves = jax.tree.leaves(slopes)
    assert all(np.isfinite(leaf).all() for leaf in leaves) and any(np.any(leaf != 0) for leaf in leaves)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_draws_lie_in_the_box_and_move_with_the_outputs(kind):
    policy = policy_of(kind, HIDDEN, ACTION)
    wild = with_outputs(policy, [5.0, -0.2], [4.0, -3.0], *([-3.0] if kind == "student" else []))
    drawn = jax.vmap(lambda key: policy.sample(wild, jnp.ones(OBS), key))(
        jax.random.split(jax.random.key(0), 500)
    )
    low, high = policy.distribution(wild, jnp.ones(OBS)).support
    assert np.abs(drawn).max() <= 1 and np.all(drawn >= low) and np.all(drawn <= high)
    assert np.unique(np.asarray(drawn)[:, 1]).size > 100
    mode = np.asarray(policy.act(wild, jnp.ones(OBS)))
    if kind != "beta":
        np.testing.assert_allclose(mode, np.tanh([5.0, -0.2]), atol=1e-5)
    assert np.all(mode >= low) and np.all(mode <= high)


@pytest.mark.parametrize("kind, low, high", [
    ("thin", -14.0, 0.0), ("fat", -math.log(1000), math.log(1000)),
    ("squashed", -20.0, 2.0), ("normal", -5.0, 2.0), ("student", -28.0, 0.0),
])  # fmt: skip
def test_log_scales_are_held(kind, low, high):
    tail = [[0.0]] if kind == "student" else []
    law = at(kind, [0.0, 0.0], [-99.0, 99.0], *tail).law
    found = law.log_std if kind in ("squashed", "normal") else law.log_scale
    np.testing.assert_allclose(found, [low, high], atol=1e-5)


def test_the_width_of_a_thin_policy_is_what_its_clamps_leave():
    """Half widths (1.5 e^-14)^(1/3) = .0108 to 1.145 in one dimension."""
    known = at("thin", [0.0, 0.0], [-99.0, 99.0])
    np.testing.assert_allclose(known.law.half_width, [0.0108, 1.1447], rtol=5e-3)
    np.testing.assert_allclose(known.support[1], [0.0108, BOX], rtol=5e-3)


@pytest.mark.parametrize("kind", ["thin", "student"])
@pytest.mark.slow
def test_networks_begin_by_xaviers_law_and_carry_masks(kind):
    policy = policy_of(kind, (64, 32), ACTION)
    params, layers = fresh(policy), actor_layers(policy.module, OBS)
    shapes = [(OBS, 64), (64, 32), (32, 2 * ACTION + (kind == "student"))]
    assert [layer.shape for layer in layers] == shapes and layers[-1].output
    for layer in layers:
        part = params["mlp"][layer.name]
        bound = math.sqrt(6 / sum(layer.shape))
        assert 0.9 * bound < np.abs(part["kernel"]).max() <= bound and not np.any(part["bias"])
    events = Events(5, 20, 0.5)
    chosen = static(layers, 0.5, events, "released")
    masked, _, _ = drop_grow.DROP_GROW.init(jax.random.key(1), params, layers, chosen)
    live = [int(np.count_nonzero(masked["mlp"][layer.name]["kernel"])) for layer in layers]
    assert live == chosen.counts.tolist()
    # A narrow network in the wide one is drawn by the narrow one's own law.
    narrow = tiny(layers, 0.9, events, "released")
    inside, _, _ = drop_grow.DROP_GROW.init(jax.random.key(1), params, layers, narrow)
    wide = np.abs(inside["mlp"]["hidden_1"]["kernel"])
    fans = int(narrow.live_in[1]) + int(narrow.live_out[1])
    bound = math.sqrt(6 / fans)
    assert 0.7 * bound < wide.max() <= bound * (1 + 1e-6)


@pytest.mark.slow
def test_danger_tells_width_reach_and_what_lies_outside_the_box():
    """A thin policy by its half-width and its mass beyond the bound, a fat one by Cauchy's tails."""
    env, states = TreatmentIII(), 3
    state, obs = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), states))
    found, scale = {}, math.exp(-2.0)
    for kind in ("thin", "fat", "squashed"):
        policy = policy_of(kind, HIDDEN, 1)
        params = jax.tree.map(jnp.zeros_like, policy.module.init(jax.random.key(0), obs[0])["params"])
        params["mlp"]["output"]["bias"] = jnp.array([1.0, -2.0])
        look = jax.jit(lambda *args, policy=policy: danger_of(policy, *args[:1], env, *args[1:], draws=4000))
        found[kind] = look(params, jax.random.key(1), state, obs)
    mean, half = math.tanh(1.0), (1.5 * scale) ** (1 / 3)
    beyond = (1 - mean) / half
    tail = 0.5 - 0.75 * (beyond - beyond**3 / 3)  # of Epanechnikov's parabola
    thin, fat, squashed = found["thin"], found["fat"], found["squashed"]
    np.testing.assert_allclose(thin.width, 2 * half, rtol=1e-4)
    np.testing.assert_allclose(thin.outside, tail, atol=0.03)
    assert np.all(thin.largest <= mean + half) and np.all(thin.largest > mean + 0.9 * half)
    cauchy = stats.cauchy(mean, math.sqrt(scale))
    np.testing.assert_allclose(fat.outside, cauchy.sf(1) + cauchy.cdf(-1), atol=0.03)
    assert np.all(np.isinf(fat.width)) and np.all(fat.largest > 20)
    assert not np.any(squashed.outside) and np.all(squashed.width == 2) and np.all(squashed.largest <= 1)
    assert all(np.all((part.probability >= 0) & (part.probability <= 1)) for part in found.values())


@pytest.mark.parametrize("changes, sentence", [
    ({"kind": "slim"}, "kind of policy 'slim'"),
    ({"kind": "fat", "q": 2.0, "form": "joint"}, "1 < q < 2 only; give such a q, or form 'product'"),
    ({"kind": "thin", "q": 1.5}, "give one below 1"),
    ({"kind": "fat", "q": 3.0, "densities": "released"}, "give one between 1 and 3"),
    ({"kind": "fat", "densities": "correct"}, "did you mean 'corrected'"),
])  # fmt: skip
def test_policies_that_do_not_exist_are_refused(changes, sentence):
    kind = changes.pop("kind")
    with pytest.raises(UserError, match=sentence):
        policy_of(kind, HIDDEN, ACTION, **changes)
