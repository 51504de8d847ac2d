"""The rollout: fresh episodes, true final observations, time limits, invalid physics, evaluation."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import envs
from sparserl_jax.envs.rollout import to_env_units


class Walk:
    """Observation (start, time), start uniform, time counting up; reward = action; terminates after `life`."""

    def __init__(self, life=1000, limit=5, low=-1.0, high=1.0):
        self.spec = envs.EnvSpec("walk", 2, 1, (low,), (high,), limit)
        self.life, self.resets_traced = life, 0

    def reset(self, key):
        self.resets_traced += 1
        obs = jnp.array([jax.random.uniform(key), 0.0])
        return {"obs": obs, "time": 0, "key": key}, obs

    def step(self, key, state, action):
        time = state["time"] + 1
        obs = jnp.array([state["obs"][0], time])
        step = envs.Step(obs, action[0], time >= self.life, jnp.bool_(False))
        return {"obs": obs, "time": time, "key": state["key"]}, step


class Broken(Walk):
    """Walk whose physics gives NaN in the observation (or in the reward) at time 3."""

    def __init__(self, where, **options):
        super().__init__(**options)
        self.where = where

    def step(self, key, state, action):
        state, step = super().step(key, state, action)
        nan = jnp.where(state["time"] == 3, jnp.nan, 0.0)
        return state, step._replace(**{self.where: getattr(step, self.where) + nan})


def collect(env, steps, num_envs, pool=None, dispatch=None, key=0, act=0.0):
    """[steps, E, ...] transitions and finished records; a pool of that size is redrawn every `dispatch` steps."""
    dispatch = dispatch or steps

    @jax.jit
    def run(carry, key):
        pool_key, key = jax.random.split(key)
        entries = envs.make_pool(env, pool_key, pool) if pool else None

        def one(carry, key):
            carry, transition, finished = envs.advance(env, carry, key, jnp.full((num_envs, 1), act), entries)
            return carry, (transition, finished)

        return jax.lax.scan(one, carry, jax.random.split(key, dispatch))

    keys = jax.random.split(jax.random.key(key), steps // dispatch + 1)
    carry, parts = jax.jit(lambda key: envs.start(env, key, num_envs))(keys[0]), []
    for part in keys[1:]:
        carry, out = run(carry, part)
        parts.append(out)
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *parts)


@pytest.mark.parametrize("pool", [None, 32])
@pytest.mark.slow
def test_two_hundred_episodes_start_from_at_least_a_hundred_distinct_states(pool):
    transition, finished = collect(Walk(limit=5), 500, 2, pool=pool, dispatch=25)
    assert finished.done.sum() == 200
    assert len(np.unique(transition.next_obs[finished.done][:, 0])) >= 100


def test_single_environment_sees_fresh_initial_states():
    transition, finished = collect(Walk(limit=2), 100, 1)
    assert len(np.unique(transition.next_obs[finished.done][:, 0])) == 50


def test_time_limit_keeps_the_true_final_observation_and_restarts():
    transition, finished = collect(Walk(limit=5), 20, 3)
    assert not transition.terminated.any()
    np.testing.assert_array_equal(transition.truncated, finished.done)
    np.testing.assert_array_equal(np.nonzero(finished.done[:, 0])[0], [4, 9, 14, 19])
    ended = transition.truncated
    np.testing.assert_array_equal(
        transition.final_obs[ended][:, 1], 5.0
    )  # true last observation of the episode
    np.testing.assert_array_equal(transition.final_obs[ended][:, 0], transition.obs[ended][:, 0])
    np.testing.assert_array_equal(transition.next_obs[ended][:, 1], 0.0)  # a new one begins
    assert (transition.next_obs[ended][:, 0] != transition.obs[ended][:, 0]).all()
    np.testing.assert_array_equal(transition.next_obs[~ended], transition.final_obs[~ended])
    np.testing.assert_array_equal(transition.obs[1:], transition.next_obs[:-1])


def test_termination_at_the_time_limit_is_a_termination_only():
    transition, _ = collect(Walk(life=5, limit=5), 10, 1)
    assert transition.terminated.sum() == 2 and transition.truncated.sum() == 0


def test_truncation_by_the_environment_itself_is_passed_on():
    class Leaves(Walk):
        def step(self, key, state, action):
            state, step = super().step(key, state, action)
            return state, step._replace(truncated=state["time"] >= 2)

    transition, finished = collect(Leaves(limit=5), 10, 1)
    assert transition.truncated.sum() == 5 and finished.done.sum() == 5


def test_finished_reports_undiscounted_returns():
    _, finished = collect(Walk(limit=5), 10, 2, act=0.5)
    np.testing.assert_allclose(finished.returns[finished.done], 2.5)


@pytest.mark.parametrize("where", ["obs", "reward"])
def test_invalid_physics_terminates_with_the_last_finite_observation_and_is_counted(where):
    transition, finished = collect(Broken(where, limit=5), 9, 2, act=1.0)
    assert finished.invalid.tolist() == [0, 0, 2] * 3
    assert transition.terminated[2::3].all() and not transition.truncated.any()
    np.testing.assert_array_equal(transition.final_obs[2::3], transition.obs[2::3])
    np.testing.assert_array_equal(transition.reward[2::3], 0.0)
    np.testing.assert_array_equal(finished.returns[2::3], 2.0)
    assert all(np.isfinite(leaf).all() for leaf in transition)


def test_advance_with_a_pool_does_not_trace_reset():
    env = Walk()
    pool = envs.make_pool(env, jax.random.key(0), 4)
    carry = envs.start(env, jax.random.key(1), 2)
    before = env.resets_traced
    jax.eval_shape(partial(envs.advance, env), carry, jax.random.key(2), jnp.zeros((2, 1)), pool)
    jax.eval_shape(
        lambda pool: envs.evaluate(env, jax.random.key(2), lambda obs: jnp.zeros(1), 4, pool), pool
    )
    assert env.resets_traced == before


def test_advance_traces_step_and_reset_once():
    class Counted(Walk):
        steps_traced = 0

        def step(self, *arguments):
            self.steps_traced += 1
            return super().step(*arguments)

    env = Counted()
    carry = jax.eval_shape(lambda key: envs.start(env, key, 3), jax.random.key(0))
    env.resets_traced = 0
    jax.eval_shape(partial(envs.advance, env), carry, jax.random.key(2), jnp.zeros((3, 1)))
    assert (env.resets_traced, env.steps_traced) == (1, 1)


@pytest.mark.parametrize("with_pool", [False, True])
@pytest.mark.slow
def test_advance_over_members_equals_single_members(with_pool):
    env, keys = Walk(limit=3), jax.random.split(jax.random.key(0), 4)

    @jax.jit
    def run(key):
        pool = envs.make_pool(env, jax.random.fold_in(key, 1), 8) if with_pool else None

        def one(carry, key):
            return envs.advance(env, carry, key, jnp.zeros((2, 1)), pool)[:2]

        return jax.lax.scan(one, envs.start(env, key, 2), jax.random.split(key, 10))[1]

    together = jax.vmap(run)(keys)
    for member, key in enumerate(keys):
        jax.tree.map(
            lambda one, all, m=member: np.testing.assert_array_equal(one, all[m]), run(key), together
        )


def test_carry_keeps_its_types_so_that_nothing_is_compiled_twice():
    env = Walk()
    start = jax.eval_shape(lambda key: envs.start(env, key, 2), jax.random.key(0))
    step = jax.eval_shape(partial(envs.advance, env), start, jax.random.key(0), jnp.zeros((2, 1)))[0]
    assert jax.tree.structure(start) == jax.tree.structure(step)
    for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(step), strict=True):
        assert (a.shape, a.dtype, a.weak_type, False) == (b.shape, b.dtype, b.weak_type, a.weak_type)


def test_actions_are_clipped_and_scaled_to_the_environment():
    spec = envs.EnvSpec("x", 1, 2, (-1.0, 0.0), (1.0, 10.0), 1)
    action = jnp.array([[-1.0, -1.0], [0.3, 0.0], [5.0, 1.0]])
    np.testing.assert_allclose(to_env_units(spec, action), [[-1, 0], [0.3, 5], [1, 10]], rtol=1e-6)
    transition, finished = collect(Walk(limit=5, low=0.0, high=4.0), 5, 1, act=7.0)
    np.testing.assert_array_equal(transition.action, 1.0)  # what the replay stores is what was done
    np.testing.assert_array_equal(transition.reward, 4.0)


def test_evaluate_stops_when_all_episodes_have_ended():
    env = Walk(life=3, limit=10**12)  # would not return for hours otherwise
    returns = jax.jit(lambda key: envs.evaluate(env, key, lambda obs: jnp.ones(1), 4))(jax.random.key(0))
    np.testing.assert_array_equal(returns, 3.0)


def test_evaluate_counts_each_episode_to_its_own_end():
    class Lives(NamedTuple):
        left: jax.Array
        total: jax.Array

    class Mortal:
        spec = envs.EnvSpec("mortal", 1, 1, (-1.0,), (1.0,), 6)

        def reset(self, key):
            total = jax.random.randint(key, (), 1, 9)
            return Lives(total, total), jnp.zeros(1) + total

        def step(self, key, state, action):
            state = state._replace(left=state.left - 1)
            obs = jnp.zeros(1) + state.total
            return state, envs.Step(obs, obs[0], state.left <= 0, jnp.bool_(False))

    env = Mortal()
    pool = envs.make_pool(env, jax.random.key(5), 32)
    returns = jax.jit(lambda pool: envs.evaluate(env, jax.random.key(0), lambda obs: obs * 0, 32, pool))(pool)
    lives = np.asarray(pool.obs[:, 0])
    np.testing.assert_array_equal(returns, lives * np.minimum(lives, 6))
    with pytest.raises(ValueError, match="33 episodes"):
        envs.evaluate(env, jax.random.key(0), lambda obs: obs * 0, 33, pool)


def test_evaluate_gives_every_policy_the_same_episodes():
    env = Walk(limit=4)
    run = jax.jit(jax.vmap(lambda gain: envs.evaluate(env, jax.random.key(0), lambda obs: gain * obs[:1], 3)))
    returns = np.asarray(run(jnp.array([0.5, 1.0])))
    np.testing.assert_allclose(2 * returns[0], returns[1], rtol=1e-6)
    assert len(np.unique(returns[0])) == 3


def test_random_policy_covers_the_action_box():
    env = Walk(limit=400, low=2.0, high=4.0)
    returns = jax.jit(lambda key: envs.evaluate_random(env, key, 8))(jax.random.key(0))
    np.testing.assert_allclose(returns / 400, 3.0, atol=0.15)
    assert len(np.unique(returns)) == 8
