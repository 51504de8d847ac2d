"""A training small enough for tests that has everything a big one has, and a process that executes it.

    python -m tests.reference.small FOLDER RESULT.npz    # a line per dispatch; checkpoints after each of them

    python -m tests.reference.small --count FOLDER       # what XLA compiled while a Program was run, as JSON

The first is for tests that kill it and start it again; the second stops a Program, resumes it and ends it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.envs import EnvSpec, Step
from sparserl_jax.training import (
    Evaluation,
    Outcome,
    Program,
    Run,
    Schedule,
    Silent,
    TD3Config,
    Training,
    execute,
    group,
    recipe,
    runner,
)


class Place(NamedTuple):
    """State of Drift: position f32[] and a typed key, which a checkpoint must keep like any other array."""

    position: jax.Array
    key: jax.Array


class Drift:
    """A point pushed by the action and by noise of its own. Terminated beyond |1|, truncated by chance (1 in 12) and
    by a time limit of 9 steps; reward 1 - position^2 - 0.1 action^2. Observation: position and its square."""

    spec = EnvSpec("small:drift", 2, 1, (-2.0,), (2.0,), 9)

    def reset(self, key: jax.Array) -> tuple[Place, jax.Array]:
        start_key, key = jax.random.split(key)
        place = Place(jax.random.uniform(start_key, (), minval=-0.5, maxval=0.5), key)
        return place, self.observe(place)

    def step(self, key: jax.Array, state: Place, action: jax.Array) -> tuple[Place, Step]:
        noise_key, own = jax.random.split(state.key)
        noise = 0.1 * jax.random.normal(noise_key)
        place = Place(state.position + 0.2 * action[0] + noise, own)
        reward = 1.0 - place.position**2 - 0.1 * action[0] ** 2
        cut = jax.random.bernoulli(key, 1 / 12)
        return place, Step(self.observe(place), reward, jnp.abs(place.position) > 1.0, cut)

    @staticmethod
    def observe(place: Place) -> jax.Array:
        return jnp.stack([place.position, place.position**2])


ARMS = ("dense_rvl", "tiny_rvl", "rlx2", "rlx2_paper")
"""Recipes of one family and one n: they share a Program."""


def training(**changes: Any) -> Training:
    """Three environments, an event every 20 ticks, a buffer that shrinks, multi-step targets half way."""
    schedule = Schedule(
        topology_interval=20, delay=100, buffer_max=480, buffer_min=60, buffer_check=60, buffer_threshold=0.02
    )
    return dataclasses.replace(
        Training(
            env="tests.reference.small:Drift",
            agent=TD3Config(
                hidden=(16, 16), batch_size=16, learning_rate=3e-3, policy_delay=3, gamma=0.9, tau=0.02
            ),
            steps=480,
            warm_up=60,
            num_envs=3,
            dispatch=30,
            schedule=schedule,
            evaluation=Evaluation(120, 4, 8),
        ),
        **changes,
    )


def runs(of: Training | None = None) -> list[Run]:
    """One run of each arm."""
    of = training() if of is None else of
    return [Run(of, recipe(name), 0.0 if name == "dense_rvl" else 0.6, 0, name) for name in ARMS]


def program(of: Training | None = None) -> Program:
    """The Program of `runs`."""
    (only,) = group(runs(of))
    return only


RESULT = ("curve", "final_returns", "masks", "params", "nnz", "events", "episodes", "invalid_steps", "status")
"""What a Run ends in; the rest of an Outcome is measured or comes from its configuration."""


def result(outcome: Outcome) -> dict[str, np.ndarray]:
    """All of it as arrays by name."""
    tree = {name: getattr(outcome, name) for name in RESULT}
    named = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in named}


def assert_same(first: Outcome, second: Outcome) -> None:
    """Equal in every bit."""
    ours, theirs = result(first), result(second)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype, name
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


class Watch(Silent):
    """Progress that remembers; `at` is called with the environment step after each dispatch."""

    def __init__(self, at: Any = lambda step: None) -> None:
        self.at = at
        self.steps: list[int] = []
        self.scores: list[int] = []
        self.stages: list[str] = []
        self.warnings: list[str] = []

    def stage(self, program: str, text: str) -> None:
        self.stages.append(text)

    def advance(self, program: str, step: int, steps: int) -> None:
        self.steps.append(step)
        self.at(step)

    def score(self, program: str, step: int, returns: list[float]) -> None:
        self.scores.append(step)

    def warn(self, program: str, text: str) -> None:
        self.warnings.append(text)


def interrupt_at(moment: int) -> Watch:
    """Progress that stands for Ctrl-C after environment step `moment`."""

    def at(step: int) -> None:
        if step == moment:
            raise KeyboardInterrupt

    return Watch(at)


class _Told(Watch):
    """Progress on standard output, a line each."""

    def stage(self, program: str, text: str) -> None:
        print("stage", text, flush=True)

    def advance(self, program: str, step: int, steps: int) -> None:
        print("step", step, flush=True)

    def warn(self, program: str, text: str) -> None:
        print("warn", text, flush=True)


def _to_the_end(folder: Path, file: Path) -> None:
    long = dataclasses.replace(training(), steps=1200, evaluation=Evaluation(240, 4, 8))
    outcomes = execute(program(long), folder, progress=_Told(), checkpoint_seconds=0.0)
    found = {
        f"{outcome.run.id}{name}": array for outcome in outcomes for name, array in result(outcome).items()
    }
    np.savez(file, **found)


def _count(folder: Path) -> None:
    compiled: list[str] = []

    def seen(event: str, seconds: float, **facts: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(str(facts.get("fun_name", event)))

    jax.monitoring.register_event_duration_secs_listener(seen)
    executed = program()
    try:
        execute(executed, folder, progress=interrupt_at(240), checkpoint_seconds=0.0)
    except runner.Stopped as stop:
        reached = stop.step
    before = len(compiled)
    watch = Watch()
    outcomes = execute(executed, folder, progress=watch, checkpoint_seconds=0.0)
    report = {
        "planned": executed.compilations,
        "compiled": compiled,
        "before_resume": before,
        "stopped_at": reached,
        "resumed": any("resuming" in stage for stage in watch.stages),
        "dispatches": reached // executed.training.dispatch_steps + len(watch.steps),
        "evaluations": len(outcomes[0].curve["env_step"]),
        "events": max(outcome.events["critic"] for outcome in outcomes),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    runner.CHECKPOINT_SHARE = float(
        "inf"
    )  # however long a checkpoint takes here, write one after every dispatch
    if sys.argv[1] == "--count":
        _count(Path(sys.argv[2]))
    else:
        _to_the_end(Path(sys.argv[1]), Path(sys.argv[2]))
