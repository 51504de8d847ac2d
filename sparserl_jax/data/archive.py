"""This package's own file of a dataset: the arrays of `OfflineDataset` in one .npz, and a card that says what they are.

The card is one JSON text, `card`: format, source, obs_dim, action_dim, action_low, action_high (of the environment; the
stored actions are in [-1, 1]), transitions, episodes, returns (mean, min, max, histogram of ten bins), the SHA-256 of
the arrays, and `about`, further facts, where there are any. Nothing is pickled, and the same dataset gives the same
bytes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparserl_jax.data import checks
from sparserl_jax.data.dataset import TYPES, OfflineDataset
from sparserl_jax.errors import UserError

FORMAT = "sparserl_jax-dataset-1"
BINS = 10


def _claim(path: Path, temporary: Path) -> None:
    """Give a whole file its name, at once and only where nothing is."""
    try:
        path.hardlink_to(temporary)
        temporary.unlink()
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        path.open("xb").close()  # a file system without hard links
        temporary.replace(path)


def save(
    path: Path | str,
    dataset: OfflineDataset,
    *,
    source: str,
    action_low: Any,
    action_high: Any,
    about: Mapping[str, Any] | None = None,
    new: bool = False,
) -> dict[str, Any]:
    """Write a dataset so that a reader sees the old or the new file, never half of one; returns its card.

    Args:
        path: the file, by convention `.npz`; its folder is made where it is missing.
        source: where the transitions are from, in words or as `load` has it.
        action_low, action_high: f[A], the units of the environment in which -1 and 1 of the actions are.
        about: further facts for the card, of JSON's kinds.
        new: whether a file that is there stays as it is, and `FileExistsError` is raised.
    """
    given = {name: np.asarray(value) for name, value in dataset._asdict().items()}
    box = checks.box(given["obs"].shape[-1], action_low, action_high)
    checked = _checked(given, box)
    arrays = {name: np.asarray(value, TYPES.get(name, "<f4")) for name, value in checked._asdict().items()}
    card = {**_card(checked, box, source), **({} if about is None else {"about": dict(about)})}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # others may write the same file at once
    try:
        with temporary.open("wb") as file:
            np.savez(file, card=np.array(json.dumps(card, sort_keys=True)), **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        if new:
            _claim(path, temporary)
        else:
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return card


def load(path: Path, box: checks.Box) -> OfflineDataset:
    """What `save` wrote, for the environment for which it was written."""
    arrays, card = _open(path)
    for key, ours in _described(box).items():
        if card.get(key) != ours:
            raise UserError(
                f"its card says {key} {card.get(key)}, and the environment has {ours}; load the data of this one."
            )
    made = _checked(arrays, box)
    if card.get("sha256") != made.sha256:
        raise UserError(
            "its arrays are not those of its card (SHA-256); copy the file again, or write it with `save`."
        )
    return made


def card(path: Path | str) -> dict[str, Any]:
    """The card of a file that `save` wrote."""
    return _open(Path(path), ())[1]


def _open(
    path: Path, names: Sequence[str] = OfflineDataset._fields
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of these names, and the card."""
    with (
        checks.readable(path, f"a dataset of this package ({FORMAT})"),
        np.load(path, allow_pickle=False) as file,
    ):
        arrays = {name: file[name] for name in ("card", *names)}
        card = json.loads(str(arrays.pop("card")))
        found = card["format"]
    if found != FORMAT:
        raise UserError(f"'{path.name}' has the format {found!r}; this version reads {FORMAT!r}.")
    return arrays, card


def _checked(arrays: dict[str, np.ndarray], box: checks.Box) -> OfflineDataset:
    """The dataset of these arrays, once they are one."""
    # The layout's row count is that of `rewards`, the name that all published formats have.
    columns = {"rewards": arrays["reward"], **{name: arrays[name] for name in arrays if name != "reward"}}
    actions = len(box.action_low)
    checks.layout(columns, {"obs": box.obs_dim, "next_obs": box.obs_dim, "action": actions})
    unit = box._replace(action_low=-np.ones(actions), action_high=np.ones(actions))
    return checks.episodes(
        OfflineDataset(
            obs=checks.floats(arrays["obs"], "obs"),
            action=checks.scaled(arrays["action"], unit, "action"),
            reward=checks.floats(arrays["reward"], "reward").reshape(-1),
            next_obs=checks.floats(arrays["next_obs"], "next_obs"),
            terminated=checks.flags(arrays["terminated"], "terminated"),
            truncated=checks.flags(arrays["truncated"], "truncated"),
        )
    )


def _described(box: checks.Box) -> dict[str, Any]:
    return {
        "obs_dim": box.obs_dim,
        "action_dim": len(box.action_low),
        "action_low": box.action_low.tolist(),
        "action_high": box.action_high.tolist(),
    }


def _card(dataset: OfflineDataset, box: checks.Box, source: str) -> dict[str, Any]:
    returns = dataset.returns
    # Edges of our own: NumPy refuses to make ten bins of returns that differ by a rounding only.
    edges = np.maximum.accumulate(np.linspace(returns.min(), returns.max(), BINS + 1))
    return {
        "format": FORMAT,
        "source": source,
        **_described(box),
        "transitions": len(dataset.reward),
        "episodes": len(returns),
        "returns": {
            "mean": float(returns.mean()),
            "min": float(returns.min()),
            "max": float(returns.max()),
            "histogram": {"edges": edges.tolist(), "counts": np.histogram(returns, edges)[0].tolist()},
        },
        "sha256": dataset.sha256,
    }
