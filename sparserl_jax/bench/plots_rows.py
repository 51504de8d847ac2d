"""The rows of a table as a figure: every arm at every sparsity on a line of its own, however many there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sparserl_jax.bench import figures
from sparserl_jax.bench.columns import sparsity_text
from sparserl_jax.bench.rows import Block, Row
from sparserl_jax.bench.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE, PANEL, NAMES, VERDICTS, LETTER = 0.165, 2.9, 1.75, 0.85, 0.045
"""Inches: height of a row, width of a panel, of the names on its left, of the verdicts on its right (at least), and of
a letter of these."""
ABOVE, AXIS, CAPTION = 0.75, 0.45, 0.5
"""Inches above a panel (title, levels) and below it, and under all of them."""
ACROSS = 3
"""Panels side by side."""
NAMES_APART = 0.2
"""Share of a panel's width: levels nearer than this are named to their two sides."""


def name(row: Row) -> str:
    """An arm and its sparsity, as the table has them."""
    level = sparsity_text(row)
    return row.label if level == "0" else f"{row.label}  {level}"


def _verdict(row: Row) -> str:
    """Its verdict without the remark in brackets."""
    return row.verdict.partition(" (")[0]


def _limits(block: Block) -> tuple[float, float]:
    """Of the axis of returns: all there is, but no further than half a scale of z below random actions."""
    levels = [v for v in (block.levels.get("random"), block.levels.get("learned")) if v is not None]
    values = np.concatenate([*(row.returns for row in block.rows), levels])
    low, high = float(values.min()), float(values.max())
    floor = figures.floor(block)
    low = low if floor is None else max(low, floor)
    pad = 0.05 * (high - low or 1.0)
    return low - pad, high + pad


def _cut(block: Block) -> bool:
    """Whether a row goes on beyond the end of the axis."""
    low, _ = _limits(block)
    return any(_beyond(row, low) for row in block.rows)


def _beyond(row: Row, low: float) -> bool:
    """Whether something of a row lies below the axis."""
    return min(float(row.value.lower), float(row.returns.min())) < low


def _levels(axes: Axes, block: Block, width: float) -> None:
    """Declared levels as thin lines, named above; `width`: of the axis, in units of return."""
    known = {name: block.levels.get(name) for name, _ in figures.LEVELS}
    values = [value for value in known.values() if value is not None]
    crowded = len(values) > 1 and max(values) - min(values) < NAMES_APART * width
    for level_name, style in figures.LEVELS:
        level = known[level_name]
        if level is not None:
            side = ("right" if level == min(values) else "left") if crowded else "center"
            axes.axvline(level, color="#999999", linewidth=0.8, linestyle=style, zorder=1)
            axes.annotate(
                level_name, (level, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 2),
                textcoords="offset points", ha=side, va="bottom", fontsize=6.5, color="#888888",
            )  # fmt: skip


def _draw(axes: Axes, block: Block, arms: list[str]) -> None:
    """The rows of an environment, from the first at the top."""
    from matplotlib.ticker import MaxNLocator

    low, high = _limits(block)
    _levels(axes, block, high - low)
    shaded = False
    for index, row in enumerate(block.rows):
        shaded ^= index > 0 and row.arm != block.rows[index - 1].arm
        if shaded:
            axes.axhspan(index - 0.5, index + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
        own = figures.colour(row.arm, arms)
        value, lower, upper = (float(number) for number in row.value)
        if row.role == "dense":
            axes.axvspan(lower, upper, color=own, alpha=0.14, linewidth=0, zorder=1)
        axes.plot(
            row.returns, np.full(row.returns.size, index), linestyle="", marker="|", markersize=4.5, color=own,
            alpha=0.55, zorder=3,
        )  # fmt: skip
        if len(row.seeds) > 1:  # the interval of one seed would have no width, as if nothing scattered
            axes.plot(
                [lower, upper], [index, index], color=own, linewidth=1.5, zorder=4, solid_capstyle="butt"
            )
        axes.plot(
            [value], [index], linestyle="", marker=figures.marker(row.arm, arms), markersize=4.6, color=own,
            markeredgecolor="white", markeredgewidth=0.6, zorder=5,
        )  # fmt: skip
        if _beyond(row, low):
            axes.annotate(
                "<", (0.0, index), xycoords=("axes fraction", "data"), fontsize=6.5, va="center", ha="left"
            )
        axes.annotate(
            _verdict(row), (1.0, index), xycoords=("axes fraction", "data"),
            xytext=(4, 0), textcoords="offset points", va="center", ha="left", fontsize=6.0, color="#666666",
            annotation_clip=False,
        )  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_ylim(len(block.rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", visible=False)
    axes.set_yticks(range(len(block.rows)), [name(row) for row in block.rows], fontsize=6.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("return")


def returns_by_row(summary: Summary) -> tuple[Figure, str]:
    """Every row of the table with its interval, its seeds and its verdict, a panel per environment; its data as CSV."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    letters = max(len(_verdict(row)) for block in summary.blocks for row in block.rows)
    arms, column = figures.arms_of(summary), NAMES + PANEL + max(VERDICTS, 0.1 + LETTER * letters)
    lines = [summary.blocks[start : start + ACROSS] for start in range(0, len(summary.blocks), ACROSS)]
    tall = [LINE * max(len(block.rows) for block in line) for line in lines]
    width, height = column * len(lines[0]), sum(tall) + (ABOVE + AXIS) * len(lines) + CAPTION
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    data: list[list[Any]] = []
    for number, line in enumerate(lines):
        top = height - sum(tall[:number]) - (ABOVE + AXIS) * number - ABOVE
        for index, block in enumerate(line):
            own = LINE * len(block.rows)
            left = index * column + NAMES
            axes = figure.add_axes((left / width, (top - own) / height, PANEL / width, own / height))
            _draw(axes, block, arms)
            axes.set_title(figures.short_name(block.env), loc="left", pad=14)
            data += [
                [
                    block.env,
                    row.arm,
                    row.role,
                    row.sparsity,
                    row.came_out,
                    *map(float, row.value),
                    row.verdict,
                ]
                for row in block.rows
            ]
    figures.heading(figure, summary, "Returns", height)
    seeds = figures.seeds_words(row for block in summary.blocks for row in block.rows)
    text = (
        f"Interquartile mean over {seeds}; bars: 95 % bootstrap intervals; strokes: single seeds; band: the interval "
        "of the reference."
    )
    if any("(" in sparsity_text(row) for block in summary.blocks for row in block.rows):
        text += " In brackets: the sparsity that came of a coefficient, or of a knob that is no promise."
    if any(_cut(block) for block in summary.blocks):
        text += (
            " Axes end below random actions by half the distance from there to the reference; a row of which something "
            "lies further down has a <."
        )
    figures.caption(figure, summary, text)
    header = "environment,arm,role,sparsity,realised_sparsity,iqm,lower,upper,verdict".split(",")
    return figure, figures.csv_text(header, data)
