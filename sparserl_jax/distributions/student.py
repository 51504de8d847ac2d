"""Student's t: heavier tails than the normal's, by degrees of freedom that a network may learn (Zhu et al. 2024).

    log p(a) = sum_i [ -log B(v_i/2, 1/2) - 1/2 log v_i - log s_i - (v_i + 1)/2 log(1 + z_i^2 / v_i) ]

with z = (a - mean) / s, s = exp(log_scale), v = dof. v = 1 is Cauchy's distribution, v -> infinity the normal. As with
`Normal`, densities are those of actions as drawn, which are not held inside [-1, 1].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln, digamma

from sparserl_jax.distributions import polar


class Student(NamedTuple):
    """Independent t distributions.

    mean, log_scale: f32[..., action]; dof > 0: a number or f32 that broadcasts against them.
    """

    mean: jax.Array
    log_scale: jax.Array
    dof: jax.Array | float

    @property
    def mode(self) -> jax.Array:
        """The middle, [..., action]."""
        return self.mean

    @property
    def support(self) -> tuple[jax.Array, jax.Array]:
        """Lowest and highest actions that can be drawn: none is too far."""
        return jnp.full_like(self.mean, -jnp.inf), jnp.full_like(self.mean, jnp.inf)

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions [..., action], differentiable in mean, log_scale and dof."""
        dof = jnp.broadcast_to(self.dof, self.mean.shape)
        return self.mean + jnp.exp(self.log_scale) * polar.heavy(key, (*self.mean.shape, 1), dof)[..., 0]

    def log_density(self, action: jax.Array) -> jax.Array:
        """Log density [...] of actions [..., action]."""
        standard = (action - self.mean) * jnp.exp(-self.log_scale)
        dof = jnp.broadcast_to(self.dof, standard.shape)
        return jnp.sum(standard_log_density(standard[..., None], dof) - self.log_scale, axis=-1)

    @property
    def entropy(self) -> jax.Array:
        """Entropy in nats, [...]."""
        dof = jnp.broadcast_to(jnp.asarray(self.dof, jnp.float32), self.mean.shape)
        spread = 0.5 * (dof + 1.0) * _half_step(0.5 * dof)
        peak = standard_log_density(jnp.zeros_like(dof)[..., None], dof)
        return jnp.sum(spread - peak + self.log_scale, axis=-1)


def standard_log_density(standard: jax.Array, dof: jax.Array | float) -> jax.Array:
    """Log density [...] of standard t vectors [..., n] of `dof` degrees of freedom, a number or [...]."""
    n = standard.shape[-1]
    dof = jnp.asarray(dof, jnp.float32)
    # A Beta function, and not the quotient of two Gammas, whose logarithms leave no digits of their difference.
    peak = math.lgamma(n / 2) - betaln(n / 2, dof / 2) - 0.5 * n * jnp.log(math.pi * dof)
    return peak - 0.5 * (dof + n) * jnp.log1p(jnp.sum(standard**2, axis=-1) / dof)


def _half_step(x: jax.Array) -> jax.Array:
    """digamma(x + 1/2) - digamma(x); from 10 on by its series, because the difference has no digits left."""
    series = (0.5 + (0.125 - 0.015625 / x**2) / x) / x
    return jnp.where(x > 10.0, series, digamma(x + 0.5) - digamma(x))
