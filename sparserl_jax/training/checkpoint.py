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
        checkpointer.save(place / "state", jax.tree.map(np.asarray, jax.tree.leaves(state)))
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
                target = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
                found = checkpointer.restore(place.resolve() / "state", target)
            return notes.pop("step"), jax.tree.unflatten(structure, found), notes
        except Exception as error:  # whatever is wrong with the newest one, an older one may be good
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            warn(
                f"checkpoint {place.name} is incomplete or damaged ({first[:120]}): trying the one before it."
            )
    return None


def clear(folder: Path) -> None:
    """Remove all checkpoints of a finished Program."""
    for place in folder.glob("checkpoint-*"):
        shutil.rmtree(place)
