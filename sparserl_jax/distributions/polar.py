"""Draws from densities that depend on the length of a vector alone, in closed form: no rejection, no tables.

A plane is easy: the length of a vector there has a distribution function that can be inverted by hand, and its angle is
uniform (Box and Muller 1958; for Student's t Bailey 1994, for powers of 1 - |z|^2 Ulrich 1984, for q-Gaussians of one
dimension Thistleton et al. 2007). More dimensions are drawn a plane at a time, because given the coordinates drawn so
far the others follow the same law, wider or narrower and with one more or one less in its exponent:

    bounded  p(z) ~ (1 - |z|^2)_+^power         1 - r_k^2 = u_k^(1 / (power + n/2 - k)),  shrinks what follows
    heavy    p(z) ~ (1 + |z|^2)^(-(dof + n)/2)  1 + r_k^2 = u_k^(-2 / (dof + 2 k)),       widens what follows

for the planes k = 0, 1, ... of n dimensions. Where n is odd the last coordinate of n + 1 is left out, which is one
marginal of the same law. Everything is a function of uniform numbers, hence differentiable where `dof` is learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

LONGEST = 40.0
"""Logarithm of the greatest length of one plane of a heavy draw: its square stays a finite number in single precision.
A length beyond it has the probability exp(-40 dof)."""


def bounded(key: jax.Array, shape: Sequence[int], power: float) -> jax.Array:
    """Vectors of `shape` [..., n] in the unit ball with density ~ (1 - |z|^2)^power, power > -1/2."""
    planes = jnp.arange((shape[-1] + 1) // 2)
    return _planes(key, shape, 1.0 / (power + shape[-1] / 2 - planes))


def heavy(key: jax.Array, shape: Sequence[int], dof: jax.Array | float) -> jax.Array:
    """Standard t vectors of `shape` [..., n] with `dof` > 0 degrees of freedom, a number or [...]:
    density ~ (1 + |t|^2 / dof)^(-(dof + n)/2)."""
    dof = jnp.asarray(dof, jnp.float32)[..., None]
    planes = jnp.arange((shape[-1] + 1) // 2)
    return jnp.sqrt(dof) * _planes(key, shape, -2.0 / (dof + 2 * planes))


def _planes(key: jax.Array, shape: Sequence[int], exponent: jax.Array) -> jax.Array:
    """Vectors whose plane k has u^exponent_k = 1 - r_k^2 (exponent > 0) or 1 + r_k^2 (exponent < 0)."""
    radial, turning = jax.random.split(key)
    drawn = (*shape[:-1], (shape[-1] + 1) // 2)
    # Log of 1 -+ r_k^2; by expm1 neither short nor long lengths lose their digits.
    log_left = jnp.minimum(exponent * jnp.log(_inner_uniform(radial, drawn)), 2 * LONGEST)
    length = jnp.sqrt(jnp.abs(jnp.expm1(log_left)))
    length *= jnp.exp(0.5 * (jnp.cumsum(log_left, axis=-1) - log_left))
    angle = 2.0 * math.pi * _inner_uniform(turning, drawn)
    coordinates = jnp.stack([length * jnp.cos(angle), length * jnp.sin(angle)], axis=-1)
    return coordinates.reshape(*shape[:-1], -1)[..., : shape[-1]]


def _inner_uniform(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Uniform in (0, 1), both ends excluded: the middles of 2^23 equal parts, each exact in single precision."""
    return jax.random.uniform(key, tuple(shape)) + 2.0**-24
