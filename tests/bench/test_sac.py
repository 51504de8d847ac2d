"""SAC through the harness: costs, records, policies, evaluation, inspection, going on from a run."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

import sparserl_jax
from sparserl_jax.accounting import flops, sizes
from sparserl_jax.agents import sac
from sparserl_jax.bench import (
    check,
    continuing,
    costs,
    decompose,
    evaluate,
    inspect,
    paths,
    policy,
    records,
    saved,
    suites,
)
from sparserl_jax.bench import plan as plans
from sparserl_jax.deploy import low_rank
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import METHODS, allocation
from sparserl_jax.training import SACConfig, group, recipe
from sparserl_jax.training.config import Run
from tests.accounting.networks import ROWS
from tests.bench import trained
from tests.sparsity.test_allocation import ROWS as LAYERS
from tests.training.test_sac_program import training

RUN = "rlx2-s0700-seed001"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny real training of two seeds."""
    return trained.train(tmp_path_factory.mktemp("sac") / "x", agent="sac", recipe="rlx2", seeds=2)


# ---- what leaves a run -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder_of_sac_passes_the_check(original: Path):
    assert check.check(original.parents[1]) == []
    record = records.read(original / RUN)
    assert record["result"]["agent"] == "sac" and record["result"]["status"] == "ok"
    assert record["provenance"]["config"]["training"]["agent"]["explore"] == "sample"


