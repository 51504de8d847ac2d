"""A small finished folder for the tests of records and of what is planted into them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

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
