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


def _powers(gamma: float | jax.Array, steps: int) -> jax.Array:
    table = discounts(gamma) if isinstance(gamma, int | float) else gamma
    return jnp.asarray(table[: steps + 1])


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
    powers = _powers(gamma, steps)
    live = jnp.ones(batch.used.shape, jnp.float32)
    total = jnp.zeros(batch.used.shape, jnp.float32)
    for k in range(steps):  # n_max is small and static
        inside = (k < batch.used).astype(jnp.float32)
        total = total + inside * live * powers[k] * batch.rewards[:, k]
        live = live * (1.0 - inside * batch.terminated[:, k].astype(jnp.float32))
    return total, live * powers[batch.used]


def entropy_discounts(batch: Any, gamma: float | jax.Array, path: jax.Array | bool) -> jax.Array:
    """What the entropy of an action drawn after each row counts in a soft n-step target, f32[batch, n_max].

    A fresh action a~ is drawn in the state s'_k after row k of the window. With the coefficients e_k returned here and
    `(R, discount)` of `n_step_return`, the soft target is

        y = R + sum_k e_k (-alpha log pi(a~_k | s'_k)) + discount Q(s'_j, a~_j)

    path: e_k = gamma^(k+1) along the stored path, up to and with the state that is bootstrapped from (RLx2's released
        code, its section "delayed multi-step TD target" carried over to soft values).
    not path: only the state that is bootstrapped from counts, e_j = gamma^(j+1).

    Nothing counts after a terminal; a time limit counts as a state like any other, and nothing behind it. In windows of
    one step both are the target of SAC (Haarnoja et al. 2018, equations 5 and 6).
    """
    steps = batch.rewards.shape[1]
    row, last = jnp.arange(steps), batch.used[:, None] - 1
    counted = jnp.where(path, row <= last, row == last) & ~batch.terminated
    return jnp.where(counted, _powers(gamma, steps)[1:], 0.0)
