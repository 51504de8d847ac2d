"""Learning curves and return versus sparsity, each as PNG, SVG and the CSV behind it.

Colours belong to methods, whatever else is in the figure. Bands are 95 % bootstrap intervals of the interquartile mean
over seeds. The same records give the same CSV and SVG bytes.
"""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparserl_jax.bench import caption as captions
from sparserl_jax.bench import records, statistics
from sparserl_jax.bench.summary import Block, Row, Summary, key_of, summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "dense": "#1a1a1a",
    "dense_rvl": "#7f7f7f",
    "tiny": "#e69f00",
    "tiny_rvl": "#b8860b",
    "static": "#56b4e9",
    "set": "#009e73",
    "rigl": "#0072b2",
    "rlx2": "#d55e00",
    "rlx2_paper": "#8c3a00",
    "placebo": "#cc79a7",
}
"""Colour-blind safe (Okabe and Ito); greys for what is dense."""
SPARE = ("#882255", "#44aa99", "#999933", "#332288", "#aa4499", "#117733")
"""For arms without a colour of their own, in the order of the suite."""
MARKERS = {
    "tiny": "s",
    "tiny_rvl": "p",
    "static": "v",
    "set": "D",
    "rigl": "^",
    "rlx2": "o",
    "dense_rvl": "P",
    "placebo": "X",
}
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "svg.hashsalt": "sparserl_jax",
    "svg.fonttype": "path",
    "path.simplify": False,
}
CURVE_RESAMPLES = 500
"""Resamples per point of a curve: a band needs less precision than a verdict."""


def colour(arm: str, arms: list[str]) -> str:
    """The colour of an arm; `arms`: all of the suite, in order."""
    if arm in COLOURS:
        return COLOURS[arm]
    others = [name for name in arms if name not in COLOURS]
    return SPARE[others.index(arm) % len(SPARE)]


def _arms(summary: Summary) -> list[str]:
    return [arm["name"] for arm in summary.settings["suite"]["arms"]]


def _knobs(block: Block) -> list[float]:
    """Sparsities that methods sweep on an environment, ascending; [0] where there is nothing to sweep."""
    swept = {row.sparsity for row in block.rows if row.role == "method" and row.method != "dense"}
    return sorted(swept) or [0.0]


def _title(env: str) -> str:
    """Short name: no prefix, options by value only (the CSV has the full name)."""
    name, _, options = env.partition("?")
    values = ", ".join(option.partition("=")[2] for option in options.split("&") if option)
    return f"{name.partition(':')[2] or name}" + (f" [{values}]" if values else "")


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
                statistics.iqm, present[:, None], rng=np.random.default_rng(index), resamples=CURVE_RESAMPLES
            )
            middle, lower, upper = map(float, interval)
            points.append((middle, lower, upper, present.size))
        columns = np.array(points, np.float64).T
        names = ("iqm", "lower", "upper", "seeds")
        found[key] = {"step": np.array(steps, np.float64), **dict(zip(names, columns, strict=True))}
    return found


def _caption(figure: Figure, summary: Summary, text: str) -> None:
    """What the figure shows and where it comes from, under it, and room for it."""
    width = figure.get_figwidth()
    lines = textwrap.wrap(f"{text} {summary.caption[-1]}", int(width * 21))
    figure.text(0.012, 0.008, "\n".join(lines), fontsize=6.5, color="#555555", va="bottom", linespacing=1.35)


def _levels(axes: Axes, block: Block) -> None:
    """Declared levels as thin lines, named in the margin."""
    for name, style in (("learned", (0, (4, 3))), ("random", (0, (1, 2)))):
        level = block.levels.get(name)
        if level is not None:
            axes.axhline(level, color="#999999", linewidth=0.8, linestyle=style, zorder=1)
            axes.annotate(
                name, (1.0, level), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                ha="left", va="center", fontsize=6.5, color="#888888", annotation_clip=False,
            )  # fmt: skip


