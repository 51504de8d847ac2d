"""Write the tables of README and docs from the published records: `python -m benchmarks.readme`.

Tests hold both to what this prints, so their numbers cannot drift from results/quick.
"""

from __future__ import annotations

from pathlib import Path

from sparserl_jax.bench import caption, statistics, summary, tables

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- quick:begin -->", "<!-- quick:end -->"
COLUMNS = {
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
"""Columns of the full table that the README shows."""


def block(folder: Path) -> str:
    """The text between the markers, from the records in `folder`."""
    found = summary.summarise(folder)
    records = found.records
    counts = [len(row.seeds) for part in found.blocks for row in part.rows]
    machines = caption.distinct(caption.machine(record) for record in records)
    versions = caption.distinct(caption.versions(record) for record in records)
    commits = caption.distinct(str(record["provenance"]["git_commit"])[:10] for record in records)
    lines = [
        f"`make bench SUITE=quick`: {found.title}; {caption.seeds_sentence(counts)}; {machines}; {versions}; commit "
        f"{commits}; [the whole table](results/quick/table.md).",
        "",
        "![return against sparsity](results/quick/plots/return_versus_sparsity.png)",
        "",
    ]
    for part in found.blocks:
        lines += [f"**{tables.heading(part)}**", ""]
        if part.reason is not None:
            # Without verdicts the rows say little; they stand in the whole table.
            lines += [f"{part.reason[0].upper()}{part.reason[1:]}, so no method is judged on it.", ""]
            continue
        lines += [
            "| " + " | ".join(COLUMNS.values()) + " |",
            "|" + "|".join(["---"] + ["---:"] * (len(COLUMNS) - 1)) + "|",
        ]
        lines += [
            "| " + " | ".join(tables.cells(row)[index] for index in COLUMNS) + " |" for row in part.rows
        ]
        lines.append("")
    return "\n".join(lines)


EXAMPLES = (0, 1, 2, 3, 4, 5)
"""Columns of the full table that explain a verdict."""


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


def examples(folder: Path) -> str:
    """The text between the markers of docs/reading-a-table.md: rows of every kind, and why their verdicts are given."""
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
        lines += ["| " + " | ".join(tables.COLUMNS[index] for index in EXAMPLES) + " |"]
        lines += ["|" + "|".join(["---"] + ["---:"] * (len(EXAMPLES) - 1)) + "|"]
        lines += ["| " + " | ".join(tables.cells(row)[index] for index in EXAMPLES) + " |" for row in rows]
        lines += ["", "Why each verdict is what it is:", ""]
        lines += [_why(row) for row in rows if row.comparison is not None]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def renewed(readme: str, text: str) -> str:
    """The README with the block replaced."""
    head, _, rest = readme.partition(BEGIN)
    return f"{head}{BEGIN}\n{text}{END}{rest.partition(END)[2]}"


def main() -> None:
    """Renew README.md and docs/reading-a-table.md in place."""
    folder = ROOT / "results" / "quick"
    for path, text in (
        (ROOT / "README.md", block(folder)),
        (ROOT / "docs/reading-a-table.md", examples(folder)),
    ):
        path.write_text(renewed(path.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
