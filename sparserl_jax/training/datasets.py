"""Datasets that a training learns from in place of its own steps: what their names say, how they are made and drawn.

    own:random?episodes=50      whole episodes of uniform actions in the training's own environment, made inside `init`
                                from a key of the run's seed: the same data for all arms, other data for every seed

A dataset is kept by each member as arrays, beside its networks. (A file, one array that all members share, will be
another kind of `Source`.)
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import jax
import jax.numpy as jnp

from sparserl_jax.envs import Environment, EnvState, Pool, Transition, advance, start
from sparserl_jax.errors import UserError, suggest
from sparserl_jax.replay import Batch
from sparserl_jax.replay.windows import take

WRITTEN = "own:random?episodes=50"
"""How a dataset is written, for messages."""
POLICIES = ("own:random",)


class Source(NamedTuple):
    """What a dataset's name says. policy: how it acts, one of POLICIES. episodes: whole ones of it."""

    policy: str
    episodes: int


class Dataset(NamedTuple):
    """Transitions of one member, episode after episode; fields as of `data.OfflineDataset`, rows behind `rows` unused.

    obs, next_obs f32[N,O]; action f32[N,A]; reward f32[N]; terminated, truncated bool[N]; rows i32[].
    """

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    next_obs: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    rows: jax.Array


class Made(NamedTuple):
    """A dataset that has just been made: returns f32[episodes], undiscounted; invalid i32[]: steps on the way whose
    physics returned NaN."""

    data: Dataset
    returns: jax.Array
    invalid: jax.Array


def source(text: str, where: str) -> Source:
    """What the name of a dataset says; `where` it stands, for messages.

    Raises:
        UserError: it says nothing that there is.
    """
    policy, _, query = text.partition("?")
    if policy not in POLICIES:
        raise suggest(policy, list(POLICIES), f"dataset of {where}")
    try:
        options = dict(parse_qsl(query, strict_parsing=True)) if query else {}
        episodes = int(options.pop("episodes"))
        if options or episodes < 1:
            raise ValueError
    except (ValueError, KeyError):
        raise UserError(
            f"{where}: dataset '{text}' must say how many episodes it has, at least 1, and nothing else, such as "
            f"'{WRITTEN}'."
        ) from None
    return Source(policy, episodes)


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


def make(env: Environment, key: jax.Array, source: Source) -> Made:
    """The dataset of `source` from one key: all of its episodes side by side, uniform actions in [-1, 1]."""
    start_key, act_key, step_key = jax.random.split(key, 3)
    begun = start(env, start_key, source.episodes)
    pool = Pool(begun.state, begun.obs)  # what follows the end of an episode is not looked at
    Carry = tuple[EnvState, jax.Array]

    def step(carry: Carry, time: jax.Array) -> tuple[Carry, tuple[Transition, jax.Array, jax.Array]]:
        envs, running = carry
        shape = (source.episodes, env.spec.action_dim)
        action = jax.random.uniform(jax.random.fold_in(act_key, time), shape, minval=-1.0, maxval=1.0)
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


def draw(data: Dataset, key: jax.Array, size: int) -> Batch:
    """`size` transitions, uniformly and with replacement, as windows of one step."""
    chosen = jax.random.randint(key, (size,), 0, data.rows)
    obs, action, reward, next_obs, terminated, truncated = (take(jnp.asarray(x), chosen) for x in data[:-1])
    return Batch(
        obs=obs,
        action=action,
        rewards=reward[:, None],
        terminated=terminated[:, None],
        truncated=truncated[:, None],
        closing_obs=next_obs,
        used=jnp.ones(size, jnp.int32),
        valid=jnp.ones(size, bool),
        successors=next_obs[:, None],
    )
