"""q-Gaussians have the densities, draws, supports and entropies they say: thin and fat, joint and product."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from sparserl_jax.distributions import FatQGaussian, Student, ThinQGaussian, exp_q, ln_q
from sparserl_jax.distributions.q_gaussian import refuse_unless_normalisable
from sparserl_jax.errors import UserError

DRAWS = 40_000
SPREAD = (0.3, 0.05, 0.8, 0.2, 0.5, 0.1)
"""Scales of up to six dimensions."""


def made(kind: type, q: float, form: str, dims: int, mean: float = 0.2):
    return kind(jnp.full(dims, mean), jnp.log(jnp.array(SPREAD[:dims])), q, form)


def density(known, action: np.ndarray) -> np.ndarray:
    return np.exp(np.asarray(jax.jit(known.log_density)(jnp.asarray(action, jnp.float32)), np.float64))


def drawn(known, count: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Draws [count, D] in double precision, with the mean taken off."""
    wide = known._replace(
        **{
            name: jnp.broadcast_to(getattr(known, name), (count, known.mean.shape[0]))
            for name in ("mean", "log_scale")
        }
    )
    found = jax.jit(lambda key: wide.sample(key))(jax.random.key(seed))
    return np.asarray(found, np.float64) - np.asarray(known.mean, np.float64)


@pytest.mark.parametrize("q, x, expected", [
    (0.0, [-2.0, -1.0, -0.5, 3.0], [0.0, 0.0, 0.5, 4.0]),
    (2.0, [-1.0, 0.5, 1.0, 2.0], [0.5, 2.0, math.inf, math.inf]),
    (1.0, [-1.0, 0.0, 2.0], np.exp([-1.0, 0.0, 2.0])),
    (0.5, [-3.0, 0.0, 2.0], [0.0, 1.0, 4.0]),
])  # fmt: skip
def test_deformed_exponential_by_hand_with_gradients_everywhere(q, x, expected):
    x = jnp.array(x)
    np.testing.assert_allclose(exp_q(x, q), expected, rtol=1e-6)
    assert np.all(np.isfinite(jax.vmap(jax.grad(lambda v: exp_q(v, q)))(x)))
    inside = np.isfinite(expected) & (np.asarray(expected) > 0)
    np.testing.assert_allclose(ln_q(exp_q(x, q), q)[inside], x[inside], rtol=1e-5, atol=1e-6)


def test_deformed_logarithm_by_hand_with_gradients_everywhere():
    """ln_3(u) = (1 - u^-2) / 2; near q = 1 it is the logarithm; at 0 its limit."""
    u = jnp.array([0.5, 1.0, 4.0])
    np.testing.assert_allclose(ln_q(u, 3.0), (1 - np.array([4.0, 1.0, 1 / 16])) / 2)
    np.testing.assert_allclose(ln_q(u, 1.0 - 1e-6), np.log([0.5, 1.0, 4.0]), atol=1e-5)
    assert (float(ln_q(jnp.float32(0), 0.0)), float(ln_q(jnp.float32(0), 2.0))) == (-1.0, -math.inf)
    for q in (0.0, 0.5, 1.0, 2.0):
        assert np.all(np.isfinite(jax.vmap(jax.grad(lambda v: ln_q(v, q)))(jnp.array([-1.0, 0.0, 2.0]))))  # noqa: B023


