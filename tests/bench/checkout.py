"""A checkout to publish into, and finished folders that its committed code made."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sparserl_jax.bench import provenance
from tests.bench import fake, forge


def git(repository: Path, *arguments: str) -> None:
    """Run git in a folder, as somebody."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True)


def made(folder: Path, repository: Path, change=None, **options) -> Path:
    """A finished folder whose records name the head of `repository`."""
    fake.finished(folder, fake.make_plan(**options), change=change)
    commit = provenance.head(repository)
    forge.change_all(folder, lambda record: record["provenance"].update(git_commit=commit, git_dirty=False))
    return folder
