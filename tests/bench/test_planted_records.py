"""Every fault that `sparserl check` must find, planted alone into a copy of a good folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparserl_jax import cli
from sparserl_jax.bench import check, paths, policy, provenance, records, tables
from sparserl_jax.errors import UserError
from tests.bench import forge

ENV = "gymnax-Pendulum-v1"
ONE, TWO = f"{ENV}/rlx2-s0800-seed000", f"{ENV}/rlx2-s0800-seed001"


def found(folder: Path, sentence: str, run_id: str = "") -> bool:
    """Whether the check says this of this run."""
    return any(text.startswith(run_id) and sentence in text for text in check.check(folder))


def test_the_good_folder_is_good(folder: Path):
    assert check.check(folder) == []


@pytest.mark.parametrize("row", [0, 7, 19])
def test_an_edited_point_of_a_curve_is_found_though_its_hash_was_renewed(folder: Path, row: int):
    forge.edit_cell(folder, TWO, row, 2, "-100.0")
    forge.rehash(folder, TWO)
    assert found(folder, "auc is recorded as", TWO)
    assert found(folder, "score is recorded as", TWO) == (row == 19)
    assert not found(folder, "sha256")


def test_a_run_called_diverged_though_nothing_broke_is_found(folder: Path):
    nothing = {"status": "diverged", "score": None, "final_score": None, "auc": None}
    forge.change(folder, TWO, lambda record: record["result"].update(nothing))
    assert found(folder, "status is diverged, but its curve and final returns are whole", TWO)
    assert not found(folder, "score is recorded as", TWO)


def test_points_at_other_steps_are_found(folder: Path):
    forge.edit_cell(folder, TWO, 3, 0, "900")
    forge.rehash(folder, TWO)
    assert found(folder, "points at other steps", TWO)


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_more_events_than_the_method_promises_are_found(folder: Path, network: str):
    def add(record: dict[str, Any]) -> None:
        record["result"]["events"][network] += 1

    forge.change(folder, TWO, add)
    most = records.read(folder / "records" / TWO)["result"]["events"][network] - 1
    assert found(
        folder, f"{network}: {most + 1} topology events, but its method promises at most {most}", TWO
    )


def test_a_seed_dropped_from_the_list_of_runs_too_is_found(folder: Path):
    shutil.rmtree(folder / "records" / TWO)
    forge.configure(folder, lambda settings: settings["runs"].remove(TWO))
    assert check.check(folder) == [f"{TWO}: the suite has this run, but configuration.json does not list it"]


def test_a_seed_dropped_from_the_suite_too_is_found(folder: Path):
    def drop(settings: dict[str, Any]) -> None:
        settings["runs"].remove(TWO)
        settings["suite"]["arms"][2]["seeds"] = [0]

    shutil.rmtree(folder / "records" / TWO)
    forge.configure(folder, drop)
    assert "configuration.json: the suite was changed, its hash is another" in check.check(folder)
    forge.configure(folder, lambda settings: None, hashed=True)
    assert found(folder, f"its program has the member {TWO}, which the suite has not", ONE)


def test_a_dropped_final_return_is_found_though_the_score_was_made_to_fit(folder: Path):
    def drop(record: dict[str, Any]) -> None:
        left = sorted(record["result"]["final_returns"])[1:]  # the worst one
        record["result"].update(final_returns=left, final_score=records.mean(left))

    forge.change(folder, TWO, drop)
    assert found(folder, "final_returns has ", TWO)


def test_a_run_that_its_program_does_not_count_is_found(folder: Path):
    forge.change(folder, TWO, lambda record: record["provenance"]["program_members"].remove(TWO))
    assert found(folder, "its program does not count it among its members", TWO)


def test_a_run_listed_twice_is_found(folder: Path):
    forge.configure(folder, lambda settings: settings["runs"].append(ONE))
    assert found(folder, "configuration.json lists it twice", ONE)


def test_a_seed_sold_twice_is_found(folder: Path):
    shutil.rmtree(folder / "records" / TWO)
    shutil.copytree(folder / "records" / ONE, folder / "records" / TWO)
    assert found(folder, f"says it is run {ONE}", TWO)

    def rename(record: dict[str, Any]) -> None:
        record["run_id"] = TWO
        record["result"]["seed"] = 1

    forge.change(folder, TWO, rename)
    assert found(folder, "the very same curve under different names")
    assert found(folder, f'policy.npz.run_id is "{ONE}"', TWO)


def test_a_curve_sold_twice_is_found_however_it_is_written(folder: Path):
    one, two = (folder / "records" / run_id for run_id in (ONE, TWO))
    text = (one / "curve.csv").read_text()
    (two / "curve.csv").write_bytes(text.replace("\n", "\r\n").encode())
    numbers = records.read(one)["result"]
    taken = ("score", "final_score", "auc", "final_returns")
    forge.change(folder, TWO, lambda record: record["result"].update({key: numbers[key] for key in taken}))
    forge.rehash(folder, TWO)
    assert check.check(folder) == [f"{ONE} and {TWO}: the very same curve under different names"]


def test_a_curve_with_what_is_no_number_is_a_problem_and_no_traceback(folder: Path):
    forge.edit_cell(folder, TWO, 4, 3, "nan")
    assert check.check(folder) == [f"{TWO}: curve.csv was changed after it was recorded (sha256 differs)"]


def test_a_missing_final_return_of_a_run_that_went_well_is_found(folder: Path):
    def lose(record: dict[str, Any]) -> None:
        record["result"]["final_returns"][0] = None
        record["result"]["final_score"] = None

    forge.change(folder, TWO, lose)
    assert check.check(folder) == [f"{TWO}: status is ok but its final returns have missing values"]


def test_a_policy_of_another_seed_is_found(folder: Path):
    shutil.copyfile(folder / "records" / ONE / "policy.npz", folder / "records" / TWO / "policy.npz")
    forge.rehash(folder, TWO)
    assert found(folder, f'policy.npz.run_id is "{ONE}", but the suite says "{TWO}"', TWO)


@pytest.mark.parametrize(("key", "sentence"), [("nnz", "weights recorded"), ("declared", "weights declared")])
def test_a_wrong_count_is_found(folder: Path, key: str, sentence: str):
    def edit(record: dict[str, Any]) -> None:
        record["result"]["tensors"]["critic"][1][key] += 1

    forge.change(folder, TWO, edit)
    assert found(folder, sentence, TWO)


def test_a_budget_that_the_method_does_not_declare_is_found(folder: Path):
    """As an upper bound, the declared count would let a sparser mask through than the method makes."""

    def edit(record: dict[str, Any]) -> None:
        record["result"]["promise"] = "at_most"

    forge.change(folder, TWO, edit)
    sentence = 'result.promise is "at_most", but its method declares "per_tensor"'
    assert check.check(folder) == [f"{TWO}: {sentence}"]


def test_a_denser_network_is_found_though_mask_count_and_declaration_agree(folder: Path):
    here = folder / "records" / TWO
    masks = policy.load_masks(here / "masks.npz")
    kernel = masks["critic"]["mlp"]["hidden_1"]["kernel"]
    kernel[1, :4, :] = True
    policy.save_masks(here / "masks.npz", masks)
    count = int(kernel[1].sum())

    def edit(record: dict[str, Any]) -> None:
        tensors = record["result"]["tensors"]["critic"]
        tensors[3].update(nnz=count, declared=count)
        kept, size = sum(t["nnz"] for t in tensors), sum(t["size"] for t in tensors)
        record["result"]["realised_sparsity"]["critic"] = 1 - kept / size

    forge.change(folder, TWO, edit)
    forge.rehash(folder, TWO)
    assert found(folder, f"{count} weights declared, but its method declares", TWO)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda result: result["final_returns"].__setitem__(3, 0.0), "final_score is recorded as"),
        (lambda result: result.update(score=-1.0), "score is recorded as -1.0"),
        (lambda result: result.update(auc=-1.0), "auc is recorded as -1.0"),
        (lambda result: result.update(score_points=5), "score_points is recorded as 5"),
        (lambda result: result["realised_sparsity"].update(actor=0.99), "realised sparsity does not follow"),
        (lambda result: result["costs"].update(actor_parameters=3), "result.costs.actor_parameters is 3"),
        (lambda result: result["costs"].update(actor_blob_bytes=3), "result.costs.actor_blob_bytes is 3"),
        (lambda result: result["costs"].update(training_flops_theory=3), "training_flops_theory is 3"),
        (lambda result: result.update(sparsity=0.9), "result.sparsity is 0.9, but the suite says 0.8"),
        (lambda result: result.update(recipe="rigl"), 'result.recipe is "rigl", but the suite says "rlx2"'),
        (lambda result: result.update(role="aa"), 'result.role is "aa", but the suite says "method"'),
        (lambda result: result.update(seed=7), "result.seed is 7, but the suite says 1"),
    ],
)
def test_an_edited_result_is_found(folder: Path, edit, sentence: str):
    forge.change(folder, TWO, lambda record: edit(record["result"]))
    assert found(folder, sentence, TWO)


def test_a_budget_changed_everywhere_is_found(folder: Path):
    forge.change_all(folder, lambda record: record["result"]["budget"].update(batch_size=999))
    assert found(folder, "result.budget.batch_size is 999, but the suite says 32", TWO)


def test_another_configuration_with_its_own_hash_is_found(folder: Path):
    def edit(record: dict[str, Any]) -> None:
        origin = record["provenance"]
        origin["config"]["training"]["agent"]["learning_rate"] = 0.5
        origin["config_hash"] = records.digest(records.canonical(origin["config"]).encode())[:12]

    forge.change(folder, TWO, edit)
    assert found(folder, "provenance.config.training.agent.learning_rate is 0.5, but the suite says", TWO)


def test_a_lowered_learned_level_is_found(folder: Path):
    forge.configure(folder, lambda settings: settings["suite"]["tasks"][0].update(learned=-1100.0))
    assert check.check(folder) == ["configuration.json: the suite was changed, its hash is another"]


def test_a_configuration_of_another_form_is_told_and_not_a_crash(folder: Path):
    forge.configure(folder, lambda settings: settings["suite"]["arms"][0].pop("recipe"), hashed=True)
    assert found(folder, "configuration.json: this version cannot read it")


def test_a_list_of_runs_that_are_no_names_is_told_and_not_a_crash(folder: Path):
    forge.configure(folder, lambda settings: settings["runs"].append(3))
    with pytest.raises(UserError, match="is not what a suite writes"):
        check.check(folder)


def test_an_edited_table_is_found(folder: Path):
    assert tables.differing(folder) == ([], [])  # there is none
    tables.write(folder)
    assert tables.differing(folder) == ([], [])
    for name in tables.FILES:
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"rlx2", b"rlx3"))
        problems, remarks = tables.differing(folder)
        (said,) = problems or remarks
        assert said.startswith(name) and bool(problems) == (name == "table.csv")
        path.write_bytes(whole)


def test_numbers_of_a_table_may_differ_by_rounding_alone(folder: Path, capsys):
    tables.write(folder)
    path = folder / "table.csv"
    whole = path.read_text()
    value = whole.splitlines()[1].split(",")[8]
    assert cli.run(["check", str(folder)]) == 0
    path.write_text(whole.replace(value, repr(float(value) * (1 + 1e-12))))
    assert tables.differing(folder) == ([], []) and cli.run(["check", str(folder)]) == 0
    path.write_text(whole.replace(value, repr(float(value) * (1 + 1e-6))))
    assert cli.run(["check", str(folder)]) == 1
    assert "table.csv has other numbers than its records" in " ".join(capsys.readouterr().out.split())


def test_edited_timings_are_found(folder: Path):
    forge.change(folder, TWO, lambda record: record["measured"].update(steps_per_second=1e9))
    assert found(folder, "not that of timings.json", TWO)


def git(repository: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=repository, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout of two commits, and a third on a branch of its own."""
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    for name in ("first", "second"):
        git(root, "commit", "-q", "--allow-empty", "-m", name)
    git(root, "checkout", "-q", "-b", "aside")
    git(root, "commit", "-q", "--allow-empty", "-m", "third")
    git(root, "checkout", "-q", "main")
    return root


