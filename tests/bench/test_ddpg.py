"""DDPG through the harness: costs, records, policies, evaluation, and a suite with hindsight that can be planned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sparserl_jax
from sparserl_jax import envs
from sparserl_jax.accounting import flops
from sparserl_jax.agents import ddpg
from sparserl_jax.bench import check, evaluate, records, saved, suites
from sparserl_jax.bench import plan as plans
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import allocation
from tests.bench import trained

RUN = "rigl-s0700-seed001"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny real training of two seeds."""
    folder = tmp_path_factory.mktemp("ddpg") / "x"
    return trained.train(folder, env="own:NeedleReach", agent="ddpg", recipe="rigl", seeds=2)


@pytest.mark.long
def test_a_folder_of_ddpg_passes_the_check_and_its_evaluation_is_reproduced(original: Path):
    assert check.check(original.parents[1]) == []
    record = records.read(original / RUN)
    assert record["result"]["agent"] == "ddpg" and record["result"]["status"] == "ok"
    training = record["provenance"]["config"]["training"]
    layers = ddpg.modules((8, 8), 5).layers(10, 5)
    a, c = flops.forward(layers["actor"]), flops.forward(layers["critic"])
    assert (a, c) == (2 * (10 * 8 + 8 * 8 + 8 * 5), 2 * (15 * 8 + 8 * 8 + 8))
    update = flops.ddpg_update(a, c, batch=training["agent"]["batch_size"])
    updates = training["steps"] - training["warm_up"]
    assert record["result"]["costs"]["training_flops_dense"] == updates * (update + a)
    assert evaluate.reproduce(saved.find(original / RUN)).agrees
    assert np.asarray(sparserl_jax.load(original / RUN)(np.zeros(10, np.float32))).shape == (5,)


def test_a_run_of_ddpg_adds_up_its_updates():
    layers = ddpg.modules((64, 64), 5).layers(10, 5)
    pi, q = layers["actor"], layers["critic"]
    a, c = flops.forward(pi), flops.forward(q)
    run = flops.ddpg_run(pi, q, updates=9, env_steps=9, batch=128)
    assert run.updates == 9 * 128 * (4 * a + 6 * c) and run.acting == 9 * a and run.total == run.dense
    nnz = allocation.er(pi, 0.9), allocation.er(q, 0.9)
    live, live_q = flops.forward(pi, nnz[0]), flops.forward(q, nnz[1])
    grown = flops.ddpg_run(
        pi, q, *nnz, updates=9, batch=2, dense_growth=True, actor_events=3, critic_events=2
    )
    assert grown.updates == 9 * 2 * (4 * live + 6 * live_q)
    assert grown.surcharge == 2 * (3 * (a - live) + 2 * (c - live_q)) and grown.dense == 9 * 2 * (
        4 * a + 6 * c
    )


def plan_of(**changes):
    table = {
        "name": "mine",
        "steps": 4000,
        "warm_up": 400,
        "seeds": 1,
        "agent": {"name": "ddpg", "replay": "hindsight"},
        "evaluation": {"interval": 400, "episodes": 2, "final_episodes": 4},
        "environments": [{"name": "own:NeedleReach"}],
        "arms": [{"recipe": "rigl", "sparsities": [0.8], "overrides": {"later_goals": 0.0}}],
    }
    suite = suites.parse({**table, **changes}, "mine.toml")
    return plans.make(suite, describe=lambda source: envs.make(source).spec)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"environments": [{"name": "gymnax:Pendulum-v1"}]}, "Pendulum-v1' does not say where goals lie"),
        (
            {"agent": {"name": "ddpg", "replay": "past"}},
            "'replay' must be 'plain' or 'hindsight', not 'past'",
        ),
        ({"arms": [{"recipe": "rlx2", "sparsities": [0.8]}]}, "asks for targets of several steps"),
        (
            {"arms": [{"recipe": "rigl", "sparsities": [0.8], "overrides": {"replay": 1.0}}]},
            "'replay' is the same for all members",
        ),
    ],
)
def test_a_plan_refuses_what_hindsight_cannot_do_in_one_sentence(changes, sentence):
    assert len(plan_of().runs) == 1
    with pytest.raises(UserError) as error:
        plan_of(**changes)
    assert sentence in str(error.value) and "\n" not in str(error.value)
