"""Publishing: finished, checked, committed results only, and never over other results unasked."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from sparserl_jax.bench import check, provenance, publish, records
from sparserl_jax.errors import UserError
from tests.bench import fake, forge
from tests.bench.checkout import git, made

SMALL = {
    "seeds": 6,
    "sparsities": [0.8],
    "environments": fake.SUITE["environments"][:1],
    "arms": [{"recipe": "dense"}, {"recipe": "rlx2"}],
}


@pytest.fixture
def folder(tmp_path: Path, repository: Path) -> Path:
    """A finished run, made by committed code."""
    return made(tmp_path / "mini", repository, **SMALL)


def test_a_clean_tree_gets_records_tables_and_plots(folder: Path, repository: Path):
    target = publish.publish(folder, results=repository / "results")
    assert target == repository / "results" / "mini"
    names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert {"configuration.json", "table.md", "table.csv", "table.tex", "plots/learning_curves.svg"} <= names
    assert "records/gymnax-Pendulum-v1/dense-s0000-seed000/policy.npz" in names
    assert not [name for name in names if name.startswith(("programs", ".lock"))]
    # The results just published do not make the tree dirty for the next suite.
    publish.publish(folder, results=repository / "results")


def test_a_dirty_tree_is_refused(folder: Path, repository: Path):
    (repository / "code.py").write_text("x = 2\n")
    with pytest.raises(UserError, match="uncommitted changes; commit them first"):
        publish.publish(folder, results=repository / "results")
    assert not (repository / "results").exists()


def test_a_folder_outside_git_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "plain").mkdir()
    with pytest.raises(UserError, match="no git commit"):
        publish.publish(folder, results=tmp_path / "plain" / "results")


def test_records_made_by_uncommitted_code_are_refused(folder: Path, repository: Path):
    first = forge.run_ids(folder)[0]
    forge.change(folder, first, lambda record: record["provenance"].update(git_dirty=True))
    with pytest.raises(UserError, match="made by code with uncommitted changes"):
        publish.publish(folder, results=repository / "results")


def test_records_without_a_digest_are_refused(folder: Path, repository: Path):
    path = folder / "records" / forge.run_ids(folder)[0] / "record.json"
    record = json.loads(path.read_text())
    del record["sha256"]
    path.write_text(json.dumps(record))
    assert check.check(folder) == []
    with pytest.raises(UserError, match="records without a digest of their own .1 runs"):
        publish.publish(folder, results=repository / "results")
    assert not (repository / "results/mini").exists()


def test_records_of_a_commit_that_is_not_in_the_history_are_refused(folder: Path, repository: Path):
    git(repository, "checkout", "-q", "--orphan", "elsewhere")
    git(repository, "commit", "-qm", "another history")
    with pytest.raises(UserError, match="no ancestor of HEAD.*publish from the branch that made it"):
        publish.publish(folder, results=repository / "results")


def test_unfinished_and_unsound_folders_are_refused(folder: Path, repository: Path):
    run = folder / "records/gymnax-Pendulum-v1/rlx2-s0800-seed001"
    with (run / "curve.csv").open("a") as file:
        file.write("1,1,1,1\n")
    with pytest.raises(UserError, match="does not pass the check"):
        publish.publish(folder, results=repository / "results")
    shutil.rmtree(run)
    with pytest.raises(UserError, match="lacks 1 of 12 runs"):
        publish.publish(folder, results=repository / "results")


def test_too_few_seeds_are_not_a_result(tmp_path: Path, repository: Path):
    with pytest.raises(
        UserError, match="arm 'dense' on gymnax:Pendulum-v1 has 4 seeds; a result needs at least 5"
    ):
        publish.publish(
            made(tmp_path / "x", repository, **{**SMALL, "seeds": 4}), results=repository / "results"
        )


def test_a_suite_that_is_no_result_is_refused(tmp_path: Path, repository: Path):
    with pytest.raises(UserError, match="never a result"):
        publish.publish(
            made(tmp_path / "x", repository, **SMALL, result=False), results=repository / "results"
        )


def test_other_results_are_replaced_only_when_asked(folder: Path, tmp_path: Path, repository: Path):
    publish.publish(folder, results=repository / "results")
    (repository / "results/mini/README.md").write_text("how it was made")

    def worse(outcome):
        return dataclasses.replace(outcome, curve={**outcome.curve, "return": outcome.curve["return"] - 1})

    other = made(tmp_path / "other", repository, change=worse, **SMALL)
    with pytest.raises(UserError, match="has another result; use --replace"):
        publish.publish(other, results=repository / "results")
    target = publish.publish(other, results=repository / "results", replace=True)
    run = "gymnax-Pendulum-v1/dense-s0000-seed000"
    assert records.read(target / "records" / run) == records.read(other / "records" / run)
    assert (target / "README.md").read_text() == "how it was made"
    fewer = made(tmp_path / "fewer", repository, **{**SMALL, "seeds": 5})
    with pytest.raises(UserError, match="lacks; use --replace"):
        publish.publish(fewer, results=repository / "results")


def test_what_other_commands_measured_stays_with_the_runs_it_was_measured_on(
    folder: Path, tmp_path: Path, repository: Path
):
    target = publish.publish(folder, results=repository / "results")
    pages = ("low_rank.md", "danger.csv", "plots/diagnostics-q.png")
    for name in pages:
        (target / name).write_text("measured")
    publish.publish(folder, results=repository / "results")
    publish.publish(folder, results=repository / "results", partial=True)
    assert {(target / name).read_text() for name in pages} == {"measured"}

    def worse(outcome):
        return dataclasses.replace(outcome, curve={**outcome.curve, "return": outcome.curve["return"] - 1})

    other = made(tmp_path / "other", repository, change=worse, **SMALL)
    publish.publish(other, results=repository / "results", replace=True)
    assert not any((target / name).exists() for name in pages)


def test_ranks_chosen_on_another_scale_do_not_stay(folder: Path, tmp_path: Path, repository: Path):
    target = publish.publish(folder, results=repository / "results")
    for name in ("low_rank.md", "danger.md"):
        (target / name).write_text("measured")
    first, *rest = SMALL["environments"]
    levels = {"environments": [{**first, "learned": first["learned"] + 1}, *rest]}
    publish.publish(
        made(tmp_path / "same", repository, **{**SMALL, **levels}), results=repository / "results"
    )
    assert not (target / "low_rank.md").exists() and (target / "danger.md").read_text() == "measured"


def test_two_do_not_publish_at_once(folder: Path, repository: Path):
    results = repository / "results"
    with publish._alone(results), pytest.raises(UserError, match="another `sparserl publish` is writing"):
        publish.publish(folder, results=results)
    publish.publish(folder, results=results)


def test_a_tree_of_which_git_does_not_say_whether_it_is_clean_is_refused(
    folder: Path, repository: Path, monkeypatch
):
    first, state = forge.run_ids(folder)[0], provenance.repository(repository)
    monkeypatch.setattr(provenance, "repository", lambda place: {**state, "git_dirty": None})
    with pytest.raises(UserError, match="git does not say whether the tree has uncommitted changes"):
        publish.publish(folder, results=repository / "results")
    monkeypatch.undo()
    forge.change(folder, first, lambda record: record["provenance"].update(git_dirty=None))
    with pytest.raises(UserError, match="made by code with uncommitted changes"):
        publish.publish(folder, results=repository / "results")


def test_what_is_published_survives_a_kill_at_any_step_of_its_replacement(
    folder: Path, repository: Path, monkeypatch
):
    target = publish.publish(folder, results=repository / "results")
    table, rename = (target / "table.md").read_bytes(), Path.rename
    for step in (0, 1):
        calls = iter(range(9))

        def killed(path: Path, to: Path, step: int = step, calls=calls) -> Path:
            if next(calls) == step:
                raise KeyboardInterrupt
            return rename(path, to)

        monkeypatch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            publish.publish(folder, results=repository / "results")
        monkeypatch.undo()
        assert any((place / "table.md").is_file() for place in (target, publish._before(target)))
        assert (publish.publish(folder, results=repository / "results") / "table.md").read_bytes() == table
        assert [path.name for path in (repository / "results").iterdir()] == [target.name]


def test_other_diagnostics_of_the_same_results_are_other_results(
    folder: Path, tmp_path: Path, repository: Path
):
    publish.publish(folder, results=repository / "results")

    def change(outcome):
        return dataclasses.replace(outcome, curve={**outcome.curve, "q": outcome.curve["return"] * 0 + 7})

    other = made(tmp_path / "other", repository, change, **SMALL)
    with pytest.raises(UserError, match="has another result; use --replace"):
        publish.publish(other, results=repository / "results")


def test_provenance_knows_commit_and_dirt_and_ignores_results(repository: Path):
    clean = provenance.repository(repository)
    assert len(clean["git_commit"]) == 40 and clean["git_dirty"] is False
    (repository / "results").mkdir()
    (repository / "results" / "new.txt").write_text("x")
    assert provenance.repository(repository)["git_dirty"] is False
    # A scheduler's log and an archive of runs are no code.
    for name in ("slurm-7.out", "slice.tar.gz", "mine.toml"):
        (repository / name).write_text("x")
    assert provenance.repository(repository)["git_dirty"] is False
    for name in ("new.py", "sparserl_jax/more.json", "benchmarks/suites/own.toml"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("x")
        assert provenance.repository(repository)["git_dirty"] is True
        (repository / name).unlink()
    (repository / "code.py").write_text("x = 2\n")
    assert provenance.repository(repository)["git_dirty"] is True
