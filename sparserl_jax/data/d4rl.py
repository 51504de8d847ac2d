"""D4RL's HDF5 files (Fu et al., 2020, arXiv 2004.07219): flat arrays over all steps of all episodes.

    observations [N,O]   actions [N,A]   rewards [N]   terminals [N]   timeouts [N]   next_observations [N,O] (optional)

Groups beside them (`infos`, `metadata`) are not read. `terminals` are the environment's own ends, `timeouts` those of
the time limit. What becomes of the transition at a time limit is the one choice a reader of these files has:

    keep   it is there, with the stored next observation, and is not terminal
    drop   it is left out, as D4RL's own `qlearning_dataset` does, which needs no stored next observation: that of row i
           is the observation of row i + 1, and so the file's last row is left out, too

Both leave the same episodes, one transition shorter under `drop` where the limit ended them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sparserl_jax.data import checks, hdf5
from sparserl_jax.data.dataset import OfflineDataset
from sparserl_jax.errors import UserError

KEYS = ("observations", "actions", "rewards", "terminals", "timeouts")
NEXT = "next_observations"
TIMEOUTS = ("keep", "drop")


def load(path: Path, box: checks.Box, timeouts: str = "keep") -> OfflineDataset:
    """The transitions of a file; `timeouts` is `keep` or `drop`, see above."""
    if timeouts not in TIMEOUTS:
        raise UserError(f"timeouts is '{timeouts}'; it is {' or '.join(TIMEOUTS)}.")
    with hdf5.opened(path) as file:
        found = {key: hdf5.array(file, key) for key in (*KEYS, NEXT) if key in KEYS or key in file}
        if timeouts == "keep" and NEXT not in found:
            raise UserError(
                f"{NEXT} is missing, and timeouts=keep needs it behind a time limit; use timeouts=drop, which leaves "
                "those transitions out."
            )
        checks.layout(found, box.widths)
        raw = {key: value[()] for key, value in found.items()}
    obs = checks.floats(raw["observations"], "observations")
    terminated = checks.flags(raw["terminals"], "terminals")
    timed_out = checks.flags(raw["timeouts"], "timeouts")
    if NEXT in raw:
        following = checks.floats(raw[NEXT], NEXT)
    else:
        following = obs  # read at terminal rows only, behind which nothing follows
    kept = np.ones(len(obs), bool)
    if timeouts == "drop":
        # At a terminal row D4RL has the next episode's first observation, which no target reads; not ours to hand out.
        following = np.where(terminated[:, None], following, np.roll(obs, -1, axis=0))
        kept = ~timed_out
        kept[-1] = False
        if not kept.any():
            raise UserError("timeouts=drop leaves no transitions of these; use timeouts=keep.")
    # The last row that is kept of an episode is where it was cut, unless it terminates.
    ends = terminated | timed_out
    episode = np.concatenate([[0], np.cumsum(ends)[:-1]])[kept]
    last = np.append(episode[1:] != episode[:-1], True)
    return OfflineDataset(
        obs=obs[kept],
        action=checks.scaled(raw["actions"], box, "actions")[kept],
        reward=checks.floats(raw["rewards"], "rewards").reshape(-1)[kept],
        next_obs=following[kept],
        terminated=terminated[kept],
        truncated=last & ~terminated[kept],
    )
