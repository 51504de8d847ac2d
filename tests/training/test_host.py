"""The host loop: what it computes, how often it calls compiled code, and what it says when an environment breaks."""

import dataclasses

import jax
import numpy as np
import pytest

pytest.importorskip("gymnasium")

from sparserl_jax.envs.host import HostEnvironment
from sparserl_jax.errors import UserError
from sparserl_jax.training import execute
from sparserl_jax.training.host_stages import HOST_STAGES
from sparserl_jax.training.program import Program
from tests.reference import host_toys, small


@pytest.fixture(scope="module")
def program():
    return host_toys.program(host_toys.HostPull())


@pytest.fixture(scope="module")
def built(program):
    return host_toys.compile_quickly(program)


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    monkeypatch.setattr(Program, "compile", host_toys.compile_quickly)


@pytest.fixture(scope="module")
def outcomes(program, built):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "compile", lambda self, *_: built)
        return execute(program)


@pytest.mark.slow
def test_a_host_program_is_told_from_a_compiled_one_and_plans_its_compilations(program, built):
    assert isinstance(program.env, HostEnvironment) and program.host
    assert program.compilations == len(HOST_STAGES) == len(built[0])
    assert not host_toys.program(host_toys.Pull()).host
    replay = (
        201 * (2 + 1 + 1) * 4 + 201 * 2 * 3
    )  # obs, action, reward; noise-free actions and flags in 16 bits
    assert program.memory() > 2 * replay


@pytest.mark.slow
def test_host_loop_computes_what_the_compiled_loop_computes(outcomes):
    """The same environment in both: the same masks, and networks and curves equal to rounding of the updates."""
    for ours, theirs in zip(outcomes, execute(host_toys.program(host_toys.Pull())), strict=True):
        assert (ours.episodes, ours.events, ours.nnz) == (theirs.episodes, theirs.events, theirs.nnz)
        jax.tree.map(np.testing.assert_array_equal, ours.masks, theirs.masks)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours.params, theirs.params)
        np.testing.assert_allclose(ours.final_returns, theirs.final_returns, atol=1e-3)
        assert set(ours.curve) == set(theirs.curve)
        for name, values in theirs.curve.items():
            np.testing.assert_allclose(ours.curve[name], values, rtol=1e-3, atol=1e-4, err_msg=name)
    assert outcomes[1].events["critic"] > 2 and outcomes[0].episodes > 30


def test_two_compiled_calls_per_vector_step(program, built, monkeypatch):
    compiled, seconds = built
    calls = dict.fromkeys(compiled, 0)

    class Counted:
        def __init__(self, name):
            self.name = name

        def __getattr__(self, attribute):
            return getattr(compiled[self.name], attribute)

        def __call__(self, *arguments):
            calls[self.name] += 1
            return compiled[self.name](*arguments)

    monkeypatch.setattr(
        Program, "compile", lambda self, *_: ({name: Counted(name) for name in compiled}, seconds)
    )
    execute(program)
    assert (calls["uniform"], calls["warm_up"]) == (40, 40)
    assert (calls["act"], calls["train"]) == (200, 200)
    assert calls["init"] == 1 and calls["evaluate"] == 3 + 2


def test_state_is_donated_and_the_clock_stays_unbatched(program):
    text = program.lower()["train"].as_text()
    population = len(jax.tree.leaves(program.shapes()))
    assert (
        text.count("tf.aliasing_output") >= population - 1
    )  # the empty state of the environments has no array
    assert "stablehlo.case" in text  # events, the delayed part and the buffer check are branches, not selects


def test_what_was_measured_is_of_the_host(outcomes):
    for outcome in outcomes:
        assert outcome.measured["environment_repeatable"] is True
        assert outcome.measured["episodes_cut_by_resuming"] == 0
        assert 0 < outcome.measured["environment_seconds"] < outcome.measured["train_seconds"]


def test_every_episode_is_reset_with_a_seed_of_its_own_and_evaluations_share_theirs(monkeypatch):
    seeds = []

    class Listening(host_toys.Seeded):
        def reset(self, seed):
            seeds.append(seed)
            return super().reset(seed)

    found = execute(host_toys.program(Listening()))
    resets = [seed for seed in seeds if seed > 16]  # those of the entry check are small
    episodes = sum(outcome.episodes for outcome in found)
    evaluated = 3 * 2 + 4
    twice = [seed for seed in set(resets) if resets.count(seed) == 2]
    assert len(twice) == evaluated  # one reset per member
    assert len(set(resets)) == episodes + 2 + evaluated and len(resets) == episodes + 2 + 2 * evaluated


