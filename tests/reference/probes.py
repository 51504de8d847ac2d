"""Probe environments whose action values are known in closed form.

Each is an Environment with one flat observation box and one action box. `value(obs, action, gamma)` gives the
exact Q(obs, action) for numpy inputs: obs [..., O], action [..., A] in the environment's OWN units, result [...].
An agent that does not learn these values has a fault in the part the probe isolates.
After the probe environments of rejax.

    probe          reward                               Q                          isolates
    1 Constant     1, one step                          1                          the value loss
    2 Observed     obs (+-1), one step                  obs                        the observation's way
    3 Delayed      0 then 1, two steps                  gamma, then 1              discount and bootstrap
    4 Acted        1 - (a - 2)^2, a in [-1, 3]          reward; best a = 2         the action's way, the bounds
    5 Both         1 - (a - obs / 2)^2                  reward; best a = obs / 2   both together
    6 TimeLimited  1 or 0 by position, cut at 3 steps   see there                  the true final observation
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.envs import EnvSpec, Step


def _spec(name: str, obs_dim: int = 1, low: float = -1.0, high: float = 1.0, limit: int = 10) -> EnvSpec:
    return EnvSpec(name, obs_dim, 1, (low,), (high,), limit)


def _end(obs: jax.Array, reward: jax.Array | float) -> Step:
    return Step(obs, jnp.float32(reward), jnp.bool_(True), jnp.bool_(False))


class Constant:
    """Probe 1. Observation 0, reward 1, terminated after one step. Q = 1 for every action and gamma."""

    spec = _spec("probe:constant")

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, Step]:
        return state, _end(state, 1.0)

    @staticmethod
    def value(obs: np.ndarray, action: np.ndarray, gamma: float) -> np.ndarray:
        return np.ones(np.shape(obs)[:-1])


class Observed:
    """Probe 2. Observation -1 or +1 with equal chance, reward = observation, one step. Q = obs."""

    spec = _spec("probe:observed")

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        obs = jax.random.rademacher(key, (1,), jnp.float32)
        return obs, obs

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, Step]:
        return state, _end(state, state[0])

    @staticmethod
    def value(obs: np.ndarray, action: np.ndarray, gamma: float) -> np.ndarray:
        return np.asarray(obs)[..., 0]


class Delayed:
    """Probe 3. Observation 0, reward 0; then observation 1, reward 1, terminated. Q(0) = gamma, Q(1) = 1."""

    spec = _spec("probe:delayed")

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, Step]:
        second = state[0] > 0.5
        return jnp.ones(1), Step(jnp.ones(1), second.astype(jnp.float32), second, jnp.bool_(False))

    @staticmethod
    def value(obs: np.ndarray, action: np.ndarray, gamma: float) -> np.ndarray:
        return np.where(np.asarray(obs)[..., 0] > 0.5, 1.0, gamma)


class Acted:
    """Probe 4. Observation 0, reward 1 - (a - 2)^2 with a in [-1, 3], one step. Q = reward; best a = 2.

    The box is not symmetric: in [-1, 1] the best action is 0.5, so that a wrong scaling shows.
    """

    spec = _spec("probe:acted", low=-1.0, high=3.0)

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, Step]:
        return state, _end(state, 1.0 - (action[0] - 2.0) ** 2)

    @staticmethod
    def value(obs: np.ndarray, action: np.ndarray, gamma: float) -> np.ndarray:
        return 1.0 - (np.asarray(action)[..., 0] - 2.0) ** 2


class Both:
    """Probe 5. Observation +-1, reward 1 - (a - obs / 2)^2, a in [-1, 1], one step. Q = reward; best obs / 2."""

    spec = _spec("probe:both")
    reset = Observed.reset

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, Step]:
        return state, _end(state, 1.0 - (action[0] - 0.5 * state[0]) ** 2)

    @staticmethod
    def value(obs: np.ndarray, action: np.ndarray, gamma: float) -> np.ndarray:
        return 1.0 - (np.asarray(action)[..., 0] - 0.5 * np.asarray(obs)[..., 0]) ** 2


class Cycle(NamedTuple):
    """State of TimeLimited: position i32[] on the cycle of 6."""

    position: jax.Array


class TimeLimited:
    """Probe 6. Positions 0..5 on a cycle, +1 each step, reward 1 at positions 0, 1, 2 and 0 at 3, 4, 5.

    It never terminates, but the time limit of 3 cuts it: episodes start at 0 (chance 3/4) or 3 (1/4) and see
    0,1,2 | 3 or 3,4,5 | 0. The observation is (cos, sin) of 2 pi position / 6: an episode drifts half round the
    circle, and a reset mostly jumps back across it. The action does nothing.

    With S = 1 + gamma + gamma^2, and V(i) = reward(i) + gamma V(i + 1) for the positions in between:
        true value      V(0) = S / (1 - gamma^6),  V(3) = gamma^3 V(0)
        no bootstrap    V(0) = S,                  V(3) = 0           (the cut is taken for a termination)
        leaking reset   V(0) = S + gamma^3 m,      V(3) = gamma^3 m   (the reset is taken for the final observation)
                        with m = 3/4 V(0) + 1/4 V(3) = 3/4 S / (1 - gamma^3)
    At gamma = 0.9, (V(0), V(3)) is (5.783, 4.216), (2.710, 0) and (8.178, 5.468).
    """

    spec = _spec("probe:time_limited", obs_dim=2, limit=3)
    start_at_zero = 0.75

    def reset(self, key: jax.Array) -> tuple[Cycle, jax.Array]:
        position = jnp.where(jax.random.bernoulli(key, self.start_at_zero), 0, 3).astype(jnp.int32)
        return Cycle(position), self.observe(position)

    def step(self, key: jax.Array, state: Cycle, action: jax.Array) -> tuple[Cycle, Step]:
        reward = (state.position < 3).astype(jnp.float32)
        position = (state.position + 1) % 6
        return Cycle(position), Step(self.observe(position), reward, jnp.bool_(False), jnp.bool_(False))

    @staticmethod
    def observe(position: jax.Array) -> jax.Array:
        angle = position * jnp.float32(2 * jnp.pi / 6)
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)])

    @classmethod
    def value(cls, obs: np.ndarray, action: np.ndarray, gamma: float) -> np.ndarray:
        """The right value: the time limit bootstraps from the true final observation."""
        start = cls._block(gamma) / (1 - gamma**6)
        return cls._table(start, gamma**3 * start, gamma)[cls._position(obs)]

    @classmethod
    def value_if_terminated(cls, obs: np.ndarray, action: np.ndarray, gamma: float) -> np.ndarray:
        """What is learnt when the time limit is taken for a termination."""
        table = np.zeros(6)
        for position in (2, 1, 0):
            table[position] = 1 + gamma * table[position + 1]
        return table[cls._position(obs)]

    @classmethod
    def value_if_leaked(cls, obs: np.ndarray, action: np.ndarray, gamma: float) -> np.ndarray:
        """What is learnt when the observation after the reset is taken for the final one."""
        mean = cls.start_at_zero * cls._block(gamma) / (1 - gamma**3)
        rewards, table = np.array([1, 1, 1, 0, 0, 0.0]), np.zeros(6)
        for position in (2, 1, 0, 5, 4, 3):
            after = mean if position in (2, 5) else table[position + 1]
            table[position] = rewards[position] + gamma * after
        return table[cls._position(obs)]

    @staticmethod
    def _block(gamma: float) -> float:
        return 1 + gamma + gamma**2

    @staticmethod
    def _table(zero: float, three: float, gamma: float) -> np.ndarray:
        table = np.array([zero, 0, 0, three, 0, 0])
        table[2], table[5] = 1 + gamma * three, gamma * zero
        table[1], table[4] = 1 + gamma * table[2], gamma * table[5]
        return table

    @staticmethod
    def _position(obs: np.ndarray) -> np.ndarray:
        obs = np.asarray(obs)
        return np.rint(np.arctan2(obs[..., 1], obs[..., 0]) / (2 * np.pi / 6)).astype(int) % 6


PROBES = (Constant, Observed, Delayed, Acted, Both, TimeLimited)


class Chosen:
    """Discrete probe 1. Observation -1 or +1, three choices, reward obs (a - 1), one step. Q = reward."""

    spec = EnvSpec("probe:chosen", 1, num_actions=3, max_episode_steps=10)
    reset = Observed.reset

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, Step]:
        return state, _end(state, state[0] * (action - 1))

    @staticmethod
    def value(obs: np.ndarray, action: np.ndarray, gamma: float) -> np.ndarray:
        return np.asarray(obs)[..., 0] * (np.asarray(action) - 1)


class Corridor:
    """Discrete probe 2. Rooms 0, 1, 2, observation room / 2; episodes start anywhere. Choice 0 leaves with reward 0.3;
    choice 1 goes on: from room 2 out, with reward 1, else into the next room, with reward 0.

    Going on is better everywhere at gamma = 0.9: Q(room, 1) = gamma^(2 - room), Q(room, 0) = 0.3. An agent that
    bootstraps from anything but the best choice learns less.
    """

    spec = EnvSpec("probe:corridor", 1, num_actions=2, max_episode_steps=10)

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        room = jax.random.randint(key, (1,), 0, 3).astype(jnp.float32)
        return room, room / 2

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, Step]:
        out = (action == 0) | (state[0] == 2)
        reward = jnp.where(action == 0, 0.3, (state[0] == 2).astype(jnp.float32))
        following = jnp.minimum(state + 1, 2)
        return following, Step(following / 2, reward, out, jnp.bool_(False))

    @staticmethod
    def value(obs: np.ndarray, action: np.ndarray, gamma: float) -> np.ndarray:
        return np.where(np.asarray(action) == 0, 0.3, gamma ** (2 - 2 * np.asarray(obs)[..., 0]))


class TimeLimitedChoices(TimeLimited):
    """Discrete probe 3. TimeLimited with two choices, which do nothing: the time limit in multi-step targets."""

    spec = EnvSpec("probe:time_limited_choices", 2, num_actions=2, max_episode_steps=3)


DISCRETE_PROBES = (Chosen, Corridor, TimeLimitedChoices)
