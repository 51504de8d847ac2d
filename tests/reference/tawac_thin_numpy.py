"""TAWAC of thin policies re-stated in NumPy, in double precision; conventions as in `in_sample_numpy`.

`noise` is what the thin policy draws with, in units of its half-width: the same in s, in s' and in all draws of which
the nearest is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.reference import fttpo_numpy as fttpo
from tests.reference import in_sample_numpy as common
from tests.reference import rlx2_numpy

FORM = {"actor_form": "product"}


def drawn(actor: Mapping[str, Any], obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Actions of the thin policy, `[batch, action]`."""
    return fttpo.drawn("thin", {"actor": actor}, obs, FORM, {"thin": noise})


def inside(actor: Mapping[str, Any], obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Whether an action is in the support, `[batch]`."""
    mean, log_scale = fttpo.heads(actor, obs, "thin")
    return (np.abs(action - mean) < fttpo.thin_widths(log_scale, "product")).all(axis=-1)


def log_normal(network: Mapping[str, Any], obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Log density of the clone, `[batch]`: a normal about a mean in the box."""
    mean, raw = np.split(rlx2_numpy.forward(network["mlp"], obs), 2, axis=-1)
    log_std = np.clip(raw, -5, 2)
    standard = (action - fttpo.BOX * np.tanh(mean)) / np.exp(log_std)
    return (-0.5 * standard**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(axis=-1)


def value_loss(nets: Any, batch: Any, k: Any, noise: np.ndarray) -> float:
    following = common.worst(nets["target_critic"], batch.obs, drawn(nets["actor"], batch.obs, noise))
    return common.over(batch, (common.value(nets["value"], batch.obs) - following) ** 2)


def critic_loss(nets: Any, batch: Any, k: Any, noise: np.ndarray) -> float:
    action = drawn(nets["actor"], batch.closing_obs, noise)
    return common.bellman(nets, batch, k, common.worst(nets["target_critic"], batch.closing_obs, action))


def line(advantage: np.ndarray, k: Any) -> np.ndarray:
    """The weight, q = 2."""
    return np.clip(np.maximum(1 + advantage / k["temperature"], 0), 1e-8, 1e4)


def weights(nets: Any, batch: Any, k: Any, noise: np.ndarray) -> np.ndarray:
    """Of the draws in s, `[batch]`."""
    action = drawn(nets["actor"], batch.obs, noise)
    return line(common.worst(nets["critic"], batch.obs, action) - common.value(nets["value"], batch.obs), k)


def nearest_actor(nets: Any, batch: Any, k: Any, noise: np.ndarray) -> float:
    before = k.get("before", nets)["actor"]
    known = inside(before, batch.obs, batch.action)[:, None]
    action = np.where(known, batch.action, drawn(before, batch.obs, noise))
    weight = line(common.advantage(nets, "critic", batch), k)
    return common.over(batch, -weight * fttpo.log_thin(nets["actor"], batch.obs, action, FORM))


def behaviour_loss(nets: Any, batch: Any, k: Any, noise: np.ndarray) -> float:
    return -common.over(batch, log_normal(nets["behaviour"], batch.obs, batch.action))


def reverse_actor(nets: Any, batch: Any, k: Any, noise: np.ndarray) -> float:
    action = drawn(nets["actor"], batch.obs, noise)
    weight = weights(nets, batch, k, noise)
    counted = batch.valid & (weight > 1e-8)
    each = fttpo.log_thin(nets["actor"], batch.obs, action, FORM) - np.log(weight)
    each -= log_normal(nets["behaviour"], batch.obs, action)
    return float(each[counted].sum() / max(counted.sum(), 1))


LOSSES: dict[str, dict[str, common.Loss]] = {
    "tawac_nearest": {"value": value_loss, "critic": critic_loss, "actor": nearest_actor},
    "tawac_reverse": {
        "behaviour": behaviour_loss,
        "value": value_loss,
        "critic": critic_loss,
        "actor": reverse_actor,
    },
}
"""By agent, in the order of an update."""
