"""FLOPs in theory of algorithms that learn values and a policy from a dataset; conventions as in `flops`.

Every update takes one batch through all networks. Per sample, with A, C, V, B the forward passes of the actor, of ONE
critic, of the state value and of the behaviour policy, and backward passes at twice a forward pass (2 C for both
critics at a time, 6 C where they are trained):

    value    3 V to train it; before it the targets of the critics, 2 C, and where an action is drawn first, A
    critic   6 C to train both; the value of s': V, or an action drawn there and the targets at it, A + 2 C
    actor    3 A to train it; for the weights both critics at the logged action, 2 C, and V

    IQL, SQL, XQL   3 A + 10 C + 5 V
    FtTPO           4 A + 5 P + 12 C + 4 V, with P the fat proposal: 3 P to train it, P for the action drawn in s' and
                    P in the loss of the thin actor, which is 3 A; A for the action drawn in s. 25 passes in all. An
                    action that its switches have drawn by the other policy costs that one's pass; the actor's loss by
                    SPOT takes both critics forward and back to their inputs besides, 4 C, and V
    AWAC            5 A + 12 C              (the weights' baseline is Q at an action drawn in s, A + 2 C)
    TAWAC           5 A + 12 C + 4 V        (by the nearest draw, too: draws are no matrix products, but with networks
                                            of 2x64 they add about a fifth to what XLA counts)
    its reverse KL  5 A + 14 C + 4 V + 4 B  (the loss of the actor takes both critics forward and back to the action,
                                            4 C, and B forward; B is trained besides)
    InAC            5 A + 12 C + 4 V + 4 B  (B is trained, and divides the weights)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sparserl_jax.accounting.flops import TrainingCost, dense_gradient_surcharge, forward
from sparserl_jax.layers import LayerTable

IN_SAMPLE = {"actor": 3, "twin": 5, "value": 5}
"""Forward passes per update and sample of IQL, SQL and XQL; `twin`: of both critics together."""
AWAC = {"actor": 5, "twin": 6}
TAWAC = {**AWAC, "value": 4}
TAWAC_REVERSE = {**TAWAC, "twin": 7, "behaviour": 4}
INAC = {**TAWAC, "behaviour": 4}


def fttpo_passes(
    value_actor: str = "thin", critic_actor: str = "fat", actor_loss: str = "kl"
) -> dict[str, int]:
    """The same of FtTPO with these switches, see `agents.fttpo.FtTPOConfig`."""
    drawn, spot = (value_actor, critic_actor), actor_loss == "spot"
    return {
        "actor": 3 + drawn.count("thin"),
        "proposal": 4 + drawn.count("fat"),
        "twin": 8 if spot else 6,
        "value": 5 if spot else 4,
    }


def run(
    passes: Mapping[str, int],
    actor: LayerTable,
    critic: LayerTable,
    actor_nnz: Sequence[int] | None = None,
    critic_nnz: Sequence[int] | None = None,
    *,
    updates: int,
    batch: int = 256,
    beside: Mapping[str, tuple[LayerTable, Sequence[int] | None]] | None = None,
    dense_growth: bool = False,
    actor_events: int = 0,
    critic_events: int = 0,
    convention: str = "mac2",
    **rest: Any,
) -> TrainingCost:
    """FLOPs of a run whose live-weight counts stay constant; there is no acting.

    Args:
        passes: forward passes per update and sample, by network, `twin` for both critics together.
        beside: tables and live weights (None: dense) of the other networks in `passes`, by name. Their events are as
            many as the critic's.
        Others as of `flops.td3_run`, those that do not concern it unused.
    """
    networks = {"actor": (actor, actor_nnz), "twin": (critic, critic_nnz), **(beside or {})}
    events = {"actor": actor_events}
    updating = full = surcharge = 0
    for name in passes:
        table, nnz = networks[name]
        live, dense = forward(table, nnz, convention), forward(table, None, convention)
        updating += updates * batch * passes[name] * live
        full += updates * batch * passes[name] * dense
        if dense_growth:
            surcharge += events.get(name, critic_events) * dense_gradient_surcharge(dense, live, batch)
    return TrainingCost(convention, updating, 0, surcharge, full)


iql_run = functools.partial(run, IN_SAMPLE)
"""FLOPs of a run of IQL, SQL or XQL, see `run`; those of the others below."""
awac_run = functools.partial(run, AWAC)
tawac_run = functools.partial(run, TAWAC)
tawac_reverse_run = functools.partial(run, TAWAC_REVERSE)
inac_run = functools.partial(run, INAC)


def fttpo_run(*tables: Any, switches: Mapping[str, str] = MappingProxyType({}), **rest: Any) -> TrainingCost:
    """FLOPs of a run of FtTPO, see `run` and `fttpo_passes`; `switches`: those that are not as usual."""
    return run(fttpo_passes(**switches), *tables, **rest)
