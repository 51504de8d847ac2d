"""How long a program takes on this device: a forecast from its declared FLOPs and from what was measured here.

What is known comes from records made on the same kind of device (in the folder and in `results/`: the seconds and
FLOPs of their whole programs) and from rehearsals, a few timed dispatches before a program begins, which `rates.json`
keeps. The rate depends on the environment, whose physics no FLOP count holds, on the sizes of networks and batches, and
on the number of members that are computed together; between two measured numbers the time is taken as linear.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import provenance, records
from sparserl_jax.bench.plan import Plan

FILE = "rates.json"


@dataclasses.dataclass(frozen=True, order=True)
class Sample:
    """One measured program: where, what, and for how long.

    kind: sizes on which the speed depends, see `kind_of`. flops: executed by all its members together. seconds: of all
    its dispatches and evaluations. compile_seconds: before the first of them.
    """

    device: str
    env: str
    kind: str
    members: int
    flops: float
    seconds: float
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Seconds of a program, `compile_seconds` among them. own: programs like it were measured, in its environment;
    sure: and with as few members, on an accelerator also with as many. basis: what it rests on, in words."""

    seconds: float
    compile_seconds: float
    own: bool
    sure: bool
    basis: str


def device_of(system: dict[str, Any]) -> str:
    """What a rate belongs to, from the `system` of a record's provenance."""
    if system["platform"] == "cpu":  # JAX calls every processor "cpu"
        several = f" as {system['device_count']} devices" if system["device_count"] > 1 else ""
        return f"{provenance.processor(system)}, {system['cpu_count']} cores{several}"
    return f"{system['device_count']} x {system['device_kind']}"


def kind_of(training: Mapping[str, Any]) -> str:
    """Sizes on which the speed of a training depends, from its settings as a record has them."""
    agent = training["agent"]
    words = [
        " ".join(agent[key] for key in ("name", "network") if key in agent),
        "x".join(str(width) for width in agent.get("hidden", ())),
        f"batch {agent.get('batch_size')}",
        f"delay {agent.get('policy_delay')}",
        f"{training['num_envs']} environments",
        f"dispatch {training.get('dispatch')}",
        str(training.get("matmul_precision") or ""),
    ]
    return ", ".join(words).removesuffix(", ")


def flops(plan: Plan, program: Any) -> float:
    """Declared FLOPs that a program executes, over all its members."""
    return float(sum(plans.theory(plan, entry)["training_flops_executed"] for entry in plan.of(program)))


class Rates:
    """What is known about one device. accelerated: it is no CPU, so that more members may well take no longer, and
    nothing follows from one number of members for another."""

    def __init__(self, device: str, samples: Iterable[Sample] = (), accelerated: bool = False) -> None:
        self.device, self.accelerated = device, accelerated
        self.samples = sorted({sample for sample in samples if sample.device == device})

    def add(self, sample: Sample) -> None:
        """Take in what has just been measured."""
        self.samples = sorted({*self.samples, sample})

    def forecast(self, env: str, kind: str, members: int, work: float) -> Forecast | None:
        """Seconds of a program of `members` that executes `work` FLOPs in all; None where nothing is known."""
        there = [sample for sample in self.samples if sample.env == env]
        same = [sample for sample in there if sample.kind == kind]
        used = same or there or self.samples
        if not used:
            return None
        # Seconds per FLOP of one member, by the number of members: what a step of all of them takes.
        by_count: dict[int, list[float]] = defaultdict(list)
        for sample in used:
            by_count[sample.members].append(sample.seconds * sample.members / sample.flops)
        counts = sorted(by_count)
        per_flop = _between(counts, [sum(by_count[n]) / len(by_count[n]) for n in counts], members)
        compiling = max(sample.compile_seconds for sample in used)
        other = "" if same else ", of other sizes" if there else ", in other environments"
        basis = f"measured with {', '.join(map(str, counts))} members{other}"
        own = bool(same)
        seconds = compiling + per_flop * work / members
        sure = own and counts[0] <= members and (members <= counts[-1] or not self.accelerated)
        return Forecast(seconds, compiling, own, sure, basis)


def _between(counts: list[int], values: list[float], at: int) -> float:
    """Linear between measured numbers of members, and in proportion to the nearest beyond them."""
    if at <= counts[0]:
        return values[0] * at / counts[0]
    for index in range(1, len(counts)):
        low, high = counts[index - 1], counts[index]
        if at <= high:
            return values[index - 1] + (values[index] - values[index - 1]) * (at - low) / (high - low)
    return values[-1] * at / counts[-1]


def known(folder: Path, results: Path | None, system: dict[str, Any]) -> Rates:
    """Everything that is known about this device: from the folder, and from published folders."""
    rates = Rates(device_of(system), stored(folder), accelerated=system["platform"] != "cpu")
    places = [folder]
    if results is not None and results.is_dir():
        places += sorted(path for path in results.iterdir() if (path / records.CONFIGURATION).is_file())
    for place in places:
        found = sorted(place.glob("records/*/*/record.json"))
        run_ids = [path.parent.relative_to(place / "records").as_posix() for path in found]
        for sample in recorded(place, run_ids):
            if sample.device == rates.device:
                rates.add(sample)
    return rates


def recorded(folder: Path, run_ids: Iterable[str]) -> list[Sample]:
    """One sample per program that some runs of a folder belong to; runs without a readable record tell nothing."""
    programs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run_id in run_ids:
        try:
            record = records.read(folder / "records" / run_id)
            programs[record["provenance"]["program"]].append(record)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [sample for group in programs.values() if (sample := _sample(group)) is not None]


def _sample(group: list[dict[str, Any]]) -> Sample | None:
    """What the records of one program say about time."""
    try:
        first = group[0]
        measured, members = first["measured"], len(first["provenance"]["program_members"])
        seconds = sum(float(measured[f"{kind}_seconds"]) for kind in ("warm_up", "train", "evaluate"))
        # Not all members need be in this folder; the missing ones did the same work on average.
        mean = sum(record["result"]["costs"]["training_flops_executed"] for record in group) / len(group)
        if seconds <= 0 or mean <= 0:
            return None
        return Sample(
            device_of(first["provenance"]["system"]),
            first["result"]["env"],
            kind_of(first["provenance"]["config"]["training"]),
            members,
            mean * members,
            seconds,
            float(measured["compile_seconds"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def stored(folder: Path) -> list[Sample]:
    """The samples of `rates.json`; none where there is no such file or it is no longer readable."""
    try:
        return _parse((folder / FILE).read_bytes())
    except OSError:
        return []


def _parse(data: bytes) -> list[Sample]:
    try:
        rows = json.loads(data)
        found = [Sample(**row) for row in rows]
        sound = all(
            isinstance(s.device, str)
            and isinstance(s.env, str)
            and isinstance(s.kind, str)
            and s.members >= 1
            and s.flops > 0
            and s.seconds > 0
            and s.compile_seconds >= 0
            for s in found
        )
        return found if sound else []
    except (ValueError, TypeError):
        return []


def store(folder: Path, samples: Iterable[Sample]) -> None:
    """Add samples to a folder's `rates.json`."""
    rows = [dataclasses.asdict(sample) for sample in sorted({*stored(folder), *samples})]
    if rows:
        records.write_atomic(folder / FILE, (json.dumps(rows, indent=1) + "\n").encode())


def merge(folder: Path, data: bytes | None) -> None:
    """Take the samples of another folder's `rates.json` into this one's."""
    found = [] if data is None else _parse(data)
    if found:
        store(folder, found)
