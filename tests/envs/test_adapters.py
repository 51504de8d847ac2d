"""gymnax and brax behind the protocol: their dynamics, without their own resets and time limits."""

import warnings

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import envs
from sparserl_jax.envs import brax_adapter
from sparserl_jax.errors import UserError


def test_pendulum_follows_its_equations():
    """20 steps against a restatement in numpy, of the pendulum of gym: g=10, m=l=1, dt=0.05, torque in [-2, 2]."""
    env, num_envs, steps = envs.make("gymnax:Pendulum-v1"), 3, 20
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, num_envs, 1)).astype(np.float32)

    @jax.jit
    def run(key):
        carry = envs.start(env, key, num_envs)

        def one(carry, action):
            carry, transition, _ = envs.advance(env, carry, key, action)
            return carry, transition

        return carry.obs, jax.lax.scan(one, carry, jnp.asarray(actions))[1]

    first, transition = jax.tree.map(np.asarray, run(jax.random.key(0)))
    angle, speed = np.arctan2(first[:, 1], first[:, 0]).astype(float), first[:, 2].astype(float)
    returns = np.zeros(num_envs)
    for action in 2.0 * actions[..., 0].astype(float):
        wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
        returns -= wrapped**2 + 0.1 * speed**2 + 0.001 * action**2
        speed = np.clip(speed + 0.05 * (15.0 * np.sin(angle) + 3.0 * action), -8, 8)
        angle = angle + 0.05 * speed
    expected = np.stack([np.cos(angle), np.sin(angle), speed], axis=1)
    np.testing.assert_allclose(transition.reward.sum(0), returns, rtol=1e-3)
    np.testing.assert_allclose(transition.final_obs[-1], expected, atol=5e-3)


def test_gymnax_time_limit_is_a_truncation_with_the_true_final_observation():
    env = envs.make("gymnax:Pendulum-v1?max_episode_steps=4")
    assert env.spec.max_episode_steps == 4 and env.spec.name == "gymnax:Pendulum-v1?max_episode_steps=4"

    @jax.jit
    def run(key):
        def one(carry, key):
            carry, transition, _ = envs.advance(env, carry, key, jnp.zeros((1, 1)))
            return carry, transition

        return jax.lax.scan(one, envs.start(env, key, 1), jax.random.split(key, 12))[1]

    t = jax.tree.map(np.asarray, run(jax.random.key(0)))
    assert not t.terminated.any()
    assert np.nonzero(t.truncated[:, 0])[0].tolist() == [3, 7, 11]
    ended = t.truncated
    (before, after) = t.obs[ended], t.final_obs[ended]
    turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]  # sine of the angle between them
    assert (np.abs(turn) < 0.41).all()  # one step turns by at most 8 * 0.05; a reset lands anywhere
    assert (np.abs(t.next_obs[ended] - t.final_obs[ended]).max(axis=-1) > 1e-3).all()


def test_gymnax_goal_is_a_termination():
    env = envs.make("gymnax:MountainCarContinuous-v0")
    state, _ = env.reset(jax.random.key(0))
    state = state.replace(position=jnp.float32(0.449), velocity=jnp.float32(0.05))
    _, step = env.step(jax.random.key(0), state, jnp.ones(1))
    assert bool(step.terminated) and not bool(step.truncated)
    assert float(step.reward) == pytest.approx(99.9)


def test_gymnax_objects_are_taken_with_and_without_parameters():
    env, params = gymnax.make("Pendulum-v1")
    assert envs.make(env).spec == envs.make("gymnax:Pendulum-v1").spec
    assert envs.make((env, params.replace(max_torque=3.0))).spec.action_high == (3.0,)


def run_brax(name, steps=50, num_envs=2):
    """Steps of random actions with a pool of initial states, so that reset and step are each compiled once."""
    env = envs.make(name)
    pool = jax.jit(lambda key: envs.make_pool(env, key, 8))(jax.random.key(0))

    @jax.jit
    def run(pool, key):
        zeros = jnp.zeros(num_envs)
        state, obs = jax.tree.map(lambda leaf: leaf[:num_envs], pool)
        carry = envs.EnvState(state, obs, zeros.astype(jnp.int32), zeros)

        def one(carry, key):
            action = jax.random.uniform(key, (num_envs, env.spec.action_dim), minval=-1.0, maxval=1.0)
            carry, transition, finished = envs.advance(env, carry, key, action, pool)
            return carry, (transition, finished)

        return jax.lax.scan(one, carry, jax.random.split(key, steps))[1]

    return env, jax.tree.map(np.asarray, run(pool, jax.random.key(1)))


@pytest.mark.parametrize(
    "backend",
    [
        "spring",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("positional", "generalized", "mjx")),
    ],
)
@pytest.mark.slow
def test_inverted_pendulum_runs_on_every_backend(backend):
    env, (transition, finished) = run_brax(f"brax:inverted_pendulum?backend={backend}")
    assert env.spec.name.endswith(f"backend={backend}") and env.expensive_reset
    assert (env.spec.obs_dim, env.spec.action_dim, env.spec.max_episode_steps) == (4, 1, 1000)
    assert finished.invalid.sum() == 0 and all(np.isfinite(leaf).all() for leaf in transition)
    np.testing.assert_array_equal(transition.reward, 1.0)
    # The task ends where the pole leans over 0.2 rad: seen in the true final observation, gone after the reset.
    np.testing.assert_array_equal(transition.terminated, np.abs(transition.final_obs[..., 1]) > 0.2)
    assert (np.abs(transition.next_obs[..., 1]) <= 0.2).all() and not transition.truncated.any()


def test_brax_default_backend_is_named_in_the_spec():
    assert envs.make("brax:inverted_pendulum").spec.name == "brax:inverted_pendulum?backend=generalized"


def test_brax_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        brax_adapter.build("inverted_pendulum", {"max_episode_steps": 50}, "brax:inverted_pendulum")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in envs.names() if name.startswith("brax:")])
def test_every_listed_brax_environment_has_a_sound_step(name):
    envs.check(name, steps=0)


def test_brax_objects_are_taken_but_not_inside_its_own_resetting_wrappers():
    from brax.envs import get_environment
    from brax.envs.wrappers.training import AutoResetWrapper, EpisodeWrapper

    raw = get_environment("inverted_pendulum", backend="spring")
    assert envs.make(raw).spec.obs_dim == 4
    with pytest.raises(UserError, match="inside brax's EpisodeWrapper"):
        envs.make(EpisodeWrapper(raw, 100, 1))
    with pytest.raises(UserError, match="inside brax's AutoResetWrapper"):
        envs.make(AutoResetWrapper(raw))
