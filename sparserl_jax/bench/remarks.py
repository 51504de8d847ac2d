"""What is said under the rows of an environment: how far each arm may be made sparse, and what nobody had to learn."""

from __future__ import annotations

from collections import defaultdict

from sparserl_jax.bench import statistics
from sparserl_jax.bench.rows import Block, Row


def remarks(block: Block) -> list[str]:
    """The lines under a block."""
    return [line for line in (largest_matched(block), above_known(block)) if line is not None]


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
    """The same in words."""
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
                ("matched" if c.delta >= -statistics.MARGIN else "worse") if estimate else c.verdict
                for c in comparisons
            ]
            best = statistics.largest_matched([row.came_out for row in rows], outcomes)
            found[arm] = next((_reached(row) for row in rows if row.came_out == best), "none")
        parts.append(", ".join(f"{arm} {text}" for arm, text in found.items()))
    return (
        f"Largest sparsity matched, all smaller ones matched too: {parts[0]}. By the point estimate alone (delta >= "
        f"{-statistics.MARGIN:g}), as papers count: {parts[1]}."
    )
