"""Tuning: a declared grid, equal trials for every arm, on seeds of its own."""

from __future__ import annotations

import math
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserl_jax import cli
from sparserl_jax.bench import run as runs
from sparserl_jax.bench import suites, tune, tuning
from sparserl_jax.errors import UserError
from sparserl_jax.networks import Actor, actor_layers
from sparserl_jax.sparsity import METHODS
from sparserl_jax.sparsity.contract import Events
from sparserl_jax.training.config import TD3Config
from tests.bench import fake
from tests.bench.tuned import GRID, TUNE, parse, plan_of

# ---- the grid ------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.sampled_from(sorted(TD3Config.TRACED)),
        st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=4, unique=True),
        min_size=1,
    ).filter(lambda grid: math.prod(map(len, grid.values())) > 1),
    st.randoms(use_true_random=False),
)
@pytest.mark.slow
def test_a_grid_is_every_combination_once_whatever_the_order_it_is_written_in(grid, random):
    found = parse(tune={**TUNE, "grid": grid}).tune
    points = tuning.points(found.grid)
    assert len(points) == len(set(points)) == math.prod(map(len, grid.values()))
    for name, values in grid.items():
        assert {dict(point)[name] for point in points} == set(values)
    assert all(list(dict(point)) == sorted(grid) for point in points)
    shuffled = list(grid.items())
    random.shuffle(shuffled)
    again = parse(tune={**TUNE, "grid": {n: random.sample(v, len(v)) for n, v in shuffled}}).tune
    assert tuning.points(again.grid) == points and again.grid == found.grid


def test_points_may_leave_out_a_setting():
    grid = (("drop_fraction", (0.1, 0.3)), ("tau", (0.1, 0.2)))
    points = tuning.points(grid, without=("drop_fraction",))
    assert points == [(("tau", 0.1),), (("tau", 0.2),)]


def test_other_grids_have_other_hashes():
    hashes = {
        tuning.space_sha256(parse(tune={**TUNE, "grid": grid}).tune.grid)
        for grid in (GRID, {"tau": [0.005, 0.02]}, {"gamma": [0.005, 0.02]}, {**GRID, "tau": [0.005, 0.03]})
    }
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"grid": {"learning_rat": [1e-3, 1e-4]}}, "did you mean 'learning_rate'"),
        ({"grid": {"hidden": [64, 128]}}, "'hidden' is the same for all members of a program"),
        ({"grid": {"batch_size": [64, 128]}}, "those may differ in learning_rate"),
        ({"grid": {"tau": [0.5, 1.5]}}, "'tau' must be a number in (0, 1], not 1.5"),
        ({"grid": {"learning_rate": [0.0, 1e-3]}}, "must be a number above 0"),
        ({"grid": {"tau": ["0.5", 0.1]}}, "must be a number"),
        ({"grid": {"tau": [0.5]}}, "the grid has 1 point, so there is nothing to choose"),
        ({"grid": {"tau": 0.5}}, "the grid has 1 point"),
        ({"grid": {}}, "the grid has no points"),
        ({"grid": {"tau": []}}, "needs a list of different values"),
        ({"grid": {"tau": [0.5, 0.5]}}, "needs a list of different values"),
        ({"grid": [1]}, "must be a table of lists"),
        ({"grids": [1]}, "'grids' must hold a table per arm"),
        ({"grids": {"rlx": GRID}}, "did you mean 'rlx2'"),
        ({"grids": {"placebo": GRID}}, "tuned arm in"),
        ({"grids": {"rlx2": {"tau": [0.5]}}}, "grids.rlx2: the grid has 1 point"),
        ({"grids": {"rlx2": {"tau": [0.5, 0.9]}}}, "dense: 4 trials, rlx2: 2 trials"),
        ({"grids": {"dense": GRID, "rlx2": GRID}}, "so nobody uses 'grid'"),
        ({"gird": {}}, "did you mean"),
        ({"seeds": 0}, "give 1 to 10000 seeds"),
        ({"seeds_from": -1}, "counted from 0"),
        (
            {"seeds_from": 104},
            "seeds 104 to 106 overlap with those arm 'dense_aa' is evaluated on (100 to 105)",
        ),
        ({"seeds_from": 4}, "let seeds_from be at least 106"),
        ({"arms": ["dense", "rlx"]}, "did you mean 'rlx2'"),
        ({"arms": ["dense", "placebo"]}, "has the role 'placebo' and is not tuned"),
        ({"arms": ["dense_aa"]}, "has the role 'aa' and is not tuned"),
        ({"arms": ["dense", "dense"]}, "none twice"),
        ({"arms": []}, "at least one arm"),
        ({"sparsity": 1.0}, "outside [0, 1)"),
    ],
)
def test_a_mistake_in_the_table_gives_one_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        parse(tune={**TUNE, **changes})
    text = str(error.value)
    assert sentence in text and "mini.toml [tune]" in text and "\n" not in text


