"""Suites published slice by slice: whole rows only, beside their dense arm, and what is missing is written down."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sparserl_jax import cli
from sparserl_jax.bench import beside, check, partial, publish, records, summary, tables
from sparserl_jax.bench import run as runs
from sparserl_jax.errors import UserError
from tests.bench.checkout import made

OPTIONS = {
    "sparsities": [0.8],
    "arms": [{"recipe": "dense"}, {"recipe": "rigl"}, {"recipe": "rlx2"}],
}
PENDULUM, BALANCE = "gymnax-Pendulum-v1", "brax-inverted_pendulum-backend-spring"


@pytest.fixture
def whole(tmp_path: Path, repository: Path) -> Path:
    """All 36 runs: two environments, three rows of six seeds each."""
    return made(tmp_path / "whole", repository, **OPTIONS)


def only(folder: Path, target: Path, *keep: str) -> Path:
    """A copy that has only the records whose id begins with one of these words."""
    shutil.copytree(folder, target)
    for run in json.loads((target / records.CONFIGURATION).read_text())["runs"]:
        if not run.startswith(keep):
            shutil.rmtree(target / "records" / run)
    return target


def published(results: Path) -> set[str]:
    """Rows there are records of."""
    found = (results / "mini/records").glob("*/*/record.json")
    return {partial.row_of(path.parent.relative_to(results / "mini/records").as_posix()) for path in found}


def test_pages_beside_a_table_warn_as_it_does(whole: Path, tmp_path: Path):
    assert beside.head("Danger: x", whole) == ["# Danger: x", ""]
    folder = only(whole, tmp_path / "part", f"{PENDULUM}/dense")
    title, _, warned, blank = beside.head("Danger: x", folder)
    assert (title, blank) == ("# Danger: x", "") and warned.startswith("**INCOMPLETE: ")
    assert "rlx2 (6 runs)" in warned and f"{BALANCE}: everything" in warned


def test_an_unfinished_suite_is_published_only_when_asked_and_only_its_whole_rows(
    whole: Path,
    tmp_path: Path,
    repository: Path,
    capsys: pytest.CaptureFixture,
):
    results = repository / "results"
    keep = (f"{PENDULUM}/dense", f"{PENDULUM}/rlx2-s0800-seed00", f"{BALANCE}/rigl")
    folder = only(whole, tmp_path / "part", *keep)
    shutil.rmtree(folder / "records" / PENDULUM / "rlx2-s0800-seed003")
    with pytest.raises(UserError, match=r"lacks 19 of 36 runs; .* with --partial"):
        publish.publish(folder, results=results)
    assert not results.exists()

    target = publish.publish(folder, results=results, partial=True)
    # Half of rlx2 is no row, and rigl has no dense to be compared with.
    assert published(results) == {f"{PENDULUM}/dense-s0000"}
    assert len(partial.declared(target)) == 30
    assert publish.left_out(target) == [
        f"Not published, 30 of 36 runs: {PENDULUM}: rigl (6 runs), rlx2 (6 runs); {BALANCE}: everything."
    ]
    assert check.check(target) == []
    assert cli.run(["check", str(target)]) == 0
    assert "every record is sound; 30 of 36 runs are missing, as missing.json says" in capsys.readouterr().out
    text = (target / "table.md").read_text()
    assert f"INCOMPLETE: 30 of 36 runs have no record yet ({PENDULUM}: rigl (6 runs)" in text


def test_slices_come_together_and_what_was_published_stays(whole: Path, tmp_path: Path, repository: Path):
    results = repository / "results"
    first = only(whole, tmp_path / "first", f"{PENDULUM}/dense", f"{PENDULUM}/rlx2")
    publish.publish(first, results=results, partial=True)
    second = only(whole, tmp_path / "second", f"{PENDULUM}/rigl", f"{BALANCE}/dense")
    target = publish.publish(second, results=results, partial=True)
    assert published(results) == {
        f"{PENDULUM}/{row}" for row in ("dense-s0000", "rigl-s0800", "rlx2-s0800")
    } | {f"{BALANCE}/dense-s0000"}
    assert check.check(target) == []
    last = only(whole, tmp_path / "last", f"{BALANCE}/r")
    target = publish.publish(last, results=results)  # with what is there, nothing is missing any more
    assert not (target / partial.MISSING).exists()
    assert check.check(target) == []
    assert tables.markdown(summary.summarise(target)) == tables.markdown(summary.summarise(whole))


def test_a_published_record_that_differs_or_is_lost_is_never_lost_silently(
    whole: Path,
    tmp_path: Path,
    repository: Path,
):
    results = repository / "results"
    first = only(whole, tmp_path / "first", f"{PENDULUM}/dense", f"{PENDULUM}/rlx2")
    target = publish.publish(first, results=results, partial=True)
    kept = (target / "records" / PENDULUM / "dense-s0000-seed000" / "curve.csv").read_bytes()

    def worse(outcome):
        outcome.curve["return"] = outcome.curve["return"] - 1
        return outcome

    other = only(made(tmp_path / "y", repository, change=worse, **OPTIONS), tmp_path / "other", PENDULUM)
    with pytest.raises(UserError, match="has another result; use --replace"):
        publish.publish(other, results=results, partial=True)
    assert (target / "records" / PENDULUM / "dense-s0000-seed000" / "curve.csv").read_bytes() == kept
    shutil.rmtree(target / "records" / PENDULUM / "rlx2-s0800-seed002")
    problems = check.check(target)
    assert f"{PENDULUM}/rlx2-s0800-seed002: the record is missing" in problems
    assert (
        f"{PENDULUM}/rlx2-s0800: it has 5 of its 6 seeds; a row is published whole or not at all" in problems
    )


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (["gymnax-Pendulum-v1/dense-s0000-seed000"], "lists it, but there is a record"),
        (["nowhere/rlx2-s0800-seed000"], "lists it, but the plan knows no such run"),
        (3, "missing.json: it cannot be read"),
    ],
)
def test_check_holds_the_list_of_what_is_missing_to_the_truth(folder: Path, missing, sentence):
    (folder / partial.MISSING).write_text(json.dumps({"missing": missing}))
    assert any(sentence in problem for problem in check.check(folder))


def test_nothing_whole_is_nothing_to_publish(whole: Path, tmp_path: Path, repository: Path):
    folder = only(whole, tmp_path / "part", f"{PENDULUM}/rlx2")
    with pytest.raises(UserError, match="no whole row beside a whole dense one"):
        publish.publish(folder, results=repository / "results", partial=True)


def test_words_say_what_is_missing_by_environment():
    every = [f"{env}/{arm}-s0800-seed00{seed}" for env in "ab" for arm in ("x", "y_z") for seed in (0, 1)]
    assert partial.words(every, every) == ""
    assert partial.words(every, every[:4]) == "b: everything"
    assert partial.words(every, every[1:6]) == "a: x (1 of 2 runs); b: y_z (2 runs)"


def test_a_finished_folder_declares_nothing(folder: Path):
    assert partial.declared(folder) == [] and check.check(folder) == []
    assert check.verdict(folder, []) == f"{folder}: every record is sound."
    assert runs.EXIT_OK == cli.run(["check", str(folder)])
