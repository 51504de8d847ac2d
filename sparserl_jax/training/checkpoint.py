"""Checkpoints of a Program's whole state: written beside the last good one, counted only when complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

DONE = "complete.json"


def save(folder: Path, step: int, state: Any, notes: dict[str, Any]) -> None:
    """Write `state` as the checkpoint of environment step `step`.

    A crash at any moment leaves the previous checkpoint untouched: the new one is written under its own name, marked
    complete last, and only then are all but one of the older ones removed.

    Args:
        folder: the Program's folder.
        step: environment step the state belongs to.
        state: any pytree of arrays.
        notes: JSON-able facts to be returned by `restore`.
    """
    import orbax.checkpoint as ocp

    place = (folder / f"checkpoint-{step:012d}").resolve()
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(place / "state", [_plain(leaf) for leaf in jax.tree.leaves(state)])
        checkpointer.wait_until_finished()
    (place / (DONE + ".part")).write_text(json.dumps({"step": step, **notes}))
    (place / (DONE + ".part")).rename(place / DONE)
    # One older checkpoint stays, in case the newest is damaged later.
    for older in sorted(folder.glob("checkpoint-*"))[:-2]:
        shutil.rmtree(older)


def restore(
    folder: Path, like: Any, warn: Callable[[str], None] = lambda text: None
) -> tuple[int, Any, dict[str, Any]] | None:
    """The newest complete checkpoint as (step, state, notes), or None.

    Args:
        folder: the Program's folder.
        like: pytree of the expected structure and shapes.
        warn: told, in a sentence, of every checkpoint that could not be used.
    """
    import orbax.checkpoint as ocp

    leaves, structure = jax.tree.flatten(like)
    for place in sorted(folder.glob("checkpoint-*"), reverse=True):
        try:
            notes = json.loads((place / DONE).read_text())
            with ocp.StandardCheckpointer() as checkpointer:
                target = [_plain(leaf) for leaf in leaves]
                found = checkpointer.restore(place.resolve() / "state", target)
            return notes.pop("step"), jax.tree.unflatten(structure, map(_typed, found, leaves)), notes
        except Exception as error:  # whatever is wrong with the newest one, an older one may be good
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            warn(
                f"checkpoint {place.name} is incomplete or damaged ({first[:120]}): trying the one before it."
            )
    return None


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    """An array, or the shape of one, as it is stored: typed random keys (a user's environment may hold some) as data."""
    shape = isinstance(leaf, jax.ShapeDtypeStruct)
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf) if shape else jax.random.key_data(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if shape else np.asarray(leaf)


def _typed(stored: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(stored) if _is_key(like) else stored


def clear(folder: Path) -> None:
    """Remove all checkpoints of a finished Program."""
    for place in folder.glob("checkpoint-*"):
        shutil.rmtree(place)
