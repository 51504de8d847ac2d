"""Both rules of RLx2 drop exactly the rows their texts say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import replay as rp
from tests.reference.episodes import History
from tests.replay.common import Transition, experience, keeping, moments

# 10 rows come between two checks; at most 100 are kept, nothing is dropped at 50 or below. The policy is far away at
# every check but the last three: the size after each check, by hand (grow by 10, then lose a tenth, rounded down).
FAR = [10, 20, 30, 40, 50, 54, 58, 62, 65, 68, 71, 73, 75, 77, 79, 81, *range(82, 91), 90, 90]
NEAR = [100, 100, 100]


def step_of(action, num_envs=1):
    no = jnp.zeros(num_envs, bool)
    obs = jnp.zeros((num_envs, 1))
    return Transition(obs, jnp.broadcast_to(action, (num_envs, 2)), jnp.zeros(num_envs), no, no, obs, obs)


def constant(value):
    return lambda obs: jnp.full((obs.shape[0], 2), value)


def test_released_rule_follows_the_hand_computed_sizes():
    rule = keeping(100, 50, 0.2, dynamic=True)
    memory = rp.init(101, 1, 1, 2, 1, True, jnp.zeros((1, 1)))
    insert = jax.jit(rp.insert)
    check = jax.jit(lambda m, h, value: rp.check(m, h, rule, constant(value), oldest=8))
    sizes, head = [], 0
    for value in [1.0] * len(FAR) + [0.5] * len(NEAR):
        for _ in range(10):
            memory = insert(memory, head, step_of(jnp.zeros(2)), jnp.zeros((1, 2)), rule.max_rows)
            head += 1
        memory, distance = check(memory, head, value)
        assert float(distance) == 0.5 * value**2  # 0.5 > 0.2 > 0.125
        sizes.append(int(rp.size(memory, head)))
    assert sizes == FAR + NEAR


@pytest.mark.parametrize("keep_mean", [True, False])
def test_distances_are_those_of_the_two_texts(keep_mean):
    # Oldest 4 rows: noise-free actions 0, actions taken (3/4, 1); later rows would change every mean.
    memory = rp.init(16, 2, 1, 2, 1, keep_mean, jnp.zeros((2, 1)))
    for head in range(10):
        noise_free = jnp.full((2, 2), 0.0 if head < 4 else -1.0)
        taken = step_of(jnp.array([0.75, 1.0]) if head < 4 else jnp.array([-1.0, -1.0]), 2)
        memory = rp.insert(memory, head, taken, noise_free if keep_mean else None)

    def distance(paper, **kw):
        rule = keeping(100, 0, 0.2, dynamic=False, paper=paper)
        same, value = rp.check(memory, 10, rule, constant(0.0), oldest=8)
        assert int(same.left) == int(memory.left)  # not dynamic: only measured
        return float(value)

    assert distance(paper=True) == 1.25
    assert distance(paper=False) == (0.0 if keep_mean else 0.5 * (0.75**2 + 1) / 2)


def test_empty_memory_has_distance_zero_and_keeps_nothing_to_drop():
    memory = rp.init(16, 1, 1, 2, 1, True, jnp.zeros((1, 1)))
    for paper in (False, True):
        rule = keeping(10, 0, 0.0, dynamic=True, paper=paper)
        after, distance = rp.check(memory, 0, rule, constant(1.0))
        assert float(distance) == 0.0
        assert int(after.left) == 0


@pytest.mark.parametrize("num_envs", [1, 3])
def test_paper_rule_equals_its_numpy_re_statement(num_envs):
    rows, oldest, target = 61, 12, np.array([0.3, -0.2], np.float32)

    def policy(obs):
        return jnp.broadcast_to(target, (obs.shape[0], 2))

    check, insert = jax.jit(lambda m, h, rule: rp.check(m, h, rule, policy, oldest)), jax.jit(rp.insert)
    dropped = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        length = int(rng.integers(5, 100))
        first, data, mean = experience(seed, length, num_envs, action_dim=2)
        drift = np.linspace(1.5, 0, length)[:, None, None]  # the policy comes nearer and nearer
        action = target + drift * rng.uniform(-1, 1, data.action.shape)
        data = data._replace(action=action.astype(np.float32))
        smallest, threshold = int(rng.integers(0, 20)), float(rng.uniform(0.1, 0.8))
        rule = keeping(1000, smallest * num_envs, threshold, True, True, num_envs)
        memory = rp.init(rows, num_envs, 2, 2, 9, False, jnp.asarray(first))
        history = History(num_envs, rows, 9)
        for i in range(length):
            memory = insert(memory, i, jax.tree.map(lambda x, i=i: x[i], data))
            history.append(moments(data, mean, i), 1000)
            if i % 17 == 16 or i == length - 1:
                before = history.left
                history.paper_rule(lambda obs: target, threshold, smallest, oldest)
                memory, _ = check(memory, i + 1, rule)
                assert int(memory.left) == history.left, (seed, i)
                dropped.add(history.left - before)
    assert max(dropped) > oldest // num_envs  # the loop went beyond the first block
    assert 0 in dropped


def test_diverged_policy_drops_nothing():
    memory = rp.init(16, 1, 1, 2, 1, True, jnp.zeros((1, 1)))
    for head in range(12):
        memory = rp.insert(memory, head, step_of(jnp.ones(2)), jnp.ones((1, 2)))
    for paper in (False, True):
        rule = keeping(10, 0, 0.2, True, paper)
        after, distance = rp.check(memory, 12, rule, constant(jnp.nan), oldest=4)
        assert np.isnan(distance)
        assert int(after.left) == int(memory.left)
