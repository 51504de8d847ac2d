"""What can be chosen by name, with a word about each: `sparserl list`."""

from __future__ import annotations

from collections.abc import Callable

from sparserl_jax.references import OWN


def _agents() -> list[tuple[str, str]]:
    from sparserl_jax.agents.registry import AGENTS

    return [
        (name, f"{agent.summary}; {' or '.join(agent.actions)} actions") for name, agent in AGENTS.items()
    ]


def _diagnostics() -> list[tuple[str, str]]:
    from sparserl_jax.training.diagnostics import COLUMNS

    return [(column.name, f"[{column.unit}] {column.meaning}") for column in COLUMNS]


def _environments() -> list[tuple[str, str]]:
    from sparserl_jax.envs import names

    others = [
        (
            "gymnasium:Hopper-v5",
            "any id of gymnasium with a box of actions or one choice (extra `gymnasium`)",
        ),
        ("playground:CartpoleBalance", "any id of MuJoCo Playground (extra `playground`)"),
        (OWN, "your own"),
    ]
    return [(name, "") for name in names()] + others


def _recipes() -> list[tuple[str, str]]:
    from sparserl_jax.training.recipe import RECIPES

    own = (OWN, "your own recipe, or a sparsity method as a recipe")
    return [*((name, recipe.summary) for name, recipe in RECIPES.items()), own]


def _sparsifiers() -> list[tuple[str, str]]:
    from sparserl_jax.sparsity import METHODS

    return [*((name, method.summary) for name, method in METHODS.items()), (OWN, "your own")]


def _suites() -> list[tuple[str, str]]:
    from sparserl_jax.bench import budgets, paths, suites
    from sparserl_jax.bench.strict import content

    found = []
    for name in paths.suite_names():
        path = paths.suite_path(name)
        lengths = budgets.names(content(path))
        told = f" (budgets: {', '.join(lengths)})" if lengths else ""
        found.append((name, suites.read(path).title + told))
    return found


_KINDS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "agents": _agents,
    "diagnostics": _diagnostics,
    "envs": _environments,
    "recipes": _recipes,
    "sparsifiers": _sparsifiers,
    "suites": _suites,
}


def lines(kind: str) -> list[str]:
    """Names of one kind, one per line, with their summaries."""
    entries = _KINDS[kind]()
    width = max((len(name) for name, summary in entries if summary), default=0)
    return [f"{name:<{width}}  {summary}".rstrip() for name, summary in entries]