def stamp(folder: Path, commit: str | None, dirty: bool | None = False) -> None:
    forge.change_all(folder, lambda record: record["provenance"].update(git_commit=commit, git_dirty=dirty))


@pytest.mark.parametrize("commit", ["main", "main~1"])
def test_published_records_may_come_from_any_ancestor_of_head(folder: Path, repository: Path, commit: str):
    stamp(folder, git(repository, "rev-parse", commit))
    assert check.check(folder, repository) == []


@pytest.mark.parametrize(
    ("commit", "sentence"),
    [
        ("aside", "6 runs (e.g. {first}) were made by commit {commit:.10}, which is no ancestor of HEAD"),
        (
            "f" * 40,
            "6 runs (e.g. {first}) were made by commit {commit:.10}, which is unknown to this repository",
        ),
        ("--all", "which is no commit's name"),
        (None, "6 runs (e.g. {first}) name no commit"),
    ],
)
def test_published_records_of_a_stale_or_unknown_commit_are_found(
    folder: Path, repository: Path, commit: str | None, sentence: str
):
    commit = git(repository, "rev-parse", commit) if commit == "aside" else commit
    stamp(folder, commit)
    problems = check.check(folder, repository)
    assert len(problems) == 1
    assert sentence.format(first=f"{ENV}/dense-s0000-seed000", commit=commit or "") in problems[0]
    assert check.check(folder) == []  # a folder in runs/ is not published


