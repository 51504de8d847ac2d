"""Multi-layer perceptrons: the actors, the twin critic of TD3 and SAC (RLx2 section 1.1), the state value of PPO.

Two laws of initial weights, those of the networks the published results were made with:

    fan_in_uniform   weights and biases U(-1/sqrt(fan_in), 1/sqrt(fan_in))     (TD3)
    orthogonal       (semi-)orthogonal weights of gain 1, zero biases          (SAC, PPO)

A layer's law stands in the LayerTable, which lets a narrow network be initialised by its own law inside a wide one (see
`sparsity/tiny.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from sparserl_jax import orthogonal
from sparserl_jax.layers import LayerTable, derive


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


LAWS: dict[str, Callable[[int], tuple[nn.initializers.Initializer, nn.initializers.Initializer]]] = {
    "fan_in_uniform": lambda fan_in: (fan_in_uniform(fan_in), fan_in_uniform(fan_in)),
    "orthogonal": lambda fan_in: (orthogonal.init, nn.initializers.zeros),
}
"""Initialisers of weights and biases by the name of their law and the fan-in."""


class MLP(nn.Module):
    """Dense layers `hidden_0 ... hidden_k, output` with ReLU between them; `law` is one of `LAWS`.

    Maps `[..., in]` to `[..., features_out]`. Hidden activations are sown as `hidden_0_units`, ... under
    `intermediates` for methods that score units; nothing is stored unless that collection is asked for.
    """

    hidden: Sequence[int]
    features_out: int
    law: str = "fan_in_uniform"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index, width in enumerate(self.hidden):
            kernel, bias = LAWS[self.law](x.shape[-1])
            x = nn.relu(nn.Dense(width, kernel_init=kernel, bias_init=bias, name=f"hidden_{index}")(x))
            self.sow("intermediates", f"hidden_{index}_units", x)
        kernel, bias = LAWS[self.law](x.shape[-1])
        return nn.Dense(self.features_out, kernel_init=kernel, bias_init=bias, name="output")(x)


class Actor(nn.Module):
    """Deterministic policy: observation `[..., obs]` to action `[..., action]` in (-1, 1) through tanh."""

    hidden: Sequence[int]
    action_dim: int
    law: str = "fan_in_uniform"

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return jnp.tanh(MLP(self.hidden, self.action_dim, self.law, name="mlp")(obs))


class GaussianActor(nn.Module):
    """Stochastic policy of SAC: observation `[..., obs]` to (mean, spread), `[..., action]` each, both unbounded.

    The output layer has 2 * action units, means first; `distributions.tanh_normal` makes a policy of them.
    """

    hidden: Sequence[int]
    action_dim: int
    law: str = "orthogonal"

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, spread = jnp.split(MLP(self.hidden, 2 * self.action_dim, self.law, name="mlp")(obs), 2, axis=-1)
        return mean, spread


class ActionValues(nn.Module):
    """Values of discrete actions: observation `[..., obs]` to `[..., choice]`."""

    hidden: Sequence[int]
    choices: int
    law: str = "fan_in_uniform"

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return MLP(self.hidden, self.choices, self.law, name="mlp")(obs)


class TwinCritic(nn.Module):
    """Two independent action values: observations `[..., obs]` and actions `[..., action]` to `[2, ...]`.

    Every parameter carries a leading stack axis of length 2.
    """

    hidden: Sequence[int]
    law: str = "fan_in_uniform"

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
        return twin(self.hidden, 1, self.law, name="mlp")(jnp.concatenate([obs, action], axis=-1))[..., 0]


class Critic(nn.Module):
    """One action value: observations `[..., obs]` and actions `[..., action]` to `[...]`."""

    hidden: Sequence[int]
    law: str = "fan_in_uniform"

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        inputs = jnp.concatenate([obs, action], axis=-1)
        return MLP(self.hidden, 1, self.law, name="mlp")(inputs)[..., 0]


class LinearActor(nn.Module):
    """Actor without a squash: observation `[..., obs]` to the mean `[..., action]` of an action, unbounded."""

    hidden: Sequence[int]
    action_dim: int
    law: str = "orthogonal"

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return MLP(self.hidden, self.action_dim, self.law, name="mlp")(obs)


class Value(nn.Module):
    """State value: observations `[..., obs]` to `[...]`."""

    hidden: Sequence[int]
    law: str = "orthogonal"

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return MLP(self.hidden, 1, self.law, name="mlp")(obs)[..., 0]


def actor_layers(module: Actor | GaussianActor | LinearActor | ActionValues, obs_dim: int) -> LayerTable:
    """LayerTable of an actor that reads observations of length `obs_dim`."""
    return _layers_of_observations(module, obs_dim)


def value_layers(module: Value, obs_dim: int) -> LayerTable:
    """LayerTable of a state value that reads observations of length `obs_dim`."""
    return _layers_of_observations(module, obs_dim)


def _layers_of_observations(
    module: Actor | GaussianActor | LinearActor | ActionValues | Value, obs_dim: int
) -> LayerTable:
    layers = derive(
        lambda key, obs: module.init(key, obs)["params"], jax.ShapeDtypeStruct((obs_dim,), jnp.float32)
    )
    return LayerTable(dataclasses.replace(layer, law=module.law) for layer in layers)


def critic_layers(module: Critic | TwinCritic, obs_dim: int, action_dim: int) -> LayerTable:
    """LayerTable of one critic."""
    one = MLP(module.hidden, 1, module.law)
    layers = derive(
        lambda key, x: {"mlp": one.init(key, x)["params"]},
        jax.ShapeDtypeStruct((obs_dim + action_dim,), jnp.float32),
    )
    return LayerTable(dataclasses.replace(layer, law=module.law) for layer in layers)


def twin_critic_layers(module: TwinCritic, obs_dim: int, action_dim: int) -> LayerTable:
    """LayerTable of a twin critic; each layer has `stack == (2,)`.

    Derived from one of the twins: a lifted module returns its parameters sorted by name, not in forward order.
    """
    one = critic_layers(module, obs_dim, action_dim)
    return LayerTable(dataclasses.replace(layer, stack=(2,)) for layer in one)
