"""A run that was stopped, interrupted or killed and then resumed ends in the arrays of an undisturbed one."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sparserl_jax.errors import UserError
from sparserl_jax.training import Stopped, checkpoint, execute, runner
from sparserl_jax.training.program import Program
from tests.reference import small

pytestmark = pytest.mark.usefixtures("compiled_once")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def clock(monkeypatch):
    """Monotonic time as the tests want it, in seconds."""
    moment = SimpleNamespace(now=0.0)
    hands = SimpleNamespace(monotonic=lambda: moment.now, perf_counter=time.perf_counter)
    monkeypatch.setattr(runner, "time", hands)
    return moment


def assert_undisturbed(found, outcomes):
    for ours, theirs in zip(found, outcomes, strict=True):
        small.assert_same(ours, theirs)


def checkpoints(folder):
    return sorted(path for path in folder.glob("checkpoint-*"))


@pytest.mark.slow
def test_run_stopped_by_its_deadline_at_several_points_and_resumed_is_undisturbed(
    program, outcomes, tmp_path, clock
):
    """In the warm-up, after it, at an evaluation, before the end; each time within one dispatch."""
    for moment in (30, 60, 90, 240, 450):

        def pass_time(step, moment=moment):
            if step == moment:
                clock.now = 100.0

        clock.now = 0.0
        with pytest.raises(Stopped) as stopped:
            execute(program, tmp_path, deadline=50.0, progress=small.Watch(pass_time))
        assert (stopped.value.step, stopped.value.reason) == (moment, "time budget")
    assert_undisturbed(execute(program, tmp_path), outcomes)


def test_run_interrupted_between_dispatches_and_resumed_is_undisturbed(program, outcomes, tmp_path):
    for moment in (120, 210):
        with pytest.raises(Stopped) as stopped:
            execute(program, tmp_path, progress=small.interrupt_at(moment))
        assert (stopped.value.step, stopped.value.reason) == (moment, "interrupted")
    watch = small.Watch()
    assert_undisturbed(execute(program, tmp_path, progress=watch), outcomes)
    assert watch.steps[0] == 240 and watch.warnings == []


@pytest.mark.parametrize("stage", ["warm_up", "train", "evaluate"])
def test_run_interrupted_inside_a_stage_and_resumed_is_undisturbed(
    program, outcomes, tmp_path, monkeypatch, often, stage
):
    """Ctrl-C arrives when the stage has been computed and nobody knows of it yet."""
    compiled, seconds = program.compile()
    calls = []

    class Interrupted:
        """The compiled stage, with a Ctrl-C in its second call."""

        def __getattr__(self, name):
            return getattr(compiled[stage], name)

        def __call__(self, *arguments):
            result = compiled[stage](*arguments)
            calls.append(stage)
            if len(calls) == 2:
                signal.raise_signal(signal.SIGINT)
            return result

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Program, "compile", lambda self, *_: ({**compiled, stage: Interrupted()}, seconds))
        execute(program, tmp_path, checkpoint_seconds=0.0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_undisturbed(execute(program, tmp_path), outcomes)


def test_a_final_evaluation_that_is_stopped_goes_on_where_it_was(
    program, outcomes, tmp_path, clock, monkeypatch
):
    """However little of it fits before a deadline, each call brings it further; nothing is played twice."""
    evaluate, repeats = runner.Execution._evaluate, []

    def counted(self, repeat):
        if repeat:
            repeats.append(repeat)
            clock.now += 100.0
        return evaluate(self, repeat)

    monkeypatch.setattr(runner.Execution, "_evaluate", counted)
    wanted = program.training.evaluation.final_episodes // program.training.evaluation.episodes
    assert wanted > 1
    for _ in range(wanted - 1):
        with pytest.raises(Stopped) as stopped:
            execute(program, tmp_path, deadline=clock.now + 50.0)
        assert (stopped.value.step, stopped.value.idle) == (480, False)
    assert_undisturbed(execute(program, tmp_path, deadline=clock.now + 50.0), outcomes)
    assert repeats == list(range(1, wanted + 1))


def test_a_final_evaluation_that_is_interrupted_goes_on_where_it_was(program, outcomes, tmp_path):
    class Pressed(small.Watch):
        """Ctrl-C before the second piece."""

        def stage(self, program, text):
            super().stage(program, text)
            if text.startswith("final evaluation, 1 of"):
                raise KeyboardInterrupt

    with pytest.raises(Stopped) as stopped:
        execute(program, tmp_path, progress=Pressed())
    assert (stopped.value.step, stopped.value.reason) == (480, "interrupted")
    watch = small.Watch()
    assert_undisturbed(execute(program, tmp_path, progress=watch), outcomes)
    assert not any("final evaluation, 0 of" in text for text in watch.stages)


def test_a_final_evaluation_that_takes_long_is_in_checkpoints(program, tmp_path, often):
    """All of it but the last piece, after which the run is over."""
    execute(program, tmp_path, checkpoint_seconds=0.0)
    _, _, notes = checkpoint.restore(tmp_path, program.shapes())
    pieces = program.training.evaluation.final_episodes // program.training.evaluation.episodes
    assert len(notes["final"]) == pieces - 1


def test_run_stopped_after_its_last_dispatch_still_ends_undisturbed(program, outcomes, tmp_path):
    with pytest.raises(Stopped):
        execute(program, tmp_path, progress=small.interrupt_at(480))
    assert_undisturbed(execute(program, tmp_path), outcomes)


def test_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before_and_is_undisturbed(
    program, outcomes, tmp_path, often
):
    with pytest.raises(Stopped):
        execute(program, tmp_path, progress=small.interrupt_at(300), checkpoint_seconds=0.0)
    newest = checkpoints(tmp_path)[-1]
    largest = max(
        (path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    harmed = bytearray(largest.read_bytes())
    harmed[len(harmed) // 2] ^= 1
    largest.write_bytes(bytes(harmed))
    watch = small.Watch()
    assert_undisturbed(execute(program, tmp_path, progress=watch), outcomes)
    assert len(watch.warnings) == 1 and newest.name in watch.warnings[0]
    assert watch.steps[0] == 300


def test_run_on_a_full_disk_stops_in_a_sentence_and_goes_on_undisturbed(
    program, outcomes, tmp_path, monkeypatch, often
):
    write, calls = checkpoint._write, []

    def full(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*arguments)

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(UserError, match=r"step 90 .*No space left .*run the same command again"):
        execute(program, tmp_path, checkpoint_seconds=0.0)
    watch = small.Watch()
    assert_undisturbed(execute(program, tmp_path, progress=watch), outcomes)
    assert watch.steps[0] == 90  # the dispatch after the second checkpoint


def test_stop_just_after_a_resume_does_not_write_the_same_checkpoint_again(program, tmp_path, monkeypatch):
    """Replacing it would leave a moment without it."""
    with pytest.raises(Stopped):
        execute(program, tmp_path, progress=small.interrupt_at(60))
    monkeypatch.setattr(checkpoint, "save", lambda *arguments: pytest.fail("written again"))
    with pytest.raises(Stopped) as stopped:
        execute(program, tmp_path, deadline=0.0)
    assert stopped.value.step == 60 and stopped.value.idle


def test_without_a_folder_nothing_is_written_and_nothing_resumed(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stopped):
        execute(program, progress=small.interrupt_at(60))
    watch = small.Watch()
    with pytest.raises(Stopped):
        execute(program, progress=watch, deadline=0.0)
    assert watch.steps == [] and list(tmp_path.iterdir()) == []


def start(folder, file, cache):
    """The process of `tests.reference.small`, in a group of its own."""
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0",
    }
    command = [sys.executable, "-m", "tests.reference.small", str(folder), str(file)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_run_whose_process_group_is_killed_at_two_random_moments_ends_undisturbed(tmp_path):
    undisturbed = start(tmp_path / "undisturbed", tmp_path / "undisturbed.npz", tmp_path / "cache")
    assert "step 1200" in undisturbed.communicate()[0]
    assert undisturbed.returncode == 0

    rng = np.random.default_rng(0)
    lines: list[str] = []
    for _ in range(2):
        process = start(tmp_path / "killed", tmp_path / "killed.npz", tmp_path / "cache")
        left = int(rng.integers(1, 6))
        for line in process.stdout:
            lines.append(line.strip())
            left -= line.startswith("step")
            if left == 0:
                break
        time.sleep(rng.uniform(0.0, 0.15))  # into a dispatch, or into the writing of a checkpoint
        os.killpg(process.pid, signal.SIGKILL)
        lines += [line.strip() for line in process.stdout]
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed.npz").exists()

    process = start(tmp_path / "killed", tmp_path / "killed.npz", tmp_path / "cache")
    lines += process.communicate()[0].splitlines()
    assert process.returncode == 0
    assert sum("resuming at step" in line for line in lines) == 2
    with np.load(tmp_path / "undisturbed.npz") as ours, np.load(tmp_path / "killed.npz") as theirs:
        assert set(ours) == set(theirs) and len(ours) > 100
        for name in ours:
            np.testing.assert_array_equal(theirs[name], ours[name], err_msg=name)
