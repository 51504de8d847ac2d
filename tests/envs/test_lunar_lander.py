"""LunarLanderLite flies as gymnasium's LunarLander-v3 does and is as hard: a heuristic lands, chance crashes."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import envs
from sparserl_jax.envs import lunar_lander
from tests.reference import lunar_lander_box2d

ENV = lunar_lander.LunarLanderLite()
STEP = jax.jit(lunar_lander.advance)
START = jax.jit(lunar_lander.start)
FLAT = jnp.full(12, lunar_lander.PAD)
PAD = 0.99 * lunar_lander.PAD  # height of the ground between the flags: three times 0.33


def heuristic(obs):
    """Scores of the four actions: gymnasium's PD controller of LunarLander-v3 restated.

    It leans against drift, holds the height that goes with its distance from the pad, and once a leg touches only
    brakes.
    """
    x, y, vx, vy, angle, rate, left, right = obs
    touching = left + right > 0
    turn = jnp.where(touching, 0.0, 0.5 * (jnp.clip(0.5 * x + vx, -0.4, 0.4) - angle) - rate)
    lift = jnp.where(touching, 0.0, 0.5 * (0.55 * jnp.abs(x) - y)) - 0.5 * vy
    aside = jnp.where(turn < -0.05, 3, jnp.where(turn > 0.05, 1, 0))
    return jax.nn.one_hot(jnp.where((lift > jnp.abs(turn)) & (lift > 0.05), 2, aside), 4)


class MarkedLandings(lunar_lander.LunarLanderLite):
    """A landing earns 10,000 more, so that one evaluation gives returns and landings."""

    def step(self, key, state, action):
        state, step = super().step(key, state, action)
        return state, step._replace(reward=step.reward + 1e4 * (step.terminated & (step.reward > 0)))


@jax.jit
@jax.vmap
def fly(heights, force, actions, dispersion):
    """Observations [T+1,8], the reset's included, and rewards [T] of free flights with given random numbers."""

    def one(state, inputs):
        state, step = lunar_lander.advance(state, *inputs)
        return state, (step.obs, step.reward)

    state, first = lunar_lander.start(heights, force)
    _, (obs, rewards) = jax.lax.scan(one, state, (actions, dispersion))
    return jnp.concatenate([first[None], obs]), rewards


def assert_flies_like(flights):
    obs, rewards = fly(*(flights[name] for name in ("heights", "force", "actions", "dispersion")))
    np.testing.assert_allclose(obs, flights["obs"], atol=1e-3)
    np.testing.assert_allclose(rewards, flights["rewards"], atol=0.1)


def test_recorded_free_flights_are_flown_again():
    """50 steps with recorded dispersion, all four actions: every observation within 1e-3 of Box2D's."""
    flights = np.load(lunar_lander_box2d.FLIGHTS)
    assert set(flights["actions"].ravel()) == {0, 1, 2, 3} and flights["obs"].shape == (8, 51, 8)
    assert_flies_like(flights)


@pytest.mark.skipif(importlib.util.find_spec("Box2D") is None, reason="needs gymnasium[box2d]")
def test_free_flights_of_the_installed_box2d_are_flown_again():
    flights = [lunar_lander_box2d.fly(seed) for seed in lunar_lander_box2d.SEEDS[:3]]
    singles = {
        name: np.stack([flight[name] for flight in flights]).astype("i4" if name == "actions" else "f4")
        for name in flights[0]
    }
    assert_flies_like(singles)


def test_it_is_found_by_name_and_passes_the_entry_check():
    env = envs.check("own:LunarLanderLite")
    assert env.spec == envs.EnvSpec("own:LunarLanderLite", 8, num_actions=4, max_episode_steps=1000)
    assert envs.make(env) is env is envs.make("own:LunarLanderLite")
    assert envs.make("own:LunarLanderLite?max_episode_steps=200").spec.max_episode_steps == 200


@pytest.mark.long
def test_random_actions_crash_as_expensively_as_in_the_original():
    """gymnasium 1.4.0 with Box2D 2.3.10 over 800 episodes: mean -184, standard error 4."""
    returns = jax.jit(lambda key: envs.evaluate_random(ENV, key, 1024))(jax.random.key(0))
    assert -235 <= np.mean(returns) <= -165