@pytest.mark.slow
def test_the_policy_is_the_deterministic_one_in_the_environments_units(original: Path):
    found = sparserl_jax.load(original / RUN)
    obs = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, -2.0]], np.float32)
    kernels = found.params["mlp"]
    x = obs
    for name in ("hidden_0", "hidden_1"):
        x = np.maximum(x @ kernels[name]["kernel"] + kernels[name]["bias"], 0)
    outputs = x @ kernels["output"]["kernel"] + kernels["output"]["bias"]
    assert outputs.shape == (2, 2)  # mean and spread of one torque
    np.testing.assert_allclose(found(obs), 2.0 * np.tanh(outputs[:, :1]), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_recorded_evaluation_is_reproduced_bit_for_bit(original: Path):
    for folder in sorted(original.iterdir()):
        compared = evaluate.reproduce(saved.find(folder))
        assert compared.agrees and len(set(compared.found.final)) == 4
    again = evaluate.fresh(saved.find(original / RUN), episodes=3, seed=1)
    assert again.shape == (3,) and np.isfinite(again).all()


@pytest.fixture
def drawn(original: Path, tmp_path: Path) -> saved.Saved:
    """A copy of the run whose record says that actions were drawn in its evaluations."""
    folder = Path(shutil.copytree(original / RUN, tmp_path / RUN))
    record = records.read(folder)
    record["provenance"]["config"]["training"]["evaluation"]["sampled"] = True
    (folder / "record.json").write_text(json.dumps(record))
    return saved.find(folder)


@pytest.mark.slow
def test_a_record_of_drawn_actions_is_played_with_drawn_actions(
    original: Path, drawn: saved.Saved, monkeypatch
):
    mode, fresh = (evaluate.fresh(one, episodes=3, seed=1) for one in (saved.find(original / RUN), drawn))
    assert not np.isclose(mode, fresh).any()
    assert "seed 1, actions drawn" in evaluate.fresh_lines(drawn, None, fresh, 1)[0]
    assert "drawn" not in evaluate.fresh_lines(saved.find(original / RUN), None, mode, 1)[0]
    made = decompose.decompose(drawn, low_rank.rule("rank=1,1,1"), episodes=3, seed=1)
    np.testing.assert_array_equal(made.before, fresh)
    plain, thin = decompose.at_equal_rank([drawn], [(1, 1, 1)], episodes=3, seed=1)
    np.testing.assert_allclose(plain.returns, fresh, rtol=1e-2)
    np.testing.assert_allclose(thin.returns, made.after, rtol=1e-2)
    # On the selection episodes, too.
    monkeypatch.setattr(decompose, "declared_ends", lambda saved: decompose.Ends(-2000.0, -100.0, "here"))
    layers, _ = decompose.actor(drawn)
    chosen = decompose.select(drawn, layers, 0.05, 3, 2, 1)
    key, env = decompose.selection_key("gymnax:Pendulum-v1", 1), evaluate.environment(drawn)
    played = evaluate.side_by_side(drawn.policy, env, key, 1, 2, None, evaluate.sampler(drawn, env))
    alone = played(jax.tree.map(lambda x: x[None], drawn.policy.params), 0, 0)
    assert chosen.undecomposed == pytest.approx(alone.mean(), rel=1e-2)


def test_what_was_drawn_is_not_compared_with_what_was_not_and_is_drawn_on_the_host(
    original: Path, drawn: saved.Saved
):
    with pytest.raises(UserError, match="actions drawn.*evaluated in one way"):
        decompose.at_equal_rank([drawn, saved.find(original / RUN)], [(1, 1, 1)], episodes=1)
    pytest.importorskip("gymnasium")
    first, again = (evaluate.fresh(drawn, env="gymnasium:Pendulum-v1", episodes=2) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    mode = dataclasses.replace(drawn, record=None)  # of a bare policy, the mode acts
    assert np.all(evaluate.fresh(mode, env="gymnasium:Pendulum-v1", episodes=2) != first)


def test_inspect_speaks_of_outputs_where_they_are_not_the_actions(original: Path):
    out = io.StringIO()
    inspect.show(saved.find(original / RUN), Console(file=out, width=100))
    said = out.getvalue()
    assert "sac, hidden layers 8 x 8" in said and "depend on an observation" in said
    assert "reach an output" in said and "of 2 outputs" in said and "critic[1]" in said
    record = records.read(original / RUN)["result"]["costs"]
    assert f"{record['actor_parameters']:,} parameters" in said


@pytest.mark.slow
def test_a_training_goes_on_from_a_run_with_a_temperature_of_its_own(original: Path):
    made = trained.SETTINGS | {"agent": "sac", "recipe": "rlx2", "seeds": 1, "start": original / RUN}
    plan = plans.make(trained.single.suite_of("gymnax:Pendulum-v1", **made))
    (program,) = plan.programs
    state = jax.tree.map(lambda x: x[0], program.stages["init"](program.settings)).agent
    params = policy.load_networks(original / RUN / policy.NETWORKS)
    jax.tree.map(np.testing.assert_array_equal, dict(state.actor.params), params["actor"])
    jax.tree.map(np.testing.assert_array_equal, dict(state.target_critic[0]), params["critic"])
    assert float(state.log_temperature) == 0.0
    with pytest.raises(UserError, match="this is a training of td3; give --agent sac"):
        plans.make(trained.single.suite_of("gymnax:Pendulum-v1", **{**made, "agent": "td3"}))
    assert "targets copied" in continuing.line(plan.suite.start)


# ---- suites ------------------------------------------------------------------------------------------------


def suite(**agent) -> dict:
    return {
        "name": "mine",
        "steps": 4000,
        "warm_up": 400,
        "seeds": 1,
        "agent": {"name": "sac", "hidden": [8, 8], "batch_size": 16, **agent},
        "schedule": {"topology_interval": 100, "delay": 400, "buffer_check": 200},
        "evaluation": {"interval": 400, "episodes": 2, "final_episodes": 4},
        "environments": [{"name": "gymnax:Pendulum-v1"}],
        "arms": [{"recipe": "dense"}, {"recipe": "rlx2", "sparsities": [0.8]}],
    }


def test_a_suite_of_sac_has_its_own_keys_and_schedule():
    found = suites.parse(suite(explore="mean", entropy="bootstrap"), "mine.toml")
    assert isinstance(found.agent, SACConfig)
    assert (found.agent.explore, found.agent.entropy, found.agent.policy_delay) == ("mean", "bootstrap", 1)
    assert (found.schedule.buffer_max, found.schedule.buffer_min) == (3_000_000, 200_000)
    assert suites.parse(suite(), "mine.toml").hash() != found.hash()


@pytest.mark.parametrize(
    ("agent", "sentence"),
    [
        ({"explore": "sampled"}, "'explore' must be 'sample' or 'mean', not 'sampled'"),
        ({"entropy": "all"}, "'entropy' must be 'path' or 'bootstrap', not 'all'"),
        ({"exploration_noise": 0.1}, "unknown key in mine.toml [agent] 'exploration_noise'"),
        ({"tau": 0.0}, "'agent.tau' must be in (0, 1], not 0"),
    ],
)
def test_what_sac_has_not_is_refused_in_one_sentence(agent, sentence):
    with pytest.raises(UserError) as error:
        suites.parse(suite(**agent), "mine.toml")
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_quick_sac_compares_what_quick_compares():
    ours, theirs = (suites.read(paths.suite_path(name)) for name in ("quick_sac", "quick"))
    assert [(arm.name, arm.sparsities, arm.seeds) for arm in ours.arms] == [
        (arm.name, arm.sparsities, arm.seeds) for arm in theirs.arms
    ]
    assert ours.tasks == theirs.tasks[:1] and ours.steps == theirs.steps
    assert (ours.agent.hidden, ours.agent.batch_size) == (theirs.agent.hidden, theirs.agent.batch_size)


# ---- published numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [row for row in ROWS if row[0].startswith("SAC")], ids=lambda row: row[0])
def test_networks_of_sac_have_the_published_sizes_sparsities_and_costs(row):
    name, obs_dim, action_dim, _, actor_s, size, critic_s, _ = row
    layers = costs.layer_tables(SACConfig(), obs_dim, action_dim)
    weights = {"HalfCheetah": 72_960, "Walker2d": 72_960, "Hopper": 69_888, "Ant": 98_048}[name.split()[1]]
    assert layers["actor"].weights == weights
    counts = {
        "actor": allocation.er(layers["actor"], actor_s),
        "critic": allocation.er(layers["critic"], critic_s),
    }
    (printed,) = [known for known in LAYERS if known[0] == name]
    for network, expected in (("actor", printed[5]), ("critic", printed[7])):
        for (layer, copy), kept in zip(layers[network].tensors, counts[network], strict=True):
            share = expected[layers[network].index(layer)]
            assert abs(1 - kept / layer.size - share) < 0.5e-4 + 1 / layer.size, (layer.name, copy)
    live, full = ({n: sum(counts[n]) for n in counts}, {n: layers[n].weights for n in counts})
    share = sizes.weight_share(live, full, target_actor=False)
    assert round(share, 3) == size
    # Checked shares of training FLOPs: three-step targets of the sparse run over one-step ones of the dense run.
    checked = {"HalfCheetah": 0.186, "Hopper": 0.0446, "Walker2d": 0.1121, "Ant": 0.2246}[name.split()[1]]
    run = flops.sac_run(
        layers["actor"],
        layers["critic"],
        counts["actor"],
        counts["critic"],
        updates=1,
        target_actions=3,
        convention="minus1",
    )
    assert run.updates / run.dense == pytest.approx(checked, abs=5e-4 if checked == 0.186 else 1e-4)


@pytest.mark.parametrize(
    ("name", "entropy", "passes", "executed"),
    [
        # 180 updates: 59 before number 60 with one-step targets, 121 with targets of three steps.
        ("dense", None, 180, 180),
        ("rlx2", None, 59 + 3 * 121, 3 * 180),
        ("rlx2", "bootstrap", 180, 180),
        ("rlx2_paper", None, 180, 3 * 180),
        ("rlx2_paper", "path", 59 + 3 * 121, 3 * 180),
    ],
)
def test_multi_step_targets_cost_an_actor_pass_per_step_from_their_start_on(name, entropy, passes, executed):
    agent = SACConfig(hidden=(16, 16), batch_size=16, entropy=entropy)
    run = Run(training(agent=agent), recipe(name), 0.0 if name == "dense" else 0.6, 0, name)
    assert run.training.updates == 180
    layers = costs.layer_tables(agent, 3, 1)
    promised = costs.declared(run, layers)
    counts = {network: promised[network].counts for network in layers}
    found = costs.costs(run, layers, counts, promised)
    a, q = (flops.forward(layers[network]) for network in ("actor", "critic"))
    live, live_q = (flops.forward(layers[network], counts[network]) for network in ("actor", "critic"))
    assert found["training_flops_dense"] == 16 * 180 * (4 * a + 6 * q) + 180 * a
    assert found["training_flops_executed"] == 16 * ((executed + 3 * 180) * a + 180 * 6 * q) + 180 * a
    theory = 16 * ((passes + 3 * 180) * live + 180 * 6 * live_q) + 180 * live
    growth = promised["actor"].events * 16 * (a - live) + promised["critic"].events * 16 * (q - live_q)
    assert found["training_flops_theory"] == theory + (growth if name != "dense" else 0)
    assert found["inference_flops"] == live


def test_every_method_can_be_planned_and_groups_with_its_family():
    of = training()
    # A half is a sparsity that every method can have, those of N:M too.
    runs = [Run(of, recipe(name), 0.5, 0, name) for name in METHODS]
    programs = group(runs)
    assert sum(len(program.runs) for program in programs) == len(METHODS)
    assert len(programs) == len({method.family for method in METHODS.values()})
    assert sac.SACConfig.TRACED.keys() == {"learning_rate", "gamma", "tau"}
