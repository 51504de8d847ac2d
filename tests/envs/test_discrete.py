"""Discrete actions: agents hold choices as vectors, environments get their number, memories the one-hot choice."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import envs
from sparserl_jax.envs.host import env_units
from sparserl_jax.envs.rollout import as_taken, to_env_units
from sparserl_jax.errors import UserError

SPEC = envs.EnvSpec("choices", 2, num_actions=3, max_episode_steps=9)


class Counter:
    """Observation = share of steps in which each of three choices was taken; reward = the number of the choice."""

    num_actions, max_episode_steps = 3, 6

    def reset(self, key):
        return jnp.zeros(3), jnp.zeros(3)

    def step(self, key, state, action):
        assert action.shape == () and action.dtype == jnp.int32  # an index, at trace time
        state = state.at[action].add(1.0)
        return state, (state / self.max_episode_steps, action.astype(jnp.float32), False, False)


def test_a_spec_of_choices_has_their_number_as_length_and_no_bounds():
    assert (SPEC.action_dim, SPEC.action_low, SPEC.action_high, SPEC.actions) == (3, (), (), "discrete")
    assert envs.EnvSpec("box", 2, 1, (-1,), (1,), 9).actions == "continuous"


def test_the_largest_entry_is_the_choice_on_both_sides():
    scores = np.random.default_rng(0).uniform(-1, 1, (50, 4, 3)).astype(np.float32)
    number = np.asarray(to_env_units(SPEC, scores))
    np.testing.assert_array_equal(number, scores.argmax(-1))
    np.testing.assert_array_equal(number, env_units(SPEC, scores))
    taken = np.asarray(as_taken(SPEC, scores))
    np.testing.assert_array_equal(taken, np.eye(3)[number])
    np.testing.assert_array_equal(to_env_units(SPEC, taken), number)  # stored choices mean the same


def test_an_object_with_num_actions_gets_indices_and_the_rollout_stores_one_hot_choices():
    env = envs.check(Counter())
    assert env.spec == envs.EnvSpec("Counter", 3, num_actions=3, max_episode_steps=6)

    @jax.jit
    def run(key):
        def one(carry, key):
            scores = jax.random.uniform(key, (2, 3), minval=-1.0, maxval=1.0)
            carry, transition, _ = envs.advance(env, carry, key, scores)
            return carry, (transition, scores)

        return jax.lax.scan(one, envs.start(env, key, 2), jax.random.split(key, 5))[1]

    transition, scores = jax.tree.map(np.asarray, run(jax.random.key(0)))
    np.testing.assert_array_equal(transition.action, np.eye(3)[scores.argmax(-1)])
    np.testing.assert_array_equal(transition.reward, scores.argmax(-1))
    np.testing.assert_allclose(transition.final_obs * 6, np.cumsum(transition.action, axis=0), atol=1e-6)


def test_random_actions_are_uniform_over_the_choices_and_a_policy_is_followed():
    env = envs.make(Counter())
    returns = np.asarray(jax.jit(lambda key: envs.evaluate_random(env, key, 500))(jax.random.key(1)))
    assert returns.mean() == pytest.approx(6.0, abs=0.35)  # six draws of 0, 1, 2; 3.5 standard errors
    assert returns.var() == pytest.approx(6 * 2 / 3, rel=0.3)
    last = jax.jit(lambda key: envs.evaluate(env, key, lambda obs: jnp.array([0.0, 0.1, 0.2]), 3))
    np.testing.assert_array_equal(last(jax.random.key(0)), 12.0)


def test_cartpole_follows_its_equations():
    """20 steps against a restatement of Barto et al.'s cart with a pole, as in gym: Euler, dt 0.02, force +-10."""
    env, steps = envs.make("gymnax:CartPole-v1"), 20
    assert env.spec == envs.EnvSpec("gymnax:CartPole-v1", 4, num_actions=2, max_episode_steps=500)
    choices = np.random.default_rng(1).integers(0, 2, (steps, 1))

    @jax.jit
    def run(key):
        def one(carry, action):
            carry, transition, _ = envs.advance(env, carry, key, action)
            return carry, transition

        carry = envs.start(env, key, 1)
        return carry.obs, jax.lax.scan(one, carry, jax.nn.one_hot(choices, 2))[1]

    first, transition = jax.tree.map(np.asarray, run(jax.random.key(2)))
    x, speed, angle, turn = first[0].astype(float)
    for step, choice in enumerate(choices[:, 0]):
        push = (20.0 * choice - 10.0 + 0.05 * turn**2 * np.sin(angle)) / 1.1
        turning = (9.8 * np.sin(angle) - np.cos(angle) * push) / (
            0.5 * (4 / 3 - 0.1 * np.cos(angle) ** 2 / 1.1)
        )
        moving = push - 0.05 * turning * np.cos(angle) / 1.1
        x, speed, angle, turn = (
            x + 0.02 * speed,
            speed + 0.02 * moving,
            angle + 0.02 * turn,
            turn + 0.02 * turning,
        )
        np.testing.assert_allclose(transition.final_obs[step, 0], [x, speed, angle, turn], atol=1e-4)
        fell = abs(x) > 2.4 or abs(angle) > 12 * 2 * np.pi / 360
        assert bool(transition.terminated[step, 0]) == fell and transition.reward[step, 0] == 1.0
        if fell:
            break


