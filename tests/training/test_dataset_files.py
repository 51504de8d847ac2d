"""Training on the dataset of a file: the same as on data that a training makes itself, once for all members."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl_jax.agents.bc import BCConfig
from sparserl_jax.data import OfflineDataset, save
from sparserl_jax.errors import UserError
from sparserl_jax.training import Program, Run, Stopped, Training, datasets, execute, group, recipe
from sparserl_jax.training.datasets import Dataset
from sparserl_jax.training.program import ONCE
from tests.reference import small
from tests.training.test_dataset_stages import ARMS
from tests.training.test_dataset_stages import training as usual

BOUNDS = {"action_low": small.Drift.spec.action_low, "action_high": small.Drift.spec.action_high}


def training(**changes) -> Training:
    """Small enough to be compiled twice."""
    agent = BCConfig(hidden=(8,), batch_size=16, learning_rate=3e-3, policy="deterministic")
    return usual(**{"agent": agent, **changes})


def members(of) -> Program:
    (only,) = group([Run(of, recipe(name), ARMS[name], 0, name) for name in ("dense", "rigl")])
    return only


@pytest.fixture(scope="module")
def own() -> tuple[list, OfflineDataset]:
    """A training on data of its own, and those data."""
    program = members(training())
    compiled = program.compile()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "compile", lambda self, *_: compiled)
        outcomes = execute(program)
    population = jax.device_get(compiled[0]["init"](program.layout.place(program.settings)))
    first, second = (
        datasets.rows_of(jax.tree.map(lambda x, i=i: np.asarray(x)[i], population.replay)) for i in range(2)
    )
    assert first.sha256 == second.sha256
    return outcomes, first


@pytest.fixture(scope="module")
def logged(own, tmp_path_factory) -> datasets.Logged:
    folder = tmp_path_factory.mktemp("data")
    save(folder / "a.npz", own[1], source="test", **BOUNDS)
    found = datasets.read("a.npz", small.Drift.spec, folder, "here")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def compiled(logged) -> tuple[Program, tuple]:
    program = members(training(dataset="a.npz", logged=logged))
    return program, program.compile()


def test_a_file_trains_as_the_data_that_were_saved_in_it(own, logged, compiled, monkeypatch):
    program, stages = compiled
    monkeypatch.setattr(Program, "compile", lambda self, *_: stages)
    outcomes = execute(program)
    for theirs, ours in zip(own[0], outcomes, strict=True):
        assert ours.data == {**theirs.data, "name": "a.npz"} == {**logged.described()}
        assert ours.data["episodes"] == ours.episodes == 6
        np.testing.assert_allclose(ours.final_returns, theirs.final_returns, atol=1e-3)
        for name, column in theirs.curve.items():
            np.testing.assert_allclose(ours.curve[name], column, rtol=1e-3, atol=1e-3, err_msg=name)


def test_its_arrays_are_no_members_and_lie_in_no_checkpoint(logged, compiled):
    program, _ = compiled
    shapes = program.shapes()
    assert shapes.replay == ()
    rows = len(logged.arrays.reward)
    (data,) = program.shared
    assert data.obs.shape == (rows, 2) and program.arguments()["train"][3] is data
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    copies = 2 if program.one_by_one else 1
    assert program.memory() == copies * held + sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(data))


def test_a_program_is_named_by_what_its_file_holds(logged):
    of = training(dataset="a.npz", logged=logged)
    other = dataclasses.replace(logged, sha256="0" * 64)
    names = {members(one).name for one in (of, of, dataclasses.replace(of, logged=other))}
    assert len(names) == 2
    with pytest.raises(UserError, match="dataset 'a.npz' has not been read"):
        training(dataset="a.npz").check()


def test_a_stopped_program_goes_on_to_the_same_end(compiled, tmp_path: Path, monkeypatch):
    program, stages = compiled
    monkeypatch.setattr(Program, "compile", lambda self, *_: stages)

    def stop(step: int) -> None:
        if step == 80:
            raise KeyboardInterrupt

    with pytest.raises(Stopped):
        execute(program, tmp_path, progress=small.Watch(stop))
    for first, second in zip(execute(program), execute(program, tmp_path), strict=True):
        small.assert_same(first, second)


# ---- the best episodes -------------------------------------------------------------------------------------


def test_a_share_of_episodes_is_rounded_up_and_never_by_a_rounding():
    assert [datasets.best_count(share, 30) for share in (0.1, 0.2, 0.01, 1.0)] == [3, 6, 1, 30]
    assert all(datasets.best_count(0.1, 10 * k) == k for k in range(1, 500))


LISTS = st.lists(st.tuples(st.integers(1, 4), st.integers(-3, 3)), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(made=LISTS, share=st.sampled_from([0.1, 0.3, 0.5, 1.0]), unused=st.integers(0, 3))
def test_rows_of_the_best_episodes_are_drawn_and_no_others(made, share, unused):
    """Episodes of (length, return), against a list that is sorted by hand."""
    lengths, returns = [one[0] for one in made], np.array([one[1] for one in made], np.float32)
    ranked = sorted(range(len(made)), key=lambda i: (-returns[i], i))
    chosen = set(ranked[: max(1, -(-len(made) * round(share * 10) // 10))])
    episode = np.repeat(np.arange(len(made)), lengths)
    rows, size = len(episode), len(episode) + unused
    last = np.append(episode[1:] != episode[:-1], True)
    column = np.zeros(size, np.float32)
    data = Dataset(
        column[:, None], column[:, None], column, column[:, None],
        np.append(last, np.ones(unused, bool)), np.zeros(size, bool), np.int32(rows),
    )  # fmt: skip
    best = datasets.best_of(returns, share, np)
    assert set(np.flatnonzero(best)) == chosen
    order, count = datasets.narrowed(data, best, np).drawn
    assert sorted(order) == list(range(size))
    assert list(order[:count]) == [i for i in range(rows) if episode[i] in chosen]


def test_the_best_of_a_file_and_of_own_data_are_the_same(own, logged):
    """Half of six episodes; what is drawn from is narrowed, and the data stay what they were."""
    agent, whole = BCConfig(hidden=(4,), batch_size=8, best=0.5), own[1]
    found = []
    for of in (training(agent=agent), training(agent=agent, dataset="a.npz", logged=logged)):
        program = members(of)
        settings = program.layout.place(program.settings)
        member = jax.device_get(
            program.stages["init"].lower(settings).compile(compiler_options=ONCE)(settings)
        )
        data = program.shared[0] if program.shared else jax.tree.map(lambda x: x[0], member.replay)
        found.append(data)
        best = np.sort(whole.returns)[3:]
        np.testing.assert_array_equal(member.tally.episodes, 3)
        np.testing.assert_allclose(member.tally.last_return, best.mean(), rtol=1e-5)
        rows = np.asarray(data.drawn[0])[: int(data.held)]
        assert data.held < data.rows == len(whole.reward)
        np.testing.assert_allclose(np.sort(whole.returns[np.unique(whole.episode[rows])]), best)
        assert datasets.rows_of(data).sha256 == logged.sha256
        batch = jax.jit(lambda key, data=data: datasets.draw(data, key, 300))(jax.random.key(0))
        assert set(map(tuple, np.asarray(batch.obs))) == set(map(tuple, whole.obs[rows]))
    np.testing.assert_array_equal(
        found[0].drawn[0][: int(found[0].held)], found[1].drawn[0][: int(found[1].held)]
    )
