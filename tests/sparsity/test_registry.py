"""Methods by name: shipped ones, a user's own, and one sentence for everything else; what promises say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserl_jax.agents.td3 import TD3Config
from sparserl_jax.bench import costs
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import METHODS, allocation, method, promised
from sparserl_jax.sparsity.contract import Events, Promise
from sparserl_jax.sparsity.drop_grow import DROP_GROW
from sparserl_jax.training.recipe import Recipe, recipe
from tests.reference import toy_methods
from tests.reference.toy_methods import GATES, TICKET

TOY = "tests.reference.toy_methods"
LAYERS = costs.layer_tables(TD3Config(hidden=(16, 16)), 5, 2)
EVENTS = Events(interval=4, end=41, drop_fraction=0.5)


def test_a_users_method_is_found_by_its_reference():
    assert method(f"{TOY}:GATES") is GATES
    assert method("rigl") is METHODS["rigl"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "rigll",
            "unknown sparsifier 'rigll': did you mean 'rigl'? Your own is written my_pkg.my_module:name.",
        ),
        ("no_such.module:thing", "there is no module 'no_such.module' in this folder"),
        ("my/gradual.py:GRADUAL", "write it as it is imported (my_pkg.my_module:name)"),
        (f"{TOY}:GATS", "did you mean 'GATES'?"),
        (f"{TOY}:LARGEST_LOGIT", "is a float, not a sparserl_jax.sparsity.Method"),
        (f"{TOY}:Plan", "is the class Plan, not a sparserl_jax.sparsity.Method"),
        (f"{TOY}:SHADOW", "is called 'rigl' like a shipped method"),
        (f"{TOY}:NAMELESS", "may hold letters a to z, digits and _ only"),
        (f"{TOY}:FAMILYLESS", "its family is not a Sparsifier"),
        (f"{TOY}:PROMISELESS", "'promise' is None; give a function"),
        (f"{TOY}:WRONG", "unknown declared 'budget' of sparsity method"),
        (f"{TOY}:RESETS", "it declares resets = 'replay'; give a tuple"),
    ],
)
def test_what_is_not_a_method_is_refused_in_a_sentence(name, sentence, monkeypatch):
    declares = GATES.family.declares
    wrong = {
        "SHADOW": GATES._replace(name="rigl"),
        "NAMELESS": GATES._replace(name="my gates"),
        "FAMILYLESS": GATES._replace(family=None),
        "PROMISELESS": GATES._replace(promise=None),
        "WRONG": GATES._replace(family=GATES.family._replace(declares=declares._replace(budget="exact"))),
        "RESETS": GATES._replace(family=GATES.family._replace(declares=declares._replace(resets="replay"))),
    }
    for key, value in wrong.items():
        monkeypatch.setattr(toy_methods, key, value, raising=False)
    with pytest.raises(UserError) as refused:
        method(name)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_a_method_is_a_recipe_and_a_recipe_can_be_the_users_own(monkeypatch):
    assert recipe(f"{TOY}:GATES") == Recipe("gates", f"{TOY}:GATES", summary=GATES.summary)
    mine = Recipe("mine", f"{TOY}:GATES", n=3, buffer="dynamic")
    monkeypatch.setattr(toy_methods, "MINE", mine, raising=False)
    assert recipe(f"{TOY}:MINE") is mine and mine.family == "gates"
    for name in ("rigl/slow", "..", "a|b", "", "ä"):  # names of folders and of a table's rows
        with pytest.raises(UserError, match="a name may hold letters a to z, digits and _ only"):
            Recipe(name, "rigl")
    monkeypatch.setattr(toy_methods, "MINE", Recipe("rlx2", "rigl"), raising=False)
    with pytest.raises(UserError, match="is called 'rlx2' like a shipped one"):
        recipe(f"{TOY}:MINE")
    with pytest.raises(UserError, match="my_pkg.my_module:name"):
        recipe("rlx")


@pytest.mark.parametrize(
    ("promise", "sentence"),
    [
        (lambda *a: Promise([1, 2]), "one whole number per tensor"),
        (lambda *a: Promise([10**9] * 3), "at most [80, 256, 32]"),
        (lambda *a: Promise([1.5] * 3), "one whole number per tensor"),
        (lambda *a: Promise([1] * 3, phases=[[1]]), "one whole number per tensor"),
        (lambda *a: Promise([1] * 3, learned=[1]), "one whole number per tensor"),
        (lambda *a: [1, 2, 3], "return a sparserl_jax.sparsity.Promise"),
        (lambda layers: None, "its promise failed (TypeError"),
    ],
)
def test_a_promise_that_says_nothing_is_refused(promise, sentence):
    with pytest.raises(UserError) as refused:
        promised(GATES._replace(promise=promise), LAYERS["actor"], 0.5, EVENTS, "released")
    assert sentence in str(refused.value)


@pytest.mark.parametrize("name", [name for name, own in METHODS.items() if own.family is DROP_GROW])
def test_shipped_methods_promise_what_their_settings_hold(name):
    own = METHODS[name]
    for layers in LAYERS.values():
        found = promised(own, layers, 0.6, EVENTS, "released")
        settings = own.settings(layers, 0.6, EVENTS, "released")
        assert found.counts == settings.counts.tolist() and found.phases == ()
        assert found.events == (10 if name in ("set", "rigl", "anf") else 0)
        assert found.dense_growth == (name == "rigl")
        assert (found.narrow is None) == (name != "tiny")
        if found.narrow is not None:
            assert [layer.size for layer, _ in found.narrow.tensors] == found.counts


def test_a_method_that_prunes_on_its_way_is_charged_for_the_way():
    """Ten intervals of four ticks and one tick at the end, by hand."""
    layers = LAYERS["actor"]
    found = promised(TICKET, layers, 0.6, EVENTS, "released")
    assert found.at(0) == [80, 256, 32] and found.at(10) == found.at(99) == found.counts
    rows = [found.at(k) for k in range(10) for _ in range(4)] + [found.counts]
    assert found.trained(EVENTS) == [-(-sum(row[i] for row in rows) // 41) for i in range(3)]
    assert all(a > b for a, b in zip(found.trained(EVENTS), found.counts))


@given(
    st.integers(1, 9),
    st.integers(0, 60),
    st.lists(st.integers(0, 50), max_size=8),
    st.integers(0, 50),
)
def test_the_average_of_a_promise_is_that_of_its_ticks(interval, end, phases, last):
    events = Events(interval, end, 0.5)
    found = Promise([last], phases=[[n] for n in phases])
    ticks = [found.at(tick // interval)[0] for tick in range(end)]
    assert found.trained(events) == [int(np.ceil(round(np.mean(ticks), 9))) if ticks else last]


def test_equal_counts_need_no_phases():
    counts = allocation.er(LAYERS["critic"], 0.6)
    assert Promise(counts).trained(EVENTS) == counts and Promise(counts).at(3) == counts
