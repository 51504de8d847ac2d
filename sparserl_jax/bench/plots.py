"""Learning curves, return versus sparsity and versus bytes, each as PNG, SVG and the CSV behind it.

Bands are 95 % bootstrap intervals of the interquartile mean over seeds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparserl_jax.bench import figures, records, statistics
from sparserl_jax.bench.plots_rows import returns_by_row
from sparserl_jax.bench.rows import Row
from sparserl_jax.bench.summary import Block, Summary, key_of, summarise
from sparserl_jax.bench.verdicts import reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _curves(summary: Summary, root: Path) -> dict[tuple[Any, ...], dict[str, np.ndarray]]:
    """Per environment and row: steps [points], IQM and band [points] over the seeds.

    A diverged run has no return from there on. Leaving its points out would show the survivors as the method; they
    count as the declared random return, and where none is declared the whole run is left out (`_left_out`).
    """
    random = {block.env: block.levels.get("random") for block in summary.blocks}
    groups: dict[tuple[Any, ...], list[dict[str, list[float | None]]]] = defaultdict(list)
    for record in summary.records:
        curve = records.read_curve(root / "records" / record["run_id"] / "curve.csv")
        groups[record["result"]["env"], *key_of(record)].append(curve)
    found = {}
    for key, curves in groups.items():
        steps = max((curve["env_step"] for curve in curves), key=len)
        whole = [c for c in curves if random[key[0]] is not None or None not in c["return"]]
        points = []
        for index in range(len(steps)):
            values = [c["return"][index] for c in whole]
            present = np.array([random[key[0]] if value is None else value for value in values], np.float64)
            if present.size == 0:
                points.append((math.nan, math.nan, math.nan, 0))
                continue
            interval = statistics.bootstrap(
                statistics.iqm,
                present[:, None],
                resamples=figures.CURVE_RESAMPLES,
            )
            middle, lower, upper = map(float, interval)
            points.append((middle, lower, upper, present.size))
        columns = np.array(points, np.float64).T
        names = ("iqm", "lower", "upper", "seeds")
        found[key] = {"step": np.array(steps, np.float64), **dict(zip(names, columns, strict=True))}
    return found


MOST_COLUMNS = 4
"""Panels side by side: more are too wide to be read on a page."""


def _levels(axes: Axes, block: Block) -> None:
    """Declared levels as thin lines, named in the margin."""
    for name, style in figures.LEVELS:
        level = block.levels.get(name)
        if level is not None:
            axes.axhline(level, color="#999999", linewidth=0.8, linestyle=style, zorder=1)
            axes.annotate(
                name, (1.0, level), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                ha="left", va="center", fontsize=6.5, color="#888888", annotation_clip=False,
            )  # fmt: skip


def _cut(axes: Axes, block: Block, whole: bool = False) -> bool:
    """End the axis half a scale of z below random actions, and say how many of the rows shown lie under it: a policy
    that has gone to pieces would leave no room for the others. `whole`: the axis holds more than the rows' final
    returns. Returns whether it was cut."""
    floor = figures.floor(block)
    if floor is None:
        return False
    low, high = axes.get_ylim()
    if low >= floor:
        return False
    top = max(max(float(row.value.upper), float(row.returns.max())) for row in block.rows)
    axes.set_ylim(floor, high if whole else min(high, top + 0.08 * (top - floor)))
    under = sum(float(row.value.value) < floor for row in block.rows if row.role != "aa")
    if under and not whole:
        axes.text(
            0.02, 0.02, f"{under} row{'s' if under > 1 else ''} further down", transform=axes.transAxes, fontsize=6.5,
            color="#666666", va="bottom", zorder=6, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip
    return True


CROWD, TOGETHER = 12, 7
"""Most lines of a panel of curves, and the most methods of each panel where it has to be divided."""


def _divided(panel: figures.Panel, block: Block) -> list[tuple[str, list[Row]]]:
    """A panel's title and rows; in several parts, each with the dense arm and the placebo, where lines would hide one
    another."""
    rows = list(panel.rows(block))
    if len(rows) <= CROWD:
        return [(panel.title, rows)]
    beside = [row for row in rows if row.role in ("dense", "placebo")]
    methods = [row for row in rows if row.role not in ("dense", "placebo")]
    count = -(-len(methods) // TOGETHER)
    size = -(-len(methods) // count)
    parts = [methods[part * size : (part + 1) * size] for part in range(count)]
    found = []
    for title in ("dense", panel.title):
        own = [p for p in parts if all(row.method == "dense" for row in p) == (title == "dense")]
        ends = [f" ({number} of {len(own)})" if len(own) > 1 else "" for number in range(1, len(own) + 1)]
        found += [(title + end, [*beside, *part]) for end, part in zip(ends, own, strict=True)]
    return found


def _panels(block: Block) -> list[tuple[str, list[Row]]]:
    """Titles and rows of an environment's panels of curves; parts that are alike at several sparsities stand once."""
    parts = [part for panel in figures.panels_of(block) for part in _divided(panel, block)]
    shown = {tuple(row.runs for row in rows): index for index, (_, rows) in reversed([*enumerate(parts)])}
    return [parts[index] for index in sorted(shown.values())]


