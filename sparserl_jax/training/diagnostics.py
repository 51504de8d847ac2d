"""Diagnostics of a curve: what every column of `curve.csv` means, and those computed from masks and episodes.

Everything is measured at curve points, in the evaluate stage, from a member's state, its evaluation episodes and one
batch of its replay drawn with a key of its own (PPO: of a rollout made for it); training does not know of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.envs import Lookahead
from sparserl_jax.layers import LayerTable, leaf
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Params


class Column(NamedTuple):
    """A column of the curve. `{network}` and `{layer}` in a name stand for those of the agent.

    title, unit: for figures; a column without a title is not drawn as a diagnostic. unit is empty for pure numbers.
    """

    name: str
    title: str
    unit: str
    meaning: str

    def match(self, column: str) -> dict[str, str] | None:
        """What `{network}` and `{layer}` are in `column`; None if it is not this one."""
        pattern = re.escape(self.name).replace(r"\{network\}", r"(?P<network>[a-z0-9]+)")
        found = re.fullmatch(pattern.replace(r"\{layer\}", r"(?P<layer>\w+)"), column)
        return None if found is None else found.groupdict()


COLUMNS = (
    Column("env_step", "", "steps", "environment steps of the member, warm-up included; updates on a dataset"),
    Column("update", "", "updates", "gradient updates of the member"),
    Column("return", "", "return", "mean undiscounted return of the evaluation episodes; empty once diverged"),
    Column(
        "q_bias", "Q bias", "discounted return",
        "mean over states of evaluation episodes of Q1(s, pi(s)) minus the discounted return that followed; the states "
        "are those at up to 8 steps spread over the first half of the time limit. Behind a cut by a time limit, Q1 of "
        "the last state stands in, and the sum is divided by 1 - gamma^(steps to the cut), which makes a bias that is "
        "the same everywhere come out in full (after Fujimoto et al. 2018, section 4.1). Q values of SAC and InAC "
        "count future entropy, which shows here as bias; so does exploration in PPO's V(s), which stands in for Q1. "
        "Where a suite evaluates drawn actions, the returns are of those, and pi(s) is still the mode",
    ),
    Column(
        "q", "Q on replay batches", "discounted return",
        "mean of both critics on the updates' batches (DQN, DDPG: of the one that there is; PPO: of V(s)), over the "
        "last dispatch",
    ),
    Column(
        "critic_loss", "TD loss", "squared return",
        "TD loss: mean squared error of each critic to the target, summed over both (FtTPO: a quarter of "
        "that); mean over the last dispatch. PPO: of V(s) to advantage + V(s) when the rollout was made",
    ),
    Column(
        "actor_loss", "actor loss", "discounted return",
        "TD3: mean of -Q1(s, pi(s)); DDPG: of -Q(s, pi(s)), plus the price of actions; SAC: mean of "
        "temperature * log pi(a) - min(Q1, Q2)(s, a), a drawn from pi(s); "
        "clones: mean squared difference to the cloned actions, which has no unit; DQN: the TD loss of its "
        "one network, in squared return; PPO: the clipped surrogate of normalised advantages "
        "with its entropy bonus, which has no unit, either, nor have the losses of other agents that learn from a "
        "dataset (weighted log-likelihoods, or values and clones on a common scale: see their pages); over the last "
        "dispatch",
    ),
    Column("epsilon", "epsilon", "share", "DQN's chance of a random action in training"),
    Column("temperature", "temperature", "return per nat", "SAC's learned temperature"),
    Column(
        "policy_entropy", "policy entropy", "nats",
        "entropy of SAC's policy on one replay batch, estimated from one action per state, of actions in [-1, 1]; PPO: "
        "exact, of actions before they are clipped, or of choices",
    ),
    Column(
        "policy_kl", "KL to the acting policy", "nats",
        "PPO: KL divergence of the policy from the one that made the rollout, estimated on the updates' batches by the "
        "mean of r - 1 - log r, r the ratio of their densities; mean over the last dispatch",
    ),
    Column(
        "clipped", "clipped ratios", "share",
        "PPO: share of the updates' samples whose ratio of densities is beyond the clip; mean over the last dispatch",
    ),
    Column(
        "dormant_{network}_{layer}", "dormant units, {network} {layer}", "share",
        "share of the layer's units whose mean |activation| on a replay batch is at most 0.025 of the layer's mean "
        "(Sokar et al. 2023); all copies of a twin critic together; units without live bias or weights into them (the "
        "padding of `tiny`) do not count",
    ),
    Column(
        "overlap_{network}", "overlap with start, {network}", "share",
        "share of the live weights that were live at the start (biases not counted); 1 where masks never change",
    ),
    Column(
        "turnover_{network}", "turnover, {network}", "share",
        "share of the live weights that were not live at the last curve point, at the first point: at the start",
    ),
    Column(
        "grown_then_dropped_{network}", "grown, then dropped, {network}", "share",
        "of the weights that were not live at the start and live at a curve point since, the share that is not live "
        "now; 0 where there are none. Weights grown and dropped between two points are not seen",
    ),
    Column(
        "sparsity_{network}", "sparsity, {network}", "share",
        "methods of trained gates (`l0`): share of the weights whose mean gate is closed: they are not in what "
        "acts and is deployed",
    ),
    Column(
        "expected_sparsity_{network}", "expected sparsity, {network}", "share",
        "methods of trained gates: 1 minus the mean chance that a drawn gate is open, over all weights; learning draws "
        "gates, so that it computes with more weights than those in force",
    ),
    Column(
        "live_{network}_{layer}", "weights in force, {network} {layer}", "share",
        "methods of trained gates: share of the layer's weights whose mean gate is open, of twin critics the smaller "
        "one; at 0 nothing gets through the layer but its biases",
    ),
    Column("buffer", "replay buffer", "transitions", "transitions in the replay buffer"),
    Column(
        "policy_distance", "policy distance", "action range [-1, 1]",
        "distance of the present policy from the actions of the oldest transitions, as the member's buffer rule "
        "measures it (RLx2, section 4.2.2): half the mean square difference to the stored noise-free actions (released "
        "code) or the mean Euclidean distance to the actions taken (source = paper). Empty in programs that keep no "
        "noise-free actions",
    ),
    Column(
        "{network}_grad_norm", "gradient norm, live, {network}", "Euclidean norm",
        "norm of the gradient that the optimiser gets: of live weights and biases, and under methods by which others "
        "learn, too (STE, SR-STE and its pull, N:M, Top-KAST, L1, L2, L0), of all that learn; mean over the last "
        "dispatch",
    ),
    Column(
        "{network}_masked_grad_norm", "gradient norm, masked, {network}", "Euclidean norm",
        "norm of the dense gradient over what is masked, on one replay batch; 0 where nothing is masked",
    ),
    Column(
        "last_return", "", "return",
        "return of the training episode that finished last, of several in one step their mean; on a dataset the mean "
        "return of its episodes",
    ),
    Column("episodes", "", "episodes", "training episodes finished; on a dataset those it holds"),
    Column("events_{network}", "", "events", "topology events that happened"),
    Column("invalid", "", "steps", "environment steps whose physics returned no number"),
    Column("broken", "", "0 or 1", "a loss was not finite at some time: the member has diverged"),
)  # fmt: skip
"""Every column, in the order in which figures show them."""


def column_of(name: str) -> tuple[Column, dict[str, str]] | None:
    """The Column of a curve's column and what its placeholders stand for; None for a name nobody has documented."""
    for column in COLUMNS:
        found = column.match(name)
        if found is not None:
            return column, found
    return None


