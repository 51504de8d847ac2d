"""`train --from`: runs begin from exactly the given networks, and what does not fit is refused before compiling."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from sparserl_jax import cli
from sparserl_jax.bench import continuing, evaluate, inspect, policy, records, saved, single
from sparserl_jax.bench import plan as plans
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import METHODS
from sparserl_jax.training.config import Start
from sparserl_jax.training.diagnostics import begin_history
from sparserl_jax.training.population import events_of, key_data
from sparserl_jax.training.program import ONCE
from tests.bench import fake, forge, trained

ENV = "gymnax:Pendulum-v1"
RUN = "gymnax-Pendulum-v1/rlx2-s0700-seed000"
SMALL = {**trained.SETTINGS, "recipe": "rlx2", "seeds": 2}
del SMALL["hidden"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run with random networks of the counts that rlx2, tiny and dense declare."""
    root = tmp_path_factory.mktemp("source") / "mini"
    plan = fake.make_plan(
        seeds=1,
        sparsities=[0.7],
        agent={"hidden": [8, 8], "batch_size": 16},
        environments=fake.SUITE["environments"][:1],
        arms=[{"recipe": "dense"}, {"recipe": "rlx2"}],
    )
    fake.finished(root, plan)
    return root / "records" / RUN


def program(path: Path, **changes):
    """The one program of a continued training."""
    (found,) = plans.make(single.suite_of(ENV, **{**SMALL, **changes}, start=path)).programs
    return found


def begun(made):
    """The population of a program at its start, compiled in a hurry as a program does it."""
    return made.stages["init"].lower(made.settings).compile(compiler_options=ONCE)(made.settings)


def same(ours, theirs) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, ours, theirs)))


@pytest.mark.slow
def test_every_member_begins_from_the_given_networks_and_nothing_else(source: Path):
    made = program(source)
    member = jax.tree.map(lambda x: x[1], begun(made))
    params, masks = policy.load_networks(source / policy.NETWORKS), policy.load_masks(source / "masks.npz")
    state = member.agent
    for name, network in made.agent.networks(state).items():
        assert same(network.params, params[name]) and same(made.agent.masks(state)[name], masks[name])
        assert same(getattr(state, f"target_{name}")[0], params[name])
        assert np.array_equal(member.history[name], begin_history(masks, made.agent.layers)[name])
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(network.opt_state))
    assert made.training.agent.hidden == (8, 8)


@pytest.mark.slow
def test_of_a_policy_file_only_the_actor_is_taken(source: Path, tmp_path: Path, capsys):
    given = program(source / "policy.npz")
    assert given.training.start.networks == ("actor",)
    state = begun(given).agent
    actor = policy.load(source).params
    assert same(jax.tree.map(lambda x: x[0], (state.actor.params, state.target_actor[0])), (actor, actor))
    critic = policy.load_networks(source / policy.NETWORKS)["critic"]
    assert not same(jax.tree.map(lambda x: x[0], state.critic.params), critic)
    assert "the critic starts fresh" in continuing.line(given.training.start)
    # What is published has no networks.npz, and gives its actor.
    shutil.copytree(source, tmp_path / "published", ignore=shutil.ignore_patterns(policy.NETWORKS))
    assert continuing.read(tmp_path / "published").networks == ("actor",)
    assert "critic" in continuing.read(source).networks and "targets copied" in continuing.line(
        continuing.read(source)
    )


def test_a_continued_run_has_its_own_keys_hashes_and_programs(source: Path):
    plain, given, actor = (
        plans.make(single.suite_of(ENV, **SMALL, hidden=(8, 8), start=start))
        for start in (None, source, source / "policy.npz")
    )
    assert len({plan.suite.hash() for plan in (plain, given, actor)}) == 3
    assert len({plan.programs[0].name for plan in (plain, given, actor)}) == 3
    assert len({plan.runs[0].run.key_name for plan in (plain, given, actor)}) == 3
    assert "start" not in plain.suite.plain() and "start" not in records.config_of(plain.runs[0])["training"]
    start = records.config_of(given.runs[0])["training"]["start"]
    assert start == json.loads(json.dumps(start)) and "arrays" not in start
    assert (start["source"], start["networks"]) == (RUN, ["actor", "critic"])
    again = plans.make(single.suite_of(ENV, **SMALL, start=source))
    assert again.suite.hash() == given.suite.hash() and again.programs[0].name == given.programs[0].name