def learning_curves(summary: Summary, root: Path) -> tuple[Figure, str]:
    """IQM return over steps: a panel per sparsity, new rows for every environment; and its data as CSV."""
    curves, arms = _curves(summary, root), figures.arms_of(summary)
    parts = [
        (block, panels[start : start + MOST_COLUMNS])
        for block in summary.blocks
        for panels in [_panels(block)]
        for start in range(0, len(panels), MOST_COLUMNS)
    ]
    columns = max(len(panels) for _, panels in parts)
    drawn = dict.fromkeys(
        figures.name_of(r) for block in summary.blocks for r in block.rows if r.role != "aa"
    )
    figure, grid, bottom, height = figures.frame(len(parts), columns, list(drawn))
    handles: dict[str, Any] = {}
    cut = over = False
    for line, (block, panels) in zip(grid, parts, strict=True):
        low, high = _range(curves, block)
        for axes in line[len(panels) :]:
            axes.set_axis_off()
        for axes, (title, rows) in zip(line, panels, strict=False):
            _levels(axes, block)
            for row in rows:
                curve = curves[block.env, row.arm, row.sparsity, row.critic_sparsity]
                over |= bool(np.nanmax(curve["upper"], initial=-np.inf) > high)
                own, dashed = figures.colour(row.arm, arms), row.role == "placebo"
                width = 2.0 if row.role == "dense" else 1.4
                axes.fill_between(
                    curve["step"], curve["lower"], curve["upper"], color=own, alpha=0.13, linewidth=0
                )
                (handles[figures.name_of(row)],) = axes.plot(
                    curve["step"], curve["iqm"], color=own, linewidth=width,
                    linestyle=(0, (3, 1.5)) if dashed else "-", zorder=3, markersize=3.4, markevery=3,
                    marker=figures.line_marker(row.arm, arms),
                )  # fmt: skip
            axes.set_title(f"{figures.short_name(block.env)}, {title}", loc="left")
            axes.set_xlim(0, curve["step"][-1])
            axes.set_ylim(low, high)
            cut |= _cut(axes, block, whole=True)
            axes.xaxis.set_major_formatter(figures.thousands)
            axes.set_xlabel(figures.steps_of(summary, block.env))
        line[0].set_ylabel("return")
    figures.heading(figure, summary, "Learning curves", height)
    figures.legend(figure, handles, bottom)
    text = f"Interquartile mean over {_seeds(summary)}; bands: 95 % bootstrap intervals."
    if over:
        text += " Bands that reach far above all lines are cut."
    if cut:
        text += (
            " Axes end below random actions by half the distance from there to the reference; what of a curve lies "
            "further down is not seen."
        )
    figures.caption(figure, summary, text + _left_out(curves, summary))
    return figure, _curve_csv(summary, curves)


def _seeds(summary: Summary) -> str:
    return figures.seeds_words(row for block in summary.blocks for row in block.rows)


def _left_out(curves: dict[tuple[Any, ...], dict[str, np.ndarray]], summary: Summary) -> str:
    """How many runs are missing in the curves because they diverged and no random return is declared."""
    missing = 0
    for block in summary.blocks:
        for row in block.rows:
            shown = curves[block.env, row.arm, row.sparsity, row.critic_sparsity]["seeds"]
            missing += len(row.seeds) - int(shown.max(initial=0))
    return f" {missing} diverged runs are left out." if missing else ""


