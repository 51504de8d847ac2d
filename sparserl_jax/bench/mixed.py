"""Rows of a table that were not made as dense was: on other devices, or with other versions and options of JAX."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparserl_jax.bench import provenance

if TYPE_CHECKING:
    from sparserl_jax.bench.rows import Block

LEARNERS = ("jax", "jaxlib", "flax", "optax", "numpy")
"""Packages on whose version the numbers of every run may depend; on top come those of its environment's physics."""


def sentences(found: Sequence[dict[str, Any]], blocks: Sequence[Block]) -> list[str]:
    """Which rows were not computed on the same kind of device as dense, in the same precision, or not with the same
    versions and options."""
    return [*_apart("DEVICES", _device, found, blocks), *_apart("VERSIONS", _versions, found, blocks)]


def _device(record: dict[str, Any]) -> dict[str, str]:
    return {"computed on": provenance.computes_on(record["provenance"])}


def _versions(record: dict[str, Any]) -> dict[str, str]:
    """Versions and options by name, as far as the record says them."""
    made = record["provenance"]
    names = (*LEARNERS, *provenance.physics(record["result"]["env"]))
    packages = {name: made["packages"].get(name) for name in names}
    options = {name: made.get(name) for name in provenance.OPTIONS if name != "matmul_precision"}
    said = {name: value for name, value in (packages | options).items() if value is not None}
    return {name: "on" if value is True else str(value or "off") for name, value in said.items()}


def _values(facts: Iterable[Mapping[str, str]]) -> dict[str, set[str]]:
    """All values by name."""
    found: dict[str, set[str]] = defaultdict(set)
    for own in facts:
        for name, value in own.items():
            found[name].add(value)
    return found


def _apart(
    what: str,
    facts: Callable[[dict[str, Any]], dict[str, str]],
    found: Sequence[dict[str, Any]],
    blocks: Sequence[Block],
) -> list[str]:
    """Which rows have several values of one of these `facts`, or another one than dense."""
    # Run ids repeat between folders, whose arms then have names of their own.
    known = {(record["result"]["arm"], record["run_id"]): facts(record) for record in found}
    told, odd = [], dict[str, set[str]]()
    for block in blocks:
        rows: dict[str, list[Mapping[str, str]]] = defaultdict(list)
        for row in block.rows:
            rows[row.label] += [known[row.arm, run] for run in row.runs]
        values = {label: _values(of_runs) for label, of_runs in rows.items()}
        dense = next((values[row.label] for row in block.rows if row.role == "dense"), {})
        apart = []
        for label, own in values.items():
            both = {name: of | dense.get(name, set()) for name, of in own.items()}
            both = {name: of for name, of in both.items() if len(of) > 1}
            for name, of in both.items():
                odd[name] = odd.get(name, set()) | of
            apart += [label] if both else []
        if apart:
            told.append(f"{', '.join(apart)} on {block.env}")
    if not told:
        return []
    kinds = "; ".join(f"{name} {', '.join(sorted(of))}" for name, of in odd.items())
    return [
        f"MIXED {what}: {kinds}. Rows of more than one of them, or of another one than dense: {'; '.join(told)}. Such "
        "differences may be in their deltas, beside those of the methods."
    ]
