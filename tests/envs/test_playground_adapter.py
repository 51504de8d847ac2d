"""MuJoCo Playground behind the protocol, by a package of the same interface: the real one is optional and large."""

from __future__ import annotations

import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from sparserl_jax import envs
from sparserl_jax.envs.make import _built_in
from sparserl_jax.errors import UserError


@struct.dataclass
class State:
    """As Playground's, `data` being a position and the number of physics steps."""

    data: jax.Array
    obs: Any
    reward: jax.Array
    done: jax.Array
    metrics: dict[str, jax.Array]
    info: dict[str, Any]


class MjxEnv:
    """A point that is pushed; done beyond 0.9. `kind` is what it observes."""

    action_size, unwrapped = 2, property(lambda self: self)

    def __init__(self, kind: str, config: dict[str, Any]) -> None:
        self.kind, self._config = kind, config

    def _obs(self, data: jax.Array) -> Any:
        if self.kind == "Pixels":
            return {"pixels/view_0": jnp.zeros((4, 4, 3))}
        return {"state": data, "privileged_state": jnp.zeros(9)} if self.kind == "Robot" else data

    def reset(self, rng: jax.Array) -> State:
        rng, draw = jax.random.split(rng)
        data = jnp.append(jax.random.uniform(draw, (2,), maxval=0.1), 0.0)
        return State(data, self._obs(data), jnp.zeros(()), jnp.zeros(()), {}, {"rng": rng, "steps": 0.0})

    def step(self, state: State, action: jax.Array) -> State:
        state.info["steps"] += 1.0  # in place, as Playground's do
        data = jnp.append(state.data[:2] + 0.1 * action, state.data[2] + 1.0)
        done = (jnp.abs(data[:2]).max() > 0.9).astype(float)
        return state.replace(data=data, obs=self._obs(data), reward=data[0], done=done)


class Wrapper(MjxEnv):
    def __init__(self, env: MjxEnv) -> None:
        self.env = env


@pytest.fixture
def loaded(monkeypatch) -> list[dict[str, Any]]:
    """The package in its place; the overrides of everything that was loaded."""
    asked: list[dict[str, Any]] = []
    usual = {
        "Point": {},
        "Robot": {},
        "Pixels": {},
        "Slow": {"action_repeat": 4, "episode_length": 10},
        "Absent": {},
    }

    def default(env_name: str) -> dict[str, Any]:
        common = {"episode_length": 50, "action_repeat": 1, "ctrl_dt": 0.01, "impl": "warp"}
        return {**common, **usual[env_name]}

    def load(env_name: str, config: Any = None, config_overrides: Any = None) -> MjxEnv:
        asked.append(config_overrides)
        if env_name == "Absent":
            raise OSError("no network")
        if isinstance(config_overrides.get("ctrl_dt"), str):
            raise TypeError("ctrl_dt is a float")
        return MjxEnv(env_name, {**default(env_name), **config_overrides})

    registry = types.ModuleType("mujoco_playground.registry")
    registry.ALL_ENVS, registry.load, registry.get_default_config = tuple(usual), load, default
    package = types.ModuleType("mujoco_playground")
    package.registry, package.MjxEnv = registry, MjxEnv
    for module in (package, registry):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    _built_in.cache_clear()
    yield asked
    _built_in.cache_clear()


def test_an_environment_by_name_is_on_jax_and_says_so(loaded):
    env = envs.make("playground:Point?ctrl_dt=0.02")
    assert env.spec == envs.EnvSpec("playground:Point?ctrl_dt=0.02&impl=jax", 3, 2, (-1, -1), (1, 1), 50)
    assert loaded == [{"ctrl_dt": 0.02, "impl": "jax"}] and env.expensive_reset
    assert envs.make("playground:Point?max_episode_steps=7").spec.max_episode_steps == 7
    assert envs.make("playground:Point?impl=warp").spec.name == "playground:Point?impl=warp"
    assert envs.make("playground:Point?ctrl_dt=0.02") is env


def test_steps_are_those_of_the_environment_and_states_stay_as_they_were(loaded):
    env = envs.check("playground:Robot")  # shapes, 16 steps, the same results for the same key
    state, obs = env.reset(jax.random.key(0))
    assert obs.shape == (3,) == (env.spec.obs_dim,)  # of the two observations, that called `state`
    assert not any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(state))
    after, step = env.step(jax.random.key(1), state, jnp.array([1.0, -1.0]))
    np.testing.assert_allclose(step.obs, obs + np.array([0.1, -0.1, 1.0]), atol=1e-6)
    assert float(state.info["steps"]) == 0 and float(after.info["steps"]) == 1
    assert float(step.reward) == float(step.obs[0]) and not bool(step.terminated) and not bool(step.truncated)
    far = state.replace(data=jnp.array([0.85, 0.0, 3.0]))
    assert bool(env.step(jax.random.key(1), far, jnp.ones(2))[1].terminated)


def test_actions_are_repeated_as_the_configuration_says(loaded):
    env = envs.make("playground:Slow")
    assert env.spec.max_episode_steps == 10 // 4
    state, obs = env.reset(jax.random.key(0))
    after, step = env.step(jax.random.key(1), state, jnp.array([1.0, 0.0]))
    assert float(step.obs[2]) == 4 and float(after.info["steps"]) == 4
    assert float(step.reward) == pytest.approx(4 * float(obs[0]) + 0.1 + 0.2 + 0.3 + 0.4)


def test_objects_are_taken_but_not_inside_wrappers(loaded):
    raw = MjxEnv("Point", {"episode_length": 20})
    assert envs.make(raw).spec == envs.EnvSpec("playground:MjxEnv", 3, 2, (-1, -1), (1, 1), 20)
    with pytest.raises(UserError, match="is inside Playground's Wrapper, but batching"):
        envs.make(Wrapper(raw))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("playground:Pont", "unknown environment 'playground:Pont': did you mean 'playground:Point'"),
        (
            "playground:Point?dt=1",
            "unknown option of environment 'playground:Point' 'dt': did you mean 'ctrl_dt'?",
        ),
        ("playground:Point?ctrl_dt=slow", "an option is not one it takes (ctrl_dt is a float); change it"),
        ("playground:Pixels", "observations are several (pixels/view_0), not one float vector"),
        ("playground:Absent", "its models could not be had (no network)"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(name, sentence, loaded):
    with pytest.raises(UserError) as error:
        envs.make(name)
    assert sentence in str(error.value).replace('"', "") and "\n" not in str(error.value)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_playground", None)
    _built_in.cache_clear()
    with pytest.raises(UserError, match=r"needs MuJoCo Playground: in the clone .* EXTRA=playground "):
        envs.make("playground:CartpoleBalance")
