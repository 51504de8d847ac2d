"""Algorithms that learn from a dataset re-stated in NumPy, in double precision: losses one by one, gradients by central
differences, Adam step by step, whole updates.

A loss is a function of (networks, batch, numbers, noise), the network it trains among them; `noise` [batch, action] is
what an action drawn in s or in s' is drawn with. Where AWAC draws its baseline from the policy that it trains, nothing
is differentiated through that: `before` among the numbers holds the networks as they were before the tick.
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


def drawn(actor: Mapping[str, Any], obs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """tanh(mean + std noise) and its log density; log(1 - tanh^2 u) = -2 log cosh u."""
    mean, log_std = policy(actor, obs)
    before = mean + np.exp(log_std) * noise
    normal = -0.5 * noise.astype(np.float64) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    squash = -2 * (np.logaddexp(before, -before) - math.log(2))
    return np.tanh(before), (normal - squash).sum(axis=-1)


def log_density(actor: Mapping[str, Any], obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """log pi(a | s), `[batch]`, of the squashed normal; actions count as at least 1e-6 from the edge of the box."""
    mean, log_std = policy(actor, obs)
    edge = float(np.float32(1 - 1e-6))
    action = np.clip(np.asarray(action, np.float64), -edge, edge)
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


# ---- the others --------------------------------------------------------------------------------------------


def followed(
    nets: Mapping[str, Any], obs: np.ndarray, noise: np.ndarray, temperature: float = 0.0
) -> np.ndarray:
    """min Q'(s, a) - temperature log pi(a | s) of an action drawn in every s, `[batch]`."""
    action, density = drawn(nets["actor"], obs, noise)
    return worst(nets["target_critic"], obs, action) - temperature * density


