"""A rehearsal measures a program and leaves no trace: not in its results, not in its folder, not in its times."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

import sparserl_jax.training.program as program_module
from sparserl_jax.training import Program, Stopped, execute, runner
from tests.reference import small


@pytest.fixture(autouse=True)
def compiled_once(compiled, monkeypatch):
    monkeypatch.setattr(Program, "compile", lambda self, *_: compiled)


def test_results_after_a_rehearsal_are_those_without_one(program, outcomes, tmp_path):
    told: list[tuple[float, float]] = []
    found = execute(program, tmp_path, rehearsed=lambda *seconds: told.append(seconds))
    for ours, theirs in zip(outcomes, found, strict=True):
        small.assert_same(ours, theirs)
    ((seconds, compiling),) = told
    assert seconds > 0 and compiling == found[0].measured["compile_seconds"]


def test_its_forecast_is_the_sum_of_all_calls(program, monkeypatch):
    execution = runner.Execution(program, None, small.Watch(), 300.0)
    execution.prepare()

    def dispatch():
        warming = execution.step < 60
        execution.seconds["warm_up" if warming else "train"] += 1.0 if warming else 100.0

    def evaluate(repeat):
        assert repeat == 1  # not the curve's: that would move the history of the masks
        execution.seconds["evaluate"] += 10_000.0

    monkeypatch.setattr(execution, "dispatch", dispatch)
    monkeypatch.setattr(execution, "_evaluate", evaluate)
    before = dict(execution.seconds)
    # Two dispatches of warm-up, fourteen of training, four points of the curve and two final evaluations.
    assert execution.rehearse() == 2 * 1.0 + 14 * 100.0 + (4 + 2) * 10_000.0
    assert execution.seconds == before and execution.step == 0 and execution.population is None


def test_what_it_raises_ends_the_execution_without_a_checkpoint(program, tmp_path):
    class TooLong(Exception):
        pass

    def refuse(seconds, compiling):
        raise TooLong

    with pytest.raises(TooLong):
        execute(program, tmp_path, rehearsed=refuse)
    with pytest.raises(Stopped) as stop:
        execute(program, tmp_path, progress=Impatient(), rehearsed=refuse)
    assert stop.value.reason == "interrupted" and not list(tmp_path.iterdir())


class Impatient(small.Watch):
    """Ctrl-C in the middle of a rehearsal."""

    def stage(self, program: str, text: str) -> None:
        if text == "measuring its speed":
            raise KeyboardInterrupt


COMPILE = Program.compile


@pytest.mark.parametrize("how", ["interrupted", "time budget"])
def test_nobody_who_is_interrupted_waits_for_the_compiler(program, tmp_path, monkeypatch, how):
    """A job may have half a minute left, and XLA takes several: what is finished has to leave."""
    ended, begun = threading.Event(), threading.Event()

    def slowly(compiler_options=None):
        begun.set()
        ended.wait(60)

    monkeypatch.setattr(Program, "compile", COMPILE)
    monkeypatch.setattr(Program, "lower", lambda self: {"train": SimpleNamespace(compile=slowly)})
    monkeypatch.setattr(program_module, "LOOK_SECONDS", 0.01)

    class Hasty(small.Watch):
        def stage(self, program: str, text: str) -> None:
            if how == "interrupted" and begun.is_set():
                raise KeyboardInterrupt

    deadline = None if how == "interrupted" else time.monotonic() + 0.05
    with pytest.raises(Stopped) as stop:
        execute(program, tmp_path, progress=Hasty(), deadline=deadline)
    assert stop.value.reason == how and begun.is_set() and not ended.is_set()
    assert not list(tmp_path.iterdir())
    ended.set()


def test_the_time_budget_ends_where_only_a_checkpoint_would_fit(program):
    execution = runner.Execution(program, None, small.Watch(), 300.0)
    execution.longest_save = 30.0
    execution.stop_at(time.monotonic() + 60.0)
    with pytest.raises(Stopped):
        execution.stop_at(time.monotonic() + 29.0)


def test_a_resumed_program_is_not_rehearsed(program, outcomes, tmp_path, often):
    with pytest.raises(Stopped):
        execute(program, tmp_path, progress=small.interrupt_at(240), checkpoint_seconds=0.0)

    def refuse(seconds, compiling):
        raise AssertionError("rehearsed")

    found = execute(program, tmp_path, rehearsed=refuse)
    small.assert_same(outcomes[0], found[0])
