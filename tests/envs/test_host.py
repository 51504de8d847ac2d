"""One safe step on the host, units, and the entry check's sentences."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")

import jax.numpy as jnp

from sparserl_jax import envs
from sparserl_jax.envs.host import Broken, HostStep, begin, check, env_units, proceed
from sparserl_jax.envs.rollout import to_env_units
from sparserl_jax.errors import UserError
from tests.reference import host_toys


class Odd(host_toys.HostPull):
    """HostPull that answers what it is told to."""

    def __init__(self, first=None, answer=None):
        super().__init__()
        self.first, self.answer = first, answer

    def fresh(self):
        return Odd(self.first, self.answer)

    def reset(self, seed):
        return super().reset(seed) if self.first is None else self.first

    def step(self, action):
        result = super().step(action)
        return result if self.answer is None else self.answer(result)


def test_actions_are_scaled_as_in_compiled_environments():
    spec = envs.EnvSpec("box", 1, 2, (-3.0, 0.0), (1.0, 0.7), 1)
    action = np.array([[-2.0, -1.0], [0.25, 0.5], [1.0, 7.0]], np.float32)
    np.testing.assert_allclose(env_units(spec, action), to_env_units(spec, jnp.asarray(action)), rtol=1e-6)
    np.testing.assert_array_equal(env_units(spec, action)[0], np.array([-3.0, 0.0], np.float32))
    assert env_units(spec, action).dtype == np.float32


def test_no_action_leaves_its_box_by_rounding():
    """Of the box from -0.1 to 0.7, in single precision, the middle less half the width lies below its lower end."""
    low, high = np.float32(-0.1), np.float32(0.7)
    middle, half = (np.float32((float(high) + sign * float(low)) / 2) for sign in (1, -1))
    assert middle - half < low
    spec = envs.EnvSpec("box", 1, 1, (float(low),), (float(high),), 1)
    ends = np.array([[-1.0], [1.0], [0.0]], np.float32)
    for found in (env_units(spec, ends), np.asarray(to_env_units(spec, jnp.asarray(ends)))):
        assert found[0, 0] == low and found[1, 0] <= high and found[2, 0] == middle


def test_an_action_that_is_no_number_is_the_middle_of_the_box():
    """A member that has diverged must not end the training of all in an environment that refuses its actions."""
    spec = envs.EnvSpec("box", 1, 2, (-3.0, 0.0), (1.0, 1.0), 1)
    np.testing.assert_array_equal(env_units(spec, np.array([np.nan, 1.0], np.float32)), [-1.0, 1.0])
    np.testing.assert_array_equal(env_units(spec, np.array([np.inf, -np.inf], np.float32)), [1.0, 0.0])


OBS = np.array([0.25, 0.0], np.float32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("where", ["obs", "reward"])
def test_a_step_that_is_no_number_terminates_where_the_last_number_was(bad, where):
    def spoil(result):
        obs, reward, _, _ = result
        return (np.array([0.5, bad]), reward, False, True) if where == "obs" else (obs, bad, False, True)

    assert proceed(Odd(answer=spoil), OBS, np.zeros(1), 1) == HostStep(OBS, 0.0, True, False, True)


@pytest.mark.parametrize(
    ("number", "ends", "truncated"), [(8, False, False), (9, False, True), (9, True, False)]
)
def test_the_time_limit_holds_where_an_environment_forgets_it(number, ends, truncated):
    forgetful = Odd(answer=lambda result: (*result[:2], ends, False))
    assert forgetful.spec.max_episode_steps == 9
    step = proceed(forgetful, OBS, np.zeros(1), number)
    assert (step.terminated, step.truncated) == (ends, truncated)


def test_objects_classes_and_names_are_all_taken():
    own, text = host_toys.HostPull(), "tests.reference.host_toys:HostPull"
    assert envs.make(own) is own and isinstance(envs.check(host_toys.HostPull), host_toys.HostPull)
    named = envs.check(text)
    assert isinstance(named, host_toys.HostPull) and named.spec.name == text
    assert own.spec.name == "toys:pull"


def test_an_end_for_two_reasons_is_a_termination():
    step = proceed(Odd(answer=lambda result: (*result[:2], True, True)), OBS, np.zeros(1), 1)
    assert step.terminated and not step.truncated and not step.invalid


def fail(result):
    raise RuntimeError("first line.\nsecond line")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (fail, "step raised RuntimeError: first line$"),
        (lambda result: result[:3], "step raised ValueError: not enough values"),
        (
            lambda result: (np.zeros((2, 1)), *result[1:]),
            r"step returned an observation of shape \(2, 1\) instead of",
        ),
        (lambda result: (result[0], np.zeros(2), *result[2:]), "step raised TypeError"),
        (lambda result: (*result[:2], np.zeros(2), False), "step raised ValueError"),
    ],
)
def test_a_step_of_another_form_says_so(answer, words):
    with pytest.raises(Broken, match=words):
        proceed(Odd(answer=answer), OBS, np.zeros(1), 1)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (np.zeros(3), r"reset returned an observation of shape \(3,\) instead of \(2,\)"),
        (np.array([np.nan, 0.0]), r"reset\(seed=5\) returned an observation that is not finite"),
        ("nothing", r"reset\(seed=5\) raised ValueError"),
    ],
)
def test_a_reset_of_another_form_says_so(first, words):
    with pytest.raises(Broken, match=words):
        begin(Odd(first), 5)


def test_entry_check_tells_the_first_fault_in_one_sentence():
    with pytest.raises(
        UserError, match="environment 'toys:pull': step raised RuntimeError: first line; mend it"
    ) as told:
        envs.check(Odd(answer=fail))
    assert "\n" not in str(told.value)


def test_entry_check_finds_what_a_used_instance_remembers():
    """Two fresh instances agree, but a second episode depends on the first: such a run cannot be brought back."""

    class Tired(host_toys.HostPull):
        age = 0

        def step(self, action):
            self.age += 1
            obs, reward, *ends = super().step(action)
            return obs, reward - self.age, *ends

    assert check(host_toys.Seeded()).repeatable
    assert not check(Tired()).repeatable


def test_entry_check_without_steps_only_resets():
    assert check(Odd(answer=fail), steps=0).repeatable


def test_an_environment_that_can_be_made_only_once_is_refused():
    class Alone(host_toys.HostPull):
        def fresh(self):
            raise OSError("the port is taken")

    with pytest.raises(
        UserError, match=r"a further instance could not be made \(OSError: the port is taken\)"
    ):
        check(Alone())
