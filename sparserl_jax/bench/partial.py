"""Suites of which only some runs exist: which rows are whole, what is missing in words, and what a folder says of it.

A published folder may lack runs only if its `missing.json` lists them, so that a record that was lost differs from one
that was never made. What is missing is always whole rows: which seeds came first is no random choice.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from sparserl_jax.bench import records

MISSING = "missing.json"
"""List of the runs that a published folder has no record of."""


def row_of(run_id: str) -> str:
    """The row a run belongs to: its id without the seed."""
    return run_id.rpartition("-seed")[0]


def broken_rows(runs: Sequence[str], present: Collection[str]) -> dict[str, tuple[int, int]]:
    """Rows of which some seeds are there and some are not: (how many are, of how many)."""
    rows: dict[str, list[bool]] = defaultdict(list)
    for run_id in runs:
        rows[row_of(run_id)].append(run_id in present)
    return {row: (sum(there), len(there)) for row, there in rows.items() if 0 < sum(there) < len(there)}


def publishable(settings: dict[str, Any], found: Iterable[dict[str, Any]]) -> list[str]:
    """Ids of the runs of whole rows, on environments whose dense row is whole, in the order of the plan."""
    found = list(found)
    broken = broken_rows(settings["runs"], {record["run_id"] for record in found})
    whole = [record for record in found if row_of(record["run_id"]) not in broken]
    compared = {record["result"]["env"] for record in whole if record["result"]["role"] == "dense"}
    kept = {record["run_id"] for record in whole if record["result"]["env"] in compared}
    return [run_id for run_id in settings["runs"] if run_id in kept]


def words(runs: Sequence[str], present: Collection[str]) -> str:
    """What is missing, by environment: `brax-ant: everything; brax-hopper: rlx2 (8 runs), rigl (2 of 8 runs)`."""
    arms: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for run_id in runs:
        folder, _, run = run_id.partition("/")
        arms[folder][run.partition("-")[0]].append(run_id in present)
    said = []
    for folder, rows in arms.items():
        if not any(any(there) for there in rows.values()):
            said.append(f"{folder}: everything")
            continue
        parts = [
            f"{arm} ({there.count(False)}{'' if not any(there) else f' of {len(there)}'} runs)"
            for arm, there in rows.items()
            if not all(there)
        ]
        said += [f"{folder}: {', '.join(parts)}"] if parts else []
    return "; ".join(said)


def declared(folder: Path) -> list[str]:
    """Runs that a folder says it has no record of; empty where it says nothing."""
    path = folder / MISSING
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return [str(run_id) for run_id in found["missing"]]


def declare(folder: Path, missing: Sequence[str]) -> None:
    """Say in a folder which runs it has no record of; nothing where it lacks none."""
    if missing:
        text = json.dumps({"missing": list(missing)}, indent=1) + "\n"
        records.write_atomic(folder / MISSING, text.encode())


def problems(folder: Path, runs: Sequence[str], present: Collection[str]) -> list[str]:
    """What is wrong with what is missing: not declared, declared but there, unknown, or half a row."""
    try:
        said = declared(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{MISSING}: it cannot be read"]
    found = [
        f"{run_id}: the record is missing" for run_id in runs if run_id not in present and run_id not in said
    ]
    for run_id in said:
        if run_id not in runs:
            found.append(f"{run_id}: {MISSING} lists it, but the plan knows no such run")
        elif run_id in present:
            found.append(f"{run_id}: {MISSING} lists it, but there is a record")
    if said:
        found += [
            f"{row}: it has {there} of its {every} seeds; a row is published whole or not at all"
            for row, (there, every) in broken_rows(runs, present).items()
        ]
    return found
