"""Kill a small real suite again and again and compare what it ends in: `python -m tests.faults [--count N] [--seed S]`.

Every round is one folder. The same command is killed (SIGKILL to its process group) and run again at thirteen places
(`places.ROUND`). After each kill, whatever record can be seen must be complete, sound and equal in every byte to that
of an undisturbed run, and the next process must begin at the last completed checkpoint. Then the command is left to
end, and results, curves, masks and policies are compared. One kill per round hits the making of the environment.
Prints a table, stores it as JSON and Markdown, and ends with code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sparserl_jax.bench import provenance
from tests.faults import compare, installation
from tests.faults.places import PLACES, ROUND
from tests.faults.process import Bench

INSTALLING = "while the environment is made"
NAMES = (INSTALLING, *PLACES)


@dataclasses.dataclass
class Found:
    """What rounds have seen: kills by place, the most steps done again, and everything that was wrong."""

    kills: Counter[str] = dataclasses.field(default_factory=Counter)
    redone: Counter[str] = dataclasses.field(default_factory=Counter)
    wrong: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def add(self, other: Found) -> None:
        """Take in what another round has seen."""
        self.kills += other.kills
        self.redone |= other.redone
        self.wrong += other.wrong


@dataclasses.dataclass(frozen=True)
class Calm:
    """The undisturbed run: its folder, the seconds it took, and the lines of the functions that hooks name."""

    folder: Path
    seconds: float
    lines: dict[str, int]


def undisturbed(work: Path, cache: Path | None) -> tuple[Calm, list[str]]:
    """Run the suite without the compilation cache, and twice with it; what differed between them.

    The second run fills the cache, the third tells how long a process takes that uses it.
    """
    wrong = []
    runs = [Bench(work / name, work / f"{name}.log", cache=cache) for name in ("calm", "filling", "cached")]
    for bench in runs:
        ended = bench.run(cached=bench is not runs[0])
        if ended.code != 0:
            raise SystemExit(f"the undisturbed run ended with {ended.code}:\n{ended.said[-3000:]}")
        wrong += compare.unfinished(bench.folder, runs[0].folder)
    lines: dict[str, int] = {}
    for words in map(str.split, runs[0].log.read_text().splitlines()):
        if words[0] == "lines":
            lines[words[1]] = max(lines.get(words[1], 0), int(words[3]))
    return Calm(runs[0].folder, ended.seconds, lines), wrong


def one_round(number: int, seed: int, work: Path, cache: Path, calm: Calm) -> Found:
    """One folder from its first kill to its end."""
    rng = np.random.default_rng([seed, number])
    found, here = Found(), work / f"round-{number:03d}"
    bench = Bench(here / "out", here / "log", cache=cache)
    here.mkdir()

    place = installation.PLACES[number % len(installation.PLACES)]
    extra, on_top = (("", False), ("dev", False), ("dev", True))[number % 3]
    if place.startswith("venv") and on_top:
        extra, on_top = "", False
    killed, problems = installation.kill_and_make_again(here / "workshop", place, extra, on_top)
    found.kills[INSTALLING] += killed
    found.wrong += [(INSTALLING, text) for text in problems]

    place, ended = "", None
    for place in ROUND:
        shot = PLACES[place](rng, calm.lines, calm.seconds)
        ended = bench.run(shot.hook, delay=shot.delay, after=shot.after, cached=shot.cached)
        if not ended.killed:
            break  # the place was not on its way any more
        found.kills[place] += 1
        problems = compare.different(bench.folder, calm.folder)
        problems += [line for line in ended.said.splitlines() if line.startswith("note:")]
        found.wrong += [(place, f"round {number}, {json.dumps(shot.hook)}: {text}") for text in problems]
    if ended is None or ended.killed:
        ended = bench.run()
    if ended.code != 0:
        found.wrong.append((place, f"round {number} ended with {ended.code}: {ended.said[-1000:]}"))
    else:
        problems = compare.unfinished(bench.folder, calm.folder)
        problems += [line for line in ended.said.splitlines() if line.startswith("note:")]
        found.wrong += [(place, f"round {number}, at its end: {text}") for text in problems]
    most, problems = compare.redone(bench.log)
    found.redone["steps"] = most
    found.wrong += [(place, f"round {number}: {text}") for text in problems]
    if not found.wrong:
        shutil.rmtree(here)
    return found


def table(
    found: Found, calm: Calm, options: argparse.Namespace, facts: dict[str, Any], seconds: float
) -> str:
    """What was seen, as Markdown."""
    wrong = Counter(place for place, _ in found.wrong)
    lost, system = compare.facts(calm.folder), facts["system"]
    lines = [
        "# Kills",
        "",
        f"A suite of {lost['runs']} runs in 4 programs ({lost['events']} topology events in all) was killed and run "
        f"again {sum(found.kills.values())} times, by SIGKILL to its process group, and compared with an undisturbed "
        f"run: results, curves, masks and policies byte for byte. Made by `make test-faults "
        f'ARGS="--count {options.count} --seed {options.seed}"` in {seconds / 60:.0f} min.',
        "",
        "| killed | times | wrong |",
        "|---|---|---|",
        *(f"| {name} | {found.kills[name]} | {wrong[name]} |" for name in NAMES),
        f"| **all** | {sum(found.kills.values())} | {len(found.wrong)} |",
        "",
        f"Most environment steps done again after a kill: {found.redone['steps']}, of a dispatch of 40 and a "
        "checkpoint after each. Every restart began at the last completed checkpoint. The undisturbed results do not "
        "depend on JAX's compilation cache.",
        "",
        f"Device: {system['device_kind']} ({provenance.processor(system)}, {system['cpu_count']} cores); "
        f"jax {facts['packages']['jax']}; Python {facts['python']}; commit {facts['git_describe']}; "
        f"{facts['created_utc']}",
    ]
    return "\n".join(lines) + "\n"


def store(out: Path, text: str, found: Found, options: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Write the table and its record."""
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "count": options.count,
        "seed": options.seed,
        "kills": {name: found.kills[name] for name in NAMES},
        "most_steps_redone": found.redone["steps"],
        "wrong": [{"place": place, "text": problem} for place, problem in found.wrong],
        "provenance": facts,
    }
    (out / "kills.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "kills.md").write_text(text)


def main() -> int:
    """Rounds until enough kills were made; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="least number of kills")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="rounds side by side")
    parser.add_argument("--out", type=Path, default=Path("runs/faults"), help="folder of the table")
    parser.add_argument("--work", type=Path, help="scratch folder, kept; default: a temporary one")
    options = parser.parse_args()
    facts, began = provenance.collect(), time.monotonic()
    # What was wrong can be looked at; else nothing stays.
    work = options.work or Path(tempfile.mkdtemp(prefix="sparserl-faults-"))
    work.mkdir(parents=True, exist_ok=True)
    work = work.resolve()
    found, cache = Found(), work / "cache"
    calm, wrong = undisturbed(work, cache)
    found.wrong += [("", f"undisturbed: {text}") for text in wrong]
    print(f"undisturbed: {calm.seconds:.0f} s with the compilation cache", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        number = 0
        while sum(found.kills.values()) < options.count:
            some = range(number, number + options.jobs)
            number += options.jobs
            for one in pool.map(lambda n: one_round(n, options.seed, work, cache, calm), some):
                found.add(one)
            print(f"{sum(found.kills.values())} kills, {len(found.wrong)} wrong", flush=True)
            for place, text in found.wrong:
                print(f"  {place}: {text}", flush=True)
    seconds = time.monotonic() - began
    text = table(found, calm, options, facts, seconds)
    print(text)
    store(options.out, text, found, options, facts)
    print(f"stored in {options.out}/kills.json and .md")
    if found.wrong:
        print(f"what was wrong lies in {work}")
        return 1
    if options.work is None:
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
