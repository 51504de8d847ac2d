"""`bench --only`: whole programs, the same folder and hash, and honest words about what runs along."""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path

import pytest
import tyro

from sparserl_jax import cli
from sparserl_jax.bench import check, only, records, reproduce, single, summary, tables
from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import run as runs
from sparserl_jax.envs.make import BUILDERS
from sparserl_jax.errors import UserError
from tests.bench import fake

PENDULUM = "gymnax:Pendulum-v1"
SMALL = {
    "seeds": 2,
    "sparsities": [0.6, 0.8],
    "arms": [{"recipe": "dense"}, {"recipe": "rigl"}, {"recipe": "rlx2"}],
}


def names(plan: plans.Plan, *texts: str) -> list[str]:
    return [program.name for program in only.select(plan, texts).programs]


def test_whole_programs_are_selected_by_row_arm_or_environment():
    plan = fake.make_plan(**SMALL)
    assert names(plan, f"{PENDULUM}/rlx2@0.8") == ["gymnax-Pendulum-v1-n3"]
    assert names(plan, "gymnax-Pendulum-v1/rigl") == ["gymnax-Pendulum-v1-n1"]
    assert names(plan, "rlx2") == ["gymnax-Pendulum-v1-n3", "brax-inverted_pendulum-backend-spring-n3"]
    assert names(plan, "brax:inverted_pendulum/dense") == ["brax-inverted_pendulum-backend-spring-n1"]
    assert len(names(plan, "rlx2", "dense@0")) == 4


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rlx2@0.8@0.9", "write ENV/ARM@SPARSITY"),
        ("rlx2@..", "write ENV/ARM@SPARSITY"),
        ("", "write ENV/ARM@SPARSITY"),
        ("rlx", "did you mean 'rlx2'?"),
        ("gymnax:Pendulum-v2/rlx2", "did you mean 'gymnax:Pendulum-v1'?"),
        ("rlx2@0.7", "has no sparsity 0.7 in suite 'mini'; it has 0.6, 0.8."),
    ],
)
def test_a_mistake_is_told_in_one_sentence(text, sentence):
    with pytest.raises(UserError) as error:
        only.select(fake.make_plan(**SMALL), [text])
    assert sentence in str(error.value) and str(error.value).startswith(f"--only {text}: ")


def test_a_short_name_that_two_environments_share_is_none():
    full = [f"gymnasium:Hopper-v5#{label}" for label in ("medium", "expert")]
    places = [
        only.Place(name, plans.slug(name), "rigl", 0.8) for name in (*full, "brax:hopper?backend=mjx#a")
    ]
    assert only.parse(f"{full[1]}/rigl@0.8", places, "mini").env == full[1]
    assert only.parse("gymnasium-Hopper-v5-medium/rigl", places, "mini").env == full[0]
    assert only.parse("brax:hopper/rigl", places, "mini").env == "brax:hopper?backend=mjx#a"
    with pytest.raises(UserError, match="unknown environment of the suite 'gymnasium:Hopper-v5'"):
        only.parse("gymnasium:Hopper-v5/rigl", places, "mini")


def test_the_folder_stays_the_suites_and_the_numbers_those_of_the_whole(tmp_path: Path):
    plan = fake.make_plan(**SMALL)
    fake.finished(tmp_path / "whole", plan)
    chosen = only.select(plan, ["gymnax-Pendulum-v1/rlx2@0.8"])
    assert runs.folder_of(chosen) == runs.folder_of(plan)
    fake.finished(tmp_path / "part", chosen)
    part, whole = (tmp_path / name / records.CONFIGURATION for name in ("part", "whole"))
    assert part.read_bytes() == whole.read_bytes()
    found = records.load_all(tmp_path / "part")[1]
    # rlx2 at 0.6 was not asked for and runs along, because it shares the program.
    assert sorted({record["result"]["sparsity"] for record in found}) == [0.6, 0.8] and len(found) == 4
    for record in found:
        whole = records.read(tmp_path / "whole/records" / record["run_id"])
        assert whole["result"] == record["result"]
    text = tables.markdown(summary.summarise(tmp_path / "part"))
    assert "INCOMPLETE: 16 of 20 runs" in text
    assert len(check.check(tmp_path / "part")) == 16 + 1  # missing runs, and no dense arm yet
    fake.finished(tmp_path / "part", plan)
    assert check.check(tmp_path / "part") == []


