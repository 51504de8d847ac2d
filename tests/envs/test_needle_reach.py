"""NeedleReach is as the original was measured: a greedy controller reaches every goal, chance hardly any."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import envs
from sparserl_jax.envs import needle_reach
from sparserl_jax.errors import UserError

ENV = needle_reach.NeedleReach()
STEP = jax.jit(ENV.step)
KEY = jax.random.key(0)
START, LOWEST, HIGHEST = [2.5, 0.25, 3.776], [2.48, -0.27, 3.426], [3.02, 0.27, 3.856]


def greedy(obs):
    """Towards the goal, at full speed where it is far; 0.05 a step are 0.2 in the units of observations."""
    return jnp.append(jnp.clip((obs[7:] - obs[:3]) / 0.2, -1, 1), jnp.zeros(2))


def scene(observed):
    """Positions [...,3] in the scene."""
    return 0.25 * np.asarray(observed) + [2.75, 0, 3.55]


@pytest.fixture(scope="module")
def starts():
    """Observations [1000,10] of as many resets."""
    return np.asarray(jax.jit(jax.vmap(lambda key: ENV.reset(key)[1]))(jax.random.split(KEY, 1000)))


def test_it_is_found_by_name_and_passes_the_entry_check():
    env = envs.check("own:NeedleReach")
    assert env.spec == envs.EnvSpec("own:NeedleReach", 10, 5, (-1,) * 5, (1,) * 5, 50, goal=needle_reach.GOAL)
    assert envs.make("own:NeedleReach?max_episode_steps=20").spec.max_episode_steps == 20


def test_episodes_start_in_one_place_with_goals_in_the_measured_range(starts):
    """Measured over 60 resets of the original: x 2.604 to 2.768, y -0.144 to 0.139, z 3.435576 to 3.435579."""
    assert np.ptp(starts[:, :7], axis=0).max() == 0
    np.testing.assert_allclose(
        [*scene(starts[0, :3]), *starts[0, 3:7]], [2.5, 0.25, 3.725, -np.pi / 2, 0, np.pi / 2, 0], atol=1e-6
    )
    x, y, z = scene(starts[:, 7:]).T
    assert 2.6 <= x.min() < 2.604 and 2.768 < x.max() <= 2.8
    assert -0.15 <= y.min() < -0.144 and 0.139 < y.max() <= 0.15
    np.testing.assert_allclose(z, 3.4355775, atol=1e-5)


def test_the_greedy_controller_is_at_every_goal_within_eight_steps_and_stays(starts):
    """In the original first at step 6 in 17 of 18 episodes and at step 8 in one."""

    def rewards(key):
        def one(carry, _):
            state, step = ENV.step(KEY, carry[0], greedy(carry[1]))
            return (state, step.obs), step.reward

        return jax.lax.scan(one, ENV.reset(key), length=50)[1]

    paid = np.asarray(jax.jit(jax.vmap(rewards))(jax.random.split(KEY, 1000)))
    reached = np.argmax(paid == 0, axis=1)
    assert (paid[:, 7] == 0).all() and (np.diff(paid, axis=1) >= 0).all()
    assert np.median(reached) == 5  # the sixth step


def test_random_actions_reach_next_to_nothing():
    returns = jax.jit(lambda key: envs.evaluate_random(ENV, key, 1000))(KEY)
    assert -50 <= np.mean(returns) <= -49.5


def test_a_step_is_the_tracked_share_of_the_way_to_the_clipped_target():
    rng, goal = np.random.default_rng(0), np.array([2.7, 0.1, 3.4], np.float32)
    for place in (START, LOWEST, HIGHEST, [2.7, 0.0, 3.6]):
        for action in rng.uniform(-3, 3, (4, 5)).astype(np.float32):
            target = np.clip(np.asarray(place) + 0.05 * np.clip(action[:3], -1, 1), LOWEST, HIGHEST)
            expected = place + 0.993 * (target - place)
            state = needle_reach.ReachState(jnp.asarray(place, jnp.float32), jnp.asarray(goal))
            state, step = STEP(KEY, state, action)
            np.testing.assert_allclose(state.effector, expected, atol=1e-6)
            np.testing.assert_allclose(scene(step.obs[:3]), expected - [0, 0, 0.051], atol=1e-6)
            np.testing.assert_allclose(scene(step.obs[7:]), goal, atol=1e-6)
            assert not step.terminated and not step.truncated


@pytest.mark.parametrize(("distance", "paid"), [(0.0, 0), (0.0999, 0), (0.1, -1), (1.2, -1)])
def test_nearer_than_the_limit_is_reached_and_the_limit_itself_is_not(distance, paid):
    """The limit of 0.025 is 0.1 as observed."""
    goal = np.zeros(3, np.float32)  # here distances are exact
    for axis in range(3):
        at = np.zeros(3, np.float32)
        at[axis] = distance
        assert float(needle_reach.reward(jnp.asarray(at), jnp.asarray(goal))) == paid


def test_an_episode_is_cut_after_50_steps_and_never_ends_by_itself():
    @jax.jit
    def live(key):
        def one(carry, key):
            carry, transition, _ = envs.advance(ENV, carry, key, jax.vmap(greedy)(carry.obs))
            return carry, (transition.terminated, transition.truncated)

        return jax.lax.scan(one, envs.start(ENV, key, 2), jax.random.split(key, 100))[1]

    terminated, truncated = (np.asarray(flag) for flag in live(KEY))
    assert not terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(truncated[:, 0]), [49, 99])


class Point:
    """One number that walks to another; as a user would write it."""

    obs_dim, action_low, action_high, max_episode_steps = 2, -1.0, 1.0, 9
    goal = envs.GoalSpec((0, 1), (1, 2), lambda achieved, desired: -jnp.abs(achieved - desired)[..., 0])

    def reset(self, key):
        state = jnp.stack([jnp.float32(0), jax.random.uniform(key)])
        return state, state

    def step(self, key, state, action):
        state = state.at[0].add(action[0])
        return state, (state, -jnp.abs(state[0] - state[1]), False, False)


def altered(**members):
    return type("Altered", (Point,), members)()


def moving(self, key, state, action):
    state, step = Point.step(self, key, state, action)
    return state + 1, (state + 1, *step[1:])


def test_goals_of_a_users_object_are_carried_and_looked_at():
    assert envs.check(Point()).spec.goal is Point.goal
    for mistake, sentence in [
        ({"step": moving}, "changes within an episode"),
        ({"goal": envs.GoalSpec((0, 1), (1, 2), lambda a, d: -jnp.abs(a - d))}, "one reward for each"),
        ({"goal": envs.GoalSpec((0, 1), (1, 2), lambda a, d: -jnp.ones(a.shape[:-1]))}, "step pays"),
        ({"goal": envs.GoalSpec((0, 1), (2, 3), Point.goal.reward)}, "an observation has 2 entries"),
    ]:
        with pytest.raises(UserError, match=sentence) as refusal:
            envs.check(altered(**mistake))
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("places", [((0, 3), (2, 5)), ((0, 2), (3, 6)), ((2, 2), (3, 3)), ((-1, 1), (3, 5))])
def test_places_that_are_no_goals_are_refused(places):
    with pytest.raises(UserError, match="two equally long places"):
        envs.GoalSpec(*places, needle_reach.reward)
    with pytest.raises(UserError, match="reward_range"):
        envs.GoalSpec((0, 3), (3, 6), needle_reach.reward, (0.0, -1.0))
