"""The command line: exit codes, and one sentence for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparserl_jax import api, cli
from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import run as runs
from sparserl_jax.bench import single, strict
from sparserl_jax.errors import UserError
from tests.bench import fake


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("bench quik", "unknown suite 'quik': did you mean 'quick'?"),
        ("plan smok", "unknown suite 'smok': did you mean 'smoke'?"),
        ("bench nowhere.toml", "no suite file at 'nowhere.toml'"),
        ("train --env gymnax:Pendulum-v2", "did you mean 'gymnax:Pendulum-v1'?"),
        ("train --env gymnax:Pendulum-v1 --agent td", "unknown agent 'td': did you mean 'td3'?"),
        ("train --env gymnax:Pendulum-v1 --recipe rlx", "unknown recipe 'rlx': did you mean 'rlx2'?"),
        ("train --env gymnax:Pendulum-v1 --sparsity 1.0", "sparsity 1 is outside [0, 1)"),
        ("train --env gymnax:Pendulum-v1 --sparsity 0.99999", "leaves tensor"),
        ("train --env gymnax:Pendulum-v1 --steps 1010", "the nearest valid values are 1000 and 1040"),
        ("train --env gymnax:Pendulum-v1 --seeds 0", "at least one seed"),
        ("train --env gymnax:Pendulum-v1 --seeds 100000000", "give at most 10000"),
        ("train --env gymnax:Pendulum-v1 --recipe dense --critic-sparsity 0.5", "its own in all networks"),
        ("train --env gymnax:Pendulum-v1?dt=fast", "step cannot be traced by jax.jit"),
        (
            "train --env gymnax:Pendulum-v1?max_episode_steps=9&max_steps_in_episode=8",
            "are one limit; give one",
        ),
        ("train --env gymnax:Pendulum-v1 --hidden 0", "positive widths"),
        ("train --env gymnax:CartPole-v1 --agent td3", "agent 'td3' does not choose discrete actions"),
        ("conformance rigl --sparsity 2", "--sparsity: sparsity 2 is outside [0, 1)"),
        ("conformance l0 --sparsity inf", "--sparsity: coefficient inf is no number from 0 on"),
        ("check nowhere", "there is no folder 'nowhere'"),
        ("table .", "holds no configuration.json"),
        ("publish .", "holds no configuration.json"),
        ("unpack", "unpack: give at least one archive"),
        (f"bench {'a' * 300}", "leads nowhere (File name too long); check the path."),
        (f"evaluate {'a' * 300}", "leads nowhere (File name too long); check the path."),
        (f"check {'a' * 300}", "leads nowhere (File name too long); check the path."),
        (f"danger {'a' * 300}", "leads nowhere (File name too long); check the path."),
    ],
)
def test_a_mistake_gives_one_sentence_and_exit_code_2(line, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(line.split()) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and sentence in error
    assert not list(tmp_path.iterdir())


def test_the_package_can_be_run_as_a_module():
    line = [sys.executable, "-m", "sparserl_jax", "list", "agents"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0 and done.stdout.startswith("td3 "), done.stderr


@pytest.mark.parametrize("line", ["", "bnech", "list colours", "train", "bench quick --no-such-flag"])
def test_a_malformed_command_line_exits_with_2(line):
    with pytest.raises(SystemExit) as stop:
        cli.run(line.split())
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("agents", "td3"),
        ("diagnostics", "q_bias"),
        ("envs", "brax:hopper"),
        ("recipes", "rlx2"),
        ("sparsifiers", "rigl"),
        ("suites", "quick"),
    ],
)
def test_list_names_what_there_is(kind, name, capsys):
    assert cli.run(["list", kind]) == 0
    assert name in capsys.readouterr().out


@pytest.mark.slow
def test_check_table_and_plot_work_on_a_finished_folder(tmp_path: Path, capsys):
    options = {"seeds": 2, "sparsities": [0.8], "environments": fake.SUITE["environments"][:1]}
    fake.finished(tmp_path / "x", fake.make_plan(**options))
    folder = str(tmp_path / "x")
    assert cli.run(["check", folder]) == 0
    assert "every record is sound" in capsys.readouterr().out
    assert cli.run(["table", folder]) == 0
    assert "rlx2" in capsys.readouterr().out and (tmp_path / "x/table.tex").is_file()
    assert cli.run(["plot", folder]) == 0
    assert (tmp_path / "x/plots/learning_curves.png").is_file()
    with (tmp_path / "x/records/gymnax-Pendulum-v1/rlx2-s0800-seed000/curve.csv").open("a") as file:
        file.write("1,1,1,1\n")
    assert cli.run(["check", folder]) == 1


@pytest.mark.slow
def test_check_looks_into_every_suite_of_a_folder(tmp_path: Path, capsys):
    assert cli.run(["check", str(tmp_path)]) == 2
    assert f"nothing to check in '{tmp_path}'" in capsys.readouterr().err
    options = {"seeds": 2, "sparsities": [0.8], "environments": fake.SUITE["environments"][:1]}
    for name in ("a", "b"):
        fake.finished(tmp_path / name, fake.make_plan(**options))
    (tmp_path / "other").mkdir()
    assert cli.run(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("every record is sound") == 2
    (tmp_path / "a/records/gymnax-Pendulum-v1/rlx2-s0800-seed000/policy.npz").unlink()
    assert cli.run(["check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "policy.npz is missing" in said and f"{tmp_path / 'b'}: every record is sound." in said


def test_check_looks_on_where_a_folder_cannot_be_read_and_names_what_is_missing(tmp_path: Path, capsys):
    for name in ("broken", "sound"):
        fake.finished(tmp_path / name, fake.make_plan(**fake.SMALL))
    (tmp_path / "torn/records").mkdir(parents=True)
    record = next((tmp_path / "broken/records").rglob("record.json"))
    record.write_bytes(record.read_bytes()[:10])
    assert cli.run(["check", str(tmp_path)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "broken: " in said and "torn: " in said and "holds no configuration.json" in said
    assert f"{tmp_path / 'sound'}: every record is sound." in said


def test_check_says_how_many_records_have_no_digest_of_their_own(tmp_path: Path, capsys):
    options = {"seeds": 2, "sparsities": [0.8], "environments": fake.SUITE["environments"][:1]}
    fake.finished(tmp_path, fake.make_plan(**options))
    path = tmp_path / "records/gymnax-Pendulum-v1/rlx2-s0800-seed000/record.json"
    record = json.loads(path.read_text())
    del record["sha256"]
    path.write_text(json.dumps(record))
    assert cli.run(["check", str(tmp_path)]) == 0
    assert "every record is sound; 1 without a digest of their own" in " ".join(
        capsys.readouterr().out.split()
    )


def test_an_object_never_goes_on_with_results_that_are_there(tmp_path: Path):
    (tmp_path / "configuration.json").write_text("{}")
    with pytest.raises(UserError, match="holds results already.*give another folder"):
        api.train(object(), out=tmp_path)


@pytest.mark.parametrize(
    ("raised", "code"), [(runs.Unfinished(3, "time budget"), 3), (runs.Unfinished(130, "interrupted"), 130)]
)
def test_an_unfinished_suite_has_the_exit_code_of_its_reason(raised, code, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plans, "make", lambda suite: fake.make_plan(suite))

    def stop(*arguments, **options):
        raise raised

    monkeypatch.setattr(runs, "run", stop)
    assert cli.run(["bench", "smoke"]) == code
    assert str(raised) in capsys.readouterr().err


def test_train_in_five_lines_of_python(monkeypatch, tmp_path: Path):
    plan = {}

    def make(suite):
        plan["made"] = fake.make_plan(suite)
        return plan["made"]

    real = runs.run
    monkeypatch.setattr(plans, "make", make)
    monkeypatch.setattr(
        runs,
        "run",
        lambda p, folder, console, **options: real(p, folder, console, execute=fake.Execute(p), **options),
    )
    results = api.train(
        "gymnax:Pendulum-v1", recipe="rlx2", sparsity=0.9, seeds=3, steps=4000, out=tmp_path / "x"
    )
    assert results.scores.shape == (3,)
    assert "| rlx2 | 0.9 |" in results.table()
    assert results.policy(seed=2)([0.1, 0.2, 0.3]).shape == (1,)
    assert len(results.curve(0)["return"]) == 20
    with pytest.raises(UserError, match="no seed 7"):
        results.policy(7)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"nun_envs": 3}, "did you mean 'num_envs'"),
        ({"seeds": "3"}, "train: seeds must be a whole number, not '3'"),
        ({"hidden": [8, "a"]}, "hidden must be a list of whole numbers"),
        ({"sparsity": float("nan")}, "sparsity must be a number"),
        ({"start": 3}, "start must be a text or a path"),
        ({"episodes": True}, "episodes must be a whole number"),
        ({"time_budget": "10m"}, "time_budget must be a number of seconds, not '10m'"),
    ],
)
def test_wrong_arguments_of_train_are_told_in_a_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        api.train("gymnax:Pendulum-v1", **settings)


def test_numbers_of_numpy_are_numbers():
    given = {"seeds": np.int64(3), "sparsity": np.float32(0.5), "hidden": (np.int32(8),)}
    found = strict.checked(single.suite_of, given, "train")
    assert found == {"seeds": 3, "sparsity": 0.5, "hidden": (8,)}
    assert [type(found["seeds"]), type(found["sparsity"]), type(found["hidden"][0])] == [int, float, int]


def test_train_scales_the_published_schedule_and_always_fits_its_periods():
    for steps, num_envs in ((4000, 1), (20_000, 1), (100_000, 20), (1_000_000, 20), (12_320, 4)):
        suite = single.suite_of("gymnax:Pendulum-v1", steps=steps, num_envs=num_envs)
        training = suite.training(suite.tasks[0])
        training.check()
        assert suite.points == 20 and training.dispatch_steps <= max(1000, num_envs * 2)
    assert single.suite_of("x:y", steps=1_000_000).warm_up == 25_000


@pytest.mark.parametrize(
    ("line", "steps", "sentences"),
    [
        ("--env gymnax:Pendulum-v1", "100,000", ()),
        ("--env gymnax:CartPole-v1 --agent dqn", "100,000", ("recipe: rigl, for 'dqn' has not",)),
        (
            "--env gymnax:CartPole-v1 --agent ppo",
            "99,840",
            ("steps: 99,840, the multiple of 2,560 (20 evaluations x parallel environments x rollout steps) that is",
             "recipe: rigl, for 'ppo' has not what 'rlx2' asks for"),
        ),
        ("--env gymnax:Pendulum-v1 --agent ppo --num-envs 3 --recipe set", "99,840", ("multiple of 7,680",)),
    ],
)  # fmt: skip
def test_training_needs_nothing_but_an_environment_and_an_agent(line, steps, sentences, capsys, monkeypatch):
    def planned(*_, **__):
        raise UserError("planned")

    monkeypatch.setattr(runs, "run", planned)
    assert cli.run(["train", *line.split()]) == 2
    said = capsys.readouterr()
    assert said.err == "error: planned\n" and f"per run: {steps} steps" in said.out
    assert all(sentence in said.out for sentence in sentences)
    assert ("\nrecipe: " in said.out, "\nsteps: " in said.out) == (
        "recipe" in "".join(sentences),
        "99" in steps,
    )
