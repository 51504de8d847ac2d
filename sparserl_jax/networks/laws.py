"""Laws of initial weights, those of the networks the published results were made with:

    fan_in_uniform   weights and biases U(-1/sqrt(fan_in), 1/sqrt(fan_in))     (TD3)
    orthogonal       (semi-)orthogonal weights of gain 1, zero biases          (SAC, PPO)
    xavier_uniform   weights U(-b, b), b = sqrt(6 / (fan_in + fan_out)), zero biases   (FtTPO)

A layer's law stands in the LayerTable, which lets a narrow network be initialised by its own law inside a wide one (see
`sparsity/tiny.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from sparserl_jax import orthogonal


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


LAWS: dict[str, Callable[[int], tuple[nn.initializers.Initializer, nn.initializers.Initializer]]] = {
    "fan_in_uniform": lambda fan_in: (fan_in_uniform(fan_in), fan_in_uniform(fan_in)),
    "orthogonal": lambda fan_in: (orthogonal.init, nn.initializers.zeros),
    "xavier_uniform": lambda fan_in: (nn.initializers.xavier_uniform(), nn.initializers.zeros),
}
"""Initialisers of weights and biases by the name of their law and the fan-in."""


def dense(features: int, fan_in: int, law: str, name: str) -> nn.Dense:
    """Dense layer whose initial weights and biases follow a law."""
    kernel, bias = LAWS[law](fan_in)
    return nn.Dense(features, kernel_init=kernel, bias_init=bias, name=name)
