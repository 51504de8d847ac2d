"""A table of runs from several kinds of devices, precisions or versions names the rows that are not as dense is."""

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


def versions(whole: summary.Summary, change) -> str:
    """The line of a caption where `change` was done to the provenance of every record of `set`."""
    found = copy.deepcopy(list(whole.records))
    for record in found:
        if record["result"]["arm"] == "set":
            change(record["provenance"])
    lines = caption.caption(whole.settings, found, whole.blocks)
    return "".join(line for line in lines if line.startswith("MIXED VERSIONS"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: made["packages"].update(jaxlib="0.0.1"), ": jaxlib 0.0.1, "),
        (lambda made: made["packages"].update(gymnax="0.0.1"), ": gymnax 0.0.1, "),
        (lambda made: made.update(x64=True), ": x64 off, on."),
        (lambda made: made.update(xla_flags="--fast"), ": xla_flags --fast, off."),
    ],
)
def test_another_version_or_option_is_told_with_its_rows(whole: summary.Summary, change, said: str):
    line = versions(whole, change)
    assert said in line and "than dense: set on" in line and "rlx2 on" not in line


def test_what_a_record_does_not_say_of_its_versions_mixes_nothing(whole: summary.Summary):
    assert versions(whole, lambda made: made["packages"].update(gymnasium=None)) == ""
    assert versions(whole, lambda made: made.pop("x64")) == ""
    assert versions(whole, lambda made: made["packages"].update(sparserl_jax="9", mujoco="9")) == ""


def test_rows_that_do_not_say_are_not_named_where_others_differ(whole: summary.Summary):
    found = copy.deepcopy(list(whole.records))
    for record in found:
        arm, packages = record["result"]["arm"], record["provenance"]["packages"]
        if arm == "set":
            packages["numpy"] = "0.0.1"
        elif arm == "rlx2":
            del packages["numpy"]
    (line,) = [
        line for line in caption.caption(whole.settings, found, whole.blocks) if line.startswith("MIXED")
    ]
    assert "than dense: set on" in line and "rlx2" not in line