def test_images_are_flattened_row_by_row_and_described():
    env, (own, params) = envs.make("gymnax:Breakout-MinAtar"), gymnax.make("Breakout-MinAtar")
    assert env.spec.image == (10, 10, 4) and env.spec.obs_dim == 400 and env.spec.num_actions == 3

    def both(key):
        image, state = own.reset_env(key, params)
        after, *_ = own.step_env(key, state, 1, params)
        mine, flat = env.reset(key)
        return image, flat, after, env.step(key, mine, jnp.int32(1))[1].obs

    image, flat, after, flat_after = jax.tree.map(np.asarray, jax.jit(both)(jax.random.key(0)))
    np.testing.assert_array_equal(flat.reshape(10, 10, 4), image)
    np.testing.assert_array_equal(flat_after.reshape(10, 10, 4), after)
    assert flat.dtype == np.float32 and not np.array_equal(image, after)


@pytest.mark.long
@pytest.mark.parametrize(
    ("game", "episodes"), [("SpaceInvaders", 1), ("Breakout", 2), ("Asterix", 64), ("Freeway", 64)]
)
def test_how_many_episodes_a_game_of_minatar_has(game, episodes):
    """Observations under the same actions from 64 keys: some games draw nothing, or only how they begin."""
    env = envs.make(f"gymnax:{game}-MinAtar")

    def episode(key):
        begin, key = jax.random.split(key)
        state, _ = env.reset(begin)

        def step(state, at):
            state, seen = env.step(jax.random.fold_in(key, at), state, at % 3)
            return state, seen.obs

        return jax.lax.scan(step, state, jnp.arange(40))[1].reshape(-1)

    seen = np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), 64)))
    assert len(np.unique(seen, axis=0)) == episodes


def test_gymnasium_gets_its_own_numbers_where_choices_are_not_counted_from_zero():
    gymnasium = pytest.importorskip("gymnasium")

    class Three(gymnasium.Env):
        max_episode_steps = 4
        observation_space = gymnasium.spaces.Box(-9, 9, (1,))
        action_space = gymnasium.spaces.Discrete(3, start=5)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            assert self.action_space.contains(action)
            return np.full(1, action - 6, np.float32), float(action), False, False, {}

    env = envs.check(Three)
    assert env.spec.num_actions == 3 and env.repeatable
    env.reset(0)
    assert [env.step(env_units(env.spec, choice))[1] for choice in np.eye(3)] == [5.0, 6.0, 7.0]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("MultiBinary", {"n": 3, "shape": (3,)}), ("MultiDiscrete", {"nvec": (2, 3), "shape": (2,)})],
)
def test_several_choices_at_once_are_not_taken_for_one(kind, shape):
    """Spaces as gymnasium's of these names describe themselves; a single choice has `n` and no shape."""

    class Several(Counter):
        num_actions = None

        def __init__(self, name, **fields):
            self.action_space = type(name, (), fields)()

    one = envs.make(Several("Discrete", n=3, shape=()))
    assert one.spec.num_actions == 3
    with pytest.raises(
        UserError, match=f"'Several' has actions of the kind {kind}: give it .* or a single choice"
    ):
        envs.make(Several(kind, **shape))
