"""Write the tables of README and docs from the published records: `python -m benchmarks.pages`.

A page says where a table belongs and which, by a pair of comments; what stands between them is made here:

    <!-- published: suite quick -->                         the whole table of a suite, with its plot
    <!-- published: verdicts quick -->                      rows of every kind, and why each has its verdict
    <!-- published: rows quick gymnax:Pendulum-v1 set -->   some arms on one environment, in this order
    <!-- published: against quick set all rigl tiny -->     some arms against another's nearest rows, here over all
                                                            environments together (`each`: on every one, and that)
    <!-- end -->

An interval in the sentences around them, a figure with brackets behind it, is copied by hand; it has to stand, to as
many digits or mirrored, in a page of one of the published folders that the text names.

Tests hold every page to both. Tables cannot drift from their records; in sentences an interval that no row has is
found, but not one that is another row's.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from sparserl_jax.bench import (
    against,
    caption,
    columns,
    progress,
    publish,
    records,
    statistics,
    summary,
    tables,
)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
BEGIN = "<!-- published: "
BLOCK = re.compile(
    rf"({BEGIN}(?P<kind>\w+) (?P<suite>\w+)(?P<rest>(?: [^\n]*?)?) -->\n).*?(<!-- end -->\n)", re.DOTALL
)
WHOLE = {
    0: "method",
    1: "sparsity",
    2: "return, IQM [95 % CI]",
    19: "last policy",
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
OF_ROWS = (0, 1, 2, 4, 5, 16)
"""Columns of single rows, as far as they tell rows apart."""
_FIGURE = r"([-+]?\d[\d,]*(?:\.\d+)?)(?: ?%)?"
INTERVAL = re.compile(rf"{_FIGURE}\** \[{_FIGURE}, {_FIGURE}\]")
"""A figure and its interval, as tables and sentences print them."""


def handwritten() -> list[Path]:
    """README and all pages of docs and results that are written by hand."""
    return [ROOT / "README.md", RESULTS / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def pages() -> list[Path]:
    """Those that have such a block."""
    return [page for page in handwritten() if BEGIN in page.read_text(encoding="utf-8")]


def renewed(text: str, place: Path) -> str:
    """The text of a page at `place` with the content of all its blocks made anew.

    Raises:
        ValueError: a block that is not written as above, or has no end.
    """

    def made(found: re.Match[str]) -> str:
        if found[0].count(BEGIN) > 1:
            raise ValueError(f"{place.name}: {found[1].strip()} has no <!-- end -->")
        content = KINDS[found["kind"]](RESULTS / found["suite"], found["rest"].split(), place)
        return f"{found[1]}{content.rstrip()}\n{found[5]}"

    after = BLOCK.sub(made, text)
    if text.count(BEGIN) != len(BLOCK.findall(text)):
        raise ValueError(
            f"{place.name}: not every '{BEGIN}' begins a block: KIND SUITE ... --> and <!-- end -->"
        )
    return after


summarise = functools.cache(summary.summarise)
"""Of a folder, once for all its blocks."""


def _table(names: Sequence[str], columns: Sequence[int], rows: Sequence[summary.Row]) -> list[str]:
    return tables.grid(names, ([tables.cells(row)[index] for index in columns] for row in rows))


def suite(folder: Path, _: Sequence[str], place: Path) -> str:
    """A suite's table on every environment, with what made it and its plot."""
    found, where = summarise(folder), Path(os.path.relpath(folder, place.parent)).as_posix()
    counts = [len(row.seeds) for part in found.blocks for row in part.rows]
    host = any(caption.of_gymnasium(part.env) for part in found.blocks)
    command = f"make bench SUITE={folder.name}{' EXTRA=gymnasium' if host else ''}"
    lines = [
        f"`{command}`: {found.title}; {caption.seeds_sentence(counts)}; "
        f"{progress.duration(caption.running_time(found.records))} of training and evaluation on "
        f"{caption.origin(found.records)}; "
        f"[the whole table]({where}/table.md). {' '.join(publish.left_out(folder))}".rstrip(),
        "",
        f"![the return of every row]({where}/plots/returns_by_row.png)",
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
    reason = {
        "matched": f"all of it is at or above {margin}",
        "worse": f"all of it is below {margin}",
        "undecided": f"{margin} lies inside",
    }[row.comparison.verdict]
    where = f"`{row.arm}` at {row.sparsity:g}"
    interval = f"[{columns.delta(low)}, {columns.delta(high)}]"
    return f"- {where}: the interval of delta is {interval}; {reason}: **{row.verdict}**."


def verdicts(folder: Path, _: Sequence[str], place: Path) -> str:
    """Rows of every kind, and why their verdicts are given."""
    found, lines = summarise(folder), []
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


def _block(found: summary.Summary, env: str, place: Path) -> summary.Block:
    """The block of an environment, or of `all` together."""
    part = found.pooled if env == "all" else next((one for one in found.blocks if one.env == env), None)
    if part is None:
        raise ValueError(f"{place.name}: results/{found.name} has no table of '{env}'")
    return part


def rows(folder: Path, words: Sequence[str], place: Path) -> str:
    """The rows of some arms on one environment (`words`: its name, then theirs), at all their sparsities."""
    env, *arms = words
    part = _block(summarise(folder), env, place)
    chosen = [row for arm in arms for row in part.rows if row.arm == arm]
    if missing := set(arms) - {row.arm for row in chosen}:
        raise ValueError(f"{place.name}: results/{folder.name} has no arm {sorted(missing)} on {env}")
    texts = {index: [tables.cells(row)[index] for row in chosen] for index in OF_ROWS}
    columns = [index for index in OF_ROWS if index == 0 or len(set(texts[index])) > 1]
    return "\n".join(_table([tables.COLUMNS[index] for index in columns], columns, chosen))


def beside(folder: Path, words: Sequence[str], place: Path) -> str:
    """The rows of some arms against another arm (`words`: its name, the environment, `all` for all of them together or
    `each` for every one and all, then the arms), as `sparserl table FOLDER --against ARM` prints them."""
    other, env, *arms = words
    found = summarise(folder)
    envs = [*(part.env for part in found.blocks), "all"] if env == "each" else [env]
    lines = []
    for one in envs:
        every = against.pairs(_block(found, one, place), other)
        chosen = [pair for arm in arms for pair in every if pair.row.arm == arm]
        if missing := set(arms) - {pair.row.arm for pair in chosen}:
            raise ValueError(f"{place.name}: on {one} nothing of {sorted(missing)} stands against '{other}'")
        lines += [(one, *texts) for texts in against.texts(chosen, pooled=one == "all")]
    first = 0 if env == "each" else 1
    return "\n".join(
        tables.grid(("environment", *against.headings(other))[first:], [x[first:] for x in lines])
    )


def intervals(text: str) -> Iterator[tuple[str, tuple[Decimal, Decimal, Decimal]]]:
    """Every figure with an interval in a text, as printed and as (figure, lower, upper)."""
    for found in INTERVAL.finditer(" ".join(text.split())):
        middle, lower, upper = (Decimal(number.replace(",", "")) for number in found.groups())
        yield found[0], (middle, lower, upper)


def _rounds_to(exact: Sequence[Decimal], printed: Sequence[Decimal]) -> bool:
    """Each number lies within half a unit of the last digit of what is printed of it."""
    units = (Decimal(1).scaleb(number.as_tuple().exponent) for number in printed)
    return all(2 * abs(one - other) <= unit for one, other, unit in zip(exact, printed, units, strict=True))


def unfounded(text: str) -> list[str]:
    """Intervals between the blocks of a page that no page of the published folders it names has."""
    named = [
        folder.parent
        for folder in RESULTS.glob(f"*/{records.CONFIGURATION}")
        if re.search(rf"`(?:results/)?{folder.parent.name}(?:/|`)|results/{folder.parent.name}/", text)
    ]
    known = {
        exact
        for folder in named
        for page in folder.glob("*.md")
        for _, exact in intervals(page.read_text(encoding="utf-8"))
    }
    known |= {(-middle, -upper, -lower) for middle, lower, upper in known}
    between = BLOCK.sub("", text)
    return [
        words for words, printed in intervals(between) if not any(_rounds_to(one, printed) for one in known)
    ]


KINDS: dict[str, Callable[[Path, Sequence[str], Path], str]] = {
    "suite": suite,
    "verdicts": verdicts,
    "rows": rows,
    "against": beside,
}


def main() -> None:
    """Renew all pages in place, and name the intervals that are in no published page."""
    for page in pages():
        page.write_text(renewed(page.read_text(encoding="utf-8"), page), encoding="utf-8")
    for page in handwritten():
        for words in unfounded(page.read_text(encoding="utf-8")):
            print(f"{page.relative_to(ROOT)}: {words} is in no page of the published folders named there")


if __name__ == "__main__":
    main()
