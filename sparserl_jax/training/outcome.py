"""What a Run ends in."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sparserl_jax.layers import LayerTable, leaf
from sparserl_jax.training.config import Run


@dataclasses.dataclass
class Outcome:
    """What one Run ends in.

    status: `ok` or `diverged`. curve: arrays [points] (env_step, update, return, and diagnostics). final_returns:
    f32[final_episodes]. params, masks: of every network, NumPy trees; the acting network's are the deployed ones.
    nnz: active weights per tensor. events: topology events that happened. measured: seconds and bytes, never part of
    a result. data: the dataset that it learned from, see `datasets.described`.
    """

    run: Run
    status: str
    curve: dict[str, np.ndarray]
    final_returns: np.ndarray
    params: dict[str, Any]
    masks: dict[str, Any]
    nnz: dict[str, list[int]]
    layers: dict[str, LayerTable]
    events: dict[str, int]
    episodes: int
    invalid_steps: int
    measured: dict[str, float]
    data: dict[str, Any] | None = None


def counts(layers: LayerTable, masks: Any) -> list[int]:
    """Active weights per tensor, on the host."""
    found: list[int] = []
    for layer in layers.maskable:
        mask = np.asarray(leaf(masks, layer.kernel)).reshape(layer.copies, -1)
        found += [int(n) for n in mask.sum(axis=1)]
    return found
