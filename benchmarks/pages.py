"""Write the tables of README and docs from the published records: `python -m benchmarks.pages`.

A page says where a table belongs and which, by a pair of comments; what stands between them is made here:

    <!-- published: suite quick -->                         the whole table of a suite, with its plot
    <!-- published: verdicts quick -->                      rows of every kind, and why each has its verdict
    <!-- published: rows quick gymnax:Pendulum-v1 set -->   some arms on one environment, in this order
    <!-- end -->

Tests hold every page to what this prints, so that no number in these tables can drift from its records.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from sparserl_jax.bench import caption, statistics, summary, tables

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
BLOCK = re.compile(
    r"(<!-- published: (?P<kind>\w+) (?P<suite>\w+)(?P<rest>[^\n]*?) -->\n).*?(<!-- end -->\n)", re.DOTALL
)
WHOLE = {
    0: "method",
    1: "sparsity",
    2: "return, IQM [95 % CI]",
    5: "verdict",
    6: "worst seed",
    9: "smaller, parameters",
    10: "smaller, bytes",
    12: "training FLOPs, theory",
    13: "executed",
}
"""Columns of a suite's table on a page."""
EXPLAINED = (0, 1, 2, 3, 4, 5)
"""Columns that explain a verdict."""
SOME = (0, 2, 4, 5, 16)
"""Columns of single rows."""


def pages() -> list[Path]:
    """README and all pages of docs that have such a block."""
    every = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in every if BLOCK.search(page.read_text(encoding="utf-8"))]


def renewed(page: str) -> str:
    """A page with the content of all its blocks made anew."""

    def made(found: re.Match[str]) -> str:
        text = KINDS[found["kind"]](RESULTS / found["suite"], found["rest"].split())
        return f"{found[1]}{text.rstrip()}\n{found[5]}"

    return BLOCK.sub(made, page)


def _table(names: Sequence[str], columns: Sequence[int], rows: Sequence[summary.Row]) -> list[str]:
    return [
        "| " + " | ".join(names) + " |",
        "|" + "|".join(["---"] + ["---:"] * (len(names) - 1)) + "|",
        *("| " + " | ".join(tables.cells(row)[index] for index in columns) + " |" for row in rows),
    ]


def suite(folder: Path, _: Sequence[str]) -> str:
    """A suite's table on every environment, with what made it and its plot."""
    found = summary.summarise(folder)
    records, name = found.records, folder.name
    counts = [len(row.seeds) for part in found.blocks for row in part.rows]
    machines = caption.distinct(caption.machine(record) for record in records)
    versions = caption.distinct(caption.versions(record) for record in records)
    commits = caption.distinct(str(record["provenance"]["git_commit"])[:10] for record in records)
    lines = [
        f"`make bench SUITE={name}`: {found.title}; {caption.seeds_sentence(counts)}; {machines}; {versions}; commit "
        f"{commits}; [the whole table](results/{name}/table.md).",
        "",
        f"![return against sparsity](results/{name}/plots/return_versus_sparsity.png)",
        "",
    ]
    for part in found.blocks:
        lines += [f"**{tables.heading(part)}**", ""]
        if part.reason is not None:
            # Without verdicts the rows say little; they stand in the whole table.
            lines += [f"{part.reason[0].upper()}{part.reason[1:]}, so no method is judged on it.", ""]
            continue
        lines += [*_table(list(WHOLE.values()), list(WHOLE), part.rows), ""]
    return "\n".join(lines)


def _why(row: summary.Row) -> str:
    low, high = row.comparison.lower, row.comparison.upper
    margin = f"{-statistics.MARGIN:g}"
    if low >= -statistics.MARGIN:
        reason = f"all of it is at or above {margin}"
    elif high < -statistics.MARGIN:
        reason = f"all of it is below {margin}"
    else:
        reason = f"{margin} lies inside"
    where = f"`{row.arm}` at {row.sparsity:g}"
    return f"- {where}: the interval of delta is [{low:+.3f}, {high:+.3f}]; {reason}: **{row.verdict}**."


def verdicts(folder: Path, _: Sequence[str]) -> str:
    """Rows of every kind, and why their verdicts are given."""
    found, lines = summary.summarise(folder), []
    for part in found.blocks:
        if part.reason is not None:
            lines += [f"On {part.env}: {part.reason}.", ""]
            continue
        shown: set[int] = {index for index, row in enumerate(part.rows) if row.role != "method"}
        for kind in ("matched", "worse", "undecided"):
            of_kind = [
                i for i, row in enumerate(part.rows) if i not in shown and row.verdict.startswith(kind)
            ]
            shown.update(of_kind[:2])
        rows = [part.rows[index] for index in sorted(shown)]
        lines += [f"**{tables.heading(part)}**, some of its rows:", ""]
        lines += _table([tables.COLUMNS[index] for index in EXPLAINED], EXPLAINED, rows)
        lines += ["", "Why each verdict is what it is:", ""]
        lines += [_why(row) for row in rows if row.comparison is not None]
        lines.append("")
    return "\n".join(lines)


def rows(folder: Path, words: Sequence[str]) -> str:
    """The rows of some arms on one environment (`words`: its name, then theirs), at all their sparsities."""
    env, *arms = words
    part = next(block for block in summary.summarise(folder).blocks if block.env == env)
    chosen = [row for arm in arms for row in part.rows if row.arm == arm]
    assert {row.arm for row in chosen} == set(arms), f"results/{folder.name} lacks some of {arms}"
    # A column in which all rows say the same is left out where that is nothing.
    columns = [index for index in SOME if any(tables.cells(row)[index] for row in chosen)]
    return "\n".join(_table([tables.COLUMNS[index] for index in columns], columns, chosen))


KINDS: dict[str, Callable[[Path, Sequence[str]], str]] = {"suite": suite, "verdicts": verdicts, "rows": rows}


def main() -> None:
    """Renew all pages in place."""
    for page in pages():
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
