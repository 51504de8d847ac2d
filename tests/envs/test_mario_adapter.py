"""The emulator behind the host protocol, by a fake of its interface: shim, preprocessing, actions, what is refused."""

from __future__ import annotations

import sys
import types
from importlib import metadata
from typing import Any

import numpy as np
import pytest

from sparserl_jax import envs
from sparserl_jax.envs import mario_adapter
from sparserl_jax.envs.host import begin, proceed
from sparserl_jax.errors import UserError

NAME = "mario:SuperMarioBros-7-1-v0"
RIGHT, SIMPLE, COMPLEX = ([["right"]] * buttons for buttons in (5, 7, 12))


class Rom:
    """A cartridge whose size is computed from its header, as nes_py's is."""

    @property
    def header(self) -> np.ndarray:
        return np.array([78, 69, 83, 26, 2], np.uint8)

    @property
    def size(self) -> Any:
        return 16 * 1024 * self.header[4]


class Game:
    """Frames whose every pixel is their number; reward from two bytes of memory; over after `ends` frames."""

    made: list[tuple[str, tuple[int, int]]] = []
    ends = 10

    def __init__(self, rom_mode: str, target: tuple[int, int]) -> None:
        Game.made.append((rom_mode, target))
        assert Rom().size == 32768  # overflows in eight bits
        self.ram: Any = self._ram_buffer()
        assert self.ram[0] * 256 + self.ram[1] == 258  # it plays through the start screen when it is made
        self.observation_space = types.SimpleNamespace(shape=(240, 256, 3))
        self.frames, self.pressed, self.closed = 0, [], False

    @property
    def unwrapped(self) -> Game:
        return self

    def _ram_buffer(self) -> Any:
        return np.array([1, 2, 3], np.uint8)

    def frame(self) -> np.ndarray:
        return np.full((240, 256, 3), self.frames, np.uint8)

    def reset(self) -> np.ndarray:
        self.frames = 1
        return self.frame()

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, dict[str, Any]]:
        self.frames += 1
        self.pressed.append(action)
        assert list(self.ram[0:2]) == [1, 2]
        self.ram[2] = self.frames
        return self.frame(), self.ram[0] * 256 + self.ram[2], np.bool8(self.frames >= self.ends), {}

    def close(self) -> None:
        self.closed = True


class Joypad:
    """nes_py's wrapper: a choice among lists of buttons."""

    def __init__(self, env: Game, buttons: list[list[str]]) -> None:
        self.env, self.action_space = env, types.SimpleNamespace(n=len(buttons))
        self.observation_space, self.unwrapped = env.observation_space, env
        self.reset, self.step, self.close = env.reset, env.step, env.close


@pytest.fixture
def emulator(monkeypatch):
    """Fakes in place of the packages; gives their versions, to be changed."""
    versions = {"gym-super-mario-bros": "7.4.0", "nes-py": "8.2.1"}

    def version(package: str) -> str:
        if package not in versions:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    modules: dict[str, Any] = {
        name: types.ModuleType(name)
        for name in (
            "gym_super_mario_bros",
            "gym_super_mario_bros.actions",
            "nes_py",
            "nes_py._rom",
            "nes_py.wrappers",
        )
    }
    game, nes = modules["gym_super_mario_bros"], modules["nes_py"]
    game.SuperMarioBrosEnv, game.actions = Game, modules["gym_super_mario_bros.actions"]
    game.actions.RIGHT_ONLY, game.actions.SIMPLE_MOVEMENT, game.actions.COMPLEX_MOVEMENT = (
        RIGHT,
        SIMPLE,
        COMPLEX,
    )
    nes._rom, nes.wrappers = modules["nes_py._rom"], modules["nes_py.wrappers"]
    nes._rom.ROM, nes.wrappers.JoypadSpace = Rom, Joypad
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(Rom, "header", Rom.header)  # put back what is mended
    monkeypatch.setattr(np, "bool8", np.bool_, raising=False)
    Game.made.clear()
    return versions


