"""A table of runs from several kinds of devices, or in several precisions, names the rows that are not as dense is."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from sparserl_jax.bench import caption, summary
from tests.bench import fake

H200 = ("NVIDIA H200", "highest")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> summary.Summary:
    folder: Path = tmp_path_factory.mktemp("mixed") / "mini"
    plan = fake.make_plan(
        arms=[{"recipe": "dense"}, {"recipe": "rlx2"}, {"recipe": "set"}], sparsities=[0.6, 0.9]
    )
    fake.finished(folder, plan)
    return summary.summarise(folder)


def told(whole: summary.Summary, kinds: dict[tuple[str, float], tuple[str, str | None]]) -> str:
    """The line of a caption where rows (arm, sparsity) were made on other devices than CPUs; "" without one."""
    found = copy.deepcopy(list(whole.records))
    for record in found:
        made, result = record["provenance"], record["result"]
        kind, precision = kinds.get((result["arm"], result["sparsity"]), ("cpu", None))
        made["system"] |= {"platform": "cpu" if kind == "cpu" else "gpu", "device_kind": kind}
        made["matmul_precision"] = precision
    lines = caption.caption(whole.settings, found, whole.blocks)
    return "".join(line for line in lines if line.startswith("MIXED DEVICES"))


def test_devices_of_one_kind_are_not_mixed(whole: summary.Summary):
    rows = {(row.arm, row.sparsity) for row in whole.blocks[0].rows}
    assert len(rows) == 5
    assert told(whole, {}) == "" and told(whole, dict.fromkeys(rows, H200)) == ""


@pytest.mark.parametrize("sparsity", [0.6, 0.9])
def test_one_row_of_an_arm_is_enough_to_name_it(whole: summary.Summary, sparsity: float):
    mixed = told(whole, {("rlx2", sparsity): H200})
    assert "computed on CPUs, NVIDIA H200 (matrix products: highest)." in mixed
    assert "than dense: rlx2 on gymnax:Pendulum-v1; rlx2 on" in mixed and "set on" not in mixed


def test_another_precision_of_the_same_device_is_another_kind(whole: summary.Summary):
    every = {(row.arm, row.sparsity): H200 for row in whole.blocks[0].rows}
    rounded = told(whole, {**every, ("set", 0.9): ("NVIDIA H200", "tensorfloat32")})
    assert "than dense: set on" in rounded and "(matrix products: tensorfloat32)" in rounded


def test_where_dense_was_made_elsewhere_all_others_are_named(whole: summary.Summary):
    assert "than dense: rlx2, set on" in told(whole, {("dense", 0.0): H200})
