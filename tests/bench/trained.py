"""Tiny real trainings, for tests that read what they leave: three seeds of a static mask on Pendulum, 400 steps, or a
suite of such arms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import run as runs
from sparserl_jax.bench import single, suites
from tests.bench import fake

SETTINGS: dict[str, Any] = {
    "recipe": "static",
    "sparsity": 0.7,
    "seeds": 3,
    "steps": 400,
    "warm_up": 40,
    "hidden": (8, 8),
    "batch_size": 16,
    "episodes": 2,
    "final_episodes": 4,
}


def train(folder: Path, env: str = "gymnax:Pendulum-v1", **changes: Any) -> Path:
    """Train into `folder`; returns the folder of the environment's records."""
    plan = plans.make(single.suite_of(env, **{**SETTINGS, **changes}))
    runs.run(plan, folder, fake.quiet())
    return (folder / "records" / plan.runs[0].folder).parent


def train_suite(folder: Path, arms: list[dict[str, Any]], **changes: Any) -> Path:
    """Train a suite of arms on Pendulum into `folder`, and return it."""
    table: dict[str, Any] = {
        "name": "small",
        "steps": 400,
        "warm_up": 40,
        "seeds": 2,
        "sparsities": [0.5],
        "agent": {"hidden": [8, 8], "batch_size": 16},
        "schedule": {
            "topology_interval": 20,
            "delay": 40,
            "buffer_max": 400,
            "buffer_min": 40,
            "buffer_check": 20,
        },
        "evaluation": {"interval": 20, "episodes": 2, "final_episodes": 4},
        "environments": [
            {"name": "gymnax:Pendulum-v1", "random": -1221.7, "learned": -200.0, "reference": -150.0}
        ],
        "arms": arms,
    }
    plan = plans.make(suites.parse({**table, **changes}, "small.toml"))
    runs.run(plan, folder, fake.quiet())
    return folder
