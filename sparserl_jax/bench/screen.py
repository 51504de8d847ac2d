"""The table on a terminal: as many columns as fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparserl_jax.bench.columns import COLUMNS, POOLED, WHOLE, blocks, cells, heading, of_z, widened
from sparserl_jax.bench.remarks import remarks
from sparserl_jax.bench.rows import Block
from sparserl_jax.bench.summary import Summary

if TYPE_CHECKING:
    from rich.console import Console

SHORT = (
    "method",
    "S",
    "return, IQM [95 % CI]",
    "z",
    "delta [95 % CI]",
    "verdict",
    "worst",
    "p10",
    "failed",
    "params",
    "bytes",
    "FLOPs\n/action",
    "FLOPs\ntheory",
    "FLOPs\nexec.",
    "steps/s",
    "delta to tiny",
    "P(beats\ndense)",
    "width",
    "delta to dense\nof its width",
    "last\npolicy",
)
"""Headings on the screen."""
SCREENS: tuple[tuple[int, ...], ...] = (
    WHOLE,
    (0, 1, 2, 4, 5, 15, 6, 8, 9, 10, 12, 13, 14),
    tuple(range(15)),
    (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 13, 14),
    (0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13),
    (0, 1, 2, 4, 5, 8, 10, 12),
    (0, 1, 2, 4, 5),
    (0, 1, 2, 5),
)
POOLED_SCREENS = (POOLED, (0, 1, 3, 4, 5, 15, 6, 8), (0, 1, 3, 4, 5, 6, 7, 8), (0, 1, 3, 4, 5), (0, 1, 3, 5))
"""Choices of columns for the screen, the widest that fits is shown."""


_STYLE = {"matched": "green", "worse": "red"}


def _fitting(block: Block, pooled: bool, width: int) -> tuple[tuple[int, ...], bool]:
    """The largest choice of columns for a screen of `width` characters, and whether it fits without breaking cells."""
    rows = [cells(row, pooled) for row in block.rows]

    def needed(columns: tuple[int, ...]) -> int:
        heads = [max(len(part) for part in SHORT[index].split("\n")) for index in columns]
        return 2 + sum(
            max(head, *(len(row[index]) for row in rows)) + 3
            for head, index in zip(heads, columns, strict=True)
        )

    # Without a narrow opponent its column is empty: others take its place.
    shown = [widened(block, columns) for columns in (POOLED_SCREENS if pooled else SCREENS)]
    choices = [columns for columns in shown if 15 not in columns or any(row[15] for row in rows)]
    fitting = next((columns for columns in choices if needed(columns) <= width), choices[-1])
    return fitting, needed(fitting) <= width


def screen(summary: Summary, console: Console) -> None:
    """Print the table; on a narrow terminal some columns stay in the files only."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    for block, columns in blocks(summary):
        pooled = of_z(columns)
        columns, fits = _fitting(block, pooled, console.width)
        table = Table(title=heading(block), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for position, index in enumerate(columns):
            table.add_column(SHORT[index], justify="left" if position == 0 else "right", no_wrap=fits)
        for row in block.rows:
            found, verdict = cells(row, pooled), row.verdict.partition(",")[0]
            style = "bold" if row.role == "dense" else "dim" if row.role in ("aa", "placebo") else ""
            marked = [
                Text(
                    found[index],
                    style=_STYLE.get(verdict, "") if COLUMNS[index] == "verdict" else "",
                )
                for index in columns
            ]
            table.add_row(*marked, style=style)
        console.print(table)
        if block.reason is not None:
            console.print(f"  {block.reason}.", style="yellow", markup=False, highlight=False)
        for line in remarks(block):
            console.print(f"  {line}", markup=False, highlight=False)
    for line in summary.caption:
        console.print(line, style="dim", markup=False, highlight=False)
