"""Runs with values of their own: one Program for all of them, the same random numbers, the values they ask for."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from sparserl_jax.errors import UserError
from sparserl_jax.training import Evaluation, Program, Run, Schedule, TD3Config, execute, group, recipe
from sparserl_jax.training.program import clock_at
from tests.reference import small

VALUES = {"learning_rate": 1e-3, "gamma": 0.8, "tau": 0.2, "exploration_noise": 0.4, "drop_fraction": 0.2}


def run(name="rlx2", of=None, seed=0, **values):
    training = small.training() if of is None else of
    return Run(training, recipe(name), 0.6, seed, name, overrides=tuple(sorted(values.items())))


def statically(training, values):
    """The training with these values for everybody."""
    timing = {name: value for name, value in values.items() if name in Schedule.TRACED}
    agent = {name: value for name, value in values.items() if name not in timing}
    return dataclasses.replace(
        training,
        agent=dataclasses.replace(training.agent, **agent),
        schedule=dataclasses.replace(training.schedule, **timing),
    )


def test_runs_with_different_values_share_a_program():
    runs = [run(seed=seed, learning_rate=rate) for rate in (1e-4, 1e-3, 1e-2) for seed in (0, 1)]
    (program,) = group([run(), *runs])
    assert len(program.runs) == 7 and program.compilations == group([run()])[0].compilations


def test_a_program_is_called_by_the_values_of_its_members():
    names = {Program((one,)).name for one in (run(), run(tau=0.1), run(tau=0.2), run(gamma=0.1))}
    assert len(names) == 4


def test_settings_are_those_of_a_program_with_these_values_for_everybody():
    own, all_of_it = run(**VALUES), run(of=statically(small.training(), VALUES))
    assert own.effective == all_of_it.training == all_of_it.effective
    (mixed,), (static,) = group([run(), own]), group([all_of_it])
    mine = jax.tree.map(lambda x: x[1:], mixed.settings)
    jax.tree.map(np.testing.assert_array_equal, mine, static.settings)
    first = jax.tree.map(lambda x: x[:1], mixed.settings)
    jax.tree.map(np.testing.assert_array_equal, first, Program((run(),)).settings)
    different = [x[0].tobytes() != x[1].tobytes() for x in jax.tree.leaves(mixed.settings.agent)]
    assert sum(different) == 4 + 2  # four numbers of the agent, and the drop table of either network


def test_every_traced_setting_reaches_the_settings():
    plain = Program((run(),)).settings
    for name, values in {**TD3Config.TRACED, **Schedule.TRACED}.items():
        settings = Program((run(**{name: 64 if values.whole else 0.123}),)).settings
        assert not all(
            np.array_equal(one, other)
            for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(settings), strict=True)
        ), name


def test_values_change_no_random_number():
    plain, other = Program((run(),)).settings, Program((run(**VALUES),)).settings
    jax.tree.map(np.testing.assert_array_equal, plain.keys, other.keys)
    np.testing.assert_array_equal(plain.evaluation_key, other.evaluation_key)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"learning_rat": 1e-3}, "did you mean 'learning_rate'"),
        ({"hidden": 64.0}, "'hidden' is the same for all members of a program"),
        ({"policy_delay": 2}, "those may differ in learning_rate, gamma, tau"),
        ({"topology_interval": 20}, "is the same for all members"),
        ({"steps": 20}, "is the same for all members"),
        ({"learning_rate": 0.0}, "'learning_rate' must be a number above 0, not 0.0"),
        ({"gamma": 1.1}, "must be a number in (0, 1], not 1.1"),
        ({"tau": float("nan")}, "must be a number in (0, 1], not nan"),
        ({"drop_fraction": -0.1}, "must be a number in [0, 1], not -0.1"),
        ({"tau": True}, "must be a number"),
        ({"tau": "0.1"}, "must be a number"),
        ({"buffer_max": 64.5}, "must be a number that is whole and at least 8, not 64.5"),
        ({"buffer_max": 10**6}, "buffer_max = 1000000 is more than the suite's"),
    ],
)
def test_what_cannot_differ_between_members_is_refused_in_one_sentence(values, sentence):
    with pytest.raises(UserError) as error:
        group([run(**values)])
    assert sentence in str(error.value) and "arm 'rlx2'" in str(error.value) and "\n" not in str(error.value)


def test_a_members_own_buffer_is_a_limit_of_that_member_alone():
    (program,) = group([run("rigl"), run("rigl", buffer_max=60), run("rigl", buffer_max=480)])
    rows = program.settings.capacity.max_rows.tolist()
    assert rows == [160, 20, 160]  # of three environments


@pytest.mark.long
def test_a_members_own_buffer_holds_no_more_than_it_says_and_the_others_all():
    of = small.training()
    room = of.schedule.buffer_max
    own = of.schedule.buffer_min
    (program,) = group([run("rigl", of=of), run("rigl", of=of, buffer_max=own)])
    full, small_one = (outcome.curve["buffer"] for outcome in execute(program))
    assert full[-1] == min(room, of.steps) and small_one[-1] == own


@pytest.mark.long
def test_members_with_own_values_train_as_programs_with_these_values_would():
    """30 updates with topology events: masks exactly, values to 1e-5."""
    schedule = dataclasses.replace(small.training().schedule, topology_interval=8, delay=10)
    of = small.training(steps=90, schedule=schedule, evaluation=Evaluation(90, 4, 4))
    choices = ({"learning_rate": 1e-3, "tau": 0.3}, {"gamma": 0.5, "drop_fraction": 0.9, "target_noise": 0.5})

    def trained(program):
        settings, stages = program.settings, program.stages
        member = stages["init"](settings)
        for step in (0, 30):
            member = stages["warm_up"](member, settings, clock_at(of, step))
        return jax.device_get(stages["train"](member, settings, clock_at(of, 60))[0].agent)

    (mixed,) = group([run(of=of, **values) for values in choices])
    together, alone = trained(mixed), []
    for index, values in enumerate(choices):
        (static,) = group([run(of=statically(of, values))])
        alone.append(trained(static))
        mine = jax.tree.map(lambda x, i=index: x[i : i + 1], together)
        for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(alone[-1]), strict=True):
            if one.dtype == bool:
                np.testing.assert_array_equal(one, other)
            else:
                np.testing.assert_allclose(one, other, atol=1e-5)
    kernels = [state.critic.params["mlp"]["hidden_1"]["kernel"] for state in alone]
    assert not np.allclose(*kernels, atol=1e-3)
