"""Algorithms that learn from a dataset re-stated in NumPy, in double precision: losses one by one, gradients by central
differences, Adam step by step, whole updates.

A loss is a function of (networks, batch, numbers, noise), the network it trains among them; `noise` [batch, action] is
what an action drawn in s or in s' is drawn with.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.reference import rlx2_numpy
from tests.reference.ppo_numpy import Adam

Loss = Callable[[Mapping[str, Any], Any, Any, np.ndarray], float]


def policy(actor: Mapping[str, Any], obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log standard deviation before the squash, `[batch, action]`; the latter in [-20, 2]."""
    mean, raw = np.split(rlx2_numpy.forward(actor["mlp"], obs), 2, axis=-1)
    return mean, np.clip(raw, -20, 2)


def log_density(actor: Mapping[str, Any], obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """log pi(a | s), `[batch]`, of the squashed normal."""
    mean, log_std = policy(actor, obs)
    action = np.asarray(action, np.float64)
    standard = (np.arctanh(action) - mean) / np.exp(log_std)
    normal = -0.5 * standard**2 - log_std - 0.5 * math.log(2 * math.pi)
    return (normal - np.log(1 - action**2)).sum(axis=-1)


def value(network: Mapping[str, Any], obs: np.ndarray) -> np.ndarray:
    """V(s), `[batch]`."""
    return rlx2_numpy.forward(network["mlp"], obs)[..., 0]


def worst(critic: Mapping[str, Any], obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """min(Q1, Q2)(s, a), `[batch]`."""
    return rlx2_numpy.values(critic, obs, action).min(axis=0)


def over(batch: Any, each: np.ndarray) -> float:
    """Mean, entries that are not valid counted as 0."""
    return float(np.where(batch.valid, each, 0.0).sum() / len(batch.valid))


def bellman(nets: Mapping[str, Any], batch: Any, k: Any, following: np.ndarray) -> float:
    """Squared errors of both critics to r + (1 - d) gamma `following`."""
    target = batch.rewards[:, 0] + np.where(batch.terminated[:, 0], 0.0, k["gamma"] * following)
    both = rlx2_numpy.values(nets["critic"], batch.obs, batch.action)
    return sum(over(batch, (one - target) ** 2) for one in both)


def advantage(nets: Mapping[str, Any], critic: str, batch: Any) -> np.ndarray:
    """min Q(s, a) - V(s), `[batch]`."""
    return worst(nets[critic], batch.obs, batch.action) - value(nets["value"], batch.obs)


def cloned(nets: Mapping[str, Any], batch: Any, weight: Any, network: str = "actor") -> float:
    """Mean of -weight log pi(a | s)."""
    return over(batch, -weight * log_density(nets[network], batch.obs, batch.action))


def bootstrapped(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    """The critics' loss where they bootstrap from V(s')."""
    return bellman(nets, batch, k, value(nets["value"], batch.closing_obs))


# ---- IQL ---------------------------------------------------------------------------------------------------


def iql_value(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    u = advantage(nets, "target_critic", batch)
    return over(batch, np.abs(k["expectile"] - (u < 0)) * u**2)


def iql_actor(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    weight = np.exp(advantage(nets, "target_critic", batch) / k["temperature"])
    return cloned(nets, batch, np.where(weight > 100, 100, weight))


IQL = {"value": iql_value, "critic": bootstrapped, "actor": iql_actor}

LOSSES: dict[str, dict[str, Loss]] = {"iql": IQL}
"""By agent, in the order of an update."""


# ---- one update --------------------------------------------------------------------------------------------


def arrays(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], np.ndarray]:
    """The arrays of nested dictionaries by path."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    return {k: v for name, part in tree.items() for k, v in arrays(part, (*path, name)).items()}


def double(tree: Any) -> Any:
    """A copy in double precision."""
    if isinstance(tree, Mapping):
        return {name: double(part) for name, part in tree.items()}
    return np.array(tree, np.float64)


def gradient(loss: Callable[[], float], params: Any, step: float = 1e-6) -> dict[tuple[str, ...], np.ndarray]:
    """Central differences by every entry of the arrays of `params`, which `loss` reads."""
    found = {}
    for path, array in arrays(params).items():
        slope = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + step
            above = loss()
            array[index] = kept - step
            slope[index] = (above - loss()) / (2 * step)
            array[index] = kept
        found[path] = slope
    return found


def updated(
    agent: str, nets: dict[str, Any], batch: Any, k: Any, noise: np.ndarray, adam: Adam
) -> tuple[dict[str, Any], dict[str, float]]:
    """Networks and the losses of one update; `k` holds the agent's numbers by their names."""
    nets, losses = copy.deepcopy(nets), {}
    for name, loss in LOSSES[agent].items():

        def now(loss: Loss = loss) -> float:
            return loss(nets, batch, k, noise)

        losses[name] = now()
        for path, slope in gradient(now, nets[name]).items():
            arrays(nets[name])[path] += adam.step("/".join((name, *path)), slope, k["learning_rate"])
        if name == "critic":
            for path, target in arrays(nets["target_critic"]).items():
                target += k["tau"] * (arrays(nets["critic"])[path] - target)
    return nets, losses
