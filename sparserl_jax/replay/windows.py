"""n-step windows: uniform draws from the ring, cut at episode ends (RLx2, section 4.2.1, and its released code).

A window is up to `n` consecutive rows of one environment. It stops at the first episode end inside it:

- after a termination nothing follows: the return is the plain sum of rewards, discount 0;
- after a time limit the return bootstraps from the true final observation of the episode, `gamma^used`;
- otherwise it bootstraps from the observation after the n-th row, `gamma^n`.

With `used` rows per window the n-step return is `sum_{k < used} gamma^k rewards_k` and the discount of the
bootstrap `gamma^used * not terminated`: what the released loop computes with its flags b, c and index j = used - 1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparserl_jax.errors import UserError
from sparserl_jax.replay.storage import FLAG_BITS, TERMINATED, TRUNCATED, Replay

REDRAWS = 8
"""How many other draws stand in, in turn, for one that cannot be used."""


class Batch(NamedTuple):
    """Windows. Axes: B batch, N longest window (static), O observation, A action.

    Behind the end of a window (`k >= used`) rewards are 0 and flags False, so sums need no further mask.
    """

    obs: jax.Array  # f32[B,O] first observation
    action: jax.Array  # f32[B,A] first action, in [-1, 1]
    rewards: jax.Array  # f32[B,N]
    terminated: jax.Array  # bool[B,N]
    truncated: jax.Array  # bool[B,N]
    closing_obs: jax.Array  # f32[B,O] to bootstrap from; finite but meaningless after a termination
    used: jax.Array  # i32[B] rows in the window, 1..n
    valid: jax.Array  # bool[B] False: give this entry weight 0
    successors: jax.Array | None = None  # f32[B,N,O] if asked: after row k; closing_obs for k >= used - 1


class Span(NamedTuple):
    """Where windows lie, found from the flags alone, before any observation is read."""

    row: jax.Array  # i32[B] absolute first row
    env: jax.Array  # i32[B] environment
    first: jax.Array  # i32[B] both as an index into [R*E]
    used: jax.Array  # i32[B]
    terminated: jax.Array  # bool[B] ends in a terminal state
    side: jax.Array  # i32[B] final observation as an index into [S*E] if it ends at a time limit, else -1
    valid: jax.Array  # bool[B]


def _after(replay: Replay, first: jax.Array, offset: jax.Array) -> jax.Array:
    """Index into [R*E] of the rows `offset <= R` after `first`."""
    rows, num_envs = replay.reward.shape
    at = first + offset * num_envs
    return jnp.where(at >= rows * num_envs, at - rows * num_envs, at)


def take(table: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of a table; the caller keeps the index in range, so nothing has to be clipped or filled."""
    return table.at[index].get(mode="promise_in_bounds")


def _span(replay: Replay, head: jax.Array, row: jax.Array, env: jax.Array, n_max: int, n: jax.Array) -> Span:
    """End and legality of the windows that start at absolute rows `row`[B], columns `env`[B]."""
    rows, num_envs = replay.reward.shape
    first = lax.rem(row, jnp.int32(rows)) * num_envs + env
    offset = jnp.arange(n_max, dtype=jnp.int32)
    flags = take(replay.flags.reshape(-1), _after(replay, first[:, None], offset))
    stops = ((flags & (TERMINATED | TRUNCATED)) > 0) | (offset + 1 >= n)
    last = jnp.argmax(stops, axis=1).astype(jnp.int32)
    flag = jnp.take_along_axis(flags, last[:, None], axis=1, mode="promise_in_bounds")[:, 0]

    cut = (flag & TRUNCATED) > 0
    side = (flag >> FLAG_BITS).astype(jnp.int32) * num_envs + env
    kept = ~cut | (take(replay.final_row.reshape(-1), side) == row + last)
    return Span(
        row=row,
        env=env,
        first=first,
        used=last + 1,
        terminated=(flag & TERMINATED) > 0,
        side=jnp.where(cut, side, -1),
        valid=kept & (row >= replay.left) & (row + n <= head),
    )


