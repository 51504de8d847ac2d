"""PPO through the harness: costs, records, policies over choices, evaluation, going on from a run, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import sparserl_jax
from sparserl_jax.bench import check, evaluate, paths, policy, records, saved, suites
from sparserl_jax.bench import plan as plans
from sparserl_jax.errors import UserError
from sparserl_jax.training import PPOConfig
from tests.bench import trained

RUN = "rigl-s0700-seed000"
SETTINGS: dict[str, Any] = {
    "agent": "ppo", "recipe": "rigl", "seeds": 1, "steps": 2560, "warm_up": None, "batch_size": 64, "episodes": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny real training on a task with two choices."""
    return trained.train(tmp_path_factory.mktemp("ppo") / "x", env="gymnax:CartPole-v1", **SETTINGS)


def test_a_folder_of_ppo_passes_the_check(original: Path):
    assert check.check(original.parents[1]) == []
    record = records.read(original / RUN)
    result, cost = record["result"], record["result"]["costs"]
    assert (
        result["agent"] == "ppo" and result["status"] == "ok" and result["budget"]["updates"] == 20 * 2 * 10
    )
    actor, critic = 2 * (4 * 8 + 8 * 8 + 8 * 2), 2 * (4 * 8 + 8 * 8 + 8)
    assert cost["training_flops_dense"] == 2560 * (10 * 3 * (actor + critic) + actor + critic)
    # As executed, the values of the last states come on top.
    assert cost["training_flops_executed"] == cost["training_flops_dense"] + 2560 * critic
    assert record["measured"]["steps_per_second"] == pytest.approx(2560 / record["measured"]["train_seconds"])


def test_the_policy_names_the_likeliest_choice_and_its_score_is_reproduced(original: Path):
    found = sparserl_jax.load(original / RUN)
    obs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    x = obs
    for name in ("hidden_0", "hidden_1"):
        x = np.maximum(x @ found.params["mlp"][name]["kernel"] + found.params["mlp"][name]["bias"], 0)
    outputs = x @ found.params["mlp"]["output"]["kernel"] + found.params["mlp"]["output"]["bias"]
    np.testing.assert_array_equal(found(obs), outputs.argmax(axis=-1))
    assert len(set(np.asarray(found(obs)).tolist())) == 2
    assert evaluate.reproduce(saved.find(original / RUN)).agrees


def test_a_training_goes_on_from_a_run(original: Path):
    made = trained.SETTINGS | SETTINGS | {"start": original / RUN}
    plan = plans.make(trained.single.suite_of("gymnax:CartPole-v1", **made))
    (program,) = plan.programs
    state = jax.tree.map(lambda x: x[0], program.stages["init"](program.settings)).agent
    params = policy.load_networks(original / RUN / policy.NETWORKS)
    jax.tree.map(np.testing.assert_array_equal, dict(state.actor.params), params["actor"])
    jax.tree.map(np.testing.assert_array_equal, dict(state.critic.params), params["critic"])


def test_a_continuous_policy_is_clipped_to_the_environments_box():
    description = {
        "env": "x", "agent": "ppo", "hidden": [], "obs_dim": 1, "action_dim": 1, "action_low": [-3.0],
        "action_high": [1.0],
    }  # fmt: skip
    params = {"mlp": {"output": {"kernel": np.ones((1, 1), np.float32), "bias": np.zeros(1, np.float32)}}}
    found = policy.Policy(params, params, description)
    np.testing.assert_allclose(found([[-7.0], [0.5], [7.0]]), [[-3.0], [0.0], [1.0]])


# ---- suites ------------------------------------------------------------------------------------------------


def suite(**changes: Any) -> dict[str, Any]:
    table = {
        "name": "mine",
        "steps": 4000,
        "warm_up": 0,
        "num_envs": 2,
        "seeds": 1,
        "agent": {"name": "ppo", "hidden": [8, 8], "rollout_steps": 20, "batch_size": 10, "epochs": 3},
        "evaluation": {"interval": 400, "episodes": 2, "final_episodes": 4},
        "environments": [{"name": "gymnax:CartPole-v1"}],
        "arms": [{"recipe": "dense"}, {"recipe": "rigl", "sparsities": [0.8]}],
    }
    return {**table, **changes}


def test_a_suite_of_ppo_has_its_own_keys_and_an_interval_scaled_to_its_updates():
    found = suites.parse(suite(), "mine.toml")
    assert isinstance(found.agent, PPOConfig) and found.agent.rollout_steps == 20
    training = found.training(found.tasks[0])
    training.check()
    assert (training.updates, training.dispatch_steps, training.iteration) == (1200, 400, 40)
    assert found.schedule.topology_interval == 1200 * 10_000 // 3_000_000
    shipped = suites.read(paths.suite_path("ppo_classic"))
    assert {task.name for task in shipped.tasks} == {"gymnax:Pendulum-v1", "gymnax:CartPole-v1"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"schedule": {"buffer_max": 1000}},
            "has no replay and no targets that 'buffer_max' could be about; drop it",
        ),
        ({"warm_up": 40}, "set warm_up = 0"),
        ({"agent": {"name": "ppo", "clip": -1.0}}, "'agent.clip' must be above 0, not -1"),
        ({"agent": {"name": "ppo", "batch_size": 0}}, "'agent.batch_size' must be positive, not 0"),
        ({"agent": {"name": "ppo", "largest_gradient": 0.0}}, "agent.largest_gradient = 0.0 must be above 0"),
        ({"agent": {"name": "ppo", "batch_size": 1}}, "agent.batch_size = 1: advantages are normalised"),
        ({"agent": {"name": "ppo", "tau": 0.1}}, "unknown key in mine.toml [agent] 'tau'"),
        (
            {
                "arms": [{"recipe": "rlx2", "sparsities": [0.8]}],
                "environments": [{"name": "gymnax:Pendulum-v1"}],
            },
            "agent 'ppo' has no replay",
        ),
        (
            {"environments": [{"name": "gymnax:CartPole-v1"}], "agent": {"name": "sac"}, "warm_up": 400},
            "discrete",
        ),
    ],
)
def test_what_ppo_has_not_is_refused_in_one_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        plans.make(suites.parse(suite(**changes), "mine.toml"))
    assert sentence in str(error.value) and "\n" not in str(error.value)
