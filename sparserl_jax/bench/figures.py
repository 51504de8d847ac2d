"""What all figures share: colours, frame, heading, legend, caption, and the files that a figure becomes.

Colours belong to methods, whatever else is in the figure. The same records give the same CSV and SVG bytes.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sparserl_jax.bench import caption as captions
from sparserl_jax.bench import records
from sparserl_jax.bench.summary import Block, Row, Summary, task_of

if TYPE_CHECKING:
    import numpy as np
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
SPARE_MARKERS = ("o", "s", "D", "^", "v", "P")
"""One after another where the spare colours come round again."""
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
LEVELS: tuple[tuple[str, Any], ...] = (("learned", (0, (4, 3))), ("random", (0, (1, 2))))
"""Declared levels that are drawn as thin lines, and the dashes of each."""
CURVE_RESAMPLES = 500
"""Resamples per point of a curve: a band needs less precision than a verdict."""


def colour(arm: str, arms: list[str]) -> str:
    """The colour of an arm; `arms`: all of the suite, in order."""
    if arm in COLOURS:
        return COLOURS[arm]
    others = [name for name in arms if name not in COLOURS]
    return SPARE[others.index(arm) % len(SPARE)]


def marker(arm: str, arms: list[str]) -> str:
    """The marker of an arm; `arms`: all of the suite, in order. With its colour it is that of no other arm."""
    if arm in MARKERS or arm in COLOURS:
        return MARKERS.get(arm, "o")
    others = [name for name in arms if name not in COLOURS]
    return SPARE_MARKERS[others.index(arm) // len(SPARE) % len(SPARE_MARKERS)]


def line_marker(arm: str, arms: list[str]) -> str:
    """The marker on an arm's lines: none where its colour is its own; spare colours come round again."""
    return "" if arm in COLOURS else marker(arm, arms)


def arms_of(summary: Summary) -> list[str]:
    """All arms of the suite, in order."""
    return [arm["name"] for arm in summary.settings["suite"]["arms"]]


class Panel(NamedTuple):
    """What one panel shows: the methods at one sparsity, or at one coefficient of a penalty."""

    coefficient: bool
    knob: float

    @property
    def title(self) -> str:
        """As in headings."""
        return f"{'coefficient' if self.coefficient else 'sparsity'} {self.knob:g}"

    @property
    def end(self) -> str:
        """Of file names."""
        if self.coefficient:
            return f"-c{self.knob:g}"
        thousandths = 1000 * self.knob
        whole = abs(thousandths - round(thousandths)) < 1e-6
        return f"-s{round(thousandths):04d}" if whole else f"-s{self.knob:g}"

    def rows(self, block: Block) -> list[Row]:
        """Rows to show: those at this knob, beside every dense and placebo row but A/A."""
        return [
            row
            for row in block.rows
            if row.role != "aa" and (row.method == "dense" or row.role == "placebo" or panel_of(row) == self)
        ]


def panel_of(row: Row) -> Panel:
    """Where a row belongs."""
    return Panel(row.outcome is not None, row.sparsity)


def panels_of(block: Block) -> list[Panel]:
    """Sparsities that methods sweep on an environment, ascending, then coefficients; sparsity 0 where there is none."""
    swept = {panel_of(row) for row in block.rows if row.role == "method" and row.method != "dense"}
    return sorted(swept) or [Panel(False, 0.0)]


def short_name(env: str) -> str:
    """Short name: no prefix, options by value only (the CSV has the full name)."""
    name, _, options = env.partition("?")
    values = ", ".join(option.partition("=")[2] for option in options.split("&") if option)
    return f"{name.partition(':')[2] or name}" + (f" [{values}]" if values else "")


def floor(block: Block) -> float | None:
    """Where an axis of returns ends: half a scale of z below random actions; None without levels."""
    random, reference = block.levels.get("random"), block.levels.get("reference")
    return None if random is None or reference is None else random - 0.5 * (reference - random)


def steps_of(summary: Summary, env: str) -> str:
    """What the step of a curve counts: updates where nothing is done in the environment."""
    return "updates" if "dataset" in task_of(summary.settings, env) else "environment steps"


