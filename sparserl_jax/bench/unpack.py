"""`sparserl unpack`: archives that `bench --pack` made elsewhere, brought into a runs folder here.

An archive may come from anywhere: nothing is written before all of it was read and held against its manifest, its
records' own hashes and the suite's list of runs. Only names that packing gives are taken, none leads out of the folder,
and a record that is here already is never replaced by a different one.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparserl_jax.bench import finished, new_file, pack, rates, records
from sparserl_jax.bench import run as runs
from sparserl_jax.errors import UserError

LARGEST = 2**30
"""Bytes of all files of one archive at most: a small file may claim to hold anything."""
RUN_FILES = ("record.json", "curve.csv", "policy.npz", "masks.npz", "timings.json")
_NAME = r"(?!\.)[A-Za-z0-9_.+-]+"
_PLACE = re.compile(rf"records/({_NAME}/{_NAME})/({'|'.join(map(re.escape, RUN_FILES))})")


@dataclasses.dataclass(frozen=True)
class Archive:
    """A sound archive: what it belongs to, its other common files, and the files of its runs."""

    file: Path
    configuration: bytes
    common: dict[str, bytes]
    runs: dict[str, dict[str, bytes]]

    @property
    def settings(self) -> dict[str, Any]:
        """Its configuration."""
        return json.loads(self.configuration)


@dataclasses.dataclass(frozen=True)
class Unpacked:
    """What unpacking did: the folder, new runs, those that were there already, and how many the suite has."""

    folder: Path
    new: tuple[str, ...]
    known: tuple[str, ...]
    present: int
    total: int

    def line(self) -> str:
        """The same in words."""
        known = f" ({len(self.known)} were there already)" if self.known else ""
        rest = "all of them" if self.present == self.total else f"{self.present} of {self.total} of them"
        return f"{self.folder}: {len(self.new)} runs unpacked{known}; of its suite's runs it now has {rest}."


def unpack(files: Sequence[Path], into: Path | None = None) -> list[Unpacked]:
    """Bring the runs of archives into runs folders; nothing is written unless all of them can be.

    Args:
        files: archives, in any order.
        into: the folder; default `runs/<suite>-<hash>` for each.

    Raises:
        UserError: no archive, a damaged or foreign archive, another suite's folder, or a different record of a run.
    """
    if not files:
        raise UserError("unpack: give at least one archive (NAME.tar.gz) that `sparserl bench --pack` made.")
    if into is not None:
        new_file.check_folder(into, "--into")
    archives: dict[Path, list[Archive]] = {}
    for file in files:
        archive = read(file)
        suite = archive.settings["suite"]
        folder = Path("runs") / f"{suite['name']}-{archive.settings['suite_hash']}" if into is None else into
        archives.setdefault(folder, []).append(archive)
    for folder, those in archives.items():
        _check_alike(folder, those)
        if folder.exists():
            runs.claim_as(folder, those[0].settings, write=False)
            _fresh(folder, those)
    return [_write(folder, those) for folder, those in archives.items()]


def read(file: Path) -> Archive:
    """The archive in a file, verified.

    Raises:
        UserError: it cannot be read, is damaged, or holds anything that packing does not put there.
    """
    files = _members(file)
    manifest = _manifest(file, files)
    body = {name: data for name, data in files.items() if name != pack.MANIFEST}
    listed = manifest["files"]
    for name in sorted({*listed, *body}):
        told, data = listed.get(name), body.get(name)
        if data is None or told != {"bytes": len(data), "sha256": records.digest(data)}:
            raise _damaged(file, f"'{name}' is not what its manifest says")
    found: dict[str, dict[str, bytes]] = {}
    for name, data in body.items():
        place = _PLACE.fullmatch(name)
        if place is not None:
            found.setdefault(place[1], {})[place[2]] = data
    configuration = body.get(records.CONFIGURATION, b"")
    settings = _settings(file, configuration, manifest)
    for run_id, its_files in found.items():
        _check_run(file, run_id, its_files, settings)
    common = {name: body[name] for name in pack.COMMON[1:] if name in body}
    return Archive(file, configuration, common, found)


def _damaged(file: Path, why: str) -> UserError:
    return UserError(f"archive '{file}' is damaged or was not made by `sparserl bench --pack` ({why}).")


def _members(file: Path) -> dict[str, bytes]:
    """Name and content of every member; only regular files under names that packing gives."""
    files: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(file, "r:gz") as archive:
            while (member := archive.next()) is not None:
                name = member.name
                known = name in (pack.MANIFEST, *pack.COMMON) or _PLACE.fullmatch(name) is not None
                if not known or not member.isreg() or member.issparse():
                    raise _damaged(file, f"it holds {name!r:.80}, which is no file of a packed run")
                if name in files:
                    raise _damaged(file, f"it holds '{name}' twice")
                total += member.size
                if not 0 <= member.size <= LARGEST or total > LARGEST:
                    raise _damaged(file, f"its files claim more than {LARGEST:,} bytes")
                content = archive.extractfile(member)
                data = b"" if content is None else content.read()
                if len(data) != member.size:
                    raise _damaged(file, f"'{name}' ends early")
                files[name] = data
    except FileNotFoundError:
        raise UserError(f"there is no archive '{file}'; check the path.") from None
    except UserError:
        raise
    # tarfile lets some errors of a garbled header through as they are.
    except (OSError, EOFError, ValueError, KeyError, IndexError, zlib.error, tarfile.TarError) as error:
        raise _damaged(file, str(error).partition("\n")[0][:80] or type(error).__name__) from None
    return files


def _manifest(file: Path, files: dict[str, bytes]) -> dict[str, Any]:
    try:
        manifest = json.loads(files[pack.MANIFEST])
        made, entries = manifest["format"], manifest["files"]
        sound = isinstance(entries, dict) and isinstance(manifest["suite_hash"], str)
    except (ValueError, KeyError, TypeError):
        raise _damaged(file, f"it has no readable {pack.MANIFEST}") from None
    if not sound:
        raise _damaged(file, f"its {pack.MANIFEST} has another form")
    if made != pack.FORMAT:
        raise UserError(
            f"archive '{file}' has format {made!r}, and this version reads {pack.FORMAT}; unpack it with the version "
            "that made it."
        )
    return manifest


def _settings(file: Path, configuration: bytes, manifest: dict[str, Any]) -> dict[str, Any]:
    """The configuration, whose hash must follow from it: it names folders."""
    try:
        settings = json.loads(configuration)
        suite, listed = settings["suite"], settings["runs"]
        content = {key: value for key, value in suite.items() if key != "title"}
        found = records.digest(records.canonical(content).encode())[:12]
        named = isinstance(suite["name"], str) and suite["name"].replace("_", "").isalnum()
        sound = named and isinstance(listed, list) and found == settings["suite_hash"]
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound or settings["suite_hash"] != manifest["suite_hash"]:
        raise _damaged(file, f"its {records.CONFIGURATION} is not that of a suite")
    return settings


def _check_run(file: Path, run_id: str, files: dict[str, bytes], settings: dict[str, Any]) -> None:
    """The record of a run is whole, of this suite, and names exactly the files that are there."""
    try:
        record = json.loads(files["record.json"])
        named = {entry["path"]: entry["sha256"] for entry in record["files"].values()}
        sound = (
            records.intact(record)
            and record["run_id"] == run_id
            and record["provenance"]["suite_hash"] == settings["suite_hash"]
            and named == {name: records.digest(data) for name, data in files.items() if name != "record.json"}
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise _damaged(file, f"the record of '{run_id}' is not whole or not of its suite")
    if run_id not in settings["runs"]:
        raise _damaged(file, f"its suite has no run '{run_id}'")


def _check_alike(folder: Path, archives: list[Archive]) -> None:
    """Several archives for one folder are of one suite and agree about the runs that more than one of them has."""
    first = archives[0]
    seen: dict[str, tuple[Path, dict[str, bytes]]] = {}
    for archive in archives:
        if archive.settings["suite_hash"] != first.settings["suite_hash"]:
            raise UserError(
                f"'{first.file}' and '{archive.file}' are of two suites; unpack each into a folder of its own."
            )
        for run_id, files in archive.runs.items():
            other, theirs = seen.setdefault(run_id, (archive.file, files))
            if theirs != files:
                raise UserError(
                    f"'{other}' and '{archive.file}' hold different records of run '{run_id}': nothing was "
                    "unpacked; unpack one of them into another folder with --into."
                )


def _fresh(folder: Path, archives: list[Archive]) -> dict[str, dict[str, bytes]]:
    """Runs of the archives that the folder lacks; refuses those of which it has a different record."""
    suite_hash, fresh = archives[0].settings["suite_hash"], {}
    for archive in archives:
        for run_id, files in archive.runs.items():
            if not records.finished(folder, run_id, suite_hash):
                fresh[run_id] = files
                continue
            here = folder / "records" / run_id
            if any(
                not (here / name).is_file() or (here / name).read_bytes() != data
                for name, data in files.items()
            ):
                raise UserError(
                    f"'{folder}' holds another record of run '{run_id}' than '{archive.file}': nothing was unpacked; "
                    "unpack into another folder with --into."
                )
    return fresh


def _write(folder: Path, archives: list[Archive]) -> Unpacked:
    with runs.locked(folder):
        runs.claim_as(folder, archives[0].settings)
        fresh = _fresh(folder, archives)  # again, now that nobody else writes here
        for archive in archives:
            if pack.SUITE_FILE in archive.common and not (folder / pack.SUITE_FILE).exists():
                records.write_atomic(folder / pack.SUITE_FILE, archive.common[pack.SUITE_FILE])
            rates.merge(folder, archive.common.get(pack.RATES))
        for run_id, files in fresh.items():
            final = folder / "records" / run_id
            staging = final.with_name(f".{final.name}.part")
            shutil.rmtree(staging, ignore_errors=True)
            for name, data in files.items():
                records.write_atomic(staging / name, data)
            shutil.rmtree(final, ignore_errors=True)
            staging.replace(final)
        settings = archives[0].settings
        done = finished.write(folder, settings)
    given = [run_id for archive in archives for run_id in archive.runs]
    known = tuple(dict.fromkeys(run_id for run_id in given if run_id not in fresh))
    return Unpacked(folder, tuple(fresh), known, len(done), len(settings["runs"]))
