"""Capacity rules: how many old transitions the replay memory keeps (RLx2, section 4.2.2, eq. 6).

Both dynamic rules measure how far the present policy has moved from the one that filled the oldest part of the
memory and drop the oldest transitions when it is too far. There is no rule for growing: a memory that dropped rows
grows back because new ones keep coming, up to `max_rows`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sparserl_jax.replay.storage import Replay


class Capacity(NamedTuple):
    """Numbers of a capacity rule, traced, so that members with different rules share one program."""

    max_rows: jax.Array  # i32[] pass it to storage.insert as capacity_rows
    min_rows: jax.Array  # i32[] rows the dynamic rules never go below (paper) or start from (released)
    threshold: jax.Array  # f32[] policy distance above which rows are dropped
    dynamic: jax.Array  # bool[] False: fixed capacity, the distance is only measured
    paper: jax.Array  # bool[] True: the rule of the paper, False: the rule of the released code


def check(
    replay: Replay,
    head: jax.Array,
    capacity: Capacity,
    policy: Callable[[jax.Array], jax.Array],
    oldest: int = 2048,
) -> tuple[Replay, jax.Array]:
    """Measure the policy distance on the oldest transitions and drop rows as the member's rule says.

    Released code (`paper=False`): the distance is half the mean square difference, over transitions and action
    dimensions, between the policy and the stored noise-free actions (`mean`; the actions taken when it is not
    kept). If it exceeds the threshold and more than `min_rows` rows are stored, the oldest 10 % of the rows are
    dropped, once.

    Paper (`paper=True`): the distance is the mean Euclidean norm of the difference between the policy and the
    actions taken. While it exceeds the threshold and more than `min_rows` rows are stored, the oldest row is
    dropped.

    Rows are dropped whole; with E environments the `oldest // E` oldest rows are measured (at least one).

    Args:
        replay: memory of one member.
        head: i32[] rows written so far.
        capacity: the member's rule.
        policy: noise-free policy, f32[K,O] -> [K,A], actions in [-1, 1].
        oldest: number of transitions measured (static), 8 batches of 256 in the released code.

    Returns:
        The memory (only `left` may have moved) and the distance before any drop, f32[], 0 for an empty memory.
    """
    total, num_envs = replay.reward.shape
    block = max(1, min(oldest // num_envs, total))
    head = jnp.asarray(head, jnp.int32)
    stored = head - replay.left

    def read(first: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Policy actions and stored rows [block,E,A] from absolute row `first` on, and which of them exist."""
        rows = first + jnp.arange(block, dtype=jnp.int32)
        at = lax.rem(rows, jnp.int32(total))
        obs = replay.obs[at]
        return policy(obs.reshape(block * num_envs, -1)).reshape(block, num_envs, -1), at, rows < head

    def norms(actions: jax.Array, at: jax.Array, exists: jax.Array) -> jax.Array:
        """Mean over environments of the distance to the actions taken, f32[block], 0 where no row exists."""
        gap = jnp.sqrt(jnp.sum((actions - replay.action[at]) ** 2, axis=-1))
        return jnp.where(exists, jnp.mean(gap, axis=-1), 0.0).astype(jnp.float32)

    actions, at, exists = read(replay.left)
    count = jnp.maximum(jnp.minimum(stored, block), 1)
    oldest_norms = norms(actions, at, exists)
    paper_distance = jnp.sum(oldest_norms) / count
    reference = (replay.mean if replay.mean.shape[-1] else replay.action)[at].astype(jnp.float32)
    squares = jnp.where(exists, jnp.mean((actions - reference) ** 2, axis=(1, 2)), 0.0)
    released_distance = 0.5 * jnp.sum(squares) / count
    distance = jnp.where(capacity.paper, paper_distance, released_distance).astype(jnp.float32)

    too_far = capacity.dynamic & (distance > capacity.threshold) & (stored > capacity.min_rows)
    once = jnp.where(too_far & ~capacity.paper, stored // 10, 0)

    # The loop of the paper, a block at a time: with the norms of the next block known, the distance after dropping
    # d = 0..block-1 further rows is a moving average: the policy sees every row once, and rows drop one by one.
    def moving(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        first, norms_here, _ = state
        norms_next = norms(*read(first + block))
        sums = jnp.concatenate(
            [jnp.zeros(1, jnp.float32), jnp.cumsum(jnp.concatenate([norms_here, norms_next]))]
        )
        start = first + jnp.arange(block, dtype=jnp.int32)
        left_over = head - start
        means = (sums[block:-1] - sums[:block]) / jnp.clip(left_over, 1, block)
        stop = (means <= capacity.threshold) | (left_over <= capacity.min_rows) | (left_over <= 0)
        found = jnp.any(stop)
        return jnp.where(found, first + jnp.argmax(stop).astype(jnp.int32), first + block), norms_next, ~found

    # It always ends: at the latest when no row is left.
    loop = too_far & capacity.paper
    left, _, _ = lax.while_loop(lambda state: state[2], moving, (replay.left, oldest_norms, loop))
    return replay._replace(left=jnp.where(loop, left, replay.left + once)), distance
