"""Whole training steps beside those of SBX (Stable-Baselines3 in JAX): TD3 and SAC, one member, HalfCheetah-v5.

`python -m benchmarks.perf --sections peer --peer PYTHON`, where PYTHON belongs to an environment of its own with
`sbx-rl`, `gymnasium[mujoco]` and `imageio`: its pins of jax differ from ours. A step is an environment step with its
insertion and one update at 2x256, batch 256, after a warm-up of 1,000 random steps; both sides run alone, in turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.perf import host
from benchmarks.perf.workload import in_a_process
from sparserl_jax.accelerator import cores, keep_freed_memory

KINDS = ("TD3", "SAC")
ENV, WARM_UP = host.ENV.removeprefix("gymnasium:"), host.WARM_UP
STEPS = 500
"""Timed ones of each stretch; one stretch before the first timed one sets everything up."""
THEIRS = """
import json, sys, time, sbx
kind, env, warm_up, steps, repeats = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
model = getattr(sbx, kind)("MlpPolicy", env, policy_kwargs={"net_arch": [256, 256]}, batch_size=256,
                           learning_rate=3e-4, learning_starts=warm_up, train_freq=1, gradient_steps=1, seed=0)
model.learn(warm_up + steps)
seconds = []
for _ in range(repeats):
    began = time.perf_counter()
    model.learn(steps, reset_num_timesteps=False)
    seconds.append((time.perf_counter() - began) / steps)
print(json.dumps(seconds))
"""


def ours(kind: str, repeats: int) -> list[float]:
    """Seconds per step of every stretch."""
    import jax

    from sparserl_jax.agents.registry import algorithm
    from sparserl_jax.training import Program, Run, Silent, recipe
    from sparserl_jax.training.host import HostExecution

    agent = algorithm(kind.lower()).config(hidden=(256, 256), batch_size=256, learning_rate=3e-4)
    of = host.training(agent, buffer_max=1_000_000)
    running = HostExecution(Program((Run(of, recipe("rigl"), 0.9, 0, "rigl"),)), None, Silent(), 300.0)
    running.prepare()
    running.begin()
    seconds = []
    for count in (WARM_UP + STEPS, *[STEPS] * repeats):
        began = time.perf_counter()
        for _ in range(count):
            running.vector_step()
        jax.block_until_ready(running.population)
        seconds.append((time.perf_counter() - began) / count)
    return seconds[1:]


def measure(row: Callable[..., dict[str, Any]], repeats: int, python: str) -> list[dict[str, Any]]:
    """Milliseconds per step of both, in turns, and their ratio; ours carries the masks and events of rigl."""
    found = {(kind, side): list[float]() for kind in KINDS for side in ("ours", "SBX")}
    for kind in 2 * KINDS:
        own_command = [sys.executable, "-m", "benchmarks.perf.peer", kind, str(repeats)]
        sides: dict[str, tuple[list[str], dict[str, str]]] = {
            "ours": (own_command, {"JAX_NUM_CPU_DEVICES": str(cores())}),  # as the commands do
            "SBX": ([python, "-c", THEIRS, kind, ENV, *(str(n) for n in (WARM_UP, STEPS, repeats))], {}),
        }
        for side, (command, environment) in sides.items():
            try:
                found[kind, side].extend(in_a_process(command, **environment))
            except subprocess.CalledProcessError as failed:
                print(f"left out: {side}, {kind}: {failed.stderr.strip().splitlines()[-1]}")
    rows = []
    for kind in KINDS:
        own, other = (np.asarray(found[kind, side] or [np.nan]) for side in ("ours", "SBX"))
        text = f"{kind} on {ENV}, 2x256, batch 256, whole step: "
        rows += [
            row(text + "ours (rigl, masks and events)", own * 1e3, "ms", ""),
            row(text + "SBX (dense)", other * 1e3, "ms", ""),
            row(text + "ours / SBX", np.median(own) / np.median(other), "ratio", "at most 0.7"),
        ]
    return rows


def main() -> None:
    """Our side, in a process of its own: seconds per step as JSON."""
    keep_freed_memory()
    print(json.dumps(ours(sys.argv[1], int(sys.argv[2]))))


if __name__ == "__main__":
    main()
