"""DDPG through real Programs: probe environments, hindsight on goals, resume, refusals."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from sparserl_jax.agents.ddpg import DDPGConfig
from sparserl_jax.agents.registry import algorithm
from sparserl_jax.errors import UserError
from sparserl_jax.networks import Critic
from sparserl_jax.training import (
    Evaluation,
    Run,
    Schedule,
    Stopped,
    Training,
    diagnostics,
    execute,
    group,
    recipe,
)
from tests.reference import probes, small
from tests.training.test_probes import GAMMA, assert_sparse_as_asked, grid, known

HIDDEN = (64, 64)
REACH = DDPGConfig(hidden=(16, 16), batch_size=16, replay="hindsight")


def reaching(of="rigl", agent=REACH, env="own:NeedleReach", sparsity=0.5, arm=None, overrides=(), **changes):
    """A run on goals: two environments, episodes of 50 steps, an event every 20 ticks, a ring that is overwritten."""
    training = Training(
        env=env,
        agent=agent,
        steps=320,
        warm_up=80,
        num_envs=2,
        dispatch=40,
        schedule=Schedule(topology_interval=20, delay=80, buffer_max=160, buffer_min=40, buffer_check=80),
        evaluation=Evaluation(160, 4, 8),
    )
    wanted = dataclasses.replace(recipe(of), **changes)
    return Run(training, wanted, sparsity, 0, arm or of, overrides=overrides)


@pytest.mark.parametrize(
    ("probe", "num_envs"),
    [
        pytest.param(probes.Delayed, 3, marks=pytest.mark.slow),
        pytest.param(probes.Acted, 1, marks=pytest.mark.slow),
        pytest.param(probes.Both, 3, marks=pytest.mark.slow),
        (probes.TimeLimited, 3),
    ],
)
def test_the_critic_learns_the_known_value_of_every_action_at_every_sparsity(probe, num_envs):
    """On plain replay with targets of three steps; without a price on actions, which would move the best one."""
    agent = DDPGConfig(hidden=HIDDEN, batch_size=64, learning_rate=3e-3, gamma=GAMMA, tau=0.02, action_l2=0.0)
    of = Training(
        env=probe.spec.name,
        env_object=probe(),
        agent=agent,
        steps=4500,
        warm_up=300,
        num_envs=num_envs,
        schedule=Schedule(
            topology_interval=100, delay=600, buffer_max=4500, buffer_min=600, buffer_check=300
        ),
        evaluation=Evaluation(1500, 10, 20),
    )
    rlx2 = dataclasses.replace(recipe("rlx2"), n=3)
    (program,) = group([Run(of, rlx2, sparsity, 0, "probe") for sparsity in (0.0, 0.8)])
    obs, action = grid(probe)
    for outcome in execute(program):
        assert outcome.status == "ok"
        assert_sparse_as_asked(outcome)
        found = Critic(HIDDEN).apply({"params": outcome.params["critic"]}, obs, action)
        np.testing.assert_allclose(
            found, known(probe, obs, action), atol=0.2, err_msg=f"sparsity {outcome.run.sparsity}"
        )
        if probe in (probes.Acted, probes.Both):  # the best return is 1, for one action only
            assert np.min(outcome.final_returns) > 0.95


@pytest.fixture(scope="module")
def program():
    """One program of a dense network, a sparse one, and one that relabels nothing."""
    runs = [
        reaching("dense", sparsity=0.0),
        reaching(),
        reaching(arm="k0", overrides=(("later_goals", 0.0),)),
    ]
    (only,) = group(runs)
    return only


@pytest.fixture(scope="module")
def outcomes(program):
    return execute(program)


def test_arms_with_and_without_hindsight_share_a_program(program, outcomes):
    assert program.n_max == 1 and "-ddpg-drop_grow-n1-" in program.name
    np.testing.assert_allclose(program.settings.agent["traced"].relabelled, [0.8, 0.8, 0.0])
    shapes = program.shapes()
    assert shapes.replay.episodes.first.shape == shapes.replay.reward.shape
    rigl, k0 = outcomes[1:]
    assert {outcome.status for outcome in outcomes} == {"ok"}
    # The same draw and the same random numbers: what is relabelled makes the difference.
    assert not all(
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (rigl.params, k0.params)), strict=True)
    )
    for outcome in outcomes:
        for network, layers in outcome.layers.items():
            share = sum(outcome.nnz[network]) / layers.weights
            assert share == pytest.approx(1 - outcome.run.knobs[network], abs=0.03)
    assert rigl.events["actor"] > 5 and rigl.events["critic"] > 5


def test_every_column_of_its_curve_is_documented(outcomes):
    for outcome in outcomes:
        assert all(diagnostics.column_of(name) is not None for name in outcome.curve)
        assert np.all(outcome.curve["return"] >= -50) and np.all(outcome.curve["buffer"] <= 160)


def test_a_run_that_was_stopped_and_resumed_ends_undisturbed(program, outcomes, tmp_path):
    with pytest.raises(Stopped):
        execute(program, tmp_path, progress=small.interrupt_at(200))
    for ours, theirs in zip(execute(program, tmp_path), outcomes, strict=True):
        small.assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"n": 3}, "recipe 'rigl' asks for targets of several steps .*hindsight"),
        ({"buffer": "dynamic"}, "recipe 'rigl' asks for a dynamic buffer, .*hindsight"),
        ({"env": "gymnax:Pendulum-v1"}, "environment 'gymnax:Pendulum-v1' does not say where goals lie"),
        ({"env": "gymnax:CartPole-v1"}, "agent 'ddpg' does not choose discrete actions"),
    ],
)
def test_what_hindsight_cannot_do_is_refused_before_anything_is_compiled(wanted, sentence):
    with pytest.raises(UserError, match=sentence) as refusal:
        group([reaching(**wanted)])[0].shapes()
    assert "\n" not in str(refusal.value)


def test_on_plain_replay_it_takes_longer_targets_and_a_dynamic_buffer():
    run = reaching("rlx2", agent=dataclasses.replace(REACH, replay="plain"), n=3)
    (program,) = group([run])
    assert program.keep_mean and program.shapes().replay.episodes is None
    assert algorithm("ddpg").goals and not algorithm("td3").goals
