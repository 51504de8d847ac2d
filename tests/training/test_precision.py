"""A declared precision of matrix products reaches every product of every stage, and changes nothing where not given."""

from __future__ import annotations

import dataclasses
import re

import jax
import numpy as np
import pytest

from sparserl_jax.bench import claims, evaluate, provenance, records, reproduce, saved, single, suites
from sparserl_jax.errors import UserError
from sparserl_jax.training import Program, Run, recipe
from sparserl_jax.training.precision import PRECISIONS, check, precise, spoken
from tests.bench import fake, trained
from tests.reference import small


def program(precision: str | None) -> Program:
    training = dataclasses.replace(small.training(), matmul_precision=precision)
    return Program((Run(training, recipe("rlx2"), 0.6, 0, "rlx2"),))


def products(text: str) -> list[str]:
    """What every matrix product of a lowered stage says of its precision."""
    lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    found = [re.search(r"precision = \[(\w+), (\w+)\]", line) for line in lines]
    return ["" if one is None else one.group(1) for one in found]


@pytest.mark.parametrize(
    ("name", "told"),
    [(None, "DEFAULT"), ("default", "DEFAULT"), ("highest", "HIGHEST"), ("tensorfloat32", "HIGH")],
)
def test_every_product_of_every_stage_has_the_declared_precision(name, told):
    lowered = program(name).lower()
    assert set(lowered) == {"init", "warm_up", "train", "evaluate", "harvest"}
    for stage in ("warm_up", "train", "evaluate"):
        found = products(lowered[stage].as_text())
        assert found and set(found) <= {told, ""} and (told == "DEFAULT" or "" not in found), stage


@pytest.mark.slow
def test_a_function_without_a_precision_is_left_as_it_is():
    assert precise(np.sin, None) is np.sin
    assert program(None).lower()["train"].as_text() == program("default").lower()["train"].as_text()


def test_what_says_nothing_computes_in_float32_on_accelerators_too(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert (spoken(None), spoken("tensorfloat32")) == ("highest", "tensorfloat32")
    assert provenance.collect()["matmul_precision"] == "highest"
    x = np.ones((2, 2), np.float32)
    lowered = jax.jit(precise(lambda a: a @ a, None)).lower(x)
    assert products(lowered.as_text()) == ["HIGHEST"]
    with jax.default_matmul_precision("tensorfloat32"):  # whoever configures JAX has chosen
        assert spoken(None) is None and provenance.collect()["matmul_precision"] == "tensorfloat32"
    monkeypatch.undo()
    assert spoken(None) is None and provenance.collect()["matmul_precision"] is None


def test_another_name_is_refused_with_the_nearest():
    for name in (None, *PRECISIONS):
        check(name, "here")
    with pytest.raises(UserError, match="did you mean 'highest'"):
        check("higest", "here")
    with pytest.raises(UserError, match=r"mini\.toml.*matmul_precision"):
        suites.parse(fake.table(matmul_precision=32), "mini.toml")
    with pytest.raises(UserError, match="did you mean 'tensorfloat32'"):
        dataclasses.replace(small.training(), matmul_precision="tensorfloat").check()


def test_hash_and_names_hold_it_only_where_it_is_given():
    plain, given = (suites.parse(fake.table(**more), "x") for more in ({}, {"matmul_precision": "highest"}))
    assert "matmul_precision" not in plain.plain() and plain.hash() != given.hash()
    assert given.plain()["matmul_precision"] == "highest"
    assert claims.suite_of(given.plain()).matmul_precision == "highest"
    assert claims.suite_of(plain.plain()).matmul_precision is None
    assert program(None).name != program("highest").name
    for suite, word in ((plain, False), (given, True)):
        planned = fake.make_plan(suite).runs[0]
        assert ("matmul_precision" in records.config_of(planned)["training"]) is word


def test_a_declared_precision_is_in_the_record_and_in_the_command_that_repeats_it(tmp_path):
    suite = single.suite_of("gymnax:Pendulum-v1", steps=4000, seeds=1, matmul_precision="highest")
    fake.finished(tmp_path / "x", fake.make_plan(suite))
    settings, (record,) = records.load_all(tmp_path / "x")
    assert record["provenance"]["matmul_precision"] == "highest"
    assert record["provenance"]["config"]["training"]["matmul_precision"] == "highest"
    assert "--matmul-precision highest" in reproduce.command(settings, "gymnax:Pendulum-v1", "rlx2", 0.9)


@pytest.mark.long
def test_on_a_cpu_the_highest_precision_gives_the_same_bits_and_its_record_evaluates_again(tmp_path):
    given, plain = (
        next(trained.train(tmp_path / name, seeds=1, **more).iterdir())
        for name, more in (("x", {"matmul_precision": "highest"}), ("y", {}))
    )
    assert records.read(given)["result"] == records.read(plain)["result"]
    compared = evaluate.reproduce(saved.find(given))
    assert compared.agrees and not any("matmul" in text for text in compared.different)


def test_a_training_may_give_it():
    suite = single.suite_of("gymnax:Pendulum-v1", steps=4000, matmul_precision="tensorfloat32")
    assert suite.training(suite.tasks[0]).matmul_precision == "tensorfloat32"
