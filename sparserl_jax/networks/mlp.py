"""Multi-layer perceptrons, and the heads of all networks: the actors, the twin critic of TD3 and SAC (RLx2 section
1.1), the values of DQN and PPO.

A head is a function of what its `kind` of network puts out: `mlp`, `cnn` (which has to know the shape of its `image`)
or `simba`. `hidden` are the widths of the hidden layers, or of the residual blocks; `law` is one of `laws.LAWS`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sparserl_jax.layers import LayerTable, derive
from sparserl_jax.networks import cnn, simba
from sparserl_jax.networks.laws import dense

Image = tuple[int, ...]
"""Height, width, channels."""


class MLP(nn.Module):
    """Dense layers `hidden_0 ... hidden_k, output` with ReLU between them.

    Maps `[..., in]` to `[..., features_out]`. Hidden activations are sown as `hidden_0_units`, ... under
    `intermediates` for methods that score units; nothing is stored unless that collection is asked for.
    """

    hidden: Sequence[int]
    features_out: int
    law: str = "fan_in_uniform"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index, width in enumerate(self.hidden):
            x = nn.relu(dense(width, x.shape[-1], self.law, f"hidden_{index}")(x))
            self.sow("intermediates", f"hidden_{index}_units", x)
        return dense(self.features_out, x.shape[-1], self.law, "output")(x)


KINDS: dict[str, type[nn.Module]] = {"mlp": MLP, "cnn": cnn.CNN, "simba": simba.SimBa}
"""Networks by name: modules of (hidden, features_out, law)."""


def network(kind: str, image: Image | None) -> Callable[..., Any]:
    """Constructor of a network of this kind; its parameters lie under that name."""
    more = {"image": image} if kind == "cnn" else {}
    return functools.partial(KINDS[kind], name=kind, **more)


class Actor(nn.Module):
    """Deterministic policy: observation `[..., obs]` to action `[..., action]` in (-1, 1) through tanh."""

    hidden: Sequence[int]
    action_dim: int
    law: str = "fan_in_uniform"
    kind: str = "mlp"
    image: Image | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        outputs = network(self.kind, self.image)(self.hidden, self.action_dim, self.law)(obs)
        return jnp.tanh(outputs)


class GaussianActor(nn.Module):
    """Stochastic policy of SAC: observation `[..., obs]` to (mean, spread), `[..., action]` each, both unbounded.

    The output layer has 2 * action units, means first; `distributions.tanh_normal` makes a policy of them, and
    `agents.policies` others.
    """

    hidden: Sequence[int]
    action_dim: int
    law: str = "orthogonal"
    kind: str = "mlp"
    image: Image | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = network(self.kind, self.image)(self.hidden, 2 * self.action_dim, self.law)(obs)
        mean, spread = jnp.split(outputs, 2, axis=-1)
        return mean, spread


class HeavyActor(nn.Module):
    """Stochastic policy with tails to learn: as `GaussianActor`, and behind them one unit more, which is unbounded."""

    hidden: Sequence[int]
    action_dim: int
    law: str = "xavier_uniform"
    kind: str = "mlp"
    image: Image | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        outputs = network(self.kind, self.image)(self.hidden, 2 * self.action_dim + 1, self.law)(obs)
        mean, spread, tail = jnp.split(outputs, (self.action_dim, 2 * self.action_dim), axis=-1)
        return mean, spread, tail[..., 0]


class ActionValues(nn.Module):
    """Values of discrete actions: observation `[..., obs]` to `[..., choice]`."""

    hidden: Sequence[int]
    choices: int
    law: str = "fan_in_uniform"
    kind: str = "mlp"
    image: Image | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        values: jax.Array = network(self.kind, self.image)(self.hidden, self.choices, self.law)(obs)
        return values


class TwinCritic(nn.Module):
    """Two independent action values: observations `[..., obs]` and actions `[..., action]` to `[2, ...]`.

    Every parameter carries a leading stack axis of length 2.
    """

    hidden: Sequence[int]
    law: str = "fan_in_uniform"
    kind: str = "mlp"

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        twin = nn.vmap(
            KINDS[self.kind],
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=None,
            out_axes=0,
            axis_size=2,
        )
        return twin(self.hidden, 1, self.law, name=self.kind)(jnp.concatenate([obs, action], axis=-1))[..., 0]


class Critic(nn.Module):
    """One action value: observations `[..., obs]` and actions `[..., action]` to `[...]`."""

    hidden: Sequence[int]
    law: str = "fan_in_uniform"
    kind: str = "mlp"

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        inputs = jnp.concatenate([obs, action], axis=-1)
        value: jax.Array = KINDS[self.kind](self.hidden, 1, self.law, name=self.kind)(inputs)[..., 0]
        return value


def one_critic(critic: Critic | TwinCritic) -> nn.Module:
    """The critic, or one of the two: observations and actions side by side `[..., obs + action]` to `[..., 1]`."""
    return KINDS[critic.kind](critic.hidden, 1, critic.law)


class LinearActor(nn.Module):
    """Actor without a squash: observation `[..., obs]` to the mean `[..., action]` of an action, unbounded."""

    hidden: Sequence[int]
    action_dim: int
    law: str = "orthogonal"
    kind: str = "mlp"
    image: Image | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        mean: jax.Array = network(self.kind, self.image)(self.hidden, self.action_dim, self.law)(obs)
        return mean


class Value(nn.Module):
    """State value: observations `[..., obs]` to `[...]`."""

    hidden: Sequence[int]
    law: str = "orthogonal"
    kind: str = "mlp"
    image: Image | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        value: jax.Array = network(self.kind, self.image)(self.hidden, 1, self.law)(obs)
        return value[..., 0]


ObservationHead = Actor | GaussianActor | HeavyActor | LinearActor | ActionValues | Value


def actor_layers(module: ObservationHead, obs_dim: int) -> LayerTable:
    """LayerTable of an actor that reads observations of length `obs_dim`."""
    return _described(lambda key, obs: module.init(key, obs)["params"], obs_dim, module, module.image)


def value_layers(module: Value, obs_dim: int) -> LayerTable:
    """LayerTable of a state value that reads observations of length `obs_dim`."""
    return actor_layers(module, obs_dim)


def critic_layers(module: Critic | TwinCritic, obs_dim: int, action_dim: int) -> LayerTable:
    """LayerTable of a critic; of twins each layer has `stack == (2,)`.

    Derived from one of them: a lifted module returns its parameters sorted by name, not in forward order.
    """
    one, stack = one_critic(module), (2,) if isinstance(module, TwinCritic) else ()
    layers = _described(
        lambda key, x: {module.kind: one.init(key, x)["params"]}, obs_dim + action_dim, module, None
    )
    return LayerTable(dataclasses.replace(layer, stack=stack) for layer in layers)


def _described(
    init: Callable[..., Any], inputs: int, module: ObservationHead | Critic | TwinCritic, image: Image | None
) -> LayerTable:
    """What `init` makes of a vector of so many `inputs`, with what shapes do not say."""
    derived = derive(init, jax.ShapeDtypeStruct((inputs,), jnp.float32))
    layers = LayerTable(dataclasses.replace(layer, law=module.law) for layer in derived)
    if module.kind == "cnn":
        assert image is not None, "refused before"
        return cnn.described(layers, image)
    return simba.described(layers) if module.kind == "simba" else layers
