"""The plan: says before anything runs what will run, and refuses what cannot."""

from __future__ import annotations

import re

import pytest

from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import run as runs
from sparserl_jax.bench import suites
from sparserl_jax.errors import UserError
from tests.bench import fake


def test_every_arm_knob_and_seed_on_every_environment_is_a_run_of_its_own():
    plan = fake.make_plan()
    # dense, A/A, placebo and dense_rvl once, five methods at two sparsities.
    assert len(plan.runs) == 2 * (4 + 5 * 2) * 6
    assert len({planned.folder for planned in plan.runs}) == len(plan.runs)


def test_the_printed_plan_names_programs_reasons_costs_and_shares():
    plan = fake.make_plan()
    text = "\n".join(plans.lines(plan))
    assert "168 runs = 2 environments x 84 members; 4 programs, 16 compilations" in text
    assert "why: they share everything" in text
    assert "dispatch: 200 steps, 20 per program, 80 in all" in text
    assert "training FLOPs:" in text and "executed (masked-dense saves none)" in text
    assert "surcharge: its dense members carry masks and 17 events" in text
    assert "memory 94.4 MiB" in text
    assert "% of its FLOPs" in text and "% of its serial steps" in text and "of the physics" not in text
    assert "members: dense x6, dense_aa x6, placebo@0.95 x6, tiny@0.6 x6" in text


def test_where_environments_are_parallel_evaluation_is_held_against_the_physics_too():
    line = next(
        line
        for line in plans.lines(fake.make_plan(num_envs=4, warm_up=400))
        if line.startswith("evaluation on gymnax:Pendulum-v1")
    )
    serial = int(re.search(r"\((\d[\d,]*) one after another", line)[1].replace(",", ""))
    steps = fake.SUITE["steps"]
    told = [int(share) for share in re.findall(r"(\d+) % of its serial steps", line)]
    assert told == [round(100 * serial / (serial + steps / 4)), round(100 * serial / (serial + steps))]


def test_periods_that_do_not_fit_are_refused_with_the_nearest_valid_values():
    with pytest.raises(UserError, match="3999.*nearest valid values are 3998 and 4000"):
        fake.make_plan(steps=3999)
    with pytest.raises(UserError, match="4100.*nearest valid values are 4000 and 4200"):
        fake.make_plan(steps=4100)
    with pytest.raises(UserError, match="divisor of 200"):
        fake.make_plan(dispatch=150)


def test_a_method_without_a_single_event_is_refused_and_one_that_needs_none_is_not():
    late = {**fake.SUITE["schedule"], "topology_interval": 100_000}
    told = {
        "rigl": "acts every schedule.topology_interval = 100000 ticks of the",
        "gradual": "topology_interval at most",
    }
    for recipe, sentence in told.items():
        with pytest.raises(UserError, match=sentence):
            fake.make_plan(**{**fake.SMALL, "arms": [{"recipe": "dense"}, {"recipe": recipe}]}, schedule=late)
    idle = [{"recipe": name} for name in ("dense", "static", "tiny")]
    assert fake.make_plan(**{**fake.SMALL, "arms": idle}, schedule=late).runs


def test_a_starved_tensor_is_named_with_the_largest_reachable_sparsity():
    with pytest.raises(
        UserError, match=r"arm 'placebo' on gymnax:Pendulum-v1: sparsity 0\.9999.*use at most 0\.9"
    ):
        fake.make_plan(arms=[{"recipe": "placebo", "sparsities": [0.9999]}])


def test_theory_counts_live_weights_and_execution_the_dense_ones_except_for_tiny():
    plan = fake.make_plan()
    costs = {
        (p.arm.name, p.run.sparsity): plans.theory(plan, p)
        for p in plan.runs
        if p.task.name.startswith("gymnax")
    }
    for arm in ("static", "set", "rigl", "rlx2"):
        cost = costs[arm, 0.9]
        assert cost["training_flops_executed"] == cost["training_flops_dense"]
        assert cost["training_flops_theory"] < 0.15 * cost["training_flops_dense"]
    tiny = costs["tiny", 0.9]
    assert tiny["training_flops_executed"] == tiny["training_flops_theory"] < tiny["training_flops_dense"]
    assert costs["rigl", 0.9]["training_flops_theory"] > costs["set", 0.9]["training_flops_theory"]
    assert costs["dense", 0.0]["actor_parameters"] == 3 * 16 + 16 * 16 + 16 + 16 + 16 + 1


def test_a_population_larger_than_memory_is_refused_with_what_fits(tmp_path):
    with pytest.raises(UserError, match="members fit"):
        runs.check_machine(fake.make_plan(), tmp_path, 15_000_000)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sparsities": [0.8001, 0.8004], "arms": [{"recipe": "rlx2"}]}, "would share the record folder"),
        ({"environments": [{"name": "a:b?g=10"}, {"name": "a:b?g=-10"}]}, "on a:b?g=10 and"),
        ({"environments": [{"name": "a:b"}, {"name": "a:b?backend=generalized"}]}, "are the same run"),
    ],
)
def test_two_runs_in_one_place_are_refused_and_both_named(changes, sentence):
    def describe(source):
        return fake.describe("a:b?backend=generalized" if source == "a:b" else source)

    suite = suites.parse(fake.table(**changes), "mini.toml")
    with pytest.raises(UserError) as error:
        plans.make(suite, group=fake.group, describe=describe)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_environment_names_become_folder_names():
    assert plans.slug("brax:hopper?backend=mjx") == "brax-hopper-backend-mjx"
    assert plans.slug("../../etc") == "etc"
    assert plans.slug("own:Größe") == "own-Gr-e"  # what archives and patterns know
