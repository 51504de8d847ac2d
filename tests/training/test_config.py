"""What cannot be scheduled exactly is refused in one sentence, before anything is compiled."""

import dataclasses
import json
import re

import pytest

from sparserl_jax.bench import single
from sparserl_jax.errors import UserError
from sparserl_jax.training import Evaluation, Run, Schedule, TD3Config, group, recipe
from sparserl_jax.training.iterations import LONGEST_DISPATCH
from tests.reference import small


def refusal(**changes):
    with pytest.raises(UserError) as refused:
        small.training(**changes).check()
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


def numbers(sentence):
    return [int(word) for word in re.findall(r"-?\d+", sentence)]


def test_small_training_is_valid():
    small.training().check()
    assert small.training().updates == 420
    assert small.training(dispatch=None).dispatch_steps == 60


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("steps", {"steps": 481}),
        ("warm_up", {"warm_up": 61}),
        ("evaluation.interval", {"evaluation": Evaluation(121, 4, 8)}),
        ("schedule.buffer_check", {"schedule": Schedule(buffer_check=62)}),
    ],
)
def test_period_that_does_not_divide_is_refused_with_valid_neighbours(name, changes):
    sentence = refusal(**changes)
    assert name in sentence
    value, grid, low, high = numbers(sentence)
    assert grid == 3 and low % 3 == high % 3 == 0
    assert low < value < high and high - low == 3


def test_steps_between_two_evaluations_are_refused_with_the_two_neighbours():
    sentence = refusal(steps=510)
    assert numbers(sentence) == [510, 120, 480, 600]


def test_steps_before_the_first_evaluation_are_refused_with_two_different_neighbours():
    low, high = numbers(refusal(steps=90, dispatch=None))[-2:]
    assert low < high and low % 120 == high % 120 == 0


@pytest.mark.parametrize("steps", [0, -3])
def test_period_below_one_is_refused(steps):
    assert "steps" in refusal(steps=steps)
    assert "warm_up" in refusal(warm_up=steps)


@pytest.mark.parametrize("dispatch", [0, -30, 31, 45, 90])
def test_dispatch_that_does_not_divide_the_periods_is_refused(dispatch):
    assert "dispatch" in refusal(dispatch=dispatch)


@pytest.mark.parametrize(("delay", "num_envs", "dispatch"), [(2, 1, 1), (3, 3, 1), (3, 3, 20), (2, 1, 15)])
def test_dispatch_that_would_cut_a_cycle_of_updates_is_refused(delay, num_envs, dispatch):
    """Such a dispatch would do fewer updates than the clock counts."""
    agent = TD3Config(hidden=(16, 16), batch_size=16, policy_delay=delay)
    assert "dispatch" in refusal(agent=agent, num_envs=num_envs, dispatch=dispatch)


def test_environments_that_do_not_fit_the_policy_delay_are_refused():
    assert numbers(refusal(num_envs=4)) == [4, 1, 3]


@pytest.mark.parametrize(
    "changes",
    [
        {"num_envs": 0},
        {"agent": TD3Config(policy_delay=0)},
        {"evaluation": Evaluation(120, 0, 8)},
        {"evaluation": Evaluation(120, 4, 0)},
    ],
    ids=["num_envs", "policy_delay", "episodes", "final_episodes"],
)
def test_counts_below_one_are_refused(changes, request):
    assert request.node.callspec.id in refusal(**changes)


def test_final_episodes_that_no_whole_number_of_evaluations_makes_are_refused():
    assert "final_episodes = 9 is not a multiple of evaluation.episodes = 4" in (
        told := refusal(evaluation=Evaluation(120, 4, 9))
    )
    assert "8 and 12" in told


def test_warm_up_that_leaves_no_training_or_no_window_is_refused():
    assert "no training" in refusal(warm_up=480)
    assert "warm_up" in refusal(warm_up=18, dispatch=None)


def test_grouping_refuses_what_check_refuses():
    """From Python nobody need call `check`: a run that cannot be scheduled never becomes a Program."""
    with pytest.raises(UserError):
        group(small.runs(small.training(warm_up=61)))


