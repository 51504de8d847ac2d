"""Schedules of topology change, evaluated on the host in float64 and handed to programs as integer tables.

A tick is one gradient computation of one network, counted from 1; events are the ticks that change its
topology.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sparserl_jax.errors import UserError


def cosine(zeta0: float, tick: int, end: int) -> float:
    """Drop fraction at a tick, zeta0 / 2 * (1 + cos(pi * tick / end)), 0 from `end` on (RLx2 Algorithm 1)."""
    return 0.0 if tick >= end else zeta0 / 2 * (1 + math.cos(math.pi * tick / end))


def cubic(final: float, tick: int, begin: float, end: float, initial: float = 0.0) -> float:
    """Sparsity at a tick of gradual magnitude pruning: final + (initial - final) * (1 - x)^3.

    Here x runs from 0 at tick `begin` to 1 at tick `end` and is constant outside (Zhu and Gupta 2017).

    Raises:
        UserError: `begin` is not before `end`.
    """
    if begin >= end:
        raise UserError(f"pruning begins at tick {begin} and ends at {end}: let it end later than it begins.")
    x = min(max((tick - begin) / (end - begin), 0.0), 1.0)
    return final + (initial - final) * (1 - x) ** 3


def event_ticks(interval: int, end: int) -> np.ndarray:
    """Ticks of the events, i64[K]: the positive multiples of `interval` strictly before `end`.

    Raises:
        UserError: the interval is below 1.
    """
    if interval < 1:
        raise UserError(f"the topology interval is {interval} ticks: give at least 1.")
    return np.arange(interval, max(end, interval), interval, dtype=np.int64)


def drop_counts(counts: Sequence[int], zeta0: float, interval: int, end: int) -> np.ndarray:
    """Weights to drop and grow per event and tensor, i32[K, T].

    Row k belongs to the event at tick (k + 1) * interval; an entry is the truncated int(count * zeta).

    Args:
        counts: live weights per tensor, constant over the run, length T.
        zeta0: initial drop fraction, in [0, 1].
        interval: ticks between events.
        end: tick at which topology freezes (no event on it).

    Raises:
        UserError: the drop fraction is outside [0, 1], or the interval is below 1.
    """
    if not 0 <= zeta0 <= 1:
        raise UserError(f"the drop fraction is {zeta0}: give a number from 0 to 1.")
    shares = np.array([cosine(zeta0, int(t), end) for t in event_ticks(interval, end)], np.float64)
    return (shares[:, None] * np.asarray(counts, np.float64)).astype(np.int32)
