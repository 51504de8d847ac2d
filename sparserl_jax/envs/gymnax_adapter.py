"""gymnax environments (gymnax >= 1.0), through the functions underneath its auto-resetting `step`."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import UserError, suggest
from .protocol import EnvSpec, Step, refuse_actions

# The built-in ids that are listed. Written down because asking an environment means building it, and one of the others
# downloads a dataset when built.
LISTED = (
    "Acrobot-v1",
    "Asterix-MinAtar",
    "Breakout-MinAtar",
    "CartPole-v1",
    "Freeway-MinAtar",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "PointRobot-misc",
    "Reacher-misc",
    "SpaceInvaders-MinAtar",
    "Swimmer-misc",
)


class GymnaxEnvironment:
    """A gymnax environment and its parameters as an Environment.

    The time limit `params.max_steps_in_episode` becomes `spec.max_episode_steps`; only natural terminations
    are reported as terminated. Images (height, width, channels) are flattened, and described as such. Raises UserError
    for actions that are neither a flat box nor one choice, and for other observations.
    """

    def __init__(self, env: Any, params: Any = None, name: str | None = None) -> None:
        self.env, self.params = env, env.default_params if params is None else params
        name = name or f"gymnax:{env.name}"
        actions, observations = env.action_space(self.params), env.observation_space(self.params)
        if not hasattr(observations, "low") or len(observations.shape) not in (1, 3):
            raise UserError(
                f"environment '{name}': observations have shape {getattr(observations, 'shape', None)}; "
                "flatten them to one float vector [O] first."
            )
        shape = tuple(int(size) for size in observations.shape)
        self.spec = EnvSpec(
            name=name,
            obs_dim=math.prod(shape),
            max_episode_steps=self.params.max_steps_in_episode,
            image=shape if len(shape) == 3 else None,
            **_actions(actions, name),
        )

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        """See Environment.reset."""
        obs, state = self.env.reset_env(key, self.params)
        return jax.tree.map(jnp.asarray, state), self._flat(obs)

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Step]:
        """See Environment.step."""
        obs, state, reward, terminated, _ = self.env.step_env(key, state, action, self.params)
        truncated = self.env.is_truncated(state, self.params)
        return state, Step(self._flat(obs), reward, terminated, truncated)

    def _flat(self, obs: jax.Array) -> jax.Array:
        return obs if self.spec.image is None else obs.astype(jnp.float32).reshape(-1)


def _actions(space: Any, name: str) -> dict[str, Any]:
    """What a space of actions says in an EnvSpec."""
    if hasattr(space, "n") and space.shape == ():
        return {"num_actions": space.n}
    if not hasattr(space, "low"):
        raise refuse_actions(name, type(space).__name__)
    if len(space.shape) != 1:
        raise UserError(f"environment '{name}': actions have shape {space.shape}; flatten them to [A] first.")
    low, high = (tuple(np.broadcast_to(bound, space.shape).tolist()) for bound in (space.low, space.high))
    return {"action_dim": space.shape[0], "action_low": low, "action_high": high}


def build(env_id: str, options: dict[str, Any], name: str) -> GymnaxEnvironment:
    """The environment registered as `env_id`; options replace fields of its parameters."""
    import gymnax

    if env_id not in gymnax.registered_envs:
        raise suggest(
            f"gymnax:{env_id}", [f"gymnax:{known}" for known in gymnax.registered_envs], "environment"
        )
    env, params = gymnax.make(env_id)
    options = dict(options)
    if {"max_episode_steps", "max_steps_in_episode"} <= set(options):
        raise UserError(
            f"environment 'gymnax:{env_id}': max_episode_steps and max_steps_in_episode are one limit; give one."
        )
    if "max_episode_steps" in options:
        options["max_steps_in_episode"] = options.pop("max_episode_steps")
    fields = list(getattr(params, "__dataclass_fields__", ()))
    for option in options:
        if option not in fields:
            raise suggest(option, fields, f"parameter of environment 'gymnax:{env_id}'")
    return GymnaxEnvironment(env, params.replace(**options) if options else params, name)


def names() -> list[str]:
    """Ids of the listed built-in environments the installed gymnax has."""
    import gymnax

    return [env_id for env_id in LISTED if env_id in gymnax.registered_envs]
