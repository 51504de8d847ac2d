"""Measure speed and memory on this machine, print a table and store it: `python -m benchmarks.perf [--out FOLDER]`.

Every comparison is interleaved (a, b, a, b, ...) and reported as medians with the quartiles beside them, on programs
that are compiled and warmed up. Ceilings are measured in the same run. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.perf import methods, peer, policies, population, tasks
from benchmarks.perf.host import waves
from benchmarks.perf.population import update_flops
from benchmarks.perf.workload import ACTIONS, OBS, Workload, interleaved
from sparserl_jax import replay
from sparserl_jax.accelerator import keep_freed_memory
from sparserl_jax.bench import provenance
from sparserl_jax.envs import make as make_env
from sparserl_jax.errors import UserError
from sparserl_jax.training.precision import precise

INTERVAL = 1000
"""Ticks between topology events where their cost is measured."""


def matrix_product() -> tuple[Callable[[], None], float]:
    """The ceiling: products of the update's own size, [256, 256] x [256, 256], and the FLOPs of one call."""
    count = 400
    left, right = (jax.random.normal(jax.random.key(i), (256, 256)) / 16 for i in range(2))

    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, count, lambda _, x: x @ w, x)

    compiled = jax.jit(precise(chain, None))  # as a training multiplies that says nothing
    return lambda: compiled(left, right).block_until_ready(), count * 2.0 * 256**3


