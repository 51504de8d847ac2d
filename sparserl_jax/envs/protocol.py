"""What an environment is, in this suite: two pure functions and a static description.

An environment never resets itself and knows no time limit: the rollout does both (see `rollout.py`), so that
the observation an episode really ended with is never lost and a time limit is never taken for a termination.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, prod
from numbers import Real
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

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
class GoalSpec:
    """Where goals lie in the flat observation, and what reaching them pays; G numbers each.

    achieved, desired: (first, behind the last) entry of what has been achieved and of what is wanted, as a Python slice
        counts them. What is wanted stays the same for a whole episode.
    reward(achieved f32[...,G], desired f32[...,G]) -> f32[...]: pure; what a step pays for the observation it leads to.
    reward_range: least and largest reward it gives, where they are known.
    Whether an episode ends must not depend on what is wanted: an end is not computed again for another goal.
    Raises UserError when the two places cannot be goals.
    """

    achieved: tuple[int, int]
    desired: tuple[int, int]
    reward: Callable[[Any, Any], Any]
    reward_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        (first, last), (start, end) = self.achieved, self.desired
        apart = last <= start or end <= first
        if not (0 <= first < last and last - first == end - start and start >= 0 and apart):
            raise UserError(
                f"goals: achieved {self.achieved} and desired {self.desired} must be two equally long places in the "
                "observation that have no entry in common, each as (first, behind the last)."
            )
        if self.reward_range is not None and not self.reward_range[0] < self.reward_range[1]:
            raise UserError(
                f"goals: reward_range {self.reward_range} must be the least and the largest reward; mend or drop it."
            )

    def achieved_in(self, obs: Any) -> Any:
        """What observations [..., O] say has been achieved, [..., G]."""
        return obs[..., slice(*self.achieved)]

    def desired_in(self, obs: Any) -> Any:
        """What observations [..., O] say is wanted, [..., G]."""
        return obs[..., slice(*self.desired)]


@dataclass(frozen=True)
class EnvSpec:
    """Static description of an environment: flat float observations [O], a bounded box of actions [A] or N choices.

    action_low, action_high: A floats each, in the environment's own units (agents live in [-1, 1]).
    max_episode_steps: time limit in steps, applied by the rollout.
    num_actions: N where actions are discrete; then `action_dim` is N too and there are no bounds. Agents and memories
        hold a choice as a vector [N] in [-1, 1] whose largest entry is meant (one-hot where it was chosen by a policy);
        the environment itself gets the number of the choice, i32[] in 0..N-1.
    image: (height, width, channels) where the flat observation is an image, row-major.
    goal: where a task is to reach a goal that the observation holds; hindsight replay needs it.
    Raises UserError when the numbers cannot describe such an environment.
    """

    name: str
    obs_dim: int
    action_dim: int = 0
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    max_episode_steps: int = 0
    num_actions: int | None = None
    image: tuple[int, ...] | None = None
    goal: GoalSpec | None = None

    def __post_init__(self) -> None:
        where = f"environment '{self.name}'"
        if self.num_actions is not None:
            self._settle_choices(where)
        if self.image is not None and (len(self.image) != 3 or prod(self.image) != self.obs_dim):
            raise UserError(
                f"{where}: image is {self.image} but obs_dim is {self.obs_dim}; give (height, width, channels) whose "
                "product is obs_dim."
            )
        if self.goal is not None and max(self.goal.achieved[1], self.goal.desired[1]) > self.obs_dim:
            raise UserError(
                f"{where}: its goals lie at {self.goal.achieved} and {self.goal.desired}, but an observation has "
                f"{self.obs_dim} entries; mend one."
            )
        for field in ("obs_dim", "action_dim", "max_episode_steps"):
            value: Any = getattr(self, field)
            whole = isinstance(value, Real) and isfinite(value) and value == round(value)
            if not whole or value < 1:
                raise UserError(f"{where}: {field} is {value}; give a positive whole number.")
            object.__setattr__(self, field, int(value))
        for field in ("action_low", "action_high") if self.num_actions is None else ():
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

    def _settle_choices(self, where: str) -> None:
        count: Any = self.num_actions
        whole = isinstance(count, Real) and isfinite(count) and count == round(count)
        if not whole or count < 2:
            raise UserError(f"{where}: num_actions is {count}; give a whole number of at least 2.")
        if self.action_low or self.action_high:
            raise UserError(
                f"{where}: num_actions = {count} and bounds of actions exclude each other; leave out action_low and "
                "action_high, or num_actions."
            )
        if self.action_dim not in (0, count):
            raise UserError(
                f"{where}: action_dim is {self.action_dim} but num_actions is {count}; leave action_dim out."
            )
        object.__setattr__(self, "num_actions", int(count))
        object.__setattr__(self, "action_dim", int(count))

    @property
    def actions(self) -> str:
        """Kind of its actions: `continuous` or `discrete`."""
        return "continuous" if self.num_actions is None else "discrete"


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
        """(next state, Step) for an action in the environment's own units: f32[A], or i32[] where it is a choice."""
        ...


def in_box(low: Any, high: Any, action: Any) -> Any:
    """Actions f32[..., A] in [-1, 1] in the units of a box with bounds [A]: the one formula by which training,
    evaluation and saved policies act. The result never leaves the box by rounding."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    # Centre and half width in double: for a [-1, 1] box this is then exactly the identity.
    scaled = ((high + low) / 2).astype(np.float32) + action * ((high - low) / 2).astype(np.float32)
    if np.array_equal(low, -high):
        return scaled
    return scaled.clip(low.astype(np.float32), high.astype(np.float32))


def refuse_actions(name: str, space: Any) -> UserError:
    """The error for an environment whose actions are neither a box of real numbers nor one choice of several."""
    return UserError(
        f"environment '{name}' has actions of the kind {space}: give it a bounded box of real actions (action_low, "
        "action_high) or a single choice of several (num_actions)."
    )
