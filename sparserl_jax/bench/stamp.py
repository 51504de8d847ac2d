"""`sparserl stamp`: the commit of this checkout in a file, for copies of it that leave their git history behind.

A machine that gets a copy of the work tree alone has nothing that names its commit. The stamp travels with the copy:
it names the commit and the SHA-256 of every file that decides a number, so that the copy can tell whether it still is
that commit. Where there is a git history, that one counts and the stamp is not looked at.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparserl_jax.bench import paths, provenance, records
from sparserl_jax.errors import UserError


def write(root: Path | None = None) -> tuple[Path, str]:
    """Stamp the checkout; returns the file and the commit.

    Raises:
        UserError: no checkout, no commit, or uncommitted changes.
    """
    root = paths.checkout() if root is None else root
    if root is None:
        raise UserError("this is an installed package, not a checkout: there is no commit to stamp.")
    state = provenance.repository(root / provenance.CODE)
    if state["git_commit"] is None or not (root / ".git").exists():
        raise UserError(f"'{root}' is in no git repository: there is no commit to stamp.")
    if (why := provenance.unclean(state)) is not None:
        raise UserError(f"cannot stamp: {why}")
    body: dict[str, Any] = {
        "git_commit": state["git_commit"],
        "git_describe": state["git_describe"],
        "files": provenance.code_files(root),
    }
    path = root / provenance.STAMP
    records.write_atomic(path, (json.dumps(body, indent=1, sort_keys=True) + "\n").encode())
    return path, state["git_commit"]
