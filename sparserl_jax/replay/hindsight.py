"""Hindsight experience replay (Andrychowicz et al. 2017): what was reached later is taken for what was wanted.

Strategy `future`, at the time of the draw: a share k / (k + 1) of the drawn transitions gets another goal in the place
of the one its episode had, namely what the same episode had achieved after the same step or a later one, each as likely
as the others; its reward is computed again for it. Stored experience stays as it was.

An episode is known by its first row, so whether two rows belong together is one comparison, and the end of an episode
is found by halving the rows that it can have at most: nothing is sorted or scanned. Of an episode that still runs, or
whose oldest rows have been overwritten, the stored rows from the drawn one on count.

Three kinds of draws keep their goal, beside those of the other share: terminal transitions, whose successor is not
stored, draws of a goal from such a transition, and from one whose final observation has left the side ring (see
`storage.slots_needed`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from sparserl_jax.replay.storage import Replay
from sparserl_jax.replay.windows import Batch, draw, read, take, window_at


class Goals(Protocol):
    """What is read of a description of goals of G numbers (`envs.GoalSpec` has these attributes)."""

    @property
    def desired(self) -> tuple[int, int]: ...  # first entry in an observation, and that behind the last
    @property
    def reward(self) -> Callable[[Any, Any], Any]: ...  # of f32[B,G] achieved and f32[B,G] desired, f32[B]
    def achieved_in(self, obs: Any) -> Any: ...  # f32[B,O] -> f32[B,G]
    def desired_in(self, obs: Any) -> Any: ...  # f32[B,O] -> f32[B,G]


def share(later_goals: float) -> float:
    """Share of a batch that is relabelled where k goals reached later are to come on one that was wanted."""
    return later_goals / (later_goals + 1)


def last_rows(replay: Replay, head: jax.Array, row: jax.Array, env: jax.Array, longest: int) -> jax.Array:
    """The last stored row of the episodes that hold given rows, i32[B], absolute.

    Args:
        replay: memory of one member that keeps episodes.
        head: i32[] rows written so far.
        row: i32[B] absolute rows among those stored.
        env: i32[B] environment columns.
        longest: most rows of an episode (static).
    """
    assert replay.episodes is not None, "a replay for hindsight keeps episodes"
    rows, num_envs = replay.reward.shape
    first = replay.episodes.first.reshape(-1)

    def begun(at: jax.Array) -> jax.Array:
        return take(first, lax.rem(at, jnp.int32(rows)) * num_envs + env)

    episode = begun(row)
    low, high = row, jnp.maximum(episode + jnp.minimum(longest, head - episode) - 1, row)
    for _ in range((min(longest, rows) - 1).bit_length()):  # static: at most 30 times
        middle = (low + high + 1) // 2
        inside = begun(middle) == episode
        low, high = jnp.where(inside, middle, low), jnp.where(inside, high, middle - 1)
    return low


def sample(
    replay: Replay,
    head: jax.Array,
    key: jax.Array,
    batch_size: int,
    goals: Goals,
    relabelled: jax.Array | float,
    longest: int,
) -> Batch:
    """Draw transitions as `windows.sample` does windows of one row, and relabel a share of them.

    Args:
        replay: memory of one member that keeps episodes.
        head: i32[] rows written so far.
        key: typed key.
        batch_size: B (static).
        goals: where goals lie in observations, and what they pay.
        relabelled: share in [0, 1], traced or not, see `share`.
        longest: most rows of an episode, its time limit (static).
    """
    draw_key, which_key, later_key = jax.random.split(key, 3)
    head = jnp.asarray(head, jnp.int32)
    span = draw(replay, head, draw_key, batch_size, 1, 1)
    batch = read(replay, span, 1)
    last = last_rows(replay, head, span.row, span.env, longest)
    later = jax.random.randint(later_key, (batch_size,), span.row, last + 1, jnp.int32)
    reached = window_at(replay, head, later, span.env, 1, 1)

    chosen = jax.random.uniform(which_key, (batch_size,)) < relabelled
    chosen &= reached.valid & ~reached.terminated[:, 0] & ~batch.terminated[:, 0]
    wanted = jnp.where(chosen[:, None], goals.achieved_in(reached.closing_obs), goals.desired_in(batch.obs))
    paid = goals.reward(goals.achieved_in(batch.closing_obs), wanted)
    place = slice(*goals.desired)
    return batch._replace(
        obs=batch.obs.at[:, place].set(wanted),
        closing_obs=batch.closing_obs.at[:, place].set(wanted),
        rewards=jnp.where(chosen[:, None], paid[:, None], batch.rewards).astype(jnp.float32),
    )
