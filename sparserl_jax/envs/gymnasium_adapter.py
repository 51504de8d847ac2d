"""Environments of gymnasium (optional extra `gymnasium`), on the host.

gymnasium:Hopper-v5                            any registered id: flat observations, a box of actions or one choice
gymnasium:Ant-v5?use_contact_forces=true       options: arguments of `gymnasium.make`
gymnasium:my_pkg.envs:Mine-v0?size=3           a module of yours that registers the id when imported
my_pkg.envs:make_mine                          your own function or class that makes a gymnasium.Env
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import UserError, extra, suggest
from .protocol import EnvSpec, refuse_actions

INSTALL = extra("gymnasium")
"""What brings gymnasium, its physics, and all that these import."""


class GymnasiumEnvironment:
    """One gymnasium environment as a HostEnvironment; `factory` makes it, and every further instance.

    Raises UserError for observations that are not one flat vector, actions that are neither a bounded box nor one
    choice, and environments without a time limit.
    """

    def __init__(self, factory: Callable[[], Any], name: str) -> None:
        self.factory, self.repeatable = factory, True
        self.env = factory()
        self.spec = _describe(self.env, name)
        self._space = self.env.action_space
        self._first = int(getattr(self._space, "start", 0))  # choices need not be counted from 0

    def fresh(self) -> GymnasiumEnvironment:
        """See HostEnvironment.fresh."""
        other = GymnasiumEnvironment(self.factory, self.spec.name)
        other.repeatable = self.repeatable
        return other

    def reset(self, seed: int) -> np.ndarray:
        """See HostEnvironment.reset."""
        obs, _ = self.env.reset(seed=int(seed))
        return np.asarray(obs, np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """See HostEnvironment.step."""
        own = np.asarray(action, self._space.dtype)
        if self.spec.num_actions is not None:
            own = own[()] + self._first
        elif own.dtype != np.float32:  # the float32 next to a bound may lie beyond it
            own = own.clip(self._space.low, self._space.high)
        obs, reward, terminated, truncated, _ = self.env.step(own)
        return np.asarray(obs, np.float32), reward, bool(terminated), bool(truncated)

    def close(self) -> None:
        """See HostEnvironment.close."""
        self.env.close()


def build(env_id: str, options: dict[str, Any], name: str) -> GymnasiumEnvironment:
    """The environment registered as `env_id`, made with `options`."""
    try:
        import gymnasium
    except ImportError as error:
        raise UserError(f"environment '{name}' needs gymnasium: {INSTALL}.") from error

    def factory() -> Any:
        # The checker looks at every step of a new environment; ours has looked already.
        return gymnasium.make(env_id, disable_env_checker=True, **options)

    try:
        return GymnasiumEnvironment(factory, name)
    except UserError:
        raise
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        said, (module, colon, _) = _first_line(error), env_id.partition(":")
        if colon:
            raise UserError(
                f"environment '{name}': importing {module} failed ({said}); check its spelling and what it needs."
            ) from error
        raise UserError(f"environment '{name}' needs more than is installed ({said}): {INSTALL}.") from error
    except gymnasium.error.UnregisteredEnv as error:
        known = [f"gymnasium:{known}" for known in gymnasium.registry]
        raise suggest(f"gymnasium:{env_id}", known, "environment") from error
    except Exception as error:
        said = f"{type(error).__name__}: {_first_line(error)}"
        raise UserError(
            f"environment '{name}': gymnasium could not make it ({said}); mend its options."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _describe(env: Any, name: str) -> EnvSpec:
    import gymnasium

    where, box = f"environment '{name}'", gymnasium.spaces.Box
    observations, actions = env.observation_space, env.action_space
    if not isinstance(observations, box) or len(observations.shape) != 1:
        shape = getattr(observations, "shape", None)
        raise UserError(
            f"{where}: observations are a {type(observations).__name__} of shape {shape}; flatten them to one float "
            "vector [O] (gymnasium.wrappers.FlattenObservation)."
        )
    discrete = isinstance(actions, gymnasium.spaces.Discrete)
    if not discrete and not (isinstance(actions, box) and np.issubdtype(actions.dtype, np.floating)):
        raise refuse_actions(name, f"{type(actions).__name__} of {actions.dtype}")
    if not discrete and len(actions.shape) != 1:
        raise UserError(f"{where}: actions have shape {actions.shape}; flatten them to [A] first.")
    limit = _limit(env)
    if limit is None:
        raise UserError(
            f"{where} has no time limit: an id takes ?max_episode_steps=1000 behind it; what a factory makes needs "
            "gymnasium.wrappers.TimeLimit around it, or an attribute max_episode_steps."
        )
    if discrete:
        return EnvSpec(name, observations.shape[0], max_episode_steps=limit, num_actions=actions.n)
    low, high = tuple(actions.low.tolist()), tuple(actions.high.tolist())
    return EnvSpec(name, observations.shape[0], actions.shape[0], low, high, limit)


def _limit(env: Any) -> int | None:
    """Time limit in steps: of the registration, of the wrapper, or an attribute of the environment itself."""
    registered = getattr(getattr(env, "spec", None), "max_episode_steps", None)
    if registered is not None:
        return registered
    while env is not None:
        for attribute in ("_max_episode_steps", "max_episode_steps"):
            found = vars(env).get(attribute, getattr(type(env), attribute, None))
            if found is not None:
                return found
        env = vars(env).get("env")
    return None
