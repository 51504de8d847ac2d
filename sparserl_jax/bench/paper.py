"""A paper's tables beside ours: `sparserl paper rlx2`, from whatever records there are.

Every published number stands with ours of the same method, environment and sparsities: the point estimate the paper
would print (return in % of dense), our interval and verdict, size and FLOPs as shares of dense, and whether the two may
be compared. What has no record yet is named with the command that makes it; what a paper does not print stays blank.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparserl_jax.accounting import sizes
from sparserl_jax.bench import equal_rank_page, partial, published, records, statistics
from sparserl_jax.bench.published import AVERAGE, Paper, Table
from sparserl_jax.bench.rows import Block
from sparserl_jax.bench.rows import Row as Ours
from sparserl_jax.bench.summary import Summary, summarise
from sparserl_jax.bench.verdicts import reference
from sparserl_jax.errors import UserError
from sparserl_jax.references import unlabelled


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder of records of one of the paper's suites. `suite`: its name without the budget."""

    path: Path
    suite: str
    summary: Summary

    @property
    def settings(self) -> dict[str, Any]:
        """Its configuration."""
        return self.summary.settings

    @functools.cached_property
    def low_rank(self) -> dict[tuple[str, str, float], float]:
        """Share of weights saved by (environment, arm, knob), where `sparserl decompose` has been run on the folder."""
        return equal_rank_page.savings(self.path)

    @property
    def budget(self) -> str:
        """`--budget ...` of its suite, or nothing."""
        found = self.settings["suite"].get("budget")
        return f" --budget {found}" if found else ""


@dataclasses.dataclass(frozen=True)
class Line:
    """A published number beside ours. Shares are relative to dense; None where there is no record or no number.

    low_rank: share of weights saved, as `sparserl decompose` of the folder has found. success: share of the final
    episodes that reached their goal.
    """

    environment: str
    method: str
    published: published.Row
    percent: float | None = None
    ours: Ours | None = None
    size: float | None = None
    training: float | None = None
    inference: float | None = None
    differs: tuple[str, ...] = ()
    low_rank: float | None = None
    success: float | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """One published table beside the records of one folder, or of none."""

    table: Table
    source: Source | None
    lines: tuple[Line, ...]
    said: tuple[str, ...]

    def printed(self) -> Section:
        """With every line's numbers cut to those that the table prints of its method."""
        cut = (
            dataclasses.replace(line, published=self.table.printed(line.published, line.method))
            for line in self.lines
        )
        return dataclasses.replace(self, lines=tuple(cut))


def environment(name: str) -> str:
    """The name papers and suites share: `gymnasium:Hopper-v5` and `brax:hopper?backend=mjx` are `hopper`."""
    bare = unlabelled(name).partition("?")[0].rpartition(":")[2]
    head, _, version = bare.rpartition("-v")
    return (head if head and version.isdigit() else bare).lower()


def suite_name(settings: dict[str, Any]) -> str:
    """Name of a folder's suite, without its budget."""
    suite = settings["suite"]
    return suite["name"].removesuffix(f"_{suite['budget']}") if suite.get("budget") else suite["name"]


