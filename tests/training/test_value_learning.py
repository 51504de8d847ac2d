"""The parts of a recipe that are not its mask: when targets are of several steps, and whose buffer may shrink."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from sparserl_jax.agents.agent import Clock
from sparserl_jax.errors import UserError
from sparserl_jax.training import Run, Schedule, population, recipe, stages
from tests.reference import small

DELAY = 60


def settings_of(training=None, **changes):
    """What a program is told of a member under rlx2 with some fields changed."""
    training = training or small.training()
    run = Run(training, dataclasses.replace(recipe("rlx2"), **changes), 0.5, 0, "rlx2")
    agent = SimpleNamespace(layers={})
    return population.member_settings(run, agent, population.events_of(run.training))


@pytest.mark.parametrize(
    ("changes", "early", "late"),
    [({}, 1, 3), ({"delayed": False}, 3, 3), ({"n": 1}, 1, 1), ({"n": 5, "delayed": True}, 1, 5)],
)
def test_windows_have_one_step_until_the_delay_and_n_from_it_on(monkeypatch, changes, early, late):
    asked = []
    monkeypatch.setattr(stages, "sample", lambda *given, **rest: asked.append(int(given[5])))
    stage = SimpleNamespace(
        agent=SimpleNamespace(hindsight=None, successors=False),
        training=SimpleNamespace(schedule=Schedule(delay=DELAY)),
        n_max=5,
        _head=lambda clock: 0,
    )
    found = settings_of(**changes)
    # Clock.update counts finished updates: the next one is DELAY - 1, DELAY, DELAY + 1.
    for updates in (0, DELAY - 2, DELAY - 1, DELAY):
        clock = Clock(0, np.int32(updates))
        stages.Stages._draw(stage, SimpleNamespace(replay=None), clock, found, jax.random.key(0), 4)
    assert asked == [early, early, late, late]


@pytest.mark.parametrize("buffer", ["fixed", "dynamic"])
def test_only_a_dynamic_buffer_may_shrink(buffer):
    assert bool(settings_of(buffer=buffer).capacity.dynamic) == (buffer == "dynamic")


@pytest.mark.parametrize(("smallest", "rows"), [(0, 3), (8, 3), (40, 13)])  # of three environments
def test_a_buffer_never_shrinks_below_one_window(smallest, rows):
    schedule = dataclasses.replace(small.training().schedule, buffer_min=smallest)
    assert int(settings_of(small.training(schedule=schedule)).capacity.min_rows) == rows


def test_every_further_batch_of_an_update_has_a_key_of_its_own():
    settings, data = settings_of(), jax.random.key_data
    keys = [stages.further_keys(settings, Clock(0, np.int32(update))) for update in (7, 7, 8)]
    first, again, later = ([data(next(of)).tolist() for _ in range(3)] for of in keys)
    assert first == again and len({tuple(key) for key in first + later}) == 6


def test_the_replay_keeps_what_the_policy_meant_beside_what_was_done(monkeypatch):
    kept = []
    monkeypatch.setattr(stages, "insert", lambda replay, head, transition, mean, rows: kept.append(mean))
    monkeypatch.setattr(stages, "counted", lambda tally, finished: tally)
    member = SimpleNamespace(replay=None, tally=None, _replace=lambda **parts: parts)
    transition, mean = SimpleNamespace(action=np.ones(2)), np.full(2, 0.25)
    for keep in (True, False):
        stage = SimpleNamespace(keep_mean=keep, training=small.training(), _head=lambda clock: 0)
        stages.Stages._store(stage, member, Clock(0, 0), settings_of(), mean, None, transition, None)
    assert kept[0] is mean and kept[1] is None


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        (
            {"delay": 421},
            "its targets of 3 steps begin at update 421 (schedule.delay), and the run has 420",
        ),
        ({"buffer_min": 480}, "schedule.buffer_min = 480, and it never holds more than 480 transitions"),
    ],
)
def test_a_part_that_would_never_begin_is_refused(schedule, sentence):
    base = small.training().schedule
    training = small.training(schedule=dataclasses.replace(base, **schedule))
    with pytest.raises(UserError, match="recipe 'rlx2'") as refused:
        Run(training, recipe("rlx2"), 0.5, 0, "rlx2").check()
    assert sentence in str(refused.value)
    # One-step targets and a buffer of fixed size have no such part.
    Run(training, recipe("rigl"), 0.5, 0, "rigl").check()


def test_the_last_schedule_at_which_the_parts_begin_is_accepted():
    base = small.training().schedule
    training = small.training(schedule=dataclasses.replace(base, delay=420, buffer_min=479))
    Run(training, recipe("rlx2"), 0.5, 0, "rlx2").check()