def test_topology_interval_below_one_is_refused():
    with pytest.raises(UserError):
        (program,) = group(
            small.runs(small.training(schedule=Schedule(topology_interval=0, buffer_check=60)))
        )
        program.shapes()


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ({"buffer_max": 100, "buffer_min": 200}, "buffer_max = 100 is less than buffer_min = 200"),
        ({"buffer_max": 23, "buffer_min": 0}, "eight steps of 3 parallel environments"),
        ({"buffer_threshold": -0.1}, "buffer_threshold = -0.1 is negative"),
        ({"buffer_min": -1}, "buffer_min = -1 is negative"),
    ],
)
def test_buffers_that_cannot_be_are_refused(schedule, sentence):
    assert sentence in refusal(schedule=Schedule(buffer_check=60, **schedule))


def test_scaled_schedule_keeps_the_published_proportions_and_its_check_among_the_periods():
    whole = Schedule.scaled(3_000_000)
    assert dataclasses.asdict(whole) == dataclasses.asdict(Schedule())
    tenth = Schedule.scaled(300_000, unit=200)
    assert (tenth.topology_interval, tenth.delay, tenth.buffer_max) == (1000, 30_000, 100_000)
    assert (tenth.buffer_min, tenth.buffer_check, tenth.buffer_threshold) == (10_000, 1000, 0.2)
    tiny = Schedule.scaled(3000, unit=60)
    assert (tiny.topology_interval, tiny.delay, tiny.buffer_max, tiny.buffer_min) == (10, 300, 1000, 100)
    assert tiny.buffer_check == 60  # between dispatches; all else happens inside of them
    # 333 divides nothing and would be rounded up to 500: nine checks, 4,500, are above the smallest size.
    short = Schedule.scaled(100_000, unit=2, common=5000)
    assert (short.buffer_check, short.buffer_min) == (250, 3333)
    assert Schedule.scaled(100_000, unit=2, common=5000, dynamic=False).buffer_check == 1000  # nobody looks


@pytest.mark.parametrize("steps", [20_000, 50_000, 100_000, 200_000, 400_000, 1_000_000])
def test_the_dynamic_buffer_of_a_training_can_reach_its_smallest_size(steps):
    suite = single.suite_of("gymnax:Pendulum-v1", steps=steps)
    schedule, training = suite.schedule, suite.training(suite.tasks[0])
    assert single.DROPS * schedule.buffer_check <= schedule.buffer_min
    assert training.dispatch_steps == min(schedule.buffer_check, LONGEST_DISPATCH)
    assert single.told(suite, {"steps": steps, "recipe": "rlx2"}) == []


def test_a_check_that_is_too_seldom_for_the_smallest_size_is_told():
    suite = single.suite_of("gymnax:Pendulum-v1", steps=20_000, num_envs=100)
    (said,) = single.told(suite, {"steps": 20_000, "recipe": "rlx2"})
    assert "every 100 steps" in said and "about 900 transitions" in said and "667, is not reached" in said
    plain = single.suite_of("gymnax:Pendulum-v1", steps=20_000, num_envs=100, recipe="rigl")
    assert single.told(plain, {"steps": 20_000, "recipe": "rigl"}) == []


def test_run_can_be_written_as_json():
    run = small.runs()[0]
    assert json.loads(json.dumps(dataclasses.asdict(run)))["recipe"]["name"] == "dense_rvl"


def test_fixed_sparsity_of_a_recipe_wins_over_the_knob_and_the_critic_may_have_its_own():
    of = small.training()
    assert Run(of, recipe("dense"), 0.9, 0, "a", critic_sparsity=0.5).knobs == {"actor": 0.0, "critic": 0.0}
    assert Run(of, recipe("rlx2"), 0.9, 0, "a").knobs == {"actor": 0.9, "critic": 0.9}
    assert Run(of, recipe("rlx2"), 0.9, 0, "a", critic_sparsity=0.5).knobs == {"actor": 0.9, "critic": 0.5}


def test_a_number_out_of_its_range_is_told_in_one_sentence():
    agent = TD3Config(hidden=(16, 16), batch_size=16, gamma=0.0)
    assert refusal(agent=agent) == "agent.gamma = 0.0 must be a number in (0, 1]."
