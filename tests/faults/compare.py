"""What may lie in a suite's folder at any moment: nothing but what an undisturbed run leaves there, or less of it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from sparserl_jax.bench import check, records, summary, tables

FILES = {"record.json", "curve.csv", "policy.npz", "masks.npz", "networks.npz", "timings.json"}
SAME = ("curve.csv", "policy.npz", "masks.npz", "networks.npz")
"""Files of a record that carry no clock: equal in every byte."""
UNFINISHED = ("the record is missing", "there is no dense arm to compare with")
"""What `sparserl check` rightly says of a suite that has not ended."""


def visible(folder: Path) -> list[str]:
    """Runs whose record can be seen: `<environment>/<run>`; names with a leading dot are copies never finished."""
    found = sorted(path for path in (folder / "records").glob("*/*") if not path.name.startswith("."))
    return [path.relative_to(folder / "records").as_posix() for path in found]


def different(folder: Path, undisturbed: Path) -> list[str]:
    """What is wrong, in sentences, with anything visible in `folder`, finished or not; empty: nothing."""
    problems = []
    settings = folder / records.CONFIGURATION
    if settings.exists() and settings.read_bytes() != (undisturbed / records.CONFIGURATION).read_bytes():
        problems.append("configuration.json differs")
    for run in visible(folder):
        ours, theirs = folder / "records" / run, undisturbed / "records" / run
        if (names := {path.name for path in ours.iterdir()}) != FILES:
            problems.append(f"{run}: holds {sorted(names)}")
            continue
        problems += [
            f"{run}: {name} differs"
            for name in SAME
            if (ours / name).read_bytes() != (theirs / name).read_bytes()
        ]
        if records.canonical(records.read(ours)["result"]) != records.canonical(
            records.read(theirs)["result"]
        ):
            problems.append(f"{run}: the result differs")
    if settings.exists():
        found = check.check(folder)
        problems += [text for text in found if not any(right in text for right in UNFINISHED)]
    for name, make in tables.FILES.items():
        if (folder / name).exists() and (folder / name).read_text() != make(summary.summarise(folder)):
            problems.append(f"{name} is not what the records give")
    return problems


def unfinished(folder: Path, undisturbed: Path) -> list[str]:
    """What is wrong with a folder that should be at its end."""
    problems = different(folder, undisturbed) + check.check(folder)
    if visible(folder) != visible(undisturbed):
        problems.append("not the same runs")
    for kind in ("table.md", "table.csv", "table.tex", "plots/learning_curves.png"):
        if not (folder / kind).is_file():
            problems.append(f"{kind} is missing")
    left = [path for path in folder.rglob(".*") if path.name != ".lock"]
    left += list((folder / "programs").iterdir())
    return problems + [f"{path.relative_to(folder)} is left over" for path in left]


def redone(log: Path) -> tuple[int, list[str]]:
    """The most environment steps that any restart did again, and what is wrong with where the restarts began.

    A restart begins at the last checkpoint that was completed before, or at one that was completed and not yet
    written down as such.
    """
    saved: dict[str, int] = defaultdict(int)
    reached: dict[str, int] = defaultdict(int)
    most, problems = 0, []
    for line in log.read_text().splitlines():
        match line.split():
            case ["saved", program, step]:
                saved[program] = int(step)
            case ["step", program, step]:
                reached[program] = int(step)
            case ["begins", program, step]:
                if int(step) < saved[program]:
                    problems.append(f"{program} began at {step} although {saved[program]} was saved")
                most = max(most, reached[program] - int(step))
                reached[program] = int(step)
    return most, problems


def facts(folder: Path) -> dict[str, int]:
    """How much there is to lose: runs, and the topology events of them all."""
    found = [
        json.loads((folder / "records" / run / "record.json").read_text())["result"]
        for run in visible(folder)
    ]
    return {"runs": len(found), "events": sum(sum(result["events"].values()) for result in found)}
