"""Rows of a table: the records of one arm as aggregates, intervals and comparisons, and whether a verdict may be given.

The rule (no verdict without assay sensitivity): the dense arm's IQM must reach the environment's declared learned level
and the placebo arm must be worse than dense; otherwise every row of the environment says so instead of a verdict.

Beside dense, a sparse arm is compared with its honest opponent: the narrow dense network of the same weight count at
the same sparsity, trained with the same value learning (`tiny_rvl` for arms with multi-step targets, else `tiny`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparserl_jax.bench import statistics

NOT_LEARNED = "not learned at this budget"
SAME_SEEDS = "same seeds as the reference"
"""Verdict of a dense arm whose runs are the reference's own, made elsewhere: what it shows is the machine."""

SHORT = 0.05
"""How far below the sparsity asked for a row ends before its table says so: whole units and short groups are less."""

Key = tuple[str, float | None, float | None]
"""Arm, sparsity of the actor, sparsity of the critic; None for arms that are trained at each environment's own."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One arm at one knob on one environment (or pooled: then `returns` are z scores and costs are None).

    returns: score of every seed, seeds ascending. z: the same, normalised, None without levels. value, z_value: IQM
    and interval. improvement: chance that a run beats one of dense, with interval. verdict: words for the table.
    tiny, tiny_comparison: the narrow opponent's label and the difference to it. compression, ratios: relative to the
    dense full-width network, of the costs' means over the seeds. speed: environment steps per second of the whole
    program, all its members together. target: steps of the TD target, 0 for clones. origin: folder of the runs in a
    comparison, else empty. runs, programs, commits: what the row's numbers are made of; command: what makes these runs
    again. own: whether its sparsities are those of its environment; pooled rows of such arms hold mean sparsities,
    which are shown nowhere, and `level`, the words that stand for them. width: factor on the suite's hidden widths;
    peer_comparison: difference to the dense arm of its width, where any row has another width than 1. outcome: mean
    sparsity of the actors that came out, where the method promises none. short: the same, where it promises the one
    asked for at most, or of one layer, and the actor as a whole ends more than 0.05 below it. agent: the algorithm, and
    all that it is told but the widths.
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
    """

    env: str
    rows: tuple[Row, ...]
    reason: str | None
    levels: dict[str, float | None]
    known: dict[str, float] = dataclasses.field(default_factory=dict)


def generator(*words: Any) -> np.random.Generator:
    """A generator that depends on what is resampled and on nothing else, so that tables are the same on every rerun."""
    text = "|".join(str(word) for word in words)
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def key_of(record: dict[str, Any]) -> tuple[str, float, float]:
    """What makes runs one row of an environment."""
    result = record["result"]
    return result["arm"], result["sparsity"], result["critic_sparsity"]


def _mean_costs(group: list[dict[str, Any]]) -> dict[str, Any]:
    """Costs of an arm: the mean over its seeds, which differ where a method's final counts do."""
    costs = [record["result"]["costs"] for record in group]
    numbers = [key for key, value in costs[0].items() if isinstance(value, int | float)]
    return {**costs[0], **{key: sum(own[key] for own in costs) / len(costs) for key in numbers}}


def _ratio(costs: dict[str, Any], key: str, reference: str) -> float:
    return costs[key] / costs[reference]


def _seen(group: list[dict[str, Any]], key: str) -> tuple[str, ...]:
    """Distinct values of a field of the provenance, in order."""
    return tuple(dict.fromkeys(str(record["provenance"][key] or "unknown") for record in group))


