"""Members on the host that are computed in waves: the same results, the same stops, and every row accounted for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("gymnasium")

from sparserl_jax.training import Run, execute, group, recipe, sharding
from sparserl_jax.training.program import Program
from sparserl_jax.training.sharding import Layout
from tests.reference import host_toys, small
from tests.training.test_host_resume import interrupt


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5))
def test_waves_hold_every_member_once_and_no_device_more_rows_than_allowed(members, devices, at_most):
    spread = Layout(members, (None,) * devices).in_waves(at_most)
    tree = {"x": np.arange(2.0 * members).reshape(members, 2), "key": np.arange(members)}
    waves = spread.split(tree)
    assert len(waves) == spread.waves and spread.per_device <= at_most
    assert all(len(wave["x"]) == spread.rows for wave in waves)
    rows = np.concatenate([wave["key"] for wave in waves])
    np.testing.assert_array_equal(rows, np.arange(len(rows)) % members)
    jax.tree.map(np.testing.assert_array_equal, spread.join(waves), tree)
    shape = spread.split(jax.ShapeDtypeStruct((members, 3), np.int8))
    assert [one.shape for one in shape] == [(spread.rows, 3)] * spread.waves
    # One wave less would give some device too many.
    assert (spread.waves - 1) * at_most * devices < members


def test_layout_in_waves_says_so_in_words_and_knows_what_it_holds():
    spread = Layout(35, (None,) * 2).in_waves(3)
    assert str(spread) == "35 members on 2 devices in 6 waves, 1 padded" and spread.held == 18
    assert str(Layout(4, (None,)).in_waves(4)) == "4 members"


@pytest.fixture
def in_waves(monkeypatch):
    """Three members on one device, as if each filled a core, two at a time: two waves and a copy."""
    monkeypatch.setattr(sharding, "devices", lambda: jax.local_devices()[:1])
    monkeypatch.setattr("sparserl_jax.training.program.FILLS_A_CORE", 1)
    monkeypatch.setattr("sparserl_jax.training.program.WAVE", 2)


def program() -> Program:
    """Three members on one device."""
    of = host_toys.training(host_toys.Seeded())
    arms = (("dense_rvl", 0.0, 0), ("rlx2", 0.6, 0), ("rlx2", 0.6, 1))
    (only,) = group([Run(of, recipe(name), sparsity, seed, name) for name, sparsity, seed in arms])
    return only


@pytest.mark.slow
def test_waves_compute_what_one_call_computes_and_resume_undisturbed(in_waves, tmp_path, monkeypatch):
    waves = program()
    assert waves.layout.waves == 2 and waves.layout.rows == 2
    undisturbed = execute(waves)
    assert undisturbed[0].measured["waves"] == 2
    interrupt(waves, tmp_path / "run", 117)
    for ours, theirs in zip(execute(waves, tmp_path / "run"), undisturbed, strict=True):
        small.assert_same(ours, theirs)
    monkeypatch.setattr("sparserl_jax.training.program.FILLS_A_CORE", 1 << 60)
    at_once = program()
    assert at_once.layout.waves == 1
    for ours, theirs in zip(undisturbed, execute(at_once), strict=True):
        assert (ours.episodes, ours.events, ours.nnz) == (theirs.episodes, theirs.events, theirs.nnz)
        jax.tree.map(np.testing.assert_array_equal, ours.masks, theirs.masks)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours.params, theirs.params)
        np.testing.assert_allclose(ours.final_returns, theirs.final_returns, atol=1e-3)


@pytest.mark.slow
def test_members_of_one_wave_on_several_devices_end_as_on_one():
    """Three members as if each filled a core, on two devices: one wave, rows on both of them, and a copy."""
    ends = {}
    for devices in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", ON_DEVICES],
            cwd=Path(__file__).parents[2],
            env={
                **os.environ,
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
                "JAX_PLATFORMS": "cpu",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        ends[devices] = json.loads(done.stdout.splitlines()[-1])
    assert ends[1]["layout"] == "3 members" and ends[2]["layout"] == "3 members on 2 cores, 1 padded"
    np.testing.assert_allclose(ends[1]["returns"], ends[2]["returns"], atol=1e-3)


ON_DEVICES = """
import json
from sparserl_jax.training import execute, program
from tests.training import test_waves

program.FILLS_A_CORE = 1
only = test_waves.program()
returns = [outcome.final_returns.tolist() for outcome in execute(only)]
print(json.dumps({"layout": str(only.layout), "returns": returns}))
"""
"""What a process of its own does: the number of devices is settled before JAX starts."""
