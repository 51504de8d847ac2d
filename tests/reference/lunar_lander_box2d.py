"""Free flights of gymnasium's LunarLander-v3 (Box2D), with every random number that went into them.

`python -m tests.reference.lunar_lander_box2d` writes lunar_lander_box2d.npz beside this file; it needs
gymnasium[box2d] (made with gymnasium 1.4.0 and Box2D 2.3.10) and no JAX.
"""

from copy import deepcopy
from pathlib import Path

import numpy as np

FLIGHTS = Path(__file__).with_suffix(".npz")
SEEDS, STEPS = range(8), 50


def fly(seed: int, steps: int = STEPS) -> dict[str, np.ndarray]:
    """One episode of random actions that change every few steps, `steps` long and without contact.

    heights [12] and force [2]: what `reset` draws; actions [T]; dispersion [T,2]: the engine noise in metres;
    obs [T+1,8], the reset's included; rewards [T].
    """
    import gymnasium as gym
    from gymnasium.utils import seeding

    env = gym.make("LunarLander-v3").unwrapped
    drawn, _ = seeding.np_random(seed)
    heights, force = drawn.uniform(0, 400 / 30 / 2, 12), drawn.uniform(-1000, 1000, 2)
    obs, rewards, dispersion = [env.reset(seed=seed)[0]], [], []
    actions = np.random.default_rng(seed).integers(0, 4, steps).repeat(3)[:steps]
    actions[steps // 2 :] = np.random.default_rng(seed + 1).integers(0, 4, steps - steps // 2)
    for action in actions:
        dispersion.append(deepcopy(env.np_random).uniform(-1, 1, 2) / 30)
        after, reward, terminated, _, _ = env.step(int(action))
        assert not terminated and not after[6:].any(), "a flight is free: choose another seed"
        obs.append(after)
        rewards.append(reward)
    return {
        "heights": heights,
        "force": force,
        "actions": actions,
        "dispersion": np.array(dispersion),
        "obs": np.array(obs),
        "rewards": np.array(rewards),
    }


def record() -> None:
    """The flights of SEEDS, stacked, as float32 and int32."""
    flights = [fly(seed) for seed in SEEDS]
    stacked = {name: np.stack([flight[name] for flight in flights]) for name in flights[0]}
    np.savez_compressed(
        FLIGHTS,
        **{name: value.astype("i4" if name == "actions" else "f4") for name, value in stacked.items()},
    )


if __name__ == "__main__":
    record()
