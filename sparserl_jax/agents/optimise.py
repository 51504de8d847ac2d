"""The one place where a network is trained: `step_network`.

Loss of the effective weights plus penalty -> gradients -> at an event: evolve, and no optimiser step; otherwise:
optimiser step, then project. The event uses this tick's minibatch and skips nothing else. Dense gradients never leave
this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Effects, Events, Evidence, Mode, Params, Sparsifier


class Network(NamedTuple):
    """A trained network of one member: weights, what its method trains with them, optimiser slots, method state."""

    params: Params
    extra: Any
    opt_state: Any
    sparsity: Any


class Trainer(NamedTuple):
    """How a network is trained; static.

    optimizer acts on the pair (params, extra); one that ends in `by_learning_rate` follows the member's own learning
    rate. events say when its topology may change, in its own ticks.
    """

    sparsifier: Sparsifier
    optimizer: optax.GradientTransformation
    layers: LayerTable
    events: Events


class StepInfo(NamedTuple):
    """What one step reports: the loss without penalty, the loss function's own output, norms, effects of an event."""

    loss: jax.Array
    aux: Any
    grad_norm: jax.Array
    effects: Effects


def by_learning_rate() -> optax.GradientTransformationExtraArgs:
    """Descend by a learning rate that comes with each update (`learning_rate=`), traced, so that it may differ between
    members: one for all, or one for each part of what is updated (a prefix of its tree). In place of
    `optax.scale_by_learning_rate`, with the same (empty) slots.
    """

    def update(updates: Any, slots: Any, params: Any = None, *, learning_rate: Any, **_: Any) -> Any:
        def descend(rate: Any, part: Any) -> Any:
            return jax.tree.map(lambda x: -rate * x, part)

        return jax.tree.map(descend, learning_rate, updates), slots

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def adam(eps: float = 1e-8, largest: float | None = None) -> optax.GradientTransformation:
    """Adam with the member's own learning rate; `largest`: norm that longer gradients are scaled down to."""
    steps = (optax.scale_by_adam(eps=eps), by_learning_rate())
    return optax.chain(*(steps if largest is None else (optax.clip_by_global_norm(largest), *steps)))


Loss = Callable[[Params], tuple[jax.Array, Any]]
"""Effective parameters to (f32 scalar loss, auxiliary output)."""


def init_network(trainer: Trainer, key: jax.Array, params: Params, settings: Any) -> Network:
    """Sparsify fresh `params` and give them optimiser slots."""
    params, extra, sparsity = trainer.sparsifier.init(key, params, trainer.layers, settings)
    return Network(params, extra, trainer.optimizer.init((params, extra)), sparsity)


def adopt_network(trainer: Trainer, network: Network, params: Params, masks: Params) -> Network:
    """`network` with trained `params` under their `masks` in place of its own, and fresh optimiser slots.

    Raises:
        UserError: its method has no state that a mask determines.
    """
    sparsifier = trainer.sparsifier
    if sparsifier.adopt is None:
        raise UserError(
            f"methods of the family '{sparsifier.name}' cannot start from trained networks; leave --from (in a suite: "
            "`from`) out, or choose another method."
        )
    params, extra, sparsity = sparsifier.adopt(params, masks, network.sparsity)
    return Network(params, extra, trainer.optimizer.init((params, extra)), sparsity)


def left_of(sparsifier: Sparsifier, network: Network) -> Params:
    """The weights that a finished network leaves: its own, or as deployed where these are nothing without what is
    trained with them (gates)."""
    if not network.extra:
        return network.params
    return sparsifier.deployed(network.params, network.extra, network.sparsity)[0]


def effective(trainer: Trainer, network: Network, mode: Mode, key: jax.Array) -> Params:
    """The weights of `network` as used in `mode`."""
    return trainer.sparsifier.effective(network.params, network.extra, network.sparsity, mode, key)