def test_thin_parabola_in_one_dimension_by_hand():
    """q = 0: half width (1.5 scale)^(1/3), density (h^2 - (a - mean)^2) / (2 scale), whatever the form."""
    for form in ("joint", "product"):
        known = ThinQGaussian(jnp.array([0.1]), jnp.log(jnp.array([0.3])), 0.0, form)
        h = (1.5 * 0.3) ** (1 / 3)
        np.testing.assert_allclose(known.half_width, [h], rtol=1e-6)
        np.testing.assert_allclose(known.support, [[0.1 - h], [0.1 + h]], rtol=1e-5)
        action = np.array([[0.1], [0.5], [-0.6]])
        np.testing.assert_allclose(
            density(known, action), (h**2 - (action[:, 0] - 0.1) ** 2) / 0.6, rtol=1e-5
        )
        assert density(known, np.array([[0.1 + 1.01 * h], [-5.0]])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dims, radius", [(1, 1.144714), (2, 1.062252), (3, 1.036039), (6, 1.056146)])
def test_joint_thin_support_is_the_one_that_needs_no_normaliser(dims, radius):
    """[(1-q)(-tau - m/2)]^(1/(1-q)) with -2 tau = R^2 |scale|^(-1/(n + 2/(1-q))), term by term in double precision."""
    unit = ThinQGaussian(jnp.zeros(dims), jnp.zeros(dims))
    np.testing.assert_allclose(unit.half_width, radius, rtol=1e-5)
    known = made(ThinQGaussian, 0.0, "joint", dims)
    scale = np.array(SPREAD[:dims])
    twice = radius**2 * np.prod(scale) ** (-1 / (dims + 2))
    np.testing.assert_allclose(known.half_width, np.sqrt(twice * scale), rtol=1e-5)
    action = 0.2 + np.sqrt(twice * scale) * np.random.default_rng(0).uniform(-1, 1, (64, dims))
    expected = np.maximum(twice / 2 - ((action - 0.2) ** 2 / scale).sum(1) / 2, 0)
    np.testing.assert_allclose(density(known, action), expected, rtol=1e-3, atol=1e-4)


CASES = [(ThinQGaussian, q) for q in (-3.0, 0.0, 0.5, 0.9)] + [
    (FatQGaussian, q) for q in (1.1, 1.5, 2.0, 2.4)
]


@pytest.mark.parametrize("kind, q", CASES)
def test_density_in_one_dimension_integrates_to_one_and_so_does_its_entropy(kind, q):
    """Midpoints of a = mean + s tan(t), or of the support; entropy -E[ln_q p] by the same sum."""
    known = made(kind, q, "product", 1)
    steps = (np.arange(200_000) + 0.5) / 200_000 * 2 - 1
    if kind is ThinQGaussian:
        way, weight = (
            float(known.half_width[0]) * steps,
            float(known.half_width[0]) * np.full_like(steps, 1e-5),
        )
    else:
        way, weight = np.tan(steps * np.pi / 2), np.pi / 2 * 1e-5 / np.cos(steps * np.pi / 2) ** 2
    # For its own formula, in double precision, the density in single precision is the thing to compare with.
    p = density(known._replace(mean=jnp.zeros(1)), way[:, None])
    assert np.sum(p * weight) == pytest.approx(1.0, abs=1e-3 if q < 2.2 else 2e-2)
    power = np.where(p > 0, p, 1) ** (1 - q)
    entropy = -np.sum(p * (power - 1) / (1 - q) * weight)
    if kind is ThinQGaussian or q < 5 / 3 - 0.2:
        assert float(known.tsallis_entropy) == pytest.approx(entropy, rel=1e-2)
    elif q >= 5 / 3:
        assert float(known.tsallis_entropy) == math.inf


@pytest.mark.parametrize("kind, q, form", [
    (ThinQGaussian, 0.0, "joint"),
    (ThinQGaussian, 0.0, "product"),
    (ThinQGaussian, 0.5, "joint"),
    (FatQGaussian, 1.3, "joint"),
    (FatQGaussian, 1.3, "product"),
])  # fmt: skip
def test_density_in_two_dimensions_integrates_to_one_and_so_does_its_entropy(kind, q, form):
    known = made(kind, q, form, 2)
    half = known.half_width if kind is ThinQGaussian else 25 * jnp.sqrt(jnp.array(SPREAD[:2]))
    steps = (np.arange(1_000) + 0.5) / 1_000 * 2 - 1
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1) * np.asarray(half) + 0.2
    p = density(known, grid)
    cell = float(np.prod(half)) * (2 / 1_000) ** 2
    assert np.sum(p) * cell == pytest.approx(1.0, abs=2e-3)
    power = np.where(p > 0, p, 1) ** (1 - q)
    assert float(known.tsallis_entropy) == pytest.approx(-np.sum(p * (power - 1) / (1 - q)) * cell, rel=2e-2)


