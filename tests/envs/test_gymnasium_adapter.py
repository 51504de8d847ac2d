"""gymnasium's environments behind the host protocol: what is taken, what is refused, time limits, missing packages."""

import sys

import numpy as np
import pytest

pytest.importorskip("gymnasium")

import gymnasium

from sparserl_jax import envs
from sparserl_jax.envs.gymnasium_adapter import GymnasiumEnvironment
from sparserl_jax.envs.host import begin, env_units, proceed
from sparserl_jax.errors import UserError
from tests.reference import host_toys

TOYS = "gymnasium:tests.reference.host_toys:"


def test_a_name_gives_a_host_environment_with_its_spec():
    env = envs.make("gymnasium:Pendulum-v1")
    assert isinstance(env, envs.HostEnvironment)
    assert env.spec == envs.EnvSpec("gymnasium:Pendulum-v1", 3, 1, (-2.0,), (2.0,), 200)
    obs = env.reset(3)
    assert obs.dtype == np.float32 and obs.shape == (3,)
    np.testing.assert_array_equal(obs, gymnasium.make("Pendulum-v1").reset(seed=3)[0])


def test_options_reach_gymnasium_and_are_part_of_the_name_in_one_order():
    env = envs.make("gymnasium:Pendulum-v1?max_episode_steps=5&g=1.5")
    assert env.spec.name == "gymnasium:Pendulum-v1?g=1.5&max_episode_steps=5"
    assert env.spec.max_episode_steps == 5 and env.env.unwrapped.g == 1.5


def test_instances_share_nothing():
    env = envs.make(TOYS + "Firm-v0")
    other = env.fresh()
    first = env.reset(1)
    other.reset(2)
    other.step(np.ones(1))
    np.testing.assert_array_equal(env.env.unwrapped.observe().astype(np.float32), first)


def test_steps_are_those_of_gymnasium_and_the_limit_truncates():
    env, plain = envs.make(TOYS + "Firm-v0"), host_toys.Firm()
    env.reset(7)
    plain.reset(seed=7)
    rng = np.random.default_rng(0)
    for number in range(1, 41):
        action = rng.uniform(-2.0, 2.0, 1).astype(np.float32)
        obs, reward, terminated, truncated = env.step(action)
        wanted, wanted_reward, *_ = plain.step(action)
        assert obs.tobytes() == wanted.astype(np.float32).tobytes() and reward == wanted_reward
        assert (terminated, truncated) == (False, number == 40)
    env.reset(8)
    assert not env.step(action)[3]  # counted afresh


def test_factories_of_the_users_own_are_taken_with_their_limit():
    def limited(steps=6):
        return gymnasium.wrappers.TimeLimit(host_toys.Firm(), steps)

    env = envs.make(limited)
    assert (env.spec.name, env.spec.max_episode_steps) == ("limited", 6)
    assert env.fresh().env is not env.env

    class Own(host_toys.Firm):
        max_episode_steps = 3

    env = envs.check(Own)
    obs = begin(env, 0)
    assert [proceed(env, obs, np.zeros(1), number).truncated for number in (1, 2, 3)] == [False, False, True]


def test_actions_stay_in_boxes_of_doubles():
    """The float32 next to 0.1 is larger than 0.1."""

    class Narrow(host_toys.Firm):
        max_episode_steps = 9
        action_space = gymnasium.spaces.Box(-0.1, 0.1, (1,), np.float64)

        def step(self, action):
            assert self.action_space.contains(action)
            return super().step(action)

    env = envs.check(Narrow)
    assert float(np.float32(0.1)) > 0.1
    for end in (-1.0, 1.0):
        obs = begin(env, 0)
        units = env_units(env.spec, np.array([end], np.float32))
        assert np.isfinite(proceed(env, obs, units, 1).reward)


def test_entry_check_tells_environments_that_cannot_be_repeated():
    assert envs.check(TOYS + "Firm-v0").repeatable
    wobbly = envs.check(TOYS + "Wobbly-v0")
    assert not wobbly.repeatable and not wobbly.fresh().repeatable


class Odd(host_toys.Firm):
    """Firm with other spaces."""

    max_episode_steps = 9

    def __init__(self, observations=None, actions=None):
        self.observation_space = observations or self.observation_space
        self.action_space = actions or self.action_space


Box = gymnasium.spaces.Box


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        (lambda: Odd(Box(0, 1, (2, 2))), r"observations are a Box of shape \(2, 2\); flatten them"),
        (
            lambda: Odd(gymnasium.spaces.Dict({"x": Box(0, 1, (2,))})),
            "observations are a Dict .*FlattenObservation",
        ),
        (lambda: Odd(actions=gymnasium.spaces.MultiBinary(3)), "actions of the kind MultiBinary"),
        (lambda: Odd(actions=Box(0, 3, (2,), np.int64)), "actions of the kind Box of int64"),
        (lambda: Odd(actions=Box(-1, 1, (2, 2))), r"actions have shape \(2, 2\)"),
        (lambda: Odd(actions=Box(-np.inf, 1, (1,))), "action_low is not finite"),
        (host_toys.Firm, "no time limit.*what a factory makes needs gymnasium.wrappers.TimeLimit"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(factory, sentence):
    with pytest.raises(UserError, match=sentence) as refusal:
        envs.make(factory)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gymnasium:Pendlum-v1", "did you mean 'gymnasium:Pendulum-v1'"),
        ("gymnasium:Pendulum-v7", "did you mean 'gymnasium:Pendulum-v1'"),
        ("gymnasium:Pendulum-v1?weight=3", "gymnasium could not make it .*weight"),
        ("gymnasium:no_such_module:Mine-v0", "importing no_such_module failed"),
        (TOYS + "Endless-v0", "has no time limit"),
    ],
)
def test_names_that_cannot_be_made_are_refused_with_a_hint(name, sentence):
    with pytest.raises(UserError, match=sentence) as refusal:
        envs.make(name)
    assert "\n" not in str(refusal.value)


def test_an_instance_alone_is_refused_because_members_need_their_own():
    with pytest.raises(UserError, match="'Firm': every member needs a gymnasium environment of its own"):
        envs.make(host_toys.Firm())


def test_without_gymnasium_the_installation_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(UserError, match=r"needs gymnasium: in the clone .* EXTRA=gymnasium "):
        envs.make("gymnasium:Pendulum-v1")


@pytest.mark.parametrize("module", ["imageio", "mujoco"])
def test_without_what_its_physics_needs_the_installation_is_named(monkeypatch, module):
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        UserError, match=r"'gymnasium:Hopper-v5' needs more .*: in the clone .* EXTRA=gymnasium "
    ):
        envs.make("gymnasium:Hopper-v5")


def test_a_gymnasium_environment_may_be_handed_over_ready_made():
    env = GymnasiumEnvironment(lambda: gymnasium.make("Pendulum-v1"), "pendulum")
    assert envs.make(env) is env
