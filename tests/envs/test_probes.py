"""The probes are environments, and their closed-form values solve the backup of real transitions exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import envs
from tests.reference import probes

GAMMA = 0.9


def transitions(env, num_envs=64, steps=12):
    """Real transitions of random actions, [steps, E, ...], as numpy."""

    @jax.jit
    def collect(key):
        start_key, key = jax.random.split(key)

        def one(carry, key):
            action = jax.random.uniform(key, (num_envs, env.spec.action_dim), minval=-1.0, maxval=1.0)
            carry, transition, _ = envs.advance(env, carry, key, action)
            return carry, transition

        return jax.lax.scan(one, envs.start(env, start_key, num_envs), jax.random.split(key, steps))[1]

    return jax.tree.map(np.asarray, collect(jax.random.key(3)))


@pytest.mark.parametrize("probe", probes.PROBES)
def test_probe_passes_the_entry_check(probe):
    assert envs.check(probe()).spec == probe.spec


@pytest.mark.parametrize("probe", probes.PROBES)
def test_closed_form_value_satisfies_the_bellman_equation_on_real_transitions(probe):
    env = probe()
    t = transitions(env)
    low, high = env.spec.action_low[0], env.spec.action_high[0]
    action = (low + high) / 2 + t.action * (high - low) / 2
    q = env.value(t.obs, action, GAMMA)
    # None of the probes has a choice to make after its first step, so any next action gives the best next value.
    target = t.reward + GAMMA * ~t.terminated * env.value(t.final_obs, action, GAMMA)
    np.testing.assert_allclose(q, target, atol=1e-5)


def test_time_limited_probe_tells_the_three_treatments_of_a_time_limit_apart():
    env = probes.TimeLimited()
    obs = np.array([[1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_allclose(env.value(obs, None, GAMMA), [5.783, 4.216], atol=1e-3)
    np.testing.assert_allclose(env.value_if_terminated(obs, None, GAMMA), [2.710, 0.0], atol=1e-3)
    np.testing.assert_allclose(env.value_if_leaked(obs, None, GAMMA), [8.178, 5.468], atol=1e-3)


def test_wrong_values_of_the_time_limited_probe_are_fixed_points_of_the_wrong_backups():
    env = probes.TimeLimited()
    t = transitions(env, num_envs=4096, steps=3)
    ended = t.terminated | t.truncated
    target = t.reward + GAMMA * ~ended * env.value_if_terminated(t.final_obs, None, GAMMA)
    np.testing.assert_allclose(env.value_if_terminated(t.obs, None, GAMMA), target, atol=1e-5)
    leaked = t.reward + GAMMA * env.value_if_leaked(t.next_obs, None, GAMMA)
    error = leaked - env.value_if_leaked(t.obs, None, GAMMA)
    np.testing.assert_allclose(error[~ended], 0.0, atol=1e-5)
    assert abs(error[ended].mean()) < 0.1  # only on average: the leaked observation is random
    assert np.ptp(error[ended]) > 1.0


def test_evaluate_returns_the_exact_undiscounted_return_of_a_probe():
    def returns(env, action, episodes):
        run = jax.jit(lambda key: envs.evaluate(env, key, lambda obs: jnp.full(1, action), episodes))
        return np.asarray(run(jax.random.key(0)))

    np.testing.assert_allclose(returns(probes.Acted(), 0.5, 5), np.ones(5), atol=1e-6)
    assert set(returns(probes.TimeLimited(), 0.0, 64)) == {0.0, 3.0}