@pytest.mark.parametrize("dims, q", [(1, 0.0), (6, 0.0), (2, -1.0), (3, 0.5)])
def test_joint_thin_entropy_is_the_closed_form_of_its_temperature(dims, q):
    """1/(alpha m) + 2 tau / (2 alpha + n m) with alpha = 2 - q, m = 1 - q (Martins et al. 2022), times alpha."""
    known = made(ThinQGaussian, q, "joint", dims)
    m, alpha = 1 - q, 2 - q
    tau = -0.5 * float(known.half_width[0]) ** 2 / SPREAD[0]
    expected = alpha * (1 / (alpha * m) + 2 * tau / (2 * alpha + dims * m))
    assert float(known.tsallis_entropy) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("q", [-3.0, 0.0])
@pytest.mark.parametrize("dims", [1, 2, 3, 6])
def test_joint_thin_draws_follow_the_density_in_length_and_in_any_direction(dims, q):
    """|z|^2 ~ Beta(D/2, r); the projection on ANY direction ~ (1 - x^2)^(1/(1-q) + (D-1)/2), which chained planes have
    only if each widens by what the earlier ones left."""
    known = made(ThinQGaussian, q, "joint", dims)
    standard = drawn(known) / np.asarray(known.half_width, np.float64)
    r = 1 / (1 - q) + 1
    assert np.max(np.sum(standard**2, 1)) <= 1 + 1e-5
    assert stats.kstest(np.sum(standard**2, 1), stats.beta(dims / 2, r).cdf).pvalue > 1e-3
    for seed in range(3):
        way = np.random.default_rng(seed).normal(size=dims)
        along = standard @ (way / np.linalg.norm(way))
        assert (
            stats.kstest((along + 1) / 2, stats.beta(r + (dims - 1) / 2, r + (dims - 1) / 2).cdf).pvalue
            > 1e-3
        )


@pytest.mark.parametrize("dims, share", [(1, 0.313), (2, 0.252), (3, 0.207), (6, 0.117)])
@pytest.mark.slow
def test_joint_and_product_are_different_policies(dims, share):
    """q = 0: the share of draws beyond half the half width is .313 in a product, and less the more dimensions a joint
    one has; its variance R^2 / (D + 4). In a product it is the closed form 2 sin(asin(u) / 3) of one dimension."""
    joint, product = (
        made(ThinQGaussian, 0.0, form, dims)._replace(log_scale=jnp.zeros(dims))
        for form in ("joint", "product")
    )
    way = drawn(joint)
    half = np.asarray(joint.half_width)
    np.testing.assert_allclose(np.mean(np.abs(way) > half / 2, 0), share, atol=8e-3)
    np.testing.assert_allclose(np.var(way, 0), float(half[0]) ** 2 / (dims + 4), rtol=3e-2)
    alone = drawn(product) / np.asarray(product.half_width)
    np.testing.assert_allclose(np.mean(np.abs(alone) > 0.5, 0), 0.3125, atol=8e-3)
    by_sine = 2 * np.sin(np.arcsin(np.random.default_rng(0).uniform(-1, 1, DRAWS)) / 3)
    assert stats.ks_2samp(alone[:, -1], by_sine).pvalue > 1e-3
    if dims > 1:  # independent in a product; in a joint one a long first component leaves less to the second
        assert abs(np.corrcoef(alone[:, 0] ** 2, alone[:, 1] ** 2)[0, 1]) < 0.02
        assert np.corrcoef(way[:, 0] ** 2, way[:, 1] ** 2)[0, 1] < -0.1


