"""TD3 on gymnasium's HalfCheetah-v5: how much of a vector step on the host is not the update, and what members in waves
gain on a CPU (`python -m benchmarks.perf.host MEMBERS REPEATS STEPS [WAVE]`, a process of its own for each)."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.perf.workload import in_a_process
from sparserl_jax.accelerator import cores, keep_freed_memory
from sparserl_jax.training import Evaluation, Program, Run, Schedule, Silent, TD3Config, Training, recipe
from sparserl_jax.training.host import HostExecution
from sparserl_jax.training.sharding import Layout

ENV = "gymnasium:HalfCheetah-v5"
WARM_UP = 1000
FOUND = ("total", "update", "environment")
"""What `measure` finds, in this order."""
WAVES = (0, 1, 3, 6)
"""Members per core in one call, in the section `waves`; 0: all at once, on one device."""


def training(agent: Any, buffer_max: int) -> Training:
    """A training of `agent` on HalfCheetah-v5 that is never evaluated in what is timed of it."""
    return Training(
        env=ENV,
        agent=agent,
        steps=1_000_000,
        warm_up=WARM_UP,
        schedule=Schedule(topology_interval=1000, delay=0, buffer_max=buffer_max, buffer_check=1000),
        evaluation=Evaluation(1_000_000, 1, 1),
        dispatch=1000,
    )


def measure(
    members: int, repeats: int, steps: int = 100, at_most: int | None = None
) -> dict[str, np.ndarray]:
    """`repeats` stretches of `steps` vector steps each: seconds per vector step (`total`), and its shares `update`
    (the jitted insert-and-update) and `environment` (physics and its Python). `at_most`: members per core in one call,
    0 for all of them on one device; default as the program has it. Calls are timed only where it is the default."""
    of = training(TD3Config(hidden=(256, 256), batch_size=256), buffer_max=100_000)
    runs = [Run(of, recipe("rigl"), 0.5 + 0.4 * seed / members, seed, "rigl") for seed in range(members)]
    program = Program(tuple(runs))
    if at_most is not None:
        spread = Layout.of(members)
        one = dataclasses.replace(spread, devices=spread.devices[:1])
        program.__dict__["layout"] = spread.in_waves(at_most) if at_most else one
    running = HostExecution(program, None, Silent(), 300.0)
    running.prepare()
    running.begin()
    while running.step < WARM_UP + steps:
        running.vector_step()
    train, spent = running.compiled["train"], [0.0]

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        result = jax.block_until_ready(train(*arguments))
        spent[0] += time.perf_counter() - began
        return result

    if at_most is None:
        running.compiled = {**running.compiled, "train": timed}
    rows = []
    for _ in range(repeats):
        spent[0], physics, began = 0.0, running.seconds["environment"], time.perf_counter()
        for _ in range(steps):
            running.vector_step()
        jax.block_until_ready(running.population)
        total = time.perf_counter() - began
        rows.append((total / steps, spent[0] / total, (running.seconds["environment"] - physics) / total))
    return dict(zip(FOUND, np.asarray(rows).T, strict=True))


def as_commands(
    members: int, repeats: int, steps: int = 100, at_most: int | None = None
) -> dict[str, np.ndarray]:
    """`measure` with the devices that the commands have: on CPUs one per core, which JAX has to know before it is
    imported, so in a process of its own."""
    if jax.default_backend() != "cpu":
        return measure(members, repeats, steps, at_most)
    given = [str(number) for number in (members, repeats, steps, *([] if at_most is None else [at_most]))]
    command = [sys.executable, "-m", "benchmarks.perf.host", *given]
    numbers = in_a_process(command, JAX_NUM_CPU_DEVICES=str(cores()))
    return dict(zip(FOUND, np.reshape(numbers, (len(FOUND), -1)), strict=True))


def waves(row: Callable[..., dict[str, Any]], repeats: int, members: int) -> list[dict[str, Any]]:
    """The same population in waves of several sizes, in turns; CPUs only."""
    if jax.default_backend() != "cpu":
        return []
    found: dict[int, list[float]] = {at_most: [] for at_most in WAVES}
    for at_most in 2 * WAVES:
        found[at_most] += list(members / as_commands(members, repeats, 20, at_most)["total"])
    words = {at_most: f"waves of {at_most} per core" for at_most in WAVES} | {0: "all at once on one device"}
    return [
        row(f"{ENV}, {members} members, {words[at_most]}: steps of all", np.asarray(rates), "per s", "")
        for at_most, rates in found.items()
    ]


def main() -> None:
    """What `measure` finds, as JSON: all repeats of one number after those of another."""
    keep_freed_memory()
    found = measure(*(int(word) for word in sys.argv[1:]))
    print(json.dumps([float(number) for name in FOUND for number in found[name]]))


if __name__ == "__main__":
    main()
