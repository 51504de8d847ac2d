"""A user's method of another family goes wherever a shipped one goes, by its name alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparserl_jax import cli
from sparserl_jax.bench import check, records, suites
from sparserl_jax.bench import plan as plans
from sparserl_jax.errors import UserError
from sparserl_jax.training.program import group
from tests.bench import fake, forge
from tests.reference import toy_methods
from tests.reference.toy_methods import GATES

TOY = "tests.reference.toy_methods"
SUITE = f"""
name = "own"
steps = 320
warm_up = 80
seeds = 2
sparsities = [0.5]

[agent]
hidden = [8, 8]
batch_size = 8

[schedule]
topology_interval = 40
delay = 100
buffer_max = 320
buffer_min = 80
buffer_check = 80

[evaluation]
interval = 160
episodes = 1
final_episodes = 1

[[environments]]
name = "gymnax:Pendulum-v1"
random = -1221.7
learned = -200.0
reference = -150.0

[[arms]]
recipe = "dense"

[[arms]]
recipe = "{TOY}:DORMANT"
"""


@pytest.mark.slow
def test_from_plan_to_table(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own.toml").write_text(SUITE)
    assert cli.run(["plan", "own.toml"]) == 0
    assert "method family dormant" in capsys.readouterr().out
    assert cli.run(["bench", "own.toml", "--out", "done"]) == 0
    assert cli.run(["check", "done"]) == 0
    assert cli.run(["table", "done"]) == 0
    assert "dormant" in capsys.readouterr().out
    table = Path("done/table.md").read_text()
    assert "| dormant | 0.5" in table and "| dense | 0 |" in table
    result = records.read(next(Path("done").glob("records/*/dormant-s0500-seed001")))["result"]
    assert (result["method"], result["recipe"], result["promise"]) == (f"{TOY}:DORMANT", "dormant", "at_most")
    actor = result["tensors"]["actor"]
    assert all(t["nnz"] <= t["declared"] == t["size"] for t in actor)
    assert sum(t["nnz"] for t in actor) < sum(t["size"] for t in actor)  # units went
    assert result["events"] == {"critic": 5, "actor": 2}
    # What it may carry while it trains is charged, not what is left at the end.
    assert result["costs"]["training_flops_theory"] == result["costs"]["training_flops_dense"]
    dense = records.read(next(Path("done").glob("records/*/dense-s0000-seed000")))["result"]
    assert "promise" not in dense


def mini(tmp_path: Path, name: str, **changes) -> Path:
    """A finished folder of one toy method beside dense, by the stand-in for training."""
    arms = [{"recipe": "dense"}, {"recipe": f"{TOY}:{name}", **changes}]
    options = {"seeds": 2, "sparsities": [0.5], "environments": fake.SUITE["environments"][:1], "arms": arms}
    fake.finished(tmp_path / "x", fake.make_plan(**options))
    return tmp_path / "x"


@pytest.mark.parametrize(
    ("name", "promise", "change", "sentence"),
    [
        ("GATES", "none", -1, "at most 47 weights declared, 48 in the mask"),
        ("DORMANT", "at_most", -1, "at most 47 weights declared, 48 in the mask"),
        ("DORMANT", "at_most", +0, None),
        ("TICKET", None, +1, "25 weights declared, 24 in the mask"),
        ("TOTAL", "global", +1, "weights declared for all its tensors together, it has"),
    ],
)
def test_check_holds_records_to_the_kind_of_budget(name, promise, change, sentence, tmp_path, monkeypatch):
    declares = toy_methods.TICKET.family.declares._replace(budget="global")
    family = toy_methods.TICKET.family._replace(name="total", declares=declares)
    total = toy_methods.TICKET._replace(name="total", family=family)
    monkeypatch.setattr(toy_methods, "TOTAL", total, raising=False)
    folder = mini(tmp_path, name)
    assert check.check(folder) == []
    run_id = next(run_id for run_id in forge.run_ids(folder) if f"/{name.lower()}-" in run_id)

    def edit(record):
        assert record["result"].get("promise") == promise
        record["result"]["tensors"]["actor"][0]["declared"] += change

    forge.change(folder, run_id, edit)
    problems = check.check(folder)
    assert problems == [] if sentence is None else sentence in problems[0]


def test_a_total_may_be_shared_out_as_the_method_likes(tmp_path, monkeypatch):
    declares = toy_methods.TICKET.family.declares._replace(budget="global")
    family = toy_methods.TICKET.family._replace(name="total", declares=declares)
    total = toy_methods.TICKET._replace(name="total", family=family)
    monkeypatch.setattr(toy_methods, "TOTAL", total, raising=False)
    folder = mini(tmp_path, "TOTAL")
    run_id = next(run_id for run_id in forge.run_ids(folder) if "/total-" in run_id)

    def edit(record):
        first, second, *_ = record["result"]["tensors"]["actor"]
        first["declared"] -= 3
        second["declared"] += 3

    forge.change(folder, run_id, edit)
    assert check.check(folder) == []


def parse(*arms, **changes) -> suites.Suite:
    return suites.parse(fake.table(arms=[{"recipe": "dense"}, *arms], **changes), "mini.toml")


def test_a_suite_names_a_users_method_alone_or_inside_a_recipe():
    suite = parse(
        {"recipe": f"{TOY}:GATES"},
        {"recipe": "rlx2", "name": "rlx2_gates", "set": {"method": f"{TOY}:GATES"}},
    )
    alone, inside = suite.arms[1:]
    assert (alone.name, alone.role, alone.recipe.n) == ("gates", "method", 1)
    assert (inside.name, inside.recipe.n, inside.recipe.buffer) == ("rlx2_gates", 3, "dynamic")
    assert inside.recipe.method == alone.recipe.method == f"{TOY}:GATES"
    with pytest.raises(UserError, match="give the arm a 'name' of its own"):
        parse({"recipe": "rlx2", "set": {"method": f"{TOY}:GATES"}})


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (f"--recipe {TOY}:GATS", "did you mean 'GATES'"),
        (f"--recipe {TOY}:LARGEST_LOGIT", "not a sparserl_jax.sparsity.Method"),
        ("--recipe static --method rigll", "did you mean 'rigl'"),
        ("--recipe nowhere.at_all:METHOD", "there is no module 'nowhere.at_all'"),
        (f"--recipe {TOY}:BRANCHES", "in penalty; mend it and try `sparserl conformance"),
    ],
)
def test_a_wrong_method_is_a_sentence_before_anything_runs(line, sentence, capsys, tmp_path, monkeypatch):
    def penalty(params, extra, state, clock):
        return 1.0 if params["mlp"]["output"]["bias"].sum() > 0 else 0.0

    branching = GATES._replace(name="branches", family=GATES.family._replace(penalty=penalty))
    monkeypatch.setattr(toy_methods, "BRANCHES", branching, raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.run(f"train --env gymnax:Pendulum-v1 {line}".split()) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and sentence in error
    assert not list(tmp_path.iterdir())


def test_a_family_of_the_same_name_is_another_family(monkeypatch):
    """A user's family called `drop_grow` never runs with the shipped functions."""
    twin = GATES._replace(family=GATES.family._replace(name="drop_grow"))
    monkeypatch.setattr(toy_methods, "TWIN", twin, raising=False)
    suite = parse({"recipe": f"{TOY}:TWIN"})
    programs = group([run for task, _, run in suite.runs() if task is suite.tasks[0]])
    assert sorted(len(program.runs) for program in programs) == [6, 12]


