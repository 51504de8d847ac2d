"""`low_rank.md` and `low_rank.csv` of a suite's folder: dense and sparse policies at equal ranks, and their bytes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sparserl_jax.bench import statistics
from sparserl_jax.bench.columns import bounded, chance, delta, heading, z
from sparserl_jax.bench.rows import Row

if TYPE_CHECKING:
    from sparserl_jax.bench.equal_rank import Line, Section, Settings

FILES = ("low_rank.md", "low_rank.csv")
HEADINGS = (
    "row",
    "sparsity",
    "ranks",
    "chosen for",
    "weights saved",
    "dense z [95 % CI]",
    "z [95 % CI]",
    "delta to dense [95 % CI]",
    "P(beats dense) [95 % CI]",
    "verdict",
)
_CSV = (
    "environment,arm,sparsity,realised_sparsity,ranks,chosen_for,saved,dense_z,dense_lower,dense_upper,z,lower,upper,"
    "delta,delta_lower,delta_upper,improvement_probability,improvement_lower,improvement_upper,verdict"
).split(",")


def name(row: Row) -> str:
    """A row as `--only` names it."""
    return row.arm if row.method == "dense" else f"{row.arm}@{row.sparsity:g}"


class Judged(NamedTuple):
    """Statistics of a line over runs: IQM of z of either row, their difference, and the chance that sparse wins."""

    dense: statistics.Interval
    sparse: statistics.Interval
    comparison: statistics.Comparison
    improvement: statistics.Interval


def judged(line: Line) -> Judged:
    """The statistics of one line; a single run has no interval."""
    dense, sparse = line.dense[:, None], line.sparse[:, None]

    def interval(statistic: statistics.Statistic, *arms: np.ndarray) -> statistics.Interval:
        if min(map(len, arms)) < 2:
            return statistics.Interval(statistic(*arms), np.array(math.nan), np.array(math.nan))
        return statistics.bootstrap(statistic, *arms)

    return Judged(
        interval(statistics.iqm, dense),
        interval(statistics.iqm, sparse),
        statistics.compare(sparse, dense),
        interval(statistics.probability_of_improvement, sparse, dense),
    )


def _verdict(found: Judged, reason: str | None) -> str:
    return found.comparison.verdict if reason is None else "no verdict"


def _ranks(ranks: tuple[int, ...] | None) -> str:
    return "undecomposed" if ranks is None else " ".join(map(str, ranks))


def _cells(line: Line, env: str, reason: str | None) -> list[str]:
    found = judged(line)
    return [
        name(line.row),
        f"{line.row.came_out:.3g}",
        _ranks(line.ranks),
        ", ".join(line.chosen_for),
        "" if line.ranks is None else f"{100 * line.saved:.1f} %",
        bounded(found.dense, z),
        bounded(found.sparse, z),
        bounded(found.comparison, delta),
        bounded(found.improvement, chance),
        _verdict(found, reason),
    ]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> list[str]:
    """A Markdown table, numbers to the right behind the first columns of `words`."""
    ruler = "|" + "---|" * words + "---:|" * (len(headings) - words)
    return ["| " + " | ".join(headings) + " |", ruler, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _explained(settings: Settings) -> list[str]:
    rule, fresh = (
        settings.rule,
        f"{settings.episodes} other episodes, those of `evaluate --seed {settings.seed}`",
    )
    if rule.name == "z":
        chosen = (
            f"Ranks are chosen for a row as a whole on {settings.selection} selection episodes: the fewest weights at "
            f"which the IQM of z over its seeds is within {rule.value:g} of the undecomposed one. What stands here is "
            f"of {fresh}."
        )
    else:
        chosen = f"Ranks are given ({rule}). What stands here is of {fresh}."
    return [
        f"{chosen} Both rows play the same ones. z of a run is that of its mean return; intervals, difference and "
        "chance are over runs (seeds). Weights saved: of the actor, biases not counted, as "
        f"{settings.factors} factors, a layer staying plain where these would not be smaller.",
        "",
        f"Verdict: of the row at these ranks against the dense one at the same; matched: lower bound >= "
        f"{-statistics.MARGIN:g}, worse: upper bound < {-statistics.MARGIN:g}, else undecided. An A/A row is dense "
        "with other seeds: its differences are chance alone, and what its own choice of ranks favours.",
        "",
        "Bytes are those of one raw file with 32-bit values, biases included, mean over seeds. A file is one of the "
        "forms: the savings of masks and of factors, which are dense, do not multiply.",
        "",
    ]


def markdown(head: Sequence[str], sections: Sequence[Section], settings: Settings, made: str) -> str:
    """The whole page, below the lines of its `head`; `made` is its last line."""
    lines = [*head, *_explained(settings)]
    for section in sections:
        env, reason = section.block.env, section.block.reason
        lines += [f"## {heading(section.block)}", ""]
        lines += [] if reason is None else [f"**{reason[0].upper()}{reason[1:]}.**", ""]
        lines += _table(HEADINGS, [_cells(line, env, reason) for line in section.lines], 4)
        names = list(section.stored[0].bytes)
        bytes_of = [
            [name(one.row), _ranks(one.ranks), *(f"{one.bytes[form]:,.0f}" for form in names)]
            for one in section.stored
        ]
        lines += _table(("bytes of", "factors of ranks", *names), bytes_of, 2)
    return "\n".join([*lines, made]) + "\n"


def comma_separated(sections: Sequence[Section]) -> str:
    """The lines in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [f"bytes_{form.replace(' ', '_')}" for form in sections[0].stored[0].bytes]
    writer.writerow((*_CSV, *names))
    for section in sections:
        env = section.block.env
        stored = {(one.row.key, one.ranks): one.bytes for one in section.stored}
        for line in section.lines:
            found = judged(line)
            bytes_of = {} if line.ranks is None else stored[line.row.key, line.ranks]
            values = [
                env,
                line.row.arm,
                line.row.sparsity,
                line.row.came_out,
                _ranks(line.ranks),
                " ".join(line.chosen_for),
                None if line.ranks is None else line.saved,
                *(
                    None if math.isnan(value) else float(value)
                    for each in (found.dense, found.sparse, found.comparison[:3], found.improvement)
                    for value in each
                ),
                _verdict(found, section.block.reason),
                *(bytes_of.values() or [None] * len(names)),
            ]
            writer.writerow("" if v is None else repr(v) if isinstance(v, float) else v for v in values)
    return out.getvalue()


def savings(folder: Path) -> dict[tuple[str, str, float], float]:
    """Share of weights saved at a sparse row's own ranks, by (environment, arm, knob); empty without such a file."""
    file = folder / FILES[1]
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as lines:
        return {
            (line["environment"], line["arm"], float(line["sparsity"])): float(line["saved"])
            for line in csv.DictReader(lines)
            if f"{line['arm']}@{float(line['sparsity']):g}" in line["chosen_for"].split()
        }
