"""Files that a user names by `--out`: new ones only, because nothing a user made is overwritten; and folders."""

from __future__ import annotations

from pathlib import Path

from sparserl_jax.errors import UserError


def check(path: Path, make_folder: bool = False) -> None:
    """Refuse what cannot be a new file.

    Args:
        make_folder: whether its folder is made where it is missing.

    Raises:
        UserError: the file is there, or its folder is not, or the path is none.
    """
    try:
        there = path.exists() or path.is_symlink()
    except OSError as error:
        raise UserError(
            f"--out '{str(path):.80}' leads nowhere ({error.strerror}); give a new file."
        ) from None
    if there:
        raise UserError(f"--out '{path}' exists and is not overwritten; give a new file.")
    if not make_folder and not path.parent.is_dir():
        raise UserError(f"--out '{path}': there is no folder '{path.parent}'; make it first.")


def check_folder(path: Path, option: str = "--out") -> None:
    """Refuse a file where a folder is to be written into, which need not be there yet; raises `UserError`."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{option} '{path}' is a file; give a folder.")
