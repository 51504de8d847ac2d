"""The sparsity methods by name: one line each; a user's own by `my_pkg.my_module:my_method`."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from sparserl_jax.errors import UserError, suggest
from sparserl_jax.layers import LayerTable
from sparserl_jax.references import OWN, plain_name, resolve
from sparserl_jax.sparsity.anf import ANF
from sparserl_jax.sparsity.blocks import GRADUAL_16X1, RIGL_16X1, SET_16X1
from sparserl_jax.sparsity.contract import Declares, Events, Method, Promise, Sparsifier
from sparserl_jax.sparsity.dense import DENSE
from sparserl_jax.sparsity.ds_td3 import DS_TD3
from sparserl_jax.sparsity.eau_like import EAU_LIKE
from sparserl_jax.sparsity.gradual import GRADUAL, GRADUAL_GLOBAL, GRADUAL_UNIFORM
from sparserl_jax.sparsity.grasp import GRASP
from sparserl_jax.sparsity.l0 import L0, L0_UNIT
from sparserl_jax.sparsity.l1 import L1
from sparserl_jax.sparsity.l2 import L2
from sparserl_jax.sparsity.mest import MEST
from sparserl_jax.sparsity.neurons import NEURONS
from sparserl_jax.sparsity.nm import NM, NM_INNER, NM_SR_STE, RNM_LIKE
from sparserl_jax.sparsity.one_shot import GLOBAL_MAGNITUDE, ONE_SHOT
from sparserl_jax.sparsity.plad_like import PLAD_LIKE
from sparserl_jax.sparsity.redo import REDO
from sparserl_jax.sparsity.rigl import RIGL
from sparserl_jax.sparsity.set import SET
from sparserl_jax.sparsity.snip import SNIP
from sparserl_jax.sparsity.srigl import SRIGL
from sparserl_jax.sparsity.static import STATIC
from sparserl_jax.sparsity.ste import SR_STE, STE
from sparserl_jax.sparsity.synflow import SYNFLOW
from sparserl_jax.sparsity.tiny import TINY
from sparserl_jax.sparsity.top_kast import TOP_KAST

METHODS: dict[str, Method] = {
    method.name: method
    for methods in (
        (DENSE, TINY, STATIC, SET, RIGL),
        (GRADUAL, GRADUAL_UNIFORM, GRADUAL_GLOBAL, ONE_SHOT, GLOBAL_MAGNITUDE, SNIP, GRASP, SYNFLOW),
        (L1, L2, L0, L0_UNIT, PLAD_LIKE, EAU_LIKE),
        (STE, SR_STE, NM, NM_SR_STE, RNM_LIKE, NM_INNER, TOP_KAST, SRIGL),
        (MEST, DS_TD3, ANF, REDO, NEURONS, RIGL_16X1, SET_16X1, GRADUAL_16X1),
    )
    for method in methods
}

WORDS = {
    "budget": ("per_tensor", "global", "at_most", "none"),
    "targets": ("online", "own", "none"),
    "slots": ("keep", "zero_grown", "zero_inactive", "zero_changed", "setting"),
    "learning": ("masked", "dense"),
}
"""What may stand in `Declares`."""


def method(name: str) -> Method:
    """The method called `name`: a shipped one, or the user's own as `my_pkg.my_module:my_method`.

    Raises:
        UserError: there is none, or what is there is not a Method.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" in name:
        where = f"sparsity method '{name}'"
        return validated(resolve(name, where, "sparsity method"), where)
    raise UserError(f"{suggest(name, list(METHODS), 'sparsifier')} Your own is written {OWN}.")


def validated(found: Any, where: str) -> Method:
    """`found`, if it is a Method that can be used; `where` names it in messages."""
    if not isinstance(found, Method):
        kind = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise UserError(f"{where} is {kind}, not a sparserl_jax.sparsity.Method; give the name of a Method.")
    if not plain_name(found.name):
        raise UserError(
            f"{where}: its name {found.name!r} may hold letters a to z, digits and _ only; change it."
        )
    if found.name in METHODS and found is not METHODS[found.name]:
        raise UserError(f"{where} is called '{found.name}' like a shipped method; give it another name.")
    family = found.family
    if not isinstance(family, Sparsifier) or not isinstance(family.declares, Declares):
        raise UserError(f"{where}: its family is not a Sparsifier with Declares; see sparsity/contract.py.")
    optional = [field for field in Sparsifier._field_defaults if getattr(family, field) is None]
    functions = [field for field in Sparsifier._fields if field not in ("name", "declares", *optional)]
    for owner, fields in ((family, functions), (found, ["settings", "promise"])):
        for field in fields:
            if not callable(getattr(owner, field)):
                raise UserError(f"{where}: '{field}' is {getattr(owner, field)!r}; give a function.")
    for field, known in WORDS.items():
        if getattr(family.declares, field) not in known:
            raise suggest(str(getattr(family.declares, field)), list(known), f"declared '{field}' of {where}")
    resets = family.declares.resets
    if not isinstance(resets, tuple) or not set(resets) <= {"replay", "targets"}:
        raise UserError(f"{where}: it declares resets = {resets!r}; give a tuple of 'replay' and 'targets'.")
    return found


def promised(method: Method, layers: LayerTable, knob: float, events: Events, source: str) -> Promise:
    """What a method promises about one network, looked through.

    Raises:
        UserError: the knob cannot be had on this network, or the promise is none.
    """
    where = f"sparsity method '{method.name}'"
    try:
        found = method.promise(layers, knob, events, source)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: its promise failed ({error!r}); mend it.") from error
    if not isinstance(found, Promise):
        raise UserError(f"{where}: its promise returns {found!r}; return a sparserl_jax.sparsity.Promise.")
    sizes = [layer.size for layer, _ in layers.tensors]
    learned = () if found.learned is None else (found.learned,)
    for counts in (found.counts, *found.phases, *learned):
        fits = len(counts) == len(sizes) and all(isinstance(n, numbers.Integral) for n in counts)
        if not fits or not all(0 <= n <= size for n, size in zip(counts, sizes, strict=True)):
            raise UserError(
                f"{where}: it promises {np.asarray(counts).tolist()} live weights; give one whole number per tensor, "
                f"at most {sizes} (copies of a twin critic count singly)."
            )
    return found
