"""Ring storage: every observation kept once, time-limit ends remembered in a small side ring.

A row holds one step of all `E` environments, so a ring of `R` rows is shared by its environments and the row to
write is a number of the clock, the same for every member of a population. Training vmaps these functions over
members with `head` unbatched (`in_axes=None`): the writes then stay slices, done in place inside a scan.

The successor of row `t` is the observation of row `t + 1`. This is wrong at episode ends only, where row `t + 1`
holds the first observation after the reset: at a termination nobody needs the successor, and at a truncation the
true final observation lies in the side ring, which has a few slots per environment instead of a second column of
observations.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from sparserl_jax.errors import UserError

TERMINATED = 1
"""Bit of `Replay.flags`: the episode ended in a terminal state."""
TRUNCATED = 2
"""Bit of `Replay.flags`: the episode was cut (time limit)."""
FLAG_BITS = 2
"""The bits above these hold the slot of a truncation in the side ring."""
_SHORT_SLOTS = 2 ** (16 - FLAG_BITS)
_INDEX_LIMIT = 2**30  # leaves room for offsets in 32-bit indices


class Stored(Protocol):
    """What `insert` reads of one step of `E` environments (`envs.rollout.Transition` has these attributes)."""

    @property
    def obs(self) -> jax.Array: ...  # f32[E,O]
    @property
    def action(self) -> jax.Array: ...  # f32[E,A] in [-1, 1]
    @property
    def reward(self) -> jax.Array: ...  # f32[E]
    @property
    def terminated(self) -> jax.Array: ...  # bool[E]
    @property
    def truncated(self) -> jax.Array: ...  # bool[E]
    @property
    def final_obs(self) -> jax.Array: ...  # f32[E,O] true next observation, before any reset
    @property
    def next_obs(self) -> jax.Array: ...  # f32[E,O] observation the next step starts from


class Episodes(NamedTuple):
    """Which rows are of one episode: those with the same first row."""

    first: jax.Array  # i32[R,E] absolute row that the episode of each row began with
    running: jax.Array  # i32[E] the same of the row that is written next


class Replay(NamedTuple):
    """Replay memory of one member. Axes: R rows, E environments, O observation, A action, S side slots.

    Rows are counted from the beginning of the run ("absolute"); row `t` lies at `t % R`. The rows that may be used
    are `left, ..., head - 1`, where `head` is the number of rows written so far, kept in the clock.
    """

    obs: jax.Array  # f32[R,E,O]
    action: jax.Array  # f32[R,E,A]
    mean: jax.Array  # f16[R,E,A] noise-free action of the policy of that time; f16[R,E,0] when not kept
    reward: jax.Array  # f32[R,E]
    flags: jax.Array  # uint16 or uint32 [R,E]: TERMINATED | TRUNCATED | side slot << FLAG_BITS
    final_obs: jax.Array  # f32[S,E,O] true final observations of truncated episodes
    final_row: jax.Array  # i32[S,E] absolute row each slot belongs to, -1 when empty
    slot: jax.Array  # i32[E] truncations so far
    left: jax.Array  # i32[] absolute index of the oldest valid row
    episodes: Episodes | None = None  # where kept, for hindsight


def slots_needed(rows: int, max_episode_steps: int) -> int:
    """Side slots per environment with which no needed final observation is ever overwritten.

    Holds for time limits (at most one truncation per `max_episode_steps` rows and environment). Environments that
    truncate earlier, at will, may need more: `sample` never uses the windows whose final observation is gone.

    Args:
        rows: rows R of the ring.
        max_episode_steps: time limit, in steps.

    Returns:
        Number of slots S, at least 1.
    """
    if max_episode_steps < 1:
        raise UserError(f"max_episode_steps is {max_episode_steps}: give a time limit of at least 1 step.")
    return max(1, -(-(rows - 1) // max_episode_steps))


def init(
    rows: int,
    num_envs: int,
    obs_dim: int,
    action_dim: int,
    slots: int,
    keep_mean: bool,
    first_obs: jax.Array,
    keep_episodes: bool = False,
) -> Replay:
    """Empty replay memory of one member.

    Args:
        rows: rows R of the ring. The newest row's successor takes one row, so at most R - 1 rows are valid (the
            released code of RLx2 has this limit too: a buffer of 10^6 holds 999,999 transitions).
        num_envs: environments E.
        obs_dim: O.
        action_dim: A.
        slots: side slots S per environment, see `slots_needed`.
        keep_mean: also keep the noise-free action of each step (half precision), for the released buffer rule.
        first_obs: f32[E,O], the observations the first step starts from.
        keep_episodes: also keep which rows are of one episode, for hindsight.

    Raises:
        UserError: when a size is impossible.
    """
    if rows < 2:
        raise UserError(f"replay rows is {rows}: a ring needs at least 2 rows.")
    if slots < 1:
        raise UserError(f"replay side slots is {slots}: at least 1 is needed, see slots_needed().")
    if rows * num_envs > _INDEX_LIMIT:
        raise UserError(
            f"replay of {rows} rows x {num_envs} environments exceeds 2^30 transitions: make the buffer smaller."
        )
    if tuple(first_obs.shape) != (num_envs, obs_dim):
        raise UserError(
            f"first_obs has shape {tuple(first_obs.shape)}, expected {(num_envs, obs_dim)} (envs, obs_dim)."
        )
    flag_type = jnp.uint16 if slots <= _SHORT_SLOTS else jnp.uint32
    obs = jnp.zeros((rows, num_envs, obs_dim), jnp.float32)
    none_yet = Episodes(jnp.zeros((rows, num_envs), jnp.int32), jnp.zeros((num_envs,), jnp.int32))
    return Replay(
        obs=obs.at[0].set(first_obs.astype(jnp.float32)),
        action=jnp.zeros((rows, num_envs, action_dim), jnp.float32),
        mean=jnp.zeros((rows, num_envs, action_dim if keep_mean else 0), jnp.float16),
        reward=jnp.zeros((rows, num_envs), jnp.float32),
        flags=jnp.zeros((rows, num_envs), flag_type),
        final_obs=jnp.zeros((slots, num_envs, obs_dim), jnp.float32),
        final_row=jnp.full((slots, num_envs), -1, jnp.int32),
        slot=jnp.zeros((num_envs,), jnp.int32),
        left=jnp.zeros((), jnp.int32),
        episodes=none_yet if keep_episodes else None,
    )


def insert(
    replay: Replay,
    head: jax.Array,
    transition: Stored,
    mean: jax.Array | None = None,
    capacity_rows: jax.Array | int | None = None,
) -> Replay:
    """Write one step of all environments as row `head`; the clock then counts `head + 1` rows.

    A flag pair terminated-and-truncated counts as terminated. Oldest rows fall out so that at most
    `min(capacity_rows, R - 1)` stay valid; a capacity that shrank takes effect at once.

    Args:
        replay: memory of one member.
        head: i32[], rows written so far; must be the same for all members (unbatched under vmap), else every write
            becomes a scatter over the whole ring.
        transition: one step of `E` environments, see `Stored`.
        mean: [E,A] noise-free actions in [-1, 1]; needed if and only if the memory keeps them.
        capacity_rows: i32[] largest number of valid rows; default R - 1.

    Raises:
        UserError: when `mean` is missing from a memory that keeps it, or given to one that does not.
    """
    rows, num_envs = replay.reward.shape
    slots = replay.final_row.shape[0]
    keeps_mean = replay.mean.shape[-1] > 0
    if keeps_mean != (mean is not None):
        keeps = "keeps" if keeps_mean else "does not keep"
        raise UserError(
            f"this replay {keeps} noise-free actions: give insert a mean exactly if keep_mean=True."
        )

    head = jnp.asarray(head, jnp.int32)
    row, successor = lax.rem(head, jnp.int32(rows)), lax.rem(head + 1, jnp.int32(rows))

    def write(ring: jax.Array, at: jax.Array, value: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(ring, value.astype(ring.dtype)[None], at, axis=0)

    terminated = transition.terminated.astype(bool)
    truncated = transition.truncated.astype(bool) & ~terminated
    slot = lax.rem(replay.slot, jnp.int32(slots))
    flags = jnp.where(truncated, TRUNCATED + (slot << FLAG_BITS), jnp.where(terminated, TERMINATED, 0))

    # Environments that go on write to slot S, which does not exist: the write is dropped, no old value is read back.
    target = (jnp.where(truncated, slot, slots), jnp.arange(num_envs))
    wanted = rows - 1 if capacity_rows is None else capacity_rows
    kept = jnp.minimum(wanted, rows - 1).astype(jnp.int32)
    episodes = replay.episodes
    if episodes is not None:
        following = jnp.where(terminated | truncated, head + 1, episodes.running)
        episodes = Episodes(write(episodes.first, row, episodes.running), following)
    return Replay(
        obs=write(write(replay.obs, row, transition.obs), successor, transition.next_obs),
        action=write(replay.action, row, transition.action),
        mean=replay.mean if mean is None else write(replay.mean, row, mean),
        reward=write(replay.reward, row, transition.reward),
        flags=write(replay.flags, row, flags),
        final_obs=replay.final_obs.at[target].set(transition.final_obs, mode="drop", unique_indices=True),
        final_row=replay.final_row.at[target].set(head, mode="drop", unique_indices=True),
        slot=replay.slot + truncated.astype(jnp.int32),
        left=jnp.maximum(replay.left, head + 1 - kept),
        episodes=episodes,
    )


def cut(replay: Replay, head: jax.Array, lost: jax.Array, next_obs: jax.Array) -> Replay:
    """End running episodes behind the newest row, as truncated there: the environment could not be brought back.

    Args:
        replay: memory of one member.
        head: i32[], rows written so far.
        lost: bool[E], environments whose running episode has rows and ends here.
        next_obs: f32[E,O], the observations the next step starts from; those of environments that go on unchanged
            must be the ones stored.
    """
    rows, num_envs = replay.reward.shape
    slots = replay.final_row.shape[0]
    head = jnp.asarray(head, jnp.int32)
    last, successor = lax.rem(head - 1 + rows, jnp.int32(rows)), lax.rem(head, jnp.int32(rows))
    slot = lax.rem(replay.slot, jnp.int32(slots))
    flags = jnp.where(lost, TRUNCATED + (slot << FLAG_BITS), replay.flags[last]).astype(replay.flags.dtype)
    target = (jnp.where(lost, slot, slots), jnp.arange(num_envs))
    episodes = replay.episodes
    if episodes is not None:
        episodes = episodes._replace(running=jnp.where(lost, head, episodes.running))
    return replay._replace(
        episodes=episodes,
        obs=replay.obs.at[successor].set(next_obs),
        flags=replay.flags.at[last].set(flags),
        final_obs=replay.final_obs.at[target].set(replay.obs[successor], mode="drop", unique_indices=True),
        final_row=replay.final_row.at[target].set(head - 1, mode="drop", unique_indices=True),
        slot=replay.slot + lost.astype(jnp.int32),
    )


def size(replay: Replay, head: jax.Array) -> jax.Array:
    """Valid transitions, i32[]: valid rows times environments; `head` counts the rows written so far."""
    return (jnp.asarray(head, jnp.int32) - replay.left) * replay.reward.shape[1]


def bytes_per(
    rows: int,
    num_envs: int,
    obs_dim: int,
    action_dim: int,
    slots: int,
    keep_mean: bool,
    keep_episodes: bool = False,
) -> int:
    """Bytes of the memory of one member (from shapes alone, nothing is allocated); arguments as in `init`."""
    first = jax.ShapeDtypeStruct((num_envs, obs_dim), jnp.float32)
    make = partial(init, rows, num_envs, obs_dim, action_dim, slots, keep_mean, keep_episodes=keep_episodes)
    shapes = jax.eval_shape(make, first)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
