"""Environments: the protocol, the rollout, and everything that can be made into an environment."""

from .check import check, check_named
from .host import HostEnvironment
from .make import make, names
from .protocol import Environment, EnvSpec, GoalSpec, Step
from .rollout import (
    EnvState,
    Finished,
    Lookahead,
    Pool,
    Transition,
    advance,
    as_taken,
    evaluate,
    evaluate_ahead,
    evaluate_random,
    follow,
    make_pool,
    start,
    start_steps,
)

__all__ = [
    "EnvSpec",
    "EnvState",
    "Environment",
    "Finished",
    "GoalSpec",
    "HostEnvironment",
    "Lookahead",
    "Pool",
    "Step",
    "Transition",
    "advance",
    "as_taken",
    "check",
    "check_named",
    "evaluate",
    "evaluate_ahead",
    "evaluate_random",
    "follow",
    "make",
    "make_pool",
    "names",
    "start",
    "start_steps",
]
