"""FtTPO re-stated in NumPy, in double precision: densities, losses, whole updates (gradients by central differences).

A loss is a function of (networks, networks as they were before its gradient, batch, numbers, noise): what has no
gradient is computed from the second. `noise` holds what actions are drawn with: `thin` [batch, action] in units of the
half-width, `fat` in units of the scale; of the released sampler `u` and `v`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.reference import in_sample_numpy as common
from tests.reference import rlx2_numpy
from tests.reference.ppo_numpy import Adam

BOX = float(np.float32(1 - 1e-6))


def heads(network: Mapping[str, Any], obs: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean in the box and log scale, `[batch, action]`."""
    mean, raw = np.split(rlx2_numpy.forward(network["mlp"], obs), 2, axis=-1)
    if kind == "squashed":
        return mean, np.clip(raw, -20, 2)
    low, high = {"thin": (-14.0, math.log(BOX)), "fat": (-math.log(1000), math.log(1000))}[kind]
    return BOX * np.tanh(mean), np.clip(raw, low, high)


def thin_widths(log_scale: np.ndarray, form: str) -> np.ndarray:
    """Half-widths for q = 0: (3 sigma / 2)^(1/3) in a product; R sigma_i^(1/2) |Sigma|^(-1/(2n+4)) if joint."""
    scale = np.exp(log_scale)
    if form == "product":
        return np.cbrt(1.5 * scale)
    n = log_scale.shape[-1]
    # R^(n+2) = 2 G(n/2 + 2) / pi^(n/2), from (m / (2 + m n)) {...} with m = 1, r = 2.
    radius = (2 * math.gamma(n / 2 + 2) / math.gamma(2) / math.pi ** (n / 2)) ** (1 / (n + 2))
    return radius * np.sqrt(scale) * np.prod(scale, axis=-1, keepdims=True) ** (-1 / (2 * n + 4))


def log_thin(network: Mapping[str, Any], obs: np.ndarray, action: np.ndarray, k: Any) -> np.ndarray:
    """log [-tau - m/2]_+ of the joint form; of a product the sum of those of one dimension."""
    mean, log_scale = heads(network, obs, "thin")
    scale, half = np.exp(log_scale), thin_widths(log_scale, k["actor_form"])
    left = (half**2 - (action - mean) ** 2) / (2 * scale)
    if k["actor_form"] == "product":
        return np.log(left).sum(axis=-1)
    tau = -0.5 * half[:, 0] ** 2 / scale[:, 0]
    return np.log(-tau - 0.5 * ((action - mean) ** 2 / scale).sum(axis=-1))


def log_fat(network: Mapping[str, Any], obs: np.ndarray, action: np.ndarray, k: Any) -> np.ndarray:
    """Of the proposal: Cauchy's in every dimension, the released formula with q = 2, or that of a squashed normal."""
    action = np.clip(np.asarray(action, np.float64), -BOX, BOX)
    if k["proposal"] == "squashed":
        return common.log_density(network, obs, action)
    mean, log_scale = heads(network, obs, "fat")
    square = (action - mean) ** 2 / np.exp(log_scale)
    if k["densities"] == "corrected":
        return (-np.log(math.pi * (1 + square)) - 0.5 * log_scale).sum(axis=-1)
    n = action.shape[-1]
    z = math.gamma(0.5) / math.gamma((1 + n) / 2) * math.pi ** (n / 2)
    return -np.log(1 + square.sum(axis=-1) / 2) - math.log(z) - 0.5 * log_scale.sum(axis=-1)


def drawn(which: str, nets: Mapping[str, Any], obs: np.ndarray, k: Any, noise: Any) -> np.ndarray:
    """Actions `[batch, action]` of the thin or the fat policy."""
    if which == "thin":
        mean, log_scale = heads(nets["actor"], obs, "thin")
        return np.clip(mean + thin_widths(log_scale, k["actor_form"]) * noise["thin"], -BOX, BOX)
    mean, log_scale = heads(nets["proposal"], obs, k["proposal"])
    if k["proposal"] == "squashed":
        return np.tanh(mean + np.exp(log_scale) * noise["fat"])
    standard = noise["fat"]
    if k["densities"] == "released":  # for q = 2 the plain method of Box and Muller
        standard = np.sqrt(-2 * np.log(noise["u"])) * np.cos(2 * math.pi * noise["v"])
    return np.clip(mean + np.exp(log_scale / 2) * standard, -BOX, BOX)


