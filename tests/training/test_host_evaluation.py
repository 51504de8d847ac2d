"""Training on a dataset, evaluated on the host: the numbers of the compiled kind, stops and broken environments."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from sparserl_jax.agents.bc import BCConfig
from sparserl_jax.agents.td3_bc import TD3BCConfig
from sparserl_jax.data import OfflineDataset, save
from sparserl_jax.errors import UserError
from sparserl_jax.training import Evaluation, Program, Stopped, datasets, execute, host_evaluation, runner
from sparserl_jax.training.episodes import record
from tests.reference import host_toys, small

pytest.importorskip("gymnasium")


@pytest.fixture(scope="module")
def data() -> OfflineDataset:
    """Forty episodes of uniform actions."""

    def uniform(rng: np.random.Generator, _: np.ndarray) -> np.ndarray:
        return rng.uniform(-1.0, 1.0, 1).astype(np.float32)

    parts = [record(host_toys.Seeded(), uniform, seed) for seed in range(40)]
    return OfflineDataset(*map(np.concatenate, zip(*parts, strict=True)))


@pytest.fixture(scope="module")
def logged(data: OfflineDataset, tmp_path_factory) -> datasets.Logged:
    folder = tmp_path_factory.mktemp("data")
    save(folder / "pull.npz", data, source="test", action_low=[-1.0], action_high=[1.0])
    found = datasets.read("pull.npz", host_toys.SPEC, folder, "here")
    assert found is not None
    return found


def program(
    env: Any,
    logged: datasets.Logged | None,
    dataset: str = "pull.npz",
    arms: Any = ("dense", "rigl"),
    **changes: Any,
) -> Program:
    of = {
        "agent": TD3BCConfig(hidden=(8, 8), batch_size=8, learning_rate=3e-3, gamma=0.9, tau=0.02),
        "steps": 80,
        "warm_up": 0,
        "dispatch": 10,
        "evaluation": Evaluation(20, 2, 4),
        "dataset": dataset,
        "logged": logged,
    }
    return host_toys.program(env, arms, **{**of, **changes})


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    monkeypatch.setattr(Program, "compile", host_toys.compile_quickly)


@pytest.fixture(scope="module")
def outcomes(logged):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "compile", host_toys.compile_quickly)
        return execute(program(host_toys.HostPull(), logged))


def test_episodes_are_recorded_as_they_were(data: OfflineDataset):
    assert data.ends.sum() == 40 and data.terminated.any() and data.truncated.any()
    within = np.flatnonzero(~data.ends)
    np.testing.assert_array_equal(data.next_obs[within], data.obs[within + 1])
    after = 0.5 * data.obs[:, 0] + (0.5 * data.obs[:, 1] + 0.5 * data.action[:, 0])
    np.testing.assert_array_equal(data.next_obs[:, 0], after)
    np.testing.assert_array_equal(data.terminated, np.abs(after) > host_toys.WALL)
    assert len(np.unique(data.obs[np.flatnonzero(data.ends)[:-1] + 1, 0])) == 39


def test_an_environment_that_writes_into_one_array_is_recorded_as_it_was():
    class InPlace(host_toys.HostPull):
        seen = np.zeros(2, np.float32)

        def reset(self, seed):
            self.seen[:] = super().reset(seed)
            return self.seen

        def step(self, action):
            after, *rest = super().step(action)
            self.seen[:] = after
            return self.seen, *rest

    def still(rng: np.random.Generator, _: np.ndarray) -> np.ndarray:
        return np.full(1, 0.25, np.float32)

    ours, theirs = (record(env, still, 0) for env in (InPlace(), host_toys.HostPull()))
    assert ours.sha256 == theirs.sha256 and len(ours.reward) == 7 and ours.terminated[-1]


@pytest.mark.slow
def test_what_is_trained_and_seen_is_that_of_the_compiled_environment(outcomes, logged):
    for ours, theirs in zip(outcomes, execute(program(host_toys.Pull(), logged)), strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours.masks, theirs.masks)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours.params, theirs.params)
        np.testing.assert_allclose(ours.final_returns, theirs.final_returns, atol=1e-4)
        assert set(ours.curve) == set(theirs.curve) and len(ours.curve["return"]) == 4
        for name, values in theirs.curve.items():
            np.testing.assert_allclose(ours.curve[name], values, rtol=1e-3, atol=1e-4, err_msg=name)
        assert (ours.data, ours.events) == (theirs.data, theirs.events)
        assert ours.measured["environment_repeatable"] and "episodes_cut_by_resuming" not in ours.measured
    assert outcomes[1].events["critic"] > 1


def test_nothing_of_the_training_is_on_the_host(logged):
    own = program(host_toys.HostPull(), logged)
    assert own.host and not own.stepped_on_host
    assert own.stage_names == ("init", "train", "evaluate", "harvest", "policy")
    assert own.compilations == len(own.compile()[0]) == 5


def test_an_interrupted_evaluation_is_made_after_the_resume(outcomes, logged, tmp_path: Path, monkeypatch):
    own = program(host_toys.HostPull(), logged)
    assert host_toys.interrupted_in_evaluation(own, tmp_path) == 20
    for ours, theirs in zip(execute(own, tmp_path), outcomes, strict=True):
        small.assert_same(ours, theirs)


def test_an_environment_that_breaks_is_named_and_nothing_is_lost(outcomes, logged, tmp_path: Path):
    class Breaking(host_toys.HostPull):
        total = 0

        def step(self, action):
            Breaking.total += 1
            if Breaking.total == 60:
                raise ZeroDivisionError("the motor is off")
            return super().step(action)

    with pytest.raises(
        UserError, match=r"broke at update \d+ of member . \(.*the motor is off; mend it"
    ) as told:
        execute(program(Breaking(), logged), tmp_path)
    assert "\n" not in str(told.value)
    mended = execute(program(host_toys.HostPull(), logged), tmp_path)
    for ours, theirs in zip(mended, outcomes, strict=True):
        small.assert_same(ours, theirs)


def test_data_that_would_be_made_in_compiled_stages_are_refused():
    with pytest.raises(
        UserError, match="is made inside compiled stages, and 'toys:pull' runs on the host: name a"
    ):
        _ = program(host_toys.HostPull(), None, "own:random?episodes=5").env


@pytest.mark.slow
def test_actions_are_drawn_alike_for_all_members_whoever_plays_beside_them(logged):
    agent = BCConfig(hidden=(8,), batch_size=8)
    both = execute(
        program(host_toys.Seeded(), logged, agent=agent, evaluation=Evaluation(40, 4, 8, sampled=True))
    )
    one = program(
        host_toys.Seeded(), logged, arms=("rigl",), agent=agent, evaluation=Evaluation(40, 4, 8, sampled=True)
    )
    (alone,) = execute(one)
    np.testing.assert_allclose(alone.final_returns, both[1].final_returns, atol=1e-4)
    fixed = execute(program(host_toys.Seeded(), logged, agent=agent, evaluation=Evaluation(40, 4, 8)))
    assert np.all(np.abs(fixed[1].final_returns - both[1].final_returns) > 1e-3)
    # The first state of an episode is another with every seed; in HostPull it is not, and only what is drawn differs.
    same = execute(
        program(host_toys.HostPull(), logged, agent=agent, evaluation=Evaluation(40, 4, 8, sampled=True))
    )
    assert len(np.unique(same[0].final_returns)) == 8


@pytest.mark.slow
def test_a_budget_that_ends_before_or_after_an_evaluation_loses_nothing(
    outcomes, logged, tmp_path: Path, monkeypatch
):
    """One piece of work per run: a dispatch or an evaluation."""
    clock = SimpleNamespace(seconds=0.0)
    hands = SimpleNamespace(monotonic=lambda: clock.seconds, perf_counter=time.perf_counter)
    monkeypatch.setattr(runner, "time", hands)
    for name in ("dispatch", "evaluate"):
        work = getattr(host_evaluation.HostEvaluation, name)

        def timed(self: Any, work: Any = work) -> None:
            work(self)
            clock.seconds += 1.0

        monkeypatch.setattr(host_evaluation.HostEvaluation, name, timed)
    own, stops, found = program(host_toys.HostPull(), logged), [], None
    while found is None and len(stops) < 20:
        try:
            found = execute(own, tmp_path, deadline=clock.seconds + 0.5)
        except Stopped as stop:
            stops.append(stop.step)
    assert stops == [10, 20, 20, 30, 40, 40, 50, 60, 60, 70, 80, 80]
    assert found is not None
    for ours, theirs in zip(found, outcomes, strict=True):
        small.assert_same(ours, theirs)


def test_an_observer_sees_every_evaluation_though_it_is_interrupted(logged, tmp_path: Path):
    seen: list[int] = []

    def observe(execution: Any) -> None:
        if execution.step == 40:
            signal.raise_signal(signal.SIGINT)
        seen.append(execution.step)

    own = program(host_toys.HostPull(), logged)
    with pytest.raises(Stopped, match="step 40"):
        execute(own, tmp_path, observe=observe)
    execute(own, tmp_path, observe=observe)
    assert seen == [20, 40, 60, 80]
