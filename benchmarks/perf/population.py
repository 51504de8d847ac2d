"""Populations of the size that comparisons have: TD3 at HalfCheetah size, 1 to 128 members, against measured ceilings.

    python -m benchmarks.perf --sections population [--minutes 8]

The roofline of a step is the larger of two times: its matrix products at the rate of one large product of the same
precision, and the bytes that must move (weights, optimiser slots and targets once each way, the batch once) at the
rate of one large copy; both are measured in the same run. Sizes that would not fit into the minutes are left out and
named. On a CPU, four ways to compute a population are compared: all cores as one device or each as one, and on a device
its members together (`vmap`) or one after another (`lax.map`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.perf.workload import ACTIONS, OBS, WAYS, Workload, in_a_process
from sparserl_jax.accounting.flops import forward, td3_update
from sparserl_jax.agents.registry import algorithm
from sparserl_jax.networks import Actor, TwinCritic, actor_layers, critic_layers
from sparserl_jax.training import memory

SIZES = {"cpu": (1, 8), "accelerator": (1, 8, 32, 64, 128)}
NETWORKS = ((64, 128), (128, 256), (256, 128), (256, 256))
"""Hidden width and batch size in the section `ways`."""
INTERVAL = 1000
"""Ticks between topology events."""
MINUTES = 8.0


def update_flops() -> float:
    """Matrix-product FLOPs of one TD3 step per member at HalfCheetah size, `mac2` (2.5 A + 9 C per sample)."""
    config = algorithm("td3").config()
    actor = forward(actor_layers(Actor(config.hidden, ACTIONS), OBS))
    twin = forward(critic_layers(TwinCritic(config.hidden), OBS, ACTIONS))
    return float(td3_update(actor, twin // 2, batch=config.batch_size, delay=config.policy_delay))


def update_bytes() -> float:
    """Least bytes one TD3 step moves per member: float32 weights and two Adam slots read and written at every optimiser
    step, targets read and written and weights read at every Polyak step, the batch read once."""
    config = algorithm("td3").config()
    actor = actor_layers(Actor(config.hidden, ACTIONS), OBS).weights
    critic = critic_layers(TwinCritic(config.hidden), OBS, ACTIONS).weights
    row = 2 * OBS + ACTIONS + 3
    optimiser, polyak = 6, 3
    delayed = (polyak * critic + (optimiser + polyak) * actor) / config.policy_delay
    return 4.0 * (optimiser * critic + delayed + config.batch_size * row)


def timed(call: Callable[[], Any], repeats: int, seconds: float) -> np.ndarray:
    """Seconds of calls after one to warm up: `repeats` of them, or fewer when `seconds` are over."""
    call()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < repeats and (not found or time.perf_counter() < end):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return np.asarray(found)


def product_rate(side: int, precision: str, repeats: int = 5) -> np.ndarray:
    """FLOP/s of one square matrix product of random float32."""
    with jax.default_matmul_precision(precision):
        left, right = (jax.random.normal(jax.random.key(i), (side, side)) for i in range(2))
        product = jax.jit(lambda a, b: a @ b).lower(left, right).compile()
    return 2.0 * side**3 / timed(lambda: product(left, right).block_until_ready(), repeats, 10.0)


def copy_rate(count: int, repeats: int = 5) -> np.ndarray:
    """Bytes/s, read and written, of one pass over `count` float32."""
    array = jax.random.normal(jax.random.key(0), (count,))
    shifted = jax.jit(lambda x: x + 1.0).lower(array).compile()
    return 8.0 * count / timed(lambda: shifted(array).block_until_ready(), repeats, 10.0)


def measure(
    row: Callable[..., dict[str, Any]], repeats: int, minutes: float, sizes: tuple[int, ...] | None = None
) -> list[dict[str, Any]]:
    """Rows of the table, size after size; what does not fit into the minutes is left out and named."""
    end = time.perf_counter() + 60 * minutes
    cpu = jax.default_backend() == "cpu"
    sizes = SIZES["cpu" if cpu else "accelerator"] if sizes is None else sizes
    copied = copy_rate(2**26 if cpu else 2**29)
    rows = [row("one pass over a large array: the ceiling of copies", copied / 1e9, "GB/s", "")]
    for precision in ("highest",) if cpu else ("highest", "tensorfloat32"):
        product = product_rate(1024 if cpu else 8192, precision)
        rows.append(row(f"one large matrix product, {precision}: the ceiling", product / 1e12, "TFLOP/s", ""))
        floor = max(update_flops() / np.median(product), update_bytes() / np.median(copied))
        cost = 0.0
        for members in sizes:
            # The next size takes about as long to compile and, at worst, as many times longer to run as it is larger.
            if time.perf_counter() + 4 * cost > end:
                print(f"left out for want of time: {members} members, {precision}", flush=True)
                continue
            began = time.perf_counter()
            rows += _size(row, members, precision, floor, repeats, (end - began) / 4)
            cost = time.perf_counter() - began
    return rows


def _size(
    row: Callable[..., dict[str, Any]],
    members: int,
    precision: str,
    floor: float,
    repeats: int,
    seconds: float,
) -> list[dict[str, Any]]:
    began = time.perf_counter()
    crowd = Workload(members, "rigl", interval=INTERVAL, precision=precision)
    # The ceilings are one accelerator's; on a CPU they are the whole processor's.
    floor /= 1 if crowd.layout.on_cpu else len(crowd.layout.devices)
    ready = time.perf_counter() - began
    per_step = timed(crowd, repeats, min(seconds, 60.0)) / crowd.training.dispatch_steps
    held = memory.compiled_bytes(crowd.train) or 0
    text = f"{members} member{'s' * (members > 1)}, {precision}: "
    return [
        row(text + "aggregate member updates", members / per_step, "per s", ""),
        row(text + "time per step", per_step * 1e3, "ms", ""),
        row(text + "share of the roofline", floor * members / per_step, "of 1", ""),
        row(text + "peak memory, XLA's account", np.asarray([held / 2**20]), "MiB", ""),
        row(text + "set up and compiled", np.asarray([ready]), "s", ""),
    ]


def ways(row: Callable[..., dict[str, Any]], repeats: int, members: int) -> list[dict[str, Any]]:
    """The same populations computed in four ways, each in a process of its own, in turns; CPUs only."""
    if jax.default_backend() != "cpu":
        return []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cases = list(itertools.product(NETWORKS, (1, cores), WAYS))
    found: dict[Any, list[float]] = {case: [] for case in cases}
    for _ in range(2):
        for case in cases:
            (hidden, batch), devices, way = case
            given = [way, *(str(number) for number in (members, hidden, batch, repeats))]
            command = [sys.executable, "-m", "benchmarks.perf.population", *given]
            found[case] += in_a_process(command, JAX_NUM_CPU_DEVICES=str(devices))
    return [
        row(
            f"{members} members, 2x{hidden}, batch {batch}, {cores} cores as {devices} device{'s' * (devices > 1)}, "
            f"{way.replace('_', ' ')}: aggregate member updates",
            np.asarray(rates),
            "per s",
            "",
        )
        for ((hidden, batch), devices, way), rates in found.items()
    ]


def main() -> None:
    """One way of computing a population, in a process of its own: member updates per second of every call, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf.population")
    parser.add_argument("way", choices=WAYS)
    for name in ("members", "hidden", "batch", "repeats"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    sizes = {"hidden": options.hidden, "batch_size": options.batch}
    crowd = Workload(options.members, "rigl", interval=INTERVAL, dispatch=200, way=options.way, **sizes)
    per_step = timed(crowd, options.repeats, 60.0) / crowd.training.dispatch_steps
    print(json.dumps((options.members / per_step).tolist()))


if __name__ == "__main__":
    main()
