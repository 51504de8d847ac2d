"""Environments with sparsities of their own: what is trained, what is recorded, and what pooled rows then say."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from sparserl_jax.bench import check, claims, compare, only, paths, reproduce, summary, tables, tune
from sparserl_jax.bench import plan as plans
from sparserl_jax.bench.suites import Suite, parse
from sparserl_jax.errors import UserError
from tests.bench import fake

PENDULUM, BALANCE = "gymnax:Pendulum-v1", "brax:inverted_pendulum?backend=spring"
TASKS = [
    {**fake.SUITE["environments"][0], "sparsity": 0.8, "critic_sparsity": 0.6},
    {**fake.SUITE["environments"][1], "sparsity": 0.7},
]
ARMS = [
    {"recipe": "dense"},
    {"recipe": "placebo", "sparsities": [0.95]},
    {"recipe": "tiny"},
    {"recipe": "rigl"},
]
OWN = {"sparsities": [], "environments": TASKS, "arms": ARMS}


def suite(**changes) -> Suite:
    return parse(fake.table(**{**OWN, **changes}), "mini.toml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "mini"
    fake.finished(folder, fake.make_plan(suite()))
    return folder


def test_only_arms_without_sparsities_of_their_own_follow_the_environment():
    knobs = {
        (task.name, arm.name): (run.knobs["actor"], run.knobs["critic"]) for task, arm, run in suite().runs()
    }
    assert knobs == {
        (PENDULUM, "dense"): (0.0, 0.0),
        (PENDULUM, "placebo"): (0.95, 0.95),
        (PENDULUM, "tiny"): (0.8, 0.6),
        (PENDULUM, "rigl"): (0.8, 0.6),
        (BALANCE, "dense"): (0.0, 0.0),
        (BALANCE, "placebo"): (0.95, 0.95),
        (BALANCE, "tiny"): (0.7, 0.7),
        (BALANCE, "rigl"): (0.7, 0.7),
    }
    names = {planned.folder.as_posix() for planned in fake.make_plan(suite()).runs}
    assert "gymnax-Pendulum-v1/rigl-s0800-seed000" in names
    assert "brax-inverted_pendulum-backend-spring/rigl-s0700-seed000" in names


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sparsities": [0.5]}, "'sparsities' at the top say nothing"),
        ({"environments": [TASKS[0], fake.SUITE["environments"][1]]}, "'brax:.*' has no 'sparsity'"),
        ({"environments": [{"name": "a:b", "critic_sparsity": 0.5}]}, "'a:b' has no 'sparsity'"),
        ({"environments": [{"name": "a:b", "sparsity": 1.0}]}, "'a:b': sparsity 1 is outside"),
        ({"environments": [{"name": "a:b", "sparsity": 0.5, "critic_sparsity": -0.1}]}, "-0.1 is outside"),
        ({"arms": [{"recipe": "rigl", "sparsities": []}]}, "arm 'rigl' has no sparsity"),
        (
            {"arms": [{"recipe": "dense", "sparsities": [0.5, 0.8]}]},
            "recipe 'dense' is always trained at 0.0",
        ),
        ({"arms": [{"recipe": "rigl", "critic_sparsities": [0.5]}]}, "as long as sparsities"),
        (
            {"arms": [{"recipe": "rigl"}, {"recipe": "rigl", "name": "x", "sparsities": [0.7]}]},
            "arms 'rigl' and 'x' are the same runs",
        ),
    ],
)
def test_a_mistake_gives_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        suite(**changes)
    assert "\n" not in str(error.value)


def test_hashes_of_suites_without_them_stay_and_a_critic_at_zero_is_not_a_critic_like_the_actor():
    published = json.loads(
        (paths.data_folder("suites").parents[1] / "results/quick/configuration.json").read_text()
    )
    assert claims.suite_of(published["suite"]).hash() == published["suite_hash"]
    equal = suite(environments=[{"name": "a:b", "sparsity": 0.8}])
    dense_critic = suite(environments=[{"name": "a:b", "sparsity": 0.8, "critic_sparsity": 0.0}])
    assert equal.hash() != dense_critic.hash()
    for made in (equal, dense_critic, suite()):
        again = claims.suite_of(json.loads(json.dumps(made.plain())))
        assert again.hash() == made.hash()
        assert [run.knobs for *_, run in again.runs()] == [run.knobs for *_, run in made.runs()]


def test_records_are_sound_and_each_environment_is_judged_at_its_own(folder: Path):
    assert check.check(folder) == []
    found = summary.summarise(folder)
    first, second = ({row.arm: row for row in block.rows} for block in found.blocks)
    assert (first["rigl"].sparsity, first["rigl"].critic_sparsity) == (0.8, 0.6)
    assert (second["rigl"].sparsity, second["rigl"].critic_sparsity) == (0.7, 0.7)
    assert first["rigl"].tiny == second["rigl"].tiny == "tiny"
    text = tables.markdown(found)
    assert "Largest sparsity matched" not in text  # one prescribed level is no sweep
    assert (
        f"Sparsities of each environment (actor / critic): {PENDULUM} 0.8 / 0.6; {BALANCE} 0.7 / 0.7." in text
    )


def test_a_pooled_row_is_called_by_its_recipe_and_not_by_a_sparsity(folder: Path):
    found = summary.summarise(folder)
    assert found.pooled is not None
    pooled = {row.arm: row for row in found.pooled.rows}
    assert set(pooled) == {"dense", "placebo", "tiny", "rigl"}
    assert tables.cells(pooled["rigl"], pooled=True)[1] == "each environment's"
    assert tables.cells(pooled["placebo"], pooled=True)[1] == "0.95"
    assert len(pooled["rigl"].runs) == 12 and pooled["rigl"].tiny == "tiny"
    assert "rigl@0.8" in pooled["rigl"].command and "rigl@0.7" in pooled["rigl"].command
    lines = {
        line["arm"]: line
        for line in csv.DictReader(io.StringIO(tables.comma_separated(found)))
        if line["environment"] == "all environments"
    }
    assert (lines["rigl"]["sparsity"], lines["placebo"]["sparsity"]) == ("", "0.95")
    assert "| all environments | rigl | each environment's |" in reproduce.page(found)
    assert "each environment's" in tables.latex(found)


def test_arms_with_a_sweep_of_their_own_are_still_pooled_level_by_level(tmp_path: Path):
    arms = [*ARMS, {"recipe": "set", "sparsities": [0.5, 0.6]}]
    fake.finished(tmp_path / "x", fake.make_plan(suite(arms=arms)))
    pooled = summary.summarise(tmp_path / "x").pooled
    assert pooled is not None
    shown = [(row.arm, tables.cells(row, pooled=True)[1]) for row in pooled.rows]
    assert shown[-3:] == [("rigl", "each environment's"), ("set", "0.5"), ("set", "0.6")]


def test_only_knows_which_environment_has_which_sparsity():
    plan = fake.make_plan(suite())
    assert [p.name for p in only.select(plan, ["rigl@0.8"]).programs] == ["gymnax-Pendulum-v1-n1"]
    with pytest.raises(UserError, match=r"has no sparsity 0\.7 .* on gymnax:Pendulum-v1; it has 0\.8\."):
        only.select(plan, [f"{PENDULUM}/rigl@0.7"])


def test_the_plan_counts_and_names_them():
    text = "\n".join(plans.lines(fake.make_plan(suite())))
    assert "48 runs = 2 environments x 24 members" in text
    assert "rigl@0.8 x6" in text and "rigl@0.7 x6" in text


def test_two_folders_may_have_other_sparsities(folder: Path, tmp_path: Path):
    tasks = [{**task, "sparsity": 0.5, "critic_sparsity": 0.5} for task in TASKS]
    arms = [*ARMS[:2], {"recipe": "set"}]
    fake.finished(tmp_path / "other", fake.make_plan(suite(environments=tasks, arms=arms)))
    found = compare.compare([folder, tmp_path / "other"])
    rows = {row.arm: row for row in found.blocks[0].rows}
    assert (rows["rigl"].sparsity, rows["set"].sparsity) == (0.8, 0.5)
    assert found.pooled is not None
    pooled = {row.arm: tables.cells(row, pooled=True)[1] for row in found.pooled.rows}
    assert pooled["rigl"] == pooled["set"] == "each environment's"


def test_tuning_follows_them_unless_it_names_a_sparsity():
    grid = {"seeds": 2, "seeds_from": 1000, "arms": ["rigl"], "grid": {"drop_fraction": [0.3, 0.5]}}
    trials = tune.suite_of(suite(tune=grid))
    assert {run.knobs["actor"] for *_, run in trials.runs()} == {0.8, 0.7}
    trials = tune.suite_of(suite(tune={**grid, "sparsity": 0.4}))
    assert {run.knobs["actor"] for *_, run in trials.runs()} == {0.4}
