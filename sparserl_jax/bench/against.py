"""Rows of a table held against another arm than dense: `--against ARM` of `sparserl table` and `sparserl compare`.

Every row stands beside the row of that arm whose actors came out nearest to it in sparsity. There are no verdicts:
those are of what a method loses beside dense, and their rule asks of dense and placebo what nobody asks of ARM.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sparserl_jax.bench import statistics, verdicts
from sparserl_jax.bench.columns import bounded, cells, chance, delta, heading, sparsity_text
from sparserl_jax.bench.rows import Block, Row
from sparserl_jax.bench.summary import Summary, as_one
from sparserl_jax.errors import suggest

if TYPE_CHECKING:
    from rich.console import Console


class Pair(NamedTuple):
    """A row and the one it is held against: difference of the IQMs of z (None without levels), and the chance that a
    run of the row is above one of the other. parts: the two on every environment that they are of."""

    row: Row
    other: Row
    difference: statistics.Comparison | None
    improvement: statistics.Interval
    parts: tuple[tuple[Row, Row], ...]


def apart(row: Row, other: Row) -> float:
    """How far two rows are apart in the sparsity of their actors."""
    return abs(other.came_out - row.came_out)


def nearest(row: Row, rows: Sequence[Row], distance: Callable[[Row, Row], float] = apart) -> Row:
    """The row whose actors, then critics, are nearest in sparsity to those of `row`; of two equally near ones that with
    more weights, the harder to beat."""
    return min(
        rows,
        key=lambda other: (
            round(distance(row, other), 9),  # 0.9 - 0.8 and 0.8 - 0.7 are equally far
            round(abs(other.critic_sparsity - row.critic_sparsity), 9),
            other.came_out,
        ),
    )


def pairs(block: Block, arm: str) -> list[Pair]:
    """All rows of a block but the arm's own, each against its nearest row of the arm; none where the block lacks it."""
    return opposed(block, lambda row: row.arm != arm, lambda row: row.arm == arm)


def opposed(
    block: Block,
    chosen: Callable[[Row], bool],
    opponents: Callable[[Row], bool],
    distance: Callable[[Row, Row], float] = apart,
) -> list[Pair]:
    """The chosen rows of a block, each against the nearest of the opponents.

    What came out may differ between environments, so a pooled row meets the nearest one of every environment, and
    those together as one row; it has no pair where an environment has none, or where their seeds are not the same.
    """
    found = []
    environments = block.parts or (block,)
    for row in filter(chosen, block.rows):
        parts = []
        for part in environments:
            mine = next(one for one in part.rows if one.key == row.key) if block.parts else row
            others = list(filter(opponents, part.rows))
            if others:
                parts.append((mine, nearest(mine, others, distance)))
        if len(parts) < len(environments):
            continue
        other = _pooled([other for _, other in parts]) if block.parts else parts[0][1]
        if other is not None:
            difference, improvement = verdicts.difference(row, other), verdicts.improvement(row, other)
            found.append(Pair(row, other, difference, improvement, tuple(parts)))
    return found


def _pooled(rows: Sequence[Row]) -> Row | None:
    """The rows as one, with all their sparsities, in the order of the environments, where they are not of one."""
    pooled = as_one(rows)
    if pooled is None or len({row.key for row in rows}) == 1:
        return pooled
    return dataclasses.replace(pooled, level=", ".join(map(sparsity_text, rows)))


def headings(arm: str) -> list[str]:
    """Of the columns that `texts` gives."""
    return [
        "method",
        "sparsity",
        "IQM [95 % CI]",
        f"{arm} at",
        f"IQM of {arm} [95 % CI]",
        f"delta to {arm} [95 % CI]",
        f"P(beats {arm}) [95 % CI]",
    ]


def texts(found: Sequence[Pair], pooled: bool) -> list[list[str]]:
    """Pairs as text; `pooled`: IQMs are of z, else of returns."""
    column = 3 if pooled else 2
    return [
        [
            pair.row.label,
            sparsity_text(pair.row),
            cells(pair.row, pooled)[column],
            sparsity_text(pair.other),
            cells(pair.other, pooled)[column],
            bounded(pair.difference, delta),
            bounded(pair.improvement, chance),
        ]
        for pair in found
    ]


def blocks(summary: Summary, arm: str) -> list[tuple[Block, list[Pair]]]:
    """The blocks of a table that have the arm, the pooled one last, with their pairs.

    Raises:
        UserError: the table has no such arm.
    """
    every = [*summary.blocks, *([] if summary.pooled is None else [summary.pooled])]
    known = {row.arm for block in every for row in block.rows}
    if arm not in known:
        raise suggest(arm, sorted(known), f"arm of {summary.name}")
    return [(block, found) for block in every if (found := pairs(block, arm))]


SCREENS: tuple[tuple[int, ...], ...] = (
    (0, 1, 2, 3, 4, 5, 6),
    (0, 1, 2, 3, 5, 6),
    (0, 1, 3, 5, 6),
    (0, 1, 5, 6),
    (0, 1, 6),
)
"""Choices of columns for the screen, the widest that fits is shown."""


def _fitting(heads: Sequence[str], lines: Sequence[Sequence[str]], width: int) -> tuple[int, ...]:
    def needed(columns: Sequence[int]) -> int:
        wide = [
            max(map(len, (*heads[column].split("\n"), *(line[column] for line in lines))))
            for column in columns
        ]
        return 2 + sum(one + 3 for one in wide)

    return next((columns for columns in SCREENS if needed(columns) <= width), SCREENS[-1])


def screen(summary: Summary, arm: str, console: Console) -> None:
    """Print every row against the arm, as many columns as fit."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heads = [name.replace(" [", "\n[") for name in headings(arm)]
    for block, found in blocks(summary, arm):
        lines = texts(found, pooled=block is summary.pooled)
        columns = _fitting(heads, lines, console.width)
        table = Table(title=heading(block), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for column in columns:
            table.add_column(Text(heads[column]), justify="left" if column == 0 else "right")
        for line in lines:
            table.add_row(*(Text(line[column]) for column in columns))
        console.print(table)
        if block.reason is not None:
            console.print(f"  {block.reason}.", style="yellow", markup=False, highlight=False)
    for remark in (_EXPLAINED.format(arm=arm), *summary.origins):
        console.print(remark, style="dim", markup=False, highlight=False)


_EXPLAINED = (
    "Every row beside the row of {arm} nearest to it in the actors' sparsity, on every environment by itself. delta: "
    "difference of the IQMs of z, both resampled; P: chance that a run of the row scores above one of the other, ties "
    "counting half. No verdicts: those are of what is lost beside dense. Each interval has its own 95 %: of many, some "
    "miss."
)
