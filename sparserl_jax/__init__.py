"""sparserl_jax: a benchmark suite for sparse deep reinforcement learning in JAX.

`train` for five-line use, `EnvSpec` and `Step` to bring an environment, `load` for a saved policy. Names are imported
when asked for: importing the package starts neither JAX nor a plotting library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparserl_jax.api import Results, train
    from sparserl_jax.bench.policy import load
    from sparserl_jax.envs import EnvSpec, Step
    from sparserl_jax.errors import UserError

__version__ = "0.1.0"
__all__ = ["EnvSpec", "Results", "Step", "UserError", "load", "train"]

_WHERE = {
    "EnvSpec": "envs",
    "Results": "api",
    "Step": "envs",
    "UserError": "errors",
    "load": "bench.policy",
    "train": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'sparserl_jax' has no attribute '{name}'")
    return getattr(importlib.import_module(f"sparserl_jax.{_WHERE[name]}"), name)
