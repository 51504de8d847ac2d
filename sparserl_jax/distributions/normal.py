"""The diagonal normal: actions that are not squashed, with a density (Schulman et al. 2017).

    log p(a) = sum_i [ -1/2 ((a_i - mean_i) / std_i)^2 - log std_i - 1/2 log(2 pi) ]

Densities are those of actions as drawn, in units of [-1, 1] but not held inside it: what the environment is given is
clipped, what is learned from is not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


class Normal(NamedTuple):
    """N(mean, exp(log_std)^2) with independent components.

    mean: f32[..., action]. log_std: f32[action] or as `mean`.
    """

    mean: jax.Array
    log_std: jax.Array

    @property
    def mode(self) -> jax.Array:
        """The middle, [..., action]."""
        return self.mean

    @property
    def support(self) -> tuple[jax.Array, jax.Array]:
        """Lowest and highest actions that can be drawn: none is too far."""
        return jnp.full_like(self.mean, -jnp.inf), jnp.full_like(self.mean, jnp.inf)

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions [..., action]."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def log_density(self, action: jax.Array) -> jax.Array:
        """Log density [...] of actions [..., action]."""
        standard = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * standard**2 - self.log_std - _HALF_LOG_TAU, axis=-1)

    @property
    def entropy(self) -> jax.Array:
        """Entropy in nats, [...]."""
        return jnp.sum(jnp.broadcast_to(self.log_std, self.mean.shape) + 0.5 + _HALF_LOG_TAU, axis=-1)
