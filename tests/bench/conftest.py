"""A small finished folder for the tests of records and of what is planted into them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sparserl_jax.bench import summary
from tests.bench import fake
from tests.bench.checkout import git


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once; nobody changes it."""
    folder = tmp_path_factory.mktemp("original") / "mini"
    fake.finished(folder, fake.make_plan(**fake.SMALL))
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to do anything to."""
    return Path(shutil.copytree(original, tmp_path / "mini"))


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole miniature suite, finished; its records are changed by nobody."""
    folder = tmp_path_factory.mktemp("miniature") / "mini"
    fake.finished(folder)
    return folder


@pytest.fixture(scope="module")
def whole(miniature: Path) -> summary.Summary:
    """What that folder says, for tests that only look."""
    return summary.summarise(miniature)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout with one committed file."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "code.py").write_text("x = 1\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root
