"""One choice of several, as a one-hot vector."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Categorical(NamedTuple):
    """Choice i with probability softmax(logits)_i; actions are one-hot vectors.

    logits: f32[..., choices].
    """

    logits: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions [..., choices]."""
        choice = jax.random.categorical(key, self.logits)
        return jax.nn.one_hot(choice, self.logits.shape[-1], dtype=self.logits.dtype)

    def log_density(self, action: jax.Array) -> jax.Array:
        """Log probability [...] of actions [..., choices]."""
        return jnp.sum(action * jax.nn.log_softmax(self.logits), axis=-1)

    @property
    def entropy(self) -> jax.Array:
        """Entropy in nats, [...]."""
        log_probability = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_probability) * log_probability, axis=-1)
