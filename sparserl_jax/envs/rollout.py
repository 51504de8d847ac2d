"""One rollout for all environments: batched steps, time limits, resets, and evaluation.

Everything here is written for ONE member (no member axis) and is meant to be called inside a jitted function;
training vmaps it over members. Axes: E environments, O observation entries, A action entries, P pool entries.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .host import HostEnvironment
from .protocol import Environment, EnvSpec, Step, in_box


class EnvState(NamedTuple):
    """Running episodes. state: pytree [E, ...]; obs f32[E,O]; so far: steps i32[E], episode_return f32[E]."""

    state: Any
    obs: jax.Array
    steps: jax.Array
    episode_return: jax.Array


class Transition(NamedTuple):
    """One step of E environments.

    obs f32[E,O]; action f32[E,A] in [-1, 1], one-hot where it is a choice; reward f32[E];
    terminated bool[E];
    truncated bool[E]: by the time limit or by the environment itself, never together with terminated;
    final_obs f32[E,O]: the true next observation, before any reset;
    next_obs f32[E,O]: the observation the next step starts from (= final_obs while the episode goes on).
    """

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    final_obs: jax.Array
    next_obs: jax.Array


class Finished(NamedTuple):
    """Episodes that ended in this step.

    done bool[E]; returns f32[E]: undiscounted, meaningful where done;
    invalid i32[]: how many environments returned a non-finite observation or reward in this step.
    """

    done: jax.Array
    returns: jax.Array
    invalid: jax.Array


class Pool(NamedTuple):
    """Initial states to draw resets from. state: pytree [P, ...]; obs f32[P,O]."""

    state: Any
    obs: jax.Array


class Lookahead(NamedTuple):
    """What states of whole evaluation episodes turned out to be worth. Axes: J start steps, N episodes.

    obs f32[J,N,O]: the states looked at; visited bool[J,N]: the episode got that far (nothing else holds where not);
    returns f32[J,N]: discounted rewards from there to the end of the episode;
    discount f32[J,N]: weight of what would have followed: 0 after a termination, gamma^steps after a time limit;
    last_obs f32[N,O]: the true final observation of the episode.
    """

    obs: jax.Array
    visited: jax.Array
    returns: jax.Array
    discount: jax.Array
    last_obs: jax.Array


LOOKED_AT = 8
"""States per evaluation episode that `evaluate_ahead` looks at."""


def as_taken(spec: EnvSpec, action: jax.Array) -> jax.Array:
    """Agent actions [..., A] as they are stored: clipped to [-1, 1], or one-hot at the largest entry of a choice."""
    if spec.num_actions is not None:
        return jax.nn.one_hot(jnp.argmax(action, axis=-1), spec.num_actions)
    return jnp.clip(action, -1.0, 1.0)


def to_env_units(spec: EnvSpec, action: jax.Array) -> jax.Array:
    """Agent actions [..., A] in [-1, 1] (clipped to it) to the environment's own units; of a choice, its number
    i32[...]."""
    if spec.num_actions is not None:
        return jnp.argmax(action, axis=-1).astype(jnp.int32)
    return in_box(spec.action_low, spec.action_high, jnp.clip(action, -1.0, 1.0))


def start(env: Environment, key: jax.Array, num_envs: int) -> EnvState:
    """`num_envs` fresh episodes, each with its own reset key."""
    state, obs = _resets(env, jax.random.split(key, num_envs))
    return EnvState(state, obs, jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs, jnp.float32))


def make_pool(env: Environment, key: jax.Array, size: int) -> Pool:
    """`size` fresh initial states for `advance(..., pool=...)`.

    Redraw it at every dispatch: kept for a whole run it would shrink the initial states to `size` points.
    """
    return Pool(*_resets(env, jax.random.split(key, size)))


def advance(
    env: Environment, carry: EnvState, key: jax.Array, action: jax.Array, pool: Pool | None = None
) -> tuple[EnvState, Transition, Finished]:
    """One step of every environment, and a new episode where one ended.

    action: f32[E,A] in [-1, 1] (see `as_taken`). New episodes start from `env.reset`, or, with a pool, from random
    entries of it: then `env.reset` is not even traced (worth it where a reset costs about a step).
    A non-finite observation or reward ends the episode as terminated, with reward 0 and the last finite
    observation as final_obs, and is counted.
    """
    num_envs = carry.obs.shape[0]
    step_key, reset_key = jax.random.split(key)
    action = as_taken(env.spec, action).astype(jnp.float32)
    state, step, invalid = jax.vmap(lambda *args: settled_step(env, *args))(
        jax.random.split(step_key, num_envs), carry.state, carry.obs, action
    )
    limit = carry.steps + 1 >= _limit(env)
    step = step._replace(truncated=(step.truncated | limit) & ~step.terminated)

    if pool is None:
        fresh_state, fresh_obs = _resets(env, jax.random.split(reset_key, num_envs))
    else:
        entry = jax.random.randint(reset_key, (num_envs,), 0, pool.obs.shape[0])
        fresh_state, fresh_obs = jax.tree.map(lambda leaf: leaf[entry], (pool.state, pool.obs))
    done = step.terminated | step.truncated
    state, obs = _choose(done, fresh_state, state), _choose(done, fresh_obs, step.obs)
    return follow(carry, action, step, invalid, state, obs)


def follow(
    carry: EnvState, action: jax.Array, step: Step, invalid: jax.Array, state: Any, obs: jax.Array
) -> tuple[EnvState, Transition, Finished]:
    """Bookkeeping of one step that E environments have made, wherever they run.

    action: f32[E,A] in [-1, 1]. step: fields [E, ...], `obs` before any reset, `truncated` by time limits too and
    never together with `terminated`. invalid: bool[E]. state, obs: what the next step starts from.
    """
    done = step.terminated | step.truncated
    returns = carry.episode_return + step.reward
    following = EnvState(
        state=state,
        obs=obs,
        steps=jnp.where(done, 0, carry.steps + 1),
        episode_return=jnp.where(done, 0.0, returns),
    )
    transition = Transition(
        obs=carry.obs,
        action=action,
        reward=step.reward,
        terminated=step.terminated,
        truncated=step.truncated,
        final_obs=step.obs,
        next_obs=obs,
    )
    return following, transition, Finished(done, returns, jnp.sum(invalid, dtype=jnp.int32))


def evaluate(
    env: Environment,
    key: jax.Array,
    policy: Callable[..., jax.Array],
    episodes: int,
    pool: Pool | None = None,
    *,
    sampled: bool = False,
) -> jax.Array:
    """Undiscounted returns f32[episodes] of whole episodes, each from its own fresh reset.

    policy: obs f32[O] -> action f32[A] in [-1, 1], one observation at a time; where `sampled`, (obs, key).
    All episodes run side by side and the loop stops when the last one has ended. The same key gives every policy the
    same initial states and step keys. With a pool, episode i starts from its entry i and `env.reset` is not traced.
    Raises ValueError if the pool has fewer entries than episodes.
    """
    return _play(env, key, _drawn(policy, sampled), episodes, pool, None)[0]


def evaluate_ahead(
    env: Environment,
    key: jax.Array,
    policy: Callable[..., jax.Array],
    episodes: int,
    gamma: jax.Array | float,
    *,
    sampled: bool = False,
) -> tuple[jax.Array, Lookahead]:
    """`evaluate`, and what the states at `start_steps` of its episodes turned out to be worth."""
    return _play(env, key, _drawn(policy, sampled), episodes, None, gamma)


def _drawn(policy: Callable[..., jax.Array], sampled: bool) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A policy as a function of (key, obs)."""
    return lambda key, obs: policy(obs, key) if sampled else policy(obs)


