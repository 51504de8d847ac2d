"""What a checkpoint of a large population costs: eight TD3 members of HalfCheetah size, a million transitions each."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.perf.workload import training
from sparserl_jax.training import Program, Run, checkpoint, recipe

TRANSITIONS = 1_000_000


def filled(shapes: Any) -> Any:
    """Arrays of these shapes: floats drawn at random, for zeros would compress to nothing."""
    rng = np.random.default_rng(0)

    def leaf(shape: Any) -> Any:
        if jax.dtypes.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), shape.shape)
        if np.issubdtype(shape.dtype, np.floating):
            return rng.standard_normal(shape.shape, np.float32).astype(shape.dtype)
        return np.zeros(shape.shape, shape.dtype)

    return jax.tree.map(leaf, shapes)


def forget(folder: Path) -> int:
    """Write a folder's files to the disk and drop them from the page cache; their bytes."""
    size = 0
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            size += path.stat().st_size
    return size


def measure(members: int, repeats: int) -> dict[str, np.ndarray]:
    """`repeats` of: gigabytes on the disk (`size`), seconds to write (`write`), to read the same files and do nothing
    (`read`), and to restore (`restore`); files are read from the disk, not from the page cache."""
    settings = training(interval=1000, buffer=TRANSITIONS)
    runs = tuple(Run(settings, recipe("rigl"), 0.5, seed, "rigl") for seed in range(members))
    shapes = Program(runs).shapes()
    state = jax.device_put(filled(shapes))  # from an accelerator they are copied to the host first
    rows = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        for repeat in range(repeats):
            began = time.perf_counter()
            checkpoint.save(folder, repeat + 1, state, {})
            write = time.perf_counter() - began
            newest = max(folder.glob("checkpoint-*"))
            size = forget(newest)
            began = time.perf_counter()
            for path in newest.rglob("*"):
                if path.is_file():
                    path.read_bytes()
            read = time.perf_counter() - began
            forget(newest)
            began = time.perf_counter()
            found = checkpoint.restore(folder, shapes)
            assert found is not None
            jax.block_until_ready(found[1])
            rows.append((size / 1e9, write, read, time.perf_counter() - began))
    return dict(zip(("size", "write", "read", "restore"), np.asarray(rows).T, strict=True))
