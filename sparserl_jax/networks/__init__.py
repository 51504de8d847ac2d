"""Linen modules and heads; no reinforcement learning in here."""

from sparserl_jax.networks.mlp import (
    MLP,
    ActionValues,
    Actor,
    Critic,
    GaussianActor,
    LinearActor,
    TwinCritic,
    Value,
    actor_layers,
    critic_layers,
    twin_critic_layers,
    value_layers,
)

__all__ = [
    "MLP",
    "ActionValues",
    "Actor",
    "Critic",
    "GaussianActor",
    "LinearActor",
    "TwinCritic",
    "Value",
    "actor_layers",
    "critic_layers",
    "twin_critic_layers",
    "value_layers",
]
