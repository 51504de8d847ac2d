"""Arms with an algorithm of their own: what they take over, what is refused, and that nothing else is touched."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sparserl_jax.bench import algorithms, claims, suites, tune, verdicts
from sparserl_jax.bench import plan as plans
from sparserl_jax.bench.rows import Row
from sparserl_jax.errors import UserError

DATA = "own:random?episodes=5"


def offline(*arms: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A suite on a dataset with these arms behind dense, its A/A and a placebo."""
    table = {
        "name": "mixed",
        "steps": 40,
        "warm_up": 0,
        "seeds": 2,
        "sparsities": [0.5],
        "agent": {"name": "iql", "hidden": [8, 8], "batch_size": 16, "gamma": 0.9, "learning_rate": 1e-3},
        "schedule": {"topology_interval": 10},
        "evaluation": {"interval": 20, "episodes": 2, "final_episodes": 2},
        "environments": [{"name": "own:Treatment-III", "dataset": DATA}],
        "arms": [{"recipe": "dense"}, *arms],
    }
    return {**table, **changes}


def only(suite: suites.Suite, name: str) -> suites.Arm:
    return next(arm for arm in suite.arms if arm.name == name)


def test_another_algorithm_takes_over_what_both_have_in_the_same_sense_and_nothing_else():
    table = offline({"recipe": "dense", "name": "a", "agent": {"name": "awac", "tau": 0.1}})
    agent = only(suites.parse(table, "x"), "a").agent
    assert (agent.name, agent.hidden, agent.batch_size, agent.gamma) == ("awac", (8, 8), 16, 0.9)
    assert (agent.learning_rate, agent.tau, agent.temperature) == (1e-3, 0.1, 1.0)


def test_the_same_algorithm_takes_over_everything():
    table = offline({"recipe": "dense", "name": "a", "agent": {"name": "iql", "temperature": 2.0}})
    table["agent"]["expectile"] = 0.95
    agent = only(suites.parse(table, "x"), "a").agent
    assert (agent.expectile, agent.temperature, agent.hidden) == (0.95, 2.0, (8, 8))


def test_every_algorithm_is_a_program_of_its_own_and_every_run_knows_its_networks():
    arms = [
        {"recipe": "dense", "name": "a", "agent": {"name": "awac"}},
        {"recipe": "dense", "name": "f", "agent": {"name": "fttpo_corrected"}},
        {"recipe": "rigl"},
    ]
    plan = plans.make(suites.parse(offline(*arms), "x"))
    assert [{run.arm for run in program.runs} for program in plan.programs] == [
        {"dense", "rigl"},
        {"a"},
        {"f"},
    ]
    networks = {one.arm.name: set(plan.layers_of(one.run)) for one in plan.runs}
    assert networks["dense"] == networks["rigl"] == {"actor", "critic", "value"}
    assert networks["a"] == {"actor", "critic"} and "proposal" in networks["f"]
    costs = {one.arm.name: plans.theory(plan, one)["training_flops_executed"] for one in plan.runs}
    assert costs["f"] > costs["dense"]  # 25 passes against 18


def test_hashes_of_suites_without_such_arms_are_what_they_were_and_with_them_read_back():
    plain = suites.parse(offline(), "x")
    assert "agent" not in plain.plain()["arms"][0]
    mixed = suites.parse(offline({"recipe": "dense", "name": "a", "agent": {"name": "sql"}}), "x")
    assert mixed.hash() != plain.hash()
    again = claims.suite_of(mixed.plain())
    assert [arm.agent for arm in again.arms] == [arm.agent for arm in mixed.arms]
    assert again.hash() == mixed.hash()


def test_the_caption_says_what_arms_have_of_their_own():
    arm = {"recipe": "dense", "name": "a", "agent": {"name": "sql", "alpha": 7.0}}
    (sentence,) = algorithms.sentences(suites.parse(offline(arm), "x").plain())
    assert sentence == "Arms with an algorithm of their own: a: sql, alpha 7.0."
    assert algorithms.sentences(suites.parse(offline(), "x").plain()) == []


@pytest.mark.parametrize(
    ("arm", "sentence"),
    [
        ({"agent": {"name": "iqk"}}, "iqk"),
        ({"agent": {"learning_rate": 1.0}}, "must be a table with the 'name' of an algorithm"),
        ({"agent": 3}, "must be a table with the 'name' of an algorithm"),
        ({"agent": {"name": "sac"}}, "'sac' learns from a replay and the suite's 'iql' from a dataset"),
        ({"agent": {"name": "awac", "speed": 1}}, "speed"),
        ({"agent": {"name": "awac", "batch_size": 32}}, "batch_size = 32 it does not learn from as much as"),
        ({"agent": {"name": "awac", "temperature": -1.0}}, "'arm 'a', agent.temperature' must be"),
        ({"agent": {"name": "awac"}, "role": "aa", "seeds_from": 50}, "drop 'agent'"),
        ({"agent": {"name": "awac"}, "overrides": {"expectile": 0.9}}, "expectile"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_that_names_the_arm(arm, sentence):
    with pytest.raises(UserError) as error:
        suites.parse(offline({"recipe": "dense", "name": "a", **arm}), "x.toml")
    told = str(error.value)
    assert sentence in told and "'a'" in told and "\n" not in told


def test_a_narrow_network_is_the_opponent_of_arms_of_its_own_algorithm_alone():
    row = Row(
        arm="m", role="method", method="static", sparsity=0.5, critic_sparsity=0.5, target=1, seeds=(0,), diverged=0,
        returns=None, z=None, value=None, z_value=None, worst=0.0, p10=0.0, failure_rate=None, agent="one",
    )  # type: ignore[arg-type]  # fmt: skip
    tiny = dataclasses.replace(row, arm="tiny", method="tiny")
    assert verdicts.opponent(row, [tiny]) is tiny
    assert verdicts.opponent(row, [dataclasses.replace(tiny, agent="two")]) is None


def test_a_search_trains_every_arm_by_its_own_algorithm_on_a_grid_of_its_own():
    arms = [
        {"recipe": "dense", "name": "a", "agent": {"name": "sql"}},
        {"recipe": "rigl"},
    ]
    grid, own = {"expectile": [0.7, 0.9]}, {"a": {"alpha": [0.5, 5.0]}}
    table = {"seeds": 1, "seeds_from": 50, "grid": grid, "grids": own}
    derived = tune.suite_of(suites.parse(offline(*arms, tune=table), "x"))
    found = {arm.name: (arm.agent.name if arm.agent else None, dict(arm.overrides)) for arm in derived.arms}
    assert found["a_t0"] == ("sql", {"alpha": 0.5}) and found["a_t1"] == ("sql", {"alpha": 5.0})
    assert found["rigl_t1"] == found["dense_t1"] == (None, {"expectile": 0.9})
    assert {run.training.agent.name for _, _, run in derived.runs()} == {"iql", "sql"}
    with pytest.raises(UserError, match=r"\[tune\] grid, arm 'a'.*expectile"):
        suites.parse(offline(*arms, tune={**table, "grids": {}}), "x")
