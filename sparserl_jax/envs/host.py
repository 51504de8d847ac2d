"""Environments that run on the host, one instance per member, in NumPy: their protocol, one safe step, entry check.

They cannot be traced, so training steps them in a plain loop between jitted calls (`training/host.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from ..errors import UserError
from .protocol import EnvSpec, in_box


@runtime_checkable
class HostEnvironment(Protocol):
    """One running environment with hidden state.

    After `reset(seed)` everything it does should be a function of the seed and the actions: `repeatable` says whether
    the entry check found it so. A time limit of its own is reported as truncated; that of `spec` is applied anyway.
    """

    spec: EnvSpec
    repeatable: bool

    def fresh(self) -> HostEnvironment:
        """Another instance, which shares nothing with this one."""
        ...

    def reset(self, seed: int) -> np.ndarray:
        """A new episode; its first observation f32[O]."""
        ...

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """(obs f32[O] before any reset, reward, terminated, truncated) for an action in its own units: f32[A], or
        i32[] where it is a choice."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class HostStep(NamedTuple):
    """What one step came to. obs f32[O]; `truncated` never together with `terminated`; `invalid`: physics gave NaN."""

    obs: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    invalid: bool


LARGEST = float(np.finfo(np.float32).max)


class Broken(Exception):
    """An environment raised an exception or returned something of another form than it promised; says which."""


def instances(env: HostEnvironment, count: int) -> list[HostEnvironment]:
    """`count` fresh instances of an environment; UserError if it cannot be made again."""
    try:
        return [env.fresh() for _ in range(count)]
    except Exception as error:
        raise UserError(
            f"environment '{env.spec.name}': a further instance could not be made ({_said(error)}); mend what makes it."
        ) from error


def env_units(spec: EnvSpec, action: np.ndarray) -> np.ndarray:
    """Agent actions f32[..., A] in [-1, 1] (clipped to it) in the environment's own units; of a choice, its number
    i32[...]. NaN, the action of a member that has diverged, becomes 0: an environment that refuses it would end the
    training of all."""
    if spec.num_actions is not None:
        return np.argmax(action, axis=-1).astype(np.int32)
    action = np.where(np.isnan(action), np.float32(0.0), action)
    return np.asarray(
        in_box(spec.action_low, spec.action_high, np.clip(action, np.float32(-1.0), np.float32(1.0)))
    )


def begin(env: HostEnvironment, seed: int) -> np.ndarray:
    """`env.reset(seed)` as f32[O]; raises Broken if that fails, has another shape or is not finite."""
    try:
        obs = np.asarray(env.reset(seed), np.float32)
    except Exception as error:
        raise Broken(f"reset(seed={seed}) raised {_said(error)}") from error
    _check_shape(env, "reset", obs)
    if not np.all(np.isfinite(obs)):
        raise Broken(f"reset(seed={seed}) returned an observation that is not finite")
    return obs


def proceed(env: HostEnvironment, obs: np.ndarray, action: np.ndarray, number: int) -> HostStep:
    """One step from `obs` f32[O] with `action` in the environment's own units.

    An observation or reward that is not finite in float32, in which memories hold it, ends the episode as terminated,
    with reward 0 and `obs`, the last finite observation, and is marked. `number`: of the step in its episode, from 1;
    the one at the time limit of `spec` is truncated. Raises Broken if the step fails or its results have another shape.
    """
    try:
        after, reward, terminated, truncated = env.step(action)
        after, reward = np.asarray(after, np.float32), float(reward)
        terminated, truncated = bool(terminated), bool(truncated)
    except Exception as error:
        raise Broken(f"step raised {_said(error)}") from error
    _check_shape(env, "step", after)
    if not (abs(reward) <= LARGEST and np.isfinite(after).all()):
        return HostStep(obs, 0.0, True, False, True)
    late = number >= env.spec.max_episode_steps
    return HostStep(after, reward, terminated, (truncated or late) and not terminated, False)


@contextlib.contextmanager
def told(env: HostEnvironment) -> Iterator[None]:
    """Tell of an environment that breaks in a sentence: raises `UserError` for `Broken`."""
    try:
        yield
    except Broken as broken:
        raise UserError(f"environment '{env.spec.name}' broke: {broken}; mend it.") from None


def play_random(env: HostEnvironment, rng: np.random.Generator, seeds: Sequence[int]) -> np.ndarray:
    """Undiscounted returns f64[episodes] of uniform random actions, one episode from each seed; raises Broken."""
    returns = np.zeros(len(seeds))
    for episode, seed in enumerate(seeds):
        obs, done, number = begin(env, seed), False, 0
        while not done:
            # Of a choice, the largest entry is taken.
            action = rng.uniform(-1.0, 1.0, env.spec.action_dim).astype(np.float32)
            number += 1
            step = proceed(env, obs, env_units(env.spec, action), number)
            obs, done = step.obs, step.terminated or step.truncated
            returns[episode] += step.reward
    return returns


def _check_shape(env: HostEnvironment, name: str, obs: np.ndarray) -> None:
    if obs.shape != (env.spec.obs_dim,):
        raise Broken(f"{name} returned an observation of shape {obs.shape} instead of ({env.spec.obs_dim},)")


def _said(error: Exception) -> str:
    """Type and first line of an exception."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def check(env: HostEnvironment, steps: int = 16) -> HostEnvironment:
    """`env` once it has passed: shapes, finite first observations, and `steps` random steps.

    `env.repeatable` is set: whether the same seed and the same actions give the same bits, from two fresh instances
    and from one that has been used before (which is what resuming and a new episode need). steps=0 only resets.
    Raises UserError with one sentence on the first thing that is wrong.
    """
    first, used = instances(env, 2)
    try:
        trace = _trace(first, steps)
        _trace(used, steps // 2)
        env.repeatable = trace == _trace(used, steps) == _trace(first, steps)
    except Broken as broken:
        raise UserError(f"environment '{env.spec.name}': {broken}; mend it or choose another.") from broken
    finally:
        first.close()
        used.close()
    return env


def _trace(env: HostEnvironment, steps: int) -> list[Any]:
    """Everything `steps` random steps say, in bits."""
    rng = np.random.default_rng(0)
    obs, seed, number = begin(env, 0), 0, 0
    seen: list[Any] = [obs.tobytes()]
    for _ in range(steps):
        action = rng.uniform(-1.0, 1.0, env.spec.action_dim).astype(np.float32)
        number += 1
        step = proceed(env, obs, env_units(env.spec, action), number)
        obs = step.obs
        seen.append((obs.tobytes(), np.float64(step.reward).tobytes(), *step[2:]))
        if step.terminated or step.truncated:
            seed, number = seed + 1, 0
            obs = begin(env, seed)
            seen.append(obs.tobytes())
    return seen
