"""Methods that are swept by a coefficient: it is never taken for a sparsity, in names, tables, plots or opponents."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from sparserl_jax.bench import check, figures, remarks, single, summary, tables, verdicts
from sparserl_jax.bench import plots as plotting
from sparserl_jax.bench import rows as rows_of
from sparserl_jax.errors import UserError
from tests.bench import fake

ARMS = [
    {"recipe": "dense"},
    {"recipe": "dense", "name": "dense_aa", "role": "aa", "seeds_from": 100},
    {"recipe": "placebo", "sparsities": [0.9]},
    {"recipe": "tiny", "sparsities": [0.8]},
    {"recipe": "gradual", "sparsities": [0.8]},
    {"recipe": "l0", "sparsities": [0.8, 0.0004, 0.3]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coefficients") / "x"
    plan = fake.make_plan(arms=ARMS, seeds=5, sparsities=[0.8])
    fake.finished(folder, plan, quality={"dense": 0.98, "placebo": 0.3, "tiny": 0.9})
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> summary.Summary:
    return summary.summarise(folder)


def test_records_are_named_by_the_coefficient_however_small(folder):
    names = {path.name.partition("-seed")[0] for path in folder.glob("records/*/l0-*")}
    assert names == {"l0-c0.8", "l0-c0.0004", "l0-c0.3"}
    assert check.check(folder) == []


def test_a_narrow_network_of_that_sparsity_is_no_opponent(found):
    rows = found.blocks[0].rows
    by_name = {(row.arm, row.sparsity): row for row in rows}
    assert verdicts.opponent(by_name["gradual", 0.8], rows) is by_name["tiny", 0.8]
    assert verdicts.opponent(by_name["l0", 0.8], rows) is None
    assert by_name["l0", 0.8].tiny_comparison is None
    # The stand-in keeps all weights whatever the coefficient.
    assert "l0 0 (coefficient " in (remarks.largest_matched(found.blocks[0]) or "")


def test_the_table_of_values_has_the_sparsity_that_came_out_and_pooled_rows_the_mean(found):
    lines = list(csv.DictReader(io.StringIO(tables.comma_separated(found))))
    for line in lines:
        assert bool(line["realised_sparsity"]) == (line["method"] == "l0")
    assert found.pooled is not None
    per_env = [
        row.outcome for block in found.blocks for row in block.rows if (row.arm, row.sparsity) == ("l0", 0.3)
    ]
    (pooled,) = [row for row in found.pooled.rows if (row.arm, row.sparsity) == ("l0", 0.3)]
    assert len(per_env) > 1 and pooled.outcome == pytest.approx(sum(per_env) / len(per_env))


def test_curves_have_panels_of_their_own(folder, found):
    panels = figures.panels_of(found.blocks[0])
    assert [panel.title for panel in panels] == [
        "sparsity 0.8",
        "coefficient 0.0004",
        "coefficient 0.3",
        "coefficient 0.8",
    ]
    assert [panel.end for panel in panels[:2]] == ["-s0800", "-c0.0004"]
    arms = [row.arm for row in panels[0].rows(found.blocks[0])]
    assert arms == ["dense", "placebo", "tiny", "gradual"]
    assert [path for path in plotting.write(folder, found) if path.stem == "learning_curves"]
    assert {row.arm for row in panels[2].rows(found.blocks[0])} == {"dense", "placebo", "l0"}


def test_a_suite_s_or_a_default_sparsity_is_no_coefficient():
    with pytest.raises(
        UserError, match="arm 'l1' is swept by a coefficient, not by a sparsity: give the arm its own"
    ):
        fake.make_plan(arms=[*ARMS[:3], {"recipe": "l1"}], sparsities=[0.8])
    with pytest.raises(UserError, match="method 'l0' is swept by a coefficient.* has no default: give one"):
        single.suite_of("gymnax:Pendulum-v1", method="l0", recipe="rigl")
    assert single.suite_of("gymnax:Pendulum-v1", recipe="rigl").arms[0].sparsities == (0.9,)
    titled = single.suite_of("gymnax:Pendulum-v1", method="l0", recipe="rigl", sparsity=30.0)
    assert "at coefficient 30 on" in titled.title


def test_what_ends_denser_than_asked_shows_what_came_out_and_has_no_opponent_of_that_size(tmp_path):
    plan = fake.make_plan(arms=[*ARMS[:5], {"recipe": "eau_like"}], seeds=5, sparsities=[0.8])
    fake.finished(tmp_path / "x", plan, quality={"dense": 0.98, "placebo": 0.3, "tiny": 0.9})
    block = summary.summarise(tmp_path / "x").blocks[0]
    by_arm = {row.arm: row for row in block.rows}
    # eau_like promises at most what it is asked for, and the stand-in lives up to that bound: with nothing removed.
    loose, kept = by_arm["eau_like"], by_arm["gradual"]
    assert loose.short == loose.came_out < 0.8 - rows_of.SHORT
    assert loose.level_text == f"0.8 ({loose.short:.3g})" and loose.tiny_comparison is None
    assert f"eau_like {loose.short:.3g} (asked for 0.8)" in (remarks.largest_matched(block) or "")
    assert kept.short is None and kept.level_text == "0.8" and kept.tiny_comparison is not None