def _range(curves: dict[tuple[Any, ...], dict[str, np.ndarray]], block: Block) -> tuple[float, float]:
    """Common limits of an environment's panels: all lines and levels, and bands to half of what these span beyond."""
    values = [curves[block.env, row.arm, row.sparsity, row.critic_sparsity] for row in block.rows]
    lines = np.concatenate([curve["iqm"] for curve in values])
    levels = [v for v in (block.levels.get("random"), block.levels.get("learned")) if v is not None]
    every = np.concatenate([lines[np.isfinite(lines)], levels])
    if every.size == 0:
        return 0.0, 1.0
    span = every.max() - every.min() or 1.0
    bands = np.concatenate([curve[end] for curve in values for end in ("lower", "upper")])
    bands = np.clip(bands[np.isfinite(bands)], every.min() - 0.5 * span, every.max() + 0.5 * span)
    every = np.concatenate([every, bands])
    pad = 0.08 * (every.max() - every.min() or 1.0)
    return float(every.min() - pad), float(every.max() + pad)


def _curve_csv(summary: Summary, curves: dict[tuple[Any, ...], dict[str, np.ndarray]]) -> str:
    lines = []
    for block in summary.blocks:
        for row in block.rows:
            key = (row.arm, row.sparsity, row.critic_sparsity)
            curve = curves[block.env, *key]
            columns = [curve[name].tolist() for name in ("step", "iqm", "lower", "upper", "seeds")]
            for step, iqm, lower, upper, seeds in zip(*columns, strict=True):
                lines.append([block.env, *key, int(step), iqm, lower, upper, int(seeds)])
    header = "environment,arm,sparsity,critic_sparsity,env_step,iqm,lower,upper,seeds".split(",")
    return figures.csv_text(header, lines)


APART, WIDEST = 0.02, 6
"""Between points of one size: their distance as a share of the axis, and how many of these a group of them takes at
most."""


def _place(row: Row) -> float:
    """The row's sparsity on a logarithmic axis of density: what came out where that is no promise, up to 99.99 %."""
    return -math.log10(max(1.0 - row.came_out, 1e-4))


def _apart(places: Sequence[float], rows: Sequence[float], limits: tuple[float, float]) -> set[float]:
    """Which places have room for their label, those of most `rows` first."""
    told: list[float] = []
    for place in sorted(places, key=lambda place: (-list(rows).count(place), place)):
        if all(abs(place - other) > 0.11 * (limits[1] - limits[0]) for other in told):
            told.append(place)
    return set(told)


