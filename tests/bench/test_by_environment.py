"""Values that an arm has on single environments: written by hand, found by a search, in records and captions."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparserl_jax.bench import check, records, suites, summary, trials
from sparserl_jax.bench import run as runs
from sparserl_jax.bench.claims import suite_of
from sparserl_jax.errors import UserError
from tests.bench import fake
from tests.bench.tuned import TUNE, parse, plan_of

PENDULUM, CART = (env["name"] for env in fake.SUITE["environments"])
ARMS: list[dict[str, Any]] = [
    {"recipe": "dense"},
    {"recipe": "dense", "name": "dense_aa", "role": "aa", "seeds_from": 100},
    {
        "recipe": "rlx2",
        "overrides": {"tau": 0.02, "gamma": 0.98},
        "by_environment": {CART: {"tau": 0.01, "learning_rate": 1e-3}},
    },
]


def values_of(suite: Any) -> dict[tuple[str, str], dict[str, float]]:
    """(arm, environment) -> its values, which are the same for all its runs there."""
    return {(run.arm, task.name): dict(run.overrides) for task, _, run in suite.runs()}


def best(env: str, arm: str) -> dict[str, float]:
    """The values that are best for an arm on one environment in the runs below."""
    return {
        ("dense", PENDULUM): {"learning_rate": 3e-4, "tau": 0.02},
        ("dense", CART): {"learning_rate": 1e-3, "tau": 0.005},
        ("rlx2", PENDULUM): {"learning_rate": 1e-3, "tau": 0.005},
        ("rlx2", CART): {"learning_rate": 1e-3, "tau": 0.005},
    }[arm, env]


def better(outcome: Any) -> Any:
    """Runs with the best values of their arm and environment end 0.2 of z higher than others; no two are the same."""
    env = outcome.run.training.env
    span = 1150.0 if env == PENDULUM else 980.0
    values = dict(outcome.run.overrides)
    gain = 0.2 * (values == best(env, outcome.run.recipe.name)) - 0.01 * sum(values.values()) - 0.3
    points = (outcome.curve["return"] + gain * span).astype(np.float32)
    return dataclasses.replace(outcome, curve={**outcome.curve, "return": points})


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "x"
    plan = plan_of(parse(tune={**TUNE, "by_environment": True}))
    runs.run(plan, folder, fake.quiet(), execute=fake.Execute(plan, better))
    return folder


def test_values_of_an_environment_stand_above_those_of_the_arm():
    suite = parse(arms=ARMS, tune=None)
    assert values_of(suite) == {
        ("dense", PENDULUM): {},
        ("dense", CART): {},
        ("dense_aa", PENDULUM): {},
        ("dense_aa", CART): {},
        ("rlx2", PENDULUM): {"tau": 0.02, "gamma": 0.98},
        ("rlx2", CART): {"tau": 0.01, "gamma": 0.98, "learning_rate": 1e-3},
    }
    effective = {task.name: run.effective for task, arm, run in suite.runs() if arm.name == "rlx2"}
    assert (effective[PENDULUM].agent.tau, effective[CART].agent.tau) == (0.02, 0.01)
    assert effective[PENDULUM].agent.learning_rate == suite.agent.learning_rate


def test_a_suite_keeps_them_in_its_configuration_and_others_keep_their_hash():
    suite = parse(arms=ARMS, tune=None)
    plain = json.loads(json.dumps(suite.plain()))
    assert plain["arms"][2]["by_environment"] == {CART: {"learning_rate": 1e-3, "tau": 0.01}}
    assert values_of(suite_of(plain)) == values_of(suite)
    without = [ARMS[0], ARMS[1], {key: value for key, value in ARMS[2].items() if key != "by_environment"}]
    assert "by_environment" not in json.dumps(parse(arms=without, tune=None).plain())
    assert suite.hash() != parse(arms=without, tune=None).hash()


def test_records_hold_them_and_the_caption_tells_them(tmp_path):
    plan = fake.make_plan(parse(arms=ARMS, tune=None))
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))
    assert check.check(tmp_path / "x") == []
    found = {
        (r["result"]["arm"], r["result"]["env"]): r["provenance"]["config"]["training"]["agent"]
        for r in records.load_all(tmp_path / "x")[1]
    }
    assert (found["rlx2", CART]["tau"], found["rlx2", PENDULUM]["tau"]) == (0.01, 0.02)
    caption = "\n".join(summary.summarise(tmp_path / "x").caption)
    assert f"rlx2: gamma 0.98, tau 0.02; rlx2 on {CART}: learning_rate 0.001, tau 0.01." in caption


def test_the_same_arm_twice_is_refused_only_on_the_environment_where_nothing_differs():
    twice = [{"recipe": "dense"}, {"recipe": "dense", "name": "other", "role": "method"}]
    twice[1]["by_environment"] = {CART: {"tau": 0.01}}  # type: ignore[assignment]
    with pytest.raises(UserError, match="are the same runs"):
        parse(arms=twice, tune=None)
    twice[1]["by_environment"] = {CART: {"tau": 0.01}, PENDULUM: {"tau": 0.02}}  # type: ignore[assignment]
    assert len(values_of(parse(arms=twice, tune=None))) == 4


@pytest.mark.parametrize(
    ("arm", "changes", "sentence"),
    [
        (2, {"by_environment": 3}, "must hold a table per environment"),
        (2, {"by_environment": {"gymnax:Pendulum": {}}}, f"did you mean '{PENDULUM}'"),
        (2, {"by_environment": {CART: {"taw": 0.1}}}, "did you mean 'tau'"),
        (2, {"by_environment": {CART: {"tau": 0}}}, "must be a number in (0, 1]"),
        (1, {"by_environment": {CART: {"tau": 0.1}}}, "give it the same 'overrides' and 'by_environment'"),
    ],
)
def test_a_mistake_gives_one_sentence(arm, changes, sentence):
    arms = [{**entry, **(changes if index == arm else {})} for index, entry in enumerate(ARMS)]
    with pytest.raises(UserError) as error:
        parse(arms=arms, tune=None)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_search_may_choose_for_every_environment_by_itself(tuned):
    found = trials.outcome(tuned)
    chosen = {(trial.arm, env): trial.values for trial in found.trials for env in trial.chosen}
    assert chosen == {(arm, env): best(env, arm) for arm in ("dense", "rlx2") for env in (PENDULUM, CART)}
    assert all(len(values) == 2 for values in found.optimism.values()), "one estimate per environment"
    text = trials.write(tuned)[0].read_text()
    rows = [line for line in text.splitlines() if line.startswith(("| dense |", "| rlx2 |"))]
    assert [row.count("<-") for row in rows if "<-" in row] == [1, 1, 2]
    assert "Each environment takes the trial that is best there (<-)." in text
    assert check.check(tuned) == []


def test_what_it_chose_can_be_pasted_into_the_suite(tuned):
    pasted = tomllib.loads(trials.write(tuned)[2].read_text())
    suite = parse(arms=ARMS[:2] + [{"recipe": "rlx2"}], **pasted)
    values = values_of(suite)
    for arm, source in (("dense", "dense"), ("dense_aa", "dense"), ("rlx2", "rlx2")):
        assert {env: values[arm, env] for env in (PENDULUM, CART)} == {
            env: best(env, source) for env in (PENDULUM, CART)
        }
    arms = {arm.name: arm for arm in suite.arms}
    assert arms["dense"].overrides == () and len(arms["dense"].by_environment) == 2
    assert len(arms["rlx2"].by_environment) == 2, "chosen on each, though the choice is the same"
    with pytest.raises(UserError, match="has 'by_environment' of its own already"):
        parse(arms=[ARMS[0], ARMS[1], {"recipe": "rlx2", "by_environment": {CART: {"tau": 0.1}}}], **pasted)


def test_values_follow_an_environment_whose_name_the_plan_completes(monkeypatch, tmp_path):
    """A name in a suite may leave out what a default says; runs, records and tables have the whole one."""
    short, whole = "brax:inverted_pendulum", "brax:inverted_pendulum?backend=generalized"
    real = fake.describe
    monkeypatch.setattr(fake, "describe", lambda source: real(whole if source == short else source))
    environments = [fake.SUITE["environments"][0], {**fake.SUITE["environments"][1], "name": short}]
    arms = [ARMS[0], {"recipe": "rlx2", "by_environment": {short: {"tau": 0.01, "gamma": 0.9}}}]
    suite = parse(arms=arms, environments=environments, tune={**TUNE, "by_environment": True})
    plan = fake.make_plan(dataclasses.replace(suite, tune=None))
    assert values_of(plan.suite)["rlx2", whole] == {"tau": 0.01, "gamma": 0.9}
    trial = plan_of(suite)
    assert values_of(trial.suite)["rlx2_t1", whole] == {"learning_rate": 3e-4, "tau": 0.02, "gamma": 0.9}
    runs.run(trial, tmp_path / "x", fake.quiet(), execute=fake.Execute(trial))
    pasted = tomllib.loads(trials.write(tmp_path / "x")[2].read_text())
    again = parse(arms=[ARMS[0], {"recipe": "rlx2"}], environments=environments, **pasted)
    assert dict(dict(again.arms[1].by_environment)[short])["gamma"] == 0.9


def test_a_budget_s_values_stand_above_those_of_an_environment():
    budgets = {"short": {"steps": 2000, "overrides": {"rlx2": {"tau": 0.5}}}}
    for part in ("schedule", "evaluation"):
        budgets["short"][part] = fake.SUITE[part]
    changes = {"arms": ARMS, "budget": "long", "budgets": budgets}
    short = values_of(suites.parse(fake.table(**changes), "mini.toml", "short"))
    assert short["rlx2", CART] == {"tau": 0.5, "gamma": 0.98, "learning_rate": 1e-3}
    assert values_of(suites.parse(fake.table(**changes), "mini.toml"))["rlx2", CART]["tau"] == 0.01


def test_choosing_on_each_environment_is_another_effort_and_is_told(tmp_path):
    claim = {"trials": 4, "seeds": [1000, 1001, 1002]}
    apart = {**claim, "by_environment": {env: {"tau": 0.02} for env in (PENDULUM, CART)}}
    together = {**claim, "overrides": {"tau": 0.02}}
    arms = [*ARMS[:2], {"recipe": "rlx2"}]
    with pytest.raises(
        UserError, match=r"seeds and the best on each environment, rlx2: 4 trials x 3 seeds\)"
    ):
        parse(arms=arms, tune=None, tuned={"dense": apart, "dense_aa": apart, "rlx2": together})
    suite = parse(arms=arms, tune=None, tuned={"dense": apart, "dense_aa": apart, "rlx2": apart})
    plan = fake.make_plan(suite)
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))
    caption = "\n".join(summary.summarise(tmp_path / "x").caption)
    assert "were tuned alike: 4 trials x 3 seeds each, the best taken on each environment." in caption


def test_an_arm_without_any_value_is_a_trial_like_others(tmp_path):
    """All settings of the grid change nothing in it, so that one trial is left."""
    grid = {"drop_fraction": [0.3, 0.5]}
    plan = plan_of(parse(tune={**TUNE, "grid": grid, "unequal": True}))
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))
    found = trials.outcome(tmp_path / "x")
    assert [trial.values for trial in found.trials if trial.arm == "dense"] == [{}]
    assert "overrides = {  }" in trials.tuned_toml(found)


def test_values_that_are_not_searched_stay_with_their_environment(tmp_path):
    arms = [{"recipe": "dense"}, {"recipe": "rlx2", "by_environment": {CART: {"gamma": 0.9, "tau": 0.3}}}]
    plan = plan_of(parse(arms=arms))
    values = values_of(plan.suite)
    assert {values["rlx2_t0", env].get("gamma") for env in (PENDULUM, CART)} == {None, 0.9}
    assert values["rlx2_t0", CART]["tau"] == values["rlx2_t0", PENDULUM]["tau"] == 0.005
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))
    pasted = tomllib.loads(trials.write(tmp_path / "x")[2].read_text())["tuned"]["rlx2"]
    assert pasted["by_environment"] == {CART: {"gamma": 0.9}} and set(pasted["overrides"]) == set(
        TUNE["grid"]
    )
