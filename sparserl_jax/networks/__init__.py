"""Linen modules and heads; no reinforcement learning in here."""

from sparserl_jax.networks.mlp import (
    KINDS,
    MLP,
    ActionValues,
    Actor,
    GaussianActor,
    LinearActor,
    TwinCritic,
    Value,
    actor_layers,
    one_of_twins,
    twin_critic_layers,
    value_layers,
)

__all__ = [
    "KINDS",
    "MLP",
    "ActionValues",
    "Actor",
    "GaussianActor",
    "LinearActor",
    "TwinCritic",
    "Value",
    "actor_layers",
    "one_of_twins",
    "twin_critic_layers",
    "value_layers",
]
