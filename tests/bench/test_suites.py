"""Suites: read strictly, resolved fully, refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sparserl_jax import envs
from sparserl_jax.bench import budgets, paths, strict, suites
from sparserl_jax.bench import plan as plans
from sparserl_jax.errors import UserError
from tests.bench import fake


def parse(**changes):
    return suites.parse(fake.table(**changes), "mini.toml")


def shipped() -> list[tuple[str, str | None]]:
    """Every shipped suite at each of its budgets."""
    found = {name: budgets.names(strict.content(paths.suite_path(name))) for name in paths.suite_names()}
    return [(name, budget) for name, own in found.items() for budget in own or [None]]


@pytest.mark.parametrize(("name", "budget"), shipped())
def test_a_shipped_suite_is_valid_and_can_be_planned(name: str, budget: str | None):
    suite = suites.read(paths.suite_path(name), budget)
    own = budgets.names(strict.content(paths.suite_path(name)))[:1]
    assert suite.name == (name if [budget] in ([None], own) else f"{name}_{budget}")
    if any(task.name.startswith("gymnasium:") for task in suite.tasks):
        pytest.importorskip("gymnasium")
    # No tracing: programs are made of the real environments' sizes, and every tensor gets its weights.
    made = plans.make(suite, group=fake.group, describe=lambda source: envs.make(source).spec)
    lines = plans.lines(made)
    shares = [line for line in lines if line.startswith("evaluation on")]
    assert len(shares) == len(suite.tasks)
    if name.startswith("rlx2"):
        assert all(int(line.rpartition(", ")[2].partition(" %")[0]) <= 25 for line in shares)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "budget"), [pair for pair in shipped() if pair[0].startswith("rlx2")])
def test_the_suites_of_a_paper_are_grouped_into_programs_that_fit(name: str, budget: str | None):
    made = plans.make(suites.read(paths.suite_path(name), budget))
    assert len(made.programs) <= len(made.runs) / 5
    # Nearly all of a member are its transitions, and looking at a program takes seconds: the largest will do.
    largest = max(made.programs, key=lambda one: len(one.runs) * made.specs[one.training.env].obs_dim)
    # They are planned for one accelerator; a CPU that trains members one after another holds them twice.
    assert largest.memory() / (2 if largest.one_by_one else 1) < 64 * 2**30


def test_quick_and_standard_hold_what_they_promise():
    for name, seeds, knobs in (("quick", 5, (0.8, 0.97)), ("standard", 10, (0.9,))):
        suite = suites.read(paths.suite_path(name))
        arms = {arm.name: arm for arm in suite.arms}
        assert {"dense", "dense_rvl", "tiny", "static", "set", "rigl", "rlx2"} < set(arms)
        assert arms["rlx2"].sparsities == knobs and len(arms["rlx2"].seeds) == seeds
        roles = [arm.role for arm in suite.arms]
        assert roles.count("dense") == roles.count("aa") == roles.count("placebo") == 1
        assert not set(arms["dense"].seeds) & set(arms["dense_aa"].seeds)
        assert suite.points == 20 and suite.result
    assert not suites.read(paths.suite_path("smoke")).result


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sparsitys": [0.5]}, "did you mean 'sparsities'"),
        ({"agent": {"hiden": [8]}}, "did you mean 'hidden'"),
        ({"agent": {"name": "td4"}}, "did you mean 'td3'"),
        ({"schedule": {"topology_intervall": 5}}, "did you mean 'topology_interval'"),
        ({"arms": [{"recipe": "rlx"}]}, "did you mean 'rlx2'"),
        ({"arms": [{"recipe": "rigl", "set": {"bufer": "fixed"}}]}, "did you mean 'buffer'"),
        ({"sparsities": [1.0]}, "outside [0, 1)"),
        ({"sparsities": [-0.1]}, "outside [0, 1)"),
        ({"steps": 4000.5}, "must be a whole number"),
        ({"steps": True}, "must be a whole number"),
        ({"seeds": 0}, "at least one seed"),
        ({"seeds": 10**12}, "at most 10000"),
        ({"steps": 2**31}, "at most 2,147,483,647"),
        ({"agent": {"hidden": [16, 40_000]}}, "at most 32,768"),
        ({"agent": {"hidden": 16}}, "must be a list of whole numbers"),
        ({"environments": [{"name": "own:" + "x" * 300}]}, "a name of 304 bytes"),
        ({"arms": [{"recipe": "dense", "name": "x" * 300}]}, "a name of 300 bytes"),
        ({"arms": [{"recipe": "set", "agent": {"name": "sac", "hidden": [40_000]}}]}, "at most 32,768"),
        ({"arms": ["dense"]}, "not 'dense'"),
        ({"agent": {"learning_rate": 0.0}}, "must be positive"),
        ({"agent": {"hidden": []}}, "positive widths"),
        ({"warm_up": 4000}, "leaves nothing"),
        ({"warm_up": 10}, "less than one batch"),
        ({"arms": []}, "at least one [[arms]]"),
        ({"arms": [{"recipe": "dense"}, {"recipe": "dense"}]}, "appears twice"),
        ({"arms": [{"recipe": "set"}, {"recipe": "rigl", "name": "SET"}]}, "one name to systems"),
        (
            {
                "environments": [
                    {"name": "a:b", "random": 0.0, "failed": 1.5, "learned": 1.0, "reference": 2.0}
                ]
            },
            "failed must not exceed learned",
        ),
        ({"arms": [{"recipe": "dense"}, {"recipe": "dense", "name": "again", "role": "aa"}]}, "seeds_from"),
        ({"arms": [{"recipe": "dense", "role": "placbo"}]}, "did you mean 'placebo'"),
        ({"arms": [{"recipe": "tiny", "role": "dense"}]}, "its recipe must leave the networks dense"),
        *(
            (
                {"arms": [{"recipe": "dense"}, {"recipe": recipe, "role": "aa", "seeds_from": 100}]},
                "give it recipe = 'dense', that of arm 'dense'",
            )
            for recipe in ("static", "dense_rvl")
        ),
        ({"arms": [{"recipe": "dense", "name": "größer"}]}, "may hold letters a to z, digits and _ only"),
        ({"name": "größe"}, "may hold letters a to z, digits and _ only"),
        ({"environments": [{"name": "brax:hopper", "random": 1.0}]}, "together, or none"),
        ({"environments": [{"name": "a:b", "random": 1.0, "learned": 1.0, "reference": 0.0}]}, "must exceed"),
        (
            {"environments": [{"name": "a:b", "random": 1.0, "learned": 1.0, "reference": 2.0}]},
            "learned must exceed random",
        ),
        (
            {"environments": [{"name": "a:b", "episodes": 0}]},
            "'episodes' of environment 'a:b' must be positive",
        ),
    ],
)
def test_a_mistake_gives_one_sentence_that_names_the_file(changes, sentence):
    with pytest.raises(UserError) as error:
        parse(**changes)
    assert sentence in str(error.value) and "mini.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_environment_may_have_its_own_number_of_episodes():
    suite = parse(environments=[{"name": "a:b"}, {"name": "a:c", "episodes": 2, "final_episodes": 6}])
    usual, own = (suite.training(task).evaluation for task in suite.tasks)
    assert usual == suite.evaluation
    assert (own.interval, own.episodes, own.final_episodes) == (usual.interval, 2, 6)


def test_a_missing_key_is_named():
    table = fake.table()
    del table["steps"]
    with pytest.raises(UserError, match="'steps' is missing"):
        suites.parse(table, "mini.toml")


def test_files_that_are_not_toml_are_refused(tmp_path: Path):
    bad = tmp_path / "bad.toml"
    bad.write_text("steps = = 3")
    with pytest.raises(UserError, match=r"bad\.toml is not valid TOML"):
        suites.read(bad)


def test_an_ablation_is_a_recipe_with_one_field_changed():
    suite = parse(arms=[{"recipe": "rlx2", "name": "rlx2_n1", "set": {"n": 1}}])
    arm = suite.arms[0]
    assert (arm.recipe.n, arm.recipe.name, arm.recipe.buffer) == (1, "rlx2_n1", "dynamic")


def test_the_critic_may_have_its_own_sparsity():
    suite = parse(arms=[{"recipe": "rlx2", "sparsities": [0.9, 0.95], "critic_sparsities": [0.8, 0.85]}])
    knobs = {(run.knobs["actor"], run.knobs["critic"]) for _, _, run in suite.runs()}
    assert knobs == {(0.9, 0.8), (0.95, 0.85)}


def test_arms_that_differ_in_the_critic_only_may_share_seeds():
    knobs = {"recipe": "rlx2", "sparsities": [0.8]}
    arms = [{**knobs, "name": f"rlx2_{c}", "critic_sparsities": [c / 10]} for c in (5, 7)]
    assert len(parse(arms=arms).arms) == 2
    with pytest.raises(UserError, match="are the same runs"):
        parse(arms=[{**knobs, "critic_sparsities": [0.8]}, {**knobs, "name": "again"}])


def test_what_a_recipe_says_about_itself_enters_no_hash():
    suite = parse()
    reworded = [
        dataclasses.replace(arm, recipe=dataclasses.replace(arm.recipe, summary="x")) for arm in suite.arms
    ]
    assert dataclasses.replace(suite, arms=tuple(reworded)).hash() == suite.hash()
    assert "summary" not in suite.plain()["arms"][0]["recipe"]


def test_the_hash_follows_the_content_and_not_the_title():
    assert parse().hash() == parse(title="another").hash()
    assert parse().hash() != parse(seeds=7).hash()
    assert json.loads(json.dumps(parse().plain())) == parse().plain()


def test_an_absent_schedule_is_the_published_one_scaled():
    table = fake.table()
    del table["schedule"]
    assert suites.parse(table, "mini.toml").schedule.buffer_max == round(1e6 * 4000 / 3e6)


def test_knobs_of_methods_with_a_coefficient_are_any_numbers_from_0_on():
    arms = [{"recipe": "dense"}, {"recipe": "l0", "sparsities": [0.5, 300.0]}]
    found = parse(arms=arms).arms[1]
    assert found.sparsities == (0.5, 300.0)
    with pytest.raises(UserError, match="coefficient -1 is no number from 0 on"):
        parse(arms=[arms[0], {"recipe": "l0", "sparsities": [-1.0]}])


def test_without_a_schedule_a_compiled_call_is_as_long_as_the_periods_allow():
    table = {key: value for key, value in fake.SUITE.items() if key != "schedule"}
    # A dynamic buffer is looked at between calls: at short budgets its check is the period that counts.
    for steps, warm_up, interval, longest, with_checks in (
        (4000, 400, 200, 200, 10),
        (100_000, 5000, 5000, 1000, 250),
        (600_000, 20_000, 20_000, 2000, 2000),
    ):
        evaluation = {"interval": interval, "episodes": 5, "final_episodes": 10}
        changes = {"steps": steps, "warm_up": warm_up, "evaluation": evaluation}
        for arms, expected in (
            ([{"recipe": "dense"}, {"recipe": "rigl"}], longest),
            ([{"recipe": "dense"}, {"recipe": "rlx2"}], with_checks),
        ):
            suite = suites.parse({**table, **changes, "arms": arms}, "mini.toml")
            training = suite.training(suite.tasks[0])
            assert training.dispatch_steps == expected
            assert training.schedule.buffer_check % expected == 0
    # Where the call is declared, the check is a multiple of it.
    given = suites.parse({**table, **changes, "dispatch": 400}, "mini.toml")
    assert (given.schedule.buffer_check, given.training(given.tasks[0]).dispatch_steps) == (2000, 400)


def test_a_byte_order_mark_is_no_mistake_and_another_encoding_is_named(tmp_path: Path):
    file = tmp_path / "mine.toml"
    text = paths.suite_path("smoke").read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8-sig")
    assert suites.read(file).hash() == suites.read(paths.suite_path("smoke")).hash()
    file.write_bytes('name = "ma\xdfe"\n'.encode("latin-1"))
    with pytest.raises(UserError, match=r"mine\.toml is not UTF-8 \(byte 10\); save it"):
        suites.read(file)
