"""How much of a vector step on the host is not the update: TD3 on gymnasium's HalfCheetah-v5."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from sparserl_jax.training import Evaluation, Program, Run, Schedule, Silent, TD3Config, Training, recipe
from sparserl_jax.training.host import HostExecution

ENV = "gymnasium:HalfCheetah-v5"
WARM_UP = 1000


def measure(members: int, repeats: int, steps: int = 100) -> dict[str, np.ndarray]:
    """`repeats` stretches of `steps` vector steps each: seconds per vector step (`total`), and its shares `update`
    (the jitted insert-and-update) and `environment` (physics and its Python)."""
    training = Training(
        env=ENV,
        agent=TD3Config(hidden=(256, 256), batch_size=256),
        steps=1_000_000,
        warm_up=WARM_UP,
        schedule=Schedule(topology_interval=1000, delay=0, buffer_max=100_000, buffer_check=1000),
        evaluation=Evaluation(1_000_000, 1, 1),
        dispatch=1000,
    )
    runs = [Run(training, recipe("rigl"), 0.5 + 0.05 * seed, seed, "rigl") for seed in range(members)]
    running = HostExecution(Program(tuple(runs)), None, Silent(), 300.0)
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

    running.compiled = {**running.compiled, "train": timed}
    rows = []
    for _ in range(repeats):
        spent[0], physics, began = 0.0, running.seconds["environment"], time.perf_counter()
        for _ in range(steps):
            running.vector_step()
        total = time.perf_counter() - began
        rows.append((total / steps, spent[0] / total, (running.seconds["environment"] - physics) / total))
    return dict(zip(("total", "update", "environment"), np.asarray(rows).T, strict=True))
