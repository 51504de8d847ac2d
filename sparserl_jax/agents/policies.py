"""Stochastic policies: what an actor puts out, read as a distribution of actions in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from sparserl_jax.distributions import TanhNormal, bounded_log_std
from sparserl_jax.errors import suggest
from sparserl_jax.networks import GaussianActor
from sparserl_jax.sparsity.contract import Params


class Distribution(Protocol):
    """A distribution of actions `[..., action]`; densities are `[...]`, of actions in [-1, 1]."""

    @property
    def mode(self) -> jax.Array:
        """The action that is taken where nothing is drawn."""

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions."""

    def sample_with_density(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Actions and their log densities."""

    def log_density(self, action: jax.Array) -> jax.Array:
        """Log densities of given actions."""


class Policy(NamedTuple):
    """module: Linen module from observations to outputs. distribution(params, obs `[..., obs]`): what they mean."""

    module: Any
    distribution: Callable[[Params, jax.Array], Distribution]


class Squashed(NamedTuple):
    """The tanh of a diagonal normal, see `distributions/tanh_normal.py`."""

    normal: TanhNormal

    @property
    def mode(self) -> jax.Array:
        """tanh of the mean."""
        return self.normal.mode

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions."""
        return self.normal.sample(key)[0]

    def sample_with_density(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Actions and their log densities."""
        return self.normal.sample(key)

    def log_density(self, action: jax.Array) -> jax.Array:
        """Log densities of given actions."""
        return self.normal.log_density(action)


def squashed(hidden: tuple[int, ...], action_dim: int, network: str = "mlp") -> Policy:
    """The policy of SAC."""
    actor = GaussianActor(hidden, action_dim, "orthogonal", network)

    def distribution(params: Params, obs: jax.Array) -> Squashed:
        outputs: Any = actor.apply({"params": params}, obs)
        mean, spread = outputs
        return Squashed(TanhNormal(mean, bounded_log_std(spread)))

    return Policy(actor, distribution)


POLICIES: dict[str, Callable[..., Policy]] = {"squashed": squashed}
"""Policies by name: functions of (hidden, action_dim, network)."""


def policy_of(kind: str, hidden: tuple[int, ...], action_dim: int, network: str = "mlp") -> Policy:
    """The policy of this kind.

    Raises:
        UserError: there is none.
    """
    if kind not in POLICIES:
        raise suggest(kind, list(POLICIES), "policy")
    return POLICIES[kind](hidden, action_dim, network)
