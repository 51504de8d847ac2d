"""The equations of SAC re-stated in NumPy, one window at a time (specification, sections 1.1 and 1.7)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.reference import rlx2_numpy


def policy(actor: Mapping[str, Any], obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log standard deviation before the squash, `[..., action]`; the latter in (-5, 2)."""
    mean, raw = np.split(rlx2_numpy.forward(actor["mlp"], obs), 2, axis=-1)
    return mean, -5.0 + 0.5 * 7.0 * (np.tanh(raw) + 1.0)


def drawn(actor: Mapping[str, Any], obs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """tanh(mean + std noise) and its log density; log(1 - tanh^2 u) = -2 log cosh u."""
    mean, log_std = policy(actor, obs)
    before = mean + np.exp(log_std) * noise
    normal = -0.5 * noise.astype(np.float64) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    squash = -2 * (np.logaddexp(before, -before) - math.log(2))
    return np.tanh(before), (normal - squash).sum(axis=-1)


def n_step(
    rewards: Sequence[float],
    log_densities: Sequence[float],
    not_done: Sequence[bool],
    reset: Sequence[bool],
    gamma: float,
    alpha: float,
) -> tuple[float, float, int]:
    """The soft n-step loop of the released replay buffer: (R with entropy along the path, discount, j).

    `log_densities`: of a fresh action in the state after each slot.
    """
    n = len(rewards)
    total, b, c, j = 0.0, 1, 1, 0
    for k in range(n):
        total += c * b * gamma**k * rewards[k]
        b *= max(int(not_done[k]), 1 - c)
        total += c * b * gamma ** (k + 1) * (-alpha * log_densities[k])
        if k == n - 1:
            break
        c *= 1 - int(reset[k])
        j += c
    return total, b * gamma ** (j + 1), j


def target(
    actor: Mapping[str, Any],
    critic: Mapping[str, Any],
    batch: Any,
    gamma: float,
    alpha: float,
    noise: np.ndarray,
    path: bool,
) -> np.ndarray:
    """y `[batch]`; `critic`: the target; `noise` f32[batch, n, action] of the fresh action after each row."""
    values = []
    for i, used in enumerate(np.asarray(batch.used)):
        action, log_density = drawn(actor, np.asarray(batch.successors)[i], noise[i])
        flags = ~np.asarray(batch.terminated)[i], np.asarray(batch.truncated)[i]
        soft = log_density if path else np.where(np.arange(len(log_density)) == used - 1, log_density, 0.0)
        total, discount, j = n_step(np.asarray(batch.rewards)[i], soft, *flags, gamma, alpha)
        worst = rlx2_numpy.values(critic, np.asarray(batch.successors)[i, j][None], action[j][None]).min()
        values.append(total + discount * worst)
    return np.array(values)


def actor_loss(
    actor: Mapping[str, Any], critic: Mapping[str, Any], batch: Any, alpha: float, noise: np.ndarray
) -> tuple[float, float]:
    """Mean of alpha log pi(a) - min(Q1, Q2)(s, a), and that of log pi(a)."""
    action, log_density = drawn(actor, batch.obs, noise)
    worst = rlx2_numpy.values(critic, batch.obs, action).min(axis=0)
    return float((alpha * log_density - worst).mean()), float(log_density.mean())
