"""What every dataset has to be before anything is trained on it: each mistake is one sentence.

Loaders call these with the names that a file gives its arrays; `load` puts the file in front of the sentence. Layouts
are checked before arrays are read, so that a damaged shape cannot ask for more memory than there is.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparserl_jax.data.dataset import OfflineDataset
from sparserl_jax.errors import UserError, extra

ROUNDING = 1e-5
"""How far an action may lie outside its bounds, as a share of half their distance, and still be taken for a bound."""

DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,  # h5py; also RecursionError of deeply nested JSON
    LookupError,
    ValueError,  # also of pyarrow, of JSON and of Unicode
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the libraries that read files raise at content that they cannot make sense of."""


class Box(NamedTuple):
    """What the environment has: obs_dim O; action_low, action_high f64[A], finite."""

    obs_dim: int
    action_low: np.ndarray
    action_high: np.ndarray

    @property
    def widths(self) -> dict[str, int]:
        """Columns of every array that has columns, by the names of all published formats."""
        actions = len(self.action_low)
        return {"observations": self.obs_dim, "next_observations": self.obs_dim, "actions": actions}


def box(obs_dim: int, action_low: Any, action_high: Any) -> Box:
    """A Box of checked numbers; bounds are f[A] in the environment's units."""
    low, high = np.asarray(action_low, np.float64), np.asarray(action_high, np.float64)
    if low.ndim != 1 or low.shape != high.shape or not len(low):
        raise UserError(
            f"action bounds have the shapes {low.shape} and {high.shape}; give one lower and one upper bound for every "
            "action dimension."
        )
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise UserError(
            f"action bounds {low} to {high} are no box; every lower bound is a number below its upper."
        )
    if obs_dim < 1:
        raise UserError(f"obs_dim is {obs_dim}; it is the number of entries of an observation, at least 1.")
    return Box(int(obs_dim), low, high)


def no_library(name: str, what: str) -> UserError:
    """Error for a library that is not installed and reads `what`."""
    return UserError(f"{what} are read by {name}, of the extra `offline`: {extra('offline')}.")


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Turn what a system says of a path that it cannot follow (too long, not permitted) into one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"its path leads nowhere that can be read ({error.strerror or type(error).__name__}); check the path and "
            "its permissions."
        ) from None


def is_folder(path: Path) -> bool:
    """Whether there is a folder at a path; a path that cannot be followed is one sentence."""
    with reached():
        return path.is_dir()


@contextlib.contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises at a file, missing or damaged, into one sentence; `what` it should be."""
    with reached():
        found = path.is_file()
    if not found:
        raise UserError(f"there is no file '{path}'; check the path.")
    if not os.access(path, os.R_OK):
        raise UserError(f"'{path}' may not be read; check its permissions.")
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise UserError(
            f"'{path.name}' does not fit into the memory of this machine; take a part of it, or another machine."
        ) from None
    except DAMAGE as error:
        said = str(error).partition("\n")[0].strip()
        raise UserError(
            f"'{path.name}' cannot be read as {what} ({type(error).__name__}{': ' if said else ''}{said}): it is "
            "another kind of file, cut short or damaged; copy it again."
        ) from None


def layout(
    columns: Mapping[str, Any], widths: Mapping[str, int], after: Mapping[str, int] | None = None
) -> None:
    """Check shapes and types of arrays, or of what stands for them in a file; nothing is read.

    Args:
        columns: by key, anything with `shape` and `dtype`; `rewards` says how many rows N there are.
        widths: columns of the keys that have them; the others are [N] or [N,1].
        after: rows beyond N that a key has, of keys that have any.
    """
    for key, column in columns.items():
        shape: tuple[int, ...] = column.shape or ()
        width = widths.get(key)
        if column.dtype.kind not in "fiub":
            raise UserError(
                f"{key} holds {column.dtype}, not numbers; store it as floats (flags as booleans)."
            )
        if width is None and len(shape) != 1 and shape[1:] != (1,):
            raise UserError(f"{key} has the shape {shape}; it should have one number per row.")
        if width is not None and (len(shape) != 2 or shape[1] != width):
            raise UserError(
                f"{key} has the shape {shape}, and the environment wants {width} columns; "
                "check that the data are of this environment."
            )
    steps = columns["rewards"].shape[0]
    if not steps:
        raise UserError("there are no rows; a dataset has at least one.")
    for key, column in columns.items():
        more = (after or {}).get(key, 0)
        if column.shape[0] != steps + more:
            raise UserError(
                f"{key} has {column.shape[0]} rows and rewards {steps}, but {key} should have {steps + more}; write "
                "all arrays of the file again."
            )


def floats(values: np.ndarray, key: str) -> np.ndarray:
    """f32 of the same shape ([N,1] of single numbers as it is), every entry finite."""
    with np.errstate(over="ignore"):
        made = np.asarray(values, np.float32)
    _every(
        np.isfinite(made),
        values,
        key,
        "every entry has to be a finite 32-bit number: mend or leave out that episode",
    )
    return made


def flags(values: np.ndarray, key: str) -> np.ndarray:
    """bool[N] of [N] or [N,1] booleans, or of numbers that are all 0 or 1."""
    _every((values == 0) | (values == 1), values, key, "a flag is 0 or 1: mend that row")
    return np.asarray(values, bool).reshape(-1)


def scaled(values: np.ndarray, bounds: Box, key: str) -> np.ndarray:
    """Actions f32[N,A] in [-1, 1] of `values` [N,A] in the environment's units; the box of -1 and 1 changes nothing."""
    middle, half = (bounds.action_high + bounds.action_low) / 2, (bounds.action_high - bounds.action_low) / 2
    unit = (np.asarray(floats(values, key), np.float64) - middle) / half
    inside = np.abs(unit) <= 1 + ROUNDING
    if not inside.all():
        row, column = np.argwhere(~inside)[0]
        raise UserError(
            f"{key} holds {values[row, column]:.9g} in row {row}, dimension {column}, outside the action space "
            f"[{bounds.action_low[column]:g}, {bounds.action_high[column]:g}]; check that the data are of this "
            "environment."
        )
    return np.clip(unit, -1, 1).astype(np.float32)


def episodes(dataset: OfflineDataset) -> OfflineDataset:
    """The same dataset, once its ends agree: no row is both, and the last row is one."""
    both = dataset.terminated & dataset.truncated
    if both.any():
        raise UserError(
            f"row {np.argmax(both)} is terminated and truncated; nothing is cut behind a terminal: keep the first."
        )
    if not dataset.ends[-1]:
        raise UserError(
            f"the last row ({len(dataset.ends) - 1}) ends no episode; mark it as truncated, for the data end there."
        )
    return dataset


def _every(good: np.ndarray, values: np.ndarray, key: str, mend: str) -> None:
    if not good.all():
        place = tuple(np.argwhere(~good)[0])
        raise UserError(f"{key} holds {values[place]:.9g} in row {place[0]}; {mend}.")
