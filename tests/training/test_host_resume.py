"""Runs on the host that were stopped and resumed: bit for bit the same where the environment is repeatable."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from sparserl_jax.replay.storage import FLAG_BITS, TERMINATED, TRUNCATED
from sparserl_jax.training import Stopped, checkpoint, execute, host, runner
from sparserl_jax.training.episodes import Episodes
from sparserl_jax.training.program import Program
from tests.reference import host_toys, small


def stop_at(monkeypatch, moment):
    """Ctrl-C in the middle of a vector step, when the first of two members has made it."""
    step = Episodes.step
    seen = SimpleNamespace(steps=0)

    def interrupted(self, action):
        if seen.steps == moment:
            self.envs[0].step(action[0, 0])
            raise KeyboardInterrupt
        seen.steps += 1
        return step(self, action)

    monkeypatch.setattr(Episodes, "step", interrupted)


def interrupt(program, folder, moment, before=0):
    """Execute up to environment step `moment`, going on from step `before`."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, moment - before)
        with pytest.raises(Stopped) as stopped:
            execute(program, folder)
    assert (stopped.value.step, stopped.value.reason) == (moment, "interrupted")


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(Program, "compile", host_toys.compile_quickly)


def assert_undisturbed(env, folder, moments, **changes):
    program = host_toys.program(env, **changes)
    undisturbed, before = execute(program), 0
    for moment in moments:
        interrupt(program, folder, moment, before)
        before = moment
    watch = small.Watch()
    found = execute(program, folder, progress=watch)
    assert watch.warnings == [] and f"resuming at step {moments[-1]}" in watch.stages
    for ours, theirs in zip(found, undisturbed, strict=True):
        small.assert_same(ours, theirs)
        assert ours.measured["episodes_cut_by_resuming"] == 0
    return found


@pytest.mark.slow
def test_hopper_stopped_at_any_step_and_resumed_ends_undisturbed(quickly, tmp_path, monkeypatch):
    """Before the first step, in the warm-up, in the middle of a dispatch, where an evaluation was just made."""
    pytest.importorskip("mujoco")
    pytest.importorskip("imageio")
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log where it stands
    found = assert_undisturbed("gymnasium:Hopper-v5", tmp_path / "run", (0, 33, 117, 160))
    assert found[0].episodes > 5 and found[1].events["critic"] > 2


@pytest.mark.slow
def test_a_stop_between_an_evaluation_and_its_point_does_not_count_the_look_twice(
    quickly, tmp_path, monkeypatch
):
    """The history of masks belongs to the last point that is kept: else the turnover of the next one would be 0."""
    program = host_toys.program(host_toys.Seeded())
    undisturbed = execute(program)
    clock_at = runner.clock_at

    def interrupted(training, step):
        if step == 160:
            raise KeyboardInterrupt
        return clock_at(training, step)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "clock_at", interrupted)
        with pytest.raises(Stopped):
            execute(program, tmp_path)
    found = execute(program, tmp_path)
    for ours, theirs in zip(found, undisturbed, strict=True):
        small.assert_same(ours, theirs)
    turnover = [outcome.curve["turnover_critic"] for outcome in found]
    at = found[0].curve["env_step"].tolist().index(160)
    assert max(values[at] for values in turnover) > 0


@pytest.mark.long
@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5", "Ant-v5"])
def test_mujoco_environments_resume_to_the_same_bits(quickly, tmp_path, monkeypatch, name):
    """Contacts, warm starts of the solver and episodes of several hundred steps."""
    pytest.importorskip("mujoco")
    pytest.importorskip("imageio")
    monkeypatch.chdir(tmp_path)
    changes = {"steps": 1200, "evaluation": host_toys.Evaluation(400, 1, 1)}
    assert_undisturbed(f"gymnasium:{name}", tmp_path / "run", (37, 391, 853), **changes)