@pytest.mark.slow
def test_publishing_leaves_the_networks_behind_and_check_needs_them_not(tmp_path: Path, monkeypatch):
    from sparserl_jax.bench import check, publish

    options = {"seeds": 5, "sparsities": [0.8], "environments": fake.SUITE["environments"][:1]}
    fake.finished(tmp_path / "x", fake.make_plan(**options, arms=[{"recipe": "dense"}]))
    monkeypatch.setattr(publish, "_state", lambda *arguments: None)
    forge.change_all(tmp_path / "x", lambda record: record["provenance"].update(git_dirty=False))
    target = publish.publish(tmp_path / "x", results=tmp_path / "results")
    assert list(tmp_path.glob(f"x/**/{policy.NETWORKS}")) and not list(target.glob(f"**/{policy.NETWORKS}"))
    assert check.check(target) == [] and check.check(tmp_path / "x") == []


def _truncate(folder: Path) -> None:
    file = folder / policy.NETWORKS
    file.write_bytes(file.read_bytes()[:1000])


def _diverge(folder: Path) -> None:
    params = policy.load_networks(folder / policy.NETWORKS)
    params["critic"]["mlp"]["output"]["bias"][0] = np.nan
    policy.save_networks(folder / policy.NETWORKS, params)


@pytest.mark.parametrize(
    ("damage", "arguments", "sentence"),
    [
        (None, "--env gymnax:Pendulum-v1", "what rlx2 keeps at sparsity 0.9 is"),
        (None, "--env gymnax:Pendulum-v1 --recipe dense", "give the recipe and sparsity of that run"),
        (None, "--env gymnax:Pendulum-v1 --sparsity 0.7 --critic-sparsity 0.5", "its critic keeps"),
        (
            None,
            "--env gymnax:Pendulum-v1 --sparsity 0.7 --hidden 8 9",
            "have 8 at mlp/hidden_1/bias, and those of",
        ),
        (
            None,
            "--env brax:hopper --sparsity 0.7",
            "have 3 x 8 at mlp/hidden_0/kernel, and those of brax:hopper",
        ),
        (_truncate, "--env gymnax:Pendulum-v1 --sparsity 0.7", "'networks.npz' is not a policy file"),
        (_diverge, "--env gymnax:Pendulum-v1 --sparsity 0.7", "its weights are not finite"),
        (shutil.rmtree, "--env gymnax:Pendulum-v1", "there is no file or folder"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(
    damage, arguments, sentence, source, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(source, tmp_path / "source"))
    if damage is not None:
        damage(folder)
    assert cli.run(["train", *arguments.split(), "--steps", "4000", "--from", str(folder)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and sentence in error
    assert not (tmp_path / "runs").exists()


def test_methods_that_prune_begin_from_dense_networks(source: Path, monkeypatch):
    """Those of `gradual` are dense at its beginning, whatever it prunes to; SynFlow's have few weights in all."""
    dense = continuing.read(source.parent / "dense-s0000-seed000")
    for name in ("gradual", "gradual_global", "snip", "l1", "l0", "l0_unit", "eau_like"):
        made = plans.make(single.suite_of(ENV, **{**SMALL, "recipe": name}, hidden=(8, 8)))
        run, layers = made.runs[0].run, made.layers[ENV]
        continuing.check(dense, run, layers)
        if name in ("l1", "l0", "l0_unit", "eau_like"):
            continuing.check(continuing.read(source), run, layers)  # they promise no counts
        else:
            with pytest.raises(UserError, match=f"keeps .* weights.*what {name} keeps at sparsity 0.7 is"):
                continuing.check(continuing.read(source), run, layers)
    made = plans.make(single.suite_of(ENV, **{**SMALL, "recipe": "synflow"}, hidden=(8, 8)))
    with pytest.raises(
        UserError, match="its actor keeps 96 of 96 weights, what synflow keeps at sparsity 0.7 is 29"
    ):
        continuing.check(dense, made.runs[0].run, made.layers[ENV])


@pytest.mark.parametrize(
    ("name", "sparsity", "sentence"),
    [
        ("nm", 0.5, "hidden_0 has [34] live weights in a group of 4 inputs, where 2:4 has at most 2"),
        (
            "srigl",
            0.5,
            "units of hidden_1 have from [0-9]+ to [0-9]+ live inputs, where all have equally many",
        ),
        ("rigl_16x1", 0.5, "hidden_1 has blocks of 16x1 of which a part lives"),
        ("gradual_16x1", 0.5, None),
    ],
)
@pytest.mark.slow
def test_masks_of_the_right_counts_in_the_wrong_places_are_refused(name, sparsity, sentence):
    """Random masks with the method's own counts, and masks that the method itself makes."""
    made = plans.make(
        single.suite_of(ENV, **{**SMALL, "recipe": name, "sparsity": sparsity}, hidden=(16, 16))
    )
    run, layers, method = made.runs[0].run, made.layers[ENV], METHODS[name]
    arrays, generator = {}, np.random.default_rng(0)
    for network, table in layers.items():
        arrays[network] = fake._network(table, made.promise(run)[network].at(0), generator)
    start = Start("x", ENV, "td3", "", tuple(layers), arrays)
    if sentence is None:  # it begins dense
        return continuing.check(start, run, layers)
    with pytest.raises(
        UserError, match=f"{name} keeps its masks in a pattern that .* do not have .{sentence}"
    ):
        continuing.check(start, run, layers)
    for network, table in layers.items():
        events = events_of(run.training)[network]
        chosen = method.settings(table, run.knobs[network], events, run.recipe.source)
        init = jax.jit(lambda *own, table=table: method.family.init(*own[:2], table, own[2]))
        params, _, state = init(jax.random.key(0), arrays[network][0], chosen)
        arrays[network] = jax.tree.map(np.asarray, (params, state.masks))
    continuing.check(dataclasses.replace(start, arrays=arrays), run, layers)


def test_a_method_that_cannot_take_networks_up_says_so(source: Path):
    toy = "tests.reference.toy_methods:GATES"
    made = plans.make(single.suite_of(ENV, **{**SMALL, "recipe": toy}, hidden=(8, 8)))
    with pytest.raises(UserError, match="methods of the family 'gates' cannot start from trained networks"):
        continuing.check(continuing.read(source), made.runs[0].run, made.layers[ENV])


def test_another_agent_and_masks_in_another_place_are_refused(source: Path):
    run = plans.make(single.suite_of(ENV, **SMALL, hidden=(8, 8))).runs[0].run
    start = continuing.read(source)
    layers = plans.make(single.suite_of(ENV, **SMALL, hidden=(8, 8))).layers[ENV]
    continuing.check(start, run, layers)
    with pytest.raises(UserError, match="this is a training of td3; give --agent other"):
        continuing.check(dataclasses.replace(start, agent="other"), run, layers)
    (params, masks), critic = start.arrays["actor"], start.arrays["critic"]
    masks["mlp"]["hidden_0"]["bias"][3] = False
    with pytest.raises(UserError, match="do not lie where those of rlx2 do in hidden_0"):
        continuing.check(
            dataclasses.replace(start, arrays={"actor": (params, masks), "critic": critic}), run, layers
        )


@pytest.mark.slow
def test_a_continued_training_acts_with_the_given_policy_until_it_learns(
    source: Path, tmp_path: Path, capsys
):
    """End to end: the first curve point, before any update, is that of the source; the last belongs to the record."""
    line = "--recipe rlx2 --sparsity 0.7 --seeds 2 --steps 400 --warm-up 40 --batch-size 16 --episodes 2"
    line += f" --final-episodes 4 --from {source} --out {tmp_path / 'x'}"
    assert cli.run(["train", "--env", ENV, *line.split()]) == 0
    said = capsys.readouterr().out
    assert f"starts from actor and critic of {RUN}, targets copied from them" in said
    assert f"NOT FROM SCRATCH: every run starts from the actor and critic of {RUN}" in said
    found = [saved.find(tmp_path / "x/records" / RUN.replace("seed000", f"seed00{seed}")) for seed in (0, 1)]
    env, key = evaluate.environment(found[0]), key_data("evaluation", ENV)
    play = evaluate._evaluation(policy.load(source), env, key, 2, 2, None)
    before, after = (play(step, 0).mean(axis=1) for step in (20, 400))
    for member, one in enumerate(found):
        curve = records.read_curve(one.folder / "curve.csv")
        assert curve["update"][0] == 0 and curve["return"][0] == before[member]
        assert curve["update"][-1] == 360 and curve["return"][-1] != after[member]
        assert one.record["provenance"]["config"]["training"]["start"]["source"] == RUN
        assert policy.load_networks(one.folder / policy.NETWORKS).keys() == {"actor", "critic"}
    assert f"started from the actor and critic of {RUN}" in inspect.origin(found[0])
    assert evaluate.reproduce(found[1]).agrees
    # The replay of the warm-up was filled by that policy, each seed with noise of its own.
    first, second = (policy.load(one.path).params["mlp"]["output"]["kernel"] for one in found)
    assert not np.array_equal(first, second)
