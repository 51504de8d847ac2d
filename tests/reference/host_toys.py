"""Small environments on the host, and a training on them.

`Pull` exists twice, for the host and compiled: its products are exact, so both give the same bits. Those made with
gymnasium are registered when this module is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.envs import EnvSpec, Step
from sparserl_jax.training import (
    Evaluation,
    Program,
    Run,
    Schedule,
    Stopped,
    TD3Config,
    Training,
    execute,
    group,
    host_evaluation,
    recipe,
)
from sparserl_jax.training.program import ONCE

SPEC = EnvSpec("toys:pull", 2, 1, (-1.0,), (1.0,), 9)
WALL = 0.75


class Pull:
    """x' = x / 2 + v / 2 + a / 2 with v' = x; terminated beyond `WALL`, reward 1 - |x'|, limit of 9 steps; compiled."""

    spec = SPEC

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.array([0.25, 0.0]), jnp.array([0.25, 0.0])

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, Step]:
        x = 0.5 * state[0] + (0.5 * state[1] + 0.5 * action[0])
        state = jnp.stack([x, state[0]])
        return state, Step(state, 1.0 - jnp.abs(x), jnp.abs(x) > WALL, jnp.bool_(False))


class HostPull:
    """The same on the host."""

    spec = SPEC

    def __init__(self) -> None:
        self.repeatable, self.state, self.steps = True, np.zeros(2, np.float32), 0

    def fresh(self) -> HostPull:
        return type(self)()

    def reset(self, seed: int) -> np.ndarray:
        self.state, self.steps = np.array([0.25, 0.0], np.float32), 0
        return self.state

    def step(self, action: np.ndarray) -> tuple[Any, Any, Any, Any]:
        half = np.float32(0.5)
        x = half * self.state[0] + (half * self.state[1] + half * action[0])
        self.state, self.steps = np.array([x, self.state[0]], np.float32), self.steps + 1
        return self.state, np.float32(1.0) - abs(x), abs(x) > WALL, self.steps >= SPEC.max_episode_steps

    def close(self) -> None:
        pass


class Seeded(HostPull):
    """Each episode begins where its seed says."""

    def reset(self, seed: int) -> np.ndarray:
        super().reset(seed)
        self.state[0] = np.random.default_rng(seed).uniform(-0.5, 0.5)
        return self.state


class Wobbly(gymnasium.Env):
    """A gymnasium environment that draws random numbers of its own, whatever its seed."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.rng = np.random.default_rng()
        self.x = self.np_random.uniform(-0.5, 0.5)
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.x = 0.9 * self.x + 0.1 * float(action[0]) + 0.01 * self.rng.normal()
        return self.observe(), 1.0 - abs(self.x), False, False, {}

    def observe(self) -> np.ndarray:
        return np.array([self.x, self.x**2])


class Firm(Wobbly):
    """The same without a will of its own."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.rng = np.random.default_rng(0)
        return super().step(action)


gymnasium.register("Wobbly-v0", Wobbly, max_episode_steps=40)
gymnasium.register("Firm-v0", Firm, max_episode_steps=40)
gymnasium.register("Endless-v0", Firm)

ARMS = ("dense_rvl", "rlx2")


def training(env: Any, **changes: Any) -> Training:
    """Two members' settings: an event every 20 ticks, a shrinking buffer, longer targets half way."""
    schedule = Schedule(
        topology_interval=20, delay=60, buffer_max=200, buffer_min=40, buffer_check=40, buffer_threshold=0.02
    )
    of = Training(
        env=env if isinstance(env, str) else "tests.reference.host_toys:Toy",
        env_object=None if isinstance(env, str) else env,
        agent=TD3Config(hidden=(8, 8), batch_size=8, learning_rate=3e-3, gamma=0.9, tau=0.02),
        steps=240,
        warm_up=40,
        dispatch=20,
        schedule=schedule,
        evaluation=Evaluation(80, 2, 4),
    )
    return dataclasses.replace(of, **changes)


def program(env: Any, arms: Sequence[str] = ARMS, **changes: Any) -> Program:
    """The Program of one run of each arm."""
    of = training(env, **changes)
    (only,) = group(
        [Run(of, recipe(name), 0.0 if name.startswith("dense") else 0.6, 0, name) for name in arms]
    )
    return only


def interrupted_in_evaluation(program: Program, folder: Path) -> int:
    """Execute until Ctrl-C in the first evaluation; the step at which it stopped."""

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_evaluation, "play_ahead", interrupted)
        with pytest.raises(Stopped) as stopped:
            execute(program, folder)
    return stopped.value.step


_built: dict[tuple[str, bool], dict[str, Any]] = {}


def compile_quickly(program: Program, *_: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """What `program.compile()` gives, less optimised, and once only: all objects here have the same shapes."""
    key = (program.name, program.host)
    if key not in _built:
        lowered = program.lower()
        _built[key] = {name: stage.compile(compiler_options=ONCE) for name, stage in lowered.items()}
    return _built[key], {}