def test_the_table_must_be_one_and_complete():
    with pytest.raises(UserError, match="must be a table of settings"):
        parse(tune=3)
    with pytest.raises(UserError, match="'grid' is missing, and arm 'dense' has none"):
        parse(tune={key: value for key, value in TUNE.items() if key != "grid"})
    with pytest.raises(UserError, match="'seeds_from' is missing"):
        parse(tune={key: value for key, value in TUNE.items() if key != "seeds_from"})


# ---- the plan ------------------------------------------------------------------------------------------------------


def test_trials_are_arms_of_a_suite_of_their_own():
    plan = plan_of(parse())
    suite = plan.suite
    assert suite.name == "mini-tune" and not suite.result and suite.tune is None
    assert runs.folder_of(plan) == Path("runs") / f"mini-tune-{suite.hash()}"
    assert [arm.name for arm in suite.arms] == [f"{arm}_t{i}" for arm in ("dense", "rlx2") for i in range(4)]
    for arm in suite.arms:
        assert arm.seeds == (1000, 1001, 1002)
        assert arm.sparsities == ((0.0,) if arm.recipe.name == "dense" else (0.9,))
    assert [dict(arm.overrides) for arm in suite.arms[:4]] == [
        {"learning_rate": rate, "tau": tau} for rate in (3e-4, 1e-3) for tau in (0.005, 0.02)
    ]
    keys = {planned.run.key_name for planned in plan.runs}
    assert len(keys) == 2 * 2 * 3 and len(plan.runs) == 4 * len(keys), "trials share their random numbers"
    assert len(plan.programs) == 4, "a grid costs no program: one per environment and n"


def test_an_arm_may_have_a_grid_of_its_own_with_as_many_points():
    own = {"gamma": [0.9, 0.99, 0.999, 0.9999]}
    plan = plan_of(parse(tune={**TUNE, "grids": {"rlx2": own}}))
    values = {arm.name: dict(arm.overrides) for arm in plan.suite.arms}
    assert [values[f"rlx2_t{i}"] for i in range(4)] == [{"gamma": value} for value in own["gamma"]]
    assert values["dense_t3"] == {"learning_rate": 1e-3, "tau": 0.02}
    told = "\n".join(tune.lines(plan))
    assert "grid: learning_rate: 0.0003, 0.001; tau: 0.005, 0.02" in told
    assert "grid of rlx2: gamma: 0.9, 0.99, 0.999, 0.9999" in told
    assert plan_of(parse()).suite.hash() != plan.suite.hash()
    assert "grids" not in plan_of(parse()).suite.plain()["search"]


def test_what_is_tried_is_told_before_it_is():
    told = "\n".join(tune.lines(plan_of(parse())))
    assert "4 trials for every arm" in told and "seeds 1000 to 1002" in told
    assert "8 trials of 2 arms x 3 seeds x 2 environments = 48 runs" in told
    assert "learning_rate: 0.0003, 0.001; tau: 0.005, 0.02" in told


