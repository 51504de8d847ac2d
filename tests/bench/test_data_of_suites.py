"""Suites that name a dataset file: where it is looked for, what records say of it, and that it stays what it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparserl_jax.bench import check, compare, records, schema, select, single, suites
from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import run as runs
from sparserl_jax.data import OfflineDataset, save
from sparserl_jax.errors import UserError
from tests.bench import fake, forge

SUITE = """
name = "logged"
steps = 4000
warm_up = 0
seeds = 2
sparsities = [0.6]
agent = { name = "td3_bc", hidden = [16, 16], batch_size = 32 }
schedule = { topology_interval = 200 }
evaluation = { interval = 200, episodes = 5, final_episodes = 10 }
environments = [{ name = "gymnax:Pendulum-v1", dataset = "../data/walk.npz" }]
arms = [{ recipe = "dense" }, { recipe = "rigl" }, { recipe = "static", name = "bc", agent = { name = "bc10" } }]
"""


def walk(seed: int = 0, obs: int = 3) -> OfflineDataset:
    """Five episodes of four steps."""
    rng = np.random.default_rng(seed)
    last = np.arange(20) % 4 == 3
    return OfflineDataset(
        obs=rng.normal(size=(20, obs)).astype(np.float32),
        action=rng.uniform(-1, 1, (20, 1)).astype(np.float32),
        reward=rng.normal(size=20).astype(np.float32),
        next_obs=rng.normal(size=(20, obs)).astype(np.float32),
        terminated=last & (np.arange(20) < 10),
        truncated=last & (np.arange(20) >= 10),
    )


def written(folder: Path, seed: int = 0, suite: str = SUITE, **changes: Any) -> Path:
    """The suite's file, with its data where it looks for them."""
    save(
        folder / "data" / "walk.npz",
        walk(seed, **changes),
        source="test",
        action_low=[-2],
        action_high=[2],
    )
    (folder / "suites").mkdir(exist_ok=True)
    (folder / "suites" / "mini.toml").write_text(suite)
    return folder / "suites" / "mini.toml"


def described(one: Any) -> Any:
    """What a real training says of its dataset."""
    return dataclasses.replace(one, data=one.run.training.logged.described())


def finish(path: Path, folder: Path) -> plans.Plan:
    plan = fake.make_plan(suites.read(path))
    runs.run(plan, folder, fake.quiet(), execute=fake.Execute(plan, described))
    return plan


