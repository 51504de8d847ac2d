"""Offline datasets: one format, whatever file they come from.

d4rl:PATH              an HDF5 file of D4RL                  options: timeouts=keep (default) or drop
minari:PATH            the folder of a Minari dataset
npz:PATH               a file of this package, as `save` writes it
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from sparserl_jax.data import archive, checks, d4rl, minari
from sparserl_jax.data.archive import card, save
from sparserl_jax.data.dataset import OfflineDataset
from sparserl_jax.errors import UserError, located

__all__ = ["OfflineDataset", "card", "load", "save"]

KINDS: dict[str, tuple[Callable[..., OfflineDataset], frozenset[str]]] = {
    "d4rl": (d4rl.load, frozenset({"timeouts"})),
    "minari": (minari.load, frozenset()),
    "npz": (archive.load, frozenset()),
}
"""Loader and its options, by the prefix of a source."""


def load(source: str, *, obs_dim: int, action_low: Any, action_high: Any) -> OfflineDataset:
    """The transitions of a file or folder, checked and with actions in [-1, 1].

    Args:
        source: kind, path and options, see above; `~` is the home folder.
        obs_dim: O, entries of an observation of the environment.
        action_low, action_high: f[A], bounds of its actions in its own units.

    Raises:
        UserError: anything is not as it should be, in one sentence that begins with the source.
    """
    with located(f"dataset '{source}'"):
        head, _, query = source.partition("?")
        kind, colon, path = head.partition(":")
        if kind not in KINDS or not colon or not path:
            kinds = ", ".join(f"{name}:PATH" for name in KINDS)
            raise UserError(f"there is no kind '{kind}' with a path behind it; write one of {kinds}.")
        loader, options = KINDS[kind]
        return loader(
            Path(os.path.expanduser(path)),
            checks.box(obs_dim, action_low, action_high),
            **_options(query, kind, options),
        )


def _options(query: str, kind: str, known: frozenset[str]) -> dict[str, str]:
    try:
        found = dict(parse_qsl(query, strict_parsing=True, keep_blank_values=True)) if query else {}
    except ValueError:
        raise UserError("options are written ?name=value&name=value.") from None
    if unknown := sorted(set(found) - known):
        raise UserError(f"{kind} has no option '{unknown[0]}'; it has {', '.join(sorted(known)) or 'none'}.")
    return found
