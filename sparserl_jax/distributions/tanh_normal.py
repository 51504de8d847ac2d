"""The tanh of a diagonal normal: actions in [-1, 1] with a density (Haarnoja et al. 2018, appendix C).

    u ~ N(mean, std^2),  a = tanh(u),  log p(a) = sum_i [ log N(u_i; mean_i, std_i^2) - log(1 - tanh(u_i)^2) ]

The last term is computed as 2 (log 2 - u - softplus(-2 u)), which neither overflows nor loses its digits where the tanh
saturates: 1 - tanh(u)^2 is exactly 0 in single precision from |u| = 9.1 on.

Densities are those of actions in [-1, 1]. An environment's own box [low, high] is reached by a linear map, under which
the log density shifts by a constant (`rescaled`); entropies and target entropies of the agents are in units of [-1, 1],
whatever the environment's box. (To multiply mean and log std by the bound before the squash, as RLx2's code does, is
the same for bounds of 1 and another distribution for others.)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LOG_STD = (-5.0, 2.0)
"""Bounds of the logarithm of the standard deviation (RLx2 section 1.1)."""
NEAREST = float(np.nextafter(np.float32(1.0), np.float32(0.0)))
"""Largest action whose inverse tanh is finite in single precision."""


def bounded_log_std(raw: jax.Array, bounds: tuple[float, float] = LOG_STD) -> jax.Array:
    """A network's unbounded output as a log standard deviation within `bounds`: lo + (hi - lo) (tanh(raw) + 1) / 2."""
    low, high = bounds
    return low + 0.5 * (high - low) * (jnp.tanh(raw) + 1.0)


class TanhNormal(NamedTuple):
    """The distribution of tanh(N(mean, exp(log_std)^2)).

    mean, log_std: f32[..., action], before the squash; the components of an action are independent.
    """

    mean: jax.Array
    log_std: jax.Array

    @property
    def mode(self) -> jax.Array:
        """tanh(mean), [..., action]: the median of every component, which acts where no exploration is wanted."""
        return jnp.tanh(self.mean)

    def sample(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Actions [..., action] in [-1, 1] and their log densities [...], differentiable in mean and log_std."""
        return self.at(jax.random.normal(key, self.mean.shape, self.mean.dtype))

    def at(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`sample` from given standard normal noise [..., action]."""
        before = self.mean + jnp.exp(self.log_std) * noise
        return jnp.tanh(before), self._log_density(before, noise)

    def log_density(self, action: jax.Array) -> jax.Array:
        """Log density [...] of actions [..., action] in [-1, 1]; at the bounds that of the nearest action inside."""
        before = jnp.arctanh(jnp.clip(action, -NEAREST, NEAREST))
        return self._log_density(before, (before - self.mean) * jnp.exp(-self.log_std))

    def _log_density(self, before: jax.Array, standard: jax.Array) -> jax.Array:
        """From the action before the squash, and the same standardised."""
        normal = -0.5 * standard**2 - self.log_std - 0.5 * math.log(2.0 * math.pi)
        squash = 2.0 * (math.log(2.0) - before - jax.nn.softplus(-2.0 * before))
        return jnp.sum(normal - squash, axis=-1)


def rescaled(log_density: jax.Array, low: Any, high: Any) -> jax.Array:
    """Log density of the same action in the box [low, high], which is low + (a + 1) (high - low) / 2.

    Args:
        log_density: of actions in [-1, 1], [...].
        low, high: bounds of the box, [action].
    """
    scale = (jnp.asarray(high, jnp.float32) - jnp.asarray(low, jnp.float32)) / 2.0
    return log_density - jnp.sum(jnp.log(scale))
