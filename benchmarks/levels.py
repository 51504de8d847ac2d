"""Measure the return of uniform random actions in a suite's environments: `python -m benchmarks.levels quick`.

Suites freeze these as `random`, the lower end of z scores.
"""

from __future__ import annotations

import sys

import jax
import numpy as np

from sparserl_jax.bench import paths, suites
from sparserl_jax.envs import evaluate_random, make

EPISODES = 1000


def main() -> None:
    """Print mean and standard error for every environment of the suite named on the command line."""
    suite = suites.read(paths.suite_path(sys.argv[1] if len(sys.argv) > 1 else "quick"))
    for task in suite.tasks:
        env = make(task.name)
        returns = np.asarray(
            jax.jit(lambda key, env=env: evaluate_random(env, key, EPISODES))(jax.random.key(0))
        )
        error = returns.std(ddof=1) / np.sqrt(EPISODES)
        print(f"{env.spec.name}: random {returns.mean():.1f} +- {error:.1f} ({EPISODES} episodes, key 0)")


if __name__ == "__main__":
    main()
