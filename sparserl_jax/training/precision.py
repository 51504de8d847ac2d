"""The precision of matrix products: a setting of the training, applied around every stage.

`highest` multiplies float32 as float32 everywhere; `tensorfloat32` lets matrix units round the factors to 10 bits of
mantissa where they have that format; `default` is the backend's own choice, which is tensorfloat32 on recent NVIDIA
GPUs, bfloat16 on TPUs and float32 on CPUs. Not given, nothing is said to JAX, so that its own configuration holds.
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


def precise(fn: Callable[..., Any], name: str | None) -> Callable[..., Any]:
    """`fn` whose matrix products are traced at the precision `name`; `fn` itself where none is given."""
    if name is None:
        return fn

    @functools.wraps(fn)
    def traced(*arguments: Any) -> Any:
        with jax.default_matmul_precision(name):
            return fn(*arguments)

    return traced
