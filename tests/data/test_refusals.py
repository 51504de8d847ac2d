"""A dataset that is not what it should be is one sentence that says what, where and how to mend; never a traceback."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl_jax.data import OfflineDataset, card, load, save
from sparserl_jax.errors import UserError
from tests.reference import offline_files as files

ENDS = [(4, True), (3, False)]
BOUNDS = {"action_low": files.LOW, "action_high": files.HIGH}

Columns = dict[str, np.ndarray]


def refused(source: str, *words: str, **space: Any) -> None:
    """The source is refused in one sentence that begins with it and holds these words."""
    with pytest.raises(UserError) as caught:
        load(source, **{**files.SPACE, **space})
    said = str(caught.value)
    assert said.startswith(f"dataset '{source}': ") and "\n" not in said
    for word in words:
        assert word in said, said


def without(key: str) -> Callable[[Columns], None]:
    return lambda arrays: arrays.__delitem__(key)


def put(key: str, place: Any, value: Any) -> Callable[[Columns], None]:
    return lambda arrays: arrays[key].__setitem__(place, value)


def become(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Columns], None]:
    return lambda arrays: arrays.update({key: change(arrays[key])})


@pytest.mark.parametrize(
    "mistake, words",
    [
        (without("rewards"), ["rewards is missing", "actions"]),
        (without("next_observations"), ["next_observations is missing", "timeouts=drop"]),
        (put("observations", (2, 1), np.nan), ["observations holds nan in row 2"]),
        (put("rewards", 5, np.inf), ["rewards holds inf in row 5"]),
        (become("rewards", lambda x: x.astype(np.float64) + 1e300), ["rewards holds 1e+300 in row 0"]),
        (put("actions", (3, 1), 4.1), ["actions holds 4.0999999 in row 3, dimension 1", "[-2, 4]"]),
        (put("actions", (3, 0), np.nan), ["actions holds nan in row 3"]),
        (become("observations", lambda x: x[:, :2]), ["observations has the shape (7, 2)", "3 columns"]),
        (become("actions", lambda x: x[:, 0]), ["actions has the shape (7,)", "2 columns"]),
        (
            become("rewards", lambda x: np.stack([x, x], 1)),
            ["rewards has the shape (7, 2)", "one number per row"],
        ),
        (become("terminals", lambda x: x[:-1]), ["terminals has 6 rows and rewards 7"]),
        (become("terminals", lambda x: x * 2.0), ["terminals holds 2 in row 3", "0 or 1"]),
        (become("actions", lambda x: x.astype("S4")), ["actions holds |S4, not numbers"]),
        (lambda arrays: arrays.update({k: v[:0] for k, v in arrays.items()}), ["there are no rows"]),
    ],
)
def test_a_d4rl_file_says_what_is_wrong_with_it(tmp_path: Path, mistake, words: list[str]) -> None:
    pytest.importorskip("h5py")
    arrays = files.flat(files.episodes(ENDS))
    mistake(arrays)
    refused(f"d4rl:{files.write_flat(tmp_path / 'a.hdf5', arrays)}", *words)


def test_next_observations_that_are_those_of_the_next_episode_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    arrays = files.flat(files.episodes([(3, False), (4, False), (2, True)]))
    shifted = {**arrays, "next_observations": np.roll(arrays["observations"], -1, axis=0)}
    path = files.write_flat(tmp_path / "a.hdf5", shifted)
    refused(f"d4rl:{path}", "next_observations of row 2", "in all 2 such rows", "timeouts=drop")
    dropped = load(f"d4rl:{path}?timeouts=drop", **files.SPACE)
    rows = [0, 1, 3, 4, 5, 7]  # one less for every limit, and the terminal last row
    assert np.array_equal(dropped.obs, arrays["observations"][rows].astype(np.float32))


def test_no_transitions_are_left(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = files.write_flat(tmp_path / "a.hdf5", files.flat(files.episodes([(1, False)])))
    refused(f"d4rl:{path}?timeouts=drop", "leaves no transitions")


def test_sources_are_checked_before_files(tmp_path: Path) -> None:
    refused("hdf5:a", "d4rl:PATH, minari:PATH, npz:PATH")
    refused("d4rl", "d4rl:PATH, minari:PATH, npz:PATH")
    refused("shipped:hopper-medium-replai", "did you mean 'hopper-medium-replay'")
    refused("d4rl:a?timeouts=perhaps", "keep or drop")
    refused("d4rl:a?timeout=drop", "no option 'timeout'", "timeouts")
    refused("npz:a?timeouts=drop", "it has none")
    refused("d4rl:a?timeouts", "?name=value")
    refused("npz:a", "one lower and one upper bound", action_low=[-1.0])
    refused("npz:a", "no box", action_low=[-1.0, np.inf])
    refused("npz:a", "at least 1", obs_dim=0)
    refused(f"npz:{tmp_path / 'a'}", "there is no file")
    refused(f"minari:{tmp_path / 'a'}", "there is no folder")
    refused("d4rl:~nobody/a", "there is no file")
    (tmp_path / "data").mkdir()
    refused(f"minari:{tmp_path}", "no episodes and no main_data.hdf5")


def test_options_that_are_given_twice_are_refused() -> None:
    refused("d4rl:a?timeouts=keep&timeouts=drop", "option 'timeouts' is given 2 times; give it once")
    refused("d4rl:a?timeouts=keep&timeouts=keep", "given 2 times")


def test_kinds_are_told_by_what_a_path_ends_in(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save(path, small(), source="three steps", **BOUNDS)
    named = load(f"npz:{path}", **files.SPACE)
    for source, folder in ((f"{path}", None), ("a.npz", tmp_path), ("npz:a.npz", tmp_path)):
        assert load(source, **files.SPACE, folder=folder).sha256 == named.sha256
    refused("a.npz?timeouts=drop", "npz has no option 'timeouts'")
    refused(f"{tmp_path / 'a.hdf5'}", "there is no file")
    refused(f"{tmp_path}", "there is no folder", "holds `data`")  # a folder is Minari's
    refused("a.csv", "'a.csv' names no file of a kind that is known", ".hdf5, .h5, .npz")
    refused("", "names no file of a kind that is known")


LONG = "a" * 5000


@pytest.mark.parametrize(
    "source", [f"npz:{LONG}", f"d4rl:{LONG}", f"minari:{LONG}", LONG, f"{LONG}.npz", "npz:a\0"]
)
def test_paths_that_lead_nowhere_are_one_sentence(source: str) -> None:
    refused(source)


def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.npz"
    save(path, small(), source="three steps", **BOUNDS)
    monkeypatch.setattr("os.access", lambda *_: False)
    refused(f"npz:{path}", "a.npz' may not be read; check its permissions")

    def forbidden(*_: Any) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", forbidden)
    refused(f"npz:{path}", "Permission denied", "check the path")


@pytest.mark.parametrize("where", [1, 4])
def test_a_jump_that_nothing_marks_is_named(tmp_path: Path, where: int) -> None:
    """Rows 3 (terminal) and 6 (time limit) end episodes; a jump elsewhere is an end that is missing."""
    pytest.importorskip("h5py")
    arrays = files.flat(files.episodes(ENDS))
    arrays["next_observations"][where, 0] += 1
    path = files.write_flat(tmp_path / "a.hdf5", arrays)
    for options in ("", "?timeouts=drop"):
        refused(
            f"d4rl:{path}{options}", f"next_observations of row {where}", "in 1 rows", "mark it in timeouts"
        )


def test_a_file_says_one_way_or_the_other_where_episodes_were_cut(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    arrays = files.flat(files.episodes(ENDS))
    del arrays["timeouts"], arrays["next_observations"]
    path = files.write_flat(tmp_path / "a.hdf5", arrays)
    refused(f"d4rl:{path}?timeouts=drop", "timeouts is missing, and so is next_observations", "store one")


def test_other_kinds_of_files_are_not_read(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = tmp_path / "a"
    path.write_text("no data")
    refused(f"d4rl:{path}", "cannot be read as HDF5", "copy it again")
    refused(f"npz:{path}", "cannot be read as a dataset of this package")
    with path.open("wb") as file:
        np.savez(file, card=np.array({}, object))  # type: ignore[arg-type]
    refused(f"npz:{path}", "cannot be read as a dataset of this package")


def test_a_dict_of_observations_is_named(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    folder = files.write_groups(tmp_path / "set", files.episodes(ENDS))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/observations"]
        file["episode_1/observations/goal"] = np.zeros((4, 3))
    refused(f"minari:{folder}", "episode_1: observations is a group")


def test_minari_episodes_end_in_their_last_row_and_nowhere_else(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    folder = files.write_groups(tmp_path / "set", files.episodes(ENDS))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/truncations"][...] = False
    assert load(f"minari:{folder}", **files.SPACE).truncated.tolist() == [False] * 6 + [True]
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/terminations"][1] = True
    refused(f"minari:{folder}", "episode_1: row 1 of 3 ends the episode")


@pytest.mark.parametrize("write", [files.write_groups, files.write_arrow])
def test_minari_datasets_are_whole(tmp_path: Path, write) -> None:
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("pyarrow")
    folder = write(tmp_path / "set", files.episodes([*ENDS, (2, True)]))
    data = folder / "data"
    said = json.loads((data / "metadata.json").read_text())
    (data / "metadata.json").write_text(json.dumps({**said, "total_steps": 10}))
    refused(f"minari:{folder}", "there are 9 (total_steps), and metadata.json says 10")
    (data / "metadata.json").write_text("[" * 100_000)
    refused(f"minari:{folder}", "'metadata.json' cannot be read as JSON")
    (data / "metadata.json").unlink()
    assert len(load(f"minari:{folder}", **files.SPACE).reward) == 9
    if write is files.write_groups:
        with h5py.File(data / "main_data.hdf5", "a") as file:
            file["episode_0"].attrs["total_steps"] = 5
        refused(f"minari:{folder}", "there are 4 (total_steps), and its attribute says 5")
        with h5py.File(data / "main_data.hdf5", "a") as file:
            del file["episode_1"]
    else:
        (data / "1").rename(data / "3")
    refused(f"minari:{folder}", "episode 1 is missing")


@pytest.mark.parametrize(
    "mistake, words",
    [
        (without("actions"), ["actions is missing"]),
        (become("observations", lambda x: x[:, :2]), ["observations has the shape (4, 2)"]),
        (become("actions", lambda x: x + 10), ["in row 0, dimension 0, outside the action space [-1, 1]"]),
        (become("rewards", lambda x: x * np.nan), ["rewards holds nan in row 0"]),
        (become("rewards", lambda x: x.astype("U4")), ["rewards holds string, not numbers"]),
    ],
)
def test_an_arrow_file_says_what_is_wrong_with_it(tmp_path: Path, monkeypatch, mistake, words) -> None:
    pytest.importorskip("pyarrow")
    right = files.columns

    def wrong(one: files.Episode) -> Columns:
        arrays = right(one)
        if not one.terminated:
            mistake(arrays)
        return arrays

    monkeypatch.setattr(files, "columns", wrong)
    refused(f"minari:{files.write_arrow(tmp_path / 'set', files.episodes(ENDS))}", "episode 1: ", *words)


def test_arrow_entries_without_a_value_are_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    folder = files.write_arrow(tmp_path / "set", files.episodes(ENDS))
    path = folder / "data" / "0" / "part-0.arrow"
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    place = table.column_names.index("rewards")
    table = table.set_column(place, "rewards", pa.array([None] * table.num_rows, pa.float64()))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    refused(f"minari:{folder}", "rewards has entries without a value")


def small(**changed: Any) -> OfflineDataset:
    column = np.zeros((3, files.OBS), np.float32)
    action = np.array([[-1, 1], [0, 0.5], [1, -1]], np.float32)
    ends = np.array([False, True, False]), np.array([False, False, True])
    return OfflineDataset(column, action, np.array([1, 2, 5], np.float32), column + 1, *ends)._replace(
        **changed
    )


def test_our_own_file_says_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.npz"
    made = save(path, small(), source="three steps", **BOUNDS)
    assert card(path) == made
    assert (made["source"], made["transitions"], made["episodes"]) == ("three steps", 3, 2)
    assert made["returns"]["mean"] == 4 and (made["returns"]["min"], made["returns"]["max"]) == (3, 5)
    assert made["returns"]["histogram"]["counts"] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert made["returns"]["histogram"]["edges"][::5] == [3, 4, 5]
    first = path.read_bytes()
    save(path, small(), source="three steps", **BOUNDS)
    assert path.read_bytes() == first and [file.name for file in path.parent.iterdir()] == ["a.npz"]
    refused(f"npz:{path}", "obs_dim 3, and the environment has 4", obs_dim=4)
    refused(f"npz:{path}", "action_low [-1.0, -2.0]", action_low=[-1, -1])


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.npz"
    save(path, small(), source="old", **BOUNDS)

    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        save(path, small(), source="new", **BOUNDS)
    assert card(path)["source"] == "old" and [file.name for file in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"terminated": np.array([False, False, True])}, "row 2 is terminated and truncated"),
        ({"truncated": np.zeros(3, bool)}, "the last row (2) ends no episode"),
        ({"action": np.full((3, 2), 1.1)}, "outside the action space [-1, 1]"),
        ({"obs": np.zeros((2, files.OBS))}, "obs has 2 rows"),
    ],
)
def test_nothing_wrong_is_saved(tmp_path: Path, changed: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(UserError) as caught:
        save(tmp_path / "a.npz", small(**changed), source="x", **BOUNDS)
    assert words in str(caught.value) and not list(tmp_path.iterdir())


def test_arrays_are_those_of_the_card(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save(path, small(), source="x", **BOUNDS)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["reward"] = arrays["reward"] + 1
    np.savez(path, **arrays)
    refused(f"npz:{path}", "SHA-256")
    said = {**card(path), "format": "sparserl_jax-dataset-99"}
    np.savez(path, **{**arrays, "card": np.array(json.dumps(said))})
    refused(f"npz:{path}", "has the format 'sparserl_jax-dataset-99'")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, tuple[str, Path, bytes]]:
    """By layout: source, one of its files, and that file's bytes."""
    pytest.importorskip("h5py"), pytest.importorskip("pyarrow")
    made, folder = files.episodes(ENDS), tmp_path_factory.mktemp("whole")
    flat = files.write_flat(folder / "a.hdf5", files.flat(made))
    groups, arrow = files.write_groups(folder / "groups", made), files.write_arrow(folder / "arrow", made)
    own = folder / "a.npz"
    save(own, load(f"d4rl:{flat}", **files.SPACE), source="test", **BOUNDS)
    found = {
        "d4rl": (f"d4rl:{flat}", flat),
        "hdf5": (f"minari:{groups}", groups / "data" / "main_data.hdf5"),
        "arrow": (f"minari:{arrow}", arrow / "data" / "1" / "part-0.arrow"),
        "metadata": (f"minari:{arrow}", arrow / "data" / "1" / "metadata.json"),
        "npz": (f"npz:{own}", own),
    }
    return {name: (source, path, path.read_bytes()) for name, (source, path) in found.items()}