def read(replay: Replay, span: Span, n_max: int, successors: bool = False) -> Batch:
    """Gather what the windows hold."""
    obs_dim, action_dim = replay.obs.shape[-1], replay.action.shape[-1]
    first, used, cut = span.first[:, None], span.used[:, None], span.side[:, None] >= 0
    offset = jnp.arange(n_max, dtype=jnp.int32)
    observations = replay.obs.reshape(-1, obs_dim)

    # Behind the end every successor is the closing one, so one side observation serves them all.
    after = jnp.minimum(offset + 1, used) if successors else used  # [B,N] or [B,1]
    following = take(observations, _after(replay, first, after))
    final = take(replay.final_obs.reshape(-1, obs_dim), jnp.maximum(span.side, 0))
    following = jnp.where((cut & (after == used))[..., None], final[:, None], following)

    rewards = take(replay.reward.reshape(-1), _after(replay, first, offset))
    return Batch(
        obs=take(observations, span.first),
        action=take(replay.action.reshape(-1, action_dim), span.first),
        rewards=jnp.where(offset < used, rewards, 0.0),
        terminated=(offset + 1 == used) & span.terminated[:, None],
        truncated=(offset + 1 == used) & cut,
        closing_obs=following[:, -1],
        used=span.used,
        valid=span.valid,
        successors=following if successors else None,
    )


def _check(replay: Replay, n_max: int) -> None:
    if not 1 <= n_max < replay.reward.shape[0]:
        raise UserError(
            f"n_max is {n_max}: windows take 1 to {replay.reward.shape[0] - 1} rows of this replay memory."
        )


def window_at(
    replay: Replay,
    head: jax.Array,
    row: jax.Array,
    env: jax.Array,
    n_max: int,
    n: jax.Array | int,
    successors: bool = False,
) -> Batch:
    """The windows that start at given places; `sample` draws the places.

    Args:
        replay: memory of one member.
        head: i32[] rows written so far.
        row: i32[B] absolute first rows, >= 0.
        env: i32[B] environment columns.
        n_max: longest window N (static).
        n: i32[] window length, 1..N.
        successors: also read the observation after every row.

    Returns:
        Batch; `valid` is False where the window would leave the rows `left..head-1` or needs a final observation that
        the side ring no longer has.
    """
    _check(replay, n_max)
    span = _span(replay, jnp.asarray(head, jnp.int32), row, env, n_max, jnp.asarray(n, jnp.int32))
    return read(replay, span, n_max, successors)


def sample(
    replay: Replay,
    head: jax.Array,
    key: jax.Array,
    batch_size: int,
    n_max: int,
    n: jax.Array | int,
    successors: bool = False,
) -> Batch:
    """Draw windows uniformly, with replacement, over all first rows that have n rows written and all environments.

    Windows whose final observation has left the side ring (only possible when an environment truncates earlier than
    the limit `slots_needed` was given) are not used: the nearest usable one of the up to `REDRAWS` draws before it
    in the batch takes the place of such a draw. Each entry stays uniform over the legal windows, ordinary batches
    pay nothing, and a batch that met many lost windows holds repetitions. If none of those draws is usable either,
    or fewer than n rows are stored, the entry has `valid=False` and must get weight 0.

    Args:
        replay: memory of one member.
        head: i32[] rows written so far.
        key: typed key.
        batch_size: B (static).
        n_max: longest window N (static).
        n: i32[] window length now, 1..N (may differ between members).
        successors: also return f32[B,N,O] observations after each row (entropy terms of SAC).
    """
    return read(replay, draw(replay, head, key, batch_size, n_max, n), n_max, successors)


def draw(
    replay: Replay, head: jax.Array, key: jax.Array, batch_size: int, n_max: int, n: jax.Array | int
) -> Span:
    """Where the windows lie that `sample` reads."""
    _check(replay, n_max)
    num_envs = replay.reward.shape[1]
    head, n = jnp.asarray(head, jnp.int32), jnp.asarray(n, jnp.int32)
    starts = jnp.maximum(head - replay.left - n + 1, 1)
    drawn = jax.random.randint(key, (batch_size,), 0, starts * num_envs, jnp.int32)
    row = replay.left + lax.div(drawn, jnp.int32(num_envs))
    env = lax.rem(drawn, jnp.int32(num_envs))
    span = _span(replay, head, row, env, n_max, n)

    # Validity alone decides who stands in for whom, so a stand-in is a uniform legal draw like any other.
    place = np.arange(batch_size, dtype=np.int32)
    others = jnp.asarray((place[:, None] - place[: REDRAWS + 1]) % batch_size)  # constant [B, 1 + redraws]
    first = jnp.argmax(take(span.valid, others), axis=1).astype(jnp.int32)
    chosen = lax.rem(jnp.asarray(place) - first + batch_size, jnp.int32(batch_size))
    return Span(*(take(part, chosen) for part in span))
