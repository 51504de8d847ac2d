"""A small finished folder for the tests of records and of what is planted into them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bench import fake


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
