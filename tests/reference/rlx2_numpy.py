"""The equations of RLx2 re-stated in NumPy, one tensor or one batch at a time (specification, sections 1.1 to 1.7)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.reference.nstep import n_step


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Mask of the `count` largest entries; among equal scores the lowest index wins."""
    order = np.argsort(-scores.reshape(-1).astype(np.float64), kind="stable")
    mask = np.zeros(scores.size, bool)
    mask[order[:count]] = True
    return mask.reshape(scores.shape)


def dropped(live: int, zeta0: float, tick: int, end: int) -> int:
    """k = int(n zeta(tick)), zeta = zeta0 / 2 (1 + cos(pi tick / T_end))."""
    return int(live * (zeta0 / 2 * (1 + math.cos(math.pi * tick / end))))


def drop_grow(
    weight: np.ndarray, mask: np.ndarray, score: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """One event on one tensor: (mask, weight) after dropping and growing `k` entries, growing by `score`.

    Only active entries are ranked for keeping (-1 elsewhere). A tensor without inactive entries is left alone.
    """
    live = int(mask.sum())
    if live == mask.size:
        return mask.copy(), weight.copy()
    keep = largest(np.where(mask, np.abs(weight), -1.0), live - k)
    grow = largest(np.where(keep, -np.inf, score), k)
    after = keep | grow
    weight = np.where(grow & ~mask, np.float32(0), weight)
    return after, np.where(after, weight, np.float32(0))


def forward(layers: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """ReLU network of `{name: {kernel [in, out], bias [out]}}`, the layer called `output` last and linear."""
    hidden = sorted((name for name in layers if name != "output"), key=lambda name: int(name.split("_")[1]))
    x = np.asarray(x, np.float64)
    for name in hidden:
        x = np.maximum(x @ np.asarray(layers[name]["kernel"]) + np.asarray(layers[name]["bias"]), 0)
    return x @ np.asarray(layers["output"]["kernel"]) + np.asarray(layers["output"]["bias"])


def action(actor: Mapping[str, Any], obs: np.ndarray) -> np.ndarray:
    """pi(s), `[batch, action]`."""
    return np.tanh(forward(actor["mlp"], obs))


def values(critic: Mapping[str, Any], obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """(Q1, Q2)(s, a), `[2, batch]`."""
    x = np.concatenate([obs, action], axis=-1)
    both = []
    for copy in range(2):
        layers = {
            name: {part: np.asarray(v)[copy] for part, v in layer.items()}
            for name, layer in critic["mlp"].items()
        }
        both.append(forward(layers, x)[..., 0])
    return np.stack(both)


def td3_target(
    actor: Mapping[str, Any], critic: Mapping[str, Any], batch: Any, gamma: float, noise: np.ndarray
) -> np.ndarray:
    """y = R + b gamma^(j+1) min(Q1', Q2')(s'_j, clip(pi'(s'_j) + noise)), `[batch]`; `noise` is already clipped."""
    smoothed = np.clip(action(actor, batch.closing_obs) + noise, -1, 1)
    worst = values(critic, batch.closing_obs, smoothed).min(axis=0)
    returns = [
        n_step(rewards, ~terminated, truncated, gamma)
        for rewards, terminated, truncated in zip(
            *(np.asarray(part) for part in (batch.rewards, batch.terminated, batch.truncated)), strict=True
        )
    ]
    return np.array([total + discount * q for (total, discount, _), q in zip(returns, worst, strict=True)])


def critic_loss(critic: Mapping[str, Any], batch: Any, target: np.ndarray) -> float:
    """Sum over the two critics of the mean squared error to the common target."""
    return float(((values(critic, batch.obs, batch.action) - target) ** 2).mean(axis=1).sum())


def actor_loss(actor: Mapping[str, Any], critic: Mapping[str, Any], batch: Any) -> float:
    """-mean Q1(s, pi(s))."""
    return float(-values(critic, batch.obs, action(actor, batch.obs))[0].mean())
