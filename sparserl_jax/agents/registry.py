"""The algorithms by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sparserl_jax.agents import td3
from sparserl_jax.agents.agent import Agent
from sparserl_jax.errors import suggest


class Algorithm(NamedTuple):
    """A named algorithm: its configuration class and its constructor."""

    config: type
    make: Callable[..., Agent]
    summary: str


AGENTS: dict[str, Algorithm] = {
    "td3": Algorithm(td3.TD3Config, td3.make, "twin delayed deterministic policy gradient"),
}


def algorithm(name: str) -> Algorithm:
    """The algorithm called `name`."""
    if name not in AGENTS:
        raise suggest(name, list(AGENTS), "agent")
    return AGENTS[name]
