"""The entry check accepts what the protocol allows and refuses everything else with one sentence that helps."""

import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import envs
from sparserl_jax.errors import UserError


class Good:
    """An object as a user would write it, without any import of ours."""

    obs_dim, action_low, action_high, max_episode_steps = 2, -1.0, 1.0, 20

    def reset(self, key):
        obs = jax.random.uniform(key, (2,))
        return obs, obs

    def step(self, key, state, action):
        state = state + 0.1 * action
        return state, (state, -jnp.sum(state**2), False, False)


def altered(**members):
    return type("Altered", (Good,), members)()


def step_returning(**fields):
    """Good, with fields of its Step replaced by functions of (key, state, action)."""

    def step(self, key, state, action):
        after, (obs, reward, terminated, truncated) = Good.step(self, key, state, action)
        good = {"obs": obs, "reward": reward, "terminated": terminated, "truncated": truncated}
        return after, envs.Step(**good | {name: make(key, state, action) for name, make in fields.items()})

    return altered(step=step)


@pytest.mark.parametrize(
    "user",
    [
        Good(),
        step_returning(),
        altered(spec=envs.EnvSpec("mine", 2, 1, (-1,), (1,), 5)),
        altered(obs_dim=None),  # read off the observation
        altered(obs_dim=None, observation_size=2, action_size=1),
        altered(
            action_low=None, action_high=None, action_space=SimpleNamespace(low=-1.0, high=1.0, shape=(1,))
        ),
        altered(action_low=np.zeros(2), action_high=[1.0, 2.0]),
        step_returning(obs=lambda key, state, action: jax.random.normal(key, (2,))),
        # Physics that fails now and then is the rollout's to count.
        step_returning(reward=lambda key, state, action: jnp.where(action[0] > 0, jnp.nan, 0.0)),
    ],
)
def test_every_documented_way_to_write_an_environment_is_accepted(user):
    env = envs.check(user)
    assert isinstance(env, envs.Environment) and isinstance(env.spec, envs.EnvSpec)
    assert envs.check(env) is env


def host_random(self, key):
    return jnp.asarray(np.random.default_rng().random(2), jnp.float32), jnp.zeros(2)


def wrong_state(self, key):
    return {"x": jnp.zeros(2)}, jnp.zeros(2)


def branch(self, key, state, action):
    return Good.step(self, key, state, action) if action[0] > 0 else None


def described(action_low):
    return SimpleNamespace(action_low=action_low, action_high=(1.0,), obs_dim=2, max_episode_steps=9)


BAD = {
    "no step()": altered(step=None),
    "does not say action_low": altered(action_low=None),
    "does not say max_episode_steps": altered(max_episode_steps=None),
    "actions of the kind choices beside a box": altered(num_actions=4),
    "num_actions is 1; give a whole number": altered(action_low=None, action_high=None, num_actions=1),
    "image is \\(2, 2, 1\\) but obs_dim is 2": altered(image=(2, 2, 1)),
    "max_episode_steps is 0": altered(max_episode_steps=0),
    "max_episode_steps is inf": altered(max_episode_steps=np.inf),
    "action_low is not a list of numbers": altered(spec=described(("left",))),
    "action_high is not finite": altered(action_high=np.inf),
    "action_low is not below action_high": altered(action_low=1.0),
    "action_low has 3 entries for 2 actions": altered(action_low=[0, 0, 0], action_dim=2),
    "reset\\(key\\) must return": altered(obs_dim=2, reset=lambda self, key: jnp.zeros(2)),
    "must return \\(state, Step": altered(step=lambda self, key, state, action: (state, state, 0.0, False)),
    "reset returns observations of type dict": altered(reset=lambda self, key: (0, {"a": jnp.zeros(2)})),
    "reset returns observations of dtype int32": altered(reset=lambda self, key: (0, jnp.zeros(2, int))),
    "observations of shape \\(2, 2\\); flatten": altered(reset=lambda self, key: (0, jnp.zeros((2, 2)))),
    "observations of shape \\(\\); flatten": altered(
        obs_dim=None, reset=lambda self, key: (0, jnp.float32(0))
    ),
    "reset returns 2 observations but spec.obs_dim is 3": altered(obs_dim=3),
    "step returns 3 observations": step_returning(obs=lambda *_: jnp.zeros(3)),
    "reward of shape \\(1,\\)": step_returning(reward=lambda *_: jnp.zeros(1)),
    "terminated of shape \\(2,\\)": step_returning(terminated=lambda *_: jnp.zeros(2, bool)),
    "another structure": altered(
        reset=wrong_state, step=lambda s, k, x, a: (x["x"], (x["x"], 0.0, False, False))
    ),
    "float32\\[\\] after step": altered(
        reset=lambda self, key: (0, jnp.zeros(2)),
        step=lambda s, k, x, a: (x + 0.5, (jnp.zeros(2), 0.0, False, False)),
    ),
    "step cannot be traced by jax.jit": altered(step=branch),
    "not finite": altered(reset=lambda self, key: (jnp.zeros(2), jnp.full(2, jnp.nan))),
    "all of 16 random steps return": step_returning(reward=lambda *_: jnp.nan),
    "same key gives different results": altered(reset=host_random),
    "keep no state outside": step_returning(reward=lambda *_: time.perf_counter()),
}


@pytest.mark.parametrize("sentence", BAD)
def test_every_bad_thing_is_refused_with_its_sentence(sentence):
    with pytest.raises(UserError, match=sentence) as refusal:
        envs.check(BAD[sentence])
    message = str(refusal.value)
    assert "\n" not in message and message.endswith(".") and "Altered" in message


def test_results_from_the_host_at_run_time_are_found_too():
    def reward(key, state, action):
        return jax.pure_callback(lambda: np.float32(np.random.default_rng().random()), jnp.float32(0))

    with pytest.raises(UserError, match="same key gives different results"):
        envs.check(step_returning(reward=reward))


def test_check_by_shape_compiles_nothing():
    assert envs.check(altered(reset=host_random), steps=0)
