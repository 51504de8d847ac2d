"""Where a process is killed: the places, and what is drawn at random within each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Lines = Mapping[str, int]
"""Number of lines that a call of each hooked function executes, from an undisturbed run."""


@dataclasses.dataclass(frozen=True)
class Shot:
    """One kill: see `tests.faults.process.Bench.run`."""

    hook: dict[str, Any] | None
    delay: float = 0.0
    after: float | None = None
    cached: bool = True


def _line(rng: np.random.Generator, lines: Lines, name: str, call: int, first: int = 0) -> Shot:
    return Shot({"line": name, "call": call, "at": int(rng.integers(first, lines[name]))})


def beginning(rng: np.random.Generator, lines: Lines, seconds: float) -> Shot:
    """Within the first files of a folder, or of a program."""
    names = ("configuration.json", "suite.toml", "origin.json")
    return Shot({"half": names[int(rng.integers(3))], "call": 1})


def compiling(rng: np.random.Generator, lines: Lines, seconds: float) -> Shot:
    """While XLA compiles, without its cache."""
    return Shot({"enter": "compile", "call": 1}, delay=float(rng.uniform(0, 3)), cached=False)


def dispatching(rng: np.random.Generator, lines: Lines, seconds: float) -> Shot:
    """Within a dispatch or an evaluation: at a line of the host's code, or while the device computes."""
    call = int(rng.integers(2, 7))
    if rng.random() < 0.5:
        return Shot({"enter": "dispatch", "call": call}, delay=float(rng.uniform(0, 0.02)))
    return _line(rng, lines, "dispatch", call) if rng.random() < 0.5 else _line(rng, lines, "evaluate", 1)


def saving(rng: np.random.Generator, lines: Lines, seconds: float) -> Shot:
    """Within the writing of a checkpoint: between two steps of it, within its arrays, within its last file."""
    call, kind = int(rng.integers(1, 5)), rng.random()
    if kind < 0.5:
        return _line(rng, lines, "save", call)
    if kind < 0.8:
        return Shot({"enter": "save", "call": call}, delay=float(rng.uniform(0, 0.08)))
    return Shot({"half": "complete.json", "call": call})


def before_records(rng: np.random.Generator, lines: Lines, seconds: float) -> Shot:
    """After the last checkpoint of a program, before its first record."""
    kind = int(rng.integers(3))
    if kind < 2:
        return _line(rng, lines, ("final", "outcomes")[kind], 1)
    return Shot({"line": "record", "call": 1, "at": 0})


def between_records(rng: np.random.Generator, lines: Lines, seconds: float) -> Shot:
    """After one record, before the next."""
    return Shot({"line": "record", "call": 2, "at": 0})


def recording(rng: np.random.Generator, lines: Lines, seconds: float) -> Shot:
    """Within the writing of a record: between two steps of it, or within one of its files."""
    call = int(rng.integers(1, 4))
    if rng.random() < 0.5:
        return _line(rng, lines, "record", call, first=1)
    names = ("policy.npz", "masks.npz", "curve.csv", "timings.json", "record.json")
    return Shot({"half": names[int(rng.integers(len(names)))], "call": call})


def tabulating(rng: np.random.Generator, lines: Lines, seconds: float) -> Shot:
    """Within the making and writing of tables and figures."""
    if rng.random() < 0.5:
        return _line(rng, lines, ("summary", "tables", "plots")[int(rng.integers(3))], 1)
    names = ("table.md", "table.csv", "table.tex", "learning_curves.png")
    return Shot({"half": names[int(rng.integers(len(names)))], "call": 1})


def anywhere(rng: np.random.Generator, lines: Lines, seconds: float) -> Shot:
    """At a random moment, from the start of Python on; `seconds`: how long an undisturbed process takes."""
    return Shot(None, after=float(rng.uniform(0.1, 1.0) * seconds))


Draw = Callable[[np.random.Generator, Lines, float], Shot]
PLACES: dict[str, Draw] = {
    "within the first files of a folder": beginning,
    "during compilation": compiling,
    "within a dispatch or evaluation": dispatching,
    "within a checkpoint": saving,
    "between checkpoint and first record": before_records,
    "between two records": between_records,
    "within a record": recording,
    "within tables and figures": tabulating,
    "at a random moment": anywhere,
}

ROUND = (
    "within the first files of a folder",
    "during compilation",
    "within a dispatch or evaluation",
    "within a checkpoint",
    "between checkpoint and first record",
    "between two records",
    "within a record",
    "at a random moment",
    "within a dispatch or evaluation",
    "within a checkpoint",
    "between checkpoint and first record",
    "within a record",
    "within tables and figures",
)
"""The kills that one folder suffers, in this order, before it is left to come to its end: each process goes on from
what the one before left, so that all places are reached."""
