"""The command line on environments of the host: plan, records, check, and exit codes."""

import json

import pytest

pytest.importorskip("gymnasium")

from sparserl_jax import cli
from sparserl_jax.training.program import Program
from tests.reference import host_toys

ENV = "gymnasium:tests.reference.host_toys:Firm-v0"
COMMAND = [
    *("train", "--env", ENV, "--recipe", "rigl", "--sparsity", "0.5", "--seeds", "2", "--steps", "400"),
    *("--hidden", "8", "8", "--batch-size", "8", "--episodes", "1", "--final-episodes", "2"),
]


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(Program, "compile", host_toys.compile_quickly)


def test_training_breaks_is_mended_goes_on_and_leaves_sound_records(tmp_path, monkeypatch, capsys):
    steps, healthy = [0], host_toys.Firm.step

    def step(self, action):
        steps[0] += 1
        if steps[0] == 300:
            raise RuntimeError("a leg came off")
        return healthy(self, action)

    folder = tmp_path / "run"
    command = [*COMMAND, "--out", str(folder)]
    monkeypatch.setattr(host_toys.Firm, "step", step)
    assert cli.run(command) == 2
    told = capsys.readouterr()
    (sentence,) = [line for line in told.err.splitlines() if line.startswith("error:")]
    assert f"environment '{ENV}' broke at environment step" in sentence
    assert "of member" in sentence and "step raised RuntimeError: a leg came off" in sentence
    assert "2 members, 8 compilations, memory" in told.out
    assert len(list(folder.glob("programs/*/checkpoint-*"))) == 1

    assert cli.run(command) == 0
    assert cli.run(["check", str(folder)]) == 0
    records = [json.loads(path.read_text()) for path in folder.glob("records/*/*/record.json")]
    assert len(records) == 2
    for record in records:
        assert record["result"]["env"] == ENV and record["result"]["episodes"] == 10
        assert record["measured"]["environment_repeatable"] is True
        assert record["measured"]["episodes_cut_by_resuming"] == 0
        assert record["measured"]["environment_seconds"] > 0
        assert record["provenance"]["packages"]["gymnasium"]


def test_parallel_environments_are_refused_before_anything_is_written(tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.run([*COMMAND, "--num-envs", "2", "--out", str(folder)]) == 2
    assert f"num_envs = 2: '{ENV}' runs on the host" in capsys.readouterr().err
    assert not folder.exists()


def test_list_of_environments_mentions_the_prefix(capsys):
    assert cli.run(["list", "envs"]) == 0
    assert "gymnasium:Hopper-v5" in capsys.readouterr().out
