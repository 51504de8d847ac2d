"""Datasets that a training learns from in place of its own steps: what their names say, how they are made and drawn.

    own:random?episodes=50      whole episodes of uniform actions in the training's own environment, made inside `init`
                                from a key of the run's seed: the same data for all arms, other data for every seed
    PATH                        a file, see `sparserl_jax.data`: the same data for all arms and all seeds

The first is kept by each member as arrays, beside its networks; a file is on every device once, for all members.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax import data as files
from sparserl_jax.data import OfflineDataset
from sparserl_jax.envs import Environment, EnvSpec, EnvState, Pool, Transition, advance, start
from sparserl_jax.errors import UserError, located, suggest
from sparserl_jax.replay import Batch, Replay
from sparserl_jax.replay.storage import FLAG_BITS, TERMINATED, TRUNCATED
from sparserl_jax.replay.windows import take

WRITTEN = "own:random?episodes=50"
"""How a dataset is written, for messages."""
OWN = "own:"
POLICIES = (f"{OWN}random",)


class Source(NamedTuple):
    """What a dataset's name says. policy: how it acts, one of POLICIES. episodes: whole ones of it."""

    policy: str
    episodes: int


class Dataset(NamedTuple):
    """Transitions of one member, episode after episode; fields as of `data.OfflineDataset`, rows behind `rows` unused.

    obs, next_obs f32[N,O]; action f32[N,A]; reward f32[N]; terminated, truncated bool[N]; rows i32[]. drawn: which of
    them are learned from, as (i32[N], i32[]): row numbers, and how many of these; `()`: all.
    """

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    next_obs: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    rows: jax.Array
    drawn: tuple[jax.Array, jax.Array] | tuple[()] = ()

    @property
    def held(self) -> jax.Array:
        """How many rows are learned from, i32[]."""
        return self.drawn[1] if self.drawn else self.rows


@dataclasses.dataclass(frozen=True)
class Logged:
    """A dataset that was read from a file: its name as it is written, the SHA-256 of its arrays, and these."""

    name: str
    sha256: str
    arrays: OfflineDataset = dataclasses.field(compare=False, repr=False)

    def described(self) -> dict[str, Any]:
        """See `described`."""
        return described(self.name, self.arrays, self.sha256)


class Made(NamedTuple):
    """A dataset that has just been made: returns f32[episodes], undiscounted; invalid i32[]: steps on the way whose
    physics returned NaN."""

    data: Dataset
    returns: jax.Array
    invalid: jax.Array


def source(text: str, where: str) -> Source | None:
    """What the name of a dataset says, None where it is a file; `where` it stands, for messages.

    Raises:
        UserError: it says nothing that there is.
    """
    with located(f"{where}: dataset '{text}'"):
        policy, options = files.split(text)
    if not text.startswith(OWN):
        return None
    if policy not in POLICIES:
        raise suggest(policy, list(POLICIES), f"dataset of {where}")
    try:
        episodes = int(options.pop("episodes"))
        if options or episodes < 1:
            raise ValueError
    except (ValueError, KeyError):
        raise UserError(
            f"{where}: dataset '{text}' must say how many episodes it has, at least 1, and nothing else, such as "
            f"'{WRITTEN}'."
        ) from None
    return Source(policy, episodes)


def read(text: str, spec: EnvSpec, folder: Path, where: str) -> Logged | None:
    """The dataset of a file, for an environment; None where none is named. `folder`: where relative paths begin.

    Raises:
        UserError: there is no such file, or it holds no data of this environment.
    """
    if source(text, where) is not None:
        return None
    with located(where):
        if spec.actions != "continuous":
            raise UserError(
                f"dataset '{text}' would hold real actions, and these are {spec.actions}; drop it."
            )
        bounds = {"action_low": spec.action_low, "action_high": spec.action_high}
        found = files.load(text, obs_dim=spec.obs_dim, **bounds, folder=folder)
    return Logged(text, found.sha256, found)


