"""Rows of a table: the records of one arm as aggregates, intervals and costs; `verdicts` compares them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparserl_jax.agents.registry import trained_by
from sparserl_jax.bench import statistics
from sparserl_jax.errors import UserError

SHORT = 0.05
"""How far below the sparsity asked for a row ends before its table says so: whole units and short groups are less."""

Key = tuple[str, float | None, float | None]
"""Arm, sparsity of the actor, sparsity of the critic; None for arms that are trained at each environment's own."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One arm at one knob on one environment (or pooled: then `returns` are z scores and costs are None).

    returns: score of every seed, seeds ascending. z: the same, normalised, None without levels. value, z_value: IQM
    and interval. final, final_z: the IQM of the last policies' own evaluations with interval, and their z of every
    seed. improvement: chance that a run beats one of dense, with interval. verdict: words for the table. tiny,
    tiny_comparison: the narrow opponent's label and the difference to it. compression, ratios: of the costs' means
    over the seeds, relative to `dense_costs`, those of the dense full-width network under the arm's own algorithm;
    where that is not the reference's, `verdicts.judge` puts them relative to the reference. speed: environment
    steps per second of the whole program, all its members together. target: steps of the TD target, 0 for clones.
    origin: folder of the runs in a comparison, else empty. runs, programs, commits: what the row's numbers are made
    of; command: what makes these runs again. own: whether its sparsities are those of its environment; pooled rows
    of such arms hold mean sparsities, which are shown nowhere, and `level`, the words that stand for them. width:
    factor on the suite's hidden widths; peer_comparison: difference to the dense arm of its width, where any row
    has another width than 1. outcome: mean sparsity of the actors that came out, where the method promises none.
    short: the same, where it promises the one asked for at most, or of one layer, and the actor as a whole ends
    more than 0.05 below it. agent: the algorithm and what it is told, but the widths and what may differ between
    members of one Program (learning rates and their like, which every arm may have tuned).
    """

    arm: str
    role: str
    method: str
    sparsity: float
    critic_sparsity: float
    target: int
    seeds: tuple[int, ...]
    diverged: int
    returns: np.ndarray
    z: np.ndarray | None
    value: statistics.Interval
    z_value: statistics.Interval | None
    worst: float
    p10: float
    failure_rate: float | None
    final: statistics.Interval | None = None
    final_z: np.ndarray | None = None
    comparison: statistics.Comparison | None = None
    improvement: statistics.Interval | None = None
    tiny: str | None = None
    tiny_comparison: statistics.Comparison | None = None
    verdict: str = ""
    compression_parameters: float | None = None
    compression_bytes: float | None = None
    inference_ratio: float | None = None
    training_ratio: float | None = None
    executed_ratio: float | None = None
    dense_costs: dict[str, float] = dataclasses.field(default_factory=dict)
    speed: float | None = None
    members: int | None = None
    origin: str = ""
    runs: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    command: str = ""
    own: bool = False
    level: str = ""
    width: int = 1
    peer_comparison: statistics.Comparison | None = None
    outcome: float | None = None
    short: float | None = None
    agent: str = ""

    @property
    def label(self) -> str:
        """What the row is called."""
        return {"aa": f"{self.arm} (A/A)", "placebo": f"{self.arm} (must lose)"}.get(self.role, self.arm)

    @property
    def level_text(self) -> str:
        """The actor's sparsity; where that is no promise, the knob and in brackets what came out."""
        return f"{self.sparsity:g}" + ("" if self.realised is None else f" ({self.realised:.3g})")

    @property
    def realised(self) -> float | None:
        """Sparsity of the actors that came out, where it is not the one asked for."""
        return self.short if self.outcome is None else self.outcome

    @property
    def came_out(self) -> float:
        """Sparsity of the actors, promised or not."""
        return self.sparsity if self.realised is None else self.realised

    @property
    def key(self) -> Key:
        """What makes rows of several environments one row of the pooled block."""
        return (self.arm, None, None) if self.own else (self.arm, self.sparsity, self.critic_sparsity)


@dataclasses.dataclass(frozen=True)
class Block:
    """The rows of one environment, or the pooled ones.

    reason: why there are no verdicts; None if there are. known: returns of policies that nobody learned, by name.
    swept: the knobs that each arm is declared at, by name; some may have no row. parts: of the pooled block, those
    that it pools.
    """

    env: str
    rows: tuple[Row, ...]
    reason: str | None
    levels: dict[str, float | None]
    known: dict[str, float] = dataclasses.field(default_factory=dict)
    swept: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    parts: tuple[Block, ...] = ()


def key_of(record: dict[str, Any]) -> tuple[str, float, float]:
    """What makes runs one row of an environment."""
    result = record["result"]
    return result["arm"], result["sparsity"], result["critic_sparsity"]


