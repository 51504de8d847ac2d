"""Comparisons of a table's rows, and whether a verdict may be given.

The rule (no verdict without assay sensitivity): the dense arm's IQM must reach the environment's declared learned level
and the placebo arm must be worse than dense; otherwise every row of the environment says so instead of a verdict.

Beside dense, a sparse arm is compared with its honest opponent: the narrow dense network of the same weight count at
the same sparsity, trained with the same value learning (`tiny_rvl` for arms with multi-step targets, else `tiny`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from sparserl_jax.bench import statistics
from sparserl_jax.bench.rows import Block, Row, wide

NOT_LEARNED = "not learned at this budget"
SAME_SEEDS = "same seeds as the reference"
"""Verdict of a dense arm whose runs are the reference's own, made elsewhere: what it shows is the machine."""


def reference(rows: Sequence[Row]) -> Row | None:
    """The dense row that the others are compared with."""
    return next((row for row in rows if row.role == "dense"), None)


def _alike(row: Row, other: Row) -> bool:
    """Whether two rows have one algorithm over one dense network."""
    sizes = (own.dense_costs.get("actor_parameters_dense") for own in (row, other))
    return (row.width, row.agent) == (other.width, other.agent) and next(sizes) == next(sizes)


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
        and _alike(row, other)
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
        and _alike(row, other)
        and min(other.target, 2) == min(row.target, 2)
    ]
    return min(same, key=lambda other: other.origin != row.origin, default=None)


def _matrix(z: np.ndarray) -> np.ndarray:
    """Scores [runs, tasks]."""
    return z if z.ndim == 2 else z[:, None]


def difference(row: Row, other: Row | None) -> statistics.Comparison | None:
    """z of a row less that of another; None where there is no other, or no z."""
    if other is None or other is row or row.z is None or other.z is None:
        return None
    found = statistics.compare(_matrix(row.z), _matrix(other.z))
    if found.seeds is None:
        return found
    # Both arms would grow by one factor; told is what the row would have.
    return found._replace(
        seeds=math.ceil(len(row.seeds) * found.seeds / min(len(row.seeds), len(other.seeds)))
    )


def improvement(row: Row, other: Row) -> statistics.Interval:
    """Chance that a run of a row is above one of another, ties counting half: it needs no levels, for only the order of
    returns counts. Without bounds (nan) where one of them has a single seed."""
    arms = _matrix(row.returns), _matrix(other.returns)
    if min(map(len, arms)) < 2:
        alone, unknown = statistics.probability_of_improvement(*arms), np.array(math.nan)
        return statistics.Interval(alone, unknown, unknown)
    return statistics.bootstrap(statistics.probability_of_improvement, *arms)


_COSTS = (
    ("compression_parameters", "actor_parameters_dense", -1),
    ("compression_bytes", "actor_blob_bytes_dense", -1),
    ("inference_ratio", "inference_flops_dense", 1),
    ("training_ratio", "training_flops_dense", 1),
    ("executed_ratio", "training_flops_dense", 1),
)
"""Fields of a row, the dense cost they are relative to, and whether they grow with their own cost (1) or fall."""


def _relative(row: Row, dense: Row | None) -> dict[str, float]:
    """The costs of a row relative to the reference's, where its algorithm or its network is another one, whose dense
    costs differ; those of another `width` stay relative to dense of that width."""
    if dense is None or row.width != dense.width or _alike(row, dense):
        return {}
    found = {}
    for field, cost, power in _COSTS:
        own = getattr(row, field)
        if own is not None:
            found[field] = own * (row.dense_costs[cost] / dense.dense_costs[cost]) ** power
    return found


def judge(rows: Sequence[Row]) -> list[Row]:
    """Rows with their comparisons to the dense one and to their narrow opponent."""
    dense, judged = reference(rows), []
    for row in rows:
        tiny = opponent(row, rows)
        judged.append(
            dataclasses.replace(
                row,
                comparison=difference(row, dense),
                improvement=None if dense is None or dense is row else improvement(row, dense),
                tiny=None if tiny is None else tiny.label,
                tiny_comparison=difference(row, tiny),
                peer_comparison=difference(row, peer(row, rows)),
                **_relative(row, dense),  # type: ignore[arg-type]
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
    if any(len(row.seeds) < 2 for row in (dense, *placebos)):
        return "no verdicts: a single seed has no interval"
    for placebo in placebos:
        if placebo.comparison is None or placebo.comparison.verdict != "worse":
            return f"{NOT_LEARNED}: the placebo arm '{placebo.arm}' is not worse than dense, so the task tells nothing"
    return None


MOST_SEEDS = 100
"""Seeds that would decide are told up to here; beyond, the estimate is worth no more than that."""


def _words(comparison: statistics.Comparison, row: Row, dense: Row) -> str:
    """The verdict in words. An undecided one says how many seeds would decide. A matched one says how many runs failed,
    if a larger share than of dense: the interquartile mean leaves out the lowest quarter of runs, whatever they are."""
    failed = row.failure_rate
    if comparison.verdict == "matched" and failed is not None and failed > (dense.failure_rate or 0) + 1e-9:
        return f"matched, but {round(failed * row.returns.size)} of {row.returns.size} failed"
    if comparison.verdict != "undecided":
        return comparison.verdict
    if comparison.seeds is None:
        return "undecided (a single seed)" if math.isnan(comparison.lower) else "undecided (on the margin)"
    seeds = max(comparison.seeds, len(row.seeds) + 1)
    return f"undecided ({f'over {MOST_SEEDS}' if seeds > MOST_SEEDS else seeds} seeds)"


def spoken(rows: Sequence[Row], reason: str | None) -> tuple[Row, ...]:
    """Judged rows with their verdict in words."""
    finished, dense = [], reference(rows)
    for row in rows:
        if row.role == "dense":
            text = "reference"
        elif reason is not None:
            text = NOT_LEARNED if reason.startswith(NOT_LEARNED) else "no verdict"
        elif dense is None or row.comparison is None:
            text = ""
        elif row.origin != dense.origin and _again(row, dense):
            text = SAME_SEEDS
        else:
            text = _words(row.comparison, row, dense)
        finished.append(dataclasses.replace(row, verdict=text))
    return tuple(finished)


def _again(row: Row, dense: Row) -> bool:
    """Whether a row repeats runs of the reference: they are no independent evidence of anything."""
    return (
        row.role == "aa"
        and (row.method, row.target, row.agent, row.width)
        == (dense.method, dense.target, dense.agent, dense.width)
        and bool(set(row.seeds) & set(dense.seeds))
    )


def block(
    env: str,
    rows: Sequence[Row],
    levels: dict[str, float | None],
    known: dict[str, float] | None = None,
    swept: dict[str, tuple[float, ...]] | None = None,
) -> Block:
    """The rows of one environment, compared and with verdicts or the reason why there are none."""
    judged = judge(rows)
    why = reason(judged, levels)
    return Block(env, spoken(judged, why), why, levels, known or {}, swept or {})