@pytest.mark.long
def test_the_heuristic_lands_as_often_as_in_the_original():
    """gymnasium 1.4.0 with Box2D 2.3.10 over 500 episodes: mean 239, standard error 5, landed 92 %.

    4,096 episodes, because the mean lies two standard errors of 1,024 above the lower bound.
    """
    evaluate = jax.jit(lambda key: envs.evaluate(MarkedLandings(), key, heuristic, 4096))
    returns = np.asarray(evaluate(jax.random.key(0)))
    landed = returns > 5_000
    assert 235 <= np.mean(returns - 1e4 * landed) <= 290 and np.mean(landed) >= 0.9


def settled(state, steps=200, action=0):
    """Rewards, observations and the end of what follows from a state without noise."""
    rewards = []
    for _ in range(steps):
        state, step = STEP(state, jnp.int32(action), jnp.zeros(2))
        rewards.append(float(step.reward))
        if step.terminated:
            break
    return rewards, np.asarray(step.obs), bool(step.terminated), state


def placed(height, speed=0.0, angle=0.0, x=10.0):
    """A lander over flat ground: pin at `height` above it, falling at `speed`, at rest otherwise."""
    state, _ = START(FLAT, jnp.zeros(2))
    fall = jnp.tile(jnp.array([0.0, -speed]), (3, 1))
    angles = angle + jnp.array([0.0, 0.35, -0.35])
    return state._replace(
        position=jnp.array([x, PAD + height]), angles=angles, velocity=fall, rates=jnp.zeros(3)
    )


def test_a_slow_lander_comes_to_rest_on_both_legs_and_earns_100():
    rewards, obs, terminated, state = settled(placed(0.7))
    assert terminated and rewards[-1] == 100.0
    np.testing.assert_array_equal(obs[6:], 1.0)
    np.testing.assert_allclose(obs[:6], [0, 0, 0, 0, 0, 0], atol=0.02)
    # The lowest corner of a leg of 4 x 16 pixels, hinged at 0.35 or up to 2 degrees less, and its skin.
    low, high = (
        float(np.max(-_leg_corners(hinge)[:, 1])) + lunar_lander.SKIN
        for hinge in (0.35, 0.35 - np.deg2rad(2))
    )
    assert low - 0.01 < state.position[1] - PAD < high + 0.01


def _leg_corners(hinge):
    """Corners [4,2] of the right leg from the pin: 20 pixels aside, 18 down, turned about the pin."""
    turn = np.array([[np.cos(hinge), -np.sin(hinge)], [np.sin(hinge), np.cos(hinge)]])
    corners = np.array([(20 + x, -18 + y) for x in (-2, 2) for y in (-8, 8)]) / 30
    return corners @ turn.T


def test_a_fast_lander_pushes_its_legs_in_and_crashes():
    rewards, _, terminated, _ = settled(placed(1.5, speed=5.0))
    assert terminated and rewards[-1] == -100.0 and len(rewards) < 20


def test_a_lander_on_its_side_crashes_though_no_leg_touches_first():
    rewards, _, terminated, _ = settled(placed(1.5, angle=3.1))
    assert terminated and rewards[-1] == -100.0


def test_a_peak_between_the_corners_of_the_hull_is_a_crash():
    """The hull over the one high corner of the terrain: all of its own corners are well above the ground."""
    state = placed(0.3)._replace(terrain=jnp.full(11, PAD - 3.0).at[5].set(PAD))
    assert STEP(state, jnp.int32(0), jnp.zeros(2))[1].terminated


@pytest.mark.parametrize("x", [-0.01, 20.01])
def test_leaving_the_view_costs_100(x):
    _, step = STEP(placed(5.0, x=x), jnp.int32(0), jnp.zeros(2))
    assert step.terminated and step.reward == -100.0


def test_reward_is_the_gain_in_shaping_less_fuel():
    state = placed(5.0)
    fuel = []
    for action in range(4):
        after, step = STEP(state, jnp.int32(action), jnp.zeros(2))
        far, fast = np.hypot(*step.obs[:2]), np.hypot(*step.obs[2:4])
        shaping = -100 * (far + fast + abs(step.obs[4]))
        np.testing.assert_allclose(after.shaping, shaping, rtol=1e-5)
        fuel.append(float(shaping - state.shaping - step.reward))
    np.testing.assert_allclose(fuel, [0.0, 0.03, 0.3, 0.03], atol=1e-3)
