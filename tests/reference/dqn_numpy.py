"""DQN re-stated in NumPy, float64: values, double n-step targets, losses, their gradients by hand, Adam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.reference.nstep import n_step
from tests.reference.rlx2_numpy import forward

Layers = Mapping[str, Mapping[str, np.ndarray]]


def values(params: Mapping[str, Any], obs: np.ndarray) -> np.ndarray:
    """Q(s, .), [batch, choice]."""
    return forward(params["mlp"], obs)


def target(
    online: Mapping[str, Any], frozen: Mapping[str, Any], batch: Any, gamma: float, double: bool
) -> np.ndarray:
    """y = R + b gamma^(j+1) Q'(s_j, a*), [batch]; a* is the best choice of `online` (double) or of `frozen`."""
    following = values(frozen, batch.closing_obs)
    best = (values(online, batch.closing_obs) if double else following).argmax(axis=1)
    found = []
    for row in range(len(best)):
        total, discount, _ = n_step(batch.rewards[row], ~batch.terminated[row], batch.truncated[row], gamma)
        found.append(total + discount * following[row, best[row]])
    return np.array(found)


def loss(params: Mapping[str, Any], batch: Any, y: np.ndarray, huber: bool = False) -> float:
    """Mean over the batch of e^2, e = Q(s, a) - y; huber: of e^2 / 2 where |e| <= 1 and |e| - 1/2 elsewhere."""
    error = values(params, batch.obs)[np.arange(len(y)), batch.action.argmax(axis=1)] - y
    if not huber:
        return float(np.mean(error**2))
    return float(np.mean(np.where(np.abs(error) <= 1, error**2 / 2, np.abs(error) - 0.5)))


def gradient(params: Mapping[str, Any], batch: Any, y: np.ndarray, huber: bool = False) -> dict[str, Any]:
    """d loss / d params of every layer, dense, by back-propagation."""
    layers = params["mlp"]
    names = sorted(layers, key=lambda name: (name == "output", name))
    inputs, x = [], np.asarray(batch.obs, np.float64)
    for name in names:
        inputs.append(x)
        x = x @ layers[name]["kernel"].astype(np.float64) + layers[name]["bias"]
        x = x if name == "output" else np.maximum(x, 0)
    rows, chosen = np.arange(len(y)), batch.action.argmax(axis=1)
    back = np.zeros_like(x)
    error = x[rows, chosen] - y
    back[rows, chosen] = (np.clip(error, -1, 1) if huber else 2 * error) / len(y)  # clipped: Mnih et al.
    found = {}
    for name, seen in zip(reversed(names), reversed(inputs), strict=True):
        found[name] = {"kernel": seen.T @ back, "bias": back.sum(axis=0)}
        back = (back @ layers[name]["kernel"].T.astype(np.float64)) * (seen > 0)
    return found


def adam(gradients: list[np.ndarray], rate: float) -> np.ndarray:
    """The step after the last of these gradients of one tensor (Kingma and Ba 2015, with their constants)."""
    first = second = np.zeros_like(gradients[0])
    for gradient in gradients:
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
    time = len(gradients)
    return -rate * (first / (1 - 0.9**time)) / (np.sqrt(second / (1 - 0.999**time)) + 1e-8)
