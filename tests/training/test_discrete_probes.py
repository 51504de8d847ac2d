"""DQN, through the real Program, learns the known values of discrete probe environments, dense and sparse."""

import dataclasses

import jax
import numpy as np
import pytest

from sparserl_jax.agents.registry import algorithm
from sparserl_jax.errors import UserError
from sparserl_jax.networks import ActionValues
from sparserl_jax.training import Evaluation, Run, Schedule, Training, execute, group, recipe
from tests.reference import probes

GAMMA, HIDDEN, STEPS = 0.9, (32, 32), 3000
ANGLES = np.arange(6) * 2 * np.pi / 6
OBSERVATIONS = {
    probes.Chosen: [[-1.0], [1.0]],
    probes.Corridor: [[0.0], [0.5], [1.0]],
    probes.TimeLimitedChoices: [[np.cos(angle), np.sin(angle)] for angle in ANGLES],
}


def run(env, num_envs=1, agent="dqn", of="rigl", sparsity=0.0, n=1, **changes):
    training = Training(
        env=env.spec.name,
        env_object=env,
        agent=algorithm(agent).config(
            hidden=HIDDEN, batch_size=64, learning_rate=3e-3, gamma=GAMMA, **changes
        ),
        steps=STEPS,
        warm_up=300,
        num_envs=num_envs,
        schedule=Schedule(
            topology_interval=100, delay=600, buffer_max=STEPS, buffer_min=600, buffer_check=300
        ),
        evaluation=Evaluation(STEPS // 2, 10, 20),
    )
    training.check()
    return Run(training, dataclasses.replace(recipe(of), n=n), sparsity, 0, "probe")


# Multi-step targets are those of the best choices only where the choices behind the first one do not matter.
CASES = [
    pytest.param(probes.Chosen, 3, 3, {"target_period": 50}, marks=pytest.mark.slow),
    (probes.Corridor, 1, 1, {"target_period": 50, "epsilon_steps": 1500}),
    pytest.param(
        probes.Corridor, 3, 1, {"target": "polyak", "tau": 0.02, "double": False}, marks=pytest.mark.slow
    ),
    (probes.TimeLimitedChoices, 3, 3, {"target": "polyak", "tau": 0.02}),
]


@pytest.mark.parametrize(("probe", "num_envs", "n", "changes"), CASES)
def test_the_network_learns_the_known_value_of_every_choice_dense_and_sparse(probe, num_envs, n, changes):
    env = probe()
    (program,) = group([run(env, num_envs, sparsity=sparsity, n=n, **changes) for sparsity in (0.0, 0.8)])
    obs, choices = np.asarray(OBSERVATIONS[probe], np.float32), np.arange(probe.spec.num_actions)
    known = np.stack([probe.value(obs, np.full(len(obs), choice), GAMMA) for choice in choices], axis=-1)
    for outcome in execute(program):
        assert outcome.status == "ok"
        # A dense network has nothing to move.
        assert outcome.events["actor"] >= 10 if outcome.run.sparsity else outcome.events["actor"] == 0
        share = sum(outcome.nnz["actor"]) / outcome.layers["actor"].weights
        assert share == pytest.approx(1 - outcome.run.sparsity, abs=0.02)
        params = outcome.params["actor"]
        outside = jax.tree.map(lambda mask, x: np.any(x[~mask]), outcome.masks["actor"], params)
        assert not any(jax.tree.leaves(outside))
        found = ActionValues(HIDDEN, len(choices)).apply({"params": params}, obs)
        np.testing.assert_allclose(found, known, atol=0.2, err_msg=f"sparsity {outcome.run.sparsity}")


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (run(probes.Chosen(), agent="td3"), "agent 'td3' does not choose discrete actions.*take 'dqn'"),
        (run(probes.Acted()), "agent 'dqn' does not choose continuous actions.*take 'td3' or 'sac'"),
        (
            run(probes.Chosen(), of="rlx2"),
            "recipe 'rlx2' has a dynamic buffer.*defined for real actions only",
        ),
    ],
)
def test_what_does_not_fit_the_actions_is_refused_before_anything_is_compiled(wanted, sentence):
    (program,) = group([wanted])
    with pytest.raises(UserError, match=sentence) as refusal:
        program.shapes()
    assert "\n" not in str(refusal.value)
