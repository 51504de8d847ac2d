"""Whatever a suite file holds, it is read or refused in one sentence that names the file: nothing else ever happens."""

from __future__ import annotations

import copy
import datetime
import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import suites
from sparserl_jax.errors import UserError
from tests.bench import fake

FILE = "mine.toml"
WORDS = st.sampled_from(
    ("", "dense", "rlx2", "tiny", "placebo", "method", "aa", "paper", "dynamic", "td3", "a b", "no_such")
)
NUMBERS = st.one_of(
    st.integers(-3, 5000),
    st.sampled_from((0, -1, 2**31, 2**63 - 1, 10**30)),
    st.floats(),  # not a number and infinite, too: TOML can write both
    st.floats(0, 1),
)
SCALARS = st.one_of(NUMBERS, st.booleans(), WORDS, st.text(max_size=4), st.just(datetime.date(2020, 1, 1)))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)
KEYS = st.sampled_from(
    ("sparsitys", "sparsities", "critic_sparsities", "role", "overrides", "set", "n", "tau", "episodes", "seeds",
     "seeds_from", "dispatch", "num_envs", "tune", "tuned", "result", "hidden", "buffer_oldest", "drop_fraction", "x")
)  # fmt: skip


def places(table: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a table, itself included."""
    inner = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def at(table: Any, path: tuple[Any, ...]) -> Any:
    """What lies at a path."""
    for key in path:
        table = table[key]
    return table


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """A good suite in which one to three things are replaced, dropped, doubled or added."""
    table = copy.deepcopy(
        {**fake.SUITE, "tune": {"seeds": 2, "seeds_from": 900, "grid": {"tau": [0.01, 0.02]}}}
    )
    if draw(st.booleans()):
        del table["tune"]
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(table)))
        if not path:
            table[draw(KEYS)] = draw(VALUES)
            continue
        parent, key = at(table, path[:-1]), path[-1]
        change = draw(st.sampled_from(("replace", "drop", "double", "add")))
        if change == "replace":
            parent[key] = draw(VALUES)
        elif change == "drop":
            del parent[key]
        elif change == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        elif isinstance(parent[key], dict):
            parent[key][draw(KEYS)] = draw(VALUES)
        else:
            parent[key] = [parent[key], draw(VALUES)]
    return table


def refused(read: Any) -> str | None:
    """The sentence with which `read` refuses; None if it does not."""
    try:
        read()
    except UserError as error:
        return str(error)
    return None


def is_one_sentence(text: str) -> bool:
    """It ends like one, and has no second line."""
    return "\n" not in text and text.rstrip("'\")").endswith((".", "?")) and len(text) > 20


@given(tables())
def test_any_table_is_read_or_refused_in_one_sentence(table: dict[str, Any]):
    said = refused(lambda: suites.parse(copy.deepcopy(table), FILE))
    if said is not None:
        assert FILE in said and is_one_sentence(said), said
        return
    suite = suites.parse(table, FILE)
    assert suite.hash() == suites.parse(table, FILE).hash()
    assert json.loads(json.dumps(suite.plain())) == json.loads(json.dumps(suite.plain(), allow_nan=False))
    runs = suite.runs()
    assert len(runs) == len(suite.tasks) * sum(len(arm.sparsities) * len(arm.seeds) for arm in suite.arms) > 0
    assert all(0.0 <= knob < 1.0 for _, _, run in runs for knob in run.knobs.values())


@given(tables())
def test_any_suite_that_is_read_is_planned_or_refused_in_one_sentence(table: dict[str, Any]):
    try:
        suite = suites.parse(table, FILE)
    except UserError:
        return
    said = refused(lambda: plans.make(suite, group=fake.group, describe=fake.describe))
    assert said is None or is_one_sentence(said), said


@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused_in_one_sentence(tmp_path_factory, content: bytes):
    path = Path(tmp_path_factory.mktemp("suite")) / FILE
    path.write_bytes(content)
    said = refused(lambda: suites.read(path))
    assert said is not None and FILE in said and is_one_sentence(said), said
