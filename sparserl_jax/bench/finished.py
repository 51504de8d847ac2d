"""`finished.json`: the runs of a suite that a folder has, in a few kilobytes, for a machine that shall not repeat them.

`sparserl unpack` writes it; taken along, `sparserl bench --skip-finished FILE` leaves those runs out elsewhere. With it
travel the measured times, so that the next slice can be planned before anything is measured in it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from sparserl_jax.bench import rates, records
from sparserl_jax.errors import UserError

FILE = "finished.json"


def write(folder: Path, settings: dict[str, Any]) -> list[str]:
    """List the finished runs of a folder in it; returns them."""
    suite_hash = settings["suite_hash"]
    runs = [run_id for run_id in settings["runs"] if records.finished(folder, run_id, suite_hash)]
    found = [*rates.stored(folder), *rates.recorded(folder, runs)]
    body = {
        "suite": settings["suite"]["name"],
        "suite_hash": suite_hash,
        "runs": runs,
        "data": settings.get("data", {}),
        "rates": [dataclasses.asdict(sample) for sample in sorted(set(found))],
    }
    records.write_atomic(folder / FILE, (json.dumps(body, indent=1, sort_keys=True) + "\n").encode())
    return runs


def read(file: Path, suite_hash: str, data: dict[str, Any]) -> tuple[set[str], bytes]:
    """(runs that are finished elsewhere, measured times for `rates.merge`).

    Args:
        data: the files that the runs learn from, see `records.data_of`.

    Raises:
        UserError: no such file, another form, another suite's, or runs that learned from other files.
    """
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        runs, theirs = set(body["runs"]), body["suite_hash"]
        times, learned = json.dumps(body["rates"]).encode(), body.get("data")
    except OSError as error:
        raise UserError(
            f"--skip-finished '{file}' cannot be read ({error.strerror}); check the path."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--skip-finished '{file}' is no list that `sparserl unpack` made.") from None
    if theirs != suite_hash:
        raise UserError(
            f"--skip-finished '{file}' lists runs of configuration {theirs}, and this is {suite_hash}; leave it out."
        )
    if learned is None and data:
        raise UserError(
            f"--skip-finished '{file}' is of an earlier version and does not say which files its runs learned from: "
            "make it anew with `sparserl unpack`."
        )
    if (learned or {}) != data:
        raise UserError(
            f"--skip-finished '{file}' lists runs that learned from other files than those here; leave it out, or "
            "bring back the files."
        )
    return runs, times
