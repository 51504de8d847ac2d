"""Orthogonal initial weights, also those of a narrow network inside wide tensors, by matrix products alone.

QR factorisations are no way to start a population: jaxlib's batched LAPACK kernels wait for tasks on the thread pool
they themselves run in, and two of them side by side on a machine with two cores wait for ever (jax 0.10).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

ITERATIONS = 32
"""A singular value of s needs about log(1 / s) / log(15 / 8) of them: 32 reach 1 from 1e-8."""


def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Initialiser: a (semi-)orthogonal matrix [in, out] of gain 1, uniformly distributed.

    It is the polar factor of a matrix of independent normals, whose law no rotation from either side changes.
    """
    normal = jax.random.normal(key, tuple(shape), dtype)
    return nearest(normal / jnp.linalg.norm(normal))


def nearest(block: jax.Array) -> jax.Array:
    """The semi-orthogonal matrix nearest to each matrix `[..., in, out]`: its polar factor, zero where it is zero.

    The matrices must have singular values of at most 1. Rows and columns of zeros stay zero exactly, so a matrix that
    is zero outside a leading block has the polar factor of the block there. That of a block cut from a uniformly
    distributed (semi-)orthogonal matrix is itself uniformly distributed: both laws are invariant under rotations from
    either side, and there is only one such law. So this is how a narrow layer gets a draw of its own orthogonal
    initialiser from the wide layer's draw, at a width that may be traced.

    Newton-Schulz iteration of order five, X (15 - 10 X'X + 3 (X'X)^2) / 8.
    """
    wide = block.shape[-2] < block.shape[-1]
    x = jnp.swapaxes(block, -1, -2) if wide else block

    def times(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.matmul(one, other, precision=jax.lax.Precision.HIGHEST)

    def step(_: int, x: jax.Array) -> jax.Array:
        gram = times(jnp.swapaxes(x, -1, -2), x)
        once = times(x, gram)
        return 1.875 * x - 1.25 * once + 0.375 * times(once, gram)

    x = jax.lax.fori_loop(0, ITERATIONS, step, x)
    return jnp.swapaxes(x, -1, -2) if wide else x