# ---- losses ------------------------------------------------------------------------------------------------


def value_loss(nets: Any, before: Any, batch: Any, k: Any, noise: Any) -> float:
    action = drawn(k["value_actor"], before, batch.obs, k, noise)
    target = common.worst(before["target_critic"], batch.obs, action)
    return 0.5 * common.over(batch, (common.value(nets["value"], batch.obs) - target) ** 2)


def critic_loss(nets: Any, before: Any, batch: Any, k: Any, noise: Any) -> float:
    action = drawn(k["critic_actor"], before, batch.closing_obs, k, noise)
    following = common.worst(before["target_critic"], batch.closing_obs, action)
    y = batch.rewards[:, 0] + k["gamma"] * (1 - batch.terminated[:, 0]) * following
    first, second = rlx2_numpy.values(nets["critic"], batch.obs, batch.action)
    return 0.5 * (common.over(batch, 0.5 * (y - first) ** 2) + common.over(batch, 0.5 * (y - second) ** 2))


def weights(nets: Any, batch: Any, k: Any) -> np.ndarray:
    """exp_q of the advantages, `[batch]`, in [1e-8, 1e4]."""
    scaled = common.advantage(nets, "critic", batch) / k["temperature"]
    q = k["weight_q"]
    raw = np.exp(scaled) if q == 1 else np.maximum(1 + (1 - q) * scaled, 0) ** (1 / (1 - q))
    return np.clip(raw, 1e-8, 1e4)


def proposal_loss(nets: Any, before: Any, batch: Any, k: Any, noise: Any) -> float:
    logged = log_fat(nets["proposal"], batch.obs, batch.action, k)
    return -common.over(batch, weights(before, batch, k) * logged)


def actor_loss(nets: Any, before: Any, batch: Any, k: Any, noise: Any) -> float:
    action = drawn("thin", nets, batch.obs, k, noise)
    fixed = log_fat(before["proposal"], batch.obs, drawn("thin", before, batch.obs, k, noise), k)
    moving = log_fat(before["proposal"], batch.obs, action, k)
    if k["actor_loss"] == "mle":
        return -common.over(batch, moving)
    if k["actor_loss"] == "spot":
        gain = common.worst(before["critic"], batch.obs, action) / common.value(before["value"], batch.obs)
        return common.over(batch, -gain - k["temperature"] * fixed)
    ratio = (fixed if k["actor_loss"] == "kl" else moving) - log_thin(nets["actor"], batch.obs, action, k)
    return common.over(batch, np.minimum(np.exp(ratio), 1e4) - 1 - ratio)


LOSSES: dict[str, Callable[..., float]] = {
    "value": value_loss, "critic": critic_loss, "proposal": proposal_loss, "actor": actor_loss,
}  # fmt: skip
"""In the order of an update."""


def handed_down(actor: dict[str, Any], proposal: Any) -> None:
    """Everything of the proposal into the actor but the log-scale head, which is the second half of the output."""
    mine, theirs = common.arrays(actor), common.arrays(proposal)
    for path, array in mine.items():
        columns = array.shape[-1] // (2 if "output" in path else 1)
        array[..., :columns] = theirs[path][..., :columns]


def updated(
    nets: dict[str, Any], batch: Any, k: Any, noise: Any, adam: Adam
) -> tuple[dict[str, Any], dict[str, float]]:
    """Networks and the losses of one update; `k` holds the agent's settings by their names."""
    nets, losses = copy.deepcopy(nets), {}
    for name, loss in LOSSES.items():
        if name == "actor" and k["copy"] == "trunk_and_mean":
            handed_down(nets["actor"], nets["proposal"])
        before = copy.deepcopy(nets)

        def now(loss: Callable[..., float] = loss, before: Any = before) -> float:
            return loss(nets, before, batch, k, noise)

        losses[name] = now()
        for path, slope in common.gradient(now, nets[name]).items():
            common.arrays(nets[name])[path] += adam.step("/".join((name, *path)), slope, k["learning_rate"])
    for path, target in common.arrays(nets["target_critic"]).items():
        target += k["tau"] * (common.arrays(nets["critic"])[path] - target)
    return nets, losses