def return_versus_sparsity(summary: Summary) -> tuple[Figure, str]:
    """IQM with interval and every seed at each sparsity, beside the dense line; one panel per environment."""
    arms = figures.arms_of(summary)
    drawn = dict.fromkeys(
        figures.name_of(r) for block in summary.blocks for r in block.rows if r.role != "aa"
    )
    figure, grid, bottom, height = figures.frame(1, len(summary.blocks), list(drawn))
    handles: dict[str, Any] = {}
    for axes, block in zip(grid[0], summary.blocks, strict=True):
        _levels(axes, block)
        swept = [row for row in block.rows if row.role in ("method", "placebo") and row.method != "dense"]
        # Sparsities that were asked for are the axis; those that came out lie where they lie on it.
        asked = [row for row in swept if row.realised is None] or swept
        places = sorted({_place(row) for row in asked}) or [0.0]
        sweep = sorted({_place(row) for row in asked if row.role == "method"})
        gap = min((b - a for a, b in zip(sweep, sweep[1:], strict=False)), default=0.5)
        names = list(dict.fromkeys(row.arm for row in swept if row.role == "method"))
        for row in block.rows:
            if row.method == "dense" and row.role != "aa":
                own = figures.colour(row.arm, arms)
                axes.axhspan(
                    float(row.value.lower), float(row.value.upper), color=own, alpha=0.1, linewidth=0
                )
                handles[row.arm] = axes.axhline(
                    float(row.value.value), color=own, linewidth=2.0 if row.role == "dense" else 1.4, zorder=2,
                    marker=figures.line_marker(row.arm, arms),
                    markersize=4.5, clip_on=False,
                )  # fmt: skip
        for name in [*names, *dict.fromkeys(row.arm for row in swept if row.role == "placebo")]:
            mine = sorted((row for row in swept if row.arm == name), key=lambda row: row.sparsity)
            own = figures.colour(name, arms)
            slot = 0.55 * gap / max(len(names), 1)
            offset = (names.index(name) - (len(names) - 1) / 2) * slot if name in names else 0.0
            where = np.array([_place(row) + (offset if row.realised is None else 0.0) for row in mine])
            middle = np.array([float(row.value.value) for row in mine])
            below = middle - np.array([float(row.value.lower) for row in mine])
            above = np.array([float(row.value.upper) for row in mine]) - middle
            for x, row in zip(where, mine, strict=True):
                strip = np.full(row.returns.size, x - 0.3 * slot)
                axes.plot(
                    strip, row.returns, linestyle="", marker="o", markersize=2.8, color=own, alpha=0.45,
                    markeredgewidth=0, zorder=3,
                )  # fmt: skip
            axes.plot(where, middle, color=own, linewidth=1.0, alpha=0.6, zorder=3)
            handles[figures.name_of(mine[0])] = axes.errorbar(
                where, middle, yerr=np.maximum([below, above], 0), color=own, linestyle="", elinewidth=1.3, capsize=2.0,
                marker=figures.marker(name, arms), markersize=4.6, markeredgecolor="white", markeredgewidth=0.6,
                zorder=4,
            )  # fmt: skip
        axes.set_title(figures.short_name(block.env), loc="left")
        outcomes = [_place(row) for row in swept if row.realised is not None]
        axes.set_xlim(
            min([places[0], *outcomes]) - 0.5 * gap,
            max(
                places[-1] + (0.5 if sweep and places[-1] == sweep[-1] else 0.2) * gap,
                max(outcomes, default=0) + 0.1,
            ),
        )
        told = _apart(places, [_place(row) for row in asked], axes.get_xlim())
        axes.set_xticks(places, [f"{1 - 10**-place:.4g}" if place in told else "" for place in places])
        mixed = any(row.critic_sparsity != row.sparsity for row in asked)
        axes.set_xlabel(f"sparsity{' of the actor' if mixed else ''} (log density)")
        _cut(axes, block)
        axes.grid(axis="x", visible=False)
    grid[0][0].set_ylabel("return")
    figures.heading(figure, summary, "Return versus sparsity", height)
    figures.legend(figure, handles, bottom)
    figures.caption(
        figure,
        summary,
        f"Interquartile mean over {_seeds(summary)}; bars and bands: 95 % bootstrap intervals; dots: single seeds; "
        "methods are set apart sideways for legibility.",
    )
    header = "environment,arm,role,sparsity,critic_sparsity,seed,score,iqm,lower,upper".split(",")
    lines = [
        [block.env, row.arm, row.role, row.sparsity, row.critic_sparsity, seed, score, *map(float, row.value)]
        for block in summary.blocks
        for row in block.rows
        for seed, score in zip(row.seeds, row.returns.tolist(), strict=True)
    ]
    return figure, figures.csv_text(header, lines)


def front(places: Sequence[float], values: Sequence[float]) -> list[int]:
    """Which points no other one beats (is at least as far right and at least as high, and one of the two more), from
    left to right."""
    points = list(zip(places, values, strict=True))

    def beaten(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)

    return sorted((i for i, point in enumerate(points) if not beaten(point)), key=lambda i: points[i])


def _beside(places: Sequence[float]) -> list[float]:
    """Places on a logarithmic axis, those (nearly) equal set apart so that none hides another."""
    logs = np.log2(np.asarray(places, np.float64))
    step = APART * max(float(np.ptp(logs)), 1.0)
    order = np.argsort(logs, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(logs[order]) >= step / 2) + 1)
    for group in groups:
        own = min(step, WIDEST * step / max(len(group) - 1, 1))
        logs[group] = logs[group].mean() + own * (np.arange(len(group)) - (len(group) - 1) / 2)
    return [float(2**value) for value in logs]


def _smaller(row: Row, dense: Row | None) -> float:
    """How many times smaller a policy is than the reference's, in bytes; in tables, rows of another width stand beside
    dense of that width."""
    times = float(row.compression_bytes or 1.0)
    if dense is None or row.width == dense.width:
        return times
    return times * dense.dense_costs["actor_blob_bytes_dense"] / row.dense_costs["actor_blob_bytes_dense"]