def test_a_stage_is_a_host_environment_of_stacked_images(emulator):
    env = envs.make(NAME + "?actions=complex&max_episode_steps=7")
    assert isinstance(env, envs.HostEnvironment)
    name = NAME + "?actions=complex&max_episode_steps=7"
    size = 84 * 84 * 4
    assert env.spec == envs.EnvSpec(name, size, max_episode_steps=7, num_actions=12, image=(84, 84, 4))
    for choice, buttons in {"": 7, "?actions=simple": 7, "?actions=right_only": 5}.items():
        assert envs.make(NAME + choice).spec.num_actions == buttons
    assert envs.make(NAME).spec.max_episode_steps == 2500 and Game.made[-1] == ("vanilla", (7, 1))
    envs.make("mario:SuperMarioBros-1-4-v3")
    assert Game.made[-1] == ("rectangle", (1, 4))
    assert envs.check(env).repeatable
    other = env.fresh()
    assert other.spec == env.spec and other.env is not env.env
    other.close()
    assert other.env.unwrapped.closed and not env.env.unwrapped.closed


def test_an_action_is_held_for_four_frames_and_the_last_four_moments_are_seen(emulator):
    env = envs.make(NAME)
    first = env.reset(3)
    assert first.dtype == np.float32 and np.allclose(first, 1 / 255, atol=1e-6)
    obs, reward, terminated, truncated = env.step(np.int32(2))
    assert env.env.unwrapped.pressed == [2] * 4 and (terminated, truncated) == (False, False)
    assert reward == 4 * 256 + (2 + 3 + 4 + 5)  # 256 alone is more than a byte
    moments = obs.reshape(84, 84, 4)
    assert np.allclose(moments * 255, [1, 1, 1, 5], atol=1e-4) and np.allclose(first, 1 / 255, atol=1e-6)
    env.step(np.int32(0))
    obs, reward, terminated, _ = env.step(np.int32(0))
    assert terminated and reward == 256 + 10  # its first frame was the last
    assert np.allclose(obs.reshape(84, 84, 4)[3, 4] * 255, [1, 5, 9, 10], atol=1e-4)


def test_the_limit_truncates(emulator, monkeypatch):
    monkeypatch.setattr(Game, "ends", 10**6)
    env = envs.make(NAME + "?max_episode_steps=2")
    obs = begin(env, 0)
    assert [proceed(env, obs, np.int32(0), number).truncated for number in (1, 2)] == [False, True]


def test_images_are_means_of_areas_in_grey(emulator):
    rows = mario_adapter.areas(240)
    assert (
        rows.shape == (84, 240)
        and np.allclose(rows.sum(axis=1), 1)
        and np.allclose(rows.sum(axis=0), 84 / 240)
    )
    # By hand: 3 pixels to 2 parts of 1.5 each.
    assert np.allclose(mario_adapter.areas(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    frame = np.random.default_rng(0).integers(0, 256, (240, 256, 3), dtype=np.uint8)
    small = envs.make(NAME)._small(frame)
    grey = frame[..., 0] * 0.299 + frame[..., 1] * 0.587 + frame[..., 2] * 0.114
    assert small.shape == (84, 84) and small.mean() == pytest.approx(grey.mean() / 255, rel=1e-4)
    assert envs.make(NAME)._small(np.full_like(frame, 255)) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mario:7-1", "stages are written mario:SuperMarioBros-7-1-v0"),
        ("mario:SuperMarioBros-9-1-v0", "world 1 to 8, stage 1 to 4, version 0 to 3"),
        (NAME + "?actions=simpel", "did you mean 'simple'"),
        (NAME + "?action=simple", "unknown option of environment 'mario:SuperMarioBros-7-1-v0' 'action'"),
        (NAME + "?max_episode_steps=0", "give a whole number from 1 on"),
    ],
)
def test_mistakes_are_told_in_one_sentence(emulator, name, sentence):
    with pytest.raises(UserError) as error:
        envs.make(name)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_absent_and_other_versions_are_told_in_one_sentence(emulator):
    emulator["nes-py"] = "9.0.0"
    with pytest.raises(UserError, match=r"nes-py is 9\.0\.0, and 8\.2\.x is needed: pip install"):
        envs.make(NAME)
    del emulator["gym-super-mario-bros"]
    with pytest.raises(UserError, match="needs gym-super-mario-bros, which is not shipped: pip install"):
        envs.make(NAME)


def test_packages_that_do_not_import_are_told_in_one_sentence(emulator, monkeypatch):
    monkeypatch.setitem(sys.modules, "gym_super_mario_bros", None)
    with pytest.raises(UserError, match="the emulator cannot be imported"):
        envs.make(NAME)
