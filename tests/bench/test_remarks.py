"""What a table says of policies that nobody learned."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sparserl_jax.bench import remarks, suites, summary, tables
from sparserl_jax.bench import run as runs
from sparserl_jax.bench.rows import Row
from sparserl_jax.errors import UserError
from tests.bench import fake

KNOWN = {"best constant": -160.0, "nothing": -1500.0, "all of it": 0.0}
ENVIRONMENTS = [{**fake.SUITE["environments"][0], "known": KNOWN}]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> summary.Summary:
    plan = fake.make_plan(environments=ENVIRONMENTS, seeds=4)
    folder = tmp_path_factory.mktemp("known") / "x"
    runs.run(plan, folder, fake.quiet(), execute=fake.Execute(plan))
    return summary.summarise(folder)


def test_a_row_is_above_a_known_policy_with_its_whole_interval_or_not_at_all(found):
    (block,) = found.blocks
    line = remarks.above_known(block) or ""
    assert "all of it 0 (none)" in line
    assert [line.index(name) for name in ("nothing -1500", "best constant -160", "all of it 0")] == sorted(
        line.index(name) for name in KNOWN
    )


def test_an_interval_that_only_reaches_above_is_not_above(found):
    (block,) = found.blocks
    middle = sorted(block.rows, key=lambda row: row.value.lower)[len(block.rows) // 2]
    assert middle.value.lower < middle.value.upper
    bar = float(middle.value.lower + middle.value.upper) / 2
    line = remarks.above_known(dataclasses.replace(block, known={"bar": bar})) or ""
    named = line.split("(")[1].split(")")[0].split(", ")
    above = {
        f"{row.arm} {row.sparsity:g}" if row.sparsity else row.arm
        for row in block.rows
        if row.value.lower > bar
    }
    assert above and set(named) == above


def test_the_line_is_in_every_table_and_only_where_something_is_known(found):
    assert "Policies that nobody learned" in tables.markdown(found) and "nobody learned" in tables.latex(
        found
    )
    plain = fake.make_plan(environments=fake.SUITE["environments"][:1])
    assert "known" not in plain.suite.plain()["tasks"][0]
    assert plain.suite.hash() != fake.make_plan(environments=ENVIRONMENTS).suite.hash()


@pytest.mark.parametrize("wrong", [3, ["a"], {"a": "b"}, {"a": float("nan")}])
def test_a_mistake_is_one_sentence(wrong):
    tasks = [{**fake.SUITE["environments"][0], "known": wrong}]
    with pytest.raises(UserError, match="'known' must be a table of returns"):
        suites.parse(fake.table(environments=tasks), "mini.toml")


def row(found: summary.Summary, source: str, **changes: object) -> Row:
    """A row of the stand-in with other numbers."""
    of = next(row for row in found.blocks[0].rows if row.arm == source)
    return dataclasses.replace(of, **changes)


def test_a_coefficient_is_held_against_pruning_at_about_its_sparsity(found):
    pruned = [
        row(
            found,
            "static",
            arm="gradual",
            method="gradual",
            sparsity=s,
            returns=np.array([1.0, 2.0, 3.0, 4.0]),
        )
        for s in (0.8, 0.98)
    ]
    gates = [
        row(found, "static", arm="l0", method="l0", sparsity=c, outcome=s, returns=np.array(returns))
        for c, s, returns in (
            (1.0, 0.74, [5.0, 5.0, 5.0, 5.0]),  # density 0.26 over 0.2: 1.3 times
            (3.0, 0.9, [0.0, 0.0, 0.0, 0.0]),  # 0.1 is twice 0.05 and half of 0.2
            (9.0, 0.97, [2.0, 2.0, 2.0, 2.0]),  # 1.5 times
        )
    ]
    line = remarks.against_pruning(dataclasses.replace(found.blocks[0], rows=(*pruned, *gates))) or ""
    assert "l0 0.74 over 0.8 1.00 [1.00, 1.00]" in line and "l0 0.9 " not in line
    assert "l0 0.97 over 0.98 0.38 [" in line, "above one of four, equal to another: (1 + 1/2) / 4"
    # By density: 0.034 is 1.47 times less than 0.05 and 1.7 times more than 0.02, though 0.98 is the nearer number.
    finer = [dataclasses.replace(pruned[0], sparsity=0.95), pruned[1]]
    gate = dataclasses.replace(gates[0], outcome=0.966)
    line = remarks.against_pruning(dataclasses.replace(found.blocks[0], rows=(*finer, gate))) or ""
    assert "l0 0.966 over 0.95 " in line
    assert remarks.against_pruning(found.blocks[0]) is None
    assert remarks.against_pruning(dataclasses.replace(found.blocks[0], rows=tuple(pruned))) is None


def test_over_all_environments_every_single_one_must_be_at_about_its_sparsity(found):
    def block(came_out: float) -> summary.Block:
        pruned = row(found, "static", arm="gradual", method="gradual", sparsity=0.8)
        gates = row(found, "static", arm="l0", method="l0", sparsity=1.0, outcome=came_out)
        return dataclasses.replace(found.blocks[0], rows=(pruned, gates))

    def line(*parts: summary.Block) -> str | None:
        gates = summary.as_one([part.rows[1] for part in parts])
        return remarks.against_pruning(summary.Block("all", (gates,), None, {}, parts=parts))

    assert "l0 0.79 over 0.8 0.50 [" in (line(block(0.82), block(0.76)) or "")
    assert line(block(0.98), block(0.62)) is None, "0.8 in the mean, on neither"
