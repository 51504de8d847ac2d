"""Rows of a table that were not made alike: on other devices than dense, or with other versions and options of JAX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sparserl_jax.bench import provenance

if TYPE_CHECKING:
    from sparserl_jax.bench.rows import Block


def sentences(found: Sequence[dict[str, Any]], blocks: Sequence[Block]) -> list[str]:
    """Which rows were not computed on the same kind of device as dense, in the same precision, or not with the same
    versions and options."""
    return [
        *_apart("DEVICES: computed on", map(provenance.computes_on, _origins(found)), found, blocks),
        *_apart("VERSIONS: made with", _odd(list(_origins(found))), found, blocks),
    ]


def _origins(found: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    return (record["provenance"] for record in found)


def _odd(origins: Sequence[dict[str, Any]]) -> list[str]:
    """Of every provenance the versions and options of JAX in which not all agree; those a record lacks tell nothing."""
    facts = [
        {"Python": made["python"], **made["packages"]}
        | {name: made.get(name) for name in provenance.OPTIONS if name != "matmul_precision"}
        for made in origins
    ]
    names = [
        name
        for name in dict.fromkeys(name for own in facts for name in own)
        if name != provenance.CODE and len({own[name] for own in facts if own.get(name) is not None}) > 1
    ]
    return [
        ", ".join(f"{name} {_set_to(own[name])}" for name in names if own.get(name) is not None)
        for own in facts
    ]


def _set_to(value: Any) -> str:
    return "on" if value is True else str(value or "off")


def _apart(
    what: str, kinds: Iterable[str], found: Sequence[dict[str, Any]], blocks: Sequence[Block]
) -> list[str]:
    """Which rows are of more than one kind, or of another than dense; `kinds`: of every record."""
    # Run ids repeat between folders, whose arms then have names of their own.
    known = {(r["result"]["arm"], r["run_id"]): kind for r, kind in zip(found, kinds, strict=True)}
    told = []
    for block in blocks:
        own: dict[str, set[str]] = {}
        for row in block.rows:
            own.setdefault(row.label, set()).update(known[row.arm, run] for run in row.runs)
        dense = next((own[row.label] for row in block.rows if row.role == "dense"), set())
        apart = [name for name, used in own.items() if len(used) > 1 or (dense and used != dense)]
        if apart:
            told.append(f"{', '.join(apart)} on {block.env}")
    if not told:
        return []
    return [
        f"MIXED {what} {'; '.join(sorted(set(known.values())))}. Rows of more than one of them, or of another one than "
        f"dense: {'; '.join(told)}. Such differences are in their deltas, beside those of the methods."
    ]
