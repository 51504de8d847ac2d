"""What evaluation episodes say their states were worth, against sums by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import envs
from sparserl_jax.envs import EnvSpec, Step
from sparserl_jax.envs.rollout import start_steps

GAMMA = 0.9


class Ladder:
    """Reward 1, 2, 3, ... ; a quarter of the episodes falls off (terminates) after 3 steps, half is cut by the
    environment after 7, the rest runs into the time limit of 40. Observation: steps taken and the episode's kind."""

    spec = EnvSpec("ahead:ladder", 2, 1, (-1.0,), (1.0,), 40)

    def reset(self, key):
        state = jnp.stack([0, jax.random.randint(key, (), 0, 4)]).astype(jnp.float32)
        return state, state

    def step(self, key, state, action):
        state = state + jnp.array([1.0, 0.0])
        steps, kind = state
        return state, Step(state, steps, (kind == 0) & (steps == 3), (kind > 1) & (steps == 7))


LENGTH = (3, 40, 7, 7)
"""Steps of an episode by kind."""


@pytest.fixture(scope="module")
def seen():
    run = jax.jit(lambda key: envs.evaluate_ahead(Ladder(), key, lambda obs: obs[:1] * 0, 16, GAMMA))
    return jax.tree.map(np.asarray, run(jax.random.key(0)))


def test_every_kind_of_end_is_in_the_example(seen):
    assert set(seen[1].last_obs[:, 1]) == {0, 1, 2, 3}


def test_states_are_those_at_the_start_steps_and_only_where_the_episode_got_there(seen):
    steps = np.array(start_steps(Ladder()))
    np.testing.assert_array_equal(steps, range(0, 16, 2))
    ahead = seen[1]
    length = np.array(LENGTH)[ahead.last_obs[:, 1].astype(int)]
    np.testing.assert_array_equal(ahead.visited, steps[:, None] < length)
    at, _ = np.nonzero(ahead.visited)
    np.testing.assert_array_equal(ahead.obs[ahead.visited][:, 0], steps[at])


def test_returns_and_discounts_are_the_sums_by_hand(seen):
    returns, ahead = seen
    for j, start in enumerate(start_steps(Ladder())):
        for i in np.flatnonzero(ahead.visited[j]):
            kind = int(ahead.last_obs[i, 1])
            rewards = np.arange(start + 1, LENGTH[kind] + 1)
            expected = sum(GAMMA**k * reward for k, reward in enumerate(rewards))
            np.testing.assert_allclose(ahead.returns[j, i], expected, rtol=1e-5)
            discount = 0.0 if kind == 0 else GAMMA ** len(rewards)
            np.testing.assert_allclose(ahead.discount[j, i], discount, rtol=1e-5)
            assert ahead.last_obs[i, 0] == LENGTH[kind]
            assert returns[i] == sum(range(1, LENGTH[kind] + 1))


def test_looking_ahead_changes_no_return(seen):
    run = jax.jit(lambda key: envs.evaluate(Ladder(), key, lambda obs: obs[:1] * 0, 16))
    np.testing.assert_array_equal(run(jax.random.key(0)), seen[0])


@pytest.mark.parametrize("limit", [1, 2, 3, 16, 200, 1000, 2**31 + 5])
def test_start_steps_lie_in_the_first_half_of_the_time_limit(limit):
    class Limited:
        spec = EnvSpec("ahead:limited", 1, 1, (-1.0,), (1.0,), limit)

    steps = start_steps(Limited())
    assert steps[0] == 0 and 1 <= len(steps) <= 8 and list(steps) == sorted(set(steps))
    assert max(steps) <= limit / 2
