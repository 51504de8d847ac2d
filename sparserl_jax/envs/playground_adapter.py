"""Environments of MuJoCo Playground (optional extra `playground`), raw: none of its wrappers is used.

playground:CartpoleBalance                     any id of its registry
playground:CartpoleBalance?ctrl_dt=0.02        options: fields of the environment's configuration

The physics is MJX in its implementation `jax` unless `impl` says otherwise: Playground's own default, `warp`, needs an
NVIDIA GPU. Where Playground gives several observations, agents get the one called `state`.
"""

import contextlib
import io
import subprocess
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..errors import UserError, extra, suggest
from .protocol import EnvSpec, Step

INSTALL = extra("playground")
"""What brings MuJoCo Playground and all that it imports."""
MAX_EPISODE_STEPS = 1000  # where the configuration has no episode_length


class PlaygroundEnvironment:
    """A raw environment of MuJoCo Playground as an Environment.

    Actions are in [-1, 1], as Playground's own training has them; each is repeated as often as the configuration says
    (`action_repeat`, once as a rule). `done` is the task's termination; the time limit is ours. Raises UserError for
    Playground's wrappers, and for observations of which none is a flat vector, alone or by the name of `state`.
    """

    expensive_reset = True

    def __init__(self, env: Any, name: str | None = None, max_episode_steps: int | None = None) -> None:
        self.env, name = env, name or f"playground:{type(env.unwrapped).__name__}"
        if "env" in vars(env):
            raise UserError(
                f"environment '{name}' is inside Playground's {type(env).__name__}, but batching, time limits and "
                "resets are the rollout's work: pass the raw one (mujoco_playground.registry.load)."
            )
        config = getattr(env, "_config", {})
        self.repeat = int(config.get("action_repeat", 1))
        limit = int(config.get("episode_length", MAX_EPISODE_STEPS)) // self.repeat
        obs = jax.eval_shape(lambda key: self.reset(key)[1], jax.random.key(0))
        if getattr(obs, "ndim", 0) != 1:
            kind = (
                f"several ({', '.join(map(str, obs))})"
                if isinstance(obs, Mapping)
                else f"of shape {obs.shape}"
            )
            raise UserError(
                f"environment '{name}': observations are {kind}, not one float vector [O]; choose a task that is not "
                "seen through images, or wrap it in an environment of your own."
            )
        size = int(env.action_size)
        bounds = (-1.0,) * size, (1.0,) * size
        steps = limit if max_episode_steps is None else max_episode_steps
        self.spec = EnvSpec(name, obs.shape[0], size, *bounds, steps)

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        """See Environment.reset."""
        # States keep keys of their own, and are to hold plain numbers.
        state = jax.tree.map(jnp.asarray, self.env.reset(jax.random.key_data(key)))
        return state, _seen(state.obs)

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Step]:
        """See Environment.step. Playground's steps draw from a key of the state, if at all: `key` is not used."""

        def once(state: Any, _: None) -> tuple[Any, jax.Array]:
            # Dictionaries inside a state are updated in place; rebuild them, so that the caller's stay.
            after = self.env.step(jax.tree.map(lambda leaf: leaf, state), action)
            return after, after.reward

        if self.repeat == 1:
            after, reward = once(state, None)
        else:
            after, rewards = jax.lax.scan(once, state, length=self.repeat)
            reward = jnp.sum(rewards)
        return after, Step(_seen(after.obs), reward, jnp.asarray(after.done) > 0.5, jnp.bool_(False))


def _seen(obs: Any) -> Any:
    """What agents are given of the observations of a state."""
    return obs.get("state", obs) if isinstance(obs, Mapping) else obs


def build(env_id: str, options: dict[str, Any], name: str) -> PlaygroundEnvironment:
    """The environment registered as `env_id`; options go into its configuration, `max_episode_steps` to ours."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # MuJoCo prints which optional parts it did not find
            from mujoco_playground import registry
    except ImportError as error:
        raise UserError(f"environment '{name}' needs MuJoCo Playground: {INSTALL}.") from error
    if env_id not in registry.ALL_ENVS:
        raise suggest(
            f"playground:{env_id}", [f"playground:{known}" for known in registry.ALL_ENVS], "environment"
        )
    options = dict(options)
    limit = options.pop("max_episode_steps", None)
    known = [*registry.get_default_config(env_id), "max_episode_steps"]
    for option in options:
        if option.partition(".")[0] not in known:  # a.b is a field of the field a
            raise suggest(option, known, f"option of environment 'playground:{env_id}'")
    if "impl" not in options:
        # Another implementation computes other numbers: a record names it even where it was left out.
        options["impl"] = "jax"
        name = f"{name}{'&' if '?' in name else '?'}impl=jax"
    try:
        env = registry.load(env_id, config_overrides=options)
    except (KeyError, AttributeError, TypeError, ValueError, NotImplementedError) as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"environment '{name}': an option is not one it takes ({said}); change it."
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"environment '{name}': its models could not be had ({error}); Playground downloads those of robots with "
            "git when they are first used, so call it once where there is a network."
        ) from error
    return PlaygroundEnvironment(env, name, limit)
