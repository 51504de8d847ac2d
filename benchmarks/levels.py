"""Measure the return of uniform random actions in a suite's environments: `python -m benchmarks.levels quick`.

Suites freeze these as `random`, the lower end of z scores.
"""

from __future__ import annotations

import sys

import jax
import numpy as np

from sparserl_jax.bench import paths, suites
from sparserl_jax.envs import Environment, HostEnvironment, evaluate_random, make
from sparserl_jax.envs.host import play_random, told
from sparserl_jax.errors import UserError
from sparserl_jax.training.precision import precise

EPISODES = 1000


def measured(env: Environment | HostEnvironment, episodes: int = EPISODES) -> np.ndarray:
    """Undiscounted returns [episodes] of uniform random actions; on the host, episode `i` is reset with seed `i`."""
    if isinstance(env, HostEnvironment):
        with told(env):
            return play_random(env, np.random.default_rng(0), range(episodes))
    drawn = jax.jit(precise(lambda key: evaluate_random(env, key, episodes), None))
    return np.asarray(drawn(jax.random.key(0)))


def main() -> None:
    """Print mean and standard error for every environment of the suite named on the command line."""
    suite = suites.read(paths.suite_path(sys.argv[1] if len(sys.argv) > 1 else "quick"))
    for task in suite.tasks:
        env = make(task.name)
        returns = measured(env)
        error = returns.std(ddof=1) / np.sqrt(EPISODES)
        print(f"{env.spec.name}: random {returns.mean():.1f} +- {error:.1f} ({EPISODES} episodes, key 0)")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