def _frame(rows: int, columns: int, handles: int) -> tuple[Figure, np.ndarray, float, float]:
    """A figure with a grid of axes, and the fractions of its height left for legend and caption."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, panel = max(3.3 * columns + 0.6, 6.6), 2.3
    legend_rows = -(-handles // _per_row(width))
    legend = 0.52  # inches from the bottom, above three lines of caption
    below, above = legend + 0.19 * legend_rows + 0.55, 0.52
    height = panel * rows + below + above
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.72 / width, right=1 - 0.5 / width, top=1 - above / height, bottom=below / height,
        hspace=0.42, wspace=0.42,
    )  # fmt: skip
    return figure, axes, legend / height, height


def _per_row(width: float) -> int:
    """Legend entries that fit side by side."""
    return max(int(width / 0.85), 1)


def _legend(figure: Figure, handles: dict[str, Any], bottom: float) -> None:
    # Matplotlib fills columns first; reorder so that the names read along the rows.
    names, columns = list(handles), min(len(handles), _per_row(figure.get_figwidth()))
    ordered = [name for start in range(columns) for name in names[start::columns]]
    figure.legend(
        [handles[name] for name in ordered], ordered, loc="lower center", ncol=columns, bbox_to_anchor=(0.5, bottom),
        handlelength=1.5, handletextpad=0.5, columnspacing=1.3, fontsize=7.5, borderaxespad=0.0,
    )  # fmt: skip


def _heading(figure: Figure, summary: Summary, what: str, height: float) -> None:
    mark = "" if summary.result else "  (not a result)"
    figure.text(
        0.012,
        1 - 0.12 / height,
        f"{what}: {summary.title}{mark}",
        fontsize=10,
        fontweight="bold",
        va="top",
        ha="left",
    )


def learning_curves(summary: Summary, root: Path) -> tuple[Figure, str]:
    """IQM return over environment steps: one row per environment, one column per sparsity; and its data as CSV."""
    curves, arms = _curves(summary, root), _arms(summary)
    columns = max(len(_knobs(block)) for block in summary.blocks)
    drawn = [row for block in summary.blocks for row in block.rows if row.role != "aa"]
    figure, grid, bottom, height = _frame(len(summary.blocks), columns, len({row.arm for row in drawn}))
    handles: dict[str, Any] = {}
    for line, block in zip(grid, summary.blocks, strict=True):
        knobs = _knobs(block)
        low, high = _range(curves, block)
        for axes in line[len(knobs) :]:
            axes.set_axis_off()
        for axes, knob in zip(line, knobs, strict=False):
            _levels(axes, block)
            for row in block.rows:
                everywhere = row.method == "dense" or row.role == "placebo"
                if row.role == "aa" or not (everywhere or row.sparsity == knob):
                    continue
                curve = curves[block.env, row.arm, row.sparsity, row.critic_sparsity]
                own, dashed = colour(row.arm, arms), row.role == "placebo"
                axes.fill_between(
                    curve["step"], curve["lower"], curve["upper"], color=own, alpha=0.13, linewidth=0
                )
                (handles[_name(row)],) = axes.plot(
                    curve["step"], curve["iqm"], color=own, linewidth=2.0 if row.role == "dense" else 1.4,
                    linestyle=(0, (3, 1.5)) if dashed else "-", zorder=3,
                )  # fmt: skip
            axes.set_title(f"{_title(block.env)}, sparsity {knob:g}", loc="left")
            axes.set_xlim(0, curve["step"][-1])
            axes.set_ylim(low, high)
            axes.xaxis.set_major_formatter(_thousands)
            axes.set_xlabel("environment steps")
        line[0].set_ylabel("return")
    _heading(figure, summary, "Learning curves", height)
    _legend(figure, handles, bottom)
    text = f"Interquartile mean over {_seeds(summary)}; bands: 95 % bootstrap intervals."
    _caption(figure, summary, text + _left_out(curves, summary))
    return figure, _curve_csv(summary, curves)


def _seeds(summary: Summary) -> str:
    counts = [len(row.seeds) for block in summary.blocks for row in block.rows]
    return captions.seeds_sentence(counts).replace(" per row", "")


def _left_out(curves: dict[tuple[Any, ...], dict[str, np.ndarray]], summary: Summary) -> str:
    """How many runs are missing in the curves because they diverged and no random return is declared."""
    missing = 0
    for block in summary.blocks:
        for row in block.rows:
            shown = curves[block.env, row.arm, row.sparsity, row.critic_sparsity]["seeds"]
            missing += len(row.seeds) - int(shown.max(initial=0))
    return f" {missing} diverged runs are left out." if missing else ""


def _name(row: Row) -> str:
    return f"{row.arm} ({row.sparsity:g})" if row.role == "placebo" else row.arm


def _range(curves: dict[tuple[Any, ...], dict[str, np.ndarray]], block: Block) -> tuple[float, float]:
    """Common limits of an environment's panels: all lines, and bands as far as they are not wild."""
    values = [curves[block.env, row.arm, row.sparsity, row.critic_sparsity] for row in block.rows]
    lines = np.concatenate([curve["iqm"] for curve in values])
    levels = [v for v in (block.levels.get("random"), block.levels.get("learned")) if v is not None]
    every = np.concatenate([lines[np.isfinite(lines)], levels])
    if every.size == 0:
        return 0.0, 1.0
    pad = 0.08 * (every.max() - every.min() or 1.0)
    return float(every.min() - pad), float(every.max() + pad)