def test_it_says_what_runs_along():
    plan = fake.make_plan(**SMALL)
    texts = [f"{PENDULUM}/rlx2@0.8"]
    said = " ".join(only.lines(only.select(plan, texts), texts))
    assert "1 programs with 4 of the suite's 20 runs" in said
    assert f"2 runs (rlx2@0.6 on {PENDULUM})" in said


def test_the_command_line_runs_only_the_selected_programs(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = {}

    def make(suite):
        made["plan"] = fake.make_plan(suite)
        return made["plan"]

    real = runs.run

    def run(plan, folder, console, **options):
        made["execute"] = fake.Execute(plan)
        return real(plan, folder, console, execute=made["execute"], **options)

    monkeypatch.setattr(plans, "make", make)
    monkeypatch.setattr(runs, "run", run)
    assert cli.run(["bench", "smoke", "--only", "rlx2"]) == 0
    assert {name.rpartition("-")[2] for name in made["execute"].programs} == {"n3"}
    said = capsys.readouterr().out
    assert "--only rlx2:" in said and "INCOMPLETE" in said
    folder = runs.folder_of(made["plan"])
    line = next(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    assert (
        line["command"].startswith("sparserl bench suite.toml --only ") and (folder / "suite.toml").is_file()
    )
    assert cli.run(["bench", "smoke", "--only", "rlx"]) == 2
    assert cli.run(["bench", "smoke", "--only", "rlx", "--only", "rlx2"]) == 2  # the first is not forgotten
    assert "did you mean 'rlx2'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "bench smoke --only",
        "profile smoke --only",
        "bench smoke --only rlx2 --only",
        "decompose {suite} --only",
    ],
)
def test_only_without_a_row_does_not_mean_everything(words, tmp_path: Path, monkeypatch, capsys):
    """As where a shell's variable is empty."""
    monkeypatch.chdir(tmp_path)
    fake.finished(tmp_path / "x", fake.make_plan(**fake.SMALL))
    monkeypatch.setattr(runs, "run", None)
    assert cli.run(words.format(suite="x").split()) == 2
    assert capsys.readouterr().err.strip() == (
        "error: --only names no row; write ENV/ARM@SPARSITY, ARM@SPARSITY or ARM behind it."
    )


def test_every_row_of_a_table_has_a_command_that_selects_exactly_its_programs(tmp_path: Path):
    plan = fake.finished(tmp_path / "x", fake.make_plan(**SMALL))
    found = summary.summarise(tmp_path / "x")
    assert found.pooled is None or found.pooled.rows
    for block in found.blocks:
        for row in block.rows:
            words = shlex.split(row.command)
            assert words[:4] == ["sparserl", "bench", "suite.toml", "--only"]
            chosen = only.select(plan, words[4:])
            assert sorted(program.name for program in chosen.programs) == sorted(row.programs)
            places = [only.place(p) for p in plan.runs]
            wanted = only.parse(words[4], places, plan.suite.name)
            mine = [p.folder.as_posix() for p in plan.runs if wanted.meets(only.place(p))]
            assert mine == list(row.runs)
    page = reproduce.page(found)
    assert "whole Programs" in page
    assert "`gymnax-Pendulum-v1/rlx2-s0800-seed{000,001}`" in page


@pytest.mark.slow
def test_a_pooled_row_names_the_rows_of_all_its_environments(tmp_path: Path):
    plan = fake.finished(tmp_path / "x")
    found = summary.summarise(tmp_path / "x")
    assert found.pooled is not None
    row = next(row for row in found.pooled.rows if row.arm == "rlx2")
    words = shlex.split(row.command)[4:]
    assert len(words) == 2 and len(only.select(plan, words).programs) == 2
    assert len(row.runs) == 2 * len(row.seeds)


