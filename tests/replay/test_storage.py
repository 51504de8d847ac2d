"""The ring keeps what it promises in the bytes it promises, and is written in place."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import replay as rp
from sparserl_jax.errors import UserError
from sparserl_jax.replay.windows import window_at
from tests.replay.common import Transition, experience


def test_a_million_transitions_fit_the_memory_goal():
    slots = rp.slots_needed(10**6 + 1, 1000)
    assert slots == 1000

    def nbytes(keep_mean):
        make = partial(rp.init, 10**6 + 1, 1, 17, 6, slots, keep_mean)
        shapes = jax.eval_shape(make, jax.ShapeDtypeStruct((1, 17), jnp.float32))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))

    assert nbytes(False) <= 100e6
    assert nbytes(True) <= 112e6
    assert rp.bytes_per(10**6 + 1, 1, 17, 6, slots, True) == nbytes(True)


def test_row_holds_what_was_inserted_and_the_next_row_its_successor():
    first, data, mean = experience(0, 9, 3, obs_dim=4, action_dim=2, truncate=0.3)
    memory = rp.init(5, 3, 4, 2, 2, True, jnp.asarray(first))
    insert = jax.jit(rp.insert)
    for i in range(9):
        memory = insert(memory, i, jax.tree.map(lambda x, i=i: x[i], data), mean[i])
        np.testing.assert_array_equal(memory.obs[i % 5], data.obs[i])
        np.testing.assert_array_equal(memory.obs[(i + 1) % 5], data.next_obs[i])
        np.testing.assert_array_equal(memory.action[i % 5], data.action[i])
        np.testing.assert_array_equal(memory.mean[i % 5], mean[i])
        np.testing.assert_array_equal(memory.reward[i % 5], data.reward[i])
        assert int(memory.left) == max(0, i + 1 - 4)
    np.testing.assert_array_equal(memory.slot, data.truncated.sum(0))


def test_capacity_takes_effect_at_once_and_growing_brings_nothing_back():
    _, data, _ = experience(0, 20, 2)
    memory = rp.init(11, 2, 2, 1, 4, False, jnp.zeros((2, 2)))
    insert = jax.jit(rp.insert)
    sizes = []
    for i in range(20):
        capacity = 100 if i < 12 else 3 if i < 14 else 5
        memory = insert(memory, i, jax.tree.map(lambda x, i=i: x[i], data), capacity_rows=capacity)
        sizes.append(int(rp.size(memory, i + 1)))
    assert sizes == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 20, 20, 6, 6, 8, 10, 10, 10, 10, 10]


def test_many_side_slots_need_wider_flags_and_keep_working():
    one = np.zeros((1,), bool)
    obs = jnp.ones((1, 2))
    step = Transition(obs, jnp.zeros((1, 1)), jnp.ones(1), one, ~one, 7 * obs, 2 * obs)
    for slots, kind in ((2**14, jnp.uint16), (2**14 + 1, jnp.uint32)):
        memory = rp.init(6, 1, 2, 1, slots, False, jnp.ones((1, 2)))
        memory = memory._replace(slot=memory.slot + slots - 1)  # the highest slot is next
        assert memory.flags.dtype == kind
        memory = rp.insert(memory, 0, step)
        assert int(memory.final_row[-1, 0]) == 0
        zero = jnp.zeros(1, jnp.int32)
        batch = window_at(memory, 1, zero, zero, 1, 1)
        assert bool(batch.valid[0])
        assert float(batch.closing_obs[0, 0]) == 7.0


def test_donated_ring_is_written_in_place():
    members, rows, num_envs = 3, 100_000, 2
    _, data, mean = experience(0, 4, num_envs, obs_dim=8, action_dim=2)
    data, mean = jax.tree.map(lambda x: jnp.stack([x] * members), (data, mean))
    keys = jax.random.split(jax.random.key(0), members)

    def one(memory, head, data, mean, key):
        memory = rp.insert(memory, head, data, mean)
        batch = rp.sample(memory, head + 1, jax.random.fold_in(key, head), 32, 3, 3)
        return memory, batch.obs.sum() + batch.closing_obs.sum()

    def loop(memory, data, mean, keys):
        def step(carry, head):
            memory, total = carry
            now, action = jax.tree.map(lambda x: x[:, head % 4], (data, mean))
            memory, value = jax.vmap(one, in_axes=(0, None, 0, 0, 0))(memory, head, now, action, keys)
            return (memory, total + value), None

        return jax.lax.scan(step, (memory, jnp.zeros(members)), jnp.arange(6, dtype=jnp.int32))[0]

    empty = jax.vmap(partial(rp.init, rows, num_envs, 8, 2, 10, True))(jnp.zeros((members, num_envs, 8)))
    compiled = jax.jit(loop, donate_argnums=0).lower(empty, data, mean, keys).compile()

    def pointers(memory):
        rings = (memory.obs, memory.action, memory.mean, memory.reward, memory.flags)
        return [ring.unsafe_buffer_pointer() for ring in rings]

    before = pointers(empty)
    ring = empty.obs.nbytes
    memory, _ = compiled(empty, data, mean, keys)
    if not empty.obs.is_deleted():
        pytest.skip("this backend does not honour donation")
    assert pointers(memory) == before
    analysis = compiled.memory_analysis()
    if analysis is not None:  # a hidden copy inside the loop would need room for the ring
        assert analysis.temp_size_in_bytes < ring / 10


def test_mistakes_are_told_before_anything_is_stored():
    first = jnp.zeros((2, 3))
    for arguments, message in (
        ((1, 2, 3, 1, 1, False, first), "rows is 1"),
        ((8, 2, 3, 1, 0, False, first), "side slots is 0"),
        ((8, 2, 4, 1, 1, False, first), "first_obs has shape"),
        ((2**30, 2, 3, 1, 1, False, first), "make the buffer smaller"),
    ):
        with pytest.raises(UserError, match=message):
            rp.init(*arguments)
    with pytest.raises(UserError, match="max_episode_steps is 0"):
        rp.slots_needed(10, 0)
    _, data, mean = experience(0, 1, 2, obs_dim=3)
    step = jax.tree.map(lambda x: x[0], data)
    with pytest.raises(UserError, match="keep_mean"):
        rp.insert(rp.init(8, 2, 3, 1, 1, True, first), 0, step)
    with pytest.raises(UserError, match="keep_mean"):
        rp.insert(rp.init(8, 2, 3, 1, 1, False, first), 0, step, mean[0])