def described(name: str, found: OfflineDataset, sha256: str | None = None) -> dict[str, Any]:
    """What records say of a dataset: its name, how much it is, the mean return of its episodes, and the digest of its
    arrays (taken where not given)."""
    return {
        "name": name,
        "transitions": len(found.reward),
        "episodes": int(found.ends.sum()),
        "mean_return": float(found.returns.mean()),
        "sha256": found.sha256 if sha256 is None else sha256,
    }


def line(logged: Logged, env: str) -> str:
    """A dataset that was read, in words."""
    returns = logged.arrays.returns
    return (
        f"data of {env}: {logged.name}, {len(logged.arrays.reward):,} transitions in {len(returns):,} episodes with "
        f"returns from {returns.min():.4g} to {returns.max():.4g} (mean {returns.mean():.4g}), sha256 "
        f"{logged.sha256[:12]}"
    )


def rows_of(data: Dataset) -> OfflineDataset:
    """The rows that there are, of one member's dataset on the host."""
    return OfflineDataset(
        *(np.asarray(getattr(data, name))[: int(data.rows)] for name in OfflineDataset._fields)
    )


def of_replay(replay: Replay, rows: int) -> tuple[OfflineDataset, np.ndarray]:
    """The first `rows` transitions of a run from its replay, and which of them are left out, i64[...].

    Args:
        replay: of one member with one environment, NumPy arrays, which has forgotten no row. It does not store what a
            terminal state looks like: the next observation of such a row is the one before it; no target reads it.
            Left out are rows at a truncation whose final observation is overwritten, which happens where an environment
            truncates earlier than its time limit; the row before is then where the episode is cut.

    Raises:
        UserError: rows are missing.
    """
    if replay.left != 0 or rows >= len(replay.reward):
        raise UserError(f"the replay does not hold the first {rows:,} transitions: make its buffer larger.")
    flags, obs = replay.flags[:rows, 0].astype(np.int64), replay.obs[:, 0]
    terminated, truncated = (flags & TERMINATED) > 0, (flags & TRUNCATED) > 0
    slots = np.where(truncated, flags >> FLAG_BITS, 0)
    lost = truncated & (replay.final_row[slots, 0] != np.arange(rows))
    next_obs = np.where(terminated[:, None], obs[:rows], obs[1 : rows + 1])
    next_obs[truncated] = replay.final_obs[slots[truncated], 0]
    before = np.flatnonzero(lost[1:])
    truncated[before] |= ~terminated[before]
    truncated[-1] |= not terminated[-1]
    columns = (obs[:rows], replay.action[:rows, 0], replay.reward[:rows, 0], next_obs, terminated, truncated)
    kept: Any = [column[~lost] for column in columns]
    return OfflineDataset(*kept), np.flatnonzero(lost)


def check(agent: Any, dataset: str | None, num_envs: int, warm_up: int, where: str) -> None:
    """Refuse datasets for algorithms that learn from their own steps, algorithms that need one without it, and what no
    training on a dataset has. `agent`: the configuration of the algorithm; `where` names the environment.

    Raises:
        UserError: they do not fit.
    """
    if dataset is None:
        # Clones bring theirs: the warm-up, in which their expert acts.
        if agent.experience == "dataset" and agent.name != "behaviour_cloning":
            raise UserError(
                f"{where}: agent '{agent.name}' learns from a dataset; give the environment one, such as dataset = "
                f'"{WRITTEN}".'
            )
        return
    source(dataset, where)
    if agent.experience != "dataset":
        raise UserError(
            f"{where}: agent '{agent.name}' learns from its own steps, not from a dataset; drop 'dataset', or take an "
            "agent such as 'td3_bc'."
        )
    for name, value, only in (("warm_up", warm_up, 0), ("num_envs", num_envs, 1)):
        if value != only:
            raise UserError(
                f"{where}: {name} = {value}, but training on a dataset takes no steps in the environment; set "
                f"{name} = {only}."
            )