# ---- masks -------------------------------------------------------------------------------------------------------

START, LAST, GROWN = 1, 2, 4
"""Bits of a mask history: live at the start; live at the last curve point; live at a curve point, not at the start."""


def begin_history(masks: dict[str, Params], layers: dict[str, LayerTable]) -> dict[str, jax.Array]:
    """History of fresh masks, u8[weight] by network: a byte per maskable weight, as in a mask."""
    return {
        name: jnp.where(_flat(live, layers[name]), START | LAST, 0).astype(jnp.uint8)
        for name, live in masks.items()
    }


def read_history(
    history: dict[str, jax.Array], masks: dict[str, Params], layers: dict[str, LayerTable]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Overlap, turnover and grown-then-dropped share of every network, f32[], and the history with this look in it."""
    seen, following = {}, {}
    for name, past in history.items():
        live = _flat(masks[name], layers[name])
        start, last, grown = ((past & bit) > 0 for bit in (START, LAST, GROWN))
        seen[f"overlap_{name}"] = mask_ops.overlap(live, start)
        seen[f"turnover_{name}"] = 1.0 - mask_ops.overlap(live, last)
        seen[f"grown_then_dropped_{name}"] = 1.0 - mask_ops.overlap(grown, live)
        bits = jnp.where(live, jnp.where(start, LAST, LAST | GROWN), 0)
        following[name] = ((past & (START | GROWN)) | bits).astype(jnp.uint8)
    return seen, following


def _flat(masks: Params, layers: LayerTable) -> jax.Array:
    """The masks of all maskable weights, bool[weight]."""
    return jnp.concatenate([leaf(masks, layer.kernel).reshape(-1) for layer in layers.maskable])


_LIVE = next(column for column in COLUMNS if column.name.startswith("live_"))


def watched(names: Iterable[str]) -> list[str]:
    """Which of a curve's columns `emptied` looks at; none where no method shows what is left of its layers."""
    live = [name for name in names if _LIVE.match(name)]
    return [*live, "env_step", "return"] if live else []


def emptied(curve: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Layers that have lost their last weight, as (network, layer, environment step of the first curve point without).

    Args:
        curve: columns [points] of one run; those called `live_...` are looked at, before it diverged.
    """
    sound = ~np.isnan(np.asarray(curve["return"], float))
    found = []
    for name, shares in curve.items():
        place = _LIVE.match(name)
        if place is None:
            continue
        empty = np.flatnonzero((np.asarray(shares, float) == 0.0) & sound)
        if empty.size:
            found.append((place["network"], place["layer"], int(curve["env_step"][int(empty[0])])))
    return found


# ---- values ------------------------------------------------------------------------------------------------------


def value_bias(value: Callable[[jax.Array], jax.Array], seen: Lookahead) -> jax.Array:
    """Mean excess of `value` (obs [..., O] -> [...]) over what followed in evaluation episodes, f32[].

    With G the discounted rewards up to the end of the episode, w = gamma^(steps to the end) and s_T the last state
    (w = 0 after a termination), a value that is too high by b everywhere exceeds G + w value(s_T) by b (1 - w). So

        sum (value(s) - G - w value(s_T)) / sum (1 - w)

    is 0 for the right value wherever the time limit falls, and b for one that is off by b. What remains of a bias that
    differs between states: that at s_T counts with weight w, which is at most gamma^(half the time limit).
    """
    gap = value(seen.obs) - seen.returns - seen.discount * value(seen.last_obs)
    own = jnp.where(seen.visited, 1.0 - seen.discount, 0.0)
    return jnp.sum(jnp.where(seen.visited, gap, 0.0)) / jnp.sum(own)