def learner(repeats: int, many: int) -> list[dict[str, Any]]:
    """Time per step of one and of many members, against the ceiling and against a program without any mask code."""
    product, product_flops = matrix_product()
    # The masked program carries all that a dynamic method needs, events included.
    one, bare = Workload(1, "rigl", interval=INTERVAL), Workload(1, bare=True)
    times = interleaved({"one": one, "bare": bare, "product": product}, repeats)
    steps = one.training.dispatch_steps
    per_step = times["one"] / steps * 1e3
    ceiling = product_flops / times["product"]
    share = update_flops() / (times["one"] / steps) / ceiling
    ratio = times["one"] / times["bare"]
    rows = [
        row("TD3 17/6, 2x256, batch 256: one member, all-in", per_step, "ms per step", "at most 1.6"),
        row("matrix products [256,256]x[256,256]: the ceiling", ceiling / 1e9, "GFLOP/s", ""),
        row("share of that ceiling", share, "of 1", "at least 0.70"),
        row(
            "masked program / dense program without mask, state or event code", ratio, "ratio", "at most 1.05"
        ),
        row("dispatch length, one member", times["one"], "s", "0.5 to 5"),
    ]
    crowd = Workload(many, "rigl", interval=INTERVAL)
    times = interleaved({"one": one, "crowd": crowd}, max(3, repeats // 2))
    per_member = times["crowd"] / many / times["one"]
    rows.append(row(f"cost per member, {many} members / one", per_member, "ratio", "at most 1.10"))
    return rows


def topology(repeats: int, members: int) -> list[dict[str, Any]]:
    """Share of run time spent on topology at interval 1000, members of different sparsity.

    One event in a thousand ticks drowns in the noise of a run, so events are made fifty times as frequent and what
    they add is divided by fifty.
    """
    often = 50
    # Still: with events to come, so that both ask at every tick whether it is one; none of them is in what is timed.
    still, moving = (Workload(members, "rigl", interval=ticks) for ticks in (400_000, INTERVAL // often))
    times = interleaved({"still": still, "moving": moving}, repeats)
    share = (times["moving"] / times["still"] - 1.0) / often
    text = f"topology events every {INTERVAL} ticks, {members} members: extra time"
    return [row(text, share * 100, "% of run time", "below 1")]


def memory() -> list[dict[str, Any]]:
    """Bytes of the replay per million transitions at 17/6."""
    rows = []
    for keep_mean, target in ((False, "at most 100"), (True, "at most 112")):
        slots = replay.slots_needed(1_000_001, 1000)
        size = replay.bytes_per(1_000_001, 1, OBS, ACTIONS, slots, keep_mean) / 1e6
        text = "replay per 1e6 transitions" + (" with noise-free actions" if keep_mean else "")
        rows.append(row(text, np.asarray([size]), "MB", target))
    return rows


def on_the_host(repeats: int, members: int) -> list[dict[str, Any]]:
    """The plain loop around environments on the host; nothing where gymnasium's physics is not installed."""
    from benchmarks.perf import host

    try:
        make_env(host.ENV)
    except UserError as error:
        print(f"left out: {error}")
        return []
    found = host.as_commands(members, repeats)
    text = f"{host.ENV}, {members} members: "
    return [
        row(text + "environment steps of all members", members / found["total"], "per s", ""),
        row(text + "time outside the update", 100 * (1 - found["update"]), "% of run time", "at most 15"),
        row(text + "of which the environments", 100 * found["environment"], "% of run time", ""),
    ]


def checkpoint(repeats: int, members: int) -> list[dict[str, Any]]:
    """Writing and restoring a large population."""
    from benchmarks.perf import checkpoints

    found = checkpoints.measure(members, repeats)
    text = f"checkpoint of {members} members x {checkpoints.TRANSITIONS:,} transitions: "
    return [
        row(text + "size", found["size"], "GB", ""),
        row(text + "written in", found["write"], "s", ""),
        row(text + "restored in", found["restore"], "s", ""),
        row(text + "a plain read of its files takes", found["read"], "s", ""),
        row(text + "restored / plain read", found["restore"] / found["read"], "ratio", "at most 1.20"),
    ]


def compilation() -> list[dict[str, Any]]:
    """Seconds to trace and compile one training dispatch."""
    began = time.perf_counter()
    Workload(1, "rigl", interval=INTERVAL)()
    return [
        row("set up, compile and run one masked program", np.asarray([time.perf_counter() - began]), "s", "")
    ]


def row(what: str, values: np.ndarray, unit: str, guide: str) -> dict[str, Any]:
    """One line of the table; told as soon as it is measured, as a section may take a quarter of an hour."""
    values = np.atleast_1d(np.asarray(values, float))
    low, middle, high = (float(x) for x in np.percentile(values, [25, 50, 75]))
    print(f"{what}: {middle:.3f} {unit}", flush=True)
    return {
        "what": what,
        "median": middle,
        "low": low,
        "high": high,
        "repeats": len(values),
        "unit": unit,
        "guide": guide,
    }


def table(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The rows as Markdown."""
    system, packages = facts["system"], facts["packages"]
    precision = facts["matmul_precision"]
    told = f"matrix products where not said: {precision}; " if precision else ""
    several = system["platform"] != "cpu" and system["device_count"] > 1
    device = f"{system['device_count']} x {system['device_kind']}" if several else system["device_kind"]
    lines = [
        f"Device: {device} ({provenance.processor(system)}, {system['cpu_count']} cores); {told}"
        f"jax {packages['jax']}; Python {facts['python']}; commit {facts['git_describe']}; {facts['created_utc']}",
        "",
        "| what | median | quartiles | unit | repeats | guide |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        spread = f"{r['low']:.3f} to {r['high']:.3f}" if r["repeats"] > 1 else ""
        lines.append(
            f"| {r['what']} | {r['median']:.3f} | {spread} | {r['unit']} | {r['repeats']} | {r['guide']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all sections."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("runs/perf"), help="folder for the table and its record"
    )
    parser.add_argument("--repeats", type=int, default=10, help="repeats of each comparison")
    parser.add_argument("--members", type=int, default=8, help="members of the many-member measurements")
    parser.add_argument("--minutes", type=float, default=population.MINUTES, help="of the section population")
    parser.add_argument(
        "--peer", help="of the section peer: a Python with sbx-rl (see benchmarks/perf/peer.py)"
    )
    parser.add_argument("--sections", nargs="*", help="only these; default all")
    options = parser.parse_args()
    keep_freed_memory()  # as the commands do
    facts = provenance.collect()
    rows: list[dict[str, Any]] = []
    many = options.members
    sections: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "memory": memory,
        "compilation": compilation,
        "learner": lambda: learner(options.repeats, many),
        "topology": lambda: topology(max(3, options.repeats // 3), many),
        "tasks": lambda: tasks.measure(row),
        "methods": lambda: methods.measure(row, max(3, options.repeats // 2)),
        "host": lambda: on_the_host(options.repeats, many),
        "checkpoint": lambda: checkpoint(max(3, options.repeats // 3), many),
        "population": lambda: population.measure(row, options.repeats, options.minutes),
        "waves": lambda: waves(row, max(3, options.repeats // 3), many),
        "peer": lambda: peer.measure(row, max(3, options.repeats // 3), options.peer) if options.peer else [],
        "policies": lambda: policies.measure(row, options.repeats),
        "ways": lambda: population.ways(row, max(3, options.repeats // 3), many),
    }
    for name in options.sections or sections:
        if name not in sections:
            parser.error(f"no section '{name}': there are {', '.join(sections)}")
    options.out.mkdir(parents=True, exist_ok=True)
    stored = "".join(
        c if c.isalnum() else "-" for c in f"{facts['system']['device_kind']}-{facts['system']['cpu_count']}"
    )
    stored += "".join(f"-{section}" for section in options.sections or ())
    # Stored after each section: a later one may fail, or the device be gone.
    for name in options.sections or sections:
        rows += sections[name]()
        print(table(rows, facts), flush=True)
        (options.out / f"{stored}.json").write_text(
            json.dumps({"rows": rows, "provenance": facts}, indent=1) + "\n"
        )
        (options.out / f"{stored}.md").write_text(table(rows, facts))
    print(f"stored in {options.out / stored}.json and .md")


if __name__ == "__main__":
    main()