def test_arms_that_compete_are_tuned_unless_the_table_names_some():
    suite = parse(tune={key: value for key, value in TUNE.items() if key != "arms"})
    assert suite.tune.arms == ("dense", "dense_rvl", "tiny", "static", "set", "rigl", "rlx2")


def test_the_table_changes_nothing_in_the_suite_itself():
    assert parse().hash() == parse(tune=None).hash() == suites.parse(fake.table(), "mini.toml").hash()
    assert "tune" not in parse().plain()


def test_a_suite_without_a_table_or_levels_or_a_knob_cannot_be_tuned():
    with pytest.raises(UserError, match=r"suite 'mini' has no \[tune\] table"):
        plan_of(suites.parse(fake.table(), "mini.toml"))
    bare = [{"name": task["name"]} for task in fake.SUITE["environments"]]
    with pytest.raises(UserError, match="has no levels"):
        plan_of(parse(environments=bare))
    plan_of(parse(environments=bare[:1]))
    knobless = {key: value for key, value in TUNE.items() if key != "sparsity"}
    with pytest.raises(UserError, match="arm 'rlx2' has several sparsities; say at which"):
        plan_of(parse(tune=knobless))
    assert plan_of(parse(tune=knobless, sparsities=[0.6])).suite.arms[-1].sparsities == (0.6,)


def test_an_arm_tuned_at_a_knob_of_its_own_keeps_its_critics():
    arms = [
        {"recipe": "dense"},
        {"recipe": "rlx2", "sparsities": [0.6, 0.9], "critic_sparsities": [0.5, 0.8]},
    ]
    run = plan_of(parse(arms=arms)).runs[-1].run
    assert run.knobs == {"actor": 0.9, "critic": 0.8}
    with pytest.raises(UserError, match="but none for sparsity 0.7"):
        plan_of(parse(arms=arms, tune={**TUNE, "sparsity": 0.7}))


DROPPING = {"set", "rigl", "mest", "anf", "srigl", "set_16x1", "rigl_16x1"}


def test_methods_that_do_not_ask_for_the_drop_fraction_show_it_in_their_settings():
    layers = actor_layers(Actor((32, 16), 16), 16)
    for name, method in METHODS.items():
        one, other = (
            method.settings(layers, 0.5, Events(10, 100, share), "released") for share in (0.2, 0.6)
        )
        same = all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))
        assert same == (name not in DROPPING), name


@pytest.mark.parametrize(
    ("name", "idle"),
    [
        ("buffer_threshold", "rigl"),
        *(("drop_fraction", arm) for arm in ("dense", "ds_td3", "top_kast", "redo", "neurons", "gradual")),
    ],
)
def test_a_setting_that_changes_nothing_in_an_arm_makes_trials_unequal(name, idle):
    """Repeating the same runs is no trial: the arm would have fewer tries than others."""
    grid = {"tau": [0.005, 0.02], name: [0.1, 0.3, 0.5]}
    arms = [{"recipe": "rlx2"}, {"recipe": idle}]
    table = {**TUNE, "grid": grid, "arms": [idle, "rlx2"], "sparsity": 0.5}
    with pytest.raises(UserError, match=f"'{name}' changes nothing in arm '{idle}'"):
        plan_of(parse(tune=table, arms=arms))
    plan = plan_of(parse(tune={**table, "unequal": True}, arms=arms))
    counts = {arm: len(names) for arm, names in plan.suite.search.trials}
    assert counts == {idle: 2, "rlx2": 6}
    assert f"UNEQUAL trials (rlx2 6, {idle} 2)" in "\n".join(tune.lines(plan))


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def suite_file(tmp_path: Path, monkeypatch) -> Path:
    """A suite file in the working directory, and training replaced by its stand-in."""
    shipped = Path(__file__).parents[2] / "benchmarks/suites/smoke.toml"
    path = tmp_path / "mine.toml"
    table = "\n[tune]\nseeds = 2\nseeds_from = 1000\n[tune.grid]\ntau = [0.005, 0.02]\n"
    path.write_text(shipped.read_text() + table)
    monkeypatch.chdir(tmp_path)
    real = runs.run
    monkeypatch.setattr(tune.plan, "make", fake.make_plan)
    monkeypatch.setattr(
        runs, "run", lambda plan, *rest, **options: real(plan, *rest, execute=fake.Execute(plan), **options)
    )
    return path


