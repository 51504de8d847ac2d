"""Comparing folders: one honest table, or one sentence that names the field and both values."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from sparserl_jax import cli
from sparserl_jax.bench import compare, records, summary, tables
from sparserl_jax.bench import run as runs
from sparserl_jax.errors import UserError
from tests.bench import fake, forge, tuned

BASE: dict[str, Any] = {
    "seeds": 4,
    "sparsities": [0.6, 0.8],
    "arms": [
        {"recipe": "dense"},
        {"recipe": "dense", "name": "dense_aa", "role": "aa", "seeds_from": 100},
        {"recipe": "placebo", "sparsities": [0.95]},
        {"recipe": "tiny"},
        {"recipe": "tiny_rvl"},
        {"recipe": "rlx2"},
    ],
}
MINE: dict[str, Any] = {
    **BASE,
    "arms": [{"recipe": "rigl", "name": "my_method", "set": {"method": "set", "buffer": "dynamic"}}],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`results/quick` with all baselines, `runs/mine` with one arm."""
    root = tmp_path_factory.mktemp("compare")
    fake.finished(root / "results/quick", fake.make_plan(**BASE))
    fake.finished(root / "runs/mine", fake.make_plan(**MINE))
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "root"))


def again(root: Path, **changes: Any) -> None:
    """Make `runs/mine` anew with some of its suite changed."""
    shutil.rmtree(root / "runs/mine")
    fake.finished(root / "runs/mine", fake.make_plan(**{**MINE, **changes}))


def both(root: Path, out: Path | None = None) -> summary.Summary:
    return compare.compare([root / "runs/mine", root / "results/quick"], out)


def refused(root: Path) -> str:
    with pytest.raises(UserError) as error:
        both(root)
    return str(error.value)


@pytest.mark.slow
def test_a_tuning_is_no_opponent(root: Path):
    shutil.rmtree(root / "runs/mine")
    tuning = tuned.plan_of(tuned.parse())
    runs.run(tuning, root / "runs/mine", fake.quiet(), execute=fake.Execute(tuning, tuned.better))
    assert "is a tuning, whose chosen trials look better than they are" in refused(root)


def test_a_training_from_given_networks_is_no_opponent_of_one_from_scratch(root: Path):
    def given(settings: dict[str, Any]) -> None:
        settings["suite"]["start"] = {"source": "elsewhere/dense", "sha256": "0" * 64, "networks": ["actor"]}

    forge.configure(root / "runs/mine", given, hashed=True)
    assert 'start.source is "elsewhere/dense" in' in refused(root)


@pytest.mark.slow
def test_an_arm_is_judged_against_the_dense_arm_of_another_folder(made: Path):
    found = both(made)
    alone = {(row.arm, row.sparsity): row for row in summary.summarise(made / "results/quick").blocks[0].rows}
    rows = {(row.arm, row.sparsity): row for row in found.blocks[0].rows}
    assert set(rows) == {*alone, ("my_method", 0.6), ("my_method", 0.8)}
    for key, row in alone.items():  # what was there is unchanged by the company it keeps
        assert (rows[key].comparison, rows[key].verdict) == (row.comparison, row.verdict)
        assert rows[key].tiny_comparison == row.tiny_comparison
    mine = rows["my_method", 0.6]
    assert mine.comparison is not None and mine.verdict.split()[0] in ("matched", "worse", "undecided")
    assert mine.comparison.delta == pytest.approx(
        float(mine.z_value.value) - float(rows["dense", 0.0].z_value.value)
    )
    assert mine.tiny == "tiny" and rows["rlx2", 0.8].tiny == "tiny_rvl"
    assert found.pooled is not None and "my_method" in {row.arm for row in found.pooled.rows}
    text = tables.markdown(found)
    assert "# mine and quick compared" in text and "INCOMPLETE" not in text
    assert "Arms: my_method from mine; dense, dense_aa, placebo" in text
    assert "Reference of all deltas and verdicts: dense of quick." in text


