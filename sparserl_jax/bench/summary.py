"""From a folder's records to everything a table or a plot shows."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparserl_jax.bench import emptied, records, reproduce, schema, statistics, verdicts
from sparserl_jax.bench import rows as rows_of
from sparserl_jax.bench.caption import caption
from sparserl_jax.bench.rows import Block, Key, Row, key_of
from sparserl_jax.errors import UserError

__all__ = [
    "Block",
    "Key",
    "Row",
    "Summary",
    "as_one",
    "key_of",
    "known_of",
    "levels_of",
    "pooled",
    "summarise",
    "swept_of",
]


EACH = "each environment's"
"""What stands for the sparsity of pooled rows whose sparsities differ between environments."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """Everything a table or a plot shows. `records` in the order of the plan; `origins`: the end of the caption, which
    says where they come from."""

    name: str
    suite_hash: str
    title: str
    result: bool
    blocks: tuple[Block, ...]
    pooled: Block | None
    caption: tuple[str, ...]
    settings: dict[str, Any]
    records: tuple[dict[str, Any], ...]
    origins: tuple[str, ...] = ()


def task_of(settings: dict[str, Any], env: str) -> dict[str, Any]:
    """What the suite declares of an environment.

    Raises:
        UserError: the suite does not have it.
    """
    task = next((task for task in settings["suite"]["tasks"] if task["name"] == env), None)
    if task is None:
        raise UserError(
            f"there are records of {env}, which {records.CONFIGURATION} beside them does not have."
        )
    return task


def levels_of(settings: dict[str, Any], env: str) -> dict[str, float | None]:
    """Declared random, reference, learned and failure level of an environment."""
    task = task_of(settings, env)
    failed = task.get("failed")
    if failed is None and task["random"] is not None and task["learned"] is not None:
        failed = 0.5 * (task["random"] + task["learned"])
    return {key: task[key] for key in ("random", "reference", "learned")} | {"failed": failed}


def known_of(settings: dict[str, Any], env: str) -> dict[str, float]:
    """Declared returns of policies that nobody learned."""
    return task_of(settings, env).get("known", {})


def fallback_of(
    levels: dict[str, float | None], found: Sequence[dict[str, Any]], folder: Callable[[dict[str, Any]], Path]
) -> float:
    """Return at which diverged runs of an environment enter: the random policy's; where that is not declared, the
    lowest point of any curve.

    Args:
        found: the environment's records.
        folder: where the files of a record lie.
    """
    if levels["random"] is not None:
        return levels["random"]
    if all(None not in (record["result"]["score"], record["result"]["final_score"]) for record in found):
        return 0.0
    points = [
        value for record in found for value in records.read_curve(folder(record) / "curve.csv")["return"]
    ]
    return min((value for value in points if value is not None), default=0.0)


def order(settings: dict[str, Any], key: Key) -> tuple[Any, ...]:
    """Rows come in the order of the suite's arms, then by sparsity."""
    names = [arm["name"] for arm in settings["suite"]["arms"]]
    return (names.index(key[0]) if key[0] in names else len(names), key[1], key[2])


def follows(settings: dict[str, Any], arm: str) -> bool:
    """Whether an arm is trained at the sparsities of each environment, having none of its own."""
    return any(found["name"] == arm and not found["sparsities"] for found in settings["suite"]["arms"])