def step_network(
    trainer: Trainer,
    network: Network,
    loss: Loss,
    *,
    tick: jax.Array,
    clock: Any,
    key: jax.Array,
    evidence: Evidence,
    learning_rate: jax.Array | float | None = None,
    left: jax.Array | float | None = None,
    gates: jax.Array | None = None,
) -> tuple[Network, StepInfo]:
    """One tick of one network.

    Args:
        trainer: static description of how it is trained.
        network: the network.
        loss: this tick's loss as a function of the effective parameters.
        tick: i32 scalar, unbatched: number of this gradient computation, from 1.
        clock: passed on to `penalty`.
        key: for gates in mode `learn` and for the event.
        evidence: as given by the training loop and the agent; gradient functions are filled in here.
        learning_rate: f32 scalar for an optimizer that asks for it; that of the weights alone where the method has its
            own for `extra`.
        left: factor on all learning rates, where they fall during training.
        gates: key for gates in mode `learn` in place of one from `key`, where they have to be those of a rollout.
    """
    sparsifier, (params, extra, opt_state, sparsity) = trainer.sparsifier, network
    optimizer = optax.with_extra_args_support(trainer.optimizer)
    learn_key, event_key = jax.random.split(key)
    total = _objective(trainer, sparsity, loss, clock, learn_key if gates is None else gates)
    (dense_grads, extra_grads), (value, aux) = jax.grad(total, has_aux=True)((params, extra))
    live_grads = sparsifier.gradients(dense_grads, params, extra, sparsity)
    rate: Any = learning_rate
    if sparsifier.extra_rate is not None:
        rate = (learning_rate, sparsifier.extra_rate(sparsity))
    if left is not None:
        rate = jax.tree.map(lambda full: full * left, rate)

    def optimise() -> Network:
        updates, slots = optimizer.update(
            (live_grads, extra_grads), opt_state, (params, extra), learning_rate=rate
        )
        new_params, new_extra = optax.apply_updates((params, extra), updates)
        projected = sparsifier.project(new_params, new_extra, slots, sparsity)
        if sparsifier.refresh is None:
            return Network(*projected, sparsity)
        return Network(*projected, sparsifier.refresh(*projected[:2], sparsity))

    def event() -> tuple[Network, Effects]:
        def gradient(at: Params) -> Params:
            return jax.grad(lambda weights: total((weights, extra))[0])(at)

        seen = evidence._replace(
            grad=lambda: dense_grads,
            hvp=lambda vector: jax.jvp(gradient, (params,), (vector,))[1],
            loss=lambda weights: total((weights, extra))[0],
        )
        *evolved, effects = sparsifier.evolve(event_key, tick, params, extra, opt_state, sparsity, seen)
        # A member without events of its own takes its optimiser step as on any other tick.
        chosen = jax.tree.map(
            lambda new, old: jnp.where(effects.happened, new, old), Network(*evolved), optimise()
        )
        return chosen, effects.kept()

    if trainer.events.count == 0:
        stepped, effects = optimise(), Effects.of(happened=False)
    else:
        # `tick` carries no member axis, so this stays a branch under vmap.
        stepped, effects = jax.lax.cond(
            trainer.events.due(tick), event, lambda: (optimise(), Effects.of(happened=False))
        )
    return stepped, StepInfo(value, aux, optax.tree.norm(live_grads), effects)


def _objective(
    trainer: Trainer, sparsity: Any, loss: Loss, clock: Any, key: jax.Array
) -> Callable[[tuple[Params, Any]], tuple[jax.Array, tuple[jax.Array, Any]]]:
    """Loss of the effective weights plus penalty as a function of (params, extra); beside it (loss alone, aux)."""

    def total(trained: tuple[Params, Any]) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        value, aux = loss(trainer.sparsifier.effective(*trained, sparsity, "learn", key))
        return value + trainer.sparsifier.penalty(*trained, sparsity, clock), (value, aux)

    return total


def masked_grad_norm(
    trainer: Trainer, network: Network, loss: Loss, *, clock: Any, key: jax.Array
) -> jax.Array:
    """Euclidean norm of the dense gradient over the entries outside the mask, f32[]: how hard the loss pulls at weights
    that are not there (RigL, Evci et al. 2020, grows by its entries). 0 where nothing is masked.

    Arguments as of `step_network`; nothing is trained.
    """
    params, extra, _, sparsity = network
    total = _objective(trainer, sparsity, loss, clock, key)
    dense_grads, _ = jax.grad(lambda weights: total((weights, extra)), has_aux=True)(params)
    _, masks, _ = trainer.sparsifier.deployed(params, extra, sparsity)
    outside = mask_ops.apply(jax.tree.map(jnp.logical_not, masks), dense_grads)
    return jnp.asarray(optax.tree.norm(outside))


def copied(network: Network, target: tuple[Params, Any], flag: jax.Array) -> tuple[Params, Any]:
    """A target (params, extra) that is the network's own where a method asks for it, `flag` bool[]."""
    online = (network.params, network.extra)
    return jax.tree.map(lambda new, old: jnp.where(flag, new, old), online, target)


def polyak(
    trainer: Trainer, network: Network, target: tuple[Params, Any], tau: jax.Array | float
) -> tuple[Params, Any]:
    """Move a target (params, extra) towards the network by `tau` and project it with the network's own state.

    RLx2, "target networks": tau w + (1 - tau) target, then the current online mask.
    """
    params, extra = optax.incremental_update((network.params, network.extra), target, tau)
    if trainer.sparsifier.declares.targets != "none":
        params, extra, _ = trainer.sparsifier.project(params, extra, None, network.sparsity)
    return params, extra
