"""Offline datasets: one format, whatever file they come from.

d4rl:PATH              an HDF5 file of D4RL                  options: timeouts=keep (default) or drop
minari:PATH            the folder of a Minari dataset
npz:PATH               a file of this package, as `save` writes it
shipped:NAME           such a file that comes with the package: hopper-medium-replay, hopper-medium-expert

A path alone says its kind by what it ends in: `.hdf5` or `.h5`, `.npz`; a folder is Minari's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sparserl_jax.data import archive, checks, d4rl, minari
from sparserl_jax.data.archive import card, save
from sparserl_jax.data.dataset import OfflineDataset
from sparserl_jax.data.written import split
from sparserl_jax.errors import UserError, located, suggest
from sparserl_jax.shipped import data_folder

__all__ = ["OfflineDataset", "card", "load", "save", "split"]

SHIPPED = "shipped"
KINDS: dict[str, tuple[Callable[..., OfflineDataset], frozenset[str]]] = {
    "d4rl": (d4rl.load, frozenset({"timeouts"})),
    "minari": (minari.load, frozenset()),
    "npz": (archive.load, frozenset()),
    SHIPPED: (archive.load, frozenset()),
}
"""Loader and its options, by the prefix of a source."""
ENDINGS = {".hdf5": "d4rl", ".h5": "d4rl", ".npz": "npz"}
"""Kinds by what a path ends in."""


class Source(NamedTuple):
    """What a source says: which kind of file, where, and the options of its loader."""

    kind: str
    path: Path
    options: dict[str, str]


def parse(source: str, folder: Path | None = None) -> Source:
    """Take a source apart; whether there is such a file is not looked at, but for folders that no word calls Minari's.

    Args:
        source: kind, path and options, see above; `~` is the home folder.
        folder: where relative paths begin; default the working directory.
    """
    head, options = split(source)
    kind, colon, name = head.partition(":")
    if kind not in KINDS or not colon:
        kind, name = "", head
    path = _shipped(name) if kind == SHIPPED else (folder or Path()) / os.path.expanduser(name)
    kind = (
        kind or ENDINGS.get(path.suffix.lower(), "") or ("minari" if name and checks.is_folder(path) else "")
    )
    if not kind or not name:
        kinds = ", ".join(f"{kind}:{'NAME' if kind == SHIPPED else 'PATH'}" for kind in KINDS)
        raise UserError(
            f"'{head}' names no file of a kind that is known; write one of {kinds}, or a path that ends in "
            f"{', '.join(ENDINGS)} or is the folder of a Minari dataset."
        )
    known = KINDS[kind][1]
    if unknown := sorted(set(options) - known):
        raise UserError(f"{kind} has no option '{unknown[0]}'; it has {', '.join(sorted(known)) or 'none'}.")
    if options.get("timeouts", d4rl.TIMEOUTS[0]) not in d4rl.TIMEOUTS:
        raise UserError(f"timeouts is '{options['timeouts']}'; it is {' or '.join(d4rl.TIMEOUTS)}.")
    return Source(kind, path, options)


def _shipped(name: str) -> Path:
    """The file of a dataset that comes with the package."""
    files = {file.stem: file for file in data_folder("datasets").glob("*.npz")}
    if name not in files:
        raise suggest(name, list(files), "shipped dataset")
    return files[name]


def load(
    source: str, *, obs_dim: int, action_low: Any, action_high: Any, folder: Path | None = None
) -> OfflineDataset:
    """The transitions of a file or folder, checked and with actions in [-1, 1].

    Args:
        source, folder: see `parse`.
        obs_dim: O, entries of an observation of the environment.
        action_low, action_high: f[A], bounds of its actions in its own units.

    Raises:
        UserError: anything is not as it should be, in one sentence that begins with the source.
    """
    with located(f"dataset '{source}'"):
        kind, path, options = parse(source, folder)
        with checks.reached():
            return KINDS[kind][0](path, checks.box(obs_dim, action_low, action_high), **options)