@pytest.mark.slow
def test_environments_that_are_not_repeatable_go_on_with_new_episodes_and_the_record_says_so(
    quickly, tmp_path
):
    program = host_toys.program("gymnasium:tests.reference.host_toys:Wobbly-v0")
    interrupt(program, tmp_path, 130)
    _, state, _ = checkpoint.restore(tmp_path, shapes(program))
    before = state[0]
    watch = small.Watch()
    with pytest.raises(Stopped):
        execute(program, tmp_path, deadline=time.monotonic(), progress=watch)
    assert ["not repeatable" in text for text in watch.warnings] == [True, False]
    assert "2 of 2 members could not be brought back" in watch.warnings[1]
    _, state, notes = checkpoint.restore(tmp_path, shapes(program))
    after, _, log = state
    assert notes["cut"] == [1, 1]
    np.testing.assert_array_equal(log.length, 0)
    np.testing.assert_array_equal(log.episode, 130 // 40 + 1)  # by the time limit, and the one that was cut
    for m in range(2):
        slot = int(before.replay.slot[m, 0])
        assert before.replay.flags[m, 129, 0] == 0
        assert after.replay.flags[m, 129, 0] == TRUNCATED + (slot << FLAG_BITS)
        np.testing.assert_array_equal(after.replay.final_obs[m, slot], before.replay.obs[m, 130])
        np.testing.assert_array_equal(after.replay.obs[m, 130], after.envs.obs[m])
        assert not np.array_equal(after.envs.obs[m], before.envs.obs[m])
    np.testing.assert_array_equal(after.envs.steps, 0)
    np.testing.assert_array_equal(after.tally.episodes, before.tally.episodes)
    for outcome in execute(program, tmp_path):
        assert outcome.measured["environment_repeatable"] is False
        # An episode without steps, as the second resume found it, is not cut again.
        assert outcome.measured["episodes_cut_by_resuming"] == 1
        assert outcome.status == "ok"


def shapes(program):
    """What a checkpoint of `program` holds."""
    execution = host.HostExecution(program, None, small.Watch(), 0.0)
    execution.prepare()
    return execution.shapes()


def test_an_environment_that_became_another_is_noticed(quickly, tmp_path):
    """Found repeatable by the entry check, but its replay ends elsewhere: physics of another version."""
    program = host_toys.program(host_toys.Seeded())
    interrupt(program, tmp_path, 100)
    _, state, _ = checkpoint.restore(tmp_path, shapes(program))
    running = state[2].length > 0

    class Stronger(host_toys.Seeded):
        def step(self, action):
            return super().step(action * np.float32(1.5))

    watch = small.Watch()
    found = execute(host_toys.program(Stronger()), tmp_path, progress=watch)
    assert running.any() and f"{running.sum()} of 2 members could not be brought back" in watch.warnings[0]
    assert [outcome.measured["episodes_cut_by_resuming"] for outcome in found] == running.tolist()
    assert all(outcome.measured["environment_repeatable"] for outcome in found)


def test_time_budget_ends_within_one_vector_step_and_progress_hears_of_dispatches(
    quickly, tmp_path, monkeypatch
):
    program = host_toys.program(host_toys.HostPull())
    undisturbed, now = execute(program), SimpleNamespace(seconds=0.0)
    hands = SimpleNamespace(monotonic=lambda: now.seconds, perf_counter=time.perf_counter)
    monkeypatch.setattr(runner, "time", hands)
    monkeypatch.setattr(host, "time", hands)
    step = host.HostExecution.vector_step

    def slow(self):
        step(self)
        now.seconds += 0.125

    monkeypatch.setattr(host.HostExecution, "vector_step", slow)
    watch = small.Watch()
    with pytest.raises(Stopped) as stopped:
        execute(program, tmp_path, deadline=12.5 + 0.01, progress=watch)
    assert (stopped.value.step, stopped.value.reason) == (101, "time budget")
    # Once a second, which is every 8 steps, and at the end of every dispatch of 20.
    assert watch.steps[:6] == [8, 16, 20, 28, 36, 40] and watch.scores == [80]
    for ours, theirs in zip(execute(program, tmp_path), undisturbed, strict=True):
        small.assert_same(ours, theirs)


def test_checkpoints_are_written_by_time_in_the_middle_of_dispatches(quickly, tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(checkpoint, "save", lambda folder, step, state, notes: steps.append(step))
    monkeypatch.setattr(runner, "CHECKPOINT_SHARE", float("inf"))
    now = SimpleNamespace(seconds=0.0)
    hands = SimpleNamespace(monotonic=lambda: now.seconds, perf_counter=time.perf_counter)
    monkeypatch.setattr(runner, "time", hands)
    step = host.HostExecution.vector_step

    def slow(self):
        step(self)
        now.seconds += 1.0

    monkeypatch.setattr(host.HostExecution, "vector_step", slow)
    execute(host_toys.program(host_toys.HostPull()), tmp_path, checkpoint_seconds=50.0)
    assert steps == [50, 100, 150, 200]


def test_evaluation_that_was_interrupted_is_made_after_the_resume(quickly, tmp_path, monkeypatch):
    program = host_toys.program(host_toys.HostPull())
    undisturbed = execute(program)
    assert host_toys.interrupted_in_evaluation(program, tmp_path) == 80
    for ours, theirs in zip(execute(program, tmp_path), undisturbed, strict=True):
        small.assert_same(ours, theirs)


def test_terminated_rows_stay_terminated_when_an_episode_is_lost(quickly, tmp_path):
    """Stopped just after an end: nothing is left to truncate."""
    program = host_toys.program(host_toys.HostPull())
    interrupt(program, tmp_path, 9)
    step, (population, sums, log), notes = checkpoint.restore(tmp_path, shapes(program))
    ended = log.length == 0
    stages, clock = program.stages, runner.clock_at(program.training, step)
    lost = np.ones((2, 1), bool)
    after = stages["restart"](population, clock, np.asarray(population.envs.obs) + 1, lost)
    for m in range(2):
        flag = int(np.asarray(population.replay.flags)[m, 8, 0])
        assert bool(flag & (TERMINATED | TRUNCATED)) == ended[m]
        expected = flag if ended[m] else TRUNCATED + (int(population.replay.slot[m, 0]) << FLAG_BITS)
        assert int(after.replay.flags[m, 8, 0]) == expected