def frame(rows: int, columns: int, names: Sequence[str]) -> tuple[Figure, np.ndarray, float, float]:
    """A figure with a grid of axes [rows, columns], the bottom of a legend of these `names` as a fraction of its
    height, and its height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, panel = max(3.3 * columns + 0.6, 6.6), 2.3
    legend_rows = -(-len(names) // _per_row(names, width))
    bottom = 0.52  # inches below the legend: three lines of caption
    below, above = bottom + 0.19 * legend_rows + 0.55, 0.52
    height = panel * rows + below + above
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.72 / width, right=1 - 0.5 / width, top=1 - above / height, bottom=below / height,
        hspace=0.42, wspace=0.42,
    )  # fmt: skip
    return figure, axes, bottom / height, height


def _per_row(names: Sequence[str], width: float) -> int:
    """Entries of a legend that fit side by side into so many inches: a column is as wide as its longest name."""
    for columns in range(len(names), 1, -1):
        longest = [max(map(len, names[start::columns])) for start in range(columns)]
        if sum(0.35 + 0.0625 * letters for letters in longest) <= width - 0.2:
            return columns
    return 1


def legend(figure: Figure, handles: dict[str, Any], bottom: float) -> None:
    """The legend of the whole figure, its lower end at the fraction `bottom` of the height."""
    # Matplotlib fills columns first; reorder so that the names read along the rows.
    names = list(handles)
    columns = _per_row(names, figure.get_figwidth())
    ordered = [name for start in range(columns) for name in names[start::columns]]
    figure.legend(
        [handles[name] for name in ordered], ordered, loc="lower center", ncol=columns, bbox_to_anchor=(0.5, bottom),
        handlelength=1.5, handletextpad=0.5, columnspacing=1.3, fontsize=7.5, borderaxespad=0.0,
    )  # fmt: skip


def heading(figure: Figure, summary: Summary, what: str, height: float) -> None:
    """The title of the whole figure, of `height` inches; it says so where the numbers are no result."""
    mark = "" if summary.result else "  (not a result)"
    text = f"{what}: {summary.title}{mark}"
    figure.text(
        0.012,
        1 - 0.12 / height,
        text,
        fontsize=min(10.0, 10.0 * figure.get_figwidth() / (0.095 * len(text))),  # a long one is set smaller
        fontweight="bold",
        va="top",
        ha="left",
    )


def caption(figure: Figure, summary: Summary, text: str) -> None:
    """What the figure shows and where it comes from, under it, and room for it."""
    width = figure.get_figwidth()
    lines = textwrap.wrap(f"{text} {summary.caption[-1]}", int(width * 21))
    figure.text(0.012, 0.008, "\n".join(lines), fontsize=6.5, color="#555555", va="bottom", linespacing=1.35)


def seeds_words(rows: Iterable[Row]) -> str:
    """How many seeds the rows have, and how far to trust intervals made from them."""
    return captions.seeds_sentence([len(row.seeds) for row in rows]).replace(" per row", "")


def name_of(row: Row) -> str:
    """What a row is called in a legend."""
    return f"{row.arm} ({row.sparsity:g})" if row.role == "placebo" else row.arm


def thousands(value: float, position: int) -> str:
    """Tick labels: 2k, 1.5M."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


def csv_text(header: list[str], lines: list[list[Any]]) -> str:
    """The data behind a figure as CSV; floats in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[repr(v) if isinstance(v, float) else v for v in line] for line in lines])
    return out.getvalue()


def write_files(figure: Figure, data: str, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG, and its `data` as CSV; returns the files."""
    records.write_atomic(folder / f"{name}.csv", data.encode())
    for suffix, options in (
        ("png", {"dpi": 160, "metadata": {"Software": None}}),
        ("svg", {"metadata": {"Date": None, "Creator": None}}),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, **options)  # type: ignore[arg-type]
        records.write_atomic(folder / f"{name}.{suffix}", buffer.getvalue())
    return [folder / f"{name}.{suffix}" for suffix in ("png", "svg", "csv")]
