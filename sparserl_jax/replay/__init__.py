"""Replay memory: ring storage, n-step windows, and rules for how much of the past to keep."""

from sparserl_jax.replay import capacity, hindsight
from sparserl_jax.replay.capacity import Capacity, check
from sparserl_jax.replay.storage import Replay, bytes_per, cut, init, insert, size, slots_needed
from sparserl_jax.replay.windows import Batch, sample

__all__ = [
    "Batch",
    "Capacity",
    "Replay",
    "bytes_per",
    "capacity",
    "check",
    "cut",
    "hindsight",
    "init",
    "insert",
    "sample",
    "size",
    "slots_needed",
]