def test_a_path_begins_at_the_suite_and_is_read_once_for_all_arms(tmp_path: Path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    suite = suites.read(written(tmp_path))
    plan = fake.make_plan(suite)
    (logged,) = {
        id(planned.run.training.logged): planned.run.training.logged for planned in plan.runs
    }.values()
    assert logged.sha256 == walk().sha256 and logged.name == "../data/walk.npz"
    (line,) = (line for line in plans.lines(plan) if line.startswith("data of "))
    assert "20 transitions in 5 episodes" in line and logged.sha256[:12] in line
    # Neither the data nor where they lie are in a hash: it is that of what is written.
    assert suite.hash() == plan.suite.hash() == suites.read(written(tmp_path / "elsewhere", 1)).hash()
    assert "logged" not in json.dumps(plan.suite.plain()["tasks"])


def test_records_say_what_they_learned_from(tmp_path: Path):
    finish(written(tmp_path), tmp_path / "x")
    settings, found = records.load_all(tmp_path / "x")
    expected = {
        "name": "../data/walk.npz",
        "transitions": 20,
        "episodes": 5,
        "mean_return": pytest.approx(walk().returns.mean()),
        "sha256": walk().sha256,
    }
    assert settings["data"] == {"gymnax:Pendulum-v1": expected}
    for record in found:
        assert record["result"]["data"] == expected and schema.errors(record) == []
        del record["result"]["data"]  # as in older records
        assert schema.errors(record) == []
    assert check.check(tmp_path / "x") == []


def test_a_run_is_not_gone_on_with_another_file(tmp_path: Path):
    plan = finish(written(tmp_path), tmp_path / "x")
    finish(written(tmp_path), tmp_path / "x")  # the same content written anew
    with pytest.raises(
        UserError, match=r"begun with other data: the SHA-256 of '\.\./data/walk\.npz'"
    ) as told:
        finish(written(tmp_path, seed=1), tmp_path / "x")
    assert "\n" not in str(told.value)
    results = tmp_path / "results"
    results.mkdir()
    (tmp_path / "x").rename(results / "logged")
    skipped, _ = select.without_published(plan, results)
    assert not skipped.programs
    other, line = select.without_published(fake.make_plan(suites.read(written(tmp_path, seed=1))), results)
    assert other.programs and line.endswith("results/logged learned from other data")


def test_folders_of_other_data_are_not_compared(tmp_path: Path):
    for seed, name in enumerate(("x", "y")):
        finish(written(tmp_path, seed=seed), tmp_path / name)
    with pytest.raises(
        UserError, match="may not be compared: the SHA-256 of the data of gymnax:Pendulum-v1 is"
    ):
        compare.compare([tmp_path / "x", tmp_path / "y"])


def test_other_data_under_one_name_are_found(tmp_path: Path):
    finish(written(tmp_path), tmp_path / "x")
    first, *_ = forge.run_ids(tmp_path / "x")
    forge.change(tmp_path / "x", first, lambda record: record["result"]["data"].update(sha256="0" * 64))
    problems = check.check(tmp_path / "x")
    told = f"learned from different data (sha256 {walk().sha256[:12]} and 000000000000)"
    assert any(told in text for text in problems)
    assert any(
        f"{first}: did not learn from the data that configuration.json names" in text for text in problems
    )


def made(seed: int, digest: str, mean: float, transitions: int = 30) -> dict[str, Any]:
    data = {"name": "own:random?episodes=5", "transitions": transitions, "episodes": 5}
    result = {"env": "e", "seed": seed, "data": {**data, "mean_return": mean, "sha256": digest}}
    return {"run_id": f"{digest}-{seed}", "result": result}


def test_what_a_training_makes_is_the_seeds_up_to_rounding():
    alike = [made(0, "a", -9.0), made(0, "b", -9.000001), made(0, "a", -9.0), made(1, "c", 4.0)]
    assert check._data_problems([*alike, {"run_id": "old", "result": {"env": "e", "seed": 0}}]) == []
    for odd in (made(0, "d", -8.9), made(0, "e", -9.0, transitions=31)):
        (problem,) = check._data_problems([*alike, odd])
        assert (
            problem
            == f"e: a-0 and {odd['run_id']} learned from different data (sha256 a and {odd['run_id'][0]})"
        )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"obs": 4}, "obs_dim 4, and the environment has 3"),
        ({"suite": SUITE.replace("walk.npz", "gone.npz")}, "there is no file"),
        ({"suite": SUITE.replace("walk.npz", "walk.csv")}, "names no file of a kind that is known"),
        ({"suite": SUITE.replace("walk.npz", "walk.npz?timeouts=drop")}, "npz has no option 'timeouts'"),
        ({"suite": SUITE.replace("../data/walk.npz", "own:random?episodes=1&episodes=2")}, "given 2 times"),
        ({"suite": SUITE.replace('"bc10"', '"bc", best = 0.0')}, "must be in (0, 1]"),
    ],
)
def test_a_mistake_is_told_before_anything_is_compiled(tmp_path: Path, changes, sentence):
    path = written(tmp_path, **changes)
    with pytest.raises(UserError) as told:
        fake.make_plan(suites.read(path))
    assert sentence in str(told.value) and "\n" not in str(told.value)


def test_a_single_training_takes_a_dataset(tmp_path: Path, monkeypatch):
    written(tmp_path)
    monkeypatch.chdir(tmp_path)
    suite = single.suite_of("gymnax:Pendulum-v1", agent="iql", dataset="data/walk.npz", steps=2000, seeds=1)
    assert (suite.warm_up, suite.arms[0].recipe.name) == (0, "rigl")
    plan = fake.make_plan(suite)
    assert plan.runs[0].run.training.logged.sha256 == walk().sha256
    own = single.suite_of("gymnax:Pendulum-v1", agent="bc", dataset="own:random?episodes=5", steps=2000)
    assert fake.make_plan(own).runs[0].run.training.logged is None
    with pytest.raises(UserError, match="learns from a dataset; give the environment one"):
        single.suite_of("gymnax:Pendulum-v1", agent="iql", steps=2000)
