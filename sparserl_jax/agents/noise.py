"""Normal noise of a traced scale."""

from __future__ import annotations

import jax
import numpy as np


def scaled_normal(key: jax.Array, shape: tuple[int, ...], scale: jax.Array | float) -> jax.Array:
    """Draws from N(0, scale^2), f32 `shape`; to rounding `scale * jax.random.normal(key, shape)`.

    There the normal is sqrt(2) erfinv(u), and XLA multiplies a constant scale with sqrt(2) at compilation. Here they
    are multiplied first whether the scale is a constant or traced, so that both give the same bits.
    """
    lowest = np.nextafter(np.float32(-1.0), np.float32(0.0))
    uniform = jax.random.uniform(key, shape, minval=lowest, maxval=1.0)
    return (scale * np.sqrt(np.float32(2.0))) * jax.lax.erf_inv(uniform)
