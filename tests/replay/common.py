"""Made-up experience for the replay tests: exact (dyadic) numbers, so that results can be compared with ==."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sparserl_jax.replay.capacity import Capacity
from tests.reference.episodes import Moment


class Transition(NamedTuple):
    """Same attributes as the transitions of the rollout; leading axis: steps."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_obs: np.ndarray
    next_obs: np.ndarray


def experience(
    seed: int,
    steps: int,
    num_envs: int,
    obs_dim: int = 2,
    action_dim: int = 1,
    terminate: float = 0.1,
    truncate: float = 0.1,
    time_limit: int = 1000,
) -> tuple[np.ndarray, Transition, np.ndarray]:
    """First observations [E,O], transitions [steps,E,...] and noise-free actions [steps,E,A].

    No two observations are equal. Both ends together count as terminated.
    """
    rng = np.random.default_rng(seed)
    count = num_envs * (2 * steps + 1)
    fresh = iter(
        rng.permutation(count * obs_dim).reshape(count, obs_dim).astype(np.float32) - count * obs_dim // 2
    )

    def new() -> np.ndarray:
        return np.stack([next(fresh) for _ in range(num_envs)])

    first = obs = new()
    lengths = np.zeros(num_envs, int)
    rows = []
    for _ in range(steps):
        lengths += 1
        terminated = rng.random(num_envs) < terminate
        truncated = ((rng.random(num_envs) < truncate) | (lengths >= time_limit)) & ~terminated
        done = terminated | truncated
        final_obs = new()
        next_obs = np.where(done[:, None], new() if done.any() else final_obs, final_obs)
        action = rng.integers(-2, 3, (num_envs, action_dim)) / np.float32(2)
        reward = rng.integers(-8, 9, num_envs) / np.float32(4)
        rows.append(Transition(obs, action, reward, terminated, truncated, final_obs, next_obs))
        lengths[done] = 0
        obs = next_obs
    mean = rng.integers(-2, 3, (steps, num_envs, action_dim)) / np.float32(2)
    stacked = Transition(*(np.stack(column) for column in zip(*rows, strict=True)))
    return first, stacked._replace(action=stacked.action.astype(np.float32)), mean.astype(np.float32)


def moments(data: Transition, mean: np.ndarray, step: int) -> list[Moment]:
    """One step as the list-of-episodes memory wants it."""
    return [
        Moment(
            obs=data.obs[step, env],
            action=data.action[step, env],
            mean=mean[step, env],
            reward=float(data.reward[step, env]),
            terminated=bool(data.terminated[step, env]),
            truncated=bool(data.truncated[step, env]),
            final_obs=data.final_obs[step, env],
        )
        for env in range(data.obs.shape[1])
    ]


def keeping(
    most: int,
    least: int = 0,
    threshold: float = 0.2,
    dynamic: bool = False,
    paper: bool = False,
    num_envs: int = 1,
) -> Capacity:
    """A capacity rule from numbers of transitions of all environments together."""
    return Capacity(
        max_rows=jnp.int32(most // num_envs),
        min_rows=jnp.int32(least // num_envs),
        threshold=jnp.float32(threshold),
        dynamic=jnp.bool_(dynamic),
        paper=jnp.bool_(paper),
    )
