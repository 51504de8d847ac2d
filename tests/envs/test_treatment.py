"""Treatment: the equations of all four tasks, the returns of known doses, and how dangerous a policy is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import envs
from sparserl_jax.distributions import ThinQGaussian
from sparserl_jax.envs import treatment
from sparserl_jax.envs.treatment import TreatmentI, TreatmentII, TreatmentIII, TreatmentIV
from sparserl_jax.errors import UserError

TASKS = (TreatmentI, TreatmentII, TreatmentIII, TreatmentIV)
EPISODES = 4096


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.slow
def test_each_is_found_by_name_and_passes_the_entry_check(task):
    env = envs.check(f"own:Treatment-{task.task}")
    size = 2 if task.task in ("I", "II") else 8
    low = 0.0 if size == 2 else -1.0
    assert env.spec == envs.EnvSpec(f"own:Treatment-{task.task}", size, 1, (low,), (1.0,), 24)
    assert envs.make(env) is env is envs.make(f"own:Treatment-{task.task}")


@pytest.mark.slow
def test_the_harder_ones_are_options_of_the_id():
    env = envs.make("own:Treatment-III?doses=3&max_episode_steps=100&start=3")
    assert (env.spec.obs_dim, env.spec.action_dim, env.spec.max_episode_steps) == (24, 3, 100)
    states, obs = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 512))
    assert states.origin.shape == (512, 3, 8) and obs.shape == (512, 24)
    assert 2.9 < np.max(np.abs(states.origin)) <= 3.0
    for option, sentence in {
        "start=-1": "start is -1; give a number of at least 0",
        "start=far": "start is far",
        "doses=0": "doses is 0; give a positive whole number",
        "doses=1.5": "doses is 1.5",
        "doses=true": "doses is True",
        "max_episode_steps=0": "max_episode_steps is 0",
        "dose=2": "did you mean 'doses'",
    }.items():
        with pytest.raises(UserError, match=sentence) as refusal:
            envs.make(f"own:Treatment-III?{option}")
        assert "\n" not in str(refusal.value)


def by_hand(task: str, s: np.ndarray, a: float) -> np.ndarray:
    """Mean of what is measured after dose a in the state s (hidden or seen)."""
    if task in ("III", "IV"):
        return np.tanh(np.concatenate([s[:4] + a, s[4:] - a]))
    gain = 2 / (1 + np.exp(-a)) - 1 if task == "I" else 0.75 * (2 * a - 1)
    return np.array([gain * s[0] + 0.25 * s[0] * s[1], -gain * s[1] + 0.25 * s[0] * s[1]])


def paid(task: str, s: np.ndarray, a: float) -> float:
    if task == "I":
        return -3 * np.exp(s[0] - s[1]) * a**2 + 3 * (s[0] + s[1] + 0.5) * a + 3 * s[0] + 3 * s[1]
    if task == "II":
        return 0.25 * s[0] ** 3 + 2 * s[0] + 0.5 * s[1] ** 3 + s[1] + 0.25 * (2 * a - 1)
    if task == "III":
        benefit = s[1] + s[2] + s[5] + s[6] + 0.5
        return -np.exp(s[0] / 2 + s[4] / 2) * a**2 + 2 * benefit * a + s[3] + s[7]
    first, last = (s[0] / 2) ** 3 + (s[1] / 2) ** 3, (s[4] / 2) ** 3 + (s[5] / 2) ** 3
    return first + 2 * last + s[2] + s[3] + 0.5 * (s[6] + s[7])


@pytest.mark.parametrize("task", TASKS)
def test_a_step_of_two_doses_is_the_equations_by_hand(task):
    """Means and rewards follow the formulas per dose; the reward is what the measurements AFTER the dose say, and the
    mean over the doses."""
    env = task(doses=2)
    state, _ = env.reset(jax.random.key(0))
    dose = jnp.array([0.3, 0.9])
    after, step = jax.jit(env.step)(jax.random.key(1), state, dose)
    seen = np.asarray(step.obs, np.float64).reshape(2, -1)
    expected = [by_hand(task.task, np.asarray(s, np.float64), a) for s, a in zip(state.origin, (0.3, 0.9))]
    np.testing.assert_allclose(env.follow(state.origin, dose), expected, atol=1e-6)
    hidden = task.task in ("III", "IV")
    np.testing.assert_allclose(after.origin, expected if hidden else seen, atol=1e-6)
    np.testing.assert_array_equal(after.spread, state.spread)
    rewards = [paid(task.task, s, a) for s, a in zip(seen, (0.3, 0.9))]
    assert float(step.reward) == pytest.approx(np.mean(rewards), abs=1e-5)
    assert not step.terminated and not step.truncated


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.slow
def test_measurements_scatter_about_their_mean_and_the_expected_reward_is_their_rewards_mean(task):
    """100,000 steps from one state: mean, covariance spread^T spread, and reward within its standard error."""
    env = task(doses=2)
    state, _ = env.reset(jax.random.key(3))
    dose = jnp.array([0.8, 0.4])
    step = jax.vmap(lambda key: env.step(key, state, dose)[1])
    _, steps = jax.jit(lambda keys: (0, step(keys)))(jax.random.split(jax.random.key(4), 100_000))
    mean = np.asarray(env.follow(state.origin, dose)).reshape(-1)
    if task is not TreatmentII:
        np.testing.assert_allclose(np.mean(steps.obs, 0), mean, atol=2e-2)
        covariance = np.asarray(state.spread).T @ np.asarray(state.spread)
        np.testing.assert_allclose(np.cov(np.asarray(steps.obs).T), covariance, atol=2e-2)
    error = np.std(steps.reward) / np.sqrt(100_000)
    expected = np.mean(treatment.expected_reward(env, state, dose))
    assert abs(np.mean(steps.reward) - expected) < 4 * error + 1e-4


def test_the_bound_of_two_counts_in_its_expected_reward():
    """At means near and beyond 2 most of the noise is cut: the nodes still give the mean of 400,000 draws."""
    mean = jnp.array([[1.9, -2.4]])
    seen = np.clip(mean + 0.5 * np.random.default_rng(0).normal(size=(400_000, 2)), -2, 2)
    expected = np.mean(0.25 * seen[:, 0] ** 3 + 2 * seen[:, 0] + 0.5 * seen[:, 1] ** 3 + seen[:, 1])
    found = TreatmentII().expected(mean, 0.5 * jnp.eye(2), jnp.array([0.5]))
    assert float(found[0]) == pytest.approx(expected, abs=2e-2)


@pytest.mark.slow
def test_covariances_are_half_of_random_correlation_matrices_and_singular():
    """8 columns of 8 numbers, centred: rank 7, diagonal 1/2; off it correlations of variance 1/7."""
    reset = jax.jit(jax.vmap(TreatmentIII().reset))
    spread = np.asarray(reset(jax.random.split(jax.random.key(0), 512))[0].spread, np.float64)
    covariance = np.einsum("eki,ekj->eij", spread, spread)
    np.testing.assert_allclose(np.einsum("eii->ei", covariance), 0.5, atol=1e-5)
    values = np.linalg.eigvalsh(covariance)
    assert np.max(np.abs(values[:, 0])) < 1e-6 and np.median(values[:, 1]) > 1e-3
    apart = 2 * covariance[:, *np.triu_indices(8, 1)]
    assert np.var(apart) == pytest.approx(1 / 7, abs=5e-3) and np.mean(apart) == pytest.approx(0, abs=1e-2)


def guided(task: type) -> envs.Environment:
    """The same task under `oracle`, whatever the action."""

    class Guided(task):
        def step(self, key, state, action):
            return super().step(key, state, treatment.oracle(self, state))

    return Guided()


def earned(env, policy=None, key: int = 0) -> float:
    key = jax.random.key(key)
    if policy is None:
        return float(np.mean(jax.jit(lambda key: envs.evaluate_random(env, key, EPISODES))(key)))
    return float(np.mean(jax.jit(lambda key: envs.evaluate(env, key, policy, EPISODES))(key)))


@pytest.mark.slow
def test_known_doses_earn_what_is_known_of_them():
    """Treatment-III, undiscounted, 4,096 episodes; an episode's standard deviation is 8 to 15, so errors below 0.24."""
    env = TreatmentIII()
    weights, offset = treatment.LINEAR
    rows = jnp.zeros((4, 9)).at[:, 8].set(jnp.array([0.0, 0.45, 1.0, offset])).at[3, :8].set(weights)

    def returns(key, row):
        return envs.evaluate(env, key, lambda obs: (obs @ row[:8] + row[8])[None], EPISODES)

    found = np.mean(jax.jit(jax.vmap(returns, (None, 0)))(jax.random.key(0), rows), axis=1)
    np.testing.assert_allclose(found, [-0.1, 5.3, -3.2, 5.1], atol=0.5)
    uniform, oracle = earned(env), earned(guided(TreatmentIII), lambda obs: jnp.zeros(1))
    np.testing.assert_allclose([uniform, oracle], [-8.9, 5.6], atol=0.5)
    np.testing.assert_allclose(treatment.REFERENCES["III"], [uniform, oracle], atol=0.5)
    assert [treatment.score(-8.9), treatment.score(5.6)] == pytest.approx([0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("task", [TreatmentI, TreatmentII, TreatmentIV])
def test_ends_of_the_scores_of_the_other_tasks(task):
    found = earned(task()), earned(guided(task), lambda obs: jnp.zeros(1))
    np.testing.assert_allclose(treatment.REFERENCES[task.task], found, atol=1.0)


@pytest.mark.slow
def test_several_doses_have_the_returns_of_one():
    """Their reward is a mean over patients alike, so it has the scale of one, and less scatter."""
    assert earned(TreatmentIII(doses=3)) == pytest.approx(-8.9, abs=0.5)


@pytest.mark.slow
def test_danger_counts_doses_that_are_worse_than_none():
    """In three states: a policy of dose 0 is harmless, uniform doses are as dangerous as a grid says, and a draw beyond
    the box is counted and then clipped."""
    env = TreatmentIII()
    state, obs = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 3))
    grid = jnp.linspace(-1, 1, 2001)[:, None]

    def worse(state):
        return jax.vmap(lambda dose: treatment.expected_reward(env, state, dose)[0])(grid)

    values = np.asarray(jax.jit(jax.vmap(worse))(state))
    shares = np.mean(values < values[:, 1000:1001], axis=1)
    assert np.all((shares > 0.3) & (shares < 1))

    def found(sample, support=None):
        return jax.jit(lambda key: treatment.danger(env, key, state, obs, sample, support))(jax.random.key(1))

    nothing = found(lambda key, obs: jnp.zeros(1))
    assert np.all(nothing.probability == 0) and np.all(nothing.largest == 0) and np.all(nothing.outside == 0)
    assert np.all(np.isposinf(nothing.width))
    uniform = found(lambda key, obs: jax.random.uniform(key, (1,), minval=-1.0))
    np.testing.assert_allclose(uniform.probability, shares, atol=0.02)
    assert np.all(uniform.largest <= 1) and np.all(uniform.outside == 0)
    far = found(lambda key, obs: 2 * jax.random.uniform(key, (1,), minval=-1.0))
    np.testing.assert_allclose(far.outside, 0.5, atol=0.02)
    clipped = 0.25 * ((values[:, 0] < values[:, 1000]) * 1.0 + (values[:, -1] < values[:, 1000]))
    np.testing.assert_allclose(far.probability, 0.5 * shares + clipped, atol=0.02)
    assert np.all((far.largest > 1.99) & (far.largest <= 2))

    def thin(obs):
        return ThinQGaussian(0.1 * obs[:1], jnp.full(1, -2.0))

    held = found(lambda key, obs: thin(obs).sample(key), lambda obs: thin(obs).support)
    np.testing.assert_allclose(held.width, 2 * np.cbrt(1.5 * np.exp(-2.0)), rtol=1e-5)
    assert np.all(held.largest <= np.abs(0.1 * obs[:, 0]) + held.width[:, 0] / 2)


@pytest.mark.slow
def test_danger_of_several_doses_is_that_of_their_mean():
    """One harmful dose beside one that helps more is no danger together."""
    env = TreatmentIII(doses=2)
    state, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(5), 8))
    best = jax.vmap(lambda state: treatment.oracle(env, state))(state)
    good = jax.vmap(lambda state, dose: treatment.expected_reward(env, state, dose))(state, best)
    none = jax.vmap(lambda state: treatment.expected_reward(env, state, jnp.zeros(2)))(state)
    assert np.all(good >= none - 1e-6)
    mixed = jnp.stack([best[:, 0], -best[:, 1]], axis=1)
    total = jax.vmap(lambda state, dose: jnp.mean(treatment.expected_reward(env, state, dose)))(state, mixed)
    number = jnp.arange(8)[:, None]  # what this policy is shown: the number of the state
    found = treatment.danger(env, jax.random.key(0), state, number, lambda key, obs: mixed[obs[0]], draws=4)
    np.testing.assert_array_equal(found.probability, np.asarray(total) < np.mean(np.asarray(none), axis=1))
    assert 0 < np.sum(found.probability) < 8
