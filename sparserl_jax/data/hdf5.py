"""Reading HDF5 files: what D4RL and Minari share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparserl_jax.data import checks
from sparserl_jax.errors import UserError


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The h5py.File of a path; what goes wrong while it is open is one sentence."""
    try:
        import h5py
    except ImportError:
        raise checks.no_library("h5py", "HDF5 files") from None
    with checks.readable(path, "HDF5"), h5py.File(path, "r") as file:
        yield file


def array(group: Any, key: str) -> Any:
    """The h5py.Dataset `key` of a group, not yet read."""
    if key not in group:
        raise UserError(f"{key} is missing; there are: {', '.join(sorted(group)) or 'no arrays'}.")
    found = group[key]
    if not hasattr(found, "shape"):
        raise UserError(f"{key} is a group of arrays (a dict or tuple space); store it as one array.")
    return found
