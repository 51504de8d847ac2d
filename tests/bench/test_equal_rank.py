"""Dense and sparse rows of a suite at equal ranks: choices on selection episodes, scores on others, bytes, chances."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sparserl_jax import cli
from sparserl_jax.bench import (
    decompose,
    equal_rank,
    equal_rank_page,
    evaluate,
    inspect,
    paths,
    records,
    saved,
    summary,
)
from sparserl_jax.bench.saved import Saved
from sparserl_jax.deploy import low_rank
from sparserl_jax.errors import UserError
from tests.bench import trained

ENV = "gymnax:Pendulum-v1"
FOLDER = "gymnax-Pendulum-v1"
ARMS = [
    {"recipe": "dense"},
    {"recipe": "dense", "name": "dense_aa", "role": "aa", "seeds_from": 100},
    {"recipe": "static"},
]


def settings(rule: str = "z=0.05", episodes: int = 6, selection: int = 4) -> equal_rank.Settings:
    return equal_rank.Settings(low_rank.rule(rule), 3, episodes, 7, selection)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a dense and a static policy, and of the dense one again."""
    return trained.train_suite(tmp_path_factory.mktemp("equal") / "small", ARMS)


@pytest.fixture(scope="module")
def section(suite: Path) -> equal_rank.Section:
    (found,) = equal_rank.compare(suite, settings())
    return found


def sparse(section: equal_rank.Section) -> list[equal_rank.Line]:
    """The lines of all rows but the A/A one."""
    return [line for line in section.lines if line.row.role != "aa"]


def z(returns: np.ndarray) -> float:
    return (returns.mean(dtype=np.float64) + 1221.7) / (1221.7 - 150.0)


@pytest.mark.long
def test_both_rows_are_played_undecomposed_and_at_the_choice_of_either(
    suite: Path, section: equal_rank.Section
):
    assert {line.row.arm for line in section.lines} == {"dense_aa", "static"}
    undecomposed, *others = sparse(section)
    assert undecomposed.ranks is None and (undecomposed.saved, undecomposed.chosen_for) == (0.0, ())
    assert sorted(label for line in others for label in line.chosen_for) == ["dense", "static@0.5"]
    assert len(others) == len({line.ranks for line in others})
    # The same fresh episodes that `evaluate --seed 7` plays, run by run.
    for arm, scores in (("dense-s0000", undecomposed.dense), ("static-s0500", undecomposed.sparse)):
        for seed, score in enumerate(scores):
            run = saved.find(suite / "records" / FOLDER / f"{arm}-seed{seed:03d}")
            assert z(evaluate.fresh(run, episodes=6, seed=7)) == pytest.approx(score, abs=1e-3)
    # At ranks: what each policy earns by itself at these ranks.
    runs = [saved.find(suite / "records" / FOLDER / f"static-s0500-seed{seed:03d}") for seed in (0, 1)]
    for line in others:
        alone = decompose.at_equal_rank(runs, [line.ranks], episodes=6, seed=7)
        assert [z(one.returns) for one in alone[1::2]] == pytest.approx(line.sparse, abs=1e-3)
        layers = inspect.tables(runs[0])[0]["actor"]
        kept = sum(part.weights for part in alone[1].decomposition.parts)
        assert line.saved == pytest.approx(1 - kept / layers.weights)


def test_a_row_of_one_seed_chooses_ranks_as_its_policy_does_alone(suite: Path, tmp_path: Path):
    one = tmp_path / "one"
    shutil.copytree(suite, one)
    for run in (one / "records" / FOLDER).glob("*-seed?01"):
        shutil.rmtree(run)
    (found,) = equal_rank.compare(one, settings("z=0.01"), ["static@0.5"])
    for arm, label in (("dense-s0000", "dense"), ("static-s0500", "static@0.5")):
        run = saved.find(suite / "records" / FOLDER / f"{arm}-seed000")
        layers, _ = decompose.actor(run)
        alone = decompose.select(run, layers, 0.01, 3, 4, 7)
        (line,) = (line for line in sparse(found) if label in line.chosen_for)
        assert line.ranks == alone.chosen.ranks
    text = equal_rank_page.markdown(["# x"], [found], settings(), "Made here.")
    assert "nan" not in text and "| static@0.5 | 0.5 | undecomposed |" in text
    # One seed: values without intervals.
    row = next(line for line in text.splitlines() if line.startswith("| static@0.5 | 0.5 | undecomposed"))
    assert "[" not in row