def test_more_than_one_environment_per_member_is_refused():
    other = host_toys.program(host_toys.HostPull(), num_envs=2)
    with pytest.raises(
        UserError, match="num_envs = 2: 'toys:pull' runs on the host, one environment per member"
    ):
        other.memory()


def test_physics_without_a_number_ends_the_episode_and_is_counted():
    class Unsound(host_toys.HostPull):
        def step(self, action):
            obs, reward, terminated, truncated = super().step(action)
            return obs, np.nan if self.steps == 5 else reward, terminated, truncated

    for outcome in execute(host_toys.program(Unsound())):
        assert outcome.status == "ok" and outcome.invalid_steps > 10
        assert outcome.invalid_steps <= outcome.episodes


# ---- environments that break ---------------------------------------------------------------------------------------


FIRST, SECOND, STAGE = 5, 6, 3
"""Instances in the order they are made: the one given, two of the entry check, two members, two for evaluations."""


class Numbered(host_toys.HostPull):
    """HostPull that knows the number of its instance and of its steps; `go_wrong` is called with each step."""

    made = 0

    def __init__(self):
        super().__init__()
        self.number, self.total = type(self).made, 0
        type(self).made += 1

    def step(self, action):
        self.total += 1
        return self.go_wrong(super().step(action))


def raising(result):
    raise ZeroDivisionError("the motor is off")


def breaking(number, total, how):
    """A class of which one instance goes wrong in one of its steps."""

    class Breaking(Numbered):
        made = 0

        def go_wrong(self, result):
            return how(result) if (self.number, self.total) == (number, total) else result

    return Breaking


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (raising, "step raised ZeroDivisionError: the motor is off"),
        (
            lambda result: (np.zeros(3), *result[1:]),
            r"step returned an observation of shape \(3,\) instead of \(2,\)",
        ),
        (
            lambda result: (result[0], "much", *result[2:]),
            "step raised ValueError: could not convert string.*",
        ),
    ],
)
def test_environment_that_breaks_is_named_and_nothing_is_lost(outcomes, tmp_path, how, words):
    """The 151st step of the second member, in the middle of a dispatch, when the first has already stepped."""
    place = r"environment 'toys:pull' broke at environment step 150 of member 1 \(rlx2-s0600-seed000\): "
    with pytest.raises(
        UserError, match=place + words + "; mend it and run again, all members go on"
    ) as refusal:
        execute(host_toys.program(breaking(SECOND, 151, how)()), tmp_path)
    assert "\n" not in str(refusal.value)
    (kept,) = tmp_path.glob("checkpoint-*")
    assert kept.name.endswith("150")
    watch = small.Watch()
    mended = execute(host_toys.program(host_toys.HostPull()), tmp_path, progress=watch)
    assert watch.stages[1] == "resuming at step 150"
    for ours, theirs in zip(mended, outcomes, strict=True):
        small.assert_same(ours, theirs)


def test_environment_that_breaks_in_an_evaluation_is_named_and_nothing_is_lost(outcomes, tmp_path):
    with pytest.raises(UserError, match="broke at environment step 80 of member 0"):
        execute(host_toys.program(breaking(STAGE, 3, raising)()), tmp_path)
    mended = execute(host_toys.program(host_toys.HostPull()), tmp_path)
    for ours, theirs in zip(mended, outcomes, strict=True):
        small.assert_same(ours, theirs)


def test_environment_that_breaks_at_its_first_reset_leaves_no_checkpoint(tmp_path):
    class Dead(Numbered):
        def reset(self, seed):
            if self.number == FIRST:
                raise OSError
            return super().reset(seed)

        def go_wrong(self, result):
            return result

    words = r"step 0 of member 0 .*: reset\(seed=\d+\) raised OSError; mend it and run again\."
    with pytest.raises(UserError, match=words):
        execute(host_toys.program(Dead()), tmp_path)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_dispatch_only_says_over_what_losses_are_means(outcomes):
    found = execute(host_toys.program(host_toys.HostPull(), dispatch=40))
    for ours, theirs in zip(found, outcomes, strict=True):
        kept = {name for name in theirs.curve if "loss" not in name and "norm" not in name and name != "q"}
        curves = [{name: outcome.curve[name] for name in kept} for outcome in (ours, theirs)]
        small.assert_same(
            dataclasses.replace(ours, curve=curves[0]), dataclasses.replace(theirs, curve=curves[1])
        )
