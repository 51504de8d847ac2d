"""The Sparsifier contract: what a sparsity method is to everybody else.

A method is a record of pure functions over one member's arrays, in the spirit of an optax transformation, wide enough
for masks, gates, group codes and structured pruning. Agents never know which method they carry: every network is
trained through `agents/optimise.py: step_network`, the only caller of most of these functions.

Names used throughout: `params` is the network's parameter dictionary; `extra` holds what the method trains *with* the
weights (gates, codes; `{}` for mask methods); `state` is whatever else the method keeps (masks, counts, settings).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from sparserl_jax.layers import LayerTable

Params = dict[str, Any]
Mode = Literal["learn", "act", "target", "deploy"]


class Declares(NamedTuple):
    """What a family promises; `sparserl conformance` holds a method to this.

    budget: `per_tensor` (exact counts per tensor), `global` (exact total), `at_most`, or `none`; see `Promise`.
    targets: how a target network is kept sparse: `online` (cut to the online masks after every Polyak step), `own` (to
        weights of its own choice, in no tensor more than online) or `none` (not at all); in the first two by `project`.
    slots: what happens to optimiser slots of grown weights: `keep`, `zero_grown`, `zero_inactive`, or `setting` when a
        traced setting of the method decides; `zero_changed`: those of live weights that an event gives another value
        restart at zero.
    resets: what its events may reset beyond the network: a subset of `("replay", "targets")`.
    learning: what a loss is computed from: `masked` (the support alone, as in every other mode) or `dense` (weights
        outside the support, too: they are trained on, and come into force when the support moves).
    """

    budget: str
    targets: str
    slots: str
    resets: tuple[str, ...] = ()
    learning: str = "masked"


class Effects(NamedTuple):
    """What came of an event; bool scalars, per member.

    happened: the event took place and replaces this tick's optimiser step; where not, whatever `evolve` returned is
        dropped and the optimiser step is taken as on any other tick.
    reset_replay: the replay is to be emptied.
    reset_targets: the target networks are to be copied from the online ones.
    """

    happened: jax.Array
    reset_replay: jax.Array
    reset_targets: jax.Array

    @staticmethod
    def of(happened: Any = True, reset_replay: Any = False, reset_targets: Any = False) -> Effects:
        """Effects from Python or traced booleans."""
        return Effects(*(jnp.asarray(flag, bool) for flag in (happened, reset_replay, reset_targets)))

    def kept(self) -> Effects:
        """The same, where what an event that did not happen asks for is dropped with the rest of it."""
        return Effects(self.happened, self.reset_replay & self.happened, self.reset_targets & self.happened)


def _not_here(*_: Any) -> Any:
    raise NotImplementedError("filled in where a network is trained")


class Evidence(NamedTuple):
    """What a method may look at during an event: functions, traced only if called.

    grad(): gradient of this tick's loss and penalty with respect to the parameters, masked entries included.
    hvp(v): Hessian-vector product of this tick's loss.
    activations(): hidden activations on this tick's batch, `{layer name: [..., batch, units]}`.
    batch(n): a fresh batch of `n` transitions from the replay, another one at every call.
    init_params(): the parameters this network was initialised with, before any sparsifier touched them.
    episode_return(): return of the most recently finished training episode, f32 scalar.
    loss(params): this tick's loss and penalty at other parameters, f32 scalar.
    """

    grad: Callable[[], Params]
    hvp: Callable[[Params], Params]
    activations: Callable[[], dict[str, jax.Array]]
    batch: Callable[[int], Any]
    init_params: Callable[[], Params]
    episode_return: Callable[[], jax.Array]
    loss: Callable[[Params], jax.Array] = _not_here


class Sparsifier(NamedTuple):
    """A family of sparsity methods: methods that share these functions share one compiled Program.

    init(key, params, layers, settings) -> (params, extra, state)
    effective(params, extra, state, mode, key) -> params: the weights as used in `mode`; identity for mask methods
    penalty(params, extra, state, clock) -> f32 scalar, added to the loss
    gradients(grads, params, extra, state) -> grads, before the optimiser sees them
    project(params, extra, opt_state, state) -> (params, extra, opt_state), after every optimiser step
        and, without optimiser slots (opt_state is None), after every Polyak step
    evolve(key, tick, params, extra, opt_state, state, evidence)
        -> (params, extra, opt_state, state, effects), at an event
    deployed(params, extra, state) -> (params, masks, form): what leaves the building; form is `plain`, weights in
        the tensors they are trained in, the only form that is stored
    adopt(params, masks, state) -> (params, extra, state): trained weights under their masks in place of those that
        `init` made; the masks have the declared counts. None: the method cannot start from a trained network
    refresh(params, extra, state) -> state, after every optimiser step, for supports that follow the weights at once.
        None: the state changes at events only
    misfit(masks, layers, settings) -> what is wrong, in words, with the places (not the number) of the live weights
        of given masks (NumPy, on the host), which `adopt` would not mend; None where nothing is. None: any places do
    extra_rate(state) -> f32 scalar, the learning rate of `extra`. None: that of the weights
    diagnose(params, extra, state) -> what a curve point shows of the method: f32 scalars by name, or by name and layer
        (`training/diagnostics.py` documents them). None: nothing
    """

    name: str
    init: Callable[[jax.Array, Params, LayerTable, Any], tuple[Params, Any, Any]]
    effective: Callable[[Params, Any, Any, Mode, jax.Array], Params]
    penalty: Callable[[Params, Any, Any, Any], jax.Array]
    gradients: Callable[[Params, Params, Any, Any], Params]
    project: Callable[[Params, Any, Any, Any], tuple[Params, Any, Any]]
    evolve: Callable[..., tuple[Params, Any, Any, Any, Effects]]
    deployed: Callable[[Params, Any, Any], tuple[Params, Params, str]]
    declares: Declares
    adopt: Callable[[Params, Params, Any], tuple[Params, Any, Any]] | None = None
    refresh: Callable[[Params, Any, Any], Any] | None = None
    misfit: Callable[[Params, LayerTable, Any], str | None] | None = None
    extra_rate: Callable[[Any], jax.Array] | None = None
    diagnose: Callable[[Params, Any, Any], dict[str, Any]] | None = None


@dataclasses.dataclass(frozen=True)
class Events:
    """When a network's topology may change: at ticks `interval, 2 interval, ...` below `end`. Static per Program."""

    interval: int
    end: int
    drop_fraction: float

    @property
    def count(self) -> int:
        """Number of events of a whole run."""
        return max(0, (self.end - 1) // self.interval)

    def due(self, tick: jax.Array) -> jax.Array:
        """Whether the gradient computation number `tick` (from 1) is an event; bool scalar, unbatched like `tick`."""
        return (tick % self.interval == 0) & (tick < self.end)


class Promise(NamedTuple):
    """What a method promises about one network before anything is run: plans, costs and checks are made from it.

    counts: live weights of each tensor at the end of training, in the order of `layers.tensors`. With the budget
        `per_tensor` they are exact, with `global` their sum is, with `at_most` and `none` they are upper bounds (all
        weights, where nothing is known).
    narrow: the really narrow network that computes the same, for methods that have one (`tiny`).
    events: topology events of a whole run, at most.
    dense_growth: whether events look at dense gradients.
    phases: live weights per tensor before the counts are reached: row k holds between the k-th scheduled event (row 0:
        the beginning) and the next; after the last row `counts` hold. Empty: `counts` hold from the beginning.
    learned: weights per tensor whose gradients every tick computes; training is charged for them. None: the live ones.
    """

    counts: list[int]
    narrow: LayerTable | None = None
    events: int = 0
    dense_growth: bool = False
    phases: Sequence[Sequence[int]] = ()
    learned: list[int] | None = None

    def at(self, event: int) -> list[int]:
        """Live weights of each tensor after `event` scheduled events."""
        return [int(n) for n in self.phases[event]] if event < len(self.phases) else list(self.counts)

    def trained(self, events: Events) -> list[int]:
        """Live weights of each tensor averaged over all ticks of a run, rounded up: what training costs in theory."""
        lengths = [
            min(events.interval, max(events.end - k * events.interval, 0)) for k in range(len(self.phases))
        ]
        rest = max(events.end - sum(lengths), 0)
        if not sum(lengths):
            return list(self.counts)
        sums = [rest * last for last in self.counts]
        for ticks, row in zip(lengths, self.phases, strict=True):
            sums = [total + ticks * int(n) for total, n in zip(sums, row, strict=True)]
        return [-(-total // (sum(lengths) + rest)) for total in sums]


class Method(NamedTuple):
    """A named sparsity method: a family, the settings that make it this method, and what it promises.

    settings(layers, knob, events, source) -> pytree of NumPy arrays, equal in structure and shape for all methods of
    the family, so that members of one Program may differ in method and knob. `source` is `released` or `paper` where
    a publication and its code differ. Made on the host, in float64 where anything is counted. A method that does not
    use the drop fraction of `events` gives equal settings whatever it is: by this it is told that tuning it is idle.
    promise(layers, knob, events, source) -> Promise, cheap: it is called for every arm of a plan.
    coefficient: whether the knob is that of a penalty, any number from 0 on, and sparsity what comes of it; else the
        knob is a sparsity, in [0, 1).
    """

    name: str
    family: Sparsifier
    settings: Callable[[LayerTable, float, Events, str], Any]
    promise: Callable[[LayerTable, float, Events, str], Promise]
    summary: str = ""
    coefficient: bool = False


def identity_effective(params: Params, extra: Any, state: Any, mode: Mode, key: jax.Array) -> Params:
    """`effective` of methods whose parameters are already what is used."""
    return params


def no_penalty(params: Params, extra: Any, state: Any, clock: Any) -> jax.Array:
    """`penalty` of methods that add nothing to the loss."""
    return jnp.zeros((), jnp.float32)


def no_events(
    key: jax.Array,
    tick: jax.Array,
    params: Params,
    extra: Any,
    opt_state: Any,
    state: Any,
    evidence: Evidence,
) -> tuple[Params, Any, Any, Any, Effects]:
    """`evolve` of methods to which nothing happens at events."""
    return params, extra, opt_state, state, Effects.of(happened=False)