def test_bytes_are_those_of_every_form_of_either_row(suite: Path, section: equal_rank.Section):
    # 3-8-8-1: 96 weights and 17 biases; static at 0.5 keeps 48 of them.
    for one in section.stored:
        assert one.bytes["dense"] == 4 * (96 + 17)
        layers = ((3, 8), (8, 8), (8, 1))
        factors = sum(min(m * n, rank * (m + n + 1)) for (m, n), rank in zip(layers, one.ranks, strict=True))
        assert one.bytes["three factors"] == 4 * (factors + 17)
        run = (
            suite
            / "records"
            / FOLDER
            / {"dense": "dense-s0000-seed000", "dense_aa": "dense_aa-s0000-seed100"}.get(
                one.row.arm, "static-s0500-seed000"
            )
        )
        masks = saved.find(run).policy.masks["mlp"]
        nnz = [int(masks[layer]["kernel"].sum()) for layer in ("hidden_0", "hidden_1", "output")]
        marked = sum(size / 8 for size, kept in zip((24, 64, 8), nnz, strict=True) if kept < size)
        assert one.bytes["bitmask"] == 4 * (sum(nnz) + 17) + marked
        assert sum(nnz) == (96 if one.row.method == "dense" else pytest.approx(48, abs=1))
    arms = [one.row.arm for one in section.stored]
    assert arms[0] == "dense" and set(arms[1:]) == {"dense_aa", "static"}


def line(section: equal_rank.Section, dense: list[float], sparse: list[float]) -> equal_rank.Line:
    return section.lines[0]._replace(dense=np.array(dense), sparse=np.array(sparse))


def test_statistics_are_over_runs_with_the_sparse_row_first(section: equal_rank.Section):
    found = equal_rank_page.judged(line(section, [0.0, 0.2, 0.4], [0.1, 0.2, 0.3]))
    assert float(found.improvement.value) == pytest.approx((1 + 1.5 + 2) / 9)
    assert found.comparison.delta == pytest.approx(0.0) and found.comparison.verdict == "undecided"
    better = equal_rank_page.judged(line(section, [0.5] * 4, [0.9] * 4))
    assert tuple(map(float, better.improvement)) == (1.0, 1.0, 1.0)
    assert tuple(map(float, better.sparse)) == pytest.approx((0.9, 0.9, 0.9))
    assert better.comparison.verdict == "matched" and better.comparison.delta == pytest.approx(0.4)
    worse = equal_rank_page.judged(line(section, [0.9] * 4, [0.5] * 4))
    assert worse.comparison.verdict == "worse" and float(worse.improvement.upper) == 0.0
    # The same line gives the same interval, whatever else is on the page.
    first = line(section, [0.0, 0.2, 0.4], [0.1, 0.2, 0.3])
    assert equal_rank_page.judged(first).dense == found.dense


def test_a_diverged_run_stays_in_at_the_random_level(suite: Path, monkeypatch):
    lost = property(lambda run: run.name.endswith("static-s0500-seed001"))
    monkeypatch.setattr(Saved, "diverged", lost)
    (found,) = equal_rank.compare(suite, settings("rank=2,4,1"))
    assert [line.ranks for line in sparse(found)] == [None, (2, 4, 1)]
    for one in sparse(found):
        assert one.sparse[1] == 0.0 and one.sparse[0] != 0.0 and (one.dense != 0.0).all()
        assert one.chosen_for == ()
    page = equal_rank_page.markdown(["# x"], [found], settings("rank=2,4,1"), "Made here.")
    assert "Ranks are given (rank=2,4,1)" in page and page.endswith("\nMade here.\n")


