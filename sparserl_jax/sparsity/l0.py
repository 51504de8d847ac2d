"""L0 regularisation by hard-concrete gates (Louizos, Welling and Kingma 2018; in deep RL the idea of Goddla 2024).

Every weight w, or every group of them, has a gate z in [0, 1] and is used as w z. Gates are drawn:

    s = sigmoid((log u - log(1 - u) + log_alpha) / beta),   u ~ U(0, 1)     binary concrete
    z = min(1, max(0, s (zeta - gamma) + gamma))                            stretched and cut, so that 0 and 1 happen
    P(z != 0) = sigmoid(log_alpha - beta log(-gamma / zeta))
    loss(w z) + lambda(t) sum_j size_j P(z_j != 0) / weights                size_j: weights behind gate j

log_alpha is trained with the weights, at a learning rate of its own, through the sample and through the penalty, and
kept within +-log 100. What acts and what is deployed has nothing to draw: it uses the mean gate

    zbar = min(1, max(0, sigmoid(log_alpha) (zeta - gamma) + gamma))

which is exactly 0 for log_alpha <= -log 11, and exactly 1 for log_alpha >= log 11: w zbar, masked by zbar > 0.

Targets draw, too: their log_alpha is averaged like their weights, and weights whose online mean gate is closed are cut.
For open gates zbar is above the mean of z (at the start 0.98 for 0.88, at the upper limit 1 for 0.987), and layers
multiply that. Values of a target under mean gates would be larger by a factor c than those that drawn networks are
trained to have, so that each bootstrap discounted by c gamma, which is more than 1: values diverge (`drawn_targets` =
False shows it).

Nothing happens at events. lambda is the knob, sparsity an outcome; lambda(t) is 0 for the first tenth of training,
rises linearly until three tenths, and stays.

With lambda = 0 there is nothing to be gained from drawing: all gates are whole for good, and the network is dense (a
critic beside a gated actor, say).

`l0` has a gate for every weight. `l0_unit` has one for every input unit of a dense layer and for every output filter of
a convolution. Biases have none.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.errors import UserError
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

WHOLE = 100.0
"""log_alpha of all gates where there is no coefficient: every draw and the mean are exactly 1, and have no gradient."""
BETA, GAMMA, ZETA, EPSILON = 2 / 3, -0.1, 1.1, 1e-6
"""Temperature, and the interval that s is stretched to, as published; u keeps EPSILON away from 0 and 1."""
LIMIT = math.log(100)
"""Largest |log_alpha|, as in the authors' code."""
DROP_RATE, SPREAD = 0.1, 0.01
"""At the start log_alpha ~ N(log((1 - d) / d), SPREAD^2); the smaller d, the nearer to dense."""
ADOPTED = 0.0
"""Least log_alpha of an open gate of a network that is taken up, whatever the drop rate: half open."""
LEARNING_RATE = 1e-2
"""Of log_alpha."""
BEGIN, END = 0.1, 0.3
"""Shares of training between which lambda(t) rises."""


class Settings(NamedTuple):
    """f32 scalars. strength: lambda. begin, end: ticks between which lambda(t) rises. start: mean of log_alpha at the
    start. learning_rate: of log_alpha. drawn_targets: bool, or targets use mean gates."""

    strength: Any
    begin: Any
    end: Any
    start: Any
    learning_rate: Any
    drawn_targets: Any


class State(NamedTuple):
    """masks: where mean gates are open. settings; tick i32[], optimiser steps taken; layers, static."""

    masks: Params
    settings: Settings
    tick: jax.Array
    layers: LayerTable


