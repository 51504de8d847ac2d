"""Tables from records alone: Markdown, CSV, LaTeX and the screen. The same records give the same bytes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparserl_jax.bench import records
from sparserl_jax.bench.summary import Block, Row, Summary, summarise

if TYPE_CHECKING:
    from rich.console import Console

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
)
POOLED = (0, 1, 3, 4, 5, 6, 7, 8)
"""Columns of the pooled block: there the unit is z."""
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
)
"""Headings on the screen."""
SCREENS: tuple[tuple[int, ...], ...] = (
    tuple(range(15)),
    (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 13, 14),
    (0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13),
    (0, 1, 2, 4, 5, 8, 10, 12),
    (0, 1, 2, 4, 5),
    (0, 1, 2, 5),
)
POOLED_SCREENS = (POOLED, (0, 1, 3, 4, 5), (0, 1, 3, 5))
"""Choices of columns for the screen, the widest that fits is shown."""


def _value(value: float) -> str:
    """A return: four figures, no exponent."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _z(value: float) -> str:
    return f"{value:.3f}"


def _times(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}x" if value >= 100 else f"{value:.1f}x"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _sparsity(row: Row) -> str:
    if row.sparsity == row.critic_sparsity:
        return f"{row.sparsity:g}"
    return f"{row.sparsity:g} / {row.critic_sparsity:g}"


def _failed(row: Row) -> str:
    """Failure rate, and how many of them diverged."""
    if row.failure_rate is None:
        return f"{row.diverged} diverged" if row.diverged else ""
    text = f"{100 * row.failure_rate:.0f} %"
    return f"{text} ({row.diverged} div.)" if row.diverged else text


def cells(row: Row, pooled: bool = False) -> list[str]:
    """All columns of one row as text; `pooled`: the unit is z."""
    show = _z if pooled else _value
    middle, lower, upper = map(float, row.value)
    value = f"{show(middle)} [{show(lower)}, {show(upper)}]"
    z = ""
    if row.z_value is not None:
        middle, lower, upper = map(float, row.z_value)
        z = f"{_z(middle)} [{_z(lower)}, {_z(upper)}]" if pooled else _z(middle)
    delta = ""
    if row.comparison is not None:
        delta = f"{row.comparison.delta:+.3f} [{row.comparison.lower:+.3f}, {row.comparison.upper:+.3f}]"
    speed = "" if row.speed is None else f"{row.speed:,.0f}"
    return [
        row.label,
        _sparsity(row),
        value,
        z,
        delta,
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
    ]


def heading(block: Block) -> str:
    """Title of a block, with its frozen levels."""
    if block.levels.get("random") is None:
        return block.env
    levels = ", ".join(f"{name} {block.levels[name]:g}" for name in ("random", "learned", "reference"))
    return f"{block.env} ({levels})"


def _blocks(summary: Summary) -> list[tuple[Block, tuple[int, ...]]]:
    whole = tuple(range(len(COLUMNS)))
    pooled = [] if summary.pooled is None else [(summary.pooled, POOLED)]
    return [(block, whole) for block in summary.blocks] + pooled


def _texts(block: Block, columns: tuple[int, ...]) -> list[list[str]]:
    pooled = columns == POOLED
    return [[cells(row, pooled)[index] for index in columns] for row in block.rows]


def markdown(summary: Summary) -> str:
    """The table as GitHub Markdown."""
    lines = [f"# {summary.title}", ""]
    for block, columns in _blocks(summary):
        lines += [f"## {heading(block)}", ""]
        if block.reason is not None:
            lines += [f"**{block.reason[0].upper()}{block.reason[1:]}.**", ""]
        names = [COLUMNS[index] for index in columns]
        lines += [
            "| " + " | ".join(names) + " |",
            "|" + "|".join(["---", *["---:"] * (len(names) - 1)]) + "|",
        ]
        lines += ["| " + " | ".join(row) + " |" for row in _texts(block, columns)]
        lines.append("")
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
)


