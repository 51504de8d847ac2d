"""From records to the rows of a table: aggregates, intervals, comparisons, and whether a verdict may be given at all.

The rule (no verdict without assay sensitivity): the dense arm's IQM must reach the environment's declared learned level
and the placebo arm must be worse than dense; otherwise every row of the environment says so instead of a verdict.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from sparserl_jax.bench import records, statistics
from sparserl_jax.bench.caption import caption

NOT_LEARNED = "not learned at this budget"

Key = tuple[str, float, float]
"""Arm, sparsity of the actor, sparsity of the critic."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One arm at one knob on one environment (or pooled: then `returns` are z scores and costs are None).

    returns: score of every seed, seeds ascending. z: the same, normalised, None without levels. value, z_value: IQM
    and interval. verdict: words for the table. compression, ratios: relative to the dense full-width network.
    speed: environment steps per second of the whole program, all its members together.
    """

    arm: str
    role: str
    method: str
    sparsity: float
    critic_sparsity: float
    seeds: tuple[int, ...]
    diverged: int
    returns: np.ndarray
    z: np.ndarray | None
    value: statistics.Interval
    z_value: statistics.Interval | None
    comparison: statistics.Comparison | None
    verdict: str
    worst: float
    p10: float
    failure_rate: float | None
    compression_parameters: float | None = None
    compression_bytes: float | None = None
    inference_ratio: float | None = None
    training_ratio: float | None = None
    executed_ratio: float | None = None
    speed: float | None = None
    members: int | None = None

    @property
    def label(self) -> str:
        """What the row is called."""
        return {"aa": f"{self.arm} (A/A)", "placebo": f"{self.arm} (must lose)"}.get(self.role, self.arm)


@dataclasses.dataclass(frozen=True)
class Block:
    """The rows of one environment, or the pooled ones. `reason` says why there are no verdicts; None if there are."""

    env: str
    rows: tuple[Row, ...]
    reason: str | None
    levels: dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class Summary:
    """Everything a table or a plot shows. `records` in the order of the plan."""

    name: str
    suite_hash: str
    title: str
    result: bool
    blocks: tuple[Block, ...]
    pooled: Block | None
    caption: tuple[str, ...]
    settings: dict[str, Any]
    records: tuple[dict[str, Any], ...]


def _generator(*words: Any) -> np.random.Generator:
    """A generator that depends on what is resampled and on nothing else, so that tables are the same on every rerun."""
    text = "|".join(str(word) for word in words)
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def key_of(record: dict[str, Any]) -> Key:
    """What makes runs one row."""
    result = record["result"]
    return result["arm"], result["sparsity"], result["critic_sparsity"]


def levels_of(settings: dict[str, Any], env: str) -> dict[str, float | None]:
    """Declared random, reference, learned and failure level of an environment."""
    task = next(task for task in settings["suite"]["tasks"] if task["name"] == env)
    failed = task["failed"]
    if failed is None and task["random"] is not None and task["learned"] is not None:
        failed = 0.5 * (task["random"] + task["learned"])
    return {key: task[key] for key in ("random", "reference", "learned")} | {"failed": failed}


def _returns(group: list[dict[str, Any]], fallback: float | None) -> np.ndarray:
    """Scores [runs]; a diverged run enters at `fallback`, the random policy's return."""
    values = [r["result"]["score"] for r in group]
    return np.array([fallback if value is None else value for value in values], np.float64)


def _lowest(found: list[dict[str, Any]], root: Path) -> float:
    """Stand-in for an undeclared random return: the lowest point of any curve of the environment."""
    lows = [
        value
        for record in found
        for value in records.read_curve(root / "records" / record["run_id"] / "curve.csv")["return"]
        if value is not None
    ]
    return min(lows, default=0.0)


def _ratio(costs: dict[str, Any], key: str, reference: str) -> float:
    return costs[key] / costs[reference]


def _row(group: list[dict[str, Any]], env: str, levels: dict[str, float | None], fallback: float) -> Row:
    """A row without its comparison."""
    group = sorted(group, key=lambda record: record["result"]["seed"])
    first, measured = group[0]["result"], [record["measured"] for record in group]
    x = _returns(group, fallback)
    z = z_value = None
    words = (env, *key_of(group[0]))
    if levels["random"] is not None and levels["reference"] is not None:
        z = statistics.normalise(x, levels["random"], levels["reference"])
        z_value = statistics.bootstrap(statistics.iqm, z[:, None], rng=_generator("value", *words))
    value = statistics.bootstrap(statistics.iqm, x[:, None], rng=_generator("value", *words))
    spread = statistics.spread(x[:, None], -np.inf if levels["failed"] is None else levels["failed"])
    diverged = sum(record["result"]["status"] == "diverged" for record in group)
    failures = [v < levels["failed"] for v in x] if levels["failed"] is not None else None
    if failures is not None:
        failures = [f or r["result"]["status"] == "diverged" for f, r in zip(failures, group, strict=True)]
    costs = first["costs"]
    speeds = sorted(m["steps_per_second"] for m in measured if m["steps_per_second"] is not None)
    # A tiny member inside a wide program shows the wide program's speed, which is not its own.
    own_speed = bool(speeds) and first["method"] != "tiny"
    return Row(
        arm=first["arm"],
        role=first["role"],
        method=first["method"],
        sparsity=first["sparsity"],
        critic_sparsity=first["critic_sparsity"],
        seeds=tuple(record["result"]["seed"] for record in group),
        diverged=diverged,
        returns=x,
        z=z,
        value=value,
        z_value=z_value,
        comparison=None,
        verdict="",
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
    )


