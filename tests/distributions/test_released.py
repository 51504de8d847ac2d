"""The released heavy-tailed q-Gaussian is wrong in exactly the ways that its page says, and the thin one is not."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from sparserl_jax.distributions import FatQGaussian, ReleasedFat, ThinQGaussian
from sparserl_jax.errors import UserError

SCALE = np.array([0.3, 0.05, 0.8])


def made(q: float, dims: int) -> ReleasedFat:
    return ReleasedFat(jnp.full(dims, 0.2), jnp.log(jnp.asarray(SCALE[:dims], jnp.float32)), q)


def by_hand(action: np.ndarray, q: float) -> np.ndarray:
    """The formulas of the released code, in float64."""
    dims = action.shape[-1]
    distance = ((action - 0.2) ** 2 / SCALE[:dims]).sum(-1)
    f = -(distance / 2) / (3 - q)
    g = (3 - q) / (2 * (q - 1))
    z = math.gamma(g) / math.gamma(g + dims / 2) * (math.pi * (3 - q) / (q - 1)) ** (dims / 2)
    z *= math.sqrt(np.prod(SCALE[:dims]))
    return (1 + (1 - q) * f) ** (1 / (1 - q)) / z


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("q", [1.2, 2.0, 2.5])
def test_the_density_is_that_of_the_released_formulas(q, dims):
    action = np.random.default_rng(0).normal(size=(32, dims)) * 3
    found = jax.jit(made(q, dims).log_density)(jnp.asarray(action, jnp.float32))
    np.testing.assert_allclose(found, np.log(by_hand(action, q)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("q", [1.2, 2.0])
def test_b_one_dimension_integrates_to_the_root_of_two(q):
    total, _ = integrate.quad(lambda a: by_hand(np.array([a]), q), -np.inf, np.inf)
    assert total == pytest.approx(math.sqrt(2), rel=1e-5)


def test_a_with_q_2_a_normal_is_drawn_and_no_cauchy():
    """Quantiles .675, 1.281, 2.32 against 1, 3.08, 31.8."""
    wide = ReleasedFat(jnp.zeros((60_000, 1)), jnp.zeros((60_000, 1)))
    normal = np.quantile(jax.jit(wide.sample)(jax.random.key(0)), [0.75, 0.9, 0.99])
    np.testing.assert_allclose(normal, [0.675, 1.281, 2.32], rtol=0.03)
    cauchy = FatQGaussian(wide.mean, wide.log_scale, 2.0, "product")
    heavy = np.quantile(jax.jit(cauchy.sample)(jax.random.key(0)), [0.75, 0.9, 0.99])
    np.testing.assert_allclose(heavy, [1.0, 3.08, 31.8], rtol=0.12)
    u, v = np.float32([[0.25]]), np.float32([[0.1]])
    expected = 0.2 + math.sqrt(0.3) * math.sqrt(-2 * math.log(0.25)) * math.cos(0.2 * math.pi)
    assert float(made(2.0, 1).at(u, v)[0, 0]) == pytest.approx(expected, rel=1e-5)


def test_a_with_another_q_the_inverse_is_another_power():
    """q = 2.5: p = (q - 1)/(3 - q) = 3, ln_3(u) = (1 - u^-2)/2."""
    length = math.sqrt(-2 * (1 - 0.25**-2) / 2)
    found = made(2.5, 1).at(jnp.array([0.25]), jnp.array([0.0]))
    assert float(found[0]) == pytest.approx(0.2 + math.sqrt(0.3) * length, rel=1e-5)


@pytest.mark.parametrize("dims, falls", [(1, False), (2, None), (3, True)])
def test_c_scales_collapse_onto_an_action_from_three_dimensions_on(dims, falls):
    """-log density at a distance, as all scales shrink: grows, levels off, falls without bound."""
    far = jnp.full(dims, 1.0)
    scales = jnp.array([-6.0, -12.0])
    near, nearer = (-float(ReleasedFat(jnp.zeros(dims), jnp.full(dims, s)).log_density(far)) for s in scales)
    if falls is None:
        assert nearer == pytest.approx(near, abs=0.01)
    else:
        assert (nearer < near - 2.9) == falls and abs(nearer - near) > 2.9


def test_d_draws_are_independent_where_the_density_is_radial():
    known = ReleasedFat(jnp.zeros((60_000, 2)), jnp.zeros((60_000, 2)), 1.6)
    draws = np.abs(np.asarray(jax.jit(known.sample)(jax.random.key(1))))
    inside = np.clip(draws, 0, 3)
    assert abs(np.corrcoef(inside.T)[0, 1]) < 0.015
    one, other = known._replace(mean=jnp.zeros(2), log_scale=jnp.zeros(2)), np.float32([[2, 0], [1.2, 1.6]])
    np.testing.assert_allclose(*np.asarray(one.log_density(jnp.asarray(other))), rtol=1e-5)
    assert stats.norm.logpdf(other).sum(1)[0] == pytest.approx(stats.norm.logpdf(other).sum(1)[1], rel=1e-6)


@pytest.mark.parametrize("dims, radius", [(1, 1.144714), (2, 1.062252), (3, 1.036039), (6, 1.056146)])
@pytest.mark.slow
def test_the_released_thin_one_is_the_joint_q_gaussian(dims, radius):
    """Half widths R |Sigma|^(-1/(2n+4)) sqrt(sigma_i), density [-tau - m/2]_+, tau = -(R^2/2) |Sigma|^(-1/(n+2))."""
    scale = np.array([0.3, 0.05, 0.8, 0.2, 0.5, 0.1])[:dims]
    known = ThinQGaussian(jnp.zeros(dims), jnp.log(jnp.asarray(scale, jnp.float32)), 0.0, "joint")
    shared = np.prod(scale) ** (-1 / (dims + 2))
    np.testing.assert_allclose(known.half_width, radius * np.sqrt(shared * scale), rtol=1e-4)
    action = np.random.default_rng(0).uniform(-0.2, 0.2, (64, dims)) * np.asarray(known.half_width)
    tau = -(radius**2) / 2 * shared
    expected = np.maximum(-tau - 0.5 * (action**2 / scale).sum(1), 0)
    found = np.exp(np.asarray(known.log_density(jnp.asarray(action, jnp.float32))))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("q", [1.0, 3.0, 0.5])
def test_what_has_no_released_formula_is_refused(q):
    for refused in (
        lambda: made(q, 2).sample(jax.random.key(0)),
        lambda: made(q, 2).log_density(jnp.zeros(2)),
    ):
        with pytest.raises(UserError, match="give one between 1 and 3"):
            refused()
