"""Checkpoints of a Program's whole state: written beside the last good one, used only when complete and unharmed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sparserl_jax.errors import DISK, UserError

SMALL = 2**16
"""Bytes of a file that may be other than the content of an array: descriptions of arrays, and lists of them."""
DONE = "complete.json"
UNFINISHED = "unfinished"


def save(folder: Path, step: int, state: Any, notes: dict[str, Any]) -> None:
    """Write `state` as the checkpoint of environment step `step`.

    A crash at any moment leaves the previous checkpoint untouched: the new one is written aside, moved into its place
    when complete, and only then are all but one of the older ones removed.

    Args:
        folder: the Program's folder.
        step: environment step the state belongs to.
        state: any pytree of arrays.
        notes: JSON-able facts to be returned by `restore`.

    Raises:
        UserError: the disk is full, or takes no file of this size; the previous checkpoint is untouched.
    """
    place, aside = (folder / f"checkpoint-{step:012d}").resolve(), (folder / UNFINISHED).resolve()
    try:
        with _quiet():
            _write(aside, step, state, notes)
    except Exception as error:
        shutil.rmtree(aside, ignore_errors=True)  # half of it is of no use, and the room is needed
        reason = next((text for text in map(os.strerror, DISK) if text in str(error)), None)
        if reason is None:
            raise
        raise UserError(
            f"the checkpoint of step {step} cannot be written to '{folder}' ({reason}): make room and run the same "
            "command again; it goes on from the checkpoint before."
        ) from None
    if (
        place.exists()
    ):  # of the same step; a crash between the two renames leaves it under a name that is found, too
        before = place.with_name(f"{place.name}.before")
        shutil.rmtree(before, ignore_errors=True)
        place.rename(before)
    aside.rename(place)
    # One older checkpoint stays, in case this one is damaged later; a restore passed over those that are newer.
    others = sorted(other for other in folder.glob("checkpoint-*") if other.name != place.name)
    older = [other for other in others if other.name < place.name]
    for other in older[:-1] + others[len(older) :]:
        shutil.rmtree(other)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs pages of tracebacks, from threads of its own, about an error that it raises besides."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _write(aside: Path, step: int, state: Any, notes: dict[str, Any]) -> None:
    """The files of one checkpoint, the mark of completion last."""
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    with _arrays() as checkpointer:
        # Orbax takes no empty arrays (the noise-free actions of a replay that keeps none).
        checkpointer.save(aside / "state", [_plain(leaf) for leaf in jax.tree.leaves(state) if leaf.size])
    body = {"step": step, "notes": notes, "arrays": _shapes(state), "files": _digests(aside / "state")}
    (aside / DONE).write_text(json.dumps({**body, "digest": _digest(body)}))
    for path in aside.rglob(
        "*"
    ):  # power may fail: nothing gets the name of a checkpoint before it is on the disk
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _arrays() -> Any:
    """Orbax, told to leave arrays as they are: replayed floats hardly compress, and reading took twice as long."""
    import orbax.checkpoint as ocp

    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True, use_compression=False)
    return ocp.Checkpointer(handler)


def restore(
    folder: Path, like: Any, warn: Callable[[str], None] = lambda text: None
) -> tuple[int, Any, dict[str, Any]] | None:
    """The newest complete checkpoint as (step, state, notes); None where there is none at all.

    Args:
        folder: the Program's folder.
        like: pytree of the expected structure and shapes.
        warn: told, in a sentence, of every checkpoint that could not be used while an older one was left.

    Raises:
        UserError: there are checkpoints and none can be used. Nobody begins anew beside them unasked: the next one
            written would remove them.
    """
    import orbax.checkpoint as ocp

    leaves, structure = jax.tree.flatten(like)
    every = sorted(folder.glob("checkpoint-*"), reverse=True)
    for place in every:
        try:
            body = json.loads((place / DONE).read_text())
            if body.pop("digest") != _digest(body):
                raise ValueError("its list of files is not the one that was written")
            if body["arrays"] != _shapes(like):  # Orbax would cut or fill them
                raise ValueError("its arrays have other shapes")
            # What tells the reader how much to read, and where, is looked at before it reads.
            if not _digests(place / "state", most=SMALL).items() <= body["files"].items():
                raise ValueError("its files are not those that were written")
            target = [_plain(leaf) for leaf in leaves if leaf.size]
            # The digests cost a quarter of the reading, and nothing beside it: hashing leaves Python to the others.
            asked = ocp.args.PyTreeRestore(target, [ocp.RestoreArgs(np.ndarray)] * len(target))
            with ThreadPoolExecutor(1) as beside, _arrays() as checkpointer:
                digests = beside.submit(_digests, place / "state")
                kept = iter(checkpointer.restore(place.resolve() / "state", args=asked))
                if body["files"] != digests.result():
                    raise ValueError("its files are not those that were written")
            found = [next(kept) if leaf.size else np.zeros(leaf.shape, leaf.dtype) for leaf in leaves]
            return body["step"], jax.tree.unflatten(structure, map(_typed, found, leaves)), body["notes"]
        except Exception as error:  # whatever is wrong with the newest one, an older one may be good
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            if place == every[-1]:
                names = " and ".join(other.name for other in every)
                raise UserError(
                    f"{names} in '{folder}' cannot be used ({first[:120]}): if the code has changed, go back to that "
                    "which wrote them; to begin anew, move them away."
                ) from None
            warn(
                f"checkpoint {place.name} is incomplete or damaged ({first[:120]}): trying the one before it."
            )
    return None


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    """An array, or the shape of one, as it is stored: typed random keys (of a user's environment) as data."""
    shape = isinstance(leaf, jax.ShapeDtypeStruct)
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf) if shape else jax.random.key_data(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if shape else np.asarray(leaf)


def _typed(stored: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(stored, impl=_key_kind(like)) if _is_key(like) else stored


def _key_kind(like: Any) -> Any:
    """The generator that random keys of this type belong to; `key_impl` takes arrays, not the shapes of them."""
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), like)
    return found[0]


def _shapes(tree: Any) -> list[str]:
    """Type and shape of every array."""
    return [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(tree)]


def _digests(place: Path, most: float = math.inf) -> dict[str, str]:
    """Digest of every file under `place` of at most so many bytes: the array format itself does not notice a flipped
    bit."""
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.stat().st_size <= most)
    return {path.relative_to(place).as_posix(): _file_digest(path) for path in files}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
