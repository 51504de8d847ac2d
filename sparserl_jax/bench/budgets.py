"""Budgets of a suite: one comparison at several lengths, one file.

    budget = "paper"           what the numbers at the top of the file are called
    [budgets.short]            another length: replaces what it names, whole tables included
    steps = 1000000
    [budgets.short.schedule]
    ...

`--budget short` chooses one. It becomes part of the suite's name and hash, so its runs have a folder of their own and
never stand in a table with those of another length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparserl_jax.errors import UserError, suggest

REPLACED = ("title", "steps", "warm_up", "num_envs", "dispatch", "seeds", "result", "schedule", "evaluation")
"""What a budget may replace; `overrides` adds values of single arms, by name, to those they have. With
`result = false` a length proves that a suite works, and its numbers may never be published."""


def names(table: Mapping[str, Any]) -> list[str]:
    """Budgets that a suite's table has, that of its top level first; none where it has one length only."""
    first = [table["budget"]] if "budget" in table else []
    return [*first, *table.get("budgets", {})]


def chosen(table: Mapping[str, Any], budget: str | None, where: str) -> dict[str, Any]:
    """The table of a suite at one budget: None or the name of the top level's own for the file as it stands.

    Raises:
        UserError: the suite has no such budget, or one of its budgets is not well formed.
    """
    table = dict(table)
    budgets = table.pop("budgets", {})
    if not isinstance(budgets, Mapping):
        raise UserError(f"{where}: 'budgets' must hold a table per budget, not {budgets!r}.")
    own = table.get("budget")
    if budgets and not isinstance(own, str):
        raise UserError(f'{where}: name the budget of the top level, for example budget = "paper".')
    for name, changes in budgets.items():
        _check(table, name, changes, f"{where} [budgets.{name}]")
        if name == own:
            raise UserError(f"{where}: the budget '{name}' is that of the top level; give it another name.")
    if budget is None or budget == own:
        return table
    if budget not in budgets:
        known = [*([own] if own else []), *budgets]
        if not known:
            raise UserError(f"{where}: the suite has one budget only; leave --budget {budget} out.")
        raise suggest(budget, known, f"budget of {where}")
    changes = dict(budgets[budget])
    values = changes.pop("overrides", {})
    changed = {
        **table,
        "title": f"{_retold(table, changes)} (budget {budget})",
        **changes,
        "name": f"{table.get('name', '')}_{budget}",
        "budget": budget,
    }
    tuned = table.get("tuned")
    if "steps" in changes and isinstance(
        tuned, Mapping
    ):  # what was tuned was so at the length of the top level
        length = {"at_steps": table.get("steps")}
        changed["tuned"] = {
            arm: {**length, **own} if isinstance(own, Mapping) else own for arm, own in tuned.items()
        }
    if values and isinstance(table.get("arms"), list):
        changed["arms"] = [
            _overridden(arm, values) if isinstance(arm, Mapping) else arm for arm in table["arms"]
        ]
    return changed


def _retold(table: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """The suite's title; where it tells how many steps a run has, it tells those of the changed length."""
    title = str(table.get("title", table.get("name", "")))
    steps, changed = table.get("steps"), changes.get("steps")
    if isinstance(steps, int) and isinstance(changed, int):  # other types are refused later
        title = title.replace(f"{steps:,} steps", f"{changed:,} steps")
    return title


def _check(table: Mapping[str, Any], name: str, changes: Any, where: str) -> None:
    if not isinstance(changes, Mapping):
        raise UserError(f"{where} must be a table of what it replaces, not {changes!r}.")
    if not name.isalnum():
        raise UserError(f"{where}: a budget's name may hold letters and digits only.")
    for key in changes:
        if key not in (*REPLACED, "overrides"):
            raise suggest(key, [*REPLACED, "overrides"], f"key in {where}")
    # Periods and sizes belong to a length: those of another one would be taken over unseen.
    for part in ("schedule", "evaluation"):
        if "steps" in changes and part in table and part not in changes:
            raise UserError(f"{where}: it changes 'steps', so it needs a [{part}] of its own.")
    values = changes.get("overrides", {})
    if not isinstance(values, Mapping) or not all(isinstance(own, Mapping) for own in values.values()):
        raise UserError(f"{where}: 'overrides' must hold a table per arm.")
    listed = table.get("arms", [])
    if not isinstance(listed, list):
        return  # told where arms are read
    arms = [_name(arm) for arm in listed if isinstance(arm, Mapping)]
    for arm in values:
        if arm not in arms:
            raise suggest(arm, arms, f"arm in {where} overrides")


def _name(arm: Mapping[str, Any]) -> str:
    return str(arm.get("name", arm.get("recipe", "")))


def _overridden(arm: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    own = values.get(_name(arm), {})
    if not own:
        return dict(arm)
    there = arm.get("by_environment", {})
    # What an environment has stands above `overrides`, and would be another length's. Mistakes are told where arms are
    # read.
    if isinstance(there, Mapping) and all(isinstance(one, Mapping) for one in there.values()):
        kept = {env: {key: one[key] for key in one if key not in own} for env, one in there.items()}
        arm = {**arm, "by_environment": kept}
    usual = arm.get("overrides", {})
    return {**arm, "overrides": {**usual, **own}} if isinstance(usual, Mapping) else dict(arm)
