"""TD3+BC (Fujimoto and Gu 2021, equations 3 and 5): TD3 on a fixed dataset, its actor held to the actions in it.

    L(theta) = mean over a batch of (s, a) of -lambda Q1(s, pi(s)) + mean over dimensions of (pi(s) - a)^2
    lambda   = alpha / (mean over the batch of |Q1(s, pi(s))|), a constant in the gradient

so that alpha means the same whatever the scale of rewards; 0 is behaviour cloning beside a critic that nobody asks.
lambda is that of the authors' code: equation 5 has |Q(s, a)| of the logged actions in the place of |Q1(s, pi(s))|. The
mean is held at 1e-6 or more, for a critic that says 0 everywhere.
Critics, targets and their delay are those of TD3 (`td3.py`), all of whose parts are used. Observations are taken as
they are; the authors standardise them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.agents import td3
from sparserl_jax.agents.agent import LATER, Agent, Range, check_network, one_action
from sparserl_jax.agents.targets import discounts
from sparserl_jax.sparsity.contract import Events, Sparsifier


class Traced(NamedTuple):
    """Numbers of TD3+BC that no shape depends on: those of TD3, but `exploration_noise`, for nobody explores, and
    `alpha`, f32 scalar."""

    learning_rate: Any
    tau: Any
    discounts: Any
    target_noise: Any
    target_noise_clip: Any
    alpha: Any


LEAST_SIZE = 1e-6
"""Of the mean of |Q1(s, pi(s))|: lambda stays a number."""


@dataclasses.dataclass(frozen=True)
class TD3BCConfig:
    """Hyper-parameters of TD3+BC; defaults are the published ones.

    All as in `TD3Config`, whose exploration noise it has not. alpha: weight of the value beside the data.
    """

    TRACED: ClassVar[Mapping[str, Range]] = {
        **{name: span for name, span in td3.TD3Config.TRACED.items() if name != "exploration_noise"},
        "alpha": Range(0.0),
    }
    SCHEDULE: ClassVar[Mapping[str, int]] = {}
    NETWORKS: ClassVar[tuple[str, ...]] = ("actor", "critic")
    experience: ClassVar[str] = "dataset"
    BODIES: ClassVar[tuple[str, ...]] = ("mlp", "simba")

    name: str = "td3_bc"
    hidden: tuple[int, ...] = (256, 256)
    network: str = dataclasses.field(default="mlp", metadata=LATER)
    batch_size: int = 256
    learning_rate: float = 3e-4
    gamma: float = 0.99
    tau: float = 0.005
    policy_delay: int = 2
    target_noise: float = 0.2
    target_noise_clip: float = 0.5
    alpha: float = 2.5

    def __post_init__(self) -> None:
        check_network(self)

    def traced(self, source: str = "released") -> Traced:
        """The traced numbers, as NumPy arrays; the same for a recipe of either `source`."""
        scalars = {name: np.float32(getattr(self, name)) for name in Traced._fields if name != "discounts"}
        return Traced(discounts=discounts(self.gamma), **scalars)

    def target_actions(self, n: int, source: str = "released") -> int:
        """Actor passes for the target of one transition."""
        return 1


def objective(traced: Any, value: jax.Array, action: jax.Array, batch: Any) -> jax.Array:
    """TD3's own, scaled by lambda, and the mean squared error to the actions of the data; arguments as of
    `td3.objective`."""
    weight = batch.valid.astype(jnp.float32)
    size = jax.lax.stop_gradient(jnp.mean(weight * jnp.abs(value)))
    scale = traced.alpha / jnp.maximum(size, LEAST_SIZE)
    error = jnp.mean(weight * jnp.mean((action - batch.action) ** 2, axis=-1))
    return scale * td3.objective(traced, value, action, batch) + error


def make(
    config: TD3BCConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """TD3+BC for observations of length `obs_dim` and actions of length `action_dim`; arguments and settings as of
    `td3.make`.

    Its policy is one action in every state, so that this one is what a draw from it is: suites may compare it with
    policies whose actions are drawn.
    """
    made = td3.make(config, obs_dim, action_dim, sparsifiers, events, objective)
    return made._replace(sample_policy=one_action(made.policy))
