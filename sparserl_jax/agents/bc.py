"""BC, behaviour cloning of a dataset: what any algorithm that learns from the same data has to be better than.

    stochastic policies       L(theta) = mean over a batch of (s, a) of -log pi_theta(a | s)       (maximum likelihood)
    policy = "deterministic"  L(theta) = the same mean of the mean over dimensions of (pi_theta(s) - a)^2

With `best` below 1 only that share of the episodes is cloned, the best by undiscounted return: 10 %-BC (Chen et al.
2021, section 5.1) at 0.1, which is the agent `bc10`. Which these are is decided once, before training, by whole
episodes; rewards enter nowhere else.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from sparserl_jax.agents import in_sample, td3
from sparserl_jax.agents.actor_critic import Modules
from sparserl_jax.agents.agent import Agent, Range, one_action
from sparserl_jax.agents.behaviour_cloning import BehaviourCloningConfig, cloner, squared_error
from sparserl_jax.agents.policies import COVERING, policy_of
from sparserl_jax.errors import UserError, suggest
from sparserl_jax.sparsity.contract import Events, Params, Sparsifier

DETERMINISTIC = "deterministic"
POLICIES = (DETERMINISTIC, *COVERING)


@dataclasses.dataclass(frozen=True)
class BCConfig(BehaviourCloningConfig):
    """Hyper-parameters of BC. policy: one of `POLICIES`. best: share of the episodes that is cloned. Others as in
    `BehaviourCloningConfig`."""

    name: str = "bc"
    policy: str = "squashed"
    best: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy not in POLICIES:
            raise suggest(self.policy, list(POLICIES), f"policy of agent '{self.name}'")
        share = Range(0.0, 1.0, above=True)
        if not share.holds(self.best):
            raise UserError(
                f"agent.best = {self.best:g} must be {share}: the share of episodes that is cloned."
            )


@dataclasses.dataclass(frozen=True)
class BC10Config(BCConfig):
    """Hyper-parameters of 10 %-BC."""

    name: str = "bc10"
    best: float = 0.1


def modules(
    hidden: tuple[int, ...],
    action_dim: int,
    network: str = "mlp",
    image: tuple[int, ...] | None = None,
    policy: str = "squashed",
) -> Modules:
    """The networks of BC, of which the actor is trained, and its policy; a deterministic one is TD3's."""
    if policy == DETERMINISTIC:
        return td3.modules(hidden, action_dim, network)
    return in_sample.modules(hidden, action_dim, network, image, policy, beside=())


def make(
    config: BCConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """BC for observations of length `obs_dim` and actions of length `action_dim`; arguments and settings as of
    `td3.make`, of which the actor's parts are used."""
    parts = modules(config.hidden, action_dim, config.network, policy=config.policy)
    given = (obs_dim, action_dim), sparsifiers["actor"], events["actor"]
    if config.policy == DETERMINISTIC:
        return cloner(config, parts, squared_error(parts.policy), *given, one_action(parts.policy))
    head = policy_of(config.policy, config.hidden, action_dim, config.network)

    def each(params: Params, batch: Any) -> jax.Array:
        """-log pi(a | s)."""
        return -head.distribution(params, batch.obs).log_density(batch.action)

    return cloner(config, parts, each, *given, head.sample)