def sources(paper: Paper, roots: Sequence[Path]) -> list[Source]:
    """Folders in `roots` that hold records of the paper's suites; of several with one configuration the fullest."""
    wanted = {suite for table in paper.tables for suite in table.suites}
    wanted |= {suite for figure in paper.figures for suite in figure.suites}
    found: dict[str, Source] = {}
    for root in roots:
        for path in sorted(root.glob(f"*/{records.CONFIGURATION}")):
            if path.parent.name.startswith("."):
                continue
            try:
                # Whatever else lies there may be in pieces.
                name = suite_name(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            if name not in wanted:
                continue
            try:
                settings, present = records.load_all(path.parent)
            except UserError as error:
                raise UserError(f"'{path.parent}': {error}") from None
            if not present:
                continue
            before = found.get(settings["suite_hash"])
            if before is None or len(before.summary.records) < len(present):
                found[settings["suite_hash"]] = Source(path.parent, name, summarise(path.parent))
    return list(found.values())


def size_share(record: dict[str, Any]) -> float:
    """Weights of online and target networks relative to dense, see `sizes.weight_share`; SAC has no target actor."""
    tensors, agent = record["result"]["tensors"], record["provenance"]["config"]["training"]["agent"]["name"]
    live, full = ({name: sum(t[key] for t in tensors[name]) for name in tensors} for key in ("nnz", "size"))
    return sizes.weight_share(live, full, target_actor=agent != "sac")


def section(paper: Paper, table: Table, source: Source) -> Section:
    """One table beside one folder."""
    lines, missing = [], []
    for row in table.rows:
        if row.environment == AVERAGE:
            continue
        blocks = [block for block in source.summary.blocks if environment(block.env) == row.environment]
        for block in blocks:
            dense = reference(block.rows)
            if dense is not None:  # what the percentages are of; no paper prints it as one
                lines += _lines(paper, table, published.Row(row.environment), dense.arm, block, source)
        for method in row.methods:
            made = [line for block in blocks for line in _lines(paper, table, row, method, block, source)]
            lines += made or [Line(row.environment, method, row)]
    for row in (row for row in table.rows if row.environment == AVERAGE):
        lines += [_average(row, method, lines) for method in row.returns]
    present = {record["run_id"] for record in source.summary.records}
    if len(present) < len(source.settings["runs"]):
        missing.append(
            f"Missing: {partial.words(source.settings['runs'], present)}. `sparserl bench "
            f"{source.suite}{source.budget}` goes on (`--only ENV/ARM` for single programs)."
        )
    unfit = (
        []
        if source.summary.result
        else ["Not a result: the suite says that its numbers never are at this length."]
    )
    said = (*unfit, _comparable(paper, source), *missing, *([table.note] if table.note else []))
    return Section(table, source, tuple(lines), said)


def _lines(
    paper: Paper, table: Table, row: published.Row, method: str, block: Block, source: Source
) -> list[Line]:
    """Our rows of a published number on one environment: one, or one for each coefficient of a method that is swept by
    one."""
    dense = reference(block.rows)
    made: list[Line] = []
    for ours in block.rows:
        if ours.arm != method or not _same_level(row, ours) or (made and ours.outcome is None):
            continue
        mine = [record for record in source.summary.records if record["run_id"] in ours.runs]
        share = None
        if dense is not None:
            share = statistics.ratio(ours.returns[:, None], dense.returns[:, None])
        steps, protocol = source.settings["suite"]["steps"], paper.protocol
        differs = [
            *(["steps"] if protocol.steps not in (None, steps) else []),
            "environment",  # none of ours is the published version
            *(["seeds"] if protocol.seeds is not None and len(ours.seeds) < protocol.seeds else []),
        ]
        made.append(
            Line(
                block.env,
                method,
                row,
                None if share is None else 100 * share,
                ours,
                float(np.mean([size_share(record) for record in mine])),
                ours.training_ratio,
                ours.inference_ratio,
                tuple(differs),
                source.low_rank.get((block.env, ours.arm, ours.sparsity)),
                None if table.success is None else success_share(mine, table.success),
            )
        )
    return made


def success_share(found: Sequence[dict[str, Any]], level: float) -> float:
    """Share of the final episodes of all runs whose return is above `level`; none of a run that diverged is."""
    results = [record["result"] for record in found]
    reached = [
        result["status"] == "ok" and value is not None and value > level
        for result in results
        for value in result["final_returns"]
    ]
    return float(np.mean(reached))


def _same_level(row: published.Row, ours: Ours) -> bool:
    """Whether our row has the published sparsities, where the paper's table says them."""
    said = (row.sparsity, row.critic_sparsity)
    return all(
        level is None or abs(level - own) < 1e-9
        for level, own in zip(said, (ours.sparsity, ours.critic_sparsity), strict=True)
    )


def _average(row: published.Row, method: str, lines: Sequence[Line]) -> Line:
    """Means over the environments as the paper takes them, where ours has all of them."""
    mine = [line for line in lines if line.method == method]

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known and len(known) == len(values) else None

    return Line(
        AVERAGE,
        method,
        row,
        mean([line.percent for line in mine]),
        None,
        mean([line.size for line in mine]),
        mean([line.training for line in mine]),
        mean([line.inference for line in mine]),
    )


def _comparable(paper: Paper, source: Source) -> str:
    """What ours differ in from the published runs, in a sentence."""
    suite, protocol = source.settings["suite"], paper.protocol
    parts = []
    if protocol.steps is not None and suite["steps"] != protocol.steps:
        parts.append(f"{suite['steps']:,} steps per run (published {protocol.steps:,})")
    envs = [
        f"{task['name']} for {protocol.versions[environment(task['name'])]}"
        for task in suite["tasks"]
        if environment(task["name"]) in protocol.versions
    ]
    parts.append(f"environments ({', '.join(envs)} of {protocol.environments})")
    seeds = sorted({len(row.seeds) for block in source.summary.blocks for row in block.rows})
    shown = "" if not seeds else f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    if seeds and protocol.seeds is not None and seeds[0] < protocol.seeds:
        parts.append(f"{shown} seeds (published {protocol.seeds})")
    unknown = ""
    if protocol.steps is None:
        unknown = (
            " How long, with how many seeds and with which settings the published runs were trained is not known; "
            f"ours: {suite['steps']:,} steps, {shown} seeds."
        )
    return (
        "Not comparable number by number, only in order and in shares of dense: ours differ in "
        f"{'; '.join(parts)}.{unknown}"
    )


def sections(paper: Paper, found: Sequence[Source]) -> list[Section]:
    """Every table beside every folder that has records for it; beside nothing where there is none."""
    made = []
    for table in paper.tables:
        mine = [source for source in found if source.suite in table.suites]
        made += [section(paper, table, source) for source in mine]
        if not mine:
            lines = [Line(row.environment, method, row) for row in table.rows for method in row.methods]
            said = f"No records yet: run {' or '.join(f'`sparserl bench {name}`' for name in table.suites)}."
            made.append(Section(table, None, tuple(lines), (said, *([table.note] if table.note else []))))
    return [part.printed() for part in made]
