"""A task of images, small enough to train in a test: a lit pixel moves one place per step; say in which half it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparserl_jax.envs import EnvSpec, Step

SIDE, CHANNELS = 4, 2


class Halves:
    """Images of 4 x 4 x 2. Reward 1 for choice 0 while the pixel is in the left half, for choice 1 else; 8 steps."""

    spec = EnvSpec(
        "halves",
        SIDE * SIDE * CHANNELS,
        max_episode_steps=8,
        num_actions=2,
        image=(SIDE, SIDE, CHANNELS),
    )

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        place = jax.random.randint(key, (), 0, SIDE * SIDE)
        return place, self._seen(place)

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, Step]:
        right = (state % SIDE >= SIDE // 2).astype(jnp.int32)
        place = (state + jax.random.randint(key, (), 0, SIDE * SIDE)) % (SIDE * SIDE)
        reward = (action == right).astype(jnp.float32)
        return place, Step(self._seen(place), reward, jnp.bool_(False), jnp.bool_(False))

    def _seen(self, place: jax.Array) -> jax.Array:
        lit = jax.nn.one_hot(place, SIDE * SIDE)
        return jnp.stack([lit, 1 - lit], axis=-1).reshape(-1)
