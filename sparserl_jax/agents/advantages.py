"""Generalised advantage estimation (Schulman et al. 2016, equations 11 to 16), with time limits done right."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def generalised_advantages(
    reward: jax.Array,
    value: jax.Array,
    following: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    gamma: jax.Array | float,
    trace: jax.Array | float,
) -> jax.Array:
    """Advantages f32[T,E] of T consecutive steps of E environments.

        delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t)
        A_t     = delta_t + gamma lambda (1 - terminated_t) (1 - truncated_t) A_(t+1),        A_T = 0

    s'_t is the true observation after step t, before any reset: a time limit bootstraps from the episode's last state,
    a termination does not, and no trace runs from one episode into the next.

    Args:
        reward: f32[T,E].
        value: V(s_t), f32[T,E].
        following: V(s'_t), f32[T,E].
        terminated, truncated: bool[T,E].
        gamma: discount per step.
        trace: lambda, 0 for one-step errors, 1 for Monte-Carlo returns.
    """
    delta = reward + gamma * jnp.where(terminated, 0.0, following) - value
    decay = gamma * trace * jnp.where(terminated | truncated, 0.0, 1.0)

    def back(later: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        own_delta, own_decay = step
        advantage = own_delta + own_decay * later
        return advantage, advantage

    _, advantages = jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantages


def normalised(advantage: jax.Array) -> jax.Array:
    """Advantages of a minibatch f32[batch] with mean 0 and standard deviation 1."""
    return (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-8)
