"""L0 regularisation by hard-concrete gates (Louizos, Welling and Kingma 2018; in deep RL the idea of Goddla 2024).

Every weight w, or every group of them, has a gate z in [0, 1] and is used as w z. Gates are drawn:

    s = sigmoid((log u - log(1 - u) + log_alpha) / beta),   u ~ U(0, 1)     binary concrete
    z = min(1, max(0, s (zeta - gamma) + gamma))                            stretched and cut, so that 0 and 1 happen
    P(z != 0) = sigmoid(log_alpha - beta log(-gamma / zeta))
    loss(w z) + lambda(t) sum_j size_j P(z_j != 0) / weights                size_j: weights behind gate j

log_alpha is trained with the weights, at a learning rate of its own, through the sample and through the penalty, and
kept within +-log 100. What does not learn has nothing to draw: it uses the mean gate

    zbar = min(1, max(0, sigmoid(log_alpha) (zeta - gamma) + gamma))

which is exactly 0 for log_alpha <= -log 11, and exactly 1 for log_alpha >= log 11. That is what acts, what targets
compute with (their log_alpha is averaged like their weights) and what is deployed: w zbar, masked by zbar > 0. Nothing
happens at events. lambda is the knob, sparsity an outcome; lambda(t) is 0 for the first tenth of training, rises
linearly until three tenths, and stays.

`l0` has a gate for every weight. `l0_unit` has one for every input unit of a dense layer and for every output filter of
a convolution. Biases have none.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.layers import Layer, LayerTable, leaf, with_leaf
from sparserl_jax.sparsity import drop_grow, penalised, pruning
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import (
    Declares,
    Events,
    Method,
    Mode,
    Params,
    Promise,
    Sparsifier,
    no_events,
)

BETA, GAMMA, ZETA, EPSILON = 2 / 3, -0.1, 1.1, 1e-6
"""Temperature, and the interval that s is stretched to, as published; u keeps EPSILON away from 0 and 1."""
LIMIT = math.log(100)
"""Largest |log_alpha|, as in the authors' code."""
DROP_RATE, SPREAD = 0.1, 0.01
"""At the start log_alpha ~ N(log((1 - d) / d), SPREAD^2); the smaller d, the nearer to dense."""
LEARNING_RATE = 1e-2
"""Of log_alpha."""
BEGIN, END = 0.1, 0.3
"""Shares of training between which lambda(t) rises."""


class Settings(NamedTuple):
    """f32 scalars. strength: lambda. begin, end: ticks between which lambda(t) rises. start: mean of log_alpha at the
    start. learning_rate: of log_alpha."""

    strength: Any
    begin: Any
    end: Any
    start: Any
    learning_rate: Any


class State(NamedTuple):
    """settings; tick i32[], optimiser steps taken; layers, static."""

    settings: Settings
    tick: jax.Array
    layers: LayerTable


jax.tree_util.register_pytree_node(
    State,
    lambda state: ((state.settings, state.tick), state.layers),
    lambda layers, children: State(*children, layers),
)


# ---- gates -----------------------------------------------------------------------------------------------------------