def test_a_single_training_is_made_again_by_its_own_command(tmp_path: Path):
    suite = single.suite_of(
        PENDULUM,
        recipe="set",
        sparsity=0.8,
        critic_sparsity=0.6,
        seeds=2,
        first_seed=3,
        steps=4000,
        hidden=(8, 8),
    )
    fake.finished(tmp_path / "x", fake.make_plan(suite))
    row = summary.summarise(tmp_path / "x").blocks[0].rows[0]
    settings = dict(vars(tyro.cli(cli.Train, args=shlex.split(row.command)[2:])))
    again = single.suite_of(
        settings.pop("env"), **{k: settings[k] for k in settings if k not in ("out", "time_budget")}
    )
    assert again.hash() == suite.hash()


def test_an_environment_object_has_no_command():
    settings = {"suite": {"name": "train", "arms": []}}
    assert reproduce.command(settings, "MyEnvironment", "rlx2", 0.9) == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"recipe": "set"}, ["--recipe", "set"]),
        (
            {"recipe": "tests.reference.toy_methods:TICKET"},
            ["--recipe", "tests.reference.toy_methods:TICKET"],
        ),
        ({"recipe": "rlx2_paper", "method": "set"}, ["--recipe", "rlx2_paper", "--method", "set"]),
        ({"recipe": "dense_rvl", "method": "set"}, ["--recipe", "dense_rvl", "--method", "set"]),
        ({"agent": "bc", "recipe": "set", "dataset": "own.npz"}, ["--recipe", "set"]),
        (
            {"recipe": "rlx2", "method": "tests.reference.toy_methods:TICKET"},
            ["--recipe", "rlx2", "--method", "tests.reference.toy_methods:TICKET"],
        ),
    ],
)
def test_the_command_of_a_single_training_names_its_recipe_as_it_was_named(given, words):
    suite = single.suite_of("gymnax:Pendulum-v1", sparsity=0.6, steps=2000, **given)
    settings = {"suite": suite.plain()}
    text = reproduce.command(settings, "gymnax:Pendulum-v1", "any", 0.6)
    assert " ".join([given.get("agent", "td3"), *words, "--sparsity"]) in text
    options = dict(vars(tyro.cli(cli.Train, args=shlex.split(text)[2:])))
    for name in ("env", "out", "time_budget"):
        options.pop(name)
    assert single.suite_of("gymnax:Pendulum-v1", **options).hash() == suite.hash()


def test_a_recipe_object_has_no_command_and_networks_to_start_from_are_named():
    suite = single.suite_of("gymnax:Pendulum-v1", recipe="set", sparsity=0.6, steps=2000)
    settings = {"suite": suite.plain()}
    settings["suite"]["start"] = {"source": "env/set-s0600-seed000"}
    text = reproduce.command(settings, "gymnax:Pendulum-v1", "set", 0.6)
    assert text.endswith(" --from FOLDER/records/env/set-s0600-seed000")
    settings["suite"]["arms"][0]["recipe"]["name"] = "mine"
    assert reproduce.command(settings, "gymnax:Pendulum-v1", "mine", 0.6) == ""


def test_the_page_says_where_a_module_of_the_users_own_is_looked_for(tmp_path: Path):
    assert {*BUILDERS, "gymnasium", "mario"} == set(reproduce.SHIPPED)
    for method, told in (("set", False), ("tests.reference.toy_methods:TICKET", True)):
        suite = single.suite_of(PENDULUM, recipe=method, sparsity=0.8, seeds=1, steps=4000, hidden=(8, 8))
        fake.finished(tmp_path / str(told), fake.make_plan(suite))
        page = reproduce.page(summary.summarise(tmp_path / str(told)))
        assert ("put the module, as it was when the records were made, into the folder where" in page) == told
