"""The suite's own environments: tasks that no library offers in JAX, each in a file of its own."""

import inspect
from typing import Any

from ..errors import suggest
from .lunar_lander import LunarLanderLite
from .needle_reach import NeedleReach
from .protocol import Environment
from .treatment import TreatmentI, TreatmentII, TreatmentIII, TreatmentIV

ENVIRONMENTS: dict[str, type] = {
    "LunarLanderLite": LunarLanderLite,
    "NeedleReach": NeedleReach,
    "Treatment-I": TreatmentI,
    "Treatment-II": TreatmentII,
    "Treatment-III": TreatmentIII,
    "Treatment-IV": TreatmentIV,
}


def build(env_id: str, options: dict[str, Any], name: str) -> Environment:
    """The suite's own environment `env_id`; options are arguments of its constructor."""
    if env_id not in ENVIRONMENTS:
        raise suggest(f"own:{env_id}", [f"own:{known}" for known in ENVIRONMENTS], "environment")
    known = [option for option in inspect.signature(ENVIRONMENTS[env_id]).parameters if option != "name"]
    for option in options:
        if option not in known:
            raise suggest(option, known, f"option of environment 'own:{env_id}'")
    return ENVIRONMENTS[env_id](name=name, **options)


def names() -> list[str]:
    """Ids of the suite's own environments."""
    return list(ENVIRONMENTS)
