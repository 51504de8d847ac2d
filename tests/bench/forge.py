"""What a careless or dishonest hand does to a folder of records."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparserl_jax.bench import records


def change(folder: Path, run_id: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a record after `edit(record)`, as a careful forger would: sealed anew where it was sealed, and without
    the digest that gives it away where it cannot be."""
    record = records.read(folder / "records" / run_id)
    sealed = record.pop("sha256", None) is not None
    edit(record)
    with contextlib.suppress(ValueError):  # not a number
        record = records.sealed(record) if sealed else record
    (folder / "records" / run_id / "record.json").write_text(json.dumps(record))


def rehash(folder: Path, run_id: str) -> None:
    """Make the record's hashes agree with its files, as a careful forger would."""
    here = folder / "records" / run_id

    def edit(record: dict[str, Any]) -> None:
        for entry in record["files"].values():
            entry["sha256"] = records.digest((here / entry["path"]).read_bytes())

    change(folder, run_id, edit)


def run_ids(folder: Path) -> list[str]:
    """The runs that have a record."""
    found = sorted((folder / "records").glob("*/*/record.json"))
    return [path.parent.relative_to(folder / "records").as_posix() for path in found]


def change_all(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite every record."""
    for run_id in run_ids(folder):
        change(folder, run_id, edit)


def configure(folder: Path, edit: Callable[[dict[str, Any]], Any], *, hashed: bool = False) -> None:
    """Rewrite the configuration; `hashed`: with a hash that fits, in the records too."""
    path = folder / records.CONFIGURATION
    settings = json.loads(path.read_text())
    edit(settings)
    if hashed:
        content = {key: value for key, value in settings["suite"].items() if key != "title"}
        settings["suite_hash"] = records.digest(records.canonical(content).encode())[:12]
        change_all(folder, lambda record: record["provenance"].update(suite_hash=settings["suite_hash"]))
    path.write_text(json.dumps(settings))


def edit_cell(folder: Path, run_id: str, row: int, column: int, value: str) -> None:
    """Overwrite one cell of a curve; row 0 is the first evaluation."""
    path = folder / "records" / run_id / "curve.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[row + 1][column] = value
    path.write_text("".join(",".join(line) + "\n" for line in lines))