@pytest.mark.slow
def test_every_source_is_named_and_every_row_traced(made: Path):
    found = both(made)
    hashes = [records.load_all(made / name)[0]["suite_hash"] for name in ("runs/mine", "results/quick")]
    assert [f"configuration {text}" in line for text, line in zip(hashes, found.origins, strict=True)] == [
        True,
        True,
    ]
    assert found.caption[-2].startswith("mine: ") and found.caption[-1].startswith("quick: ")
    rows = {row.arm: row for row in found.blocks[0].rows}
    assert f"{(made / 'runs/mine').as_posix()}/suite.toml" in rows["my_method"].command
    assert rows["my_method"].origin == "mine" and rows["rlx2"].origin == "quick"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 2000}, "steps is 2000 in 'mine' and 4000 in 'quick'"),
        ({"warm_up": 600}, "warm_up is 600 in 'mine' and 400 in 'quick'"),
        ({"num_envs": 2}, "num_envs is 2 in 'mine' and 1 in 'quick'"),
        (
            {"agent": {"hidden": [32, 16], "batch_size": 32}},
            "agent.hidden is [32, 16] in 'mine' and [16, 16] in",
        ),
        (
            {"agent": {"hidden": [16, 16], "batch_size": 64}},
            "agent.batch_size is 64 in 'mine' and 32 in 'quick'",
        ),
        (
            {"agent": {**fake.SUITE["agent"], "learning_rate": 0.1}},
            "agent.learning_rate is 0.1 in 'mine' and 0.0003 in 'quick'",
        ),
        ({"agent": {**fake.SUITE["agent"], "tau": 0.5}}, "agent.tau is 0.5 in 'mine' and 0.005 in 'quick'"),
        (
            {"evaluation": {"interval": 400, "episodes": 5, "final_episodes": 10}},
            "evaluation.interval is 400 in 'mine' and 200 in 'quick'",
        ),
        (
            {"evaluation": {"interval": 200, "episodes": 10, "final_episodes": 10}},
            "episodes on gymnax:Pendulum-v1 is 10 in 'mine' and 5 in 'quick'",
        ),
        (
            {"evaluation": {"interval": 200, "episodes": 5, "final_episodes": 20}},
            "final_episodes on gymnax:Pendulum-v1 is 20 in 'mine' and 10 in 'quick'",
        ),
        (
            {"schedule": {**fake.SUITE["schedule"], "buffer_max": 4000}},
            "schedule.buffer_max is 4000 in 'mine' and 2000 in 'quick'",
        ),
        (
            {"environments": [{**fake.SUITE["environments"][0], "learned": -900.0}]},
            "the frozen level 'learned' of gymnax:Pendulum-v1 is -900.0 in 'mine' and -200.0 in 'quick'",
        ),
        (
            {"environments": [{**fake.SUITE["environments"][0], "reference": -100.0}]},
            "the frozen level 'reference' of gymnax:Pendulum-v1 is -100.0 in 'mine' and -150.0 in 'quick'",
        ),
        (
            {"environments": [{**fake.SUITE["environments"][0], "random": -1000.0}]},
            "the frozen level 'random' of gymnax:Pendulum-v1 is -1000.0 in 'mine' and -1200.0 in 'quick'",
        ),
    ],
)
@pytest.mark.slow
def test_what_may_not_be_compared_is_refused_with_field_and_values(root: Path, changes: Any, sentence: str):
    again(root, **changes)
    said = refused(root)
    assert said.startswith("'mine' and 'quick' may not be compared: ") and sentence in said
    assert said.count(". ") == 0 and said.endswith(".")


def test_another_schema_is_refused(root: Path):
    forge.configure(root / "runs/mine", lambda settings: settings.update(schema_version="0.9"))
    assert "schema_version is \"0.9\" in 'mine' and \"1.0\" in 'quick'" in refused(root)


@pytest.mark.slow
def test_other_environments_are_refused_and_partly_shared_ones_named(root: Path):
    own = {"name": "gymnax:MountainCarContinuous-v0", "random": 0.0, "learned": 80.0, "reference": 90.0}
    again(root, environments=[own])
    said = refused(root)
    assert "the folders share no environment: 'mine' has gymnax:MountainCarContinuous-v0; 'quick' has" in said
    again(root, environments=[own, fake.SUITE["environments"][1]])
    found = both(root)
    assert [block.env for block in found.blocks] == ["brax:inverted_pendulum?backend=spring"]
    text = tables.markdown(found)
    assert "gymnax:MountainCarContinuous-v0 (only in mine); gymnax:Pendulum-v1 (only in quick)" in text
    assert "INCOMPLETE" not in text and found.pooled is None


@pytest.mark.slow
def test_the_same_runs_in_two_folders_are_refused(root: Path):
    again(root, arms=[{"recipe": "rlx2"}])
    said = refused(root)
    assert "seed 0 of arm 'rlx2' in 'mine' and of arm 'rlx2' in 'quick' are the same run" in said
    assert "give one of them other seeds with 'seeds_from'" in said
    with pytest.raises(UserError, match="is given twice"):
        compare.compare([root / "results/quick", root / "runs/../results/quick"])
    shutil.copytree(root / "results/quick", root / "runs/quick")
    with pytest.raises(UserError, match="'runs/quick' and 'results/quick' may not be compared: seed 0"):
        compare.compare([root / "runs/quick", root / "results/quick"])