def test_the_command_runs_the_grid_and_says_what_it_chose(suite_file, capsys):
    assert cli.run(["tune", "mine.toml", "--out", "x"]) == 0
    said = capsys.readouterr().out
    assert "tuning: 2 trials for every arm" in said and "= 12 runs" in said
    assert "TUNING, NOT A RESULT" in said and "tuned.toml" in said
    folder = suite_file.parent / "x"
    assert {"tune.md", "tune.csv", "tuned.toml", "suite.toml"} <= {path.name for path in folder.iterdir()}
    assert cli.run(["table", "x"]) == 0
    assert "TUNING, NOT A RESULT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[tune]", "[tun]", "did you mean 'tune'"),
        ("tau = [0.005, 0.02]", "hidden = [32, 64]", "is the same for all members"),
        ("tau = [0.005, 0.02]", "tau = [0.02]", "nothing to choose"),
        ("seeds_from = 1000", "seeds_from = 1", "overlap"),
        ("[0.005, 0.02]", "[0.005, 2]", "must be a number in (0, 1], not 2"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence_and_exit_code_2(
    suite_file, capsys, old, new, sentence
):
    suite_file.write_text(suite_file.read_text().replace(old, new))
    assert cli.run(["tune", "mine.toml"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and sentence in error[0]
    assert [path.name for path in suite_file.parent.iterdir()] == ["mine.toml"]


def test_a_suite_without_a_table_is_refused_by_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["tune", "smoke"]) == 2
    assert "has no [tune] table" in capsys.readouterr().err


def test_a_sparsity_is_no_coefficient_of_a_penalty():
    gates = {"recipe": "static", "name": "l0", "set": {"method": "l0"}}
    both = {**TUNE, "arms": ["rlx2", "l0"], "sparsity": 0.9}
    plan = plan_of(
        parse(arms=[{"recipe": "dense"}, {"recipe": "rlx2"}, {**gates, "sparsities": [10.0]}], tune=both)
    )
    knobs = {arm.name.partition("_t")[0]: arm.sparsities for arm in plan.suite.arms}
    assert knobs == {"rlx2": (0.9,), "l0": (10.0,)}
    several = [{"recipe": "dense"}, {"recipe": "rlx2"}, {**gates, "sparsities": [1.0, 10.0]}]
    with pytest.raises(UserError, match="arm 'l0' has several coefficients; tune such arms apart"):
        plan_of(parse(arms=several, tune=both))
    # 0.9 is a coefficient of this arm, too, and is meant as a sparsity.
    shared = [*several[:2], {**gates, "sparsities": [0.9, 10.0]}]
    with pytest.raises(UserError, match="arm 'l0' has several coefficients"):
        plan_of(parse(arms=shared, tune=both))
    with pytest.raises(UserError, match=r"10.* is outside \[0, 1\)"):
        parse(arms=several, tune={**both, "sparsity": 10.0})
    plan = plan_of(parse(arms=several, tune={**TUNE, "arms": ["l0"], "sparsity": 10.0}))
    assert {arm.sparsities for arm in plan.suite.arms} == {(10.0,)}
    with pytest.raises(UserError, match=r"10.* is outside \[0, 1\)"):
        parse(arms=several, tune={**TUNE, "arms": ["rlx2"], "sparsity": 10.0})
