"""The drop-and-grow functions on two small networks, compiled once for all settings and all test files."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from sparserl_jax.layers import leaf
from sparserl_jax.networks import Actor, TwinCritic, actor_layers, critic_layers
from sparserl_jax.sparsity import allocation, drop_grow
from sparserl_jax.sparsity.contract import Events, Evidence

EVENTS = Events(interval=10, end=60, drop_fraction=0.5)  # five events, at ticks 10 to 50
HIDDEN, OBS, ACTION = (12, 9), 6, 3
OPTIMISER = optax.adam(1e-3)


class Rig(NamedTuple):
    """A network with the family's functions, compiled once for all settings."""

    layers: Any
    like: Any
    init: Any
    event: Any
    events: Any  # the same over members

    def settings(self, sparsity: float, **choices: Any) -> drop_grow.Settings:
        counts = allocation.er(self.layers, sparsity)
        return drop_grow.settings(self.layers, counts, EVENTS, **choices)

    def tensors(self, tree: Any) -> list[np.ndarray]:
        """Every maskable tensor, in the order of counts."""
        return [
            np.asarray(leaf(tree, layer.kernel)).reshape(layer.copies, *layer.shape)[copy]
            for layer, copy in self.layers.tensors
        ]


def event(key, tick, params, opt_state, state, gradient):
    evidence = Evidence(lambda: gradient, *[None] * 5)
    params, _, opt_state, state, effects = drop_grow.evolve(key, tick, params, {}, opt_state, state, evidence)
    return params, opt_state, state, effects


@functools.cache
def rig(network: str) -> Rig:
    if network == "actor":
        layers = actor_layers(Actor(HIDDEN, ACTION), OBS)
    else:
        layers = critic_layers(TwinCritic(HIDDEN), OBS, ACTION)
    like = {"mlp": {}}
    for layer in layers:
        kernel = np.zeros(layer.stack + layer.shape, np.float32)
        like["mlp"][layer.name] = {
            "kernel": kernel,
            "bias": np.zeros(layer.stack + layer.shape[-1:], np.float32),
        }
    return Rig(
        layers,
        like,
        jax.jit(lambda key, params, settings: drop_grow.init(key, params, layers, settings)),
        jax.jit(event),
        jax.jit(jax.vmap(event, in_axes=(0, None, 0, 0, 0, 0))),
    )


def draw(like: Any, seed: int) -> Any:
    """Distinct values everywhere."""
    rng = np.random.default_rng(seed)

    def values(x):
        sizes = 1 + rng.permutation(x.size).reshape(x.shape)
        return (sizes / x.size * rng.choice([-1, 1], x.shape)).astype(np.float32)

    return jax.tree.map(values, like)


def moments(params: Any, seed: int) -> Any:
    """Optimiser state whose slots hold distinct values."""
    state = OPTIMISER.init((params, {}))
    return (state[0]._replace(mu=(draw(params, seed), {}), nu=(draw(params, seed + 1), {})), *state[1:])
