"""`bench --pack`: finished runs of a folder in archives that leave the machine; `bench/unpack.py` brings them in.

    x.tar.gz, x.2.tar.gz, ...    each complete in itself and never above the limit:
        manifest.json            format, suite, and size and SHA-256 of every other file; the first member
        configuration.json       what the folder belongs to;  suite.toml and rates.json where the folder has them
        records/<environment>/<run id>/{record.json, curve.csv, policy.npz, masks.npz, timings.json}

An archive is a tar file whose runs are compressed one by one (gzip files may be joined), so its size is known before
it is written. Equal folders give equal archives. Checkpoints and `networks.npz`, which nobody publishes, stay.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparserl_jax.bench import records
from sparserl_jax.errors import UserError

LIMIT = 16 * 2**20
"""Bytes of one archive at most."""
FORMAT = 1
MANIFEST = "manifest.json"
SUITE_FILE, RATES = "suite.toml", "rates.json"
COMMON = (records.CONFIGURATION, SUITE_FILE, RATES)
"""Files of every archive; of the last two, those that are there."""
SUFFIXES = (".tar.gz", ".tgz")
_END = gzip.compress(bytes(2 * tarfile.BLOCKSIZE), mtime=0)


def numbered(file: Path, number: int) -> Path:
    """Name of the archive `number`, counted from 1: `x.tar.gz`, `x.2.tar.gz`, ..."""
    if number == 1:
        return file
    stem, suffix = _split(file)
    return file.with_name(f"{stem}.{number}{suffix}")


def _split(file: Path) -> tuple[str, str]:
    """Name of an archive without its ending, and the ending."""
    suffix = next(ending for ending in SUFFIXES if file.name.endswith(ending))
    return file.name.removesuffix(suffix), suffix


def check_target(file: Path, suite_hash: str, folder: Path) -> None:
    """Refuse, before anything runs, a name that archives cannot have and a file that packing `folder` would lose.

    Raises:
        UserError: another ending, no such folder, none that can be written, somebody else's file in the way, or records
            in it that `folder` lacks.
    """
    if not file.name.endswith(SUFFIXES):
        raise UserError(f"--pack '{file}': the name of an archive ends in .tar.gz; give one that does.")
    if not file.parent.is_dir():
        raise UserError(f"--pack '{file}': there is no folder '{file.parent}'; make it first.")
    trial = file.with_name(f".{file.name}.trial")
    try:
        trial.touch()
        trial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"--pack '{file}' cannot be written ({error.strerror}); give another place."
        ) from None
    for path in _present(file):
        manifest = _manifest_of(path)
        if manifest.get("suite_hash") != suite_hash:
            raise UserError(
                f"--pack '{file}': '{path}' exists and is no archive of this suite; give another name."
            )
        for name, packed in manifest["files"].items():
            if not name.endswith("/record.json"):
                continue
            run_id = name.removeprefix("records/").removesuffix("/record.json")
            lost = None
            if not records.finished(folder, run_id, suite_hash):
                lost = f"run '{run_id}', which '{folder}' lacks"
            elif hashlib.sha256((folder / name).read_bytes()).hexdigest() != packed["sha256"]:
                lost = f"another record of run '{run_id}' than '{folder}'"
            if lost is not None:
                raise UserError(f"--pack '{file}': '{path}' holds {lost}; give another name.")


def pack(folder: Path, file: Path, of: str | None = None, limit: int = LIMIT) -> list[Path]:
    """Write the finished runs of a folder as `file` and, where they are too large for one, numbered further archives.

    Args:
        folder: what `sparserl bench` made, finished or not.
        file: first archive; one of the same suite is replaced, as are its further ones.
        of: hash of the suite whose runs are meant; a folder that is not there yet, or another suite's, has none.
        limit: bytes of one archive at most.

    Returns:
        The archives; none where no run is finished.

    Raises:
        UserError: a single run is larger than the limit (all others are packed), or see `check_target`.
    """
    if of is not None and not (folder / records.CONFIGURATION).is_file():
        return []
    settings, _ = records.load_all(folder)
    suite_hash = settings["suite_hash"]
    if of not in (None, suite_hash):
        return []
    check_target(file, suite_hash, folder)
    common = {name: (folder / name).read_bytes() for name in COMMON if (folder / name).is_file()}
    done = [run_id for run_id in settings["runs"] if records.finished(folder, run_id, suite_hash)]
    before, made = _present(file), []
    parts, too_large = _parts(folder, settings, common, done, limit)
    for number, runs in enumerate(parts, start=1):
        files = {**common, **{name: data for run_id in runs for name, data in _files(folder, run_id).items()}}
        body = _archive(settings, common, {run_id: _files(folder, run_id) for run_id in runs}, files)
        assert len(body) <= limit
        records.write_atomic(numbered(file, number), body)
        made.append(numbered(file, number))
    if made:
        for path in before:
            if path not in made:  # of an earlier, larger packing of the same suite: no longer true
                path.unlink()
    if too_large:
        run_id, size = next(iter(too_large.items()))
        others = f" (and {len(too_large) - 1} others)" if len(too_large) > 1 else ""
        raise UserError(
            f"run '{run_id}' takes {size:,} bytes, more than an archive may have ({limit:,}){others}: copy it from "
            f"'{folder}' by other means. All else is packed."
        )
    return made


def _parts(
    folder: Path, settings: dict[str, Any], common: dict[str, bytes], done: list[str], limit: int
) -> tuple[list[list[str]], dict[str, int]]:
    """Finished runs, archive by archive, in the order of the plan; and the bytes of those that no archive can hold."""
    fixed = len(_END) + _size(common) + len(_member(MANIFEST, _manifest(settings, common)))
    parts: list[list[str]] = []
    too_large: dict[str, int] = {}
    total = limit
    for run_id in done:
        files = _files(folder, run_id)
        # A manifest is taken at its uncompressed length, which is never less.
        size = _size(files) + len(_manifest(settings, files))
        if fixed + size > limit:
            too_large[run_id] = fixed + size
            continue
        if total + size > limit:
            parts.append([])
            total = fixed
        parts[-1].append(run_id)
        total += size
    return parts, too_large


def _files(folder: Path, run_id: str) -> dict[str, bytes]:
    """The files of a finished run by their place in the archive."""
    place = f"records/{run_id}"
    named = [entry["path"] for entry in records.read(folder / place)["files"].values()]
    return {f"{place}/{name}": (folder / place / name).read_bytes() for name in ("record.json", *named)}


def _manifest(settings: dict[str, Any], files: dict[str, bytes]) -> bytes:
    listed = {
        name: {"bytes": len(data), "sha256": records.digest(data)} for name, data in sorted(files.items())
    }
    body = {
        "format": FORMAT,
        "suite": settings["suite"]["name"],
        "suite_hash": settings["suite_hash"],
        "files": listed,
    }
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()


def _archive(
    settings: dict[str, Any],
    common: dict[str, bytes],
    runs: dict[str, dict[str, bytes]],
    files: dict[str, bytes],
) -> bytes:
    """The bytes of one archive."""
    head = gzip.compress(_member(MANIFEST, _manifest(settings, files)), mtime=0)
    return b"".join([head, _packed(common), *map(_packed, runs.values()), _END])


def _packed(files: dict[str, bytes]) -> bytes:
    return gzip.compress(b"".join(_member(name, data) for name, data in files.items()), mtime=0)


def _size(files: dict[str, bytes]) -> int:
    return len(_packed(files))


def _member(name: str, data: bytes) -> bytes:
    """One file as it stands in a tar file; nothing of the machine, its users or its clock is in it."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    padding = bytes(-len(data) % tarfile.BLOCKSIZE)
    return info.tobuf(tarfile.PAX_FORMAT) + data + padding