def make(
    env: Environment, key: jax.Array, source: Source, act: Callable[..., jax.Array] | None = None
) -> Made:
    """The dataset of `source` from one key: all of its episodes side by side, uniform actions in [-1, 1], or what
    `act(key, obs [episodes, O])` does."""
    start_key, act_key, step_key = jax.random.split(key, 3)
    begun = start(env, start_key, source.episodes)
    pool = Pool(begun.state, begun.obs)  # what follows the end of an episode is not looked at
    Carry = tuple[EnvState, jax.Array]

    def step(carry: Carry, time: jax.Array) -> tuple[Carry, tuple[Transition, jax.Array, jax.Array]]:
        envs, running = carry
        shape = (source.episodes, env.spec.action_dim)
        own = jax.random.fold_in(act_key, time)
        action = (
            jax.random.uniform(own, shape, minval=-1.0, maxval=1.0) if act is None else act(own, envs.obs)
        )
        envs, seen, finished = advance(env, envs, jax.random.fold_in(step_key, time), action, pool)
        return (envs, running & ~finished.done), (seen, running, finished.invalid)

    times = jnp.arange(env.spec.max_episode_steps)
    _, (rows, kept, invalid) = jax.lax.scan(step, (begun, jnp.ones(source.episodes, bool)), times)
    returns = jnp.sum(jnp.where(kept, rows.reward, 0.0), axis=0)
    order = jnp.argsort(~kept.T.reshape(-1), stable=True)  # what is kept first, episode after episode

    def listed(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])[order]

    data = Dataset(
        obs=listed(rows.obs),
        action=listed(rows.action),
        reward=listed(rows.reward),
        next_obs=listed(rows.final_obs),
        terminated=listed(rows.terminated),
        truncated=listed(rows.truncated),
        rows=jnp.sum(kept, dtype=jnp.int32),
    )
    return Made(data, returns, jnp.sum(invalid, dtype=jnp.int32))


def best_count(share: float, episodes: int) -> int:
    """How many episodes are the best `share` of so many, rounded up."""
    return math.ceil(round(share * episodes, 9))  # 0.1 * 30 is a little more than 3


def best_of(returns: Any, share: float, xp: Any = jnp) -> Any:
    """The best `share` of episodes by return, bool[episodes]; of equal ones the earlier. returns: float[episodes]; xp:
    numpy or jax.numpy."""
    place = xp.arange(len(returns))
    rank = xp.argsort(xp.lexsort((place, -returns)))
    return rank < best_count(share, len(returns))


def narrowed(data: Dataset, best: Any, xp: Any = jnp) -> Dataset:
    """The dataset of which some episodes are learned from. best: bool[episodes], in their order."""
    place = xp.arange(data.obs.shape[0])
    ends = data.terminated | data.truncated
    episode = xp.cumsum(ends) - ends
    chosen = best[xp.minimum(episode, len(best) - 1)] & (place < data.rows)
    order = xp.lexsort((place, ~chosen)).astype(np.int32)
    return data._replace(drawn=(order, chosen.sum().astype(np.int32)))


def shared(logged: Logged, share: float) -> Dataset:
    """A file's dataset as members are trained on it, NumPy arrays; share: of the best of its episodes."""
    found = logged.arrays
    rows: Any = (*found, np.int32(len(found.reward)))
    data = Dataset(*rows)
    return data if share == 1 else narrowed(data, best_of(found.returns, share, np), np)


def draw(data: Dataset, key: jax.Array, size: int) -> Batch:
    """`size` transitions, uniformly and with replacement, as windows of one step."""
    chosen = jax.random.randint(key, (size,), 0, data.held)
    if data.drawn:
        chosen = take(jnp.asarray(data.drawn[0]), chosen)
    columns = (take(jnp.asarray(x), chosen) for x in data[: len(OfflineDataset._fields)])
    obs, action, reward, next_obs, terminated, truncated = columns
    return Batch(
        obs=obs,
        action=action,
        rewards=reward[:, None],
        terminated=terminated[:, None],
        truncated=truncated[:, None],
        closing_obs=next_obs,
        used=jnp.ones(size, jnp.int32),
        valid=jnp.ones(size, bool),
        successors=None,
    )
