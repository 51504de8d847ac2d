"""D4RL's normalised score: 0 is its random policy, 100 its expert (Fu et al., 2020, arXiv 2004.07219, section 5).

    score = 100 (return - random) / (expert - random)

The ends are those D4RL fixed for its own environments. They belong to those alone: a task of the same name in another
library or version (gymnasium's Hopper-v5, Brax's hopper, Minari's mujoco/hopper) has other physics, rewards or episode
ends, and scores of it are not comparable with D4RL's, however they are normalised. So only D4RL's names are known here.
"""

from __future__ import annotations

import numpy as np

from sparserl_jax.errors import suggest

ENDS = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
}
"""Returns of the random and of the expert policy, by environment; one pair for all its datasets."""
DATASETS = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
TASKS = {f"{environment}-{dataset}-v2": environment for environment in ENDS for dataset in DATASETS}


def ends(task: str) -> tuple[float, float]:
    """Random and expert return of a D4RL task, e.g. `hopper-medium-replay-v2`; raises UserError for any other name."""
    if task not in TASKS:
        raise suggest(task, list(TASKS), "D4RL task")
    return ENDS[TASKS[task]]


def normalised(task: str, returns: np.ndarray | float) -> np.ndarray:
    """Scores of undiscounted returns in D4RL's own environment of the task, f64 of the same shape."""
    low, high = ends(task)
    return 100 * (np.asarray(returns, np.float64) - low) / (high - low)
