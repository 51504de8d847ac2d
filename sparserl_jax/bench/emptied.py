"""Runs in which a method has removed all weights of a layer: they are finished like others, and named."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparserl_jax.bench import records
from sparserl_jax.training import diagnostics

Layers = list[tuple[str, int | None]]
"""Layers without a weight, and the step at which each was first seen so; None: no curve point says."""


def sentences(root: Path, found: Sequence[dict[str, Any]]) -> list[str]:
    """One sentence that names the layers without a weight at the end, and the curve point at which each was first seen
    so (of several seeds of a row the first of all); none where there are no such layers.

    Args:
        root: the folder of the records.
    """
    rows: dict[str, list[tuple[str, Layers]]] = defaultdict(list)
    chosen = False
    for record in found:
        empty = [
            (network, tensor["name"], tensor["path"].split("/")[-2])
            for network, tensors in record["result"]["tensors"].items()
            for tensor in tensors
            if tensor["nnz"] == 0
        ]
        if not empty:
            continue
        curve = records.read_curve(root / "records" / record["run_id"] / "curve.csv")
        steps = {(network, layer): step for network, layer, step in diagnostics.emptied(curve)}
        layers = [(f"{name} of the {network}", steps.get((network, layer))) for network, name, layer in empty]
        chosen |= record["result"].get("promise") == "none"
        rows[record["run_id"].rpartition("-seed")[0]].append((record["run_id"], layers))
    every = Counter(record["run_id"].rpartition("-seed")[0] for record in found)
    named = [_run(*runs[0]) if len(runs) == 1 else _row(row, runs, every[row]) for row, runs in rows.items()]
    cause = ", by too large a coefficient" if chosen else ""
    return [f"LAYERS WITHOUT A WEIGHT{cause}: {'; '.join(named)}."] if named else []


def _run(name: str, layers: Layers) -> str:
    """One run with its layers, each with the step at which it was first seen without a weight."""
    parts = [layer + ("" if step is None else f" from step {step:,}") for layer, step in layers]
    return f"{name} ({', '.join(parts)})"


def _row(name: str, runs: Sequence[tuple[str, Layers]], every: int) -> str:
    """Several seeds of a row: how many of `every`, which layers in any of them, and the first step of all."""
    layers = dict.fromkeys(layer for _, own in runs for layer, _ in own)
    steps = [step for _, own in runs for _, step in own if step is not None]
    first = f"; the first from step {min(steps):,}" if steps else ""
    return f"{name}, {len(runs)} of {every} seeds ({', '.join(layers)}{first})"
