"""Treatment: doses that help where they fit and harm where they do not (Li, Zhou and Zhu 2023, environments I to IV).

A patient's measurements follow from the dose; the reward is a benefit that is linear in the dose, less a harm that
grows with its square, both of them functions of what is measured AFTER the dose. Episodes never terminate; they last 24
steps. Returns are undiscounted; training there discounts by 0.9.

    I    2 measurements, dose in [0, 1], normal noise of standard deviation 1/2
    II   as I, measurements held in [-2, 2]
    III  8 measurements, dose in [-1, 1]; only noisy measurements of a hidden mean are seen, whose covariance is new in
         every episode
    IV   dynamics of III with another reward, in which the dose does not occur

I and II begin at N(0, 1/4), III and IV with a hidden mean uniform in [-1, 1] (as in the code of Zhu et al. 2025, whose
task is III; Li et al. draw it from N(0, 1/4), and one covariance for all episodes). The covariance is half the
correlation matrix of 8 x 8 uniform numbers. With Z the same numbers, columns centred and of unit length, it is
Z^T Z / 2, so noise is Z^T g / sqrt 2 for standard normal g: exact, singular as it is, without a decomposition.

Harder ones are options: `start` multiplies the spread of the first state, `max_episode_steps` is the horizon, and
`doses` = D puts D such patients side by side, each with a dose and measurements of its own, the noise of III and IV
correlated over all; the reward is their mean, so that returns have the same scale for every D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import UserError
from .protocol import EnvSpec, Step
from .rollout import to_env_units

REFERENCES = {"I": (-13.7, 7.8), "II": (0.1, 30.6), "III": (-8.9, 5.6), "IV": (0.0, 10.0)}
"""Undiscounted returns without options of uniform doses and of `oracle`: where scores are 0 and 1.