def test_published_records_of_a_dirty_tree_are_found(folder: Path, repository: Path):
    stamp(folder, provenance.head(repository))
    forge.change(folder, TWO, lambda record: record["provenance"].update(git_dirty=True))
    assert check.check(folder, repository) == [
        f"1 runs (e.g. {TWO}) were made by code with uncommitted changes"
    ]


def test_a_shallow_clone_and_a_plain_folder_accuse_nobody(folder: Path, repository: Path, tmp_path: Path):
    stamp(folder, git(repository, "rev-parse", "main~1"))
    git(tmp_path, "clone", "-q", "--depth", "1", repository.as_uri(), "shallow")
    assert check.check(folder, tmp_path / "shallow") == []
    (tmp_path / "plain").mkdir()
    assert check.check(folder, tmp_path / "plain") == []


def test_what_lies_in_the_results_of_the_checkout_is_published(folder: Path, repository: Path, monkeypatch):
    stamp(folder, "f" * 40)
    (repository / "results").mkdir()
    published = Path(shutil.copytree(folder, repository / "results" / "mini"))
    monkeypatch.setattr(paths, "checkout", lambda: repository)
    assert found(published, "unknown to this repository")
    assert check.check(folder) == []


def test_masks_and_policy_of_the_good_folder_agree(folder: Path):
    """The oracle of the counts: masks counted by hand here give what the record says."""
    masks = policy.load_masks(folder / "records" / TWO / "masks.npz")
    kernels = [masks["actor"]["mlp"][name]["kernel"] for name in ("hidden_0", "hidden_1", "output")]
    recorded = records.read(folder / "records" / TWO)["result"]["tensors"]["actor"]
    assert [int(np.sum(kernel)) for kernel in kernels] == [tensor["nnz"] for tensor in recorded]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda r: r["result"]["tensors"].pop("critic"),
            "result.tensors is of actor, but its networks are actor, critic",
        ),
        (lambda r: r["result"]["realised_sparsity"].pop("critic"), "result.realised_sparsity is of actor"),
        (lambda r: r["result"]["events"].pop("critic"), "result.events is of actor, but"),
        (
            lambda r: r["provenance"]["config"]["training"]["agent"].update(note=1),
            "agent.note is recorded, and the suite",
        ),
        (lambda r: r["provenance"].update(config={}), "provenance.config.training is missing"),
    ],
)
def test_a_record_that_lacks_a_part_or_has_one_more_is_a_problem_and_no_traceback(folder: Path, change, told):
    forge.change(folder, TWO, change)
    assert found(folder, told, TWO)
