"""A suite is found by name wherever the package lies, and a user's own by its path."""

from __future__ import annotations

import pytest

from sparserl_jax import shipped
from sparserl_jax.bench import paths
from sparserl_jax.errors import UserError


def test_shipped_suite_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {"quick", "standard"} <= set(paths.suite_names())
    assert paths.suite_path("quick").is_file()


def test_own_suite_is_found_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "my_suite.toml"
    own.write_text("")
    assert paths.suite_path("my_suite.toml") == paths.suite_path(own) == own


def test_shipped_suite_wins_over_a_folder_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick").mkdir()
    assert paths.suite_path("quick").suffix == ".toml"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quik", "did you mean 'quick'"),
        ("quick.toml", "shipped suite 'quick'"),
        ("nowhere/mine.toml", "nowhere/mine.toml"),
        ("mine", "say 'mine.toml'"),
        ("", "unknown suite"),
        ("~no_such_user/x.toml", "there is no such home folder"),
    ],
)
def test_unknown_suite_is_refused_with_a_hint(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("")
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        paths.suite_path(name)


def test_installed_package_uses_its_own_data(tmp_path, monkeypatch):
    suites = tmp_path / "sparserl_jax" / "_data" / "suites"
    suites.mkdir(parents=True)
    (suites / "quick.toml").write_text("")
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "sparserl_jax")
    assert paths.checkout() is None
    assert paths.suite_path("quick") == suites / "quick.toml"
    assert paths.published_path("rlx2") is None