def _words(comparison: statistics.Comparison, seeds: int) -> str:
    """The verdict in words; an undecided one says how many seeds would decide."""
    if comparison.verdict != "undecided":
        return comparison.verdict
    if comparison.seeds is None or comparison.seeds > 9999:
        return "undecided (on the margin)"
    return f"undecided ({max(comparison.seeds, seeds + 1)} seeds)"


def _reason(dense: Row | None, placebos: list[Row], levels: dict[str, float | None]) -> str | None:
    """Why no verdict may be given on this environment; None if it may."""
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


def _judge(rows: list[Row], words: tuple[Any, ...]) -> list[Row]:
    """Rows with their comparison to the dense one."""
    dense = next((row for row in rows if row.role == "dense"), None)
    judged = []
    for row in rows:
        comparison = None
        if dense is not None and row is not dense and row.z is not None and dense.z is not None:
            z, reference = (v if v.ndim == 2 else v[:, None] for v in (row.z, dense.z))
            comparison = statistics.compare(
                z, reference, _generator("delta", *words, row.arm, row.sparsity, row.critic_sparsity)
            )
        judged.append(dataclasses.replace(row, comparison=comparison))
    return judged


def _spoken(rows: list[Row], reason: str | None) -> tuple[Row, ...]:
    """Rows with their verdict in words."""
    finished = []
    for row in rows:
        if row.role == "dense":
            text = "reference"
        elif reason is not None:
            text = NOT_LEARNED if reason.startswith(NOT_LEARNED) else "no verdict"
        else:
            text = "" if row.comparison is None else _words(row.comparison, len(row.seeds))
        finished.append(dataclasses.replace(row, verdict=text))
    return tuple(finished)


def _order(settings: dict[str, Any], key: Key) -> tuple[Any, ...]:
    """Rows come in the order of the suite's arms, then by sparsity."""
    names = [arm["name"] for arm in settings["suite"]["arms"]]
    return (names.index(key[0]) if key[0] in names else len(names), key[1], key[2])


def _pooled(blocks: list[Block], settings: dict[str, Any]) -> Block | None:
    """The environments that have verdicts together, on z scores; rows not complete on all of them are left out.

    An environment that dense has not learned cannot tell methods apart and would only dilute the others.
    """
    every, blocks = len(blocks), [block for block in blocks if block.reason is None]
    if len(blocks) < 2:
        return None
    by_key: dict[Key, list[Row]] = defaultdict(list)
    for block in blocks:
        for row in block.rows:
            by_key[row.arm, row.sparsity, row.critic_sparsity].append(row)
    rows = []
    for key in sorted(by_key, key=lambda key: _order(settings, key)):
        group = by_key[key]
        same = len(group) == len(blocks) and len({row.seeds for row in group}) == 1
        if not same or any(row.z is None for row in group):
            continue
        z = np.stack([row.z for row in group if row.z is not None], axis=1)
        value = statistics.bootstrap(statistics.iqm, z, rng=_generator("pooled", *key))
        spread = statistics.spread(z, -np.inf)
        rates = [row.failure_rate for row in group if row.failure_rate is not None]
        rows.append(
            dataclasses.replace(
                group[0],
                diverged=sum(row.diverged for row in group),
                returns=z,
                z=z,
                value=value,
                z_value=value,
                worst=spread.worst,
                p10=spread.p10,
                failure_rate=float(np.mean(rates)) if len(rates) == len(group) else None,
                comparison=None,
                compression_parameters=None,
                compression_bytes=None,
                inference_ratio=None,
                training_ratio=None,
                executed_ratio=None,
                speed=None,
            )
        )
    if not rows:
        return None
    title = "all environments" if len(blocks) == every else f"the {len(blocks)} environments with verdicts"
    return Block(title, _spoken(_judge(rows, ("pooled",)), None), None, {})


def summarise(root: Path) -> Summary:
    """Rows, verdicts and caption of a folder, from its records and curves only."""
    settings, found = records.load_all(root)
    by_env: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in found:
        by_env[record["result"]["env"]].append(record)
    blocks = []
    for env in by_env:
        levels = levels_of(settings, env)
        fallback = levels["random"]
        if fallback is None:
            needed = any(record["result"]["score"] is None for record in by_env[env])
            fallback = _lowest(by_env[env], root) if needed else 0.0
        groups: dict[Key, list[dict[str, Any]]] = defaultdict(list)
        for record in by_env[env]:
            groups[key_of(record)].append(record)
        keys = sorted(groups, key=lambda key: _order(settings, key))
        rows = _judge([_row(groups[key], env, levels, fallback) for key in keys], (env,))
        dense = next((row for row in rows if row.role == "dense"), None)
        reason = _reason(dense, [row for row in rows if row.role == "placebo"], levels)
        blocks.append(Block(env, _spoken(rows, reason), reason, levels))

    suite = settings["suite"]
    return Summary(
        name=suite["name"],
        suite_hash=settings["suite_hash"],
        title=suite["title"],
        result=suite["result"],
        blocks=tuple(blocks),
        pooled=_pooled(blocks, settings),
        caption=tuple(caption(settings, found, blocks)),
        settings=settings,
        records=tuple(found),
    )