def _csv_row(block: Block, row: Row, pooled: bool) -> list[Any]:
    value: tuple[Any, ...] = (None,) * 3 if pooled else tuple(map(float, row.value))
    z: tuple[Any, ...] = (None,) * 3 if row.z_value is None else tuple(map(float, row.z_value))
    found = row.comparison
    delta: tuple[Any, ...] = (None,) * 3 if found is None else (found.delta, found.lower, found.upper)
    return [
        block.env,
        row.arm,
        row.role,
        row.method,
        row.sparsity,
        row.critic_sparsity,
        " ".join(map(str, row.seeds)),
        row.diverged,
        *value,
        *z,
        *delta,
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
    ]


def comma_separated(summary: Summary) -> str:
    """One line per row of the table, in full precision; the pooled block has z only."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV)
    for block, columns in _blocks(summary):
        for row in block.rows:
            line = _csv_row(block, row, columns == POOLED)
            writer.writerow("" if v is None else repr(v) if isinstance(v, float) else v for v in line)
    return out.getvalue()


def _tex(text: str) -> str:
    for plain, escaped in (
        ("\\", r"\textbackslash "),
        ("_", r"\_"),
        ("%", r"\%"),
        ("&", r"\&"),
        ("#", r"\#"),
        ("$", r"\$"),
        (">=", r"$\geq$"),
        ("<", r"$<$"),
    ):
        text = text.replace(plain, escaped)
    return text


def latex(summary: Summary) -> str:
    """The table for a paper: needs `booktabs` and `graphicx`; one tabular per environment."""
    lines = [r"% needs \usepackage{booktabs,graphicx}", r"\begin{table*}[t]", r"\centering\footnotesize"]
    for block, columns in _blocks(summary):
        names = [COLUMNS[index] for index in columns]
        lines += [
            rf"\textbf{{{_tex(heading(block))}}}\\[2pt]",
            *([rf"\emph{{{_tex(block.reason)}}}\\[2pt]"] if block.reason is not None else []),
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}",
            r"\toprule",
            " & ".join(_tex(name) for name in names) + r" \\",
            r"\midrule",
            *(
                " & ".join(_tex(cell).replace("+", "$+$") for cell in row) + r" \\"
                for row in _texts(block, columns)
            ),
            r"\bottomrule",
            r"\end{tabular}}\\[8pt]",
        ]
    caption = _tex(f"{summary.title}. " + " ".join(summary.caption))
    lines += [rf"\caption{{{caption}}}", rf"\label{{tab:{summary.name}}}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


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

    choices = POOLED_SCREENS if pooled else SCREENS
    fitting = next((columns for columns in choices if needed(columns) <= width), choices[-1])
    return fitting, needed(fitting) <= width


def screen(summary: Summary, console: Console) -> None:
    """Print the table; on a narrow terminal some columns stay in the files only."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    for block, columns in _blocks(summary):
        pooled = columns == POOLED
        columns, fits = _fitting(block, pooled, console.width)
        table = Table(title=heading(block), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for position, index in enumerate(columns):
            table.add_column(SHORT[index], justify="left" if position == 0 else "right", no_wrap=fits)
        for row in block.rows:
            found = cells(row, pooled)
            style = "bold" if row.role == "dense" else "dim" if row.role in ("aa", "placebo") else ""
            marked = [
                Text(found[index], style=_STYLE.get(row.verdict, "") if COLUMNS[index] == "verdict" else "")
                for index in columns
            ]
            table.add_row(*marked, style=style)
        console.print(table)
        if block.reason is not None:
            console.print(f"  {block.reason}.", style="yellow", markup=False, highlight=False)
    for line in summary.caption:
        console.print(line, style="dim", markup=False, highlight=False)


def write(root: Path, summary: Summary | None = None) -> list[Path]:
    """Write `table.md`, `table.csv` and `table.tex` into a folder of records; returns their paths."""
    summary = summarise(root) if summary is None else summary
    made = {"table.md": markdown(summary), "table.csv": comma_separated(summary), "table.tex": latex(summary)}
    for name, text in made.items():
        records.write_atomic(root / name, text.encode())
    return [root / name for name in made]