@pytest.mark.slow
def test_the_same_recipe_and_seeds_with_other_values_are_other_runs(root: Path):
    again(root, arms=[{"recipe": "rlx2", "overrides": {"tau": 0.02}}])
    arms = {row.arm for row in both(root).blocks[0].rows}
    assert {"rlx2 (mine)", "rlx2 (quick)"} <= arms


@pytest.mark.slow
def test_arms_of_one_name_get_their_folders_as_suffix(root: Path):
    again(root, arms=[{"recipe": "rlx2", "seeds_from": 50}], sparsities=[0.8])
    found = both(root)
    arms = list(dict.fromkeys(row.arm for row in found.blocks[0].rows))
    assert arms[0] == "rlx2 (mine)" and "rlx2 (quick)" in arms and "rlx2" not in arms and "dense" in arms
    row = found.blocks[0].rows[0]
    assert row.command.endswith("--only gymnax:Pendulum-v1/rlx2@0.8")


@pytest.mark.slow
def test_controls_of_two_folders_stay_apart_and_the_first_dense_arm_is_the_reference(root: Path):
    arms = [{"recipe": "dense"}, {"recipe": "placebo", "sparsities": [0.95]}, *MINE["arms"]]
    again(root, arms=arms)
    found = both(root)
    # The stand-in for training is deterministic: the folders hold the very same dense runs.
    assert "dense of quick is identical to that of mine: shown once." in found.caption
    rows = {row.label: row for row in found.blocks[0].rows}
    assert rows["dense"].origin == "mine" and rows["dense"].verdict == "reference"
    assert "INCOMPLETE" not in " ".join(found.caption)

    def elsewhere(outcome: Any) -> Any:
        return dataclasses.replace(outcome, curve={**outcome.curve, "return": outcome.curve["return"] + 0.5})

    shutil.rmtree(root / "runs/mine")
    fake.finished(root / "runs/mine", fake.make_plan(**{**MINE, "arms": arms}), change=elsewhere)
    rows = {row.label: row for row in both(root).blocks[0].rows}
    assert rows["dense (mine)"].verdict == "reference"
    other = rows["dense (quick) (A/A)"]
    assert other.verdict == "same seeds as the reference" and other.comparison is not None
    assert {"placebo (mine) (must lose)", "placebo (quick) (must lose)"} <= set(rows)
    assert rows["dense_aa (A/A)"].verdict == "matched"  # its seeds are its own

    # One run of the row that came out otherwise is enough: the row is not identical, and it stays whole.
    def once(outcome: Any) -> Any:
        return elsewhere(outcome) if (outcome.run.recipe.name, outcome.run.seed) == ("dense", 1) else outcome

    shutil.rmtree(root / "runs/mine")
    fake.finished(root / "runs/mine", fake.make_plan(**{**MINE, "arms": arms}), change=once)
    found = both(root)
    assert not any("dense of quick is identical" in line for line in found.caption)
    assert {row.label: len(row.seeds) for row in found.blocks[0].rows}["dense (quick) (A/A)"] == 4


def test_records_that_do_not_pass_the_check_are_refused(root: Path):
    run = "gymnax-Pendulum-v1/my_method-s0600-seed003"
    forge.change(root / "runs/mine", run, lambda record: record["result"].update(score=0.0))
    said = refused(root)
    assert "does not pass the check" in said and "score is recorded as 0.0" in said


@pytest.mark.slow
def test_half_a_row_is_refused_and_a_missing_row_is_told(root: Path):
    shutil.rmtree(root / "runs/mine/records/gymnax-Pendulum-v1/my_method-s0600-seed003")
    assert "has 3 of the 4 seeds of 'gymnax-Pendulum-v1/my_method-s0600'" in refused(root)
    for path in (root / "runs/mine/records/gymnax-Pendulum-v1").glob("my_method-s0600-*"):
        shutil.rmtree(path)
    found = both(root)
    assert any(line.startswith("INCOMPLETE: 4 of") for line in found.caption)


@pytest.mark.slow
def test_other_devices_versions_and_code_are_told_not_refused(root: Path):
    def elsewhere(record: dict[str, Any]) -> None:
        origin = record["provenance"]
        origin["system"].update(platform="gpu", device_kind="Some GPU", device_count=1)
        origin["packages"]["jax"] = "9.9.9"
        origin.update(git_commit="a" * 40, git_dirty=False)

    forge.change_all(root / "results/quick", elsewhere)
    again(root, schedule={**fake.SUITE["schedule"], "topology_interval": 400})
    said = next(line for line in both(root).caption if line.startswith("The folders differ in"))
    for text in ("device (mine: ", "quick: 1 x Some GPU", "jax 9.9.9", "commit aaaaaaaaaa"):
        assert text in said
    assert "schedule.topology_interval (mine: 400; quick: 200)" in said