@pytest.mark.parametrize("dims, q", [(1, 2.0), (1, 1.2), (2, 1.5), (3, 1.5), (6, 1.3)])
@pytest.mark.slow
def test_joint_fat_draws_are_of_the_multivariate_t(dims, q):
    """|z|^2 / D ~ F(D, v) and the projection on any direction ~ t(v), v = 2/(q-1) - D."""
    known = made(FatQGaussian, q, "joint", dims)
    v = 2 / (q - 1) - dims
    assert known.dof == pytest.approx(v)
    standard = drawn(known) / np.sqrt(SPREAD[:dims])
    assert stats.kstest(np.sum(standard**2, 1) / dims, stats.f(dims, v).cdf).pvalue > 1e-3
    for seed in range(3):
        way = np.random.default_rng(seed).normal(size=dims)
        assert stats.kstest(standard @ (way / np.linalg.norm(way)), stats.t(v).cdf).pvalue > 1e-3
    action = np.random.default_rng(0).normal(size=(16, dims))
    expected = stats.multivariate_t(np.full(dims, 0.2), np.diag(SPREAD[:dims]), df=v).pdf(action)
    np.testing.assert_allclose(density(known, action), expected, rtol=1e-4)


def test_fat_product_is_students_t_in_every_component_and_two_is_cauchy():
    known = made(FatQGaussian, 2.0, "product", 4)
    student = Student(known.mean, 0.5 * known.log_scale, 1.0)
    action = np.random.default_rng(0).normal(size=(16, 4)) * 5
    np.testing.assert_allclose(density(known, action), density(student, action), rtol=1e-5)
    cauchy = stats.cauchy(0.2, np.sqrt(SPREAD[:4])).pdf(action).prod(1)
    np.testing.assert_allclose(density(known, action), cauchy, rtol=1e-4)
    quantiles = np.quantile(drawn(known), [0.75, 0.9], axis=0) / np.sqrt(SPREAD[:4])
    np.testing.assert_allclose(quantiles, np.broadcast_to([[1.0], [3.078]], (2, 4)), rtol=6e-2)


@pytest.mark.parametrize("kind, q", [(ThinQGaussian, 0.999), (FatQGaussian, 1.001)])
def test_both_families_meet_at_the_normal(kind, q):
    known = made(kind, q, "joint", 3)
    action = 0.2 + 0.5 * np.random.default_rng(0).normal(size=(16, 3)) * np.sqrt(SPREAD[:3])
    expected = stats.multivariate_normal(np.full(3, 0.2), np.diag(SPREAD[:3])).logpdf(action)
    np.testing.assert_allclose(np.log(density(known, action)), expected, atol=2e-2)