def test_one_family_with_unequal_settings_is_refused(monkeypatch):
    other = GATES._replace(name="other", settings=lambda *a: {"only": 1.0})
    monkeypatch.setattr(toy_methods, "OTHER", other, raising=False)
    suite = parse({"recipe": f"{TOY}:GATES"}, {"recipe": f"{TOY}:OTHER"}, sparsities=[0.5])
    task = suite.tasks[0]
    runs = [run for own, arm, run in suite.runs() if own is task and arm.name != "dense"]
    (program,) = group(runs)
    with pytest.raises(UserError, match="are one family .*but their settings differ"):
        _ = program.settings


def test_train_swaps_the_method_of_a_recipe():
    from sparserl_jax.bench import single

    suite = single.suite_of("gymnax:Pendulum-v1", recipe="rlx2", method=f"{TOY}:GATES", steps=4000)
    (arm,) = suite.arms
    assert (arm.name, arm.role, arm.recipe.n, arm.recipe.method) == (
        "rlx2_gates",
        "method",
        3,
        f"{TOY}:GATES",
    )
    assert plans.slug(arm.name) == "rlx2_gates"


def test_another_method_in_a_dense_recipe_is_trained_at_the_sparsity_asked_for():
    from sparserl_jax.bench import single

    suite = single.suite_of("gymnax:Pendulum-v1", recipe="dense", method="set", sparsity=0.8, steps=4000)
    assert [(run.id, run.knobs["actor"]) for _, _, run in suite.runs()][0] == ("dense_set-s0800-seed000", 0.8)
    arm = {"recipe": "dense_rvl", "name": "set_rvl", "set": {"method": "set"}}
    for own in ({}, {"sparsities": [0.8]}):
        suite = parse({**arm, **own}, sparsities=[0.8])
        found = [run.knobs for _, arm, run in suite.runs() if arm.name == "set_rvl"]
        assert found and all(knobs["actor"] == knobs["critic"] == 0.8 for knobs in found)
