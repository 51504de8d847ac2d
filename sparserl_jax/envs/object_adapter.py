"""A user's own object as an Environment.

The object needs two pure functions, without a batch axis, auto-reset or time limit:

    reset(key) -> (state, obs)
    step(key, state, action) -> (state, Step(obs, reward, terminated, truncated))   # action in its own units

The second result of `step` may be `envs.Step`, any object with these four attributes, or a plain tuple in
this order. The description is `spec` (an EnvSpec, or anything with the same attributes) or attributes of
the object itself:

    obs_dim            or observation_size, or left out: then read off the shape of reset's observation
    action_low/high    one number per action, or one number for all together with action_dim (or action_size)
    num_actions        or, in place of these, how many choices there are; `step` then gets an integer below it
    image              optional: (height, width, channels), where the flat observation is an image
    goal               optional: an envs.GoalSpec, where the task is to reach a goal that the observation holds
    max_episode_steps  time limit in steps
    name               optional; the class's name otherwise

gym-like `action_space` / `observation_space` boxes with `low`, `high` and `shape` are read too, and choices with `n`.
"""

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ..errors import UserError
from .protocol import EnvSpec, Step, refuse_actions


class ObjectEnvironment:
    """A user's object behind the Environment protocol; two wrappers of one object are equal."""

    def __init__(self, user: Any, spec: EnvSpec) -> None:
        self.user, self.spec = user, spec
        self.expensive_reset = bool(getattr(user, "expensive_reset", False))

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        """See Environment.reset."""
        result = self.user.reset(key)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise UserError(f"environment '{self.spec.name}': reset(key) must return (state, obs).")
        return result

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Step]:
        """See Environment.step."""
        result = self.user.step(key, state, action)
        if isinstance(result, tuple) and len(result) == 2:
            state, step = result
            if all(hasattr(step, field) for field in Step._fields):
                return state, Step(*(getattr(step, field) for field in Step._fields))
            if isinstance(step, tuple) and len(step) == len(Step._fields):
                return state, Step(*step)
        raise UserError(
            f"environment '{self.spec.name}': step(key, state, action) must return "
            "(state, Step(obs, reward, terminated, truncated))."
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectEnvironment) and other.user is self.user and other.spec == self.spec

    def __hash__(self) -> int:
        return hash((id(self.user), self.spec))


def adapt(user: Any, name: str | None = None) -> ObjectEnvironment:
    """`user` as an Environment; UserError where something is missing, with what to add."""
    if isinstance(user, ObjectEnvironment):
        return user if name is None else ObjectEnvironment(user.user, replace(user.spec, name=name))
    described, given = getattr(user, "spec", None), name
    name = given or getattr(described, "name", None) or getattr(user, "name", None) or type(user).__name__
    for function in ("reset", "step"):
        if not callable(getattr(user, function, None)):
            raise UserError(
                f"environment '{name}' has no {function}(): give it reset(key) -> (state, obs) and "
                "step(key, state, action) -> (state, Step)."
            )
    if isinstance(described, EnvSpec):
        return ObjectEnvironment(user, replace(described, name=given) if given else described)
    return ObjectEnvironment(user, _describe(user, (described, user), str(name)))


def _describe(user: Any, sources: tuple[Any, ...], name: str) -> EnvSpec:
    action_space = _space(sources, "action_space")
    low, high = (
        _first(sources, f"action_{side}", default=getattr(action_space, side, None))
        for side in ("low", "high")
    )
    # Several choices at once: of gymnasium's spaces MultiDiscrete (nvec) and MultiBinary (n, and a shape).
    if hasattr(action_space, "nvec") or (hasattr(action_space, "n") and getattr(action_space, "shape", None)):
        raise refuse_actions(name, type(action_space).__name__)
    choices = _first(sources, "num_actions", default=getattr(action_space, "n", None))
    if choices is None and (low is None or high is None):
        raise _missing(name, "action_low and action_high, or num_actions")
    limit = _first(sources, "max_episode_steps")
    if limit is None:
        raise _missing(name, "max_episode_steps")
    obs_dim = _first(sources, "obs_dim", "observation_size")
    if obs_dim is None:
        shape = getattr(_space(sources, "observation_space"), "shape", None)
        obs_dim = shape[0] if shape and len(shape) == 1 else _traced_obs_dim(user, name)
    image = _first(sources, "image")
    more = {"image": None if image is None else tuple(image), "goal": _first(sources, "goal")}
    if choices is not None:
        if np.ndim(choices) or low is not None or high is not None:
            raise refuse_actions(name, "choices beside a box")
        return EnvSpec(name, obs_dim, max_episode_steps=limit, num_actions=choices, **more)
    shape = getattr(action_space, "shape", None)
    action_dim = _first(sources, "action_dim", "action_size", default=shape[0] if shape else None)
    if action_dim is None:
        action_dim = max(np.size(low), np.size(high))
    low, high = (
        tuple(
            np.broadcast_to(bound, (action_dim,)).tolist()
            if np.ndim(bound) == 0
            else np.ravel(bound).tolist()
        )
        for bound in (low, high)
    )
    return EnvSpec(name, obs_dim, action_dim, low, high, limit, **more)


def _traced_obs_dim(user: Any, name: str) -> int:
    try:
        _, obs = jax.eval_shape(user.reset, jax.random.key(0))
        return obs.shape[0] if obs.shape else 1  # a scalar is refused by `check`, with its own sentence
    except Exception as error:
        raise _missing(name, "obs_dim (and its reset cannot be traced)") from error


def _first(sources: tuple[Any, ...], *attributes: str, default: Any = None) -> Any:
    found = (getattr(source, attribute, None) for source in sources for attribute in attributes)
    return next((value for value in found if value is not None), default)


def _space(sources: tuple[Any, ...], attribute: str) -> Any:
    space = _first(sources, attribute)
    return None if callable(space) else space


def _missing(name: str, what: str) -> UserError:
    return UserError(
        f"environment '{name}' does not say {what}: add it as attribute of the object or of its spec."
    )
