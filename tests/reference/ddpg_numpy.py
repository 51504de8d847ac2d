"""DDPG re-stated in NumPy, float64: one action value, clipped n-step targets, both losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.reference.nstep import n_step
from tests.reference.rlx2_numpy import action, forward


def value(critic: Mapping[str, Any], obs: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Q(s, a), [batch]."""
    return forward(critic["mlp"], np.concatenate([obs, taken], axis=-1))[..., 0]


def target(
    actor: Mapping[str, Any],
    critic: Mapping[str, Any],
    batch: Any,
    gamma: float,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> np.ndarray:
    """y = clip(R + b gamma^(j+1) Q'(s_j, pi'(s_j)), bounds), [batch]."""
    following = value(critic, batch.closing_obs, action(actor, batch.closing_obs))
    found = []
    for row, bootstrap in enumerate(following):
        total, discount, _ = n_step(batch.rewards[row], ~batch.terminated[row], batch.truncated[row], gamma)
        found.append(total + discount * bootstrap)
    return np.clip(found, *bounds)


def critic_loss(critic: Mapping[str, Any], batch: Any, y: np.ndarray) -> float:
    """mean (Q(s, a) - y)^2."""
    return float(np.mean((value(critic, batch.obs, batch.action) - y) ** 2))


def actor_loss(actor: Mapping[str, Any], critic: Mapping[str, Any], batch: Any, action_l2: float) -> float:
    """-mean Q(s, pi(s)) + action_l2 mean pi(s)^2."""
    taken = action(actor, batch.obs)
    return float(np.mean(-value(critic, batch.obs, taken)) + action_l2 * np.mean(taken**2))