def _present(file: Path) -> list[Path]:
    """The archive of this name and its further ones."""
    stem, suffix = _split(file)
    form = re.compile(rf"{re.escape(stem)}\.([0-9]+){re.escape(suffix)}")
    further = [
        (int(match[1]), path) for path in file.parent.iterdir() if (match := form.fullmatch(path.name))
    ]
    return [*([file] if file.exists() else []), *(path for _, path in sorted(further))]


def _manifest_of(path: Path) -> dict[str, Any]:
    """The manifest of an archive; empty for any other file."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            first = archive.next()
            text = None if first is None or first.name != MANIFEST else archive.extractfile(first)
            found = {} if text is None else json.loads(text.read(LIMIT))
            return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else {}
    except (OSError, EOFError, ValueError, tarfile.TarError):
        return {}


def line(made: Iterable[Path], limit: int = LIMIT) -> str:
    """What was packed, in words."""
    paths = list(made)
    if not paths:
        return "Nothing to pack: no run is finished yet."
    sizes = ", ".join(f"{path} ({path.stat().st_size / 2**20:.1f} MiB)" for path in paths)
    return (
        f"Packed: {sizes}; each at most {limit / 2**20:g} MiB. Bring them in with: sparserl unpack "
        + " ".join(path.name for path in paths)
    )
