"""Multi-step returns over replay windows (RLx2, "delayed multi-step TD target", equation of section 4.2.1)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LONGEST = 100
"""Most steps of a TD target."""


def discounts(gamma: float) -> np.ndarray:
    """gamma^k for k = 0 to 100, f32[101], computed in float64: the table that a traced discount is handed over as."""
    return np.asarray([gamma**k for k in range(LONGEST + 1)], np.float32)


def n_step_return(batch: Any, gamma: float | jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reward part and bootstrap discount of n-step targets.

    The target is `R + discount * Q(closing_obs, .)`: rewards are summed up to the first terminal or time limit or the
    n-th step, whichever comes first; a terminal sets the discount to 0; a time limit bootstraps from the episode's
    true last observation.

    Args:
        batch: `replay.Batch` with rewards, terminated, truncated `[batch, n_max]`, used i32 `[batch]` (steps in the
            window, j + 1).
        gamma: discount per step, or the table of its powers (see `discounts`).

    Returns:
        (R f32 `[batch]`, discount f32 `[batch]` = b gamma^(j+1)).
    """
    steps = batch.rewards.shape[1]
    table = discounts(gamma) if isinstance(gamma, int | float) else gamma
    powers = jnp.asarray(table[: steps + 1])
    live = jnp.ones(batch.used.shape, jnp.float32)
    total = jnp.zeros(batch.used.shape, jnp.float32)
    for k in range(steps):  # n_max is small and static
        inside = (k < batch.used).astype(jnp.float32)
        total = total + inside * live * powers[k] * batch.rewards[:, k]
        live = live * (1.0 - inside * batch.terminated[:, k].astype(jnp.float32))
    return total, live * powers[batch.used]
