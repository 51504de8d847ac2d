"""Executing a Program costs the compilations its plan names and no other, however it is stopped and resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_executing_stopping_and_resuming_compile_each_stage_once_and_nothing_else(tmp_path):
    """Counted by XLA's own events in a fresh process, from the first line to the outcomes."""
    # Quicker compilation changes neither what is compiled nor how often.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-m", "tests.reference.small", "--count", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["dispatches"] >= 3 and report["evaluations"] >= 2 and report["events"] >= 1
    assert report["resumed"] and report["stopped_at"] == 240
    assert len(report["compiled"]) == report["planned"], report["compiled"]