def start_steps(env: Environment | HostEnvironment) -> tuple[int, ...]:
    """Steps of an episode whose states `evaluate_ahead` looks at: evenly spread over the first half of the time limit,
    so that at least half a time limit lies between each of them and a cut."""
    limit = _limit(env)
    return tuple(range(0, max(1, limit // 2), max(1, limit // (2 * LOOKED_AT))))[:LOOKED_AT]


def evaluate_random(env: Environment, key: jax.Array, episodes: int, pool: Pool | None = None) -> jax.Array:
    """`evaluate` for actions drawn uniformly from the box or the choices: the score a diverged run is given."""
    shape = (env.spec.action_dim,)

    def policy(key: jax.Array, obs: jax.Array) -> jax.Array:
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)

    return _play(env, key, policy, episodes, pool, None)[0]


def _play(
    env: Environment,
    key: jax.Array,
    policy: Callable[[jax.Array, jax.Array], jax.Array],
    episodes: int,
    pool: Pool | None,
    gamma: jax.Array | float | None,
) -> tuple[jax.Array, Any]:
    """Returns f32[episodes], and a Lookahead at `gamma` (None where that is None)."""
    reset_key, step_key = jax.random.split(key)
    if pool is None:
        state, obs = _resets(env, jax.random.split(reset_key, episodes))
    elif pool.obs.shape[0] < episodes:
        raise ValueError(f"{episodes} episodes need as many initial states; the pool has {pool.obs.shape[0]}")
    else:
        state, obs = jax.tree.map(lambda leaf: leaf[:episodes], (pool.state, pool.obs))
    keys = jax.random.split(step_key, episodes)

    def one(key: jax.Array, time: jax.Array, state: Any, obs: jax.Array) -> tuple[Any, Any, jax.Array]:
        policy_key, env_key = jax.random.split(jax.random.fold_in(key, time))
        action = as_taken(env.spec, policy(policy_key, obs))
        return settled_step(env, env_key, state, obs, action)

    def body(loop: tuple[Any, ...]) -> tuple[Any, ...]:
        time, state, obs, returns, seen, alive = loop
        state, step, _ = jax.vmap(one, in_axes=(0, None, 0, 0))(keys, time, state, obs)
        returns = returns + jnp.where(alive, step.reward, 0.0)
        if gamma is not None:
            seen = _look(seen, alive & (time == starts), alive, obs, step, gamma)
        time = time + 1
        alive = alive & ~step.terminated & ~step.truncated & (time < _limit(env))
        return time, state, step.obs, returns, seen, alive

    seen = None
    if gamma is not None:
        starts = np.array(start_steps(env), np.int32)[:, None]
        nothing = jnp.zeros((len(starts), episodes), jnp.float32)
        seen = Lookahead(
            obs=jnp.zeros((len(starts), *obs.shape), jnp.float32),
            visited=nothing > 0,
            returns=nothing,
            discount=nothing,
            last_obs=obs,
        )
    loop = (jnp.int32(0), state, obs, jnp.zeros(episodes, jnp.float32), seen, jnp.ones(episodes, bool))
    _, _, _, returns, seen, _ = jax.lax.while_loop(lambda loop: jnp.any(loop[-1]), body, loop)
    return returns, seen


def _look(
    seen: Lookahead, begins: jax.Array, alive: jax.Array, obs: jax.Array, step: Step, gamma: jax.Array | float
) -> Lookahead:
    """One step of N episodes, alive bool[N], that starts from obs f32[N,O]; begins bool[J,N]: it is a start step."""
    visited = seen.visited | begins
    counts = visited & alive
    weight = jnp.where(begins, 1.0, seen.discount)
    following = jnp.where(step.terminated, 0.0, gamma * weight)
    return Lookahead(
        obs=jnp.where(begins[..., None], obs, seen.obs),
        visited=visited,
        returns=seen.returns + jnp.where(counts, weight * step.reward, 0.0),
        discount=jnp.where(counts, following, seen.discount),
        last_obs=jnp.where(alive[:, None], step.obs, seen.last_obs),
    )


def settled_step(
    env: Environment, key: jax.Array, state: Any, obs: jax.Array, action: jax.Array
) -> tuple[Any, Step, jax.Array]:
    """One step of one environment with fixed dtypes, and whether its physics was invalid.

    obs f32[O] is the observation the step starts from, action f32[A] in [-1, 1].
    Returns (state with the dtypes it came with, Step, invalid bool[]).
    """
    after, step = env.step(key, state, to_env_units(env.spec, action))
    next_obs = jnp.asarray(step.obs).astype(jnp.float32)
    reward = jnp.asarray(step.reward).astype(jnp.float32)
    terminated, truncated = jnp.asarray(step.terminated) != 0, jnp.asarray(step.truncated) != 0
    invalid = ~(jnp.all(jnp.isfinite(next_obs)) & jnp.isfinite(reward))
    terminated = terminated | invalid
    step = Step(
        obs=jnp.where(invalid, obs, next_obs),
        reward=jnp.where(invalid, jnp.float32(0.0), reward),
        terminated=terminated,
        truncated=truncated & ~terminated,
    )
    return jax.tree.map(_as, after, state), step, invalid


def _limit(env: Environment | HostEnvironment) -> int:
    return min(env.spec.max_episode_steps, np.iinfo(np.int32).max)  # steps are counted in i32


def _resets(env: Environment, keys: jax.Array) -> tuple[Any, jax.Array]:
    state, obs = jax.vmap(env.reset)(keys)
    # Weak types (a state that starts as a Python 0) would change the type of a loop's carry after one step.
    return jax.tree.map(lambda leaf: _as(leaf, leaf), state), obs.astype(jnp.float32)


def _as(leaf: Any, like: Any) -> jax.Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.extended):  # typed keys kept in a state
        return leaf
    return jnp.asarray(leaf).astype(like.dtype)


def _choose(done: jax.Array, fresh: Any, running: Any) -> Any:
    """Per environment: `fresh` where done bool[E], else `running`; pytrees with leading axis E."""

    def leaf(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(done.reshape(done.shape + (1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(leaf, fresh, running)
