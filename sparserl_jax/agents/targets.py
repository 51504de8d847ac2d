"""Multi-step returns over replay windows (RLx2, "delayed multi-step TD target", equation of section 4.2.1)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def n_step_return(batch: Any, gamma: float) -> tuple[jax.Array, jax.Array]:
    """Reward part and bootstrap discount of n-step targets.

    The target is `R + discount * Q(closing_obs, .)`: rewards are summed up to the first terminal or time limit or the
    n-th step, whichever comes first; a terminal sets the discount to 0; a time limit bootstraps from the episode's
    true last observation.

    Args:
        batch: `replay.Batch` with rewards, terminated, truncated `[batch, n_max]`, used i32 `[batch]` (steps in the
            window, j + 1).
        gamma: discount per step.

    Returns:
        (R f32 `[batch]`, discount f32 `[batch]` = b gamma^(j+1)).
    """
    steps = batch.rewards.shape[1]
    powers = jnp.asarray([gamma**k for k in range(steps + 1)], jnp.float32)
    live = jnp.ones(batch.used.shape, jnp.float32)
    total = jnp.zeros(batch.used.shape, jnp.float32)
    for k in range(steps):  # n_max is small and static
        inside = (k < batch.used).astype(jnp.float32)
        total = total + inside * live * powers[k] * batch.rewards[:, k]
        live = live * (1.0 - inside * batch.terminated[:, k].astype(jnp.float32))
    return total, live * powers[batch.used]
