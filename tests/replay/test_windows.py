"""Every drawn window is a true piece of an episode, and every legal one can be drawn."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserl_jax import replay as rp
from sparserl_jax.errors import UserError
from sparserl_jax.replay.windows import window_at
from tests.reference.episodes import History
from tests.reference.nstep import n_step
from tests.replay.common import Transition, experience, keeping, moments

STEPS = 40
N_MAX = 5
OLDEST = 4
GAMMA = 0.5  # powers and sums of the made-up rewards are exact


def policy(obs):
    return jnp.where(obs[..., :1] > 0, 0.5, -0.5)


def numpy_policy(obs):
    return np.where(obs[..., :1] > 0, 0.5, -0.5)


@jax.jit
def fill(memory, data, mean, length, capacity, every):
    def step(i, memory):
        memory = rp.insert(memory, i, jax.tree.map(lambda x: x[i], data), mean[i], capacity.max_rows)
        checked, _ = rp.check(memory, i + 1, capacity, policy, OLDEST)
        due = (i + 1) % every == 0
        return memory._replace(left=jnp.where(due, checked.left, memory.left))

    return jax.lax.fori_loop(0, length, step, memory)


@jax.jit
def probe(memory, head, rows, envs, key, n):
    at = window_at(memory, head, rows, envs, N_MAX, n, successors=True)
    return at, rp.sample(memory, head, key, 32, N_MAX, n, successors=True)


def compare(batch, index, history, row, env, n):
    """One entry of a batch against the list of episodes, exactly."""
    window = history.window(row, env, n)
    used = len(window)
    assert batch.used[index] == used
    np.testing.assert_array_equal(batch.obs[index], window[0].obs)
    np.testing.assert_array_equal(batch.action[index], window[0].action)
    blank = [0] * (N_MAX - used)
    np.testing.assert_array_equal(batch.rewards[index], [m.reward for m in window] + blank)
    np.testing.assert_array_equal(batch.terminated[index], [m.terminated for m in window] + blank)
    np.testing.assert_array_equal(batch.truncated[index], [m.truncated for m in window] + blank)

    total = sum(GAMMA**k * m.reward for k, m in enumerate(window))
    discount = 0.0 if window[-1].terminated else GAMMA**used
    assert sum(GAMMA**k * r for k, r in enumerate(batch.rewards[index].tolist())) == total
    assert GAMMA ** int(batch.used[index]) * (not batch.terminated[index].any()) == discount

    # The released loop reads n slots of the ring, whatever they belong to; it must come to the same target.
    slots = [history.moment(row + k, env) for k in range(n)]
    ends = [not m.terminated for m in slots], [m.truncated for m in slots]
    released = n_step([m.reward for m in slots], *ends, GAMMA)
    assert released[:2] == (total, discount)

    alive = used - 1 if window[-1].terminated else used
    for k in range(alive):
        np.testing.assert_array_equal(batch.successors[index, k], window[k].final_obs)
    if not window[-1].terminated:
        np.testing.assert_array_equal(batch.closing_obs[index], window[-1].final_obs)
        np.testing.assert_array_equal(batch.closing_obs[index], slots[released[2]].final_obs)
        for successor in batch.successors[index, used:]:
            np.testing.assert_array_equal(successor, window[-1].final_obs)
    assert np.isfinite(batch.closing_obs[index]).all()


@given(
    seed=st.integers(0, 2**20),
    num_envs=st.integers(1, 5),
    n=st.integers(1, N_MAX),
    ring=st.sampled_from([(7, 1), (16, 3)]),
    length=st.integers(1, STEPS),
    terminate=st.sampled_from([0.0, 0.1, 0.4]),
    truncate=st.sampled_from([0.0, 0.1, 0.4]),
    time_limit=st.sampled_from([1, 3, 6, 1000]),
    rule=st.sampled_from(["fixed", "released", "paper"]),
    capacity=st.integers(3, 20),
    threshold=st.sampled_from([0.2171, 0.3171, 0.7171]),
    min_rows=st.integers(0, 6),
    every=st.integers(1, 5),
)
@pytest.mark.slow
def test_windows_equal_the_list_of_episodes(
    seed,
    num_envs,
    n,
    ring,
    length,
    terminate,
    truncate,
    time_limit,
    rule,
    capacity,
    threshold,
    min_rows,
    every,
):
    rows, slots = ring
    first, data, mean = experience(
        seed, STEPS, num_envs, terminate=terminate, truncate=truncate, time_limit=time_limit
    )
    history = History(num_envs, rows, slots)
    for step in range(length):
        history.append(moments(data, mean, step), capacity)
        if (step + 1) % every == 0 and rule != "fixed":
            apply = history.paper_rule if rule == "paper" else history.released_rule
            apply(numpy_policy, threshold, min_rows, OLDEST)

    settings_ = rp.Capacity(
        jnp.int32(capacity),
        jnp.int32(min_rows),
        jnp.float32(threshold),
        jnp.bool_(rule != "fixed"),
        jnp.bool_(rule == "paper"),
    )
    memory = rp.init(rows, num_envs, 2, 1, slots, True, jnp.asarray(first))
    memory = fill(memory, data, mean, length, settings_, every)
    assert int(memory.left) == history.left
    assert int(rp.size(memory, length)) == (history.head - history.left) * num_envs

    starts = np.maximum(np.arange(length - rows - 3, length + 2), 0).astype(np.int32)
    starts, envs = (x.reshape(-1) for x in np.meshgrid(starts, np.arange(num_envs, dtype=np.int32)))
    at, drawn = jax.tree.map(np.asarray, probe(memory, length, starts, envs, jax.random.key(seed), n))

    legal = {}
    for index, (row, env) in enumerate(zip(starts.tolist(), envs.tolist(), strict=True)):
        assert at.valid[index] == history.legal(row, env, n), (row, env)
        if at.valid[index]:
            compare(at, index, history, row, env, n)
            legal[at.obs[index].tobytes()] = (row, env)
    for index in range(len(drawn.valid)):
        if drawn.valid[index]:
            compare(drawn, index, history, *legal[drawn.obs[index].tobytes()], n)
    nothing_lost = len(legal) == max(history.head - history.left - n + 1, 0) * num_envs
    if nothing_lost:
        assert drawn.valid.all() == bool(legal)


def window_of(terminated, truncated, n, rewards=(1.0, 2.0, 4.0)):
    """A window of up to 3 rows from row 0 of a ring with these ends; observations are numbered 10, 11, ..."""
    steps = len(rewards)
    obs = 10.0 + np.arange(steps, dtype=np.float32)[:, None, None]
    done = (np.asarray(terminated) | np.asarray(truncated))[:, None, None]
    data = Transition(
        obs=obs,
        action=obs / 100,
        reward=np.asarray(rewards, np.float32)[:, None],
        terminated=np.asarray(terminated)[:, None],
        truncated=np.asarray(truncated)[:, None],
        final_obs=np.where(done, obs + 90, obs + 1),
        next_obs=obs + 1,
    )
    memory = rp.init(8, 1, 1, 1, 2, False, jnp.asarray(obs[0]))
    for i in range(steps):
        memory = rp.insert(memory, i, jax.tree.map(lambda x, i=i: x[i], data))
    zero = jnp.zeros(1, jnp.int32)
    batch = jax.tree.map(np.asarray, window_at(memory, steps, zero, zero, 3, n))
    assert batch.valid[0]
    total = sum(0.5**k * r for k, r in enumerate(batch.rewards[0].tolist()))
    return total, 0.5 ** int(batch.used[0]) * (not batch.terminated[0].any()), float(batch.closing_obs[0, 0])


# gamma = 1/2, rewards 1, 2, 4; observations 10, 11, 12, 13; a finished episode ends in observation + 90.
HAND = [
    ("goes on", [0, 0, 0], [0, 0, 0], 3, (1 + 1 + 1, 1 / 8, 13)),
    ("one step", [0, 0, 0], [0, 0, 0], 1, (1, 1 / 2, 11)),
    ("terminal first", [1, 0, 0], [0, 0, 0], 3, (1, 0, None)),
    ("terminal last", [0, 0, 1], [0, 0, 0], 3, (3, 0, None)),
    ("time limit first", [0, 0, 0], [1, 0, 0], 3, (1, 1 / 2, 100)),
    ("time limit second", [0, 0, 0], [0, 1, 0], 3, (2, 1 / 4, 101)),
    ("time limit last", [0, 0, 0], [0, 0, 1], 3, (3, 1 / 8, 102)),
    ("terminal after time limit is another episode's", [0, 1, 0], [1, 0, 0], 3, (1, 1 / 2, 100)),
    ("time limit after terminal is another episode's", [1, 0, 0], [0, 1, 0], 3, (1, 0, None)),
    ("both at once count as terminal", [0, 1, 0], [0, 1, 0], 3, (2, 0, None)),
    ("end behind a short window", [0, 0, 1], [0, 0, 0], 2, (2, 1 / 4, 12)),
]


@pytest.mark.parametrize("case", HAND, ids=[case[0] for case in HAND])
def test_hand_computed_windows(case):
    _, terminated, truncated, n, expected = case
    terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
    total, discount, closing = window_of(terminated, truncated, n)
    assert (total, discount) == expected[:2]
    assert expected[2] is None or closing == expected[2]
    reference = n_step([1.0, 2.0, 4.0][:n], ~terminated[:n], truncated[:n], 0.5)
    assert reference[:2] == expected[:2]


@pytest.mark.parametrize(("slots", "truncate"), [(40, 0.0), (40, 0.2), (2, 0.2)])
def test_draws_are_uniform_over_the_legal_windows(slots, truncate):
    length, rows, num_envs, n, draws = 47, 24, 3, 3, 24_000
    first, data, mean = experience(3, length, num_envs, truncate=truncate)
    history = History(num_envs, rows, slots)
    for step in range(length):
        history.append(moments(data, mean, step), rows)
    memory = rp.init(rows, num_envs, 2, 1, slots, True, jnp.asarray(first))
    memory = fill(memory, data, mean, length, keeping(100), 1)
    batch = jax.jit(partial(rp.sample, batch_size=draws, n_max=N_MAX))(memory, length, jax.random.key(5), n=n)

    legal = {
        history.moment(row, env).obs.tobytes(): 0
        for row in range(length)
        for env in range(num_envs)
        if history.legal(row, env, n)
    }
    total = (length - history.left - n + 1) * num_envs
    assert (len(legal) < total) == (slots == 2)
    assert int((~batch.valid).sum()) <= (
        10 if slots == 2 else 0
    )  # a draw's stand-ins may all be lost, rarely
    for obs in np.asarray(batch.obs)[np.asarray(batch.valid)]:
        legal[obs.tobytes()] += 1  # KeyError: an illegal window was drawn
    counts = np.asarray(list(legal.values()))
    assert np.abs(counts / (draws / len(legal)) - 1).max() < 0.3  # 5 standard deviations and more


def test_fewer_rows_than_the_window_are_never_valid():
    first, data, mean = experience(0, STEPS, 2)
    memory = rp.init(16, 2, 2, 1, 3, True, jnp.asarray(first))
    draw = jax.jit(partial(rp.sample, batch_size=16, n_max=N_MAX))
    for length in range(6):
        filled = fill(memory, data, mean, length, keeping(100), 1)
        assert bool(draw(filled, length, jax.random.key(0), n=4).valid.all()) == (length >= 4)
        assert bool(draw(filled, length, jax.random.key(0), n=4).valid.any()) == (length >= 4)


@pytest.mark.parametrize("limit", [1, 7])
@pytest.mark.slow
def test_slots_needed_lose_nothing_and_one_less_does(limit):
    rows, length = 30, 40

    def lost(slots):
        first, data, mean = experience(1, 100, 2, terminate=0.0, truncate=0.0, time_limit=limit)
        memory = rp.init(rows, 2, 2, 1, slots, True, jnp.asarray(first))
        bad = 0
        for end in range(length, length + limit):
            filled = fill(memory, data, mean, end, keeping(100), 1)
            start = np.arange(end - rows + 1, end - 2, dtype=np.int32)
            batch, _ = probe(filled, end, start, np.zeros_like(start), jax.random.key(0), 3)
            bad += int((~batch.valid).sum())
        return bad

    needed = rp.slots_needed(rows, limit)
    assert needed == -(-(rows - 1) // limit)
    assert lost(needed) == 0
    assert lost(needed - 1) > 0


@pytest.mark.slow
def test_members_under_vmap_equal_single_calls():
    num_envs, rows, slots, length = 2, 16, 2, 37
    worlds = [experience(seed, STEPS, num_envs, action_dim=2) for seed in range(3)]
    keys = jax.random.split(jax.random.key(9), 3)
    ns = jnp.array([1, 3, 5], jnp.int32)
    rules = [
        keeping(100),
        keeping(20, 4, 0.1, True),
        keeping(30, 4, 0.5, True, paper=True),
    ]

    def life(first, data, mean, key, n, rule, length):
        memory = rp.init(rows, num_envs, 2, 2, slots, True, first)

        def step(i, memory):
            memory = rp.insert(memory, i, jax.tree.map(lambda x: x[i], data), mean[i], rule.max_rows)
            return rp.check(memory, i + 1, rule, lambda obs: jnp.tanh(obs), OLDEST)[0]

        memory = jax.lax.fori_loop(0, length, step, memory)
        return memory, rp.sample(memory, length, key, 32, N_MAX, n)

    def stack(trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    single_call = jax.jit(life)
    singles = stack([single_call(*worlds[i], keys[i], ns[i], rules[i], length) for i in range(3)])
    first, data, mean = stack(worlds)
    together = jax.jit(jax.vmap(life, in_axes=(0, 0, 0, 0, 0, 0, None)))(
        first, data, mean, keys, ns, stack(rules), length
    )
    jax.tree.map(np.testing.assert_array_equal, together, singles)
    assert len({int(left) for left in singles[0].left}) == 3


def test_windows_longer_than_the_ring_are_refused():
    memory = rp.init(4, 1, 2, 1, 1, False, jnp.zeros((1, 2)))
    with pytest.raises(UserError, match="n_max is 4"):
        rp.sample(memory, 4, jax.random.key(0), 8, 4, 1)
