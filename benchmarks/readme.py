"""Write the README's table from the published records: `python -m benchmarks.readme`.

A test holds the README to what this prints, so its numbers cannot drift from results/quick.
"""

from __future__ import annotations

from pathlib import Path

from sparserl_jax.bench import caption, summary, tables

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


def renewed(readme: str, text: str) -> str:
    """The README with the block replaced."""
    head, _, rest = readme.partition(BEGIN)
    return f"{head}{BEGIN}\n{text}{END}{rest.partition(END)[2]}"


def main() -> None:
    """Renew README.md in place."""
    path = ROOT / "README.md"
    path.write_text(
        renewed(path.read_text(encoding="utf-8"), block(ROOT / "results" / "quick")), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
