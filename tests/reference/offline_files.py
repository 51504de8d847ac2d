"""One list of episodes in every layout that offline data come in, written by hand: no loader of ours is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

OBS, ACTIONS = 3, 2
LOW, HIGH = np.array([-1.0, -2.0]), np.array([1.0, 4.0])
SPACE = {"obs_dim": OBS, "action_low": LOW, "action_high": HIGH}


class Episode(NamedTuple):
    """T steps: obs f32[T+1,OBS]; action f32[T,ACTIONS] in the environment's units; reward f32[T]; how it ended."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: bool

    @property
    def last(self) -> np.ndarray:
        """bool[T], true in the last row."""
        return np.arange(len(self.reward)) == len(self.reward) - 1


def episodes(ends: list[tuple[int, bool]], seed: int = 0) -> list[Episode]:
    """Random episodes of (length, terminated), one each; all observations differ."""
    draw = np.random.default_rng(seed)
    return [
        Episode(
            draw.normal(size=(steps + 1, OBS)).astype(np.float32),
            draw.uniform(LOW, HIGH, (steps, ACTIONS)).astype(np.float32),
            draw.normal(size=steps).astype(np.float32),
            terminated,
        )
        for steps, terminated in ends
    ]


def flat(made: list[Episode]) -> dict[str, np.ndarray]:
    """D4RL's arrays."""
    return {
        "observations": np.concatenate([one.obs[:-1] for one in made]),
        "actions": np.concatenate([one.action for one in made]),
        "rewards": np.concatenate([one.reward for one in made]),
        "next_observations": np.concatenate([one.obs[1:] for one in made]),
        "terminals": np.concatenate([one.last & one.terminated for one in made]),
        "timeouts": np.concatenate([one.last & (not one.terminated) for one in made]),
    }


def write_flat(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Arrays at the root of an HDF5 file, and the groups that D4RL has beside them."""
    import h5py

    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
        file["infos/qpos"] = np.zeros(2)
        file["metadata/algorithm"] = "SAC"
    return path


def columns(one: Episode) -> dict[str, np.ndarray]:
    """Minari's arrays of an episode."""
    return {
        "observations": one.obs,
        "actions": one.action,
        "rewards": one.reward.astype(np.float64),
        "terminations": one.last & one.terminated,
        "truncations": one.last & (not one.terminated),
    }


def _describe(data: Path, made: list[Episode]) -> None:
    said = {"total_episodes": len(made), "total_steps": sum(len(one.reward) for one in made)}
    (data / "metadata.json").write_text(json.dumps(said))


def write_groups(folder: Path, made: list[Episode]) -> Path:
    """Minari's HDF5 storage; returns the dataset's folder."""
    import h5py

    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data" / "main_data.hdf5", "w", track_order=True) as file:
        for number, one in enumerate(made):
            group = file.create_group(f"episode_{number}")
            group.attrs["id"] = number
            group.attrs["total_steps"] = len(one.reward)
            for key, value in columns(one).items():
                group.create_dataset(key, data=value, chunks=True, maxshape=(None, *value.shape[1:]))
            group.create_dataset("infos", (len(one.obs),), dtype=h5py.special_dtype(vlen=str))
    _describe(folder / "data", made)
    return folder


def write_arrow(folder: Path, made: list[Episode]) -> Path:
    """Minari's Arrow storage, every column padded to T+1 rows; returns the dataset's folder."""
    import pyarrow as pa

    for number, one in enumerate(made):
        place = folder / "data" / str(number)
        place.mkdir(parents=True)
        table = {}
        for key, value in columns(one).items():
            rows = np.concatenate(
                [value, np.zeros((len(one.obs) - len(value), *value.shape[1:]), value.dtype)]
            )
            if rows.ndim == 2:
                kind = pa.list_(pa.from_numpy_dtype(rows.dtype), rows.shape[1])
                table[key] = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=kind)
            else:
                table[key] = pa.array(rows)
        batch = pa.RecordBatch.from_pydict(table)
        with (
            pa.OSFile(str(place / "part-0.arrow"), "wb") as file,
            pa.ipc.new_file(file, batch.schema) as writer,
        ):
            writer.write_batch(batch)
        (place / "metadata.json").write_text(json.dumps({"id": number, "total_steps": len(one.reward)}))
    _describe(folder / "data", made)
    return folder
