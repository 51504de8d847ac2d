"""Tables from records alone: Markdown, CSV, LaTeX and the screen. The same records give the same bytes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sparserl_jax.bench import records, reproduce
from sparserl_jax.bench.columns import COLUMNS, blocks, cells, heading, of_z, texts
from sparserl_jax.bench.latex import latex
from sparserl_jax.bench.remarks import remarks
from sparserl_jax.bench.rows import Block, Row, wide
from sparserl_jax.bench.screen import screen
from sparserl_jax.bench.summary import Summary, summarise

__all__ = ["COLUMNS", "cells", "comma_separated", "grid", "heading", "latex", "markdown", "screen", "write"]


def grid(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a GitHub table: the first column to the left, the others to the right."""
    return [
        "| " + " | ".join(names) + " |",
        "|" + "|".join(["---", *["---:"] * (len(names) - 1)]) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def markdown(summary: Summary) -> str:
    """The table as GitHub Markdown."""
    lines = [f"# {summary.title}", ""]
    for block, columns in blocks(summary):
        lines += [f"## {heading(block)}", ""]
        if block.reason is not None:
            lines += [f"**{block.reason[0].upper()}{block.reason[1:]}.**", ""]
        lines += [*grid([COLUMNS[index] for index in columns], texts(block, columns)), ""]
        for line in remarks(block):
            lines += [line, ""]
    lines += [line + "\n" for line in summary.caption]
    return "\n".join(lines).rstrip("\n") + "\n"


_CSV = (
    "environment",
    "arm",
    "role",
    "method",
    "sparsity",
    "critic_sparsity",
    "seeds",
    "diverged",
    "return_iqm",
    "return_lower",
    "return_upper",
    "last_policy_iqm",
    "last_policy_lower",
    "last_policy_upper",
    "z",
    "z_lower",
    "z_upper",
    "delta",
    "delta_lower",
    "delta_upper",
    "verdict",
    "seeds_to_decide",
    "worst",
    "p10",
    "failure_rate",
    "compression_parameters",
    "compression_bytes",
    "inference_flops_ratio",
    "training_flops_ratio_theory",
    "training_flops_ratio_executed",
    "program_steps_per_second",
    "program_members",
    "improvement_probability",
    "improvement_lower",
    "improvement_upper",
    "tiny_arm",
    "delta_tiny",
    "delta_tiny_lower",
    "delta_tiny_upper",
    "commit",
    "command",
)
_CSV_WIDE = ("width", "delta_dense_of_width", "delta_dense_of_width_lower", "delta_dense_of_width_upper")
"""Further columns where rows differ in the width of their networks."""
_CSV_OUTCOME = ("realised_sparsity",)
"""A further column where the knob of some rows is a coefficient, and stands in the column `sparsity`."""


def three(found: Any) -> tuple[Any, ...]:
    """Value and bounds of an interval or of a comparison; empty cells where there is none or it is unknown."""
    numbers = (None,) * 3 if found is None else tuple(map(float, found[:3]))
    return tuple(None if number is None or math.isnan(number) else number for number in numbers)


def own(row: Row, found: Any) -> tuple[Any, ...]:
    """`three` of an arm's own interval: a single seed says nothing about its scatter."""
    value, *bounds = three(found)
    return (value, *(bounds if len(row.seeds) > 1 else (None, None)))


def _csv_row(block: Block, row: Row, pooled: bool) -> list[Any]:
    found = row.comparison
    return [
        block.env,
        row.arm,
        row.role,
        row.method,
        None if row.level else row.sparsity,
        None if row.level else row.critic_sparsity,
        " ".join(map(str, row.seeds)),
        row.diverged,
        *own(row, None if pooled else row.value),
        *own(row, row.final),
        *own(row, row.z_value),
        *three(found),
        row.verdict,
        None if found is None else found.seeds,
        row.worst,
        row.p10,
        row.failure_rate,
        row.compression_parameters,
        row.compression_bytes,
        row.inference_ratio,
        row.training_ratio,
        row.executed_ratio,
        row.speed,
        row.members,
        *three(row.improvement),
        row.tiny,
        *three(row.tiny_comparison),
        " ".join(row.commits),
        row.command,
    ]


def comma_separated(summary: Summary) -> str:
    """One line per row of the table, in full precision; the pooled block has z only."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    widths = any(wide(block.rows) for block in summary.blocks)
    outcomes = any(row.realised is not None for block in summary.blocks for row in block.rows)
    writer.writerow((*_CSV, *(_CSV_WIDE if widths else ()), *(_CSV_OUTCOME if outcomes else ())))
    for block, columns in blocks(summary):
        for row in block.rows:
            line = _csv_row(block, row, of_z(columns))
            line += [row.width, *three(row.peer_comparison)] if widths else []
            line += [row.realised] if outcomes else []
            writer.writerow("" if v is None else repr(v) if isinstance(v, float) else v for v in line)
    return out.getvalue()


FILES: dict[str, Callable[[Summary], str]] = {
    "table.md": markdown,
    "table.csv": comma_separated,
    "table.tex": latex,
    "reproduce.md": reproduce.page,
}
"""Files that say what the records of a folder give, and how each is made."""


def write(root: Path, summary: Summary | None = None) -> list[Path]:
    """Write all `FILES` into a folder of records; returns their paths."""
    summary = summarise(root) if summary is None else summary
    for name, made in FILES.items():
        records.write_atomic(root / name, made(summary).encode())
    return [root / name for name in FILES]


def differing(root: Path) -> tuple[list[str], list[str]]:
    """(problems, remarks) on those `FILES` in a folder of sound records that are not what its records give.

    Other numbers in `table.csv` are a problem. Another text is what a caption in other words makes, too: a remark.
    """
    there = [name for name in FILES if (root / name).is_file()]
    summary = summarise(root) if there else None
    made = {name: FILES[name](summary) for name in there if summary is not None}
    found = {name: (root / name).read_text(encoding="utf-8") for name in there}
    other = [name for name in there if found[name] != made[name]]
    again = f"; `sparserl table {root}` makes it anew"
    if "table.csv" in other and not _same_numbers(found["table.csv"], made["table.csv"]):
        return [f"table.csv has other numbers than its records give{again}"], []
    told = [name for name in other if name != "table.csv"]
    return [], [f"{', '.join(told)}: edited, or of another version{again}"] if told else []


def _same_numbers(one: str, other: str) -> bool:
    """Whether two CSV files have the same cells, numbers but for the rounding of another machine."""

    def same(a: str, b: str) -> bool:
        try:
            return a == b or math.isclose(float(a), float(b), rel_tol=1e-9, abs_tol=1e-9)
        except ValueError:
            return False

    rows = [list(csv.reader(io.StringIO(text))) for text in (one, other)]
    return [len(row) for row in rows[0]] == [len(row) for row in rows[1]] and all(
        same(a, b) for ours, theirs in zip(*rows, strict=True) for a, b in zip(ours, theirs, strict=True)
    )
