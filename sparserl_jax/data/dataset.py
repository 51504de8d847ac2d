"""The one format of offline data: transitions in the order in which they were made, episode after episode."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

TYPES = {"terminated": "|b1", "truncated": "|b1"}
"""Little-endian types of the fields; the others are f32."""


class OfflineDataset(NamedTuple):
    """N transitions, NumPy arrays.

    obs, next_obs f32[N,O]: before and after, never across an episode's end. action f32[N,A] in [-1, 1], as agents have
    them. reward f32[N]. terminated bool[N]: the state after it is terminal, nothing follows. truncated bool[N]: the
    episode was cut behind it, by a limit of time or because the data end there. Every episode's last row is one of the
    two.
    """

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    @property
    def ends(self) -> np.ndarray:
        """Rows behind which an episode ends, bool[N]."""
        return self.terminated | self.truncated

    @property
    def episode(self) -> np.ndarray:
        """Which episode every row is of, i64[N], counted from 0."""
        return np.concatenate([[0], np.cumsum(self.ends)[:-1]]).astype(np.int64)

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted return of every episode, f64[episodes]."""
        return np.bincount(self.episode, self.reward.astype(np.float64))

    @property
    def sha256(self) -> str:
        """Of names, types, shapes and bytes of the arrays, in the order of the fields."""
        digest = hashlib.sha256()
        for name, value in self._asdict().items():
            kind = TYPES.get(name, "<f4")
            digest.update(f"{name} {kind} {value.shape}\n".encode())
            digest.update(np.ascontiguousarray(value, kind).data)
        return digest.hexdigest()
