"""What a table says of policies that nobody learned."""

from __future__ import annotations

import dataclasses

import pytest

from sparserl_jax.bench import remarks, suites, summary, tables
from sparserl_jax.bench import run as runs
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
