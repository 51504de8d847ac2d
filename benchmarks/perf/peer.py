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

from sparserl_jax.accelerator import device_per_core, keep_freed_memory

ENV = "HalfCheetah-v5"
WARM_UP, STEPS = 1000, 500
"""Random steps, and timed ones of each stretch; one stretch before the first timed one sets everything up."""
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
    from sparserl_jax.training import Evaluation, Program, Run, Schedule, Silent, Training, recipe
    from sparserl_jax.training.host import HostExecution

    training = Training(
        env=f"gymnasium:{ENV}",
        agent=algorithm(kind.lower()).config(hidden=(256, 256), batch_size=256, learning_rate=3e-4),
        steps=1_000_000,
        warm_up=WARM_UP,
        schedule=Schedule(topology_interval=1000, delay=0, buffer_max=1_000_000, buffer_check=1000),
        evaluation=Evaluation(1_000_000, 1, 1),
        dispatch=1000,
    )
    running = HostExecution(Program((Run(training, recipe("rigl"), 0.9, 0, "rigl"),)), None, Silent(), 300.0)
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
    found: dict[tuple[str, str], list[float]] = {}
    for kind in 2 * ("TD3", "SAC"):
        sides = {
            "ours": [sys.executable, "-m", "benchmarks.perf.peer", kind, str(repeats)],
            "SBX": [python, "-c", THEIRS, kind, ENV, *(str(n) for n in (WARM_UP, STEPS, repeats))],
        }
        for side, command in sides.items():
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"left out: {side}, {kind}: {done.stderr.strip().splitlines()[-1]}")
                continue
            found.setdefault((kind, side), []).extend(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for kind in ("TD3", "SAC"):
        own, other = (np.asarray(found.get((kind, side), [np.nan])) for side in ("ours", "SBX"))
        text = f"{kind} on {ENV}, 2x256, batch 256, whole step: "
        rows += [
            row(text + "ours (rigl, masks and events)", own * 1e3, "ms", ""),
            row(text + "SBX (dense)", other * 1e3, "ms", ""),
            row(text + "ours / SBX", np.median(own) / np.median(other), "ratio", "at most 0.7"),
        ]
    return rows


def main() -> None:
    """Our side, in a process of its own: seconds per step as JSON."""
    device_per_core()
    keep_freed_memory()
    print(json.dumps(ours(sys.argv[1], int(sys.argv[2]))))


if __name__ == "__main__":
    main()
