"""What is said under the rows of an environment: how far each arm may be made sparse, how those that are swept by a
coefficient stand against pruning by magnitude, and what nobody had to learn."""

from __future__ import annotations

import math
from collections import defaultdict

from sparserl_jax.bench import against, statistics
from sparserl_jax.bench.columns import bounded, chance
from sparserl_jax.bench.rows import Block, Row
from sparserl_jax.bench.verdicts import SAME_SEEDS, reference

APART = 1.5
"""Densities up to this many times each other are about the same: 0.8 and 0.74, 0.98 and 0.97."""


def remarks(block: Block) -> list[str]:
    """The lines under a block."""
    lines = (
        largest_matched(block),
        barely_learned(block),
        by_last_policies(block),
        against_pruning(block),
        above_known(block),
    )
    return [line for line in lines if line is not None]


def barely_learned(block: Block) -> str | None:
    """One line where dense reached the learned level, but its interval begins below."""
    dense, level = reference(block.rows), block.levels.get("learned")
    if block.reason is not None or dense is None or level is None or float(dense.value.lower) >= level:
        return None
    return (
        f"Dense reached the learned level by its point estimate alone: its interval begins at "
        f"{float(dense.value.lower):.5g}, below {level:.5g}."
    )


def by_last_policies(block: Block) -> str | None:
    """One line: which verdicts would be others if runs were judged by their last policies' own evaluation.

    None where the block has no verdicts, or where rows have no last policy, as pooled ones.
    """
    dense = reference(block.rows)
    if block.reason is not None or dense is None or dense.final is None or dense.final_z is None:
        return None
    told, level = "Judged by the last policies' own evaluation instead: ", block.levels["learned"]
    if level is not None and float(dense.final.value) < level:
        return f"{told}no verdicts, for dense is below the learned level ({float(dense.final.value):.5g})."
    parts = []
    for row in block.rows:
        if row.comparison is None or row.final_z is None or row.verdict == SAME_SEEDS:
            continue
        other = statistics.compare(row.final_z[:, None], dense.final_z[:, None]).verdict
        if row.role == "placebo" and other != "worse":
            return f"{told}no verdicts, for the placebo arm '{row.arm}' is not worse than dense."
        if other != row.comparison.verdict:
            parts.append(f"{_named(row)} {other}, not {row.comparison.verdict}")
    return f"{told}{'; '.join(parts) if parts else 'the same verdicts'}."


def against_pruning(block: Block) -> str | None:
    """One line: the chance that a run of each row whose sparsity came of a coefficient is above one of gradual
    magnitude pruning at about the same sparsity, which is what one would use instead (Gale, Elsen and Hooker 2019).

    About the same: the densities are at most `APART` times each other, on every environment. None where there is no
    such pair.
    """
    found = against.opposed(
        block,
        lambda row: row.outcome is not None and row.role == "method",
        lambda row: row.method == "gradual" and row.role == "method" and 0 < row.came_out < 1,
        _times,
    )
    parts = []
    for pair in found:
        if any(_times(*two) > math.log(APART) + 1e-6 for two in pair.parts):
            continue
        beside = ", ".join(dict.fromkeys(f"{other.came_out:.3g}" for _, other in pair.parts))
        shown = bounded(pair.improvement, chance)
        parts.append(f"{pair.row.arm} {pair.row.came_out:.3g} over {beside} {shown}")
    if not parts:
        return None
    return (
        f"Chance that a run is above one of gradual pruning at about its sparsity (densities at most {APART:g} times "
        f"each other), ties counting half: {'; '.join(parts)}."
    )


def _times(row: Row, other: Row) -> float:
    """How many times each other the densities of two rows are, as a logarithm."""
    return abs(math.log(max(1 - row.came_out, 1e-9) / (1 - other.came_out)))


def above_known(block: Block) -> str | None:
    """One line: the returns of known policies, and which rows are above each with their whole interval.

    None where none is declared. A single seed has no interval and is above nothing.
    """
    if not block.known:
        return None
    parts = []
    for name, value in sorted(block.known.items(), key=lambda entry: entry[1]):
        above = [_named(row) for row in block.rows if len(row.seeds) > 1 and float(row.value.lower) > value]
        parts.append(f"{name} {value:g} ({', '.join(above) if above else 'none'})")
    return f"Policies that nobody learned, and the rows above them with their whole interval: {'; '.join(parts)}."


def _named(row: Row) -> str:
    """The arm, at its knob where it has one."""
    return f"{row.arm} {_reached(row)}" if row.sparsity else row.arm


def _reached(row: Row) -> str:
    """The sparsity a row ended at, and the knob where that is another number."""
    if row.realised is None:
        return row.level_text
    return f"{row.realised:.3g} ({'asked for' if row.outcome is None else 'coefficient'} {row.sparsity:g})"


def largest_matched(block: Block) -> str | None:
    """One line: up to which sparsity each swept arm is matched, by the verdicts and by the point estimates alone.

    None where the block has no verdicts or sweeps nothing.
    """
    if block.reason is not None:
        return None
    swept: dict[str, list[Row]] = defaultdict(list)
    for row in block.rows:
        # One sparsity that the environment prescribes is no sweep.
        if row.role == "method" and row.method != "dense" and row.comparison is not None and not row.own:
            swept[row.arm].append(row)
    if not swept:
        return None
    parts = []
    for estimate in (False, True):
        found = {}
        for arm, rows in swept.items():
            comparisons = [row.comparison for row in rows if row.comparison is not None]
            outcomes = [
                ("matched" if statistics.within(c.delta) else "worse") if estimate else c.verdict
                for c in comparisons
            ]
            best = statistics.largest_matched([row.came_out for row in rows], outcomes)
            found[arm] = next((_reached(row) for row in rows if row.came_out == best), "none")
            last = max((row.sparsity for row in rows if row.came_out == best), default=0.0)
            there = {row.sparsity for row in rows}
            absent = [f"{knob:g}" for knob in block.swept.get(arm, ()) if knob < last and knob not in there]
            found[arm] += f" (without {', '.join(absent)}, which has no row)" if absent else ""
        parts.append(", ".join(f"{arm} {text}" for arm, text in found.items()))
    return (
        f"Largest sparsity matched, all smaller ones matched too: {parts[0]}. By the point estimate alone (delta >= "
        f"{-statistics.MARGIN:g}), as papers count: {parts[1]}."
    )
