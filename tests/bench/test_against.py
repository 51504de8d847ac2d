"""Rows against another arm than dense: which rows are paired, what is said of a pair, and what the commands print."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from sparserl_jax import cli
from sparserl_jax.bench import against, statistics, summary
from sparserl_jax.errors import UserError
from tests.bench import fake


@pytest.fixture(scope="module")
def row(whole: summary.Summary) -> summary.Row:
    """A row to make others of."""
    return dataclasses.replace(whole.blocks[0].rows[0], arm="x", sparsity=0.0, critic_sparsity=0.0)


def at(row: summary.Row, sparsity: float, critic: float = 0.0, **changes) -> summary.Row:
    return dataclasses.replace(row, sparsity=sparsity, critic_sparsity=critic, **changes)


def test_the_nearest_actors_come_first_then_the_nearest_critics_then_more_weights(row: summary.Row):
    def chosen(one: summary.Row, *others: summary.Row) -> tuple[float, float]:
        found = {
            (near.sparsity, near.critic_sparsity)
            for near in (against.nearest(one, o) for o in (others, others[::-1]))
        }
        assert len(found) == 1
        return found.pop()

    assert chosen(at(row, 0.9), at(row, 0.5), at(row, 0.95)) == (0.95, 0.0)
    assert chosen(at(row, 0.8), at(row, 0.7), at(row, 0.9)) == (0.7, 0.0)
    assert chosen(at(row, 0.9, 0.8), at(row, 0.9, 0.0), at(row, 0.9, 0.9)) == (0.9, 0.9)
    # A coefficient is no sparsity: what came of it counts.
    assert chosen(at(row, 100.0, outcome=0.6), at(row, 0.5), at(row, 0.99)) == (0.5, 0.0)
    assert chosen(at(row, 0.6), at(row, 100.0, outcome=0.6), at(row, 0.7)) == (100.0, 0.0)


def test_a_pair_is_compared_as_a_row_is_with_dense(row: summary.Row):
    good = at(row, 0.9, arm="good", returns=np.array([3.0, 5.0, 7.0]), z=np.array([0.3, 0.5, 0.7]))
    poor = at(row, 0.9, arm="poor", returns=np.array([1.0, 5.0, 6.0]), z=np.array([0.1, 0.5, 0.6]))
    other = at(row, 0.1, arm="good", returns=np.zeros(3), z=np.zeros(3))
    (pair,) = against.pairs(summary.Block("env", (other, good, poor), None, {}), "good")
    assert pair.row is poor and pair.other is good
    assert pair.difference == statistics.compare(poor.z[:, None], good.z[:, None])
    assert pair.difference.delta == pytest.approx(0.4 - 0.5)
    # Of nine pairs poor wins 5 > 3, 6 > 3 and 6 > 5, and ties one.
    assert float(pair.improvement.value) == pytest.approx(3.5 / 9)
    assert against.pairs(summary.Block("env", (good, poor), None, {}), "absent") == []


def test_over_all_environments_the_nearest_row_of_each_is_met(row: summary.Row):
    def of(arm: str, sparsity: float, z: list[float], **changes) -> summary.Row:
        return at(row, sparsity, sparsity, arm=arm, returns=np.array(z), z=np.array(z), **changes)

    # The same coefficient removes 0.5 on one task and 0.9 on the other: 0.7 in the mean, nearest to 0.8 on neither.
    first, second = (
        summary.Block(
            env,
            (
                of("gates", 1.0, [0.5, 0.5, 0.5], outcome=came_out),
                *(of("pruned", sparsity, [z] * 3) for sparsity, z in pruned.items()),
            ),
            None,
            {},
        )
        for env, came_out, pruned in (
            ("one", 0.5, {0.5: 0.4, 0.8: 1.0, 0.9: 1.0}),
            ("two", 0.9, {0.5: 1.0, 0.8: 1.0, 0.9: 0.7}),
        )
    )
    gates = summary.as_one([first.rows[0], second.rows[0]])
    whole = summary.Block("all", (gates,), None, {}, parts=(first, second))
    (pair,) = against.pairs(whole, "pruned")
    assert [(mine.outcome, other.sparsity) for mine, other in pair.parts] == [(0.5, 0.5), (0.9, 0.9)]
    assert pair.difference.delta == pytest.approx(0.5 - (0.4 + 0.7) / 2)
    assert float(pair.improvement.value) == pytest.approx(0.5)  # always above on the one, never on the other
    line = dict(zip(against.headings("pruned"), against.texts([pair], pooled=True)[0], strict=True))
    assert line["pruned at"] == "0.5, 0.9" and line["IQM of pruned [95 % CI]"].startswith("0.550")
    lonely = dataclasses.replace(second, rows=second.rows[:1])
    assert against.pairs(dataclasses.replace(whole, parts=(first, lonely)), "pruned") == []


def test_without_levels_there_is_a_chance_and_no_difference(row: summary.Row):
    made = [at(row, 0.9, arm=name, z=None, z_value=None) for name in ("one", "two")]
    (pair,) = against.pairs(summary.Block("env", tuple(made), None, {}), "one")
    assert pair.difference is None and float(pair.improvement.value) == 0.5
    line = dict(zip(against.headings("one"), against.texts([pair], pooled=False)[0], strict=True))
    assert line["delta to one [95 % CI]"] == "" and line["P(beats one) [95 % CI]"].startswith("0.50 [")


def test_against_dense_is_what_the_table_says(whole: summary.Summary):
    told = against.blocks(whole, "dense")
    assert [block.env for block, _ in told] == [block.env for block in (*whole.blocks, whole.pooled)]
    for block, found in told:
        assert [pair.row for pair in found] == [row for row in block.rows if row.arm != "dense"]
        for pair in found:
            assert pair.difference == pair.row.comparison and pair.improvement == pair.row.improvement


def test_the_command_prints_and_writes_nothing(miniature: Path, capsys):
    before = {path: path.read_bytes() for path in miniature.rglob("*") if path.is_file()}
    assert cli.run(["table", str(miniature), "--against", "rlx2"]) == 0
    said = capsys.readouterr().out
    assert "P(beats rlx2)" in said and "P(beats dense)" not in said and "No verdicts" in said
    assert {path: path.read_bytes() for path in miniature.rglob("*") if path.is_file()} == before
    assert cli.run(["table", str(miniature), "--against", "rlx3"]) == 2
    assert "unknown arm of mini 'rlx3': did you mean 'rlx2'?" in capsys.readouterr().err


def test_compared_folders_have_it_too(miniature: Path, tmp_path: Path, capsys):
    mine = {"recipe": "rigl", "name": "mine", "set": {"method": "set", "buffer": "dynamic"}}
    fake.finished(tmp_path / "mine", fake.make_plan(arms=[mine]))
    assert cli.run(["compare", str(tmp_path / "mine"), str(miniature), "--against", "mine"]) == 0
    said = capsys.readouterr().out
    assert "P(beats mine)" in said and "rlx2" in said


def test_a_tuning_has_no_arms_to_stand_against(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("sparserl_jax.bench.trials.is_tuning", lambda folder: True)
    assert cli.run(["table", str(tmp_path), "--against", "set"]) == 2
    assert "is a tuning, which has no arms" in capsys.readouterr().err


def test_a_narrow_screen_shows_fewer_columns_and_cuts_none(whole: summary.Summary):
    def shown(width: int) -> str:
        out = io.StringIO()
        against.screen(whole, "rlx2", Console(file=out, width=width))
        lines = out.getvalue().splitlines()
        assert "…" not in out.getvalue() and max(map(len, lines)) <= width
        return " ".join(lines[:4])

    assert "IQM of rlx2" in shown(200) and "IQM of rlx2" not in shown(80) and "P(beats" in shown(80)


def test_an_arm_that_no_table_has_is_refused(whole: summary.Summary):
    with pytest.raises(UserError, match="unknown arm of mini 'xyz'"):
        against.blocks(whole, "xyz")
