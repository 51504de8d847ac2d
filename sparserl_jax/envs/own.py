"""The suite's own environments: tasks that no library offers in JAX, each in a file of its own."""

from typing import Any

from ..errors import suggest
from .lunar_lander import LunarLanderLite
from .needle_reach import NeedleReach
from .protocol import Environment

ENVIRONMENTS: dict[str, type] = {"LunarLanderLite": LunarLanderLite, "NeedleReach": NeedleReach}
OPTIONS = ["max_episode_steps"]


def build(env_id: str, options: dict[str, Any], name: str) -> Environment:
    """The suite's own environment `env_id`; options are arguments of its constructor."""
    if env_id not in ENVIRONMENTS:
        raise suggest(f"own:{env_id}", [f"own:{known}" for known in ENVIRONMENTS], "environment")
    for option in options:
        if option not in OPTIONS:
            raise suggest(option, OPTIONS, f"option of environment 'own:{env_id}'")
    return ENVIRONMENTS[env_id](name=name, **options)


def names() -> list[str]:
    """Ids of the suite's own environments."""
    return list(ENVIRONMENTS)
