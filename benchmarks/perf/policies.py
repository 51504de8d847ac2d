"""How long one action of a trained policy takes in C, by storage form: policies of `results/rlx2_cpu`, as they are.

Each is exported (`sparserl export`), compiled with a loop around it by the system's C compiler, and timed in turns with
the others. Observations change from call to call and the caches are warm; one core, no batch.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.perf.workload import interleaved
from sparserl_jax.bench import export, saved

RUNS = Path(__file__).resolve().parents[2] / "results/rlx2_cpu/records/gymnasium-Hopper-v5"
FLAGS = ("-O3", "-march=native")
CALLS = 20_000
FORMS = {
    "dense-s0000-seed000": ("dense",),
    "tiny-s0980-seed000": ("dense",),
    "static-s0980-seed000": ("dense", "bitmask", "csr8", "smallest"),
    "rigl-s0980-seed000": ("dense", "bitmask", "csr8", "smallest"),
}
"""Runs and the formats they are stored in."""
LOOP = """
float many(int calls) {
    float observation[POLICY_OBSERVATIONS], action[POLICY_ACTIONS], sum = 0.0f;
    for (int i = 0; i < POLICY_OBSERVATIONS; i++) observation[i] = 0.1f * (float)(i % 7) - 0.3f;
    for (int k = 0; k < calls; k++) {
        observation[k % POLICY_OBSERVATIONS] += 1e-3f * sum;
        policy_act(observation, action);
        sum = action[0];
    }
    return sum;
}
"""


def _library(run: str, form: str, folder: Path, compiler: str) -> tuple[Callable[[], None], int]:
    """A call of `CALLS` actions, and the bytes of the policy's constants."""
    source = folder / f"{run}-{form}.c"
    made = export.export(saved.find(RUNS / run), source, form)
    source.write_text(source.read_text(encoding="utf-8") + LOOP, encoding="utf-8")
    library = source.with_suffix(".so")
    subprocess.run([compiler, *FLAGS, "-shared", "-fPIC", str(source), "-o", str(library), "-lm"], check=True)
    many = ctypes.CDLL(str(library)).many
    many.restype = ctypes.c_float
    return functools.partial(many, CALLS), made.size


def measure(row: Callable[..., dict[str, Any]], repeats: int) -> list[dict[str, Any]]:
    """Rows of bytes, microseconds per action and how many times faster than dense; none without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        print("left out: there is no C compiler (cc)")
        return []
    with tempfile.TemporaryDirectory() as folder:
        made = {
            f"{run}, {form}": _library(run, form, Path(folder), compiler)
            for run, forms in FORMS.items()
            for form in forms
        }
        seconds = interleaved({name: call for name, (call, _) in made.items()}, repeats)
    dense, *_ = seconds.values()
    rows = []
    for name, (_, size) in made.items():
        rows += [
            row(f"Hopper, 2x256, {name}: constants", size, "bytes", ""),
            row(f"Hopper, 2x256, {name}: one action", seconds[name] / CALLS * 1e6, "us", ""),
            row(f"Hopper, 2x256, {name}: dense / this", dense / seconds[name], "times", ""),
        ]
    return rows
