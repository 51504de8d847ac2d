"""FLOPs in theory: what the live weights cost, counted from real masks.

Masked-dense training executes dense arithmetic whatever the mask; these numbers say what a runtime that skips
zeros would execute, and are published beside the executed ones, never instead of them.

Conventions for a layer of `nnz` live weights, I inputs and O outputs, per sample and, of a convolution, per output
position (I is then all that one window holds):

    mac2      2 * nnz                  a multiplication and an addition per weight (default; what XLA counts)
    minus1    (1 - S) * (2*I - 1) * O  the RLx2 and MAST papers' formula, (1 - S) = nnz / (I * O)
    mac1      nnz                      multiply-accumulates
    micronet  2 * nnz + O              MicroNet challenge and RigL: bias and ReLU counted on every layer

Ratios to dense agree between conventions to about 1 %, absolute numbers do not: never mix two in one table.
In `tiny`, pass the narrow network's own table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sparserl_jax.errors import UserError, suggest
from sparserl_jax.layers import Layer, LayerTable

CONVENTIONS = ("mac2", "minus1", "mac1", "micronet")
"""Known ways of counting; the first is the default."""


def _tensor(layer: Layer, nnz: int, convention: str) -> int:
    """One application of one tensor, per sample and output position."""
    if convention == "mac2":
        return 2 * nnz
    if convention == "mac1":
        return nnz
    if convention == "minus1":
        # Integer rounding of nnz * (2I - 1) / I: exact for dense layers, within half an operation otherwise.
        return (2 * nnz * (2 * layer.fan_in - 1) + layer.fan_in) // (2 * layer.fan_in)
    # A tensor without weights costs nothing: its bias can be folded into the next layer's.
    return 2 * nnz + layer.units_out if nnz else 0


def live_weights(layers: LayerTable, nnz: Sequence[int] | None) -> list[tuple[Layer, int]]:
    """Every tensor, copies included, with its live weights; tensors that cannot be masked are dense.

    Raises:
        UserError: `nnz` does not fit the table.
    """
    tensors = layers.tensors
    if nnz is None:
        nnz = [layer.size for layer, _ in tensors]
    if len(nnz) != len(tensors):
        raise UserError(
            f"{len(nnz)} live-weight counts were given for a network of {len(tensors)} maskable tensors: "
            "give one per tensor, copies of a stacked critic counted singly."
        )
    for (layer, copy), kept in zip(tensors, nnz, strict=True):
        if not 0 <= kept <= layer.size:
            raise UserError(
                f"tensor {layers.describe(layer, copy)} cannot keep {kept} weights: give 0 to {layer.size}."
            )
    masked = [(layer, int(kept)) for (layer, _), kept in zip(tensors, nnz, strict=True)]
    return masked + [
        (layer, layer.size) for layer in layers if not layer.maskable for _ in range(layer.copies)
    ]


def forward(
    layers: LayerTable,
    nnz: Sequence[int] | None = None,
    convention: str = "mac2",
    positions: Mapping[str, int] | None = None,
) -> int:
    """FLOPs of one forward pass of one sample through all copies of a network.

    Inference costs this for the actor; element-wise operations outside the layers (normalisations among
    them) are not counted.

    Args:
        layers: the network.
        nnz: live weights per tensor in the order of `layers.tensors`; None: dense.
        convention: one of `CONVENTIONS`.
        positions: output positions (height * width) of each convolution, by layer name, where its layer does not say.

    Raises:
        UserError: unknown convention, counts that do not fit, or a convolution without positions.
    """
    if convention not in CONVENTIONS:
        raise suggest(convention, list(CONVENTIONS), "FLOPs convention")
    total = 0
    for layer, kept in live_weights(layers, nnz):
        times = 1 if layer.kind == "dense" else (positions or {}).get(layer.name, layer.positions)
        if times is None:
            raise UserError(
                f"FLOPs of convolution {layer.name} depend on its output size: give it in `positions`."
            )
        total += times * _tensor(layer, kept, convention)
    return total


def td3_update(
    actor: float, critic: float, *, batch: int = 1, delay: int = 2, full_backward: bool = False
) -> float:
    """FLOPs of one TD3 gradient step, the delayed actor step shared out over `delay` steps.

    Backward passes cost twice the forward pass, once for the inputs' and once for the weights' gradient.
    With A = `actor` and C = `critic`: the critic step is A + 8C (target actor, two target critics, two online
    critics forward and backward), the actor step 3A + 2C (actor forward and backward, one critic forward and
    its input gradient); at delay 2 that is 2.5A + 9C per sample. The step length n of the target changes
    nothing.

    Args:
        actor: forward FLOPs of the actor per sample.
        critic: forward FLOPs of ONE critic per sample.
        batch: samples per step.
        delay: critic steps per actor step.
        full_backward: charge the actor step with the critic's weight gradients too (3A + 3C), as code that
            differentiates everything and discards half executes.
    """
    return batch * (actor + 8 * critic + (3 * actor + (3 if full_backward else 2) * critic) / delay)


def sac_update(actor: float, critic: float, *, batch: int = 1, n: int = 1, delay: int = 1) -> float:
    """FLOPs of one SAC gradient step, the actor step shared out over `delay` steps; (3 + n) A + 12 C per sample at
    delay 1 (RLx2 reproduction 3.2, with f_a = A and f_q = 2 C for both critics: (3 + n) f_a + 6 f_q).

    Backward passes cost twice the forward pass. The critic step draws a fresh action of the actor in every state
    after a row of the n-step window (n A), evaluates both target critics once, in the state bootstrapped from (2 C),
    and takes both online critics forward and backward (6 C): n A + 8 C. The actor step takes the actor forward and
    backward (3 A) and, for the smaller of the two values, both critics forward and back to their inputs (4 C):
    3 A + 4 C. Where the entropy of a target counts in its last state alone, n = 1 whatever the window. The
    temperature costs nothing.
    Arguments as in `td3_update`.
    """
    return batch * (n * actor + 8 * critic + (3 * actor + 4 * critic) / delay)


def ddpg_update(actor: float, critic: float, *, batch: int = 1) -> float:
    """FLOPs of one DDPG gradient step of both networks: with A = `actor` and C = `critic`, A + 4 C for the critic
    (target actor, target critic, critic forward and backward) and 3 A + 2 C for the actor, as in `td3_update`:
    4 A + 6 C per sample. Relabelling costs none."""
    return batch * (4 * actor + 6 * critic)


def dqn_update(network: float, *, batch: int = 1, double: bool = True) -> float:
    """FLOPs of one DQN gradient step: with C = `network`, the target network forward and the trained one forward and
    backward, 4 C per sample; where the trained one makes the choice in the target (`double`), its pass there, too: 5 C.

    Backward passes cost twice the forward pass; the step length n of the target changes nothing.

    Args:
        network: forward FLOPs of the network per sample.
        batch: samples per step.
        double: double estimation.
    """
    return batch * (5 if double else 4) * network


def dense_gradient_surcharge(dense: int, live: int, batch: int = 1) -> int:
    """Extra FLOPs of one event that grows weights by dense gradients (RigL).

    At the event the weight gradient costs one dense instead of one sparse pass; averaged over an interval D a
    RigL step costs (3 f_S * D + 2 f_S + f_D) / (D + 1), that is 3 f_S + (f_D - f_S) / (D + 1).

    Args:
        dense, live: forward FLOPs of the network per sample, all its copies, without and with its masks.
        batch: samples of the event's minibatch.
    """
    return batch * (dense - live)


@dataclasses.dataclass(frozen=True)
class TrainingCost:
    """FLOPs of a whole run in theory; evaluation and element-wise optimiser arithmetic are excluded.

    `updates`: gradient steps; `acting`: one actor pass per environment step, with PPO the state's value, too;
    `surcharge`: dense gradients at events; `dense`: updates and acting of the same run without masks.
    """

    convention: str
    updates: int
    acting: int
    surcharge: int
    dense: int

    @property
    def total(self) -> int:
        """Everything that is counted."""
        return self.updates + self.acting + self.surcharge

    @property
    def ratio(self) -> float:
        """Total over the dense run's total."""
        return self.total / self.dense


