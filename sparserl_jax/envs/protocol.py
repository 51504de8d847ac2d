"""What an environment is, in this suite: two pure functions and a static description.

An environment never resets itself and knows no time limit: the rollout does both (see `rollout.py`), so that
the observation an episode really ended with is never lost and a time limit is never taken for a termination.
"""

from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from ..errors import UserError


class Step(NamedTuple):
    """What one step of one environment returns, without a batch axis.

    obs: f32[O], the observation after the step, before any reset.  reward: f32[].
    terminated: bool[], the task itself ended: nothing follows, no bootstrap.
    truncated: bool[], the environment stops for a reason outside the task: bootstrap from `obs`.
    """

    obs: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


@dataclass(frozen=True)
class EnvSpec:
    """Static description of an environment: flat float observations [O], a bounded box of actions [A].

    action_low, action_high: A floats each, in the environment's own units (agents live in [-1, 1]).
    max_episode_steps: time limit in steps, applied by the rollout.
    Raises UserError when the numbers cannot describe such an environment.
    """

    name: str
    obs_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    max_episode_steps: int

    def __post_init__(self) -> None:
        where = f"environment '{self.name}'"
        for field in ("obs_dim", "action_dim", "max_episode_steps"):
            value: Any = getattr(self, field)
            whole = isinstance(value, Real) and isfinite(value) and value == round(value)
            if not whole or value < 1:
                raise UserError(f"{where}: {field} is {value}; give a positive whole number.")
            object.__setattr__(self, field, int(value))
        for field in ("action_low", "action_high"):
            try:
                bounds = tuple(float(bound) for bound in getattr(self, field))
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{where}: {field} is not a list of numbers; give one bound per action."
                ) from error
            object.__setattr__(self, field, bounds)
            if len(bounds) != self.action_dim:
                raise UserError(
                    f"{where}: {field} has {len(bounds)} entries for {self.action_dim} actions; "
                    "give one bound per action."
                )
            if not all(map(isfinite, bounds)):
                raise UserError(f"{where}: {field} is not finite; give every action a finite bound.")
        if any(low >= high for low, high in zip(self.action_low, self.action_high, strict=True)):
            raise UserError(f"{where}: action_low is not below action_high everywhere; widen the bounds.")


@runtime_checkable
class Environment(Protocol):
    """One environment without a batch axis; both functions are pure and can be jitted and vmapped.

    An optional attribute `expensive_reset = True` recommends a pool of initial states (`rollout.make_pool`).
    """

    spec: EnvSpec

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        """Fresh initial (state, obs f32[O]) from a typed key."""
        ...

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Step]:
        """(next state, Step) for an action f32[A] in the environment's own units."""
        ...


def refuse_discrete(name: str) -> UserError:
    """The error for an environment whose actions are not a box of real numbers."""
    return UserError(
        f"environment '{name}' has a discrete action space, and this suite trains continuous control only: "
        "give it a bounded box of real actions (action_low, action_high)."
    )