def return_versus_bytes(summary: Summary) -> tuple[Figure, str]:
    """IQM with interval of every row over how much smaller its policy is than the dense one, in bytes of one file of
    the smallest form; and what of them no other row beats. One panel per environment."""
    arms = figures.arms_of(summary)
    shown = {
        block.env: [row for row in block.rows if row.role != "aa" and row.compression_bytes]
        for block in summary.blocks
    }
    drawn = dict.fromkeys(figures.name_of(row) for rows in shown.values() for row in rows)
    figure, grid, bottom, height = figures.frame(1, len(summary.blocks), ["not beaten", *drawn])
    handles: dict[str, Any] = {}
    lines: list[list[Any]] = []
    for axes, block in zip(grid[0], summary.blocks, strict=True):
        _levels(axes, block)
        rows = shown[block.env]
        smaller = [_smaller(row, reference(block.rows)) for row in rows]
        beside = _beside(smaller)
        best = front(smaller, [float(row.value.value) for row in rows])
        (handles["not beaten"],) = axes.step(
            [smaller[i] for i in best], [float(rows[i].value.value) for i in best], where="pre",
            color="#bbbbbb", linewidth=3.0, alpha=0.6, zorder=1,
        )  # fmt: skip
        for name in dict.fromkeys(row.arm for row in rows):
            mine = [(x, row) for x, row in zip(beside, rows, strict=True) if row.arm == name]
            mine.sort(key=lambda one: one[0])
            where, middle = np.array([x for x, _ in mine]), np.array([float(r.value.value) for _, r in mine])
            below = middle - np.array([float(row.value.lower) for _, row in mine])
            above = np.array([float(row.value.upper) for _, row in mine]) - middle
            own = figures.colour(name, arms)
            axes.plot(where, middle, color=own, linewidth=1.0, alpha=0.6, zorder=3)
            handles[figures.name_of(mine[0][1])] = axes.errorbar(
                where, middle, yerr=np.maximum([below, above], 0), color=own, linestyle="", elinewidth=1.3, capsize=2.0,
                marker=figures.marker(name, arms), markersize=4.6, markeredgecolor="white", markeredgewidth=0.6,
                zorder=4,
            )  # fmt: skip
        lines += [
            [block.env, row.arm, row.role, row.sparsity, row.came_out, x, *map(float, row.value), i in best]
            for i, (x, row) in enumerate(zip(smaller, rows, strict=True))
        ]
        axes.set_title(figures.short_name(block.env), loc="left")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, position: f"{value:g}x")
        axes.set_xlabel("times smaller than dense, bytes")
        _cut(axes, block)
    grid[0][0].set_ylabel("return")
    figures.heading(figure, summary, "Return versus bytes", height)
    figures.legend(figure, handles, bottom)
    figures.caption(
        figure,
        summary,
        f"Interquartile mean over {_seeds(summary)}; bars: 95 % bootstrap intervals; the smallest form of each policy, "
        "indices and biases included, points of (nearly) equal size side by side; grey: what no other one beats by its "
        "point estimate.",
    )
    header = "environment,arm,role,sparsity,realised_sparsity,times_smaller,iqm,lower,upper,not_beaten".split(
        ","
    )
    return figure, figures.csv_text(header, lines)


def write(root: Path, summary: Summary | None = None) -> list[Path]:
    """Draw the figures into `root/plots`; returns the files."""
    import matplotlib

    summary = summarise(root) if summary is None else summary
    if not summary.blocks:
        return []
    made = []
    with matplotlib.rc_context(figures.STYLE):  # type: ignore[arg-type]
        for name, (figure, data) in (
            ("learning_curves", learning_curves(summary, root)),
            ("returns_by_row", returns_by_row(summary)),
            ("return_versus_sparsity", return_versus_sparsity(summary)),
            ("return_versus_bytes", return_versus_bytes(summary)),
        ):
            made += figures.write_files(figure, data, root / "plots", name)
    return made


def write_where_installed(root: Path, summary: Summary) -> list[str]:
    """`write` on a machine that may have only what training needs; returns what there is to say of it."""
    try:
        write(root, summary)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "matplotlib":
            raise
        return [f"No plots: {missing.name} is not installed here; `sparserl plot` draws them where it is."]
    return []
