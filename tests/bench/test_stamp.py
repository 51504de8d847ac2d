"""A copy of the work tree without its history still knows its commit, and whether it was changed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sparserl_jax.bench import provenance, stamp
from sparserl_jax.errors import UserError


def git(repository: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A committed checkout with a package and a suite."""
    root = tmp_path / "checkout"
    for name in ("sparserl_jax/a.py", "sparserl_jax/bench/b.py", "benchmarks/suites/x.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")
    (root / ".gitignore").write_text(f"/{provenance.STAMP}\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


@pytest.fixture
def copy(checkout: Path, tmp_path: Path) -> Path:
    """A stamped copy of it without the history."""
    path, commit = stamp.write(checkout)
    assert commit == provenance.head(checkout) and path.parent == checkout
    ignored = shutil.ignore_patterns(".git")
    return Path(shutil.copytree(checkout, tmp_path / "copy", ignore=ignored))


def test_the_copy_names_the_commit_and_the_original_is_still_clean(checkout: Path, copy: Path):
    assert provenance.repository(checkout / "sparserl_jax")["git_dirty"] is False
    found = provenance.repository(copy)
    assert found == {**provenance.repository(checkout), "git_dirty": False}
    assert provenance.repository(copy / "sparserl_jax") == found


@pytest.mark.parametrize("change", ["edited", "added", "removed", "suite"])
def test_a_changed_copy_counts_as_dirty(change, copy: Path):
    if change == "edited":
        (copy / "sparserl_jax/a.py").write_text("x = 2\n")
    elif change == "added":
        (copy / "sparserl_jax/c.py").write_text("")
    elif change == "removed":
        (copy / "sparserl_jax/bench/b.py").unlink()
    else:
        (copy / "benchmarks/suites/x.toml").write_text("x = 2\n")
    assert provenance.repository(copy)["git_dirty"] is True


def test_without_a_readable_stamp_nothing_is_claimed(copy: Path):
    for text in ("", "{}", '{"git_commit": "main", "git_describe": "x", "files": {}}'):
        (copy / provenance.STAMP).write_text(text)
        assert set(provenance.repository(copy).values()) == {None}
    (copy / provenance.STAMP).unlink()
    assert set(provenance.repository(copy).values()) == {None}


def test_only_a_committed_checkout_is_stamped(checkout: Path, tmp_path: Path):
    (checkout / "sparserl_jax/a.py").write_text("x = 3\n")
    with pytest.raises(UserError, match="uncommitted changes; commit them first"):
        stamp.write(checkout)
    (tmp_path / "plain").mkdir()
    with pytest.raises(UserError, match="no git repository"):
        stamp.write(tmp_path / "plain")
