"""Environments: the protocol, the rollout, and everything that can be made into an environment."""

from .check import check
from .make import make, names
from .protocol import Environment, EnvSpec, Step
from .rollout import (
    EnvState,
    Finished,
    Lookahead,
    Pool,
    Transition,
    advance,
    evaluate,
    evaluate_ahead,
    evaluate_random,
    make_pool,
    start,
)

__all__ = [
    "EnvSpec",
    "EnvState",
    "Environment",
    "Finished",
    "Lookahead",
    "Pool",
    "Step",
    "Transition",
    "advance",
    "check",
    "evaluate",
    "evaluate_ahead",
    "evaluate_random",
    "make",
    "make_pool",
    "names",
    "start",
]
