"""Minari's datasets in both of its storages: a folder with `data/`, one group or folder per episode.

    HDF5    data/main_data.hdf5, groups `episode_<k>`: observations [T+1,O]; actions [T,A], rewards, terminations,
            truncations [T]; attribute `total_steps` T
    Arrow   data/<k>/*.arrow, the same five columns, all of T+1 rows (the last one of the four others is padding);
            data/<k>/metadata.json with `total_steps` T

and data/metadata.json with `total_episodes` and `total_steps`, against which the files are counted where it is there.

The files are read as they are, without the package minari: what it adds to h5py and pyarrow is the decoding of nested
spaces, for which it needs gymnasium, while the observations and actions of this package are plain tables; and every
damage of a file has to become one sentence here. Nothing is downloaded: `minari download` does that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sparserl_jax.data import checks, hdf5
from sparserl_jax.data.dataset import OfflineDataset
from sparserl_jax.errors import UserError, located

KEYS = ("observations", "actions", "rewards", "terminations", "truncations")
AFTER = {"observations": 1}
MAIN = "main_data.hdf5"
METADATA = "metadata.json"

Episode = dict[str, np.ndarray]
"""observations [T+1,O]; actions [T,A], rewards, terminations, truncations [T], as stored."""


def load(folder: Path, box: checks.Box) -> OfflineDataset:
    """The transitions of a dataset's folder, episodes in the order of their numbers.

    An episode whose last row is no end is truncated there, for the data end.
    """
    data = folder / "data"
    if not checks.is_folder(data):
        raise UserError(
            f"there is no folder '{data}'; give the folder of a Minari dataset, which holds `data`."
        )
    # `_hdf5` and `_arrow` are generators: an episode is checked and converted before the next one is read.
    source = _hdf5(data / MAIN, box) if (data / MAIN).is_file() else _arrow(data, box)
    parts = []
    for name, episode in source:
        with located(name):
            parts.append(_transitions(episode, box))
    made = OfflineDataset(*map(np.concatenate, zip(*parts)))
    _count(data / METADATA, {"total_episodes": len(parts), "total_steps": len(made.reward)})
    return made


def _transitions(episode: Episode, box: checks.Box) -> OfflineDataset:
    obs = checks.floats(episode["observations"], "observations")
    terminated = checks.flags(episode["terminations"], "terminations")
    cut = checks.flags(episode["truncations"], "truncations")
    early = (terminated | cut)[:-1]
    if early.any():
        raise UserError(
            f"row {np.argmax(early)} of {len(cut)} ends the episode, and rows follow; store those as an episode."
        )
    truncated = np.zeros_like(terminated)
    truncated[-1] = not terminated[-1]
    return OfflineDataset(
        obs=obs[:-1],
        action=checks.scaled(episode["actions"], box, "actions"),
        reward=checks.floats(episode["rewards"], "rewards").reshape(-1),
        next_obs=obs[1:],
        terminated=terminated,
        truncated=truncated,
    )


def _hdf5(path: Path, box: checks.Box) -> Iterator[tuple[str, Episode]]:
    with hdf5.opened(path) as file:
        for number in _numbers(re.fullmatch(r"episode_([0-9]+)", name) for name in file):
            name = f"episode_{number}"
            with located(name):
                group = file[name]
                found = {key: hdf5.array(group, key) for key in KEYS}
                checks.layout(found, box.widths, AFTER)
                _agree(group.attrs, {"total_steps": found["rewards"].shape[0]}, "its attribute")
                episode = {key: value[()] for key, value in found.items()}
            yield name, episode


def _arrow(data: Path, box: checks.Box) -> Iterator[tuple[str, Episode]]:
    folders = (re.fullmatch("([0-9]+)", path.name) for path in sorted(data.iterdir()) if path.is_dir())
    numbers = _numbers(folders, f" and no {MAIN}")
    for number in numbers:
        name = f"episode {number}"
        with located(name):
            episode = _table(data / str(number))
            checks.layout(episode, box.widths, AFTER)
            _count(data / str(number) / METADATA, {"total_steps": len(episode["rewards"])})
        yield name, episode


def _table(folder: Path) -> Episode:
    """The columns of an episode's Arrow files, without the padding."""
    try:
        import pyarrow as pa
    except ImportError:
        raise checks.no_library("pyarrow", "Arrow files") from None
    parts: dict[str, list[np.ndarray]] = {key: [] for key in KEYS}
    # part-10 comes behind part-9
    for path in sorted(folder.glob("*.arrow"), key=lambda path: (len(path.name), path.name)):
        with checks.readable(path, "Arrow"), pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
            table.validate(full=True)
            for key in KEYS:
                if key not in table.column_names:
                    raise UserError(f"{key} is missing; there are: {', '.join(table.column_names)}.")
                for chunk in table[key].chunks:
                    parts[key].append(_numpy(chunk, key))
    if not parts["rewards"]:
        raise UserError(f"there are no rows in '{folder.name}/*.arrow'; copy the dataset again.")
    whole = {key: np.concatenate(values) for key, values in parts.items()}
    return {key: values[: len(values) - 1 + AFTER.get(key, 0)] for key, values in whole.items()}


def _numpy(chunk: Any, key: str) -> np.ndarray:
    """[n] of a chunk of numbers, [n,columns] of one of lists of equal length."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(chunk.type):
        rows, values = len(chunk), chunk.flatten()
        shape: tuple[int, ...] = (rows, chunk.type.list_size)
    else:
        values, shape = chunk, (len(chunk),)
    if chunk.null_count or values.null_count:
        raise UserError(f"{key} has entries without a value; every entry has to be a number.")
    if not (
        pa.types.is_floating(values.type)
        or pa.types.is_integer(values.type)
        or pa.types.is_boolean(values.type)
    ):
        raise UserError(
            f"{key} holds {chunk.type}, not numbers (a dict or tuple space?); store it as one array."
        )
    return values.to_numpy(zero_copy_only=False).reshape(shape)


def _numbers(matches: Iterator[re.Match[str] | None], without: str = "") -> range:
    """Numbers of the episodes, which run from 0 without a gap."""
    found = sorted(int(match[1]) for match in matches if match)
    if not found:
        raise UserError(f"there are no episodes{without}; give a Minari dataset in HDF5 or Arrow storage.")
    if found != list(range(len(found))):
        missing = min(set(range(len(found))) - set(found), default=found[-1])
        raise UserError(
            f"episode {missing} is missing or twice there, and others follow; copy the dataset again."
        )
    return range(len(found))


def _count(path: Path, counted: dict[str, int]) -> None:
    """Compare what was counted with what a metadata file says, where there is one."""
    if path.exists():
        with checks.readable(path, "JSON"):
            said = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(said, dict):
                raise TypeError(f"a {type(said).__name__}")
        _agree(said, counted, path.name)


def _agree(said: Any, counted: dict[str, int], who: str) -> None:
    for key, number in counted.items():
        if key in said and said[key] != number:
            raise UserError(
                f"there are {number} ({key}), and {who} says {said[key]}; copy the dataset again."
            )
