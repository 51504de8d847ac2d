"""`sparserl conformance` finds every planted fault, and finds nothing where nothing is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from sparserl_jax import cli
from sparserl_jax.conformance import report
from sparserl_jax.conformance.broken import Broken
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import METHODS, method
from sparserl_jax.sparsity.contract import Events
from tests.conformance.faults import FAULTS

TOYS = (
    "TICKET",
)  # of changing counts and with resets; the others are looked at by tests/sparsity/test_contract.py
CASES = [(promise, faulty) for promise, methods in FAULTS.items() for faulty in methods]


KNOBS = dict.fromkeys(("nm", "nm_sr_ste", "rnm_like", "nm_inner"), 0.5)
"""Sparsities of methods that cannot have every one."""


def broken(method) -> dict[str, str]:
    """What an examination finds: the text of every broken promise."""
    verdicts = list(report.examine(method, KNOBS.get(method.name, report.KNOB)))
    assert [verdict.promise for verdict in verdicts] == [name for name, *_ in report.PROMISES]
    return {verdict.promise: verdict.text for verdict in verdicts if verdict.state == "BROKEN"}


def test_every_promise_has_a_planted_fault():
    assert set(FAULTS) == {name for name, *_ in report.PROMISES}


@pytest.mark.slow
def test_a_method_that_keeps_its_promises_is_found_to(capsys, monkeypatch):
    assert cli.run(["conformance", "tests.conformance.faults:GOOD"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(report.PROMISES) + 2
    assert all(line.startswith("kept ") for line in said[1:-1])
    assert said[-1] == f"magnitude: all {len(report.PROMISES)} promises kept."


@pytest.mark.parametrize(
    ("promise", "faulty"),
    [
        pytest.param(
            p, m, marks=[] if p in ("functions", "budget", "events", "learning") else pytest.mark.long
        )
        for p, m in CASES
    ],
    ids=[f"{p}-{i}" for i, (p, _) in enumerate(CASES)],
)
@pytest.mark.slow
def test_a_planted_fault_breaks_its_promise_and_no_other(promise, faulty):
    found = broken(faulty)
    assert list(found) == [promise], found
    assert "expected " in found[promise] and "found " in found[promise] and "where: " in found[promise]


@pytest.mark.slow
def test_a_broken_promise_is_told_with_what_was_expected_found_and_where(capsys):
    assert report.check(FAULTS["budget"][0], 0.6, print) is False
    said = capsys.readouterr().out
    assert (
        "BROKEN  budget      live weights are as promised after every tick; expected 33 live weights, found 32"
        in said
    )
    assert "where: the actor after tick 0, tensor hidden_0 (5, 16)" in said
    assert said.endswith("magnitude: broken: budget.\n")


def test_a_broken_promise_is_exit_code_1(monkeypatch):
    from tests.conformance import faults

    monkeypatch.setattr(faults, "FAULTY", FAULTS["functions"][0], raising=False)
    assert cli.run(["conformance", "tests.conformance.faults:FAULTY"]) == 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("rigl", "gradual") else pytest.mark.long)
        for name in [*METHODS, *(f"tests.reference.toy_methods:{toy}" for toy in TOYS)]
    ],
)
def test_shipped_methods_and_very_different_ones_keep_their_promises(name):
    assert broken(method(name)) == {}


def test_what_cannot_be_looked_at_is_unseen_and_not_kept(monkeypatch):
    """Without a call nothing happens to optimiser slots."""
    monkeypatch.setattr(
        report, "PROMISES", tuple(one for one in report.PROMISES if one[0] in ("functions", "slots"))
    )
    monkeypatch.setattr(report.Examination, "moments", [])
    said: list[str] = []
    assert report.check(method("static"), 0.6, said.append)
    assert said[1].startswith("kept    functions") and said[2].startswith("unseen  slots")
    assert said[2].endswith("no event happened, so there is nothing to see")
    assert said[3] == "static: 1 of 2 promises kept, the others unseen."


@pytest.mark.parametrize("knob", [0.625, 0.875, 0.9375])
def test_methods_with_few_knobs_are_looked_at_by_those_they_know(knob: float):
    """Three quarters of 7/8 is no N:M, and nothing that anybody asked for."""
    assert report.Examination(method("nm"), knob).knobs == (
        knob,
        {0.625: 0.3125, 0.875: 0.4375}.get(knob, knob),
        knob,
    )
    assert report.Examination(method("rigl"), knob).knobs == (knob, knob / 2, 0.75 * knob)


@pytest.mark.parametrize("name", ["dense", "static", "set", "rigl", "anf", "srigl", "rigl_16x1"])
def test_networks_too_short_for_an_event_have_functions_too(name: str):
    layers = report.laboratory(method(name).family, report.SCHEDULE).layers["actor"]
    knob = 0.0 if name == "dense" else 0.5
    for end in (50, 100):
        report.check_functions(method(name), layers, knob, Events(100, end, 0.5), "released")


def _shaped_by_the_knob(layers, knob, events, source):
    own = METHODS["static"].settings(layers, knob, events, source)
    return own._replace(scale=np.ones(int(100 * (1 - knob)), np.float32))


def test_settings_that_the_knob_gives_another_shape_are_told():
    """Members of one program have settings of one shape."""
    odd = METHODS["static"]._replace(name="odd", settings=_shaped_by_the_knob)
    with pytest.raises(
        Broken, match="expected one structure and shape, .* in the settings at the knob 0.3 with"
    ):
        _ = report.Examination(odd, 0.6).lives


def test_a_sparsity_the_small_network_cannot_have_is_a_sentence():
    with pytest.raises(UserError, match="leaves tensor"):
        list(report.examine(method("rigl"), 0.999))
