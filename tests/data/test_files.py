"""Published layouts of the same episodes are the same transitions; a time limit is the reader's choice."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl_jax.data import OfflineDataset, load, save
from sparserl_jax.errors import UserError
from sparserl_jax.shipped import data_folder
from sparserl_jax.training.datasets import best_of
from tests.reference import offline_files as files

ENDS = [(4, True), (3, False), (1, True), (5, False)]


def same(one: OfflineDataset, other: OfflineDataset) -> None:
    for name, left, right in zip(one._fields, one, other):
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)


def expected(made: list[files.Episode]) -> OfflineDataset:
    """By the definition of the format, step for step."""
    rows = []
    for one in made:
        for step, reward in enumerate(one.reward):
            last = step == len(one.reward) - 1
            unit = (one.action[step] - files.LOW) / (files.HIGH - files.LOW) * 2 - 1
            rows.append(
                (
                    one.obs[step],
                    unit,
                    reward,
                    one.obs[step + 1],
                    last and one.terminated,
                    last and not one.terminated,
                )
            )
    kinds = (np.float32, np.float32, np.float32, np.float32, bool, bool)
    return OfflineDataset(*(np.array(column, kind) for column, kind in zip(zip(*rows), kinds)))


def close(one: OfflineDataset, other: OfflineDataset) -> None:
    same(one._replace(action=other.action), other)
    assert one.action.dtype == np.float32
    np.testing.assert_allclose(one.action, other.action, atol=1e-6)


def d4rl_rows(arrays: dict[str, np.ndarray]) -> list[int]:
    """Rows that `qlearning_dataset` keeps, as its documentation has it: all but the last, none at a timeout."""
    return [row for row in range(len(arrays["rewards"]) - 1) if not arrays["timeouts"][row]]


@pytest.mark.parametrize("seed", range(2))
def test_all_layouts_hold_the_same_transitions(tmp_path: Path, seed: int) -> None:
    pytest.importorskip("h5py"), pytest.importorskip("pyarrow")
    made = files.episodes(ENDS, seed)
    flat = load(f"d4rl:{files.write_flat(tmp_path / 'a.hdf5', files.flat(made))}", **files.SPACE)
    close(flat, expected(made))
    same(flat, load(f"minari:{files.write_groups(tmp_path / 'groups', made)}", **files.SPACE))
    same(flat, load(f"minari:{files.write_arrow(tmp_path / 'arrow', made)}", **files.SPACE))
    save(tmp_path / "own.npz", flat, source="test", action_low=files.LOW, action_high=files.HIGH)
    same(flat, load(f"npz:{tmp_path / 'own.npz'}", **files.SPACE))


@pytest.mark.parametrize("name", ["hopper-medium-replay", "hopper-medium-expert"])
def test_a_shipped_dataset_is_found_by_name_from_any_folder(tmp_path: Path, monkeypatch, name: str) -> None:
    own = data_folder("datasets") / f"{name}.npz"
    monkeypatch.chdir(tmp_path)
    space = {"obs_dim": 11, "action_low": -np.ones(3), "action_high": np.ones(3)}
    same(load(f"npz:{own}", **space), load(f"shipped:{name}", folder=tmp_path, **space))


def test_the_best_episodes_of_medium_replay_stand_or_hop_and_fall() -> None:
    """What docs/methods/offline.md and the suite offline_hopper say of the tenth with the largest returns."""
    data = load("shipped:hopper-medium-replay", obs_dim=11, action_low=-np.ones(3), action_high=np.ones(3))
    lengths = np.bincount(data.episode)
    step = np.concatenate([np.arange(length) for length in lengths])
    discounted = np.bincount(data.episode, data.reward * 0.99**step)
    best = np.flatnonzero(best_of(data.returns, 0.1, np))
    standing = best[lengths[best] == 1000]
    assert (len(best), len(standing), np.median(lengths[best])) == (165, 7, 135)
    assert round(lengths[standing].sum() / lengths[best].sum(), 2) == 0.21
    assert [round(float(of[best].mean())) for of in (data.returns, discounted)] == [325, 132]
    assert [round(float(of[standing].mean())) for of in (data.returns, discounted)] == [1047, 120]


@pytest.mark.parametrize("stored", [True, False])
def test_drop_leaves_out_one_row_of_every_episode_that_a_limit_ended(tmp_path: Path, stored: bool) -> None:
    pytest.importorskip("h5py")
    arrays = files.flat(files.episodes(ENDS))
    path = files.write_flat(tmp_path / "a.hdf5", arrays)
    kept = load(f"d4rl:{path}", **files.SPACE)
    if not stored:
        del arrays["next_observations"]
        path = files.write_flat(tmp_path / "b.hdf5", arrays)
    dropped = load(f"d4rl:{path}?timeouts=drop", **files.SPACE)
    rows = d4rl_rows(arrays)
    assert len(kept.reward) - len(dropped.reward) == sum(not terminated for _, terminated in ENDS)
    for name in ("obs", "action", "reward", "terminated"):
        np.testing.assert_array_equal(getattr(dropped, name), getattr(kept, name)[rows], err_msg=name)
    going_on = ~dropped.terminated
    np.testing.assert_array_equal(
        dropped.next_obs[going_on], arrays["observations"][np.array(rows) + 1][going_on]
    )
    # Behind a terminal nothing follows: never the next episode's first observation.
    behind = kept.next_obs if stored else kept.obs
    np.testing.assert_array_equal(dropped.next_obs[dropped.terminated], behind[rows][dropped.terminated])
    assert np.flatnonzero(dropped.ends).tolist() == [3, 5, 6, 10]
    assert dropped.truncated.tolist() == (dropped.ends & ~dropped.terminated).tolist()


def test_drop_leaves_out_the_last_row_of_the_file_as_d4rl_does(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = files.write_flat(tmp_path / "a.hdf5", files.flat(files.episodes([(1, False), (3, True)])))
    dropped = load(f"d4rl:{path}?timeouts=drop", **files.SPACE)
    assert dropped.terminated.tolist() == [False, False] and dropped.truncated.tolist() == [False, True]


@pytest.mark.parametrize("options", ["", "?timeouts=drop"])
def test_without_timeouts_episodes_end_where_stored_observations_jump(tmp_path: Path, options: str) -> None:
    pytest.importorskip("h5py")
    arrays = files.flat(files.episodes([(3, True), (4, False), (1, False), (2, True), (3, False)]))
    whole = load(f"d4rl:{files.write_flat(tmp_path / 'a.hdf5', arrays)}{options}", **files.SPACE)
    del arrays["timeouts"]
    # A rounding is no jump.
    arrays["next_observations"] = arrays["next_observations"] * np.float32(1 + 1e-7)
    found = load(f"d4rl:{files.write_flat(tmp_path / 'b.hdf5', arrays)}{options}", **files.SPACE)
    assert found.terminated.tolist() == whole.terminated.tolist()
    assert found.truncated.tolist() == whole.truncated.tolist()
    np.testing.assert_array_equal(found.obs, whole.obs)
    np.testing.assert_allclose(found.next_obs, whole.next_obs, rtol=1e-6)


def test_data_that_stop_within_an_episode_are_cut_there(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    arrays = files.flat(files.episodes([(3, True), (3, False)]))
    arrays["timeouts"][:] = False
    made = load(f"d4rl:{files.write_flat(tmp_path / 'a.hdf5', arrays)}", **files.SPACE)
    assert made.truncated.tolist() == [False] * 5 + [True]


def test_columns_of_one_and_flags_of_numbers_are_read(tmp_path: Path) -> None:
    """Older files have rewards [N,1] and flags that are floats."""
    pytest.importorskip("h5py")
    arrays = files.flat(files.episodes(ENDS))
    new = load(f"d4rl:{files.write_flat(tmp_path / 'a.hdf5', arrays)}", **files.SPACE)
    arrays["rewards"] = arrays["rewards"][:, None]
    arrays["terminals"] = arrays["terminals"].astype(np.float32)[:, None]
    same(new, load(f"d4rl:{files.write_flat(tmp_path / 'b.hdf5', arrays)}", **files.SPACE))


def test_actions_a_rounding_outside_their_bounds_are_the_bounds(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    arrays = files.flat(files.episodes([(2, True)]))
    arrays["actions"] = np.array([[1.000001, -2.000001], [-1, 4]], np.float32)
    made = load(f"d4rl:{files.write_flat(tmp_path / 'a.hdf5', arrays)}", **files.SPACE)
    assert made.action.tolist() == [[1, -1], [-1, 1]]


def test_actions_of_the_unit_box_stay_as_they_are_to_the_last_bit(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    arrays = files.flat(files.episodes([(2, True)]))
    arrays["actions"] = np.array([[1e-30, -0.1], [0.3, 1]], np.float32)
    path = files.write_flat(tmp_path / "a.hdf5", arrays)
    made = load(f"d4rl:{path}", obs_dim=files.OBS, action_low=[-1, -1], action_high=[1, 1])
    np.testing.assert_array_equal(made.action, arrays["actions"])


@pytest.mark.parametrize("library, write", [("h5py", files.write_groups), ("pyarrow", files.write_arrow)])
def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch, library: str, write) -> None:
    pytest.importorskip(library)
    folder = write(tmp_path / "set", files.episodes(ENDS))
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match="extra `offline`: in the clone"):
        load(f"minari:{folder}", **files.SPACE)


ANY_ENDS = st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=5)


@settings(max_examples=25)
@given(ends=ANY_ENDS, seed=st.integers(0, 1000))
def test_any_episodes_are_the_same_written_and_read(ends: list[tuple[int, bool]], seed: int) -> None:
    pytest.importorskip("h5py"), pytest.importorskip("pyarrow")
    made = files.episodes(ends, seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flat = load(f"d4rl:{files.write_flat(folder / 'a.hdf5', files.flat(made))}", **files.SPACE)
        close(flat, expected(made))
        same(flat, load(f"minari:{files.write_groups(folder / 'groups', made)}", **files.SPACE))
        same(flat, load(f"minari:{files.write_arrow(folder / 'arrow', made)}", **files.SPACE))
        save(folder / "own.npz", flat, source="test", action_low=files.LOW, action_high=files.HIGH)
        same(flat, load(f"npz:{folder / 'own.npz'}", **files.SPACE))
        np.testing.assert_allclose(flat.returns, [one.reward.sum(dtype=np.float64) for one in made])
        rows = d4rl_rows(files.flat(made))
        if rows:
            dropped = load(f"d4rl:{folder / 'a.hdf5'}?timeouts=drop", **files.SPACE)
            np.testing.assert_array_equal(dropped.obs, flat.obs[rows])
            assert dropped.ends[-1] and not (dropped.terminated & dropped.truncated).any()
