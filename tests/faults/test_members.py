"""One bad step of one member: what becomes of it, and that the other members keep every bit of their results."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.training import Evaluation, Run, execute, group, recipe, stages
from tests.reference import small

BAD, MOMENT = 1, 120
"""The member that has one bad reward, and the environment step at which it has it."""


@pytest.fixture(scope="module")
def trained():
    """Outcomes of three members, of which one receives `reward` at one step; None: all is well."""
    of = small.training(steps=240, num_envs=1, dispatch=None, evaluation=Evaluation(120, 4, 4))
    of = dataclasses.replace(of, agent=dataclasses.replace(of.agent, policy_delay=2, hidden=(8,)))
    runs = [Run(of, recipe(name), 0.5 * (name == "rigl"), 0, name) for name in ("dense", "rigl", "tiny")]
    runs[2] = dataclasses.replace(runs[2], sparsity=0.5)

    def train(reward):
        (program,) = group(runs)
        if reward is None:
            return execute(program)
        data = program.settings.keys["step"][BAD]
        moment = jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(data), MOMENT))
        advance = stages.advance

        def spoilt(env, carry, key, *rest):
            now = jnp.all(jax.random.key_data(key) == moment)

            def step(*arguments):
                state, step = env.step(*arguments)
                return state, step._replace(reward=jnp.where(now, jnp.float32(reward), step.reward))

            return advance(SimpleNamespace(spec=env.spec, reset=env.reset, step=step), carry, key, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stages, "advance", spoilt)
            return execute(program)

    return train


@pytest.fixture(scope="module")
def well(trained):
    return trained(None)


@pytest.mark.parametrize(
    ("reward", "status", "invalid"),
    [(np.nan, "ok", 1), pytest.param(1e30, "diverged", 0, marks=pytest.mark.slow)],
)
def test_bad_reward_touches_nobody_else(trained, well, reward, status, invalid):
    """A reward that is no number ends the episode and is counted; one that no loss can hold is divergence."""
    assert [outcome.status for outcome in well] == ["ok"] * 3
    found = trained(reward)
    assert [outcome.status for outcome in found] == ["ok", status, "ok"]
    assert [outcome.invalid_steps for outcome in found] == [0, invalid, 0]
    for index in {0, 1, 2} - {BAD}:
        small.assert_same(found[index], well[index])
    assert found[BAD].nnz == well[BAD].nnz
    assert not np.array_equal(found[BAD].params["actor"]["mlp"]["output"]["kernel"],
                              well[BAD].params["actor"]["mlp"]["output"]["kernel"])  # fmt: skip
    finite = np.isfinite(found[BAD].final_returns)
    assert np.all(finite) or status == "diverged"
