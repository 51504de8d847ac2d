"""Who computed a program's state: beside its checkpoints, `origin.json`.

A program may be stopped by one code and gone on with by another. Every process that might write a checkpoint notes
itself first, with the checkpoints that it found; one that ended before it wrote any is forgotten by the next.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparserl_jax.bench import records

FILE = "origin.json"


def noted(checkpoints: Path, ours: dict[str, Any]) -> dict[str, Any] | None:
    """Note that we go on with, or begin, what is in the folder.

    Args:
        checkpoints: folder of one program.
        ours: the present origin, see `provenance.origin`.

    Returns:
        The first origin other than ours that had a part in the state; None where there is none.
    """
    path = checkpoints / FILE
    there = {entry.name: entry.stat().st_mtime_ns for entry in checkpoints.glob("checkpoint-*")}
    before = _read(path, ours) if there else []  # without a checkpoint nothing is resumed, whoever began
    while len(before) > 1 and before[-1]["found"] == there:
        before.pop()
    if not before or before[-1]["origin"] != ours:
        entries = [*before, {"origin": ours, "found": there}]
        records.write_atomic(path, (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode())
    return next((entry["origin"] for entry in before if entry["origin"] != ours), None)


def _read(path: Path, ours: dict[str, Any]) -> list[dict[str, Any]]:
    """What is noted; somebody unknown, who is not ours either, where it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [{"origin": entry["origin"], "found": entry["found"]} for entry in found] or _unknown(ours)
    except (OSError, ValueError, KeyError, TypeError):
        return _unknown(ours)


def _unknown(ours: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"origin": dict.fromkeys(ours), "found": {}}]
