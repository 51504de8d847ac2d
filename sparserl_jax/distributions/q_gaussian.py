"""q-Gaussians: the exponential of the normal replaced by a power (Tsallis 1988; as policies Zhu et al. 2025).

    exp_q(x) = [1 + (1 - q) x]_+^(1/(1-q)),   ln_q(x) = (x^(1-q) - 1) / (1 - q),   q = 1: exp and ln
    p(a) ~ exp_q(-c m(a)),   m(a) = sum_i (a_i - mean_i)^2 / scale_i,   scale = exp(log_scale), in place of variances
    c = 1/2 for the normal; below, thin and fat have each their own

Two families, which meet at the normal as q -> 1:

    thin, q < 1   bounded support. q = 0 is Epanechnikov's parabola. Its temperature is the one that needs no other
                  normaliser (Martins et al. 2022): p = [(1 - q) (-tau - m/2)]_+^(1/(1-q)), m < -2 tau.
    fat,  q > 1   heavy tails: Student's t of scale sqrt(scale_i). q = 2 is Cauchy's distribution in one dimension.

In more dimensions each family has two `form`s, which are DIFFERENT policies; a record says which:

    joint    the formula above of all dimensions at once: an ellipsoid, components uncorrelated but dependent; how wide
             a thin one is in a dimension depends on the scales of the others. Fat needs q < 1 + 2/D: with q = 2 the
             formula has no integral from D = 2 on.
    product  independent components, each of the formula in one dimension: a box. Fat needs q < 3.

With standard z = (a - mean) / width, width = half the support of a dimension (thin) or sqrt(scale) (fat):

    thin   p(z) = G(n/2 + r) / (G(r) pi^(n/2)) (1 - |z|^2)_+^(1/m),    m = 1 - q, r = 1/m + 1
    fat    p(z) = t of n dimensions and v = 2/(q - 1) - n degrees of freedom

where n is D (joint) or 1 (product). Arrays of standard actions are [..., blocks, n] inside: D blocks of 1, or 1 of D.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparserl_jax.distributions import polar
from sparserl_jax.distributions.student import standard_log_density
from sparserl_jax.errors import UserError

FORMS = ("joint", "product")
EDGE = 1e-6
"""1 - |z|^2 at which the density of a thin q-Gaussian is held: nearer to the edge it is rounding. Gradients of the log
density are finite thereby, and what a draw rounds to is inside."""


def exp_q(x: jax.Array, q: float) -> jax.Array:
    """The deformed exponential: 0 below its domain (q < 1), infinite above it (q > 1), with gradient 0 in both."""
    if q == 1.0:
        return jnp.exp(x)
    base = 1.0 + (1.0 - q) * x
    inside = base > 0.0
    beyond = 0.0 if q < 1.0 else jnp.inf
    return jnp.where(inside, jnp.where(inside, base, 1.0) ** (1.0 / (1.0 - q)), beyond)


def ln_q(x: jax.Array, q: float) -> jax.Array:
    """The inverse of `exp_q`, of x > 0; from 0 down its limit at 0, with gradient 0."""
    inside = x > 0.0
    log = jnp.log(jnp.where(inside, x, 1.0))
    if q == 1.0:
        return jnp.where(inside, log, -jnp.inf)
    return jnp.where(
        inside, jnp.expm1((1.0 - q) * log) / (1.0 - q), -1.0 / (1.0 - q) if q < 1.0 else -jnp.inf
    )


def refuse_unless_normalisable(family: str, q: float, form: str, dims: int) -> None:
    """Raise UserError where there is no `thin` or `fat` q-Gaussian of this q and form over `dims` dimensions."""
    if form not in FORMS:
        raise UserError(f"{family} q-Gaussian: form is '{form}'; give one of {', '.join(FORMS)}.")
    if family == "thin":
        if not -math.inf < q < 1.0:
            raise UserError(f"thin q-Gaussian: q is {q}; give one below 1.")
        return
    most = 3.0 if form == "product" else 1.0 + 2.0 / dims
    if not 1.0 < q < most:
        raise UserError(
            f"fat q-Gaussian: q is {q}, but with form '{form}' and {dims} dimensions its density has an integral for "
            f"1 < q < {most:.4g} only; give such a q" + (", or form 'product'." if form == "joint" else ".")
        )


class _Blocks(NamedTuple):
    """How D dimensions fall into `number` independent blocks of `n`."""

    number: int
    n: int

    def split(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., blocks, n]."""
        return x.reshape(*x.shape[:-1], self.number, self.n)

    def merge(self, x: jax.Array) -> jax.Array:
        """[..., blocks, n] to [..., D]."""
        return x.reshape(*x.shape[:-2], self.number * self.n)


def _blocks_of(family: str, q: float, form: str, dims: int) -> _Blocks:
    refuse_unless_normalisable(family, q, form, dims)
    return _Blocks(1, dims) if form == "joint" else _Blocks(dims, 1)


