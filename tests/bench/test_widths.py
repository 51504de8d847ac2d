"""Arms with networks of a width of their own: planned, recorded, checked, and compared with dense of either width."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from sparserl_jax.bench import check, plots, statistics, suites, summary, tables, tune, verdicts
from sparserl_jax.bench import plan as plans
from sparserl_jax.errors import UserError
from sparserl_jax.training.program import group
from tests.bench import fake, forge

WIDE = {"recipe": "dense", "name": "dense_3", "width": 3}
ARMS = [
    {"recipe": "dense"},
    {"recipe": "dense", "name": "dense_aa", "role": "aa", "seeds_from": 100},
    {"recipe": "placebo", "sparsities": [0.9]},
    WIDE,
    {"recipe": "tiny"},
    {"recipe": "gradual"},
    {"recipe": "gradual", "name": "gradual_3", "width": 3},
]
CHANGES: dict[str, Any] = {
    "sparsities": [0.8],
    "seeds": 5,
    "environments": fake.SUITE["environments"][:1],
    "arms": ARMS,
}
HEADS = ("width", "delta to dense of its width [95 % CI]")


@pytest.fixture(scope="module")
def plan() -> plans.Plan:
    return fake.make_plan(**CHANGES)


@pytest.fixture(scope="module")
def folder(plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("widths") / "x"
    fake.finished(folder, plan, quality={"dense": 0.98, "placebo": 0.3, "tiny": 0.9, "gradual": 0.95})
    return folder


def test_all_networks_of_an_arm_are_wider_and_programs_of_their_own(plan):
    runs = {planned.arm.name: planned.run for planned in plan.runs}
    assert runs["dense"].width is None and runs["dense"].training.agent.hidden == (16, 16)
    assert runs["gradual_3"].training.agent.hidden == (48, 48)
    assert [layer.shape for layer in plan.layers_of(runs["gradual_3"])["critic"]] == [
        (4, 48),
        (48, 48),
        (48, 1),
    ]
    wide, usual = (plan.promise(runs[name])["actor"].counts for name in ("gradual_3", "gradual"))
    assert sum(wide) == pytest.approx(0.2 * (3 * 48 + 48 * 48 + 48), abs=3) and sum(usual) < sum(wide)
    assert (
        runs["gradual_3"].key_name != runs["gradual"].key_name
    )  # independent of each other, like arms of two recipes
    programs = group([planned.run for planned in plan.runs])
    kinds = [{(run.recipe.family, run.width) for run in program.runs} for program in programs]
    assert [len(kind) for kind in kinds] == [1] * 4 and len(set.union(*kinds)) == 4


def test_suites_without_widths_say_nothing_of_them():
    text = str(suites.parse(fake.table(), "mini.toml").plain())
    assert "width" not in text
    plain = suites.parse(fake.table(**CHANGES), "mini.toml").plain()
    assert [arm.get("width") for arm in plain["arms"]] == [None] * 3 + [3, None, None, 3]


def test_rows_are_compared_with_dense_of_either_width(folder: Path):
    found = summary.summarise(folder)
    rows = {row.arm: row for row in found.blocks[0].rows}
    assert {name: row.width for name, row in rows.items() if row.width != 1} == {"dense_3": 3, "gradual_3": 3}

    def iqm(name: str) -> float:
        return float(statistics.iqm(rows[name].z[:, None]))

    assert rows["gradual_3"].comparison.delta == pytest.approx(iqm("gradual_3") - iqm("dense"))
    assert rows["gradual_3"].peer_comparison.delta == pytest.approx(iqm("gradual_3") - iqm("dense_3"))
    assert rows["gradual"].peer_comparison.delta == pytest.approx(rows["gradual"].comparison.delta)
    assert iqm("dense") != iqm("dense_3") and rows["dense_3"].comparison is not None
    assert all(rows[name].peer_comparison is None for name in ("dense", "dense_aa", "dense_3"))
    # A narrow network of the same sparsity is no opponent of a wider one.
    assert rows["gradual"].tiny == "tiny" and rows["gradual_3"].tiny is None
    assert verdicts.reference(found.blocks[0].rows).arm == "dense" and found.blocks[0].reason is None


def test_the_table_says_which_width_and_which_dense_arm(folder: Path, tmp_path: Path):
    found = summary.summarise(folder)
    text = tables.markdown(found)
    head, line = (
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in text.splitlines()
        if row.startswith(("| method", "| gradual_3"))
    )
    shown = dict(zip(head, line, strict=True))
    assert set(HEADS) <= set(head) and shown["width"] == "3"
    assert shown[HEADS[1]].startswith(f"{float(found.blocks[0].rows[-1].peer_comparison.delta):+.3f} [")
    assert "width 3 is 48x48: dense_3, gradual_3. Delta to dense, P(beats dense) and verdicts compare" in text
    lines = {row["arm"]: row for row in csv.DictReader(io.StringIO(tables.comma_separated(found)))}
    assert lines["gradual_3"]["width"] == "3" and lines["dense"]["delta_dense_of_width"] == ""
    tables.screen(found, fake.quiet())
    assert "delta to dense of its width" in tables.latex(found)
    plots.write(folder, found)
    fake.finished(tmp_path / "y", fake.make_plan(**fake.SMALL))
    usual = summary.summarise(tmp_path / "y")
    assert not any(f"| {name} |" in tables.markdown(usual) for name in HEADS)
    assert "width" not in tables.comma_separated(usual)


def test_the_check_knows_the_shapes_of_wider_networks(folder: Path, tmp_path: Path):
    assert check.check(folder) == []
    run = next(name for name in forge.run_ids(folder) if "gradual_3" in name)
    before = (folder / "records" / run / "record.json").read_text()
    forge.change(folder, run, lambda record: record["provenance"]["config"].update(width=2))
    assert any("provenance.config.width is 2" in problem for problem in check.check(folder))
    (folder / "records" / run / "record.json").write_text(before)


def test_trials_of_a_wide_arm_are_as_wide():
    grid = {"seeds": 2, "seeds_from": 900, "arms": ["dense_3"], "grid": {"tau": [0.01, 0.02]}}
    made = tune.make(suites.parse(fake.table(**CHANGES, tune=grid), "mini.toml"), fake.make_plan)
    assert {run.training.agent.hidden for run in (planned.run for planned in made.runs)} == {(48, 48)}


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        ([{**WIDE, "width": 1}], "has width = 1, but a width is a whole number from 2 on"),
        ([{**WIDE, "width": 1.5}], "'width' must be"),
        (
            [{**WIDE, "name": "dense"}],
            "1 for the arm that all others are compared with and its A/A; leave it out",
        ),
        ([ARMS[0], {**ARMS[1], "width": 3}], "arm 'dense_aa' has width = 3"),
        (
            [{"recipe": "rigl"}, {"recipe": "static", "name": "x", "ticket": {"arm": "rigl"}, "width": 3}],
            "'rigl' has networks of another width; give both the same 'width'",
        ),
        ([{"recipe": "set", "width": 2}, {"recipe": "set", "name": "b", "width": 2}], "are the same runs"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(arms, sentence):
    with pytest.raises(UserError) as error:
        fake.make_plan(**{**CHANGES, "arms": arms})
    assert sentence in str(error.value) and "\n" not in str(error.value)
