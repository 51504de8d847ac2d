"""TD3 and SAC under RLx2 and PPO under RigL, through the real Program, learn the known values of the probe environments
at every sparsity.

SAC's values count entropy, too. In the probes of one step nothing follows that could be counted; in the others the
action does nothing, so the policy keeps more entropy than the target and the temperature falls towards zero.
"""

import dataclasses

import jax
import numpy as np
import pytest

from sparserl_jax.agents.registry import algorithm
from sparserl_jax.networks import TwinCritic, Value
from sparserl_jax.training import (
    Evaluation,
    PPOConfig,
    Run,
    Schedule,
    Training,
    execute,
    group,
    recipe,
    rollout_stages,
    stages,
)
from tests.reference import probes

GAMMA = 0.9
HIDDEN = (64, 64)
SPARSITIES = (0.0, 0.5, 0.8)
STEPS = 4500

OBSERVATIONS = {
    probes.Constant: [[0.0]],
    probes.Observed: [[-1.0], [1.0]],
    probes.Delayed: [[0.0], [1.0]],
    probes.Acted: [[0.0]],
    probes.Both: [[-1.0], [1.0]],
    probes.TimeLimited: [[np.cos(angle), np.sin(angle)] for angle in np.arange(6) * 2 * np.pi / 6],
}