class ThinQGaussian(NamedTuple):
    """q < 1: a bounded support around the mean.

    mean, log_scale: f32[..., action]; q and form are static.
    """

    mean: jax.Array
    log_scale: jax.Array
    q: float = 0.0
    form: str = "joint"

    @property
    def mode(self) -> jax.Array:
        """The middle, [..., action]."""
        return self.mean

    @property
    def half_width(self) -> jax.Array:
        """Half the width of the support in each dimension, [..., action]."""
        return jnp.exp(self._log_half_width)

    @property
    def support(self) -> tuple[jax.Array, jax.Array]:
        """Lowest and highest actions that can be drawn, each [..., action]: the box around the ellipsoid if joint."""
        return self.mean - self.half_width, self.mean + self.half_width

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions [..., action], differentiable in mean and log_scale."""
        blocks = self._blocks
        noise = polar.bounded(key, (*self.mean.shape[:-1], *blocks), 1.0 / (1.0 - self.q))
        return self.mean + self.half_width * blocks.merge(noise)

    def log_density(self, action: jax.Array) -> jax.Array:
        """Log density [...] of actions [..., action]: -inf outside the support, with gradient 0."""
        standard = (action - self.mean) * jnp.exp(-self._log_half_width)
        left = 1.0 - jnp.sum(self._blocks.split(standard) ** 2, axis=-1)  # [..., blocks]
        inside = jnp.log(jnp.maximum(left, EDGE)) / (1.0 - self.q)
        found = jnp.sum(inside, axis=-1) + jnp.sum(self._log_peak, axis=-1)
        return jnp.where(jnp.all(left > -EDGE, axis=-1), found, -jnp.inf)

    @property
    def tsallis_entropy(self) -> jax.Array:
        """-E[ln_q p(a)] = (1 - integral of p^(2-q)) / (1 - q), [...]: the entropy this family maximises."""
        m, half = 1.0 - self.q, self._blocks.n / 2
        # p^m is its peak's times 1 - |z|^2, whose mean is r / (r + n/2).
        r = 1.0 / m + 1.0
        log_power = m * self._log_peak + math.log(r / (r + half))
        return -jnp.expm1(jnp.sum(log_power, axis=-1)) / m

    @property
    def _blocks(self) -> _Blocks:
        return _blocks_of("thin", self.q, self.form, self.mean.shape[-1])

    @property
    def _log_half_width(self) -> jax.Array:
        """log R + 1/2 log scale_i - 1/(2 (n + 2/m)) sum of the block's log scales: p needs no other normaliser."""
        blocks = self._blocks
        m, n = 1.0 - self.q, blocks.n
        log_radius = (math.log(2.0 / m) / m + _unit_peak(m, n)) / (n + 2.0 / m)
        log_scale = blocks.split(self.log_scale)
        shared = jnp.sum(log_scale, axis=-1, keepdims=True) / (n + 2.0 / m)
        return blocks.merge(log_radius + 0.5 * (log_scale - shared))

    @property
    def _log_peak(self) -> jax.Array:
        """Log density of each block at the mean, [..., blocks]."""
        blocks = self._blocks
        return _unit_peak(1.0 - self.q, blocks.n) - jnp.sum(blocks.split(self._log_half_width), axis=-1)


class FatQGaussian(NamedTuple):
    """1 < q < 1 + 2/D (joint) or 3 (product): heavy tails in every direction.

    mean, log_scale: f32[..., action]; q and form are static.
    """

    mean: jax.Array
    log_scale: jax.Array
    q: float = 2.0
    form: str = "product"

    @property
    def mode(self) -> jax.Array:
        """The middle, [..., action]."""
        return self.mean

    @property
    def dof(self) -> float:
        """Degrees of freedom of the t distribution that this is: 2/(q - 1) - n."""
        return 2.0 / (self.q - 1.0) - self._blocks.n

    @property
    def support(self) -> tuple[jax.Array, jax.Array]:
        """Lowest and highest actions that can be drawn: none is too far."""
        return jnp.full_like(self.mean, -jnp.inf), jnp.full_like(self.mean, jnp.inf)

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions [..., action], differentiable in mean and log_scale."""
        blocks = self._blocks
        noise = polar.heavy(key, (*self.mean.shape[:-1], *blocks), self.dof)
        return self.mean + jnp.exp(0.5 * self.log_scale) * blocks.merge(noise)

    def log_density(self, action: jax.Array) -> jax.Array:
        """Log density [...] of actions [..., action]."""
        standard = self._blocks.split((action - self.mean) * jnp.exp(-0.5 * self.log_scale))
        block = standard_log_density(standard, self.dof)
        return jnp.sum(block, axis=-1) - 0.5 * jnp.sum(self.log_scale, axis=-1)

    @property
    def tsallis_entropy(self) -> jax.Array:
        """-E[ln_q p(a)] = (1 - integral of p^(2-q)) / (1 - q), [...]: infinite from 2 degrees of freedom down."""
        blocks, dof = self._blocks, self.dof
        if dof <= 2.0:
            return jnp.full(self.mean.shape[:-1], jnp.inf)
        # p^(1-q) is its peak's times 1 + |z|^2/v, whose mean is 1 + n/(v - 2).
        peak = standard_log_density(jnp.zeros((blocks.number, blocks.n)), dof)
        log_peak = jnp.sum(peak, axis=-1) - 0.5 * jnp.sum(self.log_scale, axis=-1)
        log_power = (1.0 - self.q) * log_peak + blocks.number * math.log1p(blocks.n / (dof - 2.0))
        return jnp.expm1(log_power) / (self.q - 1.0)

    @property
    def _blocks(self) -> _Blocks:
        return _blocks_of("fat", self.q, self.form, self.mean.shape[-1])


def _unit_peak(m: float, n: int) -> float:
    """log G(n/2 + r) - log G(r) - n/2 log pi: the density of (1 - |z|^2)^(1/m) in the unit ball, at its middle."""
    r = 1.0 / m + 1.0
    return math.lgamma(n / 2 + r) - math.lgamma(r) - 0.5 * n * math.log(math.pi)
