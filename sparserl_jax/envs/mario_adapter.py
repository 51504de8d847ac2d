"""Super Mario Bros. in an emulator of the user's own (packages gym-super-mario-bros and nes-py), on the host.

mario:SuperMarioBros-7-1-v0                       one stage, until the first death or its flag
mario:SuperMarioBros-7-1-v0?actions=complex       of 5 (right_only), 7 (simple, the default) or 12 (complex) buttons

The packages hold images of a commercial game: none of it is part of this one, and nothing here installs them. They were
written for gym's old interface and for NumPy 1, where small integers grew by themselves; `Memory` and `mended` let them
run beside NumPy 2. Every action is held for four frames, whose rewards are summed; agents see the last four of these
moments, in grey, as 84 x 84 images in [0, 1], oldest first. An episode has nothing random in it: seeds change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

from ..errors import UserError, suggest
from .protocol import EnvSpec

PACKAGES = {"gym-super-mario-bros": "7.4", "nes-py": "8.2"}
"""What has to be installed, in versions that begin so."""
INSTALL = 'pip install "gym-super-mario-bros==7.4.0" "nes-py==8.2.1" (mind their licence)'
ROMS = ("vanilla", "downsample", "pixel", "rectangle")
"""By the version at the end of an id."""
ACTIONS = {"right_only": "RIGHT_ONLY", "simple": "SIMPLE_MOVEMENT", "complex": "COMPLEX_MOVEMENT"}
"""Lists of buttons, by what the package calls them."""
SKIP, SIDE, STACK = 4, 84, 4
"""Frames that an action is held, side of an image, images that are seen at once."""
MAX_EPISODE_STEPS = 2500
"""The clock of a stage runs out before that."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Of red, green and blue in grey (ITU-R BT.601)."""


class Memory:
    """The emulator's memory, whose single bytes are Python's integers: sums of them do not overflow."""

    def __init__(self, ram: Any) -> None:
        self.ram = ram

    def __getitem__(self, place: Any) -> Any:
        found = self.ram[place]
        return found if isinstance(place, slice) else int(found)

    def __setitem__(self, place: Any, value: Any) -> None:
        self.ram[place] = value

    def __len__(self) -> int:
        return len(self.ram)


def mended(game: Any, rom: Any) -> Any:
    """The class `game` with `Memory` from its first step on; `rom`, its class of cartridges, computes with the bytes of
    its header from now on."""
    header = rom.header
    if not getattr(header.fget, "wide", False):

        def wide(self: Any) -> Any:
            return header.fget(self).astype(int)

        wide.wide = True  # type: ignore[attr-defined]
        rom.header = property(wide)

    class Mended(game):  # type: ignore[misc]
        def _ram_buffer(self) -> Memory:
            return Memory(super()._ram_buffer())

    return Mended


def areas(size: int, side: int = SIDE) -> np.ndarray:
    """f32[side, size]: what part of every pixel of a line of `size` belongs to each of `side` equal parts, rows of sum
    1."""
    edges = np.linspace(0, size, side + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(size)
    overlap = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


class MarioEnvironment:
    """One emulator as a HostEnvironment; `factory` makes it (gym's old interface), and every further instance."""

    def __init__(
        self, factory: Callable[[], Any], name: str, max_episode_steps: int = MAX_EPISODE_STEPS
    ) -> None:
        self.factory, self.repeatable = factory, True
        self.env = factory()
        high, wide, _ = self.env.observation_space.shape
        self._rows, self._columns = areas(high), areas(wide).T
        image = (SIDE, SIDE, STACK)
        choices = int(self.env.action_space.n)
        self.spec = EnvSpec(
            name, SIDE * SIDE * STACK, max_episode_steps=max_episode_steps, num_actions=choices, image=image
        )
        self._seen = np.zeros(image, np.float32)

    def fresh(self) -> MarioEnvironment:
        """See HostEnvironment.fresh."""
        other = MarioEnvironment(self.factory, self.spec.name, self.spec.max_episode_steps)
        other.repeatable = self.repeatable
        return other

    def reset(self, seed: int) -> np.ndarray:
        """See HostEnvironment.reset. All four images are the first one."""
        self._seen[:] = self._small(self.env.reset())[..., None]
        return self._seen.reshape(-1).copy()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """See HostEnvironment.step."""
        total = 0.0
        for _ in range(SKIP):
            frame, reward, done, _ = self.env.step(int(action))
            total += float(reward)
            if done:
                break
        self._seen = np.concatenate([self._seen[..., 1:], self._small(frame)[..., None]], axis=-1)
        return self._seen.reshape(-1).copy(), total, bool(done), False

    def close(self) -> None:
        """See HostEnvironment.close."""
        self.env.close()

    def _small(self, frame: Any) -> np.ndarray:
        """Grey means f32[SIDE, SIDE] in [0, 1] of a frame u8[high, wide, 3]."""
        grey = np.asarray(frame, np.float32) @ LUMA
        return self._rows @ grey @ self._columns / np.float32(255.0)


def build(env_id: str, options: dict[str, Any], name: str) -> MarioEnvironment:
    """The stage called `env_id`; options: `actions` and `max_episode_steps`."""
    found = re.fullmatch(r"SuperMarioBros-([1-8])-([1-4])-v([0-3])", env_id)
    if found is None:
        raise UserError(
            f"unknown environment '{name}': stages are written mario:SuperMarioBros-7-1-v0 (world 1 to 8, stage 1 to "
            "4, version 0 to 3)."
        )
    for option in options:
        if option not in ("actions", "max_episode_steps"):
            raise suggest(option, ["actions", "max_episode_steps"], f"option of environment 'mario:{env_id}'")
    actions, limit = options.get("actions", "simple"), options.get("max_episode_steps", MAX_EPISODE_STEPS)
    if actions not in ACTIONS:
        raise suggest(str(actions), list(ACTIONS), f"actions of environment 'mario:{env_id}'")
    if not isinstance(limit, int) or limit < 1:
        raise UserError(f"environment '{name}': max_episode_steps = {limit}: give a whole number from 1 on.")
    for package, begins in PACKAGES.items():
        try:
            installed = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise UserError(
                f"environment '{name}' needs {package}, which is not shipped: {INSTALL}."
            ) from None
        if not installed.startswith(f"{begins}."):
            raise UserError(
                f"environment '{name}': {package} is {installed}, and {begins}.x is needed: {INSTALL}."
            )
    if not hasattr(np, "bool8"):
        np.bool8 = np.bool_  # type: ignore[attr-defined]  # gym asks for the name
    try:
        import gym_super_mario_bros
        from gym_super_mario_bros import actions as buttons
        from nes_py import _rom, wrappers
    except ImportError as error:
        raise UserError(
            f"environment '{name}': the emulator cannot be imported ({error}): {INSTALL}."
        ) from error
    emulated = mended(gym_super_mario_bros.SuperMarioBrosEnv, _rom.ROM)
    world, stage, version = (int(part) for part in found.groups())

    def factory() -> Any:
        game = emulated(rom_mode=ROMS[version], target=(world, stage))
        return wrappers.JoypadSpace(game, getattr(buttons, ACTIONS[actions]))

    return MarioEnvironment(factory, name, limit)