def test_the_command_prints_the_page_and_writes_it_beside_the_table(suite: Path, tmp_path: Path, capsys):
    mine = tmp_path / "mine"
    shutil.copytree(suite, mine)
    words = ["decompose", str(mine), "--episodes", "6", "--selection-episodes", "4", "--seed", "7"]
    assert cli.run([*words, "--only", "static"]) == 0
    said = capsys.readouterr().out
    text = (mine / "low_rank.md").read_text()
    assert text.strip() in said and f"Written: {mine / 'low_rank.csv'}" in said
    assert "**Not learned at this budget: dense reached" in text
    lines = list(csv.DictReader(io.StringIO((mine / "low_rank.csv").read_text())))
    own = next(one for one in lines if "static@0.5" in one["chosen_for"].split())
    assert equal_rank_page.savings(mine) == {(ENV, "static", 0.5): float(own["saved"])}
    assert equal_rank_page.savings(tmp_path) == {}
    assert own["verdict"] == "no verdict" and float(own["bytes_three_factors"]) > 0
    assert text.splitlines()[-1].startswith(
        "Made by `sparserl decompose mine --episodes 6 --seed 7 --selection-episodes 4 --only static`: "
    )
    # With and without --only there is the A/A row.
    assert "| dense_aa | 0 | undecomposed |" in text
    capsys.readouterr()
    assert cli.run(words) == 2
    assert "has low_rank.md and low_rank.csv already" in capsys.readouterr().err
    assert (mine / "low_rank.md").read_text() == text
    for changed in (["--out", str(tmp_path / "other")], ["--replace"]):
        assert cli.run([*words, *changed]) == 0
    again = (tmp_path / "other" / "low_rank.md").read_text()
    assert again.splitlines()[:-1] == text.splitlines()[:-1]
    assert (mine / "low_rank.md").read_text() == again
    assert "--only" not in again


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "--rule energy=0.9",
            "the rule 'energy=0.9' gives every policy ranks of its own: give z, fraction or rank",
        ),
        ("--episodes 0", "episodes = 0"),
        ("--only static@0.7", "'static' has no sparsity 0.7 in suite 'small'; it has 0.5"),
        ("--only dense", "has no sparse rows to compare with dense"),
        ("--rule rank=3,9,1", "rank 9 of layer hidden_1 (8, 8) is not between 1 and its full rank 8"),
    ],
)
def test_a_mistake_is_told_in_one_sentence_before_anything_is_played(
    arguments, sentence, suite: Path, capsys, monkeypatch
):
    monkeypatch.setattr(equal_rank, "_played", None)
    assert cli.run(["decompose", str(suite), *arguments.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and sentence in error[0]


def test_what_cannot_be_compared_is_refused(suite: Path, tmp_path: Path, capsys):
    mine = tmp_path / "mine"
    shutil.copytree(suite, mine)
    settled = records.read_configuration(mine)
    bare = {
        **settled,
        "suite": {**settled["suite"], "tasks": [{**settled["suite"]["tasks"][0], "random": None}]},
    }
    (mine / records.CONFIGURATION).write_text(json.dumps(bare))
    with pytest.raises(UserError, match="declares no levels of gymnax:Pendulum-v1, so z has no ends"):
        equal_rank.compare(mine, settings())
    (mine / records.CONFIGURATION).write_text(json.dumps(settled))
    for run in (mine / "records" / FOLDER).glob("dense*"):
        shutil.rmtree(run)
    with pytest.raises(UserError, match="has no dense row on gymnax:Pendulum-v1"):
        equal_rank.compare(mine, settings())
    run = mine / "records" / FOLDER / "static-s0500-seed000"
    assert cli.run(["decompose", str(run), "--only", "static"]) == 2
    assert "--only chooses rows of a suite" in capsys.readouterr().err
    assert equal_rank.is_suite(mine) and not equal_rank.is_suite(run)
    root = paths.checkout()
    assert root is not None
    with pytest.raises(
        UserError,
        match="'tiny@0.8' has another algorithm than dense, other settings of it, or networks of another width",
    ):
        equal_rank.compare(root / "results" / "quick", settings(), ["gymnax:Pendulum-v1/tiny@0.8"])


@pytest.mark.parametrize(
    "change", [{"agent": "sac"}, {"dense_costs": {"actor_parameters_dense": 7}}, {"width": 2}]
)
def test_another_algorithm_is_not_played_through_denses_policy(suite: Path, change):
    found = summary.summarise(suite)
    block = found.blocks[0]
    rows = tuple(dataclasses.replace(row, **change) if row.method == "static" else row for row in block.rows)
    odd = dataclasses.replace(block, rows=rows)
    assert {row.method for row in equal_rank._wanted(found, block, [])} >= {"static"}
    assert "static" not in {row.method for row in equal_rank._wanted(found, odd, [])}
    with pytest.raises(
        UserError,
        match="has another algorithm than dense, other settings of it, or networks of another width",
    ):
        equal_rank._wanted(found, odd, ["static"])