@pytest.mark.parametrize("layout", ["d4rl", "hdf5", "arrow", "metadata", "npz"])
@settings(max_examples=60)
@given(data=st.data())
def test_any_cut_or_altered_file_is_one_sentence_or_loads(whole, layout: str, data: st.DataObject) -> None:
    source, path, before = whole[layout]
    place = st.integers(0, len(before) - 1)
    cut = data.draw(st.none() | place)
    altered = bytearray(before[:cut])
    if cut is None:
        for where, value in data.draw(
            st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=8)
        ):
            altered[where] = value
    try:
        path.unlink()
        path.write_bytes(altered)
        load(source, **files.SPACE)
    except UserError as error:
        assert str(error).startswith(f"dataset '{source}': ") and "\n" not in str(error)
    finally:
        path.write_bytes(before)


@settings(max_examples=40)
@given(returns=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=8))
def test_every_episode_is_in_the_histogram(returns: list[float]) -> None:
    rows = len(returns)
    column = np.zeros((rows, 1), np.float32)
    made = OfflineDataset(
        column, column, np.array(returns, np.float32), column, np.ones(rows, bool), np.zeros(rows, bool)
    )
    with tempfile.TemporaryDirectory() as name:
        said = save(Path(name) / "a.npz", made, source="x", action_low=[-1], action_high=[1])
    assert sum(said["returns"]["histogram"]["counts"]) == rows == said["episodes"]