def _steps(
    actor: int, twin: int, updates: int, target_actions: int, batch: int, delay: int, through: int
) -> int:
    """Exact FLOPs of a number of updates; `twin` is the forward cost of both critics, `through` how many times that of
    one critic an actor step spends on the critics."""
    critic_steps = target_actions * actor + updates * 4 * twin
    actor_steps = (updates // delay) * (6 * actor + through * twin)
    return batch * (2 * critic_steps + actor_steps) // 2


def _run(
    actor: LayerTable,
    critic: LayerTable,
    actor_nnz: Sequence[int] | None,
    critic_nnz: Sequence[int] | None,
    *,
    updates: int,
    delay: int,
    through: int,
    target_actions: int | None = None,
    env_steps: int = 0,
    batch: int = 256,
    dense_growth: bool = False,
    actor_events: int = 0,
    critic_events: int = 0,
    convention: str = "mac2",
) -> TrainingCost:
    live_actor, dense_actor = forward(actor, actor_nnz, convention), forward(actor, None, convention)
    live_twin, dense_twin = forward(critic, critic_nnz, convention), forward(critic, None, convention)
    surcharge = 0
    if dense_growth:
        surcharge += actor_events * dense_gradient_surcharge(dense_actor, live_actor, batch)
        surcharge += critic_events * dense_gradient_surcharge(dense_twin, live_twin, batch)
    drawn = updates if target_actions is None else target_actions
    return TrainingCost(
        convention=convention,
        updates=_steps(live_actor, live_twin, updates, drawn, batch, delay, through),
        acting=env_steps * live_actor,
        surcharge=surcharge,
        dense=_steps(dense_actor, dense_twin, updates, updates, batch, delay, through)
        + env_steps * dense_actor,
    )


def td3_run(
    actor: LayerTable,
    critic: LayerTable,
    actor_nnz: Sequence[int] | None = None,
    critic_nnz: Sequence[int] | None = None,
    *,
    updates: int,
    delay: int = 2,
    full_backward: bool = False,
    **rest: Any,
) -> TrainingCost:
    """FLOPs of a TD3 run whose live-weight counts stay constant.

    Args:
        actor, critic: the networks; the critic's table holds both copies.
        actor_nnz, critic_nnz: live weights per tensor; None: dense.
        updates: gradient steps, events included; the actor's share is `updates // delay` steps.
        env_steps: environment steps acted by the policy (warm-up excluded), default 0.
        batch, delay, full_backward: as in `td3_update`, but for `batch`, default 256.
        dense_growth: the method grows by dense gradients (RigL; not SET, static or dense), default False.
        actor_events, critic_events: topology events of each network, charged only with `dense_growth`, default 0.
        convention: one of `CONVENTIONS`, default the first.
        target_actions: actor passes for the targets of the whole run, per sample, default one per update.
    """
    through = 3 if full_backward else 2
    return _run(actor, critic, actor_nnz, critic_nnz, updates=updates, delay=delay, through=through, **rest)


def td3_bc_run(
    actor: LayerTable,
    critic: LayerTable,
    actor_nnz: Sequence[int] | None = None,
    critic_nnz: Sequence[int] | None = None,
    **rest: Any,
) -> TrainingCost:
    """FLOPs of a TD3+BC run: those of `td3_run` without acting, for its data are there before it. What holds the actor
    to them is a difference of actions, which costs no pass through a network."""
    return td3_run(actor, critic, actor_nnz, critic_nnz, **{**rest, "env_steps": 0})


def ddpg_run(
    actor: LayerTable,
    critic: LayerTable,
    actor_nnz: Sequence[int] | None = None,
    critic_nnz: Sequence[int] | None = None,
    **rest: Any,
) -> TrainingCost:
    """FLOPs of a DDPG run whose live-weight counts stay constant, step by step those of `ddpg_update`; arguments as of
    `td3_run`, but that `critic` is that of the one critic."""
    # An actor step goes twice through the critic, which `_steps` counts in halves of all critics.
    return _run(actor, critic, actor_nnz, critic_nnz, **{"delay": 1, **rest}, through=4)


def dqn_run(
    actor: LayerTable,
    critic: LayerTable,
    actor_nnz: Sequence[int] | None = None,
    critic_nnz: Sequence[int] | None = None,
    *,
    updates: int,
    target_actions: int | None = None,
    env_steps: int = 0,
    batch: int = 256,
    dense_growth: bool = False,
    actor_events: int = 0,
    convention: str = "mac2",
    **rest: Any,
) -> TrainingCost:
    """FLOPs of a DQN run whose live-weight counts stay constant, step by step those of `dqn_update`.

    Arguments as of `td3_run`, those that do not concern it unused: its one network is `actor`, which also acts, and
    `target_actions` are the forward passes for the targets of the whole run, per sample, two per update with double
    estimation (default: one).
    """
    live, dense = forward(actor, actor_nnz, convention), forward(actor, None, convention)
    passes = batch * ((updates if target_actions is None else target_actions) + 3 * updates) + env_steps
    surcharge = actor_events * dense_gradient_surcharge(dense, live, batch) if dense_growth else 0
    acting = env_steps * live
    return TrainingCost(convention, passes * live - acting, acting, surcharge, passes * dense)


def cloning_run(
    actor: LayerTable,
    critic: LayerTable,
    actor_nnz: Sequence[int] | None = None,
    critic_nnz: Sequence[int] | None = None,
    *,
    updates: int,
    batch: int = 256,
    dense_growth: bool = False,
    actor_events: int = 0,
    convention: str = "mac2",
    **rest: Any,
) -> TrainingCost:
    """FLOPs of behaviour cloning: per update and sample the actor forward and backward, 3 A; there is no critic and no
    acting, and what the expert did is not counted. Arguments as of `td3_run`, those that do not concern it unused.
    """
    live, dense = forward(actor, actor_nnz, convention), forward(actor, None, convention)
    surcharge = actor_events * dense_gradient_surcharge(dense, live, batch) if dense_growth else 0
    return TrainingCost(convention, updates * batch * 3 * live, 0, surcharge, updates * batch * 3 * dense)


def ppo_run(
    actor: LayerTable,
    critic: LayerTable,
    actor_nnz: Sequence[int] | None = None,
    critic_nnz: Sequence[int] | None = None,
    *,
    updates: int,
    env_steps: int = 0,
    batch: int = 64,
    last_values: int = 0,
    dense_growth: bool = False,
    actor_events: int = 0,
    critic_events: int = 0,
    convention: str = "mac2",
    **rest: Any,
) -> TrainingCost:
    """FLOPs of a PPO run whose live-weight counts stay constant: per update and sample both networks forward and
    backward, 3 A + 3 V (with K epochs a sample is met K times), and per environment step A + V for acting and for the
    value of the state acted in.

    Arguments as of `td3_run`, those that do not concern it unused; `critic` is that of a single network. last_values:
    values beside those of the states acted in. In theory there are only those at the ends of rollouts and at time
    limits, which are not counted; compiled code evaluates one per environment step.
    """

    def cost(one: Sequence[int] | None, other: Sequence[int] | None) -> tuple[int, int]:
        policy, value = forward(actor, one, convention), forward(critic, other, convention)
        acting = env_steps * (policy + value) + last_values * value
        return updates * batch * 3 * (policy + value), acting

    steps, acting = cost(actor_nnz, critic_nnz)
    surcharge = 0
    if dense_growth:
        for table, nnz, events in ((actor, actor_nnz, actor_events), (critic, critic_nnz, critic_events)):
            dense, live = forward(table, None, convention), forward(table, nnz, convention)
            surcharge += events * dense_gradient_surcharge(dense, live, batch)
    return TrainingCost(convention, steps, acting, surcharge, sum(cost(None, None)))


def sac_run(
    actor: LayerTable,
    critic: LayerTable,
    actor_nnz: Sequence[int] | None = None,
    critic_nnz: Sequence[int] | None = None,
    *,
    updates: int,
    delay: int = 1,
    **rest: Any,
) -> TrainingCost:
    """FLOPs of a SAC run whose live-weight counts stay constant, step by step those of `sac_update`.

    Arguments as of `td3_run`. Its `target_actions` is where n-step targets enter: with delayed n-step targets it is the
    number of one-step updates plus n times that of the others. The dense run it is compared with has one-step targets,
    as in the published ratios; a dense network with n-step targets therefore costs more than 1.
    """
    return _run(actor, critic, actor_nnz, critic_nnz, updates=updates, delay=delay, through=4, **rest)