@pytest.mark.parametrize("form", ["joint", "product"])
@pytest.mark.parametrize("kind, q", [(ThinQGaussian, 0.0), (FatQGaussian, 1.4)])
@pytest.mark.slow
def test_gradients_are_those_of_finite_differences(kind, q, form):
    """Of log densities and of draws with the same key, with respect to mean and log scale."""
    known = made(kind, q, form, 3)
    inside = known.mean + jnp.array([0.1, -0.05, 0.2])

    @jax.jit
    def both(mean, log_scale):
        moved = known._replace(mean=mean, log_scale=log_scale)
        return jnp.append(moved.sample(jax.random.key(1)), moved.log_density(inside))

    slopes = jax.jacobian(both, argnums=(0, 1))(known.mean, known.log_scale)
    step = 2e-3
    for place in range(3):
        way = jnp.zeros(3).at[place].set(step)
        by_mean = (both(known.mean + way, known.log_scale) - both(known.mean - way, known.log_scale)) / (
            2 * step
        )
        by_scale = (both(known.mean, known.log_scale + way) - both(known.mean, known.log_scale - way)) / (
            2 * step
        )
        np.testing.assert_allclose(slopes[0][:, place], by_mean, rtol=2e-2, atol=2e-3)
        np.testing.assert_allclose(slopes[1][:, place], by_scale, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("form", ["joint", "product"])
@pytest.mark.parametrize("q", [-10.0, 0.0, 0.9])
def test_gradients_are_finite_at_the_edge_of_the_support_and_beyond(q, form):
    """At, just inside, just outside and far outside; beyond the edge the density is 0 and its gradient too."""
    known = made(ThinQGaussian, q, form, 2)
    reach = known.half_width * jnp.array([1.0, 0.0])
    at = jnp.array([0.0, 1 - 1e-3, 1 - 1e-6, 1.0, 1 + 1e-6, 1.1, 1e4, 1e19])
    actions = known.mean + at[:, None] * reach

    def found(mean, log_scale, action):
        return known._replace(mean=mean, log_scale=log_scale).log_density(action)

    slopes = jax.jit(jax.vmap(jax.grad(found, (0, 1, 2)), (None, None, 0)))(
        known.mean, known.log_scale, actions
    )
    assert all(np.all(np.isfinite(slope)) for slope in slopes)
    values = np.asarray(jax.jit(known.log_density)(actions))
    assert np.all(np.isfinite(values[:4])) and np.all(values[5:] == -np.inf)
    assert all(np.all(slope[5:] == 0.0) for slope in slopes)


@pytest.mark.parametrize("q", [-30.0, 0.9])
@pytest.mark.slow
def test_every_draw_of_a_thin_one_has_a_finite_density(q):
    for form in ("joint", "product"):
        wide = ThinQGaussian(jnp.full((DRAWS, 3), 0.9), jnp.full((DRAWS, 3), -1.0), q, form)
        found = jax.jit(lambda key: wide.log_density(wide.sample(key)))(jax.random.key(0))  # noqa: B023
        assert np.all(np.isfinite(found))


@pytest.mark.parametrize("family, q, form, dims, sentence", [
    ("fat", 1.5, "joint", 4, "q is 1.5, but with form 'joint' and 4 dimensions .* 1 < q < 1.5 only"),
    ("fat", 2.0, "joint", 2, "1 < q < 2 only; give such a q, or form 'product'"),
    ("fat", 3.0, "product", 2, "1 < q < 3 only"),
    ("fat", 0.5, "product", 2, "q is 0.5"),
    ("thin", 1.0, "joint", 2, "thin q-Gaussian: q is 1.0; give one below 1"),
    ("thin", -math.inf, "joint", 2, "thin q-Gaussian"),
    ("thin", math.nan, "joint", 2, "thin q-Gaussian"),
    ("thin", 0.0, "radial", 2, "form is 'radial'; give one of joint, product"),
])  # fmt: skip
def test_what_has_no_density_is_refused_in_one_sentence(family, q, form, dims, sentence):
    known = made(ThinQGaussian if family == "thin" else FatQGaussian, q, form, dims)
    for refused in (
        lambda: refuse_unless_normalisable(family, q, form, dims),
        lambda: known.sample(jax.random.key(0)),
        lambda: known.log_density(known.mean),
    ):
        with pytest.raises(UserError, match=sentence) as refusal:
            refused()
        assert "\n" not in str(refusal.value)
    refuse_unless_normalisable("fat", 1.33, "joint", 6)


def test_widths_are_those_of_one_dimension_in_a_product_and_depend_on_the_others_if_joint():
    narrow = made(ThinQGaussian, 0.0, "joint", 2)
    wide = narrow._replace(log_scale=narrow.log_scale.at[1].add(2.0))
    assert float(wide.half_width[0]) < float(narrow.half_width[0])
    product = [known._replace(form="product").half_width[0] for known in (narrow, wide)]
    np.testing.assert_allclose(product, special.cbrt(1.5 * SPREAD[0]), rtol=1e-5)
