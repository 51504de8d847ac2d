"""Entry check: an environment is looked at by shape, then run for a few steps, before any training on it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import UserError
from ..references import unlabelled
from . import host
from .make import make
from .object_adapter import ObjectEnvironment
from .protocol import Environment, GoalSpec, Step
from .rollout import settled_step, to_env_units

KNOWN = ("brax", "gymnax", "own", "playground")
"""Before the colon of names whose environments are tested with this package."""


def check(source: Any, steps: int = 16) -> Environment | host.HostEnvironment:
    """The Environment made from `source` (a name or an object, see `make`), once it has passed.

    By shape (no compilation): reset and step can be traced; observations are one float vector [O] of the
    promised length; reward and flags are scalars; step keeps the structure, shapes and dtypes of the state.
    By running `steps` jitted steps of random actions: finite observations at reset, and the same results
    whenever the same key is given; goals stay, and are paid as declared. steps=0 leaves the running out, and
    with it the only compilation.
    Environments on the host are run only; see `host.check`.
    Raises UserError with one sentence on the first thing that is wrong.
    """
    env = make(source)
    if isinstance(env, host.HostEnvironment):
        return host.check(env, steps)
    where = f"environment '{env.spec.name}'"
    key = jax.random.key(0)
    state, obs = _traced(where, env, "reset", key)
    _check_obs(where, "reset", obs, env.spec.obs_dim)
    action = jax.eval_shape(lambda: to_env_units(env.spec, jnp.zeros(env.spec.action_dim, jnp.float32)))
    after, step = _traced(where, env, "step", key, state, action)
    _check_step(where, step, env.spec.obs_dim)
    _check_state(where, state, after)
    if steps:
        _check_running(where, env, steps)
    return env


def check_named(source: Any, env: Environment | host.HostEnvironment) -> None:
    """Check what was made from a name or an object as far as it is not known: somebody's own in full; those of brax,
    gymnax and playground, which are tested here, by shape where options were given (but for the one that names the
    physics and the time limit, which their adapters check); ours not at all."""
    if not isinstance(source, str) or source.partition(":")[0] not in KNOWN:
        check(env)
        return
    options = unlabelled(source).partition("?")[2].split("&")
    if {option.partition("=")[0] for option in options} - {"", "backend", "max_episode_steps"}:
        check(env, steps=0)


def _traced(where: str, env: Environment, name: str, *arguments: Any) -> Any:
    try:
        return jax.eval_shape(getattr(env, name), *arguments)
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".:")
        own = isinstance(env, ObjectEnvironment)
        mend = "write it with jax.numpy, jnp.where and lax.cond only" if own else "choose another environment"
        raise UserError(
            f"{where}: {name} cannot be traced by jax.jit ({type(error).__name__}: {reason}); {mend}."
        ) from error


def _check_obs(where: str, name: str, obs: Any, obs_dim: int) -> None:
    if not hasattr(obs, "shape") or not hasattr(obs, "dtype"):
        raise UserError(
            f"{where}: {name} returns observations of type {type(obs).__name__}; return one float vector [O]."
        )
    if not jnp.issubdtype(obs.dtype, jnp.floating):
        raise UserError(f"{where}: {name} returns observations of dtype {obs.dtype}; return floats.")
    if len(obs.shape) != 1:
        raise UserError(
            f"{where}: {name} returns observations of shape {obs.shape}; flatten them to one vector [O]."
        )
    if obs.shape[0] != obs_dim:
        raise UserError(
            f"{where}: {name} returns {obs.shape[0]} observations but spec.obs_dim is {obs_dim}; mend one."
        )


def _check_step(where: str, step: Step, obs_dim: int) -> None:
    _check_obs(where, "step", step.obs, obs_dim)
    for field in ("reward", "terminated", "truncated"):
        shape = np.shape(getattr(step, field))
        if shape != ():
            raise UserError(
                f"{where}: step returns {field} of shape {shape}; return one scalar without a batch axis."
            )


def _check_state(where: str, state: Any, after: Any) -> None:
    structures: list[Any] = [jax.tree.structure(tree) for tree in (state, after)]
    if structures[0] != structures[1]:
        raise UserError(
            f"{where}: step returns a state of another structure than reset; return the same fields in both."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        other = dict(jax.tree_util.tree_leaves_with_path(after))[path]
        if (leaf.shape, leaf.dtype) != (other.shape, other.dtype):
            raise UserError(
                f"{where}: state{jax.tree_util.keystr(path)} is {leaf.dtype}{list(leaf.shape)} after reset "
                f"but {other.dtype}{list(other.shape)} after step; give both the same shape and dtype."
            )


def _check_running(where: str, env: Environment, steps: int) -> None:
    def episode(key: jax.Array) -> tuple[jax.Array, Step, jax.Array]:
        reset_key, action_key, step_key = jax.random.split(key, 3)
        state, obs = env.reset(reset_key)
        shapes = jax.eval_shape(env.reset, reset_key)[0]
        state = jax.tree.map(lambda leaf, like: jnp.asarray(leaf).astype(like.dtype), state, shapes)

        def one(carry: Any, keys: Any) -> Any:
            action = jax.random.uniform(keys[0], (env.spec.action_dim,), minval=-1.0, maxval=1.0)
            state, step, invalid = settled_step(env, keys[1], carry[0], carry[1], action)
            return (state, step.obs), (step, invalid)

        keys = (jax.random.split(action_key, steps), jax.random.split(step_key, steps))
        start = (state, obs.astype(jnp.float32))
        return obs, *jax.lax.scan(one, start, keys)[1]

    key = jax.random.key(1)
    # Two traces: numbers drawn on the host (numpy, random) are frozen into a compiled program and differ only
    # between programs. Equal programs need no second compilation; unequal ones are compared by their results.
    programs = [jax.jit(lambda key: episode(key)).lower(key) for _ in range(2)]
    compiled = programs[0].compile()
    same = programs[0].as_text() == programs[1].as_text()
    first, second = compiled(key), (compiled if same else programs[1].compile())(key)
    if not np.all(np.isfinite(first[0])):
        raise UserError(f"{where}: reset returns observations that are not finite; mend its initial state.")
    if np.all(first[2]):
        raise UserError(
            f"{where}: all of {steps} random steps return an observation or a reward that is not finite; mend step."
        )
    if not all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True)):
        raise UserError(
            f"{where}: the same key gives different results; draw every random number with jax.random from "
            "the key it is given, and keep no state outside `state`."
        )
    if env.spec.goal is not None:
        _check_goal(where, env.spec.goal, *first[:2])


def _check_goal(where: str, goal: GoalSpec, obs: Any, step: Step) -> None:
    """What an episode of [T] steps behind a first observation [O] says about its goals."""
    ends = np.flatnonzero(step.terminated)
    whole = slice(0, ends[0] if len(ends) else None)  # nothing is known of what comes behind an end
    seen, rewards = np.asarray(step.obs)[whole], np.asarray(step.reward)[whole]
    if not np.all(goal.desired_in(seen) == goal.desired_in(np.asarray(obs, np.float32))):
        raise UserError(
            f"{where}: what its observations hold at {goal.desired} changes within an episode; let spec.goal.desired "
            "be the place of the goal."
        )
    paid = np.asarray(goal.reward(goal.achieved_in(seen), goal.desired_in(seen)))
    if paid.shape != rewards.shape:
        raise UserError(
            f"{where}: spec.goal.reward makes {paid.shape} of {len(seen)} goals; return one reward for each."
        )
    differs = np.flatnonzero(~np.isclose(paid, rewards, atol=1e-5))
    if differs.size:
        raise UserError(
            f"{where}: step pays {rewards[differs[0]]:g} where spec.goal.reward says {paid[differs[0]]:g}; let both be "
            "one function of the observation that the step leads to."
        )
