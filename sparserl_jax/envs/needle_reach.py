"""NeedleReach: SurRoL's NeedleReach-v0 (Xu et al. 2021) in pure JAX: an instrument's tip is to reach a needle's end.

The original moves a manipulator of the da Vinci surgical robot in PyBullet. In free space its controller carries the
end effector, to 1e-5, by 0.993 of the way to where it is told to be in the 0.2 seconds of a step; that is all there
is here. On 600 steps of the original, half of them greedy and half random, the goal is reached in the same steps, and
positions differ by 4e-4 in the mean, by up to 0.025 where the effector touches the pad on which the needle lies.

What the original does and this keeps, odd or not:

- Of five actions (x, y, z, yaw, jaw) three count: yaw is forced to 0 and the jaw closed. All five are there.
- Orientation and jaw never change, so four entries of the observation are constants.
- The workspace is that of the parent class. The task declares one of its own, with a higher floor, under a name that
  nothing reads: the override is dead.
- Targets may leave the workspace by margins that are not scaled with the scene like everything else: 0.02 in x and y,
  and 0.08 in z, but upwards only.
- An episode never terminates, also not where the goal is reached: it is cut after 50 steps.

What is different:

- There is no pad to touch. In the original it stops an effector that sinks below a height of 3.478; with the tip at a
  goal it is at 3.487.
- Observations hold the tip's position where the original's hold that of the end effector, always 0.051 above it. What
  has been achieved is then a part of the observation and not there twice, and a policy reads ten numbers as it does
  there.
- Positions are observed relative to the middle of the workspace, in units of 0.25, half its width. The original gives
  them in its scene, where they differ by a few hundredths of their size, and its learners see them behind a normaliser
  with running moments, which this suite does not have.
- The needle lies still: the goal's height is what it settles at.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .protocol import EnvSpec, GoalSpec, Step

START = np.array([2.5, 0.25, 3.776], np.float32)
"""Of the end effector: the same in every episode."""
EULER = np.array([-np.pi / 2, 0.0, np.pi / 2], np.float32)
JAW = np.zeros(1, np.float32)
TIP = np.array([0.0, 0.0, -0.051], np.float32)
"""From the end effector to the tip, in the orientation it keeps."""

STEP_SIZE = 0.05
TRACKED = 0.993
"""Share of the way to its target that the end effector makes in a step."""

LOWEST = np.array([2.5, -0.25, 3.426], np.float32) - np.array([0.02, 0.02, 0.0], np.float32)
HIGHEST = np.array([3.0, 0.25, 3.776], np.float32) + np.array([0.02, 0.02, 0.08], np.float32)
"""Where targets may lie: the workspace and its margins."""

NEEDLE = np.array([2.75, 0.0], np.float32)
SPREAD = 0.05  # of the needle's place about there, in x and y
NEEDLE_ARM, GOAL_HEIGHT = 0.1, 3.43558
MIDDLE, UNIT = np.array([2.75, 0.0, 3.55], np.float32), 0.25
"""Of positions in observations: the middle of what the tip's workspace is, and half its width."""

NEAR = 0.025 / UNIT
"""A tip nearer than this has reached its goal, in observed units."""


class ReachState(NamedTuple):
    """effector f32[3]: position of the end effector; goal f32[3]: position; both in the scene."""

    effector: jax.Array
    goal: jax.Array


def reward(achieved: jax.Array, desired: jax.Array) -> jax.Array:
    """0 where the tip f32[...,3] has reached the goal f32[...,3], as observed, else -1; f32[...]."""
    near = jnp.linalg.norm(achieved - desired, axis=-1) < NEAR
    return jnp.where(near, 0.0, -1.0).astype(jnp.float32)


GOAL = GoalSpec(achieved=(0, 3), desired=(7, 10), reward=reward, reward_range=(-1.0, 0.0))


class NeedleReach:
    """Bring the tip to the goal and keep it there: 5 actions in [-1, 1], 10 observations.

    Observations: tip (3), Euler angles (3), jaw, goal (3). Reward: -1, or 0 in steps that end with the tip less than
    0.025 from the goal, which is 0.1 in the units of observations.
    """

    def __init__(self, name: str = "own:NeedleReach", max_episode_steps: int = 50) -> None:
        self.spec = EnvSpec(name, 10, 5, (-1.0,) * 5, (1.0,) * 5, max_episode_steps, goal=GOAL)

    def reset(self, key: jax.Array) -> tuple[ReachState, jax.Array]:
        """See Environment.reset. The goal is the needle's end: of its place and its angle chance decides."""
        place_key, angle_key = jax.random.split(key)
        place = NEEDLE + jax.random.uniform(place_key, (2,), minval=-SPREAD, maxval=SPREAD)
        angle = jax.random.uniform(angle_key, (), minval=-np.pi / 2, maxval=np.pi / 2)
        end = place - NEEDLE_ARM * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        state = ReachState(jnp.asarray(START), jnp.append(end, GOAL_HEIGHT).astype(jnp.float32))
        return state, observe(state)

    def step(self, key: jax.Array, state: ReachState, action: jax.Array) -> tuple[ReachState, Step]:
        """See Environment.step; nothing in it is random."""
        target = state.effector + STEP_SIZE * jnp.clip(action[:3], -1.0, 1.0)
        way = jnp.clip(target, LOWEST, HIGHEST) - state.effector
        state = state._replace(effector=state.effector + TRACKED * way)
        obs, never = observe(state), jnp.bool_(False)
        return state, Step(obs, reward(GOAL.achieved_in(obs), GOAL.desired_in(obs)), never, never)


def observe(state: ReachState) -> jax.Array:
    """f32[10]: tip (3), Euler angles (3), jaw, goal (3)."""
    tip, goal = ((position - MIDDLE) / UNIT for position in (state.effector + TIP, state.goal))
    return jnp.concatenate([tip, EULER, JAW, goal])
