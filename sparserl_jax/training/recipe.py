"""Recipes: what a paper calls a method, as data. An ablation is a recipe with one field changed."""

from __future__ import annotations

import dataclasses
from typing import Literal

from sparserl_jax.agents.targets import LONGEST
from sparserl_jax.errors import UserError, suggest
from sparserl_jax.references import OWN, plain_name, resolve
from sparserl_jax.sparsity import METHODS
from sparserl_jax.sparsity import method as find_method


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A sparsity method with the value-learning parts around it.

    method: name of the sparsity method, or the user's own as `my_pkg.my_module:my_method`. n: steps of the TD target
    once it is multi-step. delayed: whether the target is one-step until update T0 of the schedule. buffer: replay
    capacity, `fixed` or `dynamic` (RLx2, section 4.2.2). source: `released` or `paper` where the code of a publication
    differs from its text. dense_targets: targets are copied before sparsification and stay dense until the first target
    update, as in RLx2's code. sparsity: fixed knob, for methods and controls that do not follow the sweep; `None`
    follows it.
    """

    name: str
    method: str
    n: int = 1
    delayed: bool = True
    buffer: Literal["fixed", "dynamic"] = "fixed"
    source: Literal["released", "paper"] = "released"
    dense_targets: bool = False
    sparsity: float | None = None
    summary: str = ""

    def __post_init__(self) -> None:
        if not plain_name(self.name):
            raise UserError(
                f"recipe '{self.name}': a name may hold letters a to z, digits and _ only; change it."
            )
        find_method(self.method)
        if not 1 <= self.n <= LONGEST:
            raise UserError(
                f"recipe '{self.name}': n = {self.n} steps per TD target is outside 1 to {LONGEST}."
            )
        for field, known in (("buffer", ("fixed", "dynamic")), ("source", ("released", "paper"))):
            if getattr(self, field) not in known:
                raise suggest(str(getattr(self, field)), list(known), f"{field} of recipe '{self.name}'")
        if self.dense_targets and self.method == "tiny":
            raise UserError("recipe: tiny has no wide targets to start from; leave dense_targets off.")

    @property
    def family(self) -> str:
        """Name of the family of functions the method belongs to."""
        return find_method(self.method).family.name


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("dense", "dense", sparsity=0.0, summary="full-width dense network"),
        Recipe(
            "dense_rvl",
            "dense",
            3,
            buffer="dynamic",
            sparsity=0.0,
            summary="dense with RLx2's value learning",
        ),
        Recipe("tiny", "tiny", summary="narrow dense network of equal weight count"),
        Recipe("tiny_rvl", "tiny", 3, buffer="dynamic", summary="tiny with RLx2's value learning"),
        Recipe("static", "static", summary="fixed mask, Erdos-Renyi"),
        Recipe("set", "set", summary="drop smallest, grow random"),
        Recipe("rigl", "rigl", summary="drop smallest, grow largest gradient"),
        Recipe("rlx2", "rigl", 3, buffer="dynamic", summary="RigL, delayed 3-step targets, dynamic buffer"),
        Recipe(
            "rlx2_paper",
            "rigl",
            3,
            buffer="dynamic",
            source="paper",
            summary="RLx2 by its text, but the buffer is checked at the released period",
        ),
        Recipe("placebo", "static", source="paper", summary="random fixed mask at an extreme sparsity"),
    )
}
# Every other method is a recipe by itself.
RECIPES |= {
    own.name: Recipe(own.name, own.name, summary=own.summary)
    for own in METHODS.values()
    if own.name not in RECIPES
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`.

    `my_pkg.my_module:name` is the user's own: a Recipe, or a sparsity method, which is then the whole recipe.
    """
    if name in RECIPES:
        return RECIPES[name]
    if ":" not in name:
        raise UserError(f"{suggest(name, list(RECIPES), 'recipe')} Your own is written {OWN}.")
    found = resolve(name, f"recipe '{name}'", "recipe or sparsity method")
    if not isinstance(found, Recipe):
        own = find_method(name)
        found = Recipe(own.name, name, summary=own.summary)
    if found.name in RECIPES and found != RECIPES[found.name]:
        raise UserError(f"recipe '{name}' is called '{found.name}' like a shipped one; give it another name.")
    return found


def fixed_sparsity(recipe: Recipe, method: str | None) -> float | None:
    """What stays of a recipe's fixed sparsity when it gets another `method` (None: its own): nothing, for it was fixed
    for the method it had, as 0 is for dense."""
    return recipe.sparsity if method in (None, recipe.method) else None
