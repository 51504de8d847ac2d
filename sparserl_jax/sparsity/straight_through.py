"""What methods share that keep dense weights and compute with the largest of them (Zhou et al. 2021).

With m the support of the weights w, looked up anew after every optimiser step:

    forward     L(m w)
    gradient    dL/d(m w), handed straight through to w as if m were not there            (STE)
                + decay (1 - m) w                                                         (SR-STE, equation 7)

A weight outside the support goes on learning, and comes into force once it is large enough. Only the support acts, is
evaluated and deployed. Target networks are averages of the dense weights, used under the support of the online network:
cut down to it they would forget a weight each time it leaves. Nothing happens at events. Memory and arithmetic are
those of a dense network; in theory, too, the gradient of the weights is dense.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import drop_grow
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


class Settings(NamedTuple):
    """support: whatever the family's `Select` asks for: counts i32[T], or N and M of layers, i32[L,2].
    decay: f32, lambda_w of SR-STE. straight: bool, gradients reach all weights, or only those of the support.
    """

    support: Any
    decay: Any
    straight: Any


Select = Callable[[Params, Params, Any, LayerTable], Params]
"""(weights, masks, settings.support, layers) to `masks` with the support of the weights in every maskable tensor."""


@jax.custom_jvp
def through(masks: Params, params: Params) -> Params:
    """The weights under their masks; derivatives are those of the weights."""
    return mask_ops.apply(masks, params)


@through.defjvp
def _(primals: tuple[Params, Params], tangents: tuple[Params, Params]) -> tuple[Params, Params]:
    return through(*primals), tangents[1]


def effective(params: Params, extra: Any, state: drop_grow.State, mode: Mode, key: jax.Array) -> Params:
    """The support, whatever the mode; while learning, gradients pass straight to all weights."""
    return through(state.masks, params) if mode == "learn" else mask_ops.apply(state.masks, params)


def gradients(grads: Params, params: Params, extra: Any, state: drop_grow.State) -> Params:
    """Of all weights or of the support alone, and the pull of SR-STE on the rest."""
    chosen: Any = state.settings

    def one(live: jax.Array, gradient: jax.Array, weight: jax.Array) -> jax.Array:
        outside = jnp.where(chosen.straight, gradient, 0.0) + chosen.decay * weight
        return jnp.where(live, gradient, outside)

    return jax.tree.map(one, state.masks, grads, params)


def project(params: Params, extra: Any, opt_state: Any, state: drop_grow.State) -> tuple[Params, Any, Any]:
    """Weights stay whole."""
    return params, extra, opt_state


def family(
    name: str, select: Select, misfit: Callable[[Params, LayerTable, Any], str | None] | None = None
) -> Sparsifier:
    """The family of methods whose support is this one; members differ in `Settings`. `misfit`: see `Sparsifier`."""

    def looked_up(params: Params, masks: Params, settings: Any, layers: LayerTable) -> drop_grow.State:
        return drop_grow.State(select(params, masks, settings.support, layers), settings, layers)

    def init(
        key: jax.Array, params: Params, layers: LayerTable, settings: Any
    ) -> tuple[Params, Any, drop_grow.State]:
        """All weights, and which of them are in force."""
        alive = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
        return params, {}, looked_up(params, alive, settings, layers)

    def refresh(params: Params, extra: Any, state: drop_grow.State) -> drop_grow.State:
        """The support of the weights as they are now."""
        return looked_up(params, state.masks, state.settings, state.layers)

    def adopt(params: Params, masks: Params, state: drop_grow.State) -> tuple[Params, Any, drop_grow.State]:
        """Trained weights, all others at zero."""
        params = mask_ops.apply(masks, params)
        return params, {}, looked_up(params, masks, state.settings, state.layers)

    return drop_grow.DROP_GROW._replace(
        name=name,
        init=init,
        effective=effective,
        gradients=gradients,
        project=project,
        evolve=no_events,
        declares=Declares(budget="per_tensor", targets="none", slots="keep"),
        adopt=adopt,
        refresh=refresh,
        misfit=misfit,
    )


def method(
    name: str,
    family: Sparsifier,
    support: Callable[[LayerTable, float], tuple[Any, list[int]]],
    summary: str,
    *,
    decay: float = 0.0,
    straight: bool = True,
) -> Method:
    """A method of such a family.

    Args:
        support: from a sparsity to what the family's `Select` asks for, and to the live weights of every tensor.
        decay: lambda_w of SR-STE.
        straight: gradients reach all weights; where not, only those of the support.
    """

    def settings(layers: LayerTable, knob: float, events: Events, source: str) -> Settings:
        return Settings(support(layers, knob)[0], np.float32(decay), np.bool_(straight))

    def promise(layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
        every = [layer.size for layer, _ in layers.tensors]
        return Promise(support(layers, knob)[1], learned=every if straight else None)

    return Method(name, family, settings, promise, summary)
