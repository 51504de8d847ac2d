"""One tiny real training, for tests that read what it leaves: three seeds of a static mask on Pendulum, 400 steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import run as runs
from sparserl_jax.bench import single
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
