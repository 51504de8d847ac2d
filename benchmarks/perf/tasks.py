"""A whole task: how long 16 dense runs of a published suite's agent take to train, and what they come to.

Whoever makes a training loop fast by making it wrong is found out here: beside the seconds stand the returns. Seeds are
of no suite. On CPUs every task is a process of its own, set up as the commands set theirs up (every core a device).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from sparserl_jax.bench import plan, records, run, statistics, suites

SUITES = Path(__file__).parents[1] / "suites"
SEEDS, SEEDS_FROM = 16, 16000
TASKS = {"quick_dqn": (120.0, 450.0), "ppo_classic": (15.0, 475.0)}
"""Suites, with the seconds of training on two CPU cores and the level of CartPole that are wanted."""
ENV = "gymnax:CartPole-v1"
AS_A_COMMAND = """
import pathlib, sys
from sparserl_jax.accelerator import device_per_core, keep_freed_memory
device_per_core()  # before jax is imported
keep_freed_memory()
from benchmarks.perf import tasks
tasks.train(sys.argv[1], pathlib.Path(sys.argv[2]))
"""


def _dense(name: str) -> suites.Suite:
    """The suite with its dense arm alone, on CartPole."""
    table = tomllib.loads((SUITES / f"{name}.toml").read_text())
    table |= {"name": f"perf_{name}", "seeds": SEEDS, "seeds_from": SEEDS_FROM}
    table["environments"] = [one for one in table["environments"] if one["name"] == ENV]
    table["arms"] = [arm for arm in table["arms"] if arm == {"recipe": "dense"}]
    return suites.parse(table, f"{name}.toml")


def measure(row: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of every task: seconds of training, interquartile mean and worst of the seeds' scores."""
    rows = []
    for name, (seconds, level) in TASKS.items():
        suite = _dense(name)
        with tempfile.TemporaryDirectory() as folder:
            if jax.default_backend() == "cpu":
                subprocess.run([sys.executable, "-c", AS_A_COMMAND, name, folder], check=True)
            else:  # some accelerators serve one process at a time
                train(name, Path(folder))
            _, found = records.load_all(Path(folder) / "run")
        scores = np.array([record["result"]["score"] for record in found])
        text = f"{suite.title}, CartPole, {SEEDS} dense seeds: "
        rows += [
            row(
                text + "training",
                found[0]["measured"]["train_seconds"],
                "s",
                f"at most {seconds:g} on 2 cores",
            ),
            row(text + "return, IQM", statistics.iqm(scores[:, None]), "", f"above {level:g}"),
            row(text + "return, worst seed", scores.min(), "", ""),
        ]
    return rows


def train(name: str, folder: Path) -> None:
    """Train the dense arm into a folder."""
    run.run(plan.make(_dense(name)), folder / "run", Console(quiet=True))