def _kind_of(agent: dict[str, Any]) -> str:
    """The algorithm of a record without its widths and its tunable numbers, as text."""
    try:
        tunable = trained_by(agent["name"]).config.TRACED  # type: ignore[attr-defined]
    except UserError:  # of another version
        tunable = {}
    return json.dumps(
        {key: agent[key] for key in agent if key != "hidden" and key not in tunable}, sort_keys=True
    )


def _mean_costs(group: list[dict[str, Any]]) -> dict[str, Any]:
    """Costs of an arm: the mean over its seeds, which differ where a method's final counts do."""
    costs = [record["result"]["costs"] for record in group]
    numbers = [key for key, value in costs[0].items() if isinstance(value, int | float)]
    return {**costs[0], **{key: sum(own[key] for own in costs) / len(costs) for key in numbers}}


def _seen(group: list[dict[str, Any]], key: str) -> tuple[str, ...]:
    """Distinct values of a field of the provenance, in order."""
    return tuple(dict.fromkeys(str(record["provenance"][key] or "unknown") for record in group))


def row(
    group: list[dict[str, Any]],
    levels: dict[str, float | None],
    fallback: float,
    command: str = "",
    origin: str = "",
    own: bool = False,
) -> Row:
    """The records of one arm at one knob as a row without its comparisons.

    Args:
        levels: random, reference, learned and failure level of the environment.
        fallback: return at which a diverged run enters.
        command, origin, own: see `Row`.
    """
    group = sorted(group, key=lambda record: record["result"]["seed"])
    first, measured = group[0]["result"], [record["measured"] for record in group]

    def of_seeds(key: str) -> np.ndarray:
        found = [record["result"][key] for record in group]
        return np.array([fallback if value is None else value for value in found], np.float64)

    x, last = of_seeds("score"), of_seeds("final_score")
    z = z_value = last_z = None
    if levels["random"] is not None and levels["reference"] is not None:
        z, last_z = (statistics.normalise(one, levels["random"], levels["reference"]) for one in (x, last))
        z_value = statistics.bootstrap(statistics.iqm, z[:, None])
    value, final = (statistics.bootstrap(statistics.iqm, one[:, None]) for one in (x, last))
    spread = statistics.spread(x[:, None], -np.inf if levels["failed"] is None else levels["failed"])
    diverged = [record["result"]["status"] == "diverged" for record in group]
    failures = None
    if levels["failed"] is not None:
        failures = [score < levels["failed"] or lost for score, lost in zip(x, diverged, strict=True)]
    costs, config = _mean_costs(group), group[0]["provenance"]["config"]
    reached = float(np.mean([record["result"]["realised_sparsity"]["actor"] for record in group]))
    promised = first.get("promise") != "none"
    speeds = sorted(m["steps_per_second"] for m in measured if m["steps_per_second"] is not None)
    # A tiny member inside a wide program shows the wide program's speed, which is not its own.
    own_speed = bool(speeds) and first["method"] != "tiny"
    return Row(
        arm=first["arm"],
        role=first["role"],
        method=first["method"],
        sparsity=first["sparsity"],
        critic_sparsity=first["critic_sparsity"],
        target=0 if config.get("clone") else config.get("recipe", {}).get("n", 1),
        seeds=tuple(record["result"]["seed"] for record in group),
        diverged=sum(diverged),
        returns=x,
        z=z,
        value=value,
        z_value=z_value,
        worst=spread.worst,
        p10=spread.p10,
        failure_rate=None if failures is None else float(np.mean(failures)),
        final=final,
        final_z=last_z,
        compression_parameters=costs["actor_parameters_dense"] / costs["actor_parameters"],
        compression_bytes=costs["actor_blob_bytes_dense"] / costs["actor_blob_bytes"],
        inference_ratio=costs["inference_flops"] / costs["inference_flops_dense"],
        training_ratio=costs["training_flops_theory"] / costs["training_flops_dense"],
        executed_ratio=costs["training_flops_executed"] / costs["training_flops_dense"],
        dense_costs={key: value for key, value in costs.items() if key.endswith("_dense")},
        speed=speeds[len(speeds) // 2] if own_speed else None,
        members=measured[0]["members"],
        origin=origin,
        runs=tuple(record["run_id"] for record in group),
        programs=_seen(group, "program"),
        commits=_seen(group, "git_commit"),
        command=command,
        own=own,
        width=config.get("width", 1),
        agent=_kind_of(config["training"]["agent"]),
        outcome=None if promised else reached,
        short=reached if promised and reached < first["sparsity"] - SHORT else None,
    )


def wide(rows: Sequence[Row]) -> bool:
    """Whether rows differ in the width of their networks."""
    return any(row.width != 1 for row in rows)
