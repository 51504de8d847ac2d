"""Pages that a command writes beside a suite's table: `low_rank.*` of decompose, `danger.*` of danger."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparserl_jax.bench import caption, new_file, provenance, records
from sparserl_jax.errors import UserError


def check_new(folder: Path, files: Sequence[str], replace: bool) -> None:
    """Refuse to write over a page unless asked to, or into what is no folder; raises `UserError`."""
    new_file.check_folder(folder)
    if not replace and any((folder / name).exists() for name in files):
        raise UserError(
            f"'{folder}' has {' and '.join(files)} already, and they are not overwritten; give --replace."
        )


def made_by(name: str, command: Any, suite: Mapping[str, Any]) -> str:
    """The last line of such a page: what was typed, and the code, packages and machine that answer.

    To be called before the work: a commit made while it runs does not describe the code that was imported.

    Args:
        name: the command's word.
        command: its arguments, a dataclass with a `path`; of the others those are told that are not the default,
            but for where the page goes.
        suite: the suite's part of its configuration.
    """
    words = ["sparserl", name, _told(command.path)]
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if field.name not in ("path", "out", "replace") and value != field.default:
            rows = itertools.chain.from_iterable(value) if isinstance(value, tuple) else [value]
            words += [f"--{field.name.replace('_', '-')}", *map(str, rows)]
    here, envs = provenance.collect(), [task["name"] for task in suite["tasks"]]
    told = f"{caption.commit(here)}; {caption.versions(here, envs)}; {caption.machine(here)}"
    return f"Made by `{shlex.join(words)}`: {told}."


def head(title: str, folder: Path) -> list[str]:
    """First lines of such a page: what it is called, and what warns of the folder's records, if anything does."""
    warned = caption.warnings(*records.load_all(folder))
    return [f"# {title}", "", *itertools.chain.from_iterable((f"**{line}**", "") for line in warned)]


def _told(path: Path) -> str:
    """A path without what is particular to this machine: from here, or the last name alone."""
    here = Path.cwd()
    return path.resolve().relative_to(here).as_posix() if path.resolve().is_relative_to(here) else path.name


def write(folder: Path, made: Mapping[str, str]) -> list[Path]:
    """Write texts by name of file; returns their paths."""
    for name, text in made.items():
        records.write_atomic(folder / name, text.encode())
    return [folder / name for name in made]
