"""DQN through the harness: costs, records, policies of choices, evaluation, inspection."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

import sparserl_jax
from sparserl_jax.accounting import flops
from sparserl_jax.bench import check, continuing, evaluate, inspect, policy, records, saved, suites
from sparserl_jax.bench import plan as plans
from sparserl_jax.errors import UserError
from sparserl_jax.networks import ActionValues, actor_layers
from sparserl_jax.sparsity import allocation
from tests.bench import trained
from tests.reference import dqn_numpy

RUN = "rigl-s0700-seed001"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny real training of two seeds."""
    folder = tmp_path_factory.mktemp("dqn") / "x"
    return trained.train(folder, env="gymnax:CartPole-v1", agent="dqn", recipe="rigl", seeds=2)


def test_a_folder_of_dqn_passes_the_check_and_is_charged_by_its_updates(original: Path):
    assert check.check(original.parents[1]) == []
    result = records.read(original / RUN)["result"]
    assert result["agent"] == "dqn" and result["status"] == "ok"
    training = records.read(original / RUN)["provenance"]["config"]["training"]
    updates = training["steps"] - training["warm_up"]
    network = flops.forward(actor_layers(ActionValues((8, 8), 2), 4))
    assert network == 2 * (4 * 8 + 8 * 8 + 8 * 2)
    update = flops.dqn_update(network, batch=training["agent"]["batch_size"])
    assert result["costs"]["training_flops_dense"] == updates * (update + network)


def test_the_policy_returns_the_number_of_the_best_choice(original: Path):
    found = sparserl_jax.load(original / RUN)
    obs = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    chosen = np.asarray(found(obs))
    assert chosen.shape == (7,) and chosen.dtype == np.int32
    np.testing.assert_array_equal(chosen, dqn_numpy.values(found.params, obs).argmax(axis=1))
    assert found.description["num_actions"] == 2 and np.asarray(found(obs[0])).shape == ()


def test_the_recorded_evaluation_is_reproduced_and_other_kinds_of_actions_are_refused(original: Path):
    assert evaluate.reproduce(saved.find(original / RUN)).agrees
    with pytest.raises(UserError, match="has discrete actions, but those of .*Pendulum-v1 are continuous"):
        evaluate.environment(saved.find(original / RUN), "gymnax:Pendulum-v1")


def test_a_training_goes_on_from_its_one_network(original: Path):
    made = trained.SETTINGS | {"agent": "dqn", "recipe": "rigl", "seeds": 1, "start": original / RUN}
    plan = plans.make(trained.single.suite_of("gymnax:CartPole-v1", **made))
    assert "starts from actor of" in continuing.line(plan.suite.start)
    (program,) = plan.programs
    state = jax.tree.map(lambda x: x[0], program.stages["init"](program.settings)).agent
    params = policy.load_networks(original / RUN / policy.NETWORKS)
    jax.tree.map(np.testing.assert_array_equal, dict(state.actor.params), params["actor"])
    jax.tree.map(np.testing.assert_array_equal, dict(state.target[0]), params["actor"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"agent": {"name": "dqn", "epsilon_steps": 0}},
            "must be a number that is whole and at least 1, not 0",
        ),
        (
            {"agent": {"name": "dqn", "tau": 0.1}},
            "agent 'dqn': 'tau' changes nothing where target = \"hard\"",
        ),
        (
            {"arms": [{"recipe": "rigl", "sparsities": [0.8], "overrides": {"tau": 0.1}}]},
            "[[arms]], arm 'rigl', overrides: 'tau' changes nothing where target = \"hard\": drop it, or set ",
        ),
        (
            {"tune": {"seeds": 1, "seeds_from": 100, "grid": {"tau": [0.1, 0.2]}}},
            "[tune] grid: 'tau' changes nothing where target = \"hard\"",
        ),
        (
            {"arms": [{"recipe": "rigl", "sparsities": [0.8], "critic_sparsities": [0.5]}]},
            "agent 'dqn' has no critic that could have a sparsity of its own",
        ),
        (
            {"environments": [{"name": "x", "sparsity": 0.8, "critic_sparsity": 0.5}]},
            "agent 'dqn' has no critic",
        ),
    ],
)
def test_what_dqn_has_not_is_refused_in_one_sentence(changes: dict[str, Any], sentence: str):
    table = {
        "name": "mine",
        "steps": 4000,
        "warm_up": 400,
        "seeds": 1,
        "agent": {"name": "dqn"},
        "evaluation": {"interval": 400, "episodes": 2, "final_episodes": 4},
        "environments": [{"name": "gymnax:CartPole-v1"}],
        "arms": [
            {"recipe": "rigl"} if "environments" in changes else {"recipe": "rigl", "sparsities": [0.8]}
        ],
    }
    with pytest.raises(UserError) as error:
        suites.parse({**table, **changes}, "mine.toml")
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_host_environments_of_choices_train_and_pass_the_check(tmp_path: Path):
    pytest.importorskip("gymnasium")
    made = {"agent": "dqn", "recipe": "rigl", "seeds": 2, "steps": 200}
    folder = trained.train(tmp_path / "x", env="gymnasium:CartPole-v1", **made)
    assert check.check(tmp_path / "x") == []
    result = records.read(folder / RUN)["result"]
    assert result["status"] == "ok" and 5 < np.mean(result["final_returns"]) <= 500
    assert evaluate.reproduce(saved.find(folder / RUN)).agrees


def test_inspect_shows_the_network(original: Path):
    out = io.StringIO()
    inspect.show(saved.find(original / RUN), Console(file=out, width=100))
    assert "dqn, hidden layers 8 x 8" in out.getvalue()


def test_a_run_of_dqn_adds_up_its_updates():
    layers = actor_layers(ActionValues((64, 64), 2), 4)
    c = flops.forward(layers)
    assert c == 2 * (4 * 64 + 64 * 64 + 64 * 2)
    assert flops.dqn_update(c, batch=128, double=False) == 128 * 4 * c
    run = flops.dqn_run(layers, (), updates=9, env_steps=9, batch=128, target_actions=2 * 9)
    assert run.updates == 9 * flops.dqn_update(c, batch=128) == 9 * 128 * 5 * c
    assert run.acting == 9 * c and run.total == run.dense
    counts = allocation.er(layers, 0.9)
    live = flops.forward(layers, counts)
    grown = flops.dqn_run(layers, (), counts, updates=9, batch=2, dense_growth=True, actor_events=3)
    assert grown.updates == 9 * 2 * 4 * live and grown.surcharge == 3 * 2 * (c - live)
    assert grown.dense == 9 * 2 * 4 * c
