"""What cells of a table say, and which rows are pooled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sparserl_jax.bench import columns, statistics, summary
from tests.bench import fake


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.03009, "-0.0301"),
        (-0.03, "-0.030"),
        (-0.02996, "-0.030"),
        (-0.0305, "-0.0305"),
        (-0.031, "-0.031"),
        (-0.03000001, "-0.03000001"),
        (0.0, "+0.000"),
        (0.9876, "+0.988"),
    ],
)
def test_a_bound_is_printed_on_its_own_side_of_the_margin(value: float, text: str):
    assert columns.delta(value) == text
    assert statistics.within(float(text)) == statistics.within(value)


def test_rows_are_pooled_only_beside_dense_on_all_environments(tmp_path: Path):
    """One run of dense is missing on one of two environments."""
    arms = [{"recipe": "dense"}, {"recipe": "placebo", "sparsities": [0.95]}, {"recipe": "rlx2"}]
    quality = {"dense": 1.0, "placebo": 0.1}
    fake.finished(tmp_path / "x", fake.make_plan(arms=arms, sparsities=[0.6]), quality=quality)
    whole = summary.summarise(tmp_path / "x")
    assert whole.pooled is not None
    dense = next(run for row in whole.blocks[1].rows if row.role == "dense" for run in row.runs)
    shutil.rmtree(tmp_path / "x/records" / dense)
    found = summary.summarise(tmp_path / "x")
    assert [block.reason for block in found.blocks] == [None, None] and found.pooled is None
