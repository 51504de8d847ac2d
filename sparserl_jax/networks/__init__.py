"""Linen modules and heads; no reinforcement learning in here."""

from sparserl_jax.networks.mlp import (
    KINDS,
    MLP,
    ActionValues,
    Actor,
    Critic,
    GaussianActor,
    HeavyActor,
    LinearActor,
    TwinCritic,
    Value,
    actor_layers,
    critic_layers,
    one_critic,
    value_layers,
)

__all__ = [
    "KINDS",
    "MLP",
    "ActionValues",
    "Actor",
    "Critic",
    "GaussianActor",
    "HeavyActor",
    "LinearActor",
    "TwinCritic",
    "Value",
    "actor_layers",
    "critic_layers",
    "one_critic",
    "value_layers",
]