def awac_critic(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    return bellman(nets, batch, k, followed(nets, batch.closing_obs, noise))


def awac_actor(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    own, _ = drawn(k.get("before", nets)["actor"], batch.obs, noise)
    better = worst(nets["critic"], batch.obs, batch.action) - worst(nets["critic"], batch.obs, own)
    return cloned(nets, batch, np.minimum(np.exp(better / k["temperature"]), 100))


def tawac_value(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    return over(batch, (value(nets["value"], batch.obs) - followed(nets, batch.obs, noise)) ** 2)


def tawac_actor(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    line = 1 + advantage(nets, "critic", batch) / k["temperature"]  # q = 2
    return cloned(nets, batch, np.clip(np.maximum(line, 0), 1e-8, 1e4))


def inac_behaviour(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    return cloned(nets, batch, 1.0, "behaviour")


def inac_value(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    soft = followed(nets, batch.obs, noise, k["temperature"])
    return over(batch, (value(nets["value"], batch.obs) - soft) ** 2)


def inac_critic(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    return bellman(nets, batch, k, followed(nets, batch.closing_obs, noise, k["temperature"]))


def inac_actor(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    gain = np.exp(advantage(nets, "critic", batch) / k["temperature"])
    density = np.exp(log_density(nets["behaviour"], batch.obs, batch.action))
    return cloned(nets, batch, np.clip(gain / density, 1e-8, 1e4))


def sql_value(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    z = advantage(nets, "target_critic", batch) / (2 * k["alpha"])
    return over(batch, (z > -1) * (1 + z) ** 2 + value(nets["value"], batch.obs) / k["alpha"])


def sql_actor(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    z = advantage(nets, "target_critic", batch) / (2 * k["alpha"])
    return cloned(nets, batch, np.minimum((z > -1) * (1 + z), 100))


def xql_value(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    z = np.minimum(advantage(nets, "target_critic", batch) / k["beta"], 7)
    return over(batch, (np.exp(z) - z - 1) * np.exp(-scale(nets, batch, k)))


def scale(nets: Mapping[str, Any], batch: Any, k: Any) -> float:
    """XQL's largest z, of the networks before their tick: nothing is differentiated through it."""
    z = np.minimum(advantage(k.get("before", nets), "target_critic", batch) / k["beta"], 7)
    return max(z[batch.valid].max(), -1.0)


LOSSES: dict[str, dict[str, Loss]] = {
    "iql": {"value": iql_value, "critic": bootstrapped, "actor": iql_actor},
    "awac": {"critic": awac_critic, "actor": awac_actor},
    "tawac": {"value": tawac_value, "critic": awac_critic, "actor": tawac_actor},
    "inac": {
        "behaviour": inac_behaviour,
        "value": inac_value,
        "critic": inac_critic,
        "actor": inac_actor,
    },
    "sql": {"value": sql_value, "critic": bootstrapped, "actor": sql_actor},
    "xql": {"value": xql_value, "critic": bootstrapped, "actor": iql_actor},
}
"""By agent, in the order of an update."""


def squared(nets: Mapping[str, Any], batch: Any, k: Any, noise: np.ndarray) -> float:
    """Mean over dimensions of (tanh(mean) - a)^2, of a policy that is nothing but its mean."""
    error = (rlx2_numpy.action(nets["actor"], batch.obs) - batch.action) ** 2
    return over(batch, error.mean(axis=-1))


CLONING: dict[str, dict[str, Loss]] = {
    "squashed": {"actor": lambda nets, batch, k, noise: cloned(nets, batch, 1.0)},
    "deterministic": {"actor": squared},
}
"""Of BC, by policy."""


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


def live_gradient(
    loss: Callable[[], float], params: Any, masks: Any
) -> tuple[dict[tuple[str, ...], np.ndarray], float]:
    """`gradient`, zero outside `masks`, and its norm."""
    live = arrays(masks)
    slopes = {path: np.where(live[path], slope, 0) for path, slope in gradient(loss, params).items()}
    return slopes, float(np.sqrt(sum((slope**2).sum() for slope in slopes.values())))


def updated(
    agent: str | Mapping[str, Loss], nets: dict[str, Any], batch: Any, k: Any, noise: np.ndarray, adam: Adam
) -> tuple[dict[str, Any], dict[str, float]]:
    """Networks and the losses of one update; `k` holds the agent's numbers by their names. BC goes by its policy, and
    what is not above by its losses."""
    nets, losses = copy.deepcopy(nets), {}
    own = {**LOSSES, **CLONING}[agent] if isinstance(agent, str) else agent
    for name, loss in own.items():
        before = copy.deepcopy(nets)

        def now(loss: Loss = loss, before: Any = before) -> float:
            return loss(nets, batch, {**k, "before": before}, noise)

        losses[name] = now()
        for path, slope in gradient(now, nets[name]).items():
            assert not ((slope != 0) & (np.abs(slope) < 1e-7)).any(), (
                f"{name} {path}: a slope is as small as the rounding of the loss, and Adam makes a step of it: "
                "compare on other transitions"
            )
            arrays(nets[name])[path] += adam.step("/".join((name, *path)), slope, k["learning_rate"])
        if name == "critic":
            for path, target in arrays(nets["target_critic"]).items():
                target += k["tau"] * (arrays(nets["critic"])[path] - target)
    return nets, losses


def assert_agree(
    metrics: Mapping[str, Any],
    losses: Mapping[str, float],
    found: Mapping[str, Any],
    nets: Mapping[str, Any],
    loss_atol: float = 1e-6,
    atol: float = 1e-4,
) -> None:
    """The losses and parameters, by network, of an update and of its re-statement."""
    for network, loss in losses.items():
        np.testing.assert_allclose(
            metrics[f"{network}_loss"], loss, rtol=1e-5, atol=loss_atol, err_msg=network
        )
    for network, params in found.items():
        for path, array in arrays(params).items():
            np.testing.assert_allclose(
                array, arrays(nets[network])[path], atol=atol, err_msg=f"{network} {path}"
            )