@pytest.mark.slow
def test_tables_are_written_beside_the_sources_and_never_into_them(root: Path):
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    before = content()
    out = root / "together"
    both(root, out)
    made = {path: data for path, data in content().items() if out not in path.parents}
    assert made == before
    names = {path.name for path in out.iterdir()}
    assert names == {"table.md", "table.csv", "table.tex", "reproduce.md", "comparison.json"}
    first = {path: path.read_bytes() for path in out.iterdir()}
    both(root, out)  # its own folder is its to renew, with the same bytes
    assert {path: path.read_bytes() for path in out.iterdir()} == first
    lines = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert {line["arm"] for line in lines} >= {"my_method", "dense"}
    assert all(line["command"].startswith("sparserl bench ") for line in lines)
    for bad in (root / "results/quick", root / "results/quick/tables", root / "results"):
        with pytest.raises(UserError, match="lie within each other"):
            both(root, bad)
    (root / "thesis").mkdir()
    (root / "thesis/table.md").write_text("mine")
    with pytest.raises(UserError, match="files that no comparison made"):
        both(root, root / "thesis")


@pytest.mark.slow
def test_the_command_line(root: Path, capsys, monkeypatch):
    monkeypatch.chdir(root)
    assert cli.run(["compare", "runs/mine", "results/quick", "--out", "together"]) == 0
    said = capsys.readouterr().out
    assert "my_method" in said and "Tables: together" in said and (root / "together/table.md").is_file()
    assert cli.run(["compare", "runs/mine", "results/quick", "--out", "new", "--against", "my_methd"]) == 2
    assert "did you mean 'my_method'?" in capsys.readouterr().err and not (root / "new").exists()
    assert cli.run(["compare", "runs/mine"]) == 2
    assert "at least two folders" in capsys.readouterr().err
    assert cli.run(["compare", "runs/mine", "runs"]) == 2
    assert "holds no configuration.json" in capsys.readouterr().err


@pytest.mark.slow
def test_three_folders_stand_in_one_table(root: Path):
    third = {**MINE, "arms": [{"recipe": "static"}], "environments": fake.SUITE["environments"][:1]}
    fake.finished(root / "runs/third", fake.make_plan(**third))
    found = compare.compare([root / "runs/mine", root / "results/quick", root / "runs/third"])
    assert [block.env for block in found.blocks] == ["gymnax:Pendulum-v1"]
    assert {"my_method", "static", "dense"} <= {row.arm for row in found.blocks[0].rows}
    assert found.title == "mine, quick and third compared"


def test_another_folders_dense_with_other_settings_is_no_twin_of_the_reference(root: Path):
    def other(record: dict[str, Any]) -> None:
        record["provenance"]["config"]["training"]["agent"]["learning_rate"] = 1e-2

    sources = compare._load([root / "results/quick", root / "runs/mine"])
    sources[1].records = [
        copy.deepcopy(record) for record in sources[0].records if record["result"]["role"] in ("dense", "aa")
    ]
    sources[1].name = "again"
    twins = copy.deepcopy(sources)
    compare._name_apart(twins)
    assert {record["result"]["role"] for record in twins[1].records} == {"aa"}
    for record in sources[1].records:
        other(record)
    compare._name_apart(sources)
    assert {record["result"]["role"] for record in sources[1].records} == {"method"}


def test_what_a_folder_lacks_is_told_of_it_though_another_has_runs_of_these_names(root: Path):
    shutil.rmtree(root / "runs/mine")
    fake.finished(
        root / "runs/mine",
        fake.make_plan(**{**BASE, "seeds_from": 50, "arms": [*BASE["arms"], *MINE["arms"]]}),
    )
    for run in (root / "runs/mine/records").glob("*/rlx2-*"):
        shutil.rmtree(run)
    (said,) = [line for line in both(root).caption if line.startswith("INCOMPLETE")]
    assert "16 of " in said and " runs of mine have no record yet (" in said and "rlx2 (8 runs)" in said


def test_the_page_of_a_comparison_sends_to_the_folders_of_its_rows(root: Path):
    both(root, root / "together")
    page = (root / "together/reproduce.md").read_text()
    assert "The rows are of several folders" in page and "First copy the folder of this page" not in page
