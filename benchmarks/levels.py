"""Measure the return of uniform random actions in a suite's environments: `python -m benchmarks.levels quick`.

Suites freeze these as `random`, the lower end of z scores.
"""

from __future__ import annotations

import sys

import jax
import numpy as np

from sparserl_jax.bench import paths, suites
from sparserl_jax.envs import Environment, HostEnvironment, evaluate_random, make
from sparserl_jax.envs.host import begin, env_units, proceed

EPISODES = 1000


def on_host(env: HostEnvironment, episodes: int, seed: int = 0) -> np.ndarray:
    """Undiscounted returns f64[episodes] of uniform random actions; episode `i` is reset with seed `i`."""
    rng, returns = np.random.default_rng(seed), np.zeros(episodes)
    for episode in range(episodes):
        obs, done = begin(env, episode), False
        while not done:
            action = rng.uniform(-1.0, 1.0, env.spec.action_dim).astype(
                np.float32
            )  # its largest entry is a choice
            step = proceed(env, obs, env_units(env.spec, action))
            obs, done = step.obs, step.terminated or step.truncated
            returns[episode] += step.reward
    return returns


def measured(env: Environment | HostEnvironment, episodes: int = EPISODES) -> np.ndarray:
    """Returns [episodes] of uniform random actions in an environment."""
    if isinstance(env, HostEnvironment):
        return on_host(env, episodes)
    return np.asarray(jax.jit(lambda key: evaluate_random(env, key, episodes))(jax.random.key(0)))


def main() -> None:
    """Print mean and standard error for every environment of the suite named on the command line."""
    suite = suites.read(paths.suite_path(sys.argv[1] if len(sys.argv) > 1 else "quick"))
    for task in suite.tasks:
        env = make(task.name)
        returns = measured(env)
        error = returns.std(ddof=1) / np.sqrt(EPISODES)
        print(f"{env.spec.name}: random {returns.mean():.1f} +- {error:.1f} ({EPISODES} episodes, key 0)")


if __name__ == "__main__":
    main()