def swept_of(settings: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """The knobs that arms are declared at."""
    return {arm["name"]: tuple(arm.get("sparsities", ())) for arm in settings["suite"]["arms"]}


def pooled(blocks: Sequence[Block], settings: dict[str, Any]) -> Block | None:
    """The environments that have verdicts together, on z scores; rows not complete on all of them are left out.

    An environment that dense has not learned cannot tell methods apart and would only dilute the others. None where
    fewer than two environments have verdicts, or dense has not the same seeds on all of them yet.
    """
    every, blocks = len(blocks), [block for block in blocks if block.reason is None]
    if len(blocks) < 2:
        return None
    by_key: dict[Key, list[Row]] = defaultdict(list)
    for block in blocks:
        for row in block.rows:
            by_key[row.key].append(row)
    rows = []
    for key in sorted(by_key, key=lambda key: order(settings, key)):
        group = by_key[key]
        whole = as_one(group) if len(group) == len(blocks) else None
        if whole is not None:
            rows.append(whole)
    if verdicts.reference(rows) is None:
        return None
    title = "all environments" if len(blocks) == every else f"the {len(blocks)} environments with verdicts"
    judged = [_or_uneven(row, by_key[row.key]) for row in verdicts.judge(rows)]
    spoken = verdicts.spoken(judged, None)
    return Block(title, spoken, None, {}, swept=swept_of(settings), parts=tuple(blocks))


def as_one(group: Sequence[Row]) -> Row | None:
    """Rows of several environments, one of each, as one row on their z scores, without comparisons; None where they
    are not of the same seeds, or an environment has no levels."""
    scores = [row.z for row in group if row.z is not None]
    if len(scores) < len(group) or len({row.seeds for row in group}) != 1:
        return None
    z = np.stack(scores, axis=1)
    value = statistics.bootstrap(statistics.iqm, z)
    spread = statistics.spread(z, -np.inf)
    own = [(row.sparsity, row.critic_sparsity) for row in group if row.own]
    sparsity, critic = np.mean(own, axis=0).tolist() if own else (group[0].sparsity, group[0].critic_sparsity)
    outcomes: list[Any] = [row.outcome for row in group]
    fell_short = any(row.short is not None for row in group)
    rates = [row.failure_rate for row in group if row.failure_rate is not None]
    return dataclasses.replace(
        group[0],
        diverged=sum(row.diverged for row in group),
        returns=z,
        z=z,
        value=value,
        z_value=value,
        sparsity=sparsity,
        critic_sparsity=critic,
        level=EACH if own else "",
        outcome=None if None in outcomes else float(np.mean(outcomes)),
        short=float(np.mean([row.came_out for row in group])) if fell_short else None,
        worst=spread.worst,
        p10=spread.p10,
        failure_rate=float(np.mean(rates)) if len(rates) == len(group) else None,
        final=None,
        final_z=None,
        comparison=None,
        improvement=None,
        verdict="",
        tiny=None,
        tiny_comparison=None,
        peer_comparison=None,
        compression_parameters=None,
        compression_bytes=None,
        inference_ratio=None,
        training_ratio=None,
        executed_ratio=None,
        speed=None,
        runs=tuple(run for row in group for run in row.runs),
        programs=tuple(dict.fromkeys(name for row in group for name in row.programs)),
        commits=tuple(dict.fromkeys(name for row in group for name in row.commits)),
        command=reproduce.joined([row.command for row in group]),
    )


def _or_uneven(pooled: Row, group: Sequence[Row]) -> Row:
    """A pooled row, `uneven` in place of matched where a row of its `group`, one per task, is worse by itself: the
    interquartile mean over all runs leaves out the lowest quarter, which may be that whole task."""
    found = pooled.comparison
    if found is None or found.verdict != "matched":
        return pooled
    worse = any(row.comparison is not None and row.comparison.verdict == "worse" for row in group)
    return dataclasses.replace(pooled, comparison=found._replace(verdict="uneven")) if worse else pooled


def summarise(root: Path) -> Summary:
    """Rows, verdicts and caption of a folder, from its records and curves only.

    Raises:
        UserError: the folder is none of a suite, or a record is damaged.
    """
    settings, found = records.load_all(root)
    for record in found:
        broken = schema.errors(record)
        if broken:
            where = record.get("run_id", "one without a name")
            raise UserError(
                f"'{root}' has a damaged record ({where}: {broken[0]}); see `sparserl check {root}`."
            )
    by_env: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in found:
        by_env[record["result"]["env"]].append(record)
    blocks = []
    for env, mine in by_env.items():
        levels = levels_of(settings, env)
        fallback = fallback_of(levels, mine, lambda record: root / "records" / record["run_id"])
        groups: dict[tuple[str, float, float], list[dict[str, Any]]] = defaultdict(list)
        for record in mine:
            groups[key_of(record)].append(record)
        made = []
        for key in sorted(groups, key=lambda key: order(settings, key)):
            parts = reproduce.divided(groups[key])
            command = reproduce.command(settings, env, key[0], key[1], divided=parts)
            own = follows(settings, key[0])
            made.append(rows_of.row(groups[key], levels, fallback, command, own=own))
        blocks.append(verdicts.block(env, made, levels, known_of(settings, env), swept_of(settings)))

    suite, together = settings["suite"], pooled(blocks, settings)
    lines = [*emptied.sentences(root, found), *caption(settings, found, blocks, together)]
    return Summary(
        name=suite["name"],
        suite_hash=settings["suite_hash"],
        title=suite["title"],
        result=suite["result"],
        blocks=tuple(blocks),
        pooled=together,
        caption=tuple(lines),
        settings=settings,
        records=tuple(found),
        origins=tuple(lines[-1:]) if found else (),
    )