def row(
    group: list[dict[str, Any]],
    env: str,
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
    scores = [record["result"]["score"] for record in group]
    x = np.array([fallback if score is None else score for score in scores], np.float64)
    z = z_value = None
    words = (env, *key_of(group[0]))
    if levels["random"] is not None and levels["reference"] is not None:
        z = statistics.normalise(x, levels["random"], levels["reference"])
        z_value = statistics.bootstrap(statistics.iqm, z[:, None], rng=generator("value", *words))
    value = statistics.bootstrap(statistics.iqm, x[:, None], rng=generator("value", *words))
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
        compression_parameters=_ratio(costs, "actor_parameters_dense", "actor_parameters"),
        compression_bytes=_ratio(costs, "actor_blob_bytes_dense", "actor_blob_bytes"),
        inference_ratio=_ratio(costs, "inference_flops", "inference_flops_dense"),
        training_ratio=_ratio(costs, "training_flops_theory", "training_flops_dense"),
        executed_ratio=_ratio(costs, "training_flops_executed", "training_flops_dense"),
        speed=speeds[len(speeds) // 2] if own_speed else None,
        members=measured[0]["members"],
        origin=origin,
        runs=tuple(record["run_id"] for record in group),
        programs=_seen(group, "program"),
        commits=_seen(group, "git_commit"),
        command=command,
        own=own,
        width=config.get("width", 1),
        agent=json.dumps({**config["training"]["agent"], "hidden": None}, sort_keys=True),
        outcome=None if promised else reached,
        short=reached if promised and reached < first["sparsity"] - SHORT else None,
    )


def reference(rows: Sequence[Row]) -> Row | None:
    """The dense row that the others are compared with."""
    return next((row for row in rows if row.role == "dense"), None)


def opponent(row: Row, rows: Sequence[Row]) -> Row | None:
    """The narrow dense network that a sparse row must beat: same sparsities, targets of the same kind; None if none.

    Rows from the same folder come first.
    """
    if row.method in ("dense", "tiny") or row.realised is not None:  # no sparsity to match
        return None
    same = [
        other
        for other in rows
        if other.method == "tiny"
        and (other.sparsity, other.critic_sparsity) == (row.sparsity, row.critic_sparsity)
        and min(other.target, 2) == min(row.target, 2)
        and (other.width, other.agent) == (row.width, row.agent)
    ]
    return min(same, key=lambda other: other.origin != row.origin, default=None)


def peer(row: Row, rows: Sequence[Row]) -> Row | None:
    """The dense row of equal width, targets of the same kind; None for dense rows, and where all rows have width 1.

    Rows from the same folder come first.
    """
    if row.method == "dense" or not wide(rows):
        return None
    same = [
        other
        for other in rows
        if other.method == "dense"
        and other.role in ("dense", "method")
        and (other.width, other.agent) == (row.width, row.agent)
        and min(other.target, 2) == min(row.target, 2)
    ]
    return min(same, key=lambda other: other.origin != row.origin, default=None)


def wide(rows: Sequence[Row]) -> bool:
    """Whether rows differ in the width of their networks."""
    return any(row.width != 1 for row in rows)


def _matrix(z: np.ndarray) -> np.ndarray:
    """Scores [runs, tasks]."""
    return z if z.ndim == 2 else z[:, None]


def _difference(row: Row, other: Row | None, words: tuple[Any, ...]) -> statistics.Comparison | None:
    if other is None or other is row or row.z is None or other.z is None:
        return None
    return statistics.compare(_matrix(row.z), _matrix(other.z), generator(*words, *row.key))


def improvement(row: Row, other: Row, rng: np.random.Generator) -> statistics.Interval:
    """Chance that a run of a row is above one of another, ties counting half: it needs no levels, for only the order of
    returns counts. Without bounds (nan) where one of them has a single seed."""
    arms = _matrix(row.returns), _matrix(other.returns)
    if min(map(len, arms)) < 2:
        alone, unknown = statistics.probability_of_improvement(*arms), np.array(math.nan)
        return statistics.Interval(alone, unknown, unknown)
    return statistics.bootstrap(statistics.probability_of_improvement, *arms, rng=rng)


def judge(rows: Sequence[Row], words: tuple[Any, ...]) -> list[Row]:
    """Rows with their comparisons to the dense one and to their narrow opponent."""
    dense, judged = reference(rows), []
    for row in rows:
        tiny = opponent(row, rows)
        judged.append(
            dataclasses.replace(
                row,
                comparison=_difference(row, dense, ("delta", *words)),
                improvement=None
                if dense is None or dense is row
                else improvement(row, dense, generator("improvement", *words, *row.key)),
                tiny=None if tiny is None else tiny.label,
                tiny_comparison=_difference(row, tiny, ("tiny", *words)),
                peer_comparison=_difference(row, peer(row, rows), ("peer", *words)),
            )
        )
    return judged


def reason(rows: Sequence[Row], levels: dict[str, float | None]) -> str | None:
    """Why no verdict may be given on an environment with these judged rows; None if it may."""
    dense, placebos = reference(rows), [row for row in rows if row.role == "placebo"]
    if dense is None:
        return "no verdicts: there is no dense arm"
    if levels["learned"] is None:
        return "no verdicts: the suite declares no levels"
    if float(dense.value.value) < levels["learned"]:
        return f"{NOT_LEARNED}: dense reached {dense.value.value:.4g}, the learned level is {levels['learned']:.4g}"
    if not placebos:
        return "no verdicts: there is no placebo arm"
    for placebo in placebos:
        if placebo.comparison is None or placebo.comparison.verdict != "worse":
            return f"{NOT_LEARNED}: the placebo arm '{placebo.arm}' is not worse than dense, so the task tells nothing"
    return None


def _words(comparison: statistics.Comparison, seeds: int) -> str:
    """The verdict in words; an undecided one says how many seeds would decide."""
    if comparison.verdict != "undecided":
        return comparison.verdict
    if comparison.seeds is None or comparison.seeds > 9999:
        return "undecided (on the margin)"
    return f"undecided ({max(comparison.seeds, seeds + 1)} seeds)"


def spoken(rows: Sequence[Row], reason: str | None) -> tuple[Row, ...]:
    """Judged rows with their verdict in words."""
    finished, dense = [], reference(rows)
    for row in rows:
        if row.role == "dense":
            text = "reference"
        elif reason is not None:
            text = NOT_LEARNED if reason.startswith(NOT_LEARNED) else "no verdict"
        elif dense is not None and row.origin != dense.origin and _again(row, dense):
            text = SAME_SEEDS
        else:
            text = "" if row.comparison is None else _words(row.comparison, len(row.seeds))
        finished.append(dataclasses.replace(row, verdict=text))
    return tuple(finished)


def _again(row: Row, dense: Row) -> bool:
    """Whether a row repeats runs of the reference: they are no independent evidence of anything."""
    return (
        row.role == "aa"
        and (row.method, row.target) == (dense.method, dense.target)
        and bool(set(row.seeds) & set(dense.seeds))
    )


def block(
    env: str, rows: Sequence[Row], levels: dict[str, float | None], known: dict[str, float] | None = None
) -> Block:
    """The rows of one environment, compared and with verdicts or the reason why there are none."""
    judged = judge(rows, (env,))
    why = reason(judged, levels)
    return Block(env, spoken(judged, why), why, levels, known or {})