def training(env, num_envs, delay, agent="td3"):
    return Training(
        env=env.spec.name,
        env_object=env,
        agent=algorithm(agent).config(
            hidden=HIDDEN, batch_size=64, learning_rate=3e-3, policy_delay=delay, gamma=GAMMA, tau=0.02
        ),
        steps=STEPS,
        warm_up=300,
        num_envs=num_envs,
        schedule=Schedule(
            topology_interval=100, delay=600, buffer_max=STEPS, buffer_min=600, buffer_check=300
        ),
        evaluation=Evaluation(STEPS // 3, 10, 20),
    )


def trained(env, num_envs, delay, sparsities=SPARSITIES, agent="td3"):
    of = training(env, num_envs, delay, agent)
    of.check()
    rlx2 = dataclasses.replace(recipe("rlx2"), n=3)
    (program,) = group([Run(of, rlx2, sparsity, 0, "probe") for sparsity in sparsities])
    return execute(program)


def grid(probe):
    """Every observation of the probe with actions across the box, in [-1, 1]: ([B, O], [B, 1])."""
    obs = np.asarray(OBSERVATIONS[probe], np.float32)
    actions = np.linspace(-0.6, 0.9, 6, dtype=np.float32)[:, None]
    return np.repeat(obs, len(actions), axis=0), np.tile(actions, (len(obs), 1))


def known(probe, obs, action):
    low, high = probe.spec.action_low[0], probe.spec.action_high[0]
    return probe().value(obs, (low + high) / 2 + action * (high - low) / 2, GAMMA)


def learned(outcome, obs, action):
    """Both critics' values, [2, B]."""
    return np.asarray(TwinCritic(HIDDEN).apply({"params": outcome.params["critic"]}, obs, action))


def assert_sparse_as_asked(outcome):
    """The run had its budget of weights, all zeros are zeros, and topology changed at least ten times, or never where
    all is alive."""
    if outcome.run.sparsity:
        assert outcome.events["actor"] >= 10 and outcome.events["critic"] >= 10
    else:
        assert outcome.events["actor"] == outcome.events["critic"] == 0
    for network, layers in outcome.layers.items():
        share = sum(outcome.nnz[network]) / layers.weights
        assert share == pytest.approx(1 - outcome.run.sparsity, abs=0.02)
        outside = jax.tree.map(
            lambda mask, value: np.any(value[~mask]), outcome.masks[network], outcome.params[network]
        )
        assert not any(jax.tree.leaves(outside))


# Agent, environments per member and policy delay: one environment, and three with delay 1 or 3.
CASES = [
    pytest.param("td3", probes.Constant, 3, 1, marks=pytest.mark.long),
    pytest.param("td3", probes.Observed, 1, 2, marks=pytest.mark.long),
    pytest.param("td3", probes.Delayed, 3, 1, marks=pytest.mark.long),
    ("td3", probes.Acted, 1, 2),
    pytest.param("td3", probes.Both, 3, 3, marks=pytest.mark.long),
    ("td3", probes.TimeLimited, 3, 3),
    pytest.param("sac", probes.Constant, 3, 1, marks=pytest.mark.long),
    pytest.param("sac", probes.Observed, 1, 2, marks=pytest.mark.long),
    pytest.param("sac", probes.Delayed, 3, 1, marks=pytest.mark.long),
    pytest.param("sac", probes.Acted, 1, 1, marks=pytest.mark.long),
    pytest.param("sac", probes.Both, 3, 3, marks=pytest.mark.long),
    ("sac", probes.TimeLimited, 3, 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "probe", "num_envs", "delay"), CASES)
def test_critics_learn_the_known_value_of_every_action_at_every_sparsity(agent, probe, num_envs, delay):
    obs, action = grid(probe)
    value = known(probe, obs, action)
    for outcome in trained(probe(), num_envs, delay, agent=agent):
        assert outcome.status == "ok"
        assert_sparse_as_asked(outcome)
        np.testing.assert_allclose(
            learned(outcome, obs, action),
            np.broadcast_to(value, (2, len(obs))),
            atol=0.2,
            err_msg=f"sparsity {outcome.run.sparsity}",
        )
        if probe in (probes.Acted, probes.Both):  # the best return is 1, for one action only
            assert np.min(outcome.final_returns) > 0.95
            best = 0.5 * np.ones(1) if probe is probes.Acted else 0.5 * np.ravel(OBSERVATIONS[probe])
            policy = algorithm(agent).modules(HIDDEN, 1).policy
            chosen = policy(outcome.params["actor"], np.asarray(OBSERVATIONS[probe], np.float32))
            np.testing.assert_allclose(np.ravel(chosen), best, atol=0.1)


ROLLOUTS = PPOConfig(
    hidden=HIDDEN, rollout_steps=16, epochs=10, batch_size=64, learning_rate=3e-3, gamma=GAMMA, log_std=-0.5
)
PPO_CASES = [
    pytest.param(probes.Constant, marks=pytest.mark.long),
    pytest.param(probes.Observed, marks=pytest.mark.long),
    pytest.param(probes.Delayed, marks=pytest.mark.long),
    pytest.param(probes.Acted, marks=pytest.mark.long),
    pytest.param(probes.Both, marks=pytest.mark.long),
    pytest.param(probes.TimeLimited, marks=pytest.mark.slow),
]


def by_rollouts(probe, sparsities):
    """PPO of as many iterations as it takes: 100 of 128 steps, an event every 100 of 2,000 ticks."""
    of = Training(
        env=probe.spec.name,
        env_object=probe,
        agent=ROLLOUTS,
        steps=12_800,
        warm_up=0,
        num_envs=8,
        schedule=Schedule(topology_interval=100),
        evaluation=Evaluation(6400, 10, 20),
    )
    (program,) = group([Run(of, recipe("rigl"), sparsity, 0, "probe") for sparsity in sparsities])
    return execute(program)


def state_values(outcome, probe):
    """V of every observation of the probe."""
    obs = np.asarray(OBSERVATIONS[probe], np.float32)
    return np.asarray(Value(HIDDEN).apply({"params": outcome.params["critic"]}, obs))


@pytest.mark.parametrize("probe", PPO_CASES)
def test_ppo_learns_the_known_value_of_every_state_at_every_sparsity(probe):
    obs = np.asarray(OBSERVATIONS[probe], np.float32)
    for outcome in by_rollouts(probe(), (0.0, 0.8)):
        assert outcome.status == "ok"
        assert_sparse_as_asked(outcome)
        found = state_values(outcome, probe)
        if probe in (probes.Acted, probes.Both):
            # The best return is 1, for one action only; V is that of a policy that still explores around it.
            best = 0.5 * np.ones(1) if probe is probes.Acted else 0.5 * np.ravel(obs)
            chosen = algorithm("ppo").modules(HIDDEN, 1).policy(outcome.params["actor"], obs)
            np.testing.assert_allclose(np.ravel(chosen), best, atol=0.1)
            assert np.min(outcome.final_returns) > 0.95 and np.all(found < 1.05)
        else:
            value = probe().value(obs, np.zeros((len(obs), 1)), GAMMA)
            np.testing.assert_allclose(found, value, atol=0.2, err_msg=f"sparsity {outcome.run.sparsity}")


@pytest.mark.long
@pytest.mark.parametrize("fault", ["leak", "termination"])
def test_the_time_limited_probe_finds_the_same_faults_in_rollouts(fault, monkeypatch):
    sound = rollout_stages.advance

    def faulty(*arguments):
        carry, transition, finished = sound(*arguments)
        return carry, planted(fault, transition), finished

    monkeypatch.setattr(rollout_stages, "advance", faulty)
    probe, obs = probes.TimeLimited(), np.asarray(OBSERVATIONS[probes.TimeLimited], np.float32)
    (outcome,) = by_rollouts(probe, (0.8,))
    wrong = probe.value_if_leaked if fault == "leak" else probe.value_if_terminated
    found = state_values(outcome, probes.TimeLimited)
    off_wrong = np.abs(found - wrong(obs, None, GAMMA)).mean()
    off_known = np.abs(found - probe.value(obs, None, GAMMA)).mean()
    assert off_known > 1.0 and off_wrong < 0.6 * off_known


def planted(fault, transition):
    """A transition as it would be with a leaking reset, or with a time limit taken for a termination."""
    if fault == "leak":
        return transition._replace(final_obs=transition.next_obs)
    cut = transition.truncated
    return transition._replace(terminated=transition.terminated | cut, truncated=cut & False)


@pytest.mark.long
@pytest.mark.parametrize("agent", ["td3", "sac"])
@pytest.mark.parametrize("fault", ["leak", "termination"])
def test_time_limited_probe_finds_a_leaking_reset_and_a_time_limit_taken_for_a_termination(
    fault, agent, monkeypatch
):
    """The probe is sharp: with the fault planted the critics learn the wrong value it predicts, not the known one."""
    sound = stages.advance

    def faulty(*arguments):
        carry, transition, finished = sound(*arguments)
        return carry, planted(fault, transition), finished

    monkeypatch.setattr(stages, "advance", faulty)
    probe = probes.TimeLimited()
    (outcome,) = trained(probe, 3, 3, sparsities=(0.5,), agent=agent)
    obs, action = grid(probes.TimeLimited)
    wrong = probe.value_if_leaked if fault == "leak" else probe.value_if_terminated
    found = learned(outcome, obs, action).mean(axis=0)
    off_wrong = np.abs(found - wrong(obs, action, GAMMA)).mean()
    off_known = np.abs(found - known(probes.TimeLimited, obs, action)).mean()
    assert off_known > 1.0  # the test of the known value allows 0.2 anywhere
    assert off_wrong < 0.6 * off_known
