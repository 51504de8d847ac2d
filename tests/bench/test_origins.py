"""Who had a part in a program's state, however often it was stopped and by whom it was gone on with."""

from __future__ import annotations

from pathlib import Path

from sparserl_jax.bench import origins

FIRST, SECOND, THIRD = ({"git_commit": letter * 40, "git_dirty": False} for letter in "abc")


def save(folder: Path, step: int) -> None:
    (folder / f"checkpoint-{step}").mkdir()


def test_who_begins_is_alone_and_stays_alone_while_nobody_else_goes_on(tmp_path: Path):
    folder = tmp_path / "program"
    assert origins.noted(folder, FIRST) is None
    assert origins.noted(folder, SECOND) is None  # there is no checkpoint: nothing of the first is left
    save(folder, 1)
    for step in (2, 3):
        assert origins.noted(folder, SECOND) is None
        save(folder, step)
    assert origins.noted(folder, FIRST) == SECOND


def test_a_visitor_that_wrote_a_checkpoint_is_not_forgotten_when_the_first_comes_back(tmp_path: Path):
    origins.noted(tmp_path, FIRST)
    save(tmp_path, 1)
    assert origins.noted(tmp_path, SECOND) == FIRST
    save(tmp_path, 2)
    (tmp_path / "checkpoint-1").rmdir()  # only so many are kept
    assert origins.noted(tmp_path, FIRST) == SECOND
    save(tmp_path, 3)
    assert origins.noted(tmp_path, FIRST) == SECOND
    assert origins.noted(tmp_path, THIRD) == FIRST


def test_a_visitor_that_ended_before_its_first_checkpoint_has_no_part_in_it(tmp_path: Path):
    origins.noted(tmp_path, FIRST)
    save(tmp_path, 1)
    assert origins.noted(tmp_path, SECOND) == origins.noted(tmp_path, THIRD) == FIRST
    assert origins.noted(tmp_path, FIRST) is None


def test_what_cannot_be_read_was_somebody_unknown(tmp_path: Path):
    save(tmp_path, 1)
    unknown = {"git_commit": None, "git_dirty": None}
    for text in (None, "", "[]", "[3]", '{"git_commit": "a"}'):
        if text is not None:
            (tmp_path / origins.FILE).write_text(text)
        assert origins.noted(tmp_path, FIRST) == unknown
        assert origins.noted(tmp_path, FIRST) == unknown  # and stays so
