"""Budgets: one comparison at several lengths, never in one folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparserl_jax.bench import claims, reproduce, suites, summary, tuning
from sparserl_jax.bench import run as runs
from sparserl_jax.errors import UserError
from tests.bench import fake

SHORT = {
    "steps": 2000,
    "seeds": 2,
    "schedule": {**fake.SUITE["schedule"], "delay": 200, "buffer_max": 1000},
    "evaluation": {"interval": 100, "episodes": 5, "final_episodes": 5},
    "overrides": {"rlx2": {"buffer_threshold": 0.1}},
}
TABLE = fake.table(budget="paper", budgets={"short": SHORT}, **fake.SMALL)


def parse(chosen=None, **changes):
    return suites.parse({**TABLE, **changes}, "mini.toml", chosen)


def test_a_budget_replaces_what_it_names_and_belongs_to_name_and_hash():
    paper, short = parse(), parse("short")
    assert parse("paper") == paper
    assert (paper.name, short.name) == ("mini", "mini_short")
    assert (paper.budget, short.budget) == ("paper", "short")
    assert short.title == "a miniature (budget short)"
    assert (paper.steps, short.steps, short.warm_up) == (4000, 2000, 400)
    assert (short.schedule.delay, short.schedule.topology_interval) == (200, 200)
    assert (paper.evaluation.interval, short.evaluation.interval, short.points) == (200, 100, 20)
    assert paper.hash() != short.hash()
    assert paper.result and short.result
    smoke = suites.parse({**TABLE, "budgets": {"smoke": {**SHORT, "result": False}}}, "mini.toml", "smoke")
    assert not smoke.result
    values = {arm.name: arm.overrides for arm in short.arms}
    assert values == {"dense": (), "tiny": (), "rlx2": (("buffer_threshold", 0.1),)}
    assert all(not arm.overrides for arm in paper.arms)
    again = claims.suite_of(json.loads(json.dumps(short.plain())))
    assert again.hash() == short.hash()


def test_a_title_that_tells_the_steps_tells_those_of_the_budget():
    told = parse("short", title="a miniature, 4,000 steps")
    assert told.title == "a miniature, 2,000 steps (budget short)"
    assert parse(title="a miniature, 4,000 steps").title == "a miniature, 4,000 steps"
    with pytest.raises(UserError, match="steps"):
        suites.parse({**TABLE, "budgets": {"short": {**SHORT, "steps": "2000"}}}, "mini.toml", "short")


def test_values_that_were_tuned_at_the_length_of_another_budget_say_so():
    claim = {"trials": 4, "seeds": [1000], "overrides": {"tau": 0.02}}
    arms = ("dense", "tiny", "rlx2")
    tuned = {**dict.fromkeys(arms, claim), "rlx2": {**claim, "at_steps": 2000}}
    budgets = {"short": {name: value for name, value in SHORT.items() if name != "overrides"}}
    paper, short = (parse(budget, tuned=tuned, budgets=budgets) for budget in ("paper", "short"))
    assert [arm.tuning.at_steps for arm in paper.arms] == [None, None, 2000]
    assert [arm.tuning.at_steps for arm in short.arms] == [4000, 4000, 2000]
    told = tuning.sentences(short.plain())
    assert told[-2] == "TUNED AT ANOTHER LENGTH than the 2,000 steps of these runs: dense 4,000, tiny 4,000."
    assert "TUNED AT ANOTHER LENGTH than the 4,000 steps of these runs: rlx2 2,000." in tuning.sentences(
        paper.plain()
    )
    assert claims.suite_of(json.loads(json.dumps(short.plain()))).hash() == short.hash()
    with pytest.raises(UserError, match="at_steps = 0 is no length"):
        parse(tuned={**tuned, "dense": {**claim, "at_steps": 0}})


def test_a_suite_without_budgets_is_what_it_was():
    plain = fake.table(**fake.SMALL)
    assert suites.parse(plain, "mini.toml").budget is None
    assert "budget" not in suites.parse(plain, "mini.toml").plain()


def test_every_length_has_a_folder_of_its_own(tmp_path: Path):
    paper, short = (fake.make_plan(parse(budget)) for budget in (None, "short"))
    assert runs.folder_of(paper) != runs.folder_of(short)
    fake.finished(tmp_path / "x", short)
    with pytest.raises(UserError, match="holds another configuration"):
        fake.finished(tmp_path / "x", paper)
    row = summary.summarise(tmp_path / "x").blocks[0].rows[0]
    assert row.command.startswith(f"sparserl bench {reproduce.SUITE_FILE} --budget short --only ")


@pytest.mark.parametrize(
    ("changes", "budget", "sentence"),
    [
        ({}, "shrt", "unknown budget.*did you mean 'short'"),
        ({"budgets": {}, "budget": "paper"}, "short", "unknown budget"),
        ({"budgets": {"paper": SHORT}}, None, "'paper' is that of the top level"),
        ({"budgets": {"short": {**SHORT, "step": 3}}}, None, "did you mean 'steps'"),
        ({"budgets": {"short": 3}}, None, "must be a table"),
        ({"budgets": {"a-b": SHORT}}, None, "letters and digits only"),
        ({"budgets": {"short": {"steps": 2000}}}, None, r"needs a \[schedule\] of its own"),
        ({"budgets": {"short": {**SHORT, "overrides": {"rlx": {}}}}}, None, "did you mean 'rlx2'"),
        ({"budgets": {"short": {**SHORT, "overrides": {"rlx2": 3}}}}, None, "a table per arm"),
        ({"arms": 3}, "short", "arms"),
        (
            {
                "arms": [{"recipe": "dense"}, {"recipe": "rlx2", "overrides": 3}],
                "budgets": {"short": {**SHORT, "overrides": {"rlx2": {"gamma": 0.9}}}},
            },
            "short",
            "overrides",
        ),
    ],
)
def test_a_mistake_gives_one_sentence_whatever_budget_is_chosen(changes, budget, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        parse(budget, **changes)
    assert "mini.toml" in str(error.value) and "\n" not in str(error.value)


def test_a_suite_of_one_length_knows_no_budgets():
    with pytest.raises(UserError, match="has one budget only; leave --budget short out"):
        suites.parse(fake.table(), "mini.toml", "short")
    with pytest.raises(UserError, match="name the budget of the top level"):
        suites.parse(fake.table(budgets={"short": SHORT}), "mini.toml")
