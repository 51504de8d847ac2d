"""gymnax environments (gymnax >= 1.0), through the functions underneath its auto-resetting `step`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import UserError, suggest
from .protocol import EnvSpec, Step, refuse_discrete

# The built-in ids with continuous actions. Written down because asking an environment means building it, and
# one of the others downloads a dataset when built.
CONTINUOUS = ("MountainCarContinuous-v0", "Pendulum-v1", "PointRobot-misc", "Reacher-misc", "Swimmer-misc")


class GymnaxEnvironment:
    """A gymnax environment and its parameters as an Environment.

    The time limit `params.max_steps_in_episode` becomes `spec.max_episode_steps`; only natural terminations
    are reported as terminated. Raises UserError for discrete actions and for observations that are not flat.
    """

    def __init__(self, env: Any, params: Any = None, name: str | None = None) -> None:
        self.env, self.params = env, env.default_params if params is None else params
        name = name or f"gymnax:{env.name}"
        actions, observations = env.action_space(self.params), env.observation_space(self.params)
        if not hasattr(actions, "low"):
            raise refuse_discrete(name)
        if len(actions.shape) != 1:
            raise UserError(
                f"environment '{name}': actions have shape {actions.shape}; flatten them to [A] first."
            )
        if not hasattr(observations, "low") or len(observations.shape) != 1:
            raise UserError(
                f"environment '{name}': observations have shape {observations.shape}; "
                "flatten them to one float vector [O] first."
            )
        self.spec = EnvSpec(
            name=name,
            obs_dim=observations.shape[0],
            action_dim=actions.shape[0],
            action_low=tuple(np.broadcast_to(actions.low, actions.shape).tolist()),
            action_high=tuple(np.broadcast_to(actions.high, actions.shape).tolist()),
            max_episode_steps=self.params.max_steps_in_episode,
        )

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        """See Environment.reset."""
        obs, state = self.env.reset_env(key, self.params)
        return jax.tree.map(jnp.asarray, state), obs

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Step]:
        """See Environment.step."""
        obs, state, reward, terminated, _ = self.env.step_env(key, state, action, self.params)
        return state, Step(obs, reward, terminated, self.env.is_truncated(state, self.params))


def build(env_id: str, options: dict[str, Any], name: str) -> GymnaxEnvironment:
    """The environment registered as `env_id`; options replace fields of its parameters."""
    import gymnax

    if env_id not in gymnax.registered_envs:
        raise suggest(
            f"gymnax:{env_id}", [f"gymnax:{known}" for known in gymnax.registered_envs], "environment"
        )
    env, params = gymnax.make(env_id)
    options = dict(options)
    if "max_episode_steps" in options:
        options["max_steps_in_episode"] = options.pop("max_episode_steps")
    fields = list(getattr(params, "__dataclass_fields__", ()))
    for option in options:
        if option not in fields:
            raise suggest(option, fields, f"parameter of environment 'gymnax:{env_id}'")
    return GymnaxEnvironment(env, params.replace(**options) if options else params, name)


def names() -> list[str]:
    """Ids of the continuous built-in environments the installed gymnax has."""
    import gymnax

    return [env_id for env_id in CONTINUOUS if env_id in gymnax.registered_envs]