Means of 8,192 episodes with standard errors of up to 0.2, but for III: its ends are fixed numbers. Measured they are
-9.18 (40,960 episodes, standard error 0.05) and 5.58 (16,384, 0.06), so uniform doses score -0.02. The oracle sees what
is hidden but only one step ahead: a score above 1 is possible."""

LINEAR = (np.array([0.0, 0.0, -0.05, -0.05, 0.02, 0.01, 0.01, 0.0], np.float32), 0.54)
"""Weights and offset of a dose for III that is linear in the measurements: found by the cross-entropy method (14 rounds
of 40 candidates with 512 episodes each, from a deviation of 0.4). It earns 5.14; of the constant doses 0.35, 0.4, ...,
0.55 the best is 0.45 with 5.26 (40,960 episodes each, standard errors 0.04): the search found no use for weights."""

NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
"""Of means over a standard normal."""


class TreatmentState(NamedTuple):
    """D doses, M measurements for each.

    origin f32[D,M]: what the next mean follows from: the hidden mean where there is one, or else the measurements;
    spread f32[D M,D M]: measurements are their mean + spread^T g.
    """

    origin: jax.Array
    spread: jax.Array


class Treatment:
    """What the four have in common. Observations are all measurements [D M], those of the first dose first."""

    task: ClassVar[str]
    measurements: ClassVar[int]
    lowest: ClassVar[float]

    def __init__(
        self, name: str | None = None, max_episode_steps: int = 24, start: float = 1.0, doses: int = 1
    ) -> None:
        name = name or f"own:Treatment-{self.task}"
        if isinstance(doses, bool) or not isinstance(doses, int) or doses < 1:
            raise UserError(f"environment '{name}': doses is {doses}; give a positive whole number.")
        if not isinstance(start, Real) or not 0 <= start < math.inf:
            raise UserError(f"environment '{name}': start is {start}; give a number of at least 0.")
        self.shape: tuple[int, int] = (doses, self.measurements)
        self.start: float = float(start)
        self.spec: EnvSpec = EnvSpec(
            name,
            obs_dim=math.prod(self.shape),
            action_dim=doses,
            action_low=(self.lowest,) * doses,
            action_high=(1.0,) * doses,
            max_episode_steps=max_episode_steps,
        )

    def reset(self, key: jax.Array) -> tuple[TreatmentState, jax.Array]:
        """See Environment.reset."""
        raise NotImplementedError

    def step(self, key: jax.Array, state: TreatmentState, action: jax.Array) -> tuple[TreatmentState, Step]:
        """See Environment.step; action f32[D]."""
        mean = self.follow(state.origin, action)
        seen = self.measure(key, mean, state.spread)
        reward = jnp.mean(self.reward(seen, action))
        state = state._replace(origin=self.remember(mean, seen))
        return state, Step(seen.reshape(-1), reward, jnp.bool_(False), jnp.bool_(False))

    def measure(self, key: jax.Array, mean: jax.Array, spread: jax.Array) -> jax.Array:
        """Measurements f32[D,M] of a mean."""
        return mean + (jax.random.normal(key, (spread.shape[0],)) @ spread).reshape(self.shape)

    def remember(self, mean: jax.Array, seen: jax.Array) -> jax.Array:
        """What the next mean follows from, f32[D,M]."""
        raise NotImplementedError

    def follow(self, origin: jax.Array, dose: jax.Array) -> jax.Array:
        """Mean f32[D,M] of the measurements after doses f32[D]."""
        raise NotImplementedError

    def reward(self, seen: jax.Array, dose: jax.Array) -> jax.Array:
        """Reward f32[D] of each dose, from the measurements after it."""
        raise NotImplementedError

    def expected(self, mean: jax.Array, spread: jax.Array, dose: jax.Array) -> jax.Array:
        """`reward` in the mean over the noise, f32[D]."""
        raise NotImplementedError


class TreatmentI(Treatment):
    """s' = ((2 sigmoid(a) - 1) s_1 + s_1 s_2 / 4, (1 - 2 sigmoid(a)) s_2 + s_1 s_2 / 4) + N(0, 1/4),
    r = -3 exp(s_1' - s_2') a^2 + 3 (s_1' + s_2' + 1/2) a + 3 s_1' + 3 s_2'."""

    task, measurements, lowest = "I", 2, 0.0
    deviation: ClassVar[float] = 0.5

    def reset(self, key: jax.Array) -> tuple[TreatmentState, jax.Array]:
        """See Environment.reset."""
        seen = self.start * self.deviation * jax.random.normal(key, self.shape)
        return TreatmentState(seen, self.deviation * jnp.eye(self.spec.obs_dim)), seen.reshape(-1)

    def remember(self, mean: jax.Array, seen: jax.Array) -> jax.Array:
        """See Treatment.remember: nothing is hidden."""
        return seen

    def follow(self, origin: jax.Array, dose: jax.Array) -> jax.Array:
        """See Treatment.follow."""
        return self._turned(origin, 2.0 * jax.nn.sigmoid(dose) - 1.0)

    def reward(self, seen: jax.Array, dose: jax.Array) -> jax.Array:
        """See Treatment.reward."""
        return self._earned(seen, dose, jnp.exp(seen[:, 0] - seen[:, 1]))

    def expected(self, mean: jax.Array, spread: jax.Array, dose: jax.Array) -> jax.Array:
        """See Treatment.expected: the difference of two measurements has the variance 2/4."""
        return self._earned(mean, dose, jnp.exp(mean[:, 0] - mean[:, 1] + self.deviation**2))

    def _earned(self, seen: jax.Array, dose: jax.Array, harm: jax.Array) -> jax.Array:
        total = seen[:, 0] + seen[:, 1]
        return -3.0 * harm * dose**2 + 3.0 * (total + 0.5) * dose + 3.0 * total

    @staticmethod
    def _turned(origin: jax.Array, gain: jax.Array) -> jax.Array:
        product = 0.25 * origin[:, 0] * origin[:, 1]
        return jnp.stack([gain * origin[:, 0] + product, -gain * origin[:, 1] + product], axis=1)


class TreatmentII(TreatmentI):
    """s' = (3/4 (2a - 1) s_1 + s_1 s_2 / 4, 3/4 (1 - 2a) s_2 + s_1 s_2 / 4) + N(0, 1/4), held in [-2, 2],
    r = s_1'^3 / 4 + 2 s_1' + s_2'^3 / 2 + s_2' + (2a - 1) / 4."""

    task = "II"
    bound: ClassVar[float] = 2.0

    def reset(self, key: jax.Array) -> tuple[TreatmentState, jax.Array]:
        """See Environment.reset."""
        state, _ = super().reset(key)
        seen = jnp.clip(state.origin, -self.bound, self.bound)
        return state._replace(origin=seen), seen.reshape(-1)

    def measure(self, key: jax.Array, mean: jax.Array, spread: jax.Array) -> jax.Array:
        """See Treatment.measure."""
        return jnp.clip(super().measure(key, mean, spread), -self.bound, self.bound)

    def follow(self, origin: jax.Array, dose: jax.Array) -> jax.Array:
        """See Treatment.follow."""
        return self._turned(origin, 0.75 * (2.0 * dose - 1.0))

    def reward(self, seen: jax.Array, dose: jax.Array) -> jax.Array:
        """See Treatment.reward."""
        first, second = seen[:, 0], seen[:, 1]
        return 0.25 * first**3 + 2.0 * first + 0.5 * second**3 + second + 0.25 * (2.0 * dose - 1.0)

    def expected(self, mean: jax.Array, spread: jax.Array, dose: jax.Array) -> jax.Array:
        """See Treatment.expected: a sum over measurements, so one node serves both; the bound leaves no closed form."""
        at = jnp.clip(mean[None] + self.deviation * NODES[:, None, None], -self.bound, self.bound)
        return jnp.tensordot(WEIGHTS, jax.vmap(lambda seen: self.reward(seen, dose))(at), axes=1)


class TreatmentIII(Treatment):
    """mean' = tanh(mean_1..4 + a), tanh(mean_5..8 - a), s' ~ N(mean', C),
    r = -exp((s_1' + s_5') / 2) a^2 + 2 (s_2' + s_3' + s_6' + s_7' + 1/2) a + s_4' + s_8'."""

    task, measurements, lowest = "III", 8, -1.0
    sign: ClassVar[np.ndarray] = np.array([1, 1, 1, 1, -1, -1, -1, -1], np.float32)

    def reset(self, key: jax.Array) -> tuple[TreatmentState, jax.Array]:
        """See Environment.reset."""
        mean_key, spread_key, seen_key = jax.random.split(key, 3)
        mean = self.start * jax.random.uniform(mean_key, self.shape, minval=-1.0, maxval=1.0)
        columns = jax.random.uniform(spread_key, (self.spec.obs_dim,) * 2)
        columns = columns - jnp.mean(columns, axis=0)
        spread = columns / jnp.linalg.norm(columns, axis=0) / math.sqrt(2.0)
        return TreatmentState(mean, spread), self.measure(seen_key, mean, spread).reshape(-1)

    def remember(self, mean: jax.Array, seen: jax.Array) -> jax.Array:
        """See Treatment.remember: the mean goes on by itself, unseen."""
        return mean

    def follow(self, origin: jax.Array, dose: jax.Array) -> jax.Array:
        """See Treatment.follow."""
        return jnp.tanh(origin + self.sign * dose[:, None])

    def reward(self, seen: jax.Array, dose: jax.Array) -> jax.Array:
        """See Treatment.reward."""
        return self._earned(seen, dose, jnp.exp(0.5 * (seen[:, 0] + seen[:, 4])))

    def expected(self, mean: jax.Array, spread: jax.Array, dose: jax.Array) -> jax.Array:
        """See Treatment.expected: all but the harm is linear in the measurements, and the harm is lognormal."""
        each = spread.reshape(-1, *self.shape)
        variance = jnp.sum((0.5 * (each[..., 0] + each[..., 4])) ** 2, axis=0)
        return self._earned(mean, dose, jnp.exp(0.5 * (mean[:, 0] + mean[:, 4] + variance)))

    def _earned(self, seen: jax.Array, dose: jax.Array, harm: jax.Array) -> jax.Array:
        benefit = seen[:, 1] + seen[:, 2] + seen[:, 5] + seen[:, 6] + 0.5
        return -harm * dose**2 + 2.0 * benefit * dose + seen[:, 3] + seen[:, 7]


class TreatmentIV(TreatmentIII):
    """Dynamics of III, r = (s_1'^3 + s_2'^3) / 8 + (s_5'^3 + s_6'^3) / 4 + s_3' + s_4' + (s_7' + s_8') / 2."""

    task = "IV"
    cubic: ClassVar[np.ndarray] = np.array([1, 1, 0, 0, 2, 2, 0, 0], np.float32) / 8
    linear: ClassVar[np.ndarray] = np.array([0, 0, 2, 2, 0, 0, 1, 1], np.float32) / 2

    def reward(self, seen: jax.Array, dose: jax.Array) -> jax.Array:
        """See Treatment.reward."""
        return seen**3 @ self.cubic + seen @ self.linear

    def expected(self, mean: jax.Array, spread: jax.Array, dose: jax.Array) -> jax.Array:
        """See Treatment.expected: every measurement has the variance 1/2."""
        return (mean**3 + 1.5 * mean) @ self.cubic + mean @ self.linear


def expected_reward(env: Treatment, state: TreatmentState, dose: jax.Array) -> jax.Array:
    """Expected one-step reward f32[D] of doses f32[D] in the environment's units, given what is hidden."""
    return env.expected(env.follow(state.origin, dose), state.spread, dose)


def oracle(env: Treatment, state: TreatmentState, levels: int = 81) -> jax.Array:
    """Doses f32[D] that earn most in the next step, of evenly spread levels, for one who sees what is hidden."""
    grid = jnp.linspace(env.lowest, 1.0, levels)
    doses = jnp.broadcast_to(grid[:, None], (levels, env.spec.action_dim))
    return grid[jnp.argmax(jax.vmap(lambda dose: expected_reward(env, state, dose))(doses), axis=0)]


def score(returns: Any, task: str = "III") -> Any:
    """z = (return - uniform doses) / (oracle - uniform doses), for episodes without options."""
    random, best = REFERENCES[task]
    return (returns - random) / (best - random)


class Danger(NamedTuple):
    """What a policy might do in each of S states; actions are the agent's, in units of [-1, 1].

    probability f32[S]: share of draws that, as the environment takes them, are expected to earn less in the next step
    than dose 0, given what is hidden; largest f32[S]: greatest |a| drawn; width f32[S,D]: of the support;
    outside f32[S]: share of draws with an entry beyond [-1, 1], which the environment clips.
    """

    probability: jax.Array
    largest: jax.Array
    width: jax.Array
    outside: jax.Array


def danger(
    env: Treatment,
    key: jax.Array,
    state: TreatmentState,
    obs: jax.Array,
    sample: Callable[[jax.Array, jax.Array], jax.Array],
    support: Callable[[jax.Array], tuple[jax.Array, jax.Array]] | None = None,
    draws: int = 10_000,
) -> Danger:
    """How dangerous a policy is in S states, by `draws` of its actions in each.

    state: pytree [S, ...]; obs f32[S,O], both of `EnvState` or of `env.reset`.
    sample: (key, obs f32[O]) -> action f32[D] before any clip; support: obs f32[O] -> lowest and highest actions
    f32[D], as `support` of a distribution has them; None: unbounded.
    """

    def one(args: tuple[jax.Array, TreatmentState, jax.Array]) -> Danger:
        key, state, obs = args
        actions = jax.vmap(lambda key: sample(key, obs))(jax.random.split(key, draws))
        doses = to_env_units(env.spec, actions)
        earned = jax.vmap(lambda dose: jnp.mean(expected_reward(env, state, dose)))(doses)
        nothing = jnp.mean(expected_reward(env, state, jnp.zeros(env.spec.action_dim)))
        infinite = jnp.full(env.spec.action_dim, jnp.inf)
        low, high = (-infinite, infinite) if support is None else support(obs)
        far = jnp.max(jnp.abs(actions), axis=1)
        return Danger(jnp.mean(earned < nothing), jnp.max(far), high - low, jnp.mean(far > 1.0))

    return jax.lax.map(one, (jax.random.split(key, obs.shape[0]), state, obs))
