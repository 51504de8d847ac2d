"""Columns of a table as text: what each cell of a row says."""

from __future__ import annotations

import math
from collections.abc import Callable

from sparserl_jax.bench.rows import Block, Row, wide
from sparserl_jax.bench.statistics import Comparison, Interval, within
from sparserl_jax.bench.summary import Summary

COLUMNS = (
    "method",
    "sparsity",
    "return, IQM [95 % CI]",
    "z",
    "delta to dense [95 % CI]",
    "verdict",
    "worst seed",
    "p10",
    "failed",
    "smaller, parameters",
    "smaller, bytes",
    "FLOPs/action, theory",
    "training FLOPs, theory",
    "training FLOPs, executed",
    "steps/s",
    "delta to tiny [95 % CI]",
    "P(beats dense) [95 % CI]",
    "width",
    "delta to dense of its width [95 % CI]",
    "last policy, IQM",
)
"""What `cells` gives. New columns come last, so that those before keep their place."""
WHOLE: tuple[int, ...] = (0, 1, 2, 19, 3, 4, 5, 16, 15, 6, 7, 8, 9, 10, 11, 12, 13, 14)
"""Order in which files show them."""
POOLED: tuple[int, ...] = (0, 1, 3, 4, 5, 16, 15, 6, 7, 8)
"""Columns of the pooled block: there the unit is z."""
_BEFORE = {2: 17, 3: 17, 5: 18}
"""Columns that are shown, too, where rows differ in the width of their networks: the second before the first."""


def _value(value: float) -> str:
    """A return: four figures, no exponent."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def z(value: float) -> str:
    """An IQM of z, or a bound of one."""
    return f"{value:.3f}"


def delta(value: float) -> str:
    """A difference of z, or a bound of one: three decimals, more where they would put it on the other side of the
    margin of verdicts."""
    digits = 3
    while within(float(text := f"{value:+.{digits}f}")) != within(value) and digits < 12:
        digits += 1
    return text


def chance(value: float) -> str:
    """A chance, or a bound of one."""
    return f"{value:.2f}"


def _times(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}x" if value >= 100 else f"{value:.1f}x"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def sparsity_text(row: Row) -> str:
    """The sparsities of a row: of the actor, and of the critics where that is another one."""
    if row.level:
        return row.level
    if row.sparsity == row.critic_sparsity:
        return row.level_text
    return f"{row.level_text} / {row.critic_sparsity:g}"


def _failed(row: Row) -> str:
    """Failure rate, and how many of them diverged."""
    if row.failure_rate is None:
        return f"{row.diverged} diverged" if row.diverged else ""
    text = f"{100 * row.failure_rate:.0f} %"
    return f"{text} ({row.diverged} div.)" if row.diverged else text


def bounded(found: Comparison | Interval | None, show: Callable[[float], str]) -> str:
    """A number and its bounds, which a single run has not."""
    if found is None:
        return ""
    middle, lower, upper = (float(number) for number in found[:3])
    return show(middle) if math.isnan(lower) else f"{show(middle)} [{show(lower)}, {show(upper)}]"


def cells(row: Row, pooled: bool = False) -> list[str]:
    """All columns of one row as text; `pooled`: the unit is z."""
    show = z if pooled else _value
    alone = len(row.seeds) < 2  # whose interval would have no width, as if nothing scattered
    value = show(float(row.value.value)) if alone else bounded(row.value, show)
    score = ""
    if row.z_value is not None:
        score = bounded(row.z_value, z) if pooled and not alone else z(float(row.z_value.value))
    speed = "" if row.speed is None else f"{row.speed:,.0f}"
    return [
        row.label,
        sparsity_text(row),
        value,
        score,
        bounded(row.comparison, delta),
        row.verdict,
        show(row.worst),
        show(row.p10),
        _failed(row),
        _times(row.compression_parameters),
        _times(row.compression_bytes),
        _share(row.inference_ratio),
        _share(row.training_ratio),
        _share(row.executed_ratio),
        speed,
        bounded(row.tiny_comparison, delta),
        bounded(row.improvement, chance),
        str(row.width),
        bounded(row.peer_comparison, delta),
        "" if row.final is None else _value(float(row.final.value)),
    ]


def heading(block: Block) -> str:
    """Title of a block, with its frozen levels."""
    names = [
        name for name in ("random", "failed", "learned", "reference") if block.levels.get(name) is not None
    ]
    return (
        block.env
        if not names
        else f"{block.env} ({', '.join(f'{name} {block.levels[name]:g}' for name in names)})"
    )


def widened(block: Block, columns: tuple[int, ...]) -> tuple[int, ...]:
    """`columns` with those on widths, where rows of the block differ in them."""
    if not wide(block.rows):
        return columns
    found: list[int] = []
    for index in columns:
        found += [_BEFORE[index]] if _BEFORE.get(index, index) not in (index, *found) else []
        found.append(index)
    return tuple(found)


def of_z(columns: tuple[int, ...]) -> bool:
    """Whether columns are those of a pooled block."""
    return COLUMNS.index("return, IQM [95 % CI]") not in columns


def blocks(summary: Summary) -> list[tuple[Block, tuple[int, ...]]]:
    """The blocks of a table with the columns that files show of each."""
    pooled = [] if summary.pooled is None else [(summary.pooled, POOLED)]
    found = [(block, WHOLE) for block in summary.blocks] + pooled
    return [(block, widened(block, columns)) for block, columns in found]


def texts(block: Block, columns: tuple[int, ...]) -> list[list[str]]:
    """The rows of a block as text."""
    pooled = of_z(columns)
    return [[cells(row, pooled)[index] for index in columns] for row in block.rows]
