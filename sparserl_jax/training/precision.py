"""The precision of matrix products: a setting of the training, applied around every stage.

`highest` multiplies float32 as float32 everywhere; `tensorfloat32` lets matrix units round the factors to 10 bits of
mantissa where they have that format; `default` is the backend's own choice, which is tensorfloat32 on recent NVIDIA
GPUs, bfloat16 on TPUs and float32 on CPUs. Not given, JAX's own configuration holds where there is one, and `highest`
elsewhere: a suite that says nothing computes in float32 on every device, the products of a simulator among them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from sparserl_jax.errors import UserError, suggest

PRECISIONS = ("default", "highest", "tensorfloat32")
"""Names a training may give, as `jax.default_matmul_precision` has them."""


def check(name: str | None, where: str) -> None:
    """Refuse a precision of another name.

    Raises:
        UserError: `name` is neither None nor one of `PRECISIONS`.
    """
    if name is None or name in PRECISIONS:
        return
    if not isinstance(name, str):
        raise UserError(f"{where}: must be one of {', '.join(PRECISIONS)}, not {name!r}.")
    raise suggest(name, list(PRECISIONS), where)


def spoken(name: str | None) -> str | None:
    """What is to be said to JAX where `name` was given; None: nothing, its configuration or a CPU's float32 holds."""
    config: Any = jax.config  # its options are attributes made at run time
    configured = config.jax_default_matmul_precision is not None
    return "highest" if name is None and not configured and jax.default_backend() != "cpu" else name


def precise(fn: Callable[..., Any], name: str | None) -> Callable[..., Any]:
    """`fn` whose matrix products are traced at the precision `name`, see `spoken`; `fn` itself where that is none."""
    told = spoken(name)
    if told is None:
        return fn

    @functools.wraps(fn)
    def traced(*arguments: Any) -> Any:
        with jax.default_matmul_precision(told):
            return fn(*arguments)

    return traced
