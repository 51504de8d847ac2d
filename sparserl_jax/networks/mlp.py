"""Multi-layer perceptrons of TD3: the deterministic actor and the twin critic (RLx2 section 1.1).

Initialisation is the uniform law U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases, that of the networks the
published results were made with. It scales with the fan-in alone, which lets a narrow network be initialised inside a
wide one (see `sparsity/tiny.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from sparserl_jax.layers import LayerTable, derive


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class MLP(nn.Module):
    """Dense layers `hidden_0 ... hidden_k, output` with ReLU between them.

    Maps `[..., in]` to `[..., features_out]`. Hidden activations are sown as `hidden_0_units`, ... under
    `intermediates` for methods that score units; nothing is stored unless that collection is asked for.
    """

    hidden: Sequence[int]
    features_out: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index, width in enumerate(self.hidden):
            init = fan_in_uniform(x.shape[-1])
            x = nn.relu(nn.Dense(width, kernel_init=init, bias_init=init, name=f"hidden_{index}")(x))
            self.sow("intermediates", f"hidden_{index}_units", x)
        init = fan_in_uniform(x.shape[-1])
        return nn.Dense(self.features_out, kernel_init=init, bias_init=init, name="output")(x)


class Actor(nn.Module):
    """Deterministic policy: observation `[..., obs]` to action `[..., action]` in (-1, 1) through tanh."""

    hidden: Sequence[int]
    action_dim: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return jnp.tanh(MLP(self.hidden, self.action_dim, name="mlp")(obs))


class TwinCritic(nn.Module):
    """Two independent action values: observations `[..., obs]` and actions `[..., action]` to `[2, ...]`.

    Every parameter carries a leading stack axis of length 2.
    """

    hidden: Sequence[int]

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        twin = nn.vmap(
            MLP,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=None,
            out_axes=0,
            axis_size=2,
        )
        return twin(self.hidden, 1, name="mlp")(jnp.concatenate([obs, action], axis=-1))[..., 0]


def actor_layers(module: Actor, obs_dim: int) -> LayerTable:
    """LayerTable of an actor that reads observations of length `obs_dim`."""
    return derive(
        lambda key, obs: module.init(key, obs)["params"], jax.ShapeDtypeStruct((obs_dim,), jnp.float32)
    )


def twin_critic_layers(module: TwinCritic, obs_dim: int, action_dim: int) -> LayerTable:
    """LayerTable of a twin critic; each layer has `stack == (2,)`.

    Derived from one of the twins: a lifted module returns its parameters sorted by name, not in forward order.
    """
    one = MLP(module.hidden, 1)
    layers = derive(
        lambda key, x: {"mlp": one.init(key, x)["params"]},
        jax.ShapeDtypeStruct((obs_dim + action_dim,), jnp.float32),
    )
    return LayerTable(dataclasses.replace(layer, stack=(2,)) for layer in layers)