def drawn_gate(log_alpha: jax.Array, u: jax.Array) -> jax.Array:
    """z for the noise `u` in (0, 1), elementwise."""
    s = jax.nn.sigmoid((jnp.log(u) - jnp.log1p(-u) + log_alpha) / BETA)
    return jnp.clip(s * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


def mean_gate(log_alpha: jax.Array) -> jax.Array:
    """zbar, elementwise."""
    return jnp.clip(jax.nn.sigmoid(log_alpha) * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


def chance_open(log_alpha: jax.Array) -> jax.Array:
    """P(z != 0), elementwise."""
    return jax.nn.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def coefficient(settings: Settings, tick: jax.Array) -> jax.Array:
    """lambda(t) behind `tick` optimiser steps."""
    risen = (tick - settings.begin) / jnp.maximum(settings.end - settings.begin, 1.0)
    return settings.strength * jnp.clip(risen, 0.0, 1.0)


# ---- the functions of the contract -----------------------------------------------------------------------------------


def effective(params: Params, extra: Any, state: State, mode: Mode, key: jax.Array) -> Params:
    """Weights under a drawn gate while learning (one sample for the whole minibatch), else under the mean gate."""
    if mode != "learn":
        return deployed(params, extra, state)[0]
    for index, layer in enumerate(state.layers.maskable):
        log_alpha = extra["log_alpha"][layer.name]
        u = jax.random.uniform(
            jax.random.fold_in(key, index), log_alpha.shape, minval=EPSILON, maxval=1 - EPSILON
        )
        params = with_leaf(params, layer.kernel, leaf(params, layer.kernel) * drawn_gate(log_alpha, u))
    return params


def penalty(params: Params, extra: Any, state: State, clock: Any) -> jax.Array:
    """lambda(t) times the expected share of weights whose gate is open."""
    return coefficient(state.settings, state.tick) * expected_density(extra, state.layers)


def expected_density(extra: Any, layers: LayerTable) -> jax.Array:
    """Mean of P(z != 0) over all weights, f32[]."""
    tensors = layers.maskable
    gates = [extra["log_alpha"][layer.name] for layer in tensors]
    open_weights = [
        layer.size * layer.copies / gate.size * jnp.sum(chance_open(gate))
        for layer, gate in zip(tensors, gates, strict=True)
    ]
    return jnp.asarray(sum(open_weights) / tensors.weights)


def gradients(grads: Params, params: Params, extra: Any, state: State) -> Params:
    """Of all weights: those of closed gates are zero in the draws in which they are."""
    return grads


def project(params: Params, extra: Any, opt_state: Any, state: State) -> tuple[Params, Any, Any]:
    """log_alpha back into its limits."""
    return params, jax.tree.map(lambda x: jnp.clip(x, -LIMIT, LIMIT), extra), opt_state


def deployed(params: Params, extra: Any, state: State) -> tuple[Params, Params, str]:
    """Weights times their mean gates, masked where these are exactly zero."""
    masks = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
    for layer in state.layers.maskable:
        weights, gate = leaf(params, layer.kernel), mean_gate(extra["log_alpha"][layer.name])
        masks = with_leaf(masks, layer.kernel, jnp.broadcast_to(gate > 0, weights.shape))
        params = with_leaf(params, layer.kernel, weights * gate)
    return mask_ops.apply(masks, params), masks, "plain"


def refresh(params: Params, extra: Any, state: State) -> State:
    """One step more: the clock counts the critic's, and the schedule is in those of this network."""
    return state._replace(tick=state.tick + 1)


def diagnose(params: Params, extra: Any, state: State) -> dict[str, Any]:
    """Sparsity as deployed, the expected one, and what is left of every layer."""
    live = mask_ops.nnz_table(state.layers, deployed(params, extra, state)[1])
    shares: dict[str, Any] = {}
    for (layer, _), count in zip(state.layers.tensors, live, strict=True):
        shares[layer.name] = jnp.minimum(shares.get(layer.name, 1.0), count / layer.size)
    return {
        "sparsity": 1.0 - jnp.sum(live) / state.layers.maskable.weights,
        "expected_sparsity": 1.0 - expected_density(extra, state.layers),
        "live": shares,
    }


def per_weight(layer: Layer) -> tuple[int, ...]:
    """Shape of the gates of a layer: one for every weight."""
    return layer.shape


def per_unit(layer: Layer) -> tuple[int, ...]:
    """Shape of the gates of a layer: one for every input unit, or for every output filter of a convolution."""
    if layer.kind == "conv":
        return (*(1 for _ in layer.shape[:-1]), layer.units_out)
    return (layer.units_in, 1)


def family(name: str, shape: Any) -> Sparsifier:
    """The family whose gates have this shape: `per_weight` or `per_unit`."""

    def init(
        key: jax.Array, params: Params, layers: LayerTable, settings: Settings
    ) -> tuple[Params, Any, State]:
        """All weights, gates nearly open."""
        gates = {
            layer.name: settings.start
            + SPREAD * jax.random.normal(jax.random.fold_in(key, index), layer.stack + shape(layer))
            for index, layer in enumerate(layers.maskable)
        }
        return params, {"log_alpha": gates}, State(settings, jnp.zeros((), jnp.int32), layers)

    return drop_grow.DROP_GROW._replace(
        name=name,
        init=init,
        effective=effective,
        penalty=penalty,
        gradients=gradients,
        project=project,
        evolve=no_events,
        deployed=deployed,
        declares=Declares(budget="none", targets="none", slots="keep", learning="dense"),
        adopt=None,
        refresh=refresh,
        extra_rate=lambda state: state.settings.learning_rate,
        diagnose=diagnose,
    )


def method(
    name: str,
    family: Sparsifier,
    summary: str,
    *,
    learning_rate: float = LEARNING_RATE,
    drop_rate: float = DROP_RATE,
) -> Method:
    """A method of such a family; `learning_rate`: of log_alpha, `drop_rate`: d."""

    def settings(layers: LayerTable, knob: float, events: Events, source: str) -> Settings:
        strength = penalised.strength(name, knob)
        numbers = BEGIN * events.end, END * events.end, math.log((1 - drop_rate) / drop_rate), learning_rate
        return Settings(strength, *(np.float32(number) for number in numbers))

    def promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
        penalised.strength(name, knob)
        return Promise(pruning.sizes(layers).tolist())

    return Method(name, family, settings, promise, summary)


L0 = method(
    "l0", family("l0", per_weight), "train with knob * the expected share of open gates, one per weight"
)
L0_UNIT = method("l0_unit", family("l0_unit", per_unit), "l0 with one gate per input unit (filter of a conv)")
