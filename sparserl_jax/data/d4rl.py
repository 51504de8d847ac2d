"""D4RL's HDF5 files (Fu et al., 2020, arXiv 2004.07219): flat arrays over all steps of all episodes.

    observations [N,O]   actions [N,A]   rewards [N]   terminals [N]
    timeouts [N] and next_observations [N,O], one of which may be missing

Groups beside them (`infos`, `metadata`) are not read. `terminals` are the environment's own ends, `timeouts` those of
the time limit. What becomes of the transition at a time limit is the one choice a reader of these files has:

    keep   it is there, with the stored next observation, and is not terminal
    drop   it is left out, as D4RL's own `qlearning_dataset` does, which needs no stored next observation: that of row i
           is the observation of row i + 1, and so the file's last row is left out, too

Both leave the same episodes, one transition shorter under `drop` where the limit ended them.

A stored next observation that is not the observation of the row below (it jumps) says that an episode ended there. In
a file without `timeouts` the jumps behind rows that are not terminal are taken for them; in one with `timeouts` every
jump has to be marked.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sparserl_jax.data import checks, hdf5
from sparserl_jax.data.dataset import OfflineDataset
from sparserl_jax.errors import UserError

KEYS = ("observations", "actions", "rewards", "terminals")
LIMITS, NEXT = "timeouts", "next_observations"
TIMEOUTS = ("keep", "drop")
ROUNDING = 1e-5
"""How far two observations may lie apart, absolutely or as a share, and still be one that was stored twice."""


def load(path: Path, box: checks.Box, timeouts: str = "keep") -> OfflineDataset:
    """The transitions of a file; `timeouts` is one of `TIMEOUTS`, see above."""
    with hdf5.opened(path) as file:
        wanted = (*KEYS, *(key for key in (LIMITS, NEXT) if key in file))
        found = {key: hdf5.array(file, key) for key in wanted}
        if NEXT not in found and LIMITS not in found:
            raise UserError(
                f"{LIMITS} is missing, and so is {NEXT}, without which nothing says where the time limit ended "
                "episodes; store one of them."
            )
        if timeouts == "keep" and NEXT not in found:
            raise UserError(
                f"{NEXT} is missing, and timeouts=keep needs it behind a time limit; use timeouts=drop, which leaves "
                "those transitions out."
            )
        checks.layout(found, box.widths)
        raw = {key: value[()] for key, value in found.items()}
    obs = checks.floats(raw["observations"], "observations")
    terminated = checks.flags(raw["terminals"], "terminals")
    following = checks.floats(raw[NEXT], NEXT) if NEXT in raw else obs  # then read at terminal rows only
    jumps = _jumps(obs, following) & ~terminated if NEXT in raw else np.zeros(len(obs), bool)
    timed_out = checks.flags(raw[LIMITS], LIMITS) if LIMITS in raw else jumps
    if (unsaid := jumps & ~timed_out).any():
        raise UserError(
            f"{NEXT} of row {np.argmax(unsaid)} is not the observation of the row below (so in {unsaid.sum()} rows), "
            f"but neither terminals nor {LIMITS} say that an episode ended there; mark it in {LIMITS}, or leave "
            f"{LIMITS} out of the file."
        )
    if timeouts == "keep" and NEXT in raw and LIMITS in raw:
        # Files that were made by shifting `observations` have the next episode's first one behind a limit.
        cut = np.append((timed_out & ~terminated)[:-1], False)
        if cut.any() and not jumps[cut].any():
            raise UserError(
                f"{NEXT} of row {np.argmax(cut)}, where {LIMITS} ends an episode, is the observation of the row below, "
                f"which is of the next one (so in all {cut.sum()} such rows); give timeouts=drop, which leaves them "
                f"out, or leave {LIMITS} out of the file where episodes go on through its marks."
            )
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


def _jumps(obs: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Rows whose next observation is another than the observation of the row below, rounding aside, bool[N]."""
    apart = ~np.isclose(following[:-1], obs[1:], rtol=ROUNDING, atol=ROUNDING).all(axis=1)
    return np.append(apart, False)
