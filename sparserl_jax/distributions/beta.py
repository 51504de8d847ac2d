"""The Beta distribution on [-1, 1]: a bounded policy without a squash (Chou et al. 2017).

    log p(a) = sum_i [ (alpha_i - 1) log x_i + (beta_i - 1) log(1 - x_i) - log B(alpha_i, beta_i) - log 2 ],
    x = (a + 1) / 2

Networks keep alpha and beta at 1 or above (softplus + 1), so that there is one mode and the density is finite.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln, digamma

from sparserl_jax.distributions.tanh_normal import NEAREST


class Beta(NamedTuple):
    """Independent Beta distributions, stretched to [-1, 1].

    alpha, beta: f32[..., action], positive; more of alpha is nearer to 1.
    """

    alpha: jax.Array
    beta: jax.Array

    @property
    def mode(self) -> jax.Array:
        """The most likely action [..., action], for alpha and beta of at least 1; the middle where all are alike."""
        return (self.alpha - self.beta) / jnp.maximum(self.alpha + self.beta - 2.0, 1e-6)

    @property
    def support(self) -> tuple[jax.Array, jax.Array]:
        """Lowest and highest actions that can be drawn, each [..., action]."""
        return -jnp.ones_like(self.alpha), jnp.ones_like(self.alpha)

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions [..., action], differentiable in alpha and beta.

        No closed form has two free parameters: this one of JAX rejects, and takes 7 times as long as the others here.
        """
        return 2.0 * jax.random.beta(key, self.alpha, self.beta) - 1.0

    def log_density(self, action: jax.Array) -> jax.Array:
        """Log density [...] of actions [..., action] in [-1, 1]; at the bounds that of the nearest action inside."""
        action = jnp.clip(action, -NEAREST, NEAREST)
        # log x = log(1 + a) - log 2: one log 2 for each exponent and one for the stretch.
        left = (self.alpha - 1.0) * jnp.log1p(action) + (self.beta - 1.0) * jnp.log1p(-action)
        return jnp.sum(
            left - betaln(self.alpha, self.beta) - (self.alpha + self.beta - 1.0) * math.log(2.0), axis=-1
        )

    @property
    def entropy(self) -> jax.Array:
        """Entropy in nats, [...]."""
        alpha, beta = self.alpha, self.beta
        both = (alpha + beta - 2.0) * digamma(alpha + beta)
        apart = (alpha - 1.0) * digamma(alpha) + (beta - 1.0) * digamma(beta)
        return jnp.sum(betaln(alpha, beta) - apart + both + math.log(2.0), axis=-1)
