"""Runs in which a method has removed all weights of a layer: they are finished like others, and named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparserl_jax.bench import records
from sparserl_jax.training import diagnostics


def sentences(root: Path, found: Sequence[dict[str, Any]]) -> list[str]:
    """One sentence that names the layers without a weight at the end, and the curve point at which each was first seen
    so; none where there are no such layers.

    Args:
        root: the folder of the records.
    """
    named, chosen = [], False
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
        parts = [
            f"{name} of the {network}"
            + (f" from step {steps[network, layer]:,}" if (network, layer) in steps else "")
            for network, name, layer in empty
        ]
        chosen |= record["result"].get("promise") == "none"
        named.append(f"{record['run_id']} ({', '.join(parts)})")
    cause = ", by too large a coefficient" if chosen else ""
    return [f"LAYERS WITHOUT A WEIGHT{cause}: {'; '.join(named)}."] if named else []
