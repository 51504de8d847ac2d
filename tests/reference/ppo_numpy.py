"""PPO re-stated in NumPy, in double precision: advantages as sums, gradients by hand, Adam step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Tree = Mapping[str, Any]


def advantages(
    reward: np.ndarray,
    value: np.ndarray,
    following: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    gamma: float,
    trace: float,
) -> np.ndarray:
    """A_t = sum_k (gamma lambda)^k delta_(t+k) up to the end of the episode or of the rollout, [T,E]."""
    steps, envs = reward.shape
    found = np.zeros((steps, envs))
    for env in range(envs):
        for start in range(steps):
            weight = 1.0
            for t in range(start, steps):
                after = 0.0 if terminated[t, env] else float(following[t, env])
                found[start, env] += weight * (reward[t, env] + gamma * after - value[t, env])
                if terminated[t, env] or truncated[t, env]:
                    break
                weight *= gamma * trace
    return found


def forward(layers: Tree, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Output [batch, out] of a ReLU network, and what each layer reads."""
    names = [name for name in layers if name != "output"]
    names = [*sorted(names, key=lambda name: int(name.split("_")[1])), "output"]
    read = []
    for name in names:
        read.append(x)
        x = x @ np.asarray(layers[name]["kernel"], np.float64) + np.asarray(layers[name]["bias"], np.float64)
        x = x if name == "output" else np.maximum(x, 0.0)
    return x, read


def backward(layers: Tree, read: list[np.ndarray], slope: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Gradients by layer of a loss whose derivative by the output is `slope`."""
    names = [*(f"hidden_{i}" for i in range(len(read) - 1)), "output"]
    grads = {}
    for name, inputs in reversed(list(zip(names, read, strict=True))):
        grads[name] = {"kernel": inputs.T @ slope, "bias": slope.sum(axis=0)}
        slope = (slope @ np.asarray(layers[name]["kernel"], np.float64).T) * (inputs > 0)
    return grads


def log_density(action: np.ndarray, mean: np.ndarray, log_std: np.ndarray) -> np.ndarray:
    """Of a diagonal normal, [batch]."""
    standard = (action - mean) / np.exp(log_std)
    return (-0.5 * standard**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(axis=-1)


def clipped_loss(samples: Any, log_densities: np.ndarray, clip: float) -> tuple[float, np.ndarray]:
    """L_actor without entropy, and its derivative by the log densities [batch, 1]."""
    advantage = np.asarray(samples.advantage, np.float64)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = np.exp(log_densities - samples.log_density)
    bounded = np.clip(ratio, 1 - clip, 1 + clip)
    held = bounded * advantage < ratio * advantage  # the smaller one no longer depends on the policy
    value = -np.minimum(ratio * advantage, bounded * advantage).mean()
    return float(value), np.where(held, 0.0, -advantage * ratio / len(advantage))[:, None]


def actor_loss_of_choices(
    samples: Any, logits: np.ndarray, clip: float, entropy: float
) -> tuple[float, np.ndarray]:
    """L_actor of a softmax policy, and its derivative by the logits."""
    log_probability = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    probability = np.exp(log_probability)
    own = -(probability * log_probability).sum(axis=-1, keepdims=True)
    value, slope = clipped_loss(samples, (samples.action * log_probability).sum(axis=-1), clip)
    by_logits = slope * (samples.action - probability)
    by_logits += entropy * probability * (log_probability + own) / len(logits)
    return value - entropy * float(own.mean()), by_logits


def actor_loss(
    samples: Any, mean: np.ndarray, log_std: np.ndarray, clip: float, entropy: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """L_actor, and its derivatives by the means and by log sigma."""
    value, slope = clipped_loss(samples, log_density(samples.action, mean, log_std), clip)
    value -= entropy * (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()
    standard = (samples.action - mean) / np.exp(log_std)
    by_log_std = (slope * (standard**2 - 1)).sum(axis=0) - entropy
    return float(value), slope * standard / np.exp(log_std), by_log_std


def critic_loss(samples: Any, value: np.ndarray) -> tuple[float, np.ndarray]:
    """L_critic, and its derivative by the values."""
    gap = value - samples.target
    return float((gap**2).mean()), 2 * gap / len(gap)


def shortened(grads: Any, largest: float) -> Any:
    """Gradients {layer: {leaf: array}}, of norm `largest` where it was larger."""
    norm = math.sqrt(sum((g**2).sum() for layer in grads.values() for g in layer.values()))
    scale = min(1.0, largest / norm)
    return {name: {k: g * scale for k, g in layer.items()} for name, layer in grads.items()}


class Adam:
    """Adam on one array after another, by name."""

    def __init__(self, eps: float) -> None:
        self.eps, self.moments, self.count = eps, dict[str, tuple[Any, Any]](), dict[str, int]()

    def step(self, name: str, gradient: np.ndarray, rate: float) -> np.ndarray:
        """What is added to the array."""
        first, second = self.moments.get(name, (0.0, 0.0))
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        self.moments[name] = first, second
        count = self.count[name] = self.count.get(name, 0) + 1
        return -rate * (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.999**count)) + self.eps)


def updated(
    networks: dict[str, Any],
    masks: dict[str, Any],
    log_std: Any,
    samples: Any,
    adam: Adam,
    **of: float,
) -> tuple[dict[str, Any], Any, dict[str, float]]:
    """Both networks {name: {layer: {leaf: array}}}, log sigma (None: choices) and the losses after one update.

    of: rate, clip, entropy, largest (gradient).
    """
    samples = type(samples)(*(np.asarray(x, np.float64) for x in samples))
    mean, read_by_actor = forward(networks["actor"], samples.obs)
    value, read_by_critic = forward(networks["critic"], samples.obs)
    if log_std is None:
        loss, slope = actor_loss_of_choices(samples, mean, of["clip"], of["entropy"])
    else:
        loss, slope, by_log_std = actor_loss(samples, mean, log_std, of["clip"], of["entropy"])
        log_std = log_std + adam.step("log_std", by_log_std, of["rate"])
    error, error_slope = critic_loss(samples, value[:, 0])
    grads = {
        "actor": backward(networks["actor"], read_by_actor, slope),
        "critic": backward(networks["critic"], read_by_critic, error_slope[:, None]),
    }
    after: dict[str, Any] = {}
    for name, dense in grads.items():
        live = {
            layer: {k: np.where(masks[name][layer][k], g, 0.0) for k, g in leaves.items()}
            for layer, leaves in dense.items()
        }
        after[name] = {
            layer: {
                k: np.asarray(networks[name][layer][k], np.float64)
                + np.where(masks[name][layer][k], adam.step(f"{name}/{layer}/{k}", g, of["rate"]), 0.0)
                for k, g in leaves.items()
            }
            for layer, leaves in shortened(live, of["largest"]).items()
        }
    return after, log_std, {"actor_loss": loss, "critic_loss": error}