jax.tree_util.register_pytree_node(
    State,
    lambda state: ((state.masks, state.settings, state.tick), state.layers),
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


def ungated(settings: Settings) -> jax.Array:
    """Whether the network has no gate that could close, bool[]."""
    return jnp.asarray(settings.start) >= WHOLE


# ---- the functions of the contract -----------------------------------------------------------------------------------


def effective(params: Params, extra: Any, state: State, mode: Mode, key: jax.Array) -> Params:
    """Weights under drawn gates in losses and targets (one sample for the whole minibatch), else under mean gates."""
    if mode in ("act", "deploy"):
        return deployed(params, extra, state)[0]
    for index, layer in enumerate(state.layers.maskable):
        log_alpha = extra["log_alpha"][layer.name]
        u = jax.random.uniform(
            jax.random.fold_in(key, index), log_alpha.shape, minval=EPSILON, maxval=1 - EPSILON
        )
        gate = drawn_gate(log_alpha, u)
        if mode == "target":
            gate = jnp.where(state.settings.drawn_targets, gate, mean_gate(log_alpha))
        params = with_leaf(params, layer.kernel, leaf(params, layer.kernel) * gate)
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
    """log_alpha back into its limits; targets are cut down to the online network's support."""
    params = mask_ops.apply(state.masks, params) if opt_state is None else params
    most = jnp.where(ungated(state.settings), 2 * WHOLE, LIMIT)
    return params, jax.tree.map(lambda x: jnp.clip(x, -LIMIT, most), extra), opt_state


def deployed(params: Params, extra: Any, state: State) -> tuple[Params, Params, str]:
    """Weights times their mean gates, masked where these are exactly zero."""
    masks = support(params, extra, state.layers)
    for layer in state.layers.maskable:
        gate = mean_gate(extra["log_alpha"][layer.name])
        params = with_leaf(params, layer.kernel, leaf(params, layer.kernel) * gate)
    return mask_ops.apply(masks, params), masks, "plain"


def support(params: Params, extra: Any, layers: LayerTable) -> Params:
    """Masks of the weights whose mean gate is open; biases live."""
    masks: Params = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
    for layer in layers.maskable:
        live = mean_gate(extra["log_alpha"][layer.name]) > 0
        masks = with_leaf(masks, layer.kernel, jnp.broadcast_to(live, layer.stack + layer.shape))
    return masks


def refresh(params: Params, extra: Any, state: State) -> State:
    """The support, and one step more: the clock counts the critic's, and the schedule is in those of this network."""
    return state._replace(masks=support(params, extra, state.layers), tick=state.tick + 1)


def diagnose(params: Params, extra: Any, state: State) -> dict[str, Any]:
    """Sparsity as deployed, the expected one, and what is left of every layer."""
    live = mask_ops.nnz_table(state.layers, state.masks)
    shares: dict[str, Any] = {}
    for (layer, _), count in zip(state.layers.tensors, live, strict=True):
        shares[layer.name] = jnp.minimum(shares.get(layer.name, 1.0), count / layer.size)
    return {
        "sparsity": (state.layers.maskable.weights - jnp.sum(live)) / state.layers.maskable.weights,
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
        extra = {"log_alpha": gates}
        return (
            params,
            extra,
            State(support(params, extra, layers), settings, jnp.zeros((), jnp.int32), layers),
        )

    def adopt(params: Params, masks: Params, state: State) -> tuple[Params, Any, State]:
        """Trained weights that act as they did: gates as open as at the start where a weight lives, else closed as far
        as they go, and weights divided by the mean gate that they are then multiplied with. Without a coefficient all
        are open."""
        start = jnp.maximum(state.settings.start, ADOPTED)
        params, gates = mask_ops.apply(masks, params), {}
        for layer in state.layers.maskable:
            live, sides = leaf(masks, layer.kernel), shape(layer)
            # The kernel of a layer that reads an image has a window; its gates have none.
            windows = live.ndim - len(layer.stack) - len(sides)
            sides = (1,) * windows + sides
            shared = tuple(len(layer.stack) + axis for axis, side in enumerate(sides) if side == 1)
            any_live = jnp.any(live, axis=shared, keepdims=True) | ungated(state.settings)
            gates[layer.name] = jnp.where(any_live, start, -LIMIT).reshape(layer.stack + shape(layer))
            params = with_leaf(params, layer.kernel, leaf(params, layer.kernel) / mean_gate(start))
        extra = {"log_alpha": gates}
        return params, extra, state._replace(masks=support(params, extra, state.layers))

    return drop_grow.DROP_GROW._replace(
        name=name,
        init=init,
        effective=effective,
        penalty=penalty,
        gradients=gradients,
        project=project,
        evolve=no_events,
        deployed=deployed,
        declares=Declares(budget="none", targets="online", slots="keep", learning="dense"),
        adopt=adopt,
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
    drawn_targets: bool = True,
) -> Method:
    """A method of such a family; `learning_rate`: of log_alpha, `drop_rate`: d, between 0 and 1, `drawn_targets`: see
    above."""
    if not 0 < drop_rate < 1:
        raise UserError(f"{name}: drop_rate = {drop_rate} is not between 0 and 1.")

    def settings(layers: LayerTable, knob: float, events: Events, source: str) -> Settings:
        strength = penalised.strength(name, knob)
        return Settings(
            strength=strength,
            begin=np.float32(BEGIN * events.end),
            end=np.float32(END * events.end),
            start=np.float32(math.log((1 - drop_rate) / drop_rate) if strength > 0 else WHOLE),
            learning_rate=np.float32(learning_rate),
            drawn_targets=np.bool_(drawn_targets),
        )

    def promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
        penalised.strength(name, knob)
        return Promise(pruning.sizes(layers).tolist())

    return Method(name, family, settings, promise, summary, coefficient=True)


L0 = method(
    "l0", family("l0", per_weight), "train with knob * the expected share of open gates, one per weight"
)
L0_UNIT = method("l0_unit", family("l0_unit", per_unit), "l0 with one gate per input unit (filter of a conv)")
