"""Algorithms that learn from a dataset through the harness: a training that was stopped, and what is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparserl_jax.bench import check, evaluate, records, saved, suites
from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import run as runs
from sparserl_jax.training import execute
from tests.bench import fake
from tests.reference import small

SUITE: dict[str, Any] = {
    "name": "offline",
    "steps": 80,
    "dispatch": 20,
    "warm_up": 0,
    "seeds": 1,
    "sparsities": [0.5],
    "agent": {"name": "fttpo_corrected", "hidden": [16, 16], "batch_size": 16, "gamma": 0.9},
    "schedule": {"topology_interval": 10},
    "evaluation": {"interval": 40, "episodes": 2, "final_episodes": 4, "sampled": True},
    "environments": [{"name": "own:Treatment-III", "dataset": "own:random?episodes=5"}],
    "arms": [
        {"recipe": "dense"},
        {"recipe": "rigl"},
        {"recipe": "rigl", "name": "inac", "agent": {"name": "inac", "policy": "student"}},
    ],
}
FTTPO, INAC = "rigl-s0500-seed000", "inac-s0500-seed000"


def stopped_at(moment: int) -> Any:
    """`execute` that a Ctrl-C ends behind step `moment`."""

    def stopping(program: Any, *, folder: Path, deadline: Any, progress: Any, **rest: Any) -> Any:
        return execute(program, folder, deadline=deadline, progress=small.interrupt_at(moment), **rest)

    return stopping


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the records of a training that nothing stopped."""
    folder = tmp_path_factory.mktemp("offline") / "x"
    runs.run(plans.make(suites.parse(SUITE, "offline.toml")), folder, fake.quiet())
    return folder / "records" / "own-Treatment-III"


@pytest.mark.slow
def test_a_folder_of_them_passes_the_check(original: Path):
    assert check.check(original.parents[1]) == []
    for run, agent in ((FTTPO, "fttpo_corrected"), (INAC, "inac")):
        result = records.read(original / run)["result"]
        assert (result["agent"], result["status"]) == (agent, "ok")
        assert all(events == 7 for events in result["events"].values())
        assert evaluate.reproduce(saved.find(original / run)).agrees


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_records(original: Path, tmp_path: Path):
    plan, folder = plans.make(suites.parse(SUITE, "offline.toml")), tmp_path / "x"
    for _ in plan.programs:
        with pytest.raises(runs.Unfinished):
            runs.run(plan, folder, fake.quiet(), execute=stopped_at(40))
    runs.run(plan, folder, fake.quiet())
    assert check.check(folder) == []
    for run in sorted(path.name for path in original.iterdir()):
        again = folder / "records" / original.name / run
        assert records.read(again)["result"] == records.read(original / run)["result"]
        assert (again / "curve.csv").read_bytes() == (original / run / "curve.csv").read_bytes()
        assert (again / "policy.npz").read_bytes() == (original / run / "policy.npz").read_bytes()