def _thousands(value: float, position: int) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


def _csv(header: list[str], lines: list[list[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[repr(v) if isinstance(v, float) else v for v in line] for line in lines])
    return out.getvalue()


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
    return _csv(header, lines)


def _place(sparsity: float) -> float:
    """Sparsity on a logarithmic axis of density."""
    return -math.log10(1.0 - sparsity)


def return_versus_sparsity(summary: Summary) -> tuple[Figure, str]:
    """IQM with interval and every seed at each sparsity, beside the dense line; one panel per environment."""
    arms = _arms(summary)
    drawn = {row.arm for block in summary.blocks for row in block.rows if row.role != "aa"}
    figure, grid, bottom, height = _frame(1, len(summary.blocks), len(drawn))
    handles: dict[str, Any] = {}
    for axes, block in zip(grid[0], summary.blocks, strict=True):
        _levels(axes, block)
        swept = [row for row in block.rows if row.role in ("method", "placebo") and row.method != "dense"]
        places = sorted({_place(row.sparsity) for row in swept}) or [0.0]
        sweep = sorted({_place(row.sparsity) for row in swept if row.role == "method"})
        gap = min((b - a for a, b in zip(sweep, sweep[1:], strict=False)), default=0.5)
        names = list(dict.fromkeys(row.arm for row in swept if row.role == "method"))
        for row in block.rows:
            if row.method == "dense" and row.role != "aa":
                own = colour(row.arm, arms)
                axes.axhspan(
                    float(row.value.lower), float(row.value.upper), color=own, alpha=0.1, linewidth=0
                )
                handles[row.arm] = axes.axhline(
                    float(row.value.value), color=own, linewidth=2.0 if row.role == "dense" else 1.4, zorder=2
                )
        for name in [*names, *dict.fromkeys(row.arm for row in swept if row.role == "placebo")]:
            mine = sorted((row for row in swept if row.arm == name), key=lambda row: row.sparsity)
            own = colour(name, arms)
            slot = 0.55 * gap / max(len(names), 1)
            offset = (names.index(name) - (len(names) - 1) / 2) * slot if name in names else 0.0
            where = np.array([_place(row.sparsity) for row in mine]) + offset
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
            handles[_name(mine[0])] = axes.errorbar(
                where, middle, yerr=np.maximum([below, above], 0), color=own, linestyle="", elinewidth=1.3, capsize=2.0,
                marker=MARKERS.get(name, "o"), markersize=4.6, markeredgecolor="white", markeredgewidth=0.6, zorder=4,
            )  # fmt: skip
        axes.set_title(_title(block.env), loc="left")
        axes.set_xlim(
            places[0] - 0.5 * gap, places[-1] + (0.5 if sweep and places[-1] == sweep[-1] else 0.2) * gap
        )
        axes.set_xticks(places, [f"{1 - 10**-place:.4g}" for place in places])
        axes.set_xlabel("sparsity (log density)")
        axes.grid(axis="x", visible=False)
    grid[0][0].set_ylabel("return")
    _heading(figure, summary, "Return versus sparsity", height)
    _legend(figure, handles, bottom)
    _caption(
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
    return figure, _csv(header, lines)


def _files(figure: Figure, data: str, folder: Path, name: str) -> list[Path]:
    records.write_atomic(folder / f"{name}.csv", data.encode())
    for suffix, options in (
        ("png", {"dpi": 160, "metadata": {"Software": None}}),
        ("svg", {"metadata": {"Date": None, "Creator": None}}),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, **options)  # type: ignore[arg-type]
        records.write_atomic(folder / f"{name}.{suffix}", buffer.getvalue())
    return [folder / f"{name}.{suffix}" for suffix in ("png", "svg", "csv")]


def write(root: Path, summary: Summary | None = None) -> list[Path]:
    """Draw both figures into `root/plots`; returns the files."""
    import matplotlib

    summary = summarise(root) if summary is None else summary
    if not summary.blocks:
        return []
    made = []
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        for name, (figure, data) in (
            ("learning_curves", learning_curves(summary, root)),
            ("return_versus_sparsity", return_versus_sparsity(summary)),
        ):
            made += _files(figure, data, root / "plots", name)
    return made
