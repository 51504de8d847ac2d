"""Relabelled goals are what the same episode had reached at the same step or later, and are paid as declared."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl_jax import replay as rp
from sparserl_jax.envs import GoalSpec
from sparserl_jax.replay import hindsight, windows
from tests.reference.episodes import History
from tests.replay.common import Transition, experience, moments

STEPS, BATCH, LONGEST = 40, 64, 8
GOAL = GoalSpec((0, 1), (2, 3), lambda achieved, desired: -jnp.abs(achieved - desired)[..., 0])
"""Observations have three entries: what is achieved, one that only tells them apart, and what is wanted."""


def empty(rows, num_envs, slots, first):
    return rp.init(rows, num_envs, 3, 1, slots, False, jnp.asarray(first), keep_episodes=True)


@jax.jit
def fill(memory, data, length, capacity):
    def step(i, memory):
        return rp.insert(memory, i, jax.tree.map(lambda x: x[i], data), capacity_rows=capacity)

    return jax.lax.fori_loop(0, length, step, memory)


@partial(jax.jit, static_argnames=("size", "longest"))
def probe(memory, head, key, share, size=BATCH, longest=LONGEST):
    return hindsight.sample(memory, head, key, size, GOAL, share, longest)


ends = jax.jit(lambda *given: hindsight.last_rows(*given, LONGEST))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**20),
    num_envs=st.sampled_from([1, 3]),
    ring=st.sampled_from([(7, 2), (24, 6)]),
    length=st.integers(1, STEPS),
    terminate=st.sampled_from([0.0, 0.15]),
    truncate=st.sampled_from([0.0, 0.15]),
    limit=st.sampled_from([1, 3, LONGEST]),
    capacity=st.integers(1, 30),
    share=st.sampled_from([0.0, 0.8, 1.0]),
)
def test_goals_come_from_the_future_of_the_same_episode(
    seed, num_envs, ring, length, terminate, truncate, limit, capacity, share
):
    rows, slots = ring
    first, data, mean = experience(
        seed, STEPS, num_envs, obs_dim=3, terminate=terminate, truncate=truncate, time_limit=limit
    )
    history = History(num_envs, rows, slots)
    for step in range(length):
        history.append(moments(data, mean, step), capacity)
    memory = fill(empty(rows, num_envs, slots, first), data, length, capacity)

    places = {
        history.moment(row, env).obs[:2].tobytes(): (row, env)
        for row in range(history.left, history.head)
        for env in range(num_envs)
    }
    every = np.zeros((90, 2), np.int32)  # one size, so that this is compiled once for a ring
    every[: len(places)] = list(places.values())
    found = ends(memory, length, *every.T)
    for (row, env), last in zip(places.values(), np.asarray(found), strict=False):
        episode, _ = history.places[env][row]
        assert last == max(r for r in range(row, length) if history.places[env][r][0] == episode)

    batch = jax.tree.map(np.asarray, probe(memory, length, jax.random.key(seed), share))
    for index in np.flatnonzero(batch.valid):
        row, env = places[batch.obs[index, :2].tobytes()]
        stored, goal = history.moment(row, env), batch.obs[index, 2]
        reached, unknown = [], 0
        for later in range(row, length):
            if history.places[env][later][0] != history.places[env][row][0]:
                break
            moment = history.moment(later, env)
            known = not moment.terminated and (not moment.truncated or history.remembered(later, env))
            reached += [moment.final_obs[0]] if known else []
            unknown += not known
        np.testing.assert_array_equal(batch.action[index], stored.action)
        assert batch.terminated[index, 0] == stored.terminated and batch.used[index] == 1
        if not stored.terminated:
            np.testing.assert_array_equal(batch.closing_obs[index, :2], stored.final_obs[:2])
        if goal == stored.obs[2]:
            assert share < 1 or stored.terminated or unknown
            assert batch.rewards[index, 0] == np.float32(stored.reward)
        else:
            assert share > 0 and not stored.terminated and goal in reached
            assert batch.closing_obs[index, 2] == goal
            assert batch.rewards[index, 0] == -abs(stored.final_obs[0] - goal)


def walk(*ended):
    """A memory of one environment whose achieved values are 10, 11, 12, ... and end + 90 where an episode was cut (`c`)
    or terminated (`t`); goals are 1, 2, 3, ... by episode; rewards 0.5."""
    count = len(ended)
    episode = np.cumsum([0, *(end != " " for end in ended)]) + 1
    obs = np.stack([10.0 + np.arange(count), np.arange(count), episode[:count]], axis=-1)[:, None].astype(
        "f4"
    )
    done = np.array([end != " " for end in ended])
    final = obs + np.float32([1, 1, 0])
    final[done, 0, 0] += 89
    flags = [np.array([[end == kind] for end in ended]) for kind in "tc"]
    following = np.stack([11.0 + np.arange(count), 1 + np.arange(count), episode[1:]], axis=-1)[:, None]
    data = Transition(
        obs, obs[..., :1] / 100, np.full((count, 1), 0.5, "f4"), *flags, final, following.astype("f4")
    )
    memory = empty(32, 1, 4, obs[0])
    for i in range(count):
        memory = rp.insert(memory, i, jax.tree.map(lambda x, i=i: x[i], data))
    return memory


def test_hand_computed_goals_and_rewards():
    """Rows 0 to 2 are cut, 3 and 4 terminate, 5 and 6 still run."""
    memory = walk(" ", " ", "c", " ", "t", " ", " ")
    batch = jax.tree.map(np.asarray, probe(memory, 7, jax.random.key(0), 1.0, size=1024))
    assert batch.valid.all()
    seen = {(row, goal, paid) for row, goal, paid in zip(*batch.obs.T[1:], batch.rewards[:, 0], strict=True)}
    assert seen == {
        *[(0, 11, 0), (0, 12, -1), (0, 102, -91)],  # 11 was reached by row 0, 12 by row 1, 102 at the cut
        *[(1, 12, 0), (1, 102, -90)],
        (2, 102, 0),
        *[
            (3, 14, 0),
            (3, 2, 0.5),
        ],  # of its future the terminal observation is not stored: then the goal stays
        (4, 2, 0.5),
        *[(5, 16, 0), (5, 17, -1)],
        (6, 17, 0),
    }
    at = batch.obs[:, 1].astype(int)
    np.testing.assert_array_equal(batch.closing_obs[at == 2, 0], 102)
    np.testing.assert_array_equal(batch.obs[:, 2], np.where(at == 4, 2, batch.closing_obs[:, 2])[: len(at)])


def test_the_share_is_kept_and_every_later_step_is_as_likely():
    memory = walk(*" " * 7, "c")
    batch = jax.tree.map(np.asarray, probe(memory, 8, jax.random.key(1), hindsight.share(4), size=40_000))
    assert (batch.obs[:, 2] != 1).mean() == pytest.approx(0.8, abs=0.01)
    from_the_start = batch.obs[(batch.obs[:, 1] == 0) & (batch.obs[:, 2] != 1)]
    goals, counts = np.unique(from_the_start[:, 2], return_counts=True)
    np.testing.assert_array_equal(goals, [11, 12, 13, 14, 15, 16, 17, 107])
    np.testing.assert_allclose(counts / counts.sum(), 1 / 8, atol=0.025)
    assert hindsight.share(0) == 0.0


def test_without_a_share_it_is_the_plain_draw():
    memory = walk(" ", " ", "c", " ", "t", " ", " ")
    key = jax.random.key(3)
    plain = jax.jit(lambda key: rp.sample(memory, 7, key, BATCH, 1, 1))(jax.random.split(key, 3)[0])
    found = probe(memory, 7, key, 0.0)
    # What closes a terminal transition means nothing.
    closing = np.where(plain.terminated, plain.closing_obs, found.closing_obs)
    jax.tree.map(np.testing.assert_array_equal, found._replace(closing_obs=closing), plain)


def test_an_episode_that_was_cut_on_the_host_ends_there():
    memory = rp.cut(walk(" ", " "), 2, jnp.array([True]), jnp.full((1, 3), 7.0))
    step = SimpleNamespace(
        obs=jnp.full((1, 3), 7.0),
        action=jnp.zeros((1, 1)),
        reward=jnp.zeros(1),
        terminated=jnp.zeros(1, bool),
        truncated=jnp.zeros(1, bool),
        final_obs=jnp.full((1, 3), 8.0),
        next_obs=jnp.full((1, 3), 8.0),
    )
    memory = rp.insert(memory, 2, step)
    rows, envs = jnp.arange(3, dtype=jnp.int32), jnp.zeros(3, jnp.int32)
    np.testing.assert_array_equal(ends(memory, 3, rows, envs), [1, 1, 2])


def test_episodes_cost_four_bytes_a_transition_and_nothing_where_they_are_not_kept():
    sizes = (101, 2, 3, 1, 4, False)
    assert rp.bytes_per(*sizes, keep_episodes=True) - rp.bytes_per(*sizes) == 4 * 2 * (101 + 1)
    assert windows.sample is rp.sample and rp.init(*sizes, jnp.zeros((2, 3))).episodes is None
