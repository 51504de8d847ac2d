"""Diagnostics of training: per environment and sparsity one figure with a panel per diagnostic, and the CSV behind it.

A panel shows the interquartile mean over seeds of one column of the curves (documented in training/diagnostics.py) and
its 95 % bootstrap interval. Colours are those of the other figures; columns that no record has get no panel.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparserl_jax.bench import figures, records, statistics
from sparserl_jax.bench.summary import Block, Key, Row, Summary, key_of, summarise
from sparserl_jax.errors import UserError
from sparserl_jax.training import diagnostics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4
"""Panels side by side."""
ORDERS = 2.0
"""Orders of magnitude between the values of a panel from which its axis is logarithmic."""
HEADER = "environment,arm,sparsity,critic_sparsity,diagnostic,env_step,iqm,lower,upper,seeds".split(",")


@dataclasses.dataclass(frozen=True)
class Band:
    """One diagnostic of one row over training: arrays [points]; seeds: runs that have a value there."""

    step: np.ndarray
    iqm: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    seeds: np.ndarray


Bands = dict[tuple[Key, str], Band]
"""Bands of one environment by row and column of the curve."""


def names_of(columns: set[str]) -> list[str]:
    """The columns that are drawn, in the order of the documentation; networks and layers by name."""
    places: dict[str, tuple[int, str]] = {}
    documented = [column.name for column in diagnostics.COLUMNS]
    for name in columns:
        found = diagnostics.column_of(name)
        if found is not None and found[0].title:
            places[name] = (documented.index(found[0].name), name)
    return sorted(places, key=lambda name: places[name])


def bands(block: Block, summary: Summary, root: Path) -> Bands:
    """Interquartile mean and interval over seeds of every diagnostic on an environment.

    A point where a seed has no value (before the first update, after it diverged) is the point of the others.
    """
    groups: dict[Key, list[dict[str, list[float | None]]]] = defaultdict(list)
    for record in summary.records:
        if record["result"]["env"] == block.env:
            curve = records.read_curve(root / "records" / record["run_id"] / "curve.csv")
            groups[key_of(record)].append(curve)
    found: Bands = {}
    for key, curves in groups.items():
        steps = max((curve["env_step"] for curve in curves), key=len)
        for name in names_of({name for curve in curves for name in curve}):
            series = np.full((len(curves), len(steps)), np.nan)
            for line, curve in zip(series, curves, strict=True):
                own = np.array(curve.get(name, []), np.float64)
                line[: own.size] = own
            if np.any(np.isfinite(series)):
                found[key, name] = Band(np.array(steps, np.float64), *_intervals(series))
    return found


def _intervals(series: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """IQM, lower and upper bound, and number of runs at every point of [runs, points]; NaN where a run has no value."""
    seeds = np.isfinite(series).sum(axis=0)
    middle, lower, upper = np.full((3, series.shape[1]), np.nan)
    ordered = np.sort(series, axis=0)  # NaN last
    for count in np.unique(seeds[seeds > 0]):
        at = seeds == count
        middle[at], lower[at], upper[at] = statistics.bootstrap(
            lambda x: statistics.iqm(np.swapaxes(x, -1, -2)[..., None]),  # of every point by itself
            ordered[:count, at],
            resamples=figures.CURVE_RESAMPLES,
        )
    return middle, lower, upper, seeds


def figure_of(block: Block, panel: figures.Panel, found: Bands, summary: Summary) -> tuple[Figure, str]:
    """All diagnostics of one environment at one sparsity or coefficient, and their data as CSV."""
    rows = panel.rows(block)
    names = names_of({name for key, name in found if key in [_key(row) for row in rows]})
    figure, grid, bottom, height = figures.frame(
        -(-len(names) // COLUMNS), COLUMNS, [figures.name_of(row) for row in rows]
    )
    figure.subplots_adjust(wspace=0.34, hspace=0.38)
    handles: dict[str, Any] = {}
    for axes, name in zip(grid.flat, names, strict=False):
        _panel(axes, name, rows, found, summary, handles)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes in list(grid.flat)[max(0, len(names) - COLUMNS) : len(names)]:
        axes.set_xlabel(figures.steps_of(summary, block.env))
    figures.heading(figure, summary, f"Diagnostics of {figures.short_name(block.env)}, {panel.title}", height)
    figures.legend(figure, handles, bottom)
    figures.caption(figure, summary, _words(rows, names))
    lines = [
        [block.env, *_key(row), name, int(step), *values, int(seeds)]
        for name in names
        for row in rows
        if (band := found.get((_key(row), name))) is not None
        for step, *values, seeds in zip(
            *(column.tolist() for column in vars(band).values()), strict=True
        )
    ]  # fmt: skip
    return figure, figures.csv_text(HEADER, lines)


def _words(rows: list[Row], names: list[str]) -> str:
    text = [
        f"Interquartile mean over {figures.seeds_words(rows)}; bands: 95 % bootstrap intervals; equal lines cover each "
        "other."
    ]
    if any(row.role == "placebo" for row in rows):
        text.append("Dashed: must lose.")
    diverged = sum(row.diverged for row in rows)
    if diverged:
        text.append(f"{diverged} diverged runs count as long as they have values.")
    if any(name.startswith(("turnover", "grown")) for name in names):
        text.append("Turnover counts from one point to the next.")
    text.append("What each panel shows: `sparserl list diagnostics`.")
    return " ".join(text)


def _key(row: Row) -> Key:
    return row.arm, row.sparsity, row.critic_sparsity


def _panel(
    axes: Any, name: str, rows: list[Row], found: Bands, summary: Summary, handles: dict[str, Any]
) -> None:
    known = diagnostics.column_of(name)
    assert known is not None  # names_of lets no others through
    column, where = known
    arms, shown = figures.arms_of(summary), []
    for row in rows:
        band = found.get((_key(row), name))
        if band is None:
            continue
        own, dashed = figures.colour(row.arm, arms), row.role == "placebo"
        axes.fill_between(band.step, band.lower, band.upper, color=own, alpha=0.13, linewidth=0)
        (handles[figures.name_of(row)],) = axes.plot(
            band.step, band.iqm, color=own, linewidth=2.0 if row.role == "dense" else 1.3,
            linestyle=(0, (3, 1.5)) if dashed else "-", zorder=3,
        )  # fmt: skip
        shown.append(band)
    axes.set_title(
        column.title.format(**{key: text.replace("_", " ") for key, text in where.items()}), loc="left"
    )
    axes.set_ylabel(column.unit)
    if name == "q_bias":
        axes.axhline(0.0, color="#999999", linewidth=0.8, zorder=1)
    axes.set_xlim(0, max(band.step[-1] for band in shown))
    axes.xaxis.set_major_formatter(figures.thousands)
    _scale(axes, column, np.concatenate([band.iqm for band in shown]))


def _scale(axes: Any, column: diagnostics.Column, values: np.ndarray) -> None:
    """Shares from 0 to 1; logarithmic where the lines lie orders apart, to both sides of zero if need be."""
    if column.unit == "share":
        axes.set_ylim(-0.03, 1.03)
        return
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    if sizes.size == 0:
        axes.set_ylim(-0.05, 1.0)
        return
    largest, usual = float(sizes.max()), float(np.quantile(sizes, 0.1))
    if math.log10(largest / usual) >= ORDERS:
        if np.nanmin(values) > 0:
            axes.set_yscale("log")
        else:
            axes.set_yscale("symlog", linthresh=10.0 ** math.floor(math.log10(usual)))
            if np.nanmin(values) == 0:
                axes.set_ylim(bottom=0)
    else:
        axes.yaxis.set_major_formatter(figures.thousands)
        if np.nanmin(values) >= 0:
            axes.set_ylim(bottom=0)


def write(root: Path, summary: Summary | None = None) -> list[Path]:
    """Draw the diagnostics of every environment and sparsity into `root/plots`; returns the files.

    Raises:
        UserError: the folder holds no finished run.
    """
    import matplotlib

    from sparserl_jax.bench.plan import slug

    summary = summarise(root) if summary is None else summary
    if not summary.blocks:
        raise UserError(f"'{root}' holds no finished run to diagnose; run the suite first.")
    made = []
    with matplotlib.rc_context(figures.STYLE):  # type: ignore[arg-type]
        for block in summary.blocks:
            found, panels = bands(block, summary, root), figures.panels_of(block)
            for panel in panels:
                end = panel.end if len(panels) > 1 else ""
                figure, data = figure_of(block, panel, found, summary)
                made += figures.write_files(
                    figure, data, root / "plots", f"diagnostics-{slug(block.env)}{end}"
                )
    return made
