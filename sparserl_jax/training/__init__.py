"""Programs, populations and their execution."""

from sparserl_jax.training.config import (
    AgentConfig,
    Evaluation,
    PPOConfig,
    Run,
    SACConfig,
    Schedule,
    TD3Config,
    Training,
)
from sparserl_jax.training.program import Program, group
from sparserl_jax.training.progress import Progress, Silent
from sparserl_jax.training.recipe import RECIPES, Recipe, recipe
from sparserl_jax.training.runner import Outcome, Stopped, execute

__all__ = [
    "RECIPES",
    "AgentConfig",
    "Evaluation",
    "Outcome",
    "PPOConfig",
    "Program",
    "Progress",
    "Recipe",
    "Run",
    "SACConfig",
    "Schedule",
    "Silent",
    "Stopped",
    "TD3Config",
    "Training",
    "execute",
    "group",
    "recipe",
]
