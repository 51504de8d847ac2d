"""Algorithms of a suite: its own, and those that arms have in its place.

One suite compares algorithms, too: an arm with `agent = { name = "iql" }` is trained by that one. What it does not say
it takes from the suite's, as far as both have it in the same sense, so that arms differ in what is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparserl_jax.agents.registry import algorithm
from sparserl_jax.bench.strict import from_table
from sparserl_jax.errors import UserError, located
from sparserl_jax.training.config import AgentConfig

if TYPE_CHECKING:
    from sparserl_jax.bench.suites import Suite

SHARED = ("hidden", "network", "batch_size", "learning_rate", "gamma", "tau")
"""Settings that mean the same to every algorithm that has them."""


def own_agent(table: Any, agent: AgentConfig, where: str) -> AgentConfig:
    """An arm's own algorithm; `agent`: the suite's, of which all is taken over where the two are one algorithm, and
    otherwise what they share.

    Raises:
        UserError: the table is none, or the algorithm learns from something else than the suite's.
    """
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        raise UserError(f"{where}: it must be a table with the 'name' of an algorithm, not {table!r}.")
    with located(where):
        config = algorithm(table["name"]).config
    fields = {field.name for field in dataclasses.fields(config)}
    taken = fields if table["name"] == agent.name else fields & set(SHARED)
    given = {name: getattr(agent, name) for name in taken if hasattr(agent, name)}
    found: AgentConfig = from_table(config, {**given, **table}, where)
    if found.experience != agent.experience:
        raise UserError(
            f"{where}: '{found.name}' learns from a {found.experience} and the suite's '{agent.name}' from a "
            f"{agent.experience}; compare them in suites of their own."
        )
    theirs, ours = (_budget(config) for config in (agent, found))
    if ours != theirs:
        raise UserError(
            f"{where}: with {_said(ours)} it does not learn from as much as the suite, which has {_said(theirs)}; "
            "arms of one table have one budget: leave these settings out."
        )
    return found


def _budget(agent: AgentConfig) -> dict[str, int]:
    """The settings by which the number of updates and what each of them sees are decided."""
    return {name: getattr(agent, name) for name in ("batch_size", "epochs") if hasattr(agent, name)}


def _said(settings: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in settings.items())


def every(suite: Suite) -> list[tuple[str, AgentConfig]]:
    """All algorithms of a suite with the words that place them: '', or the arm's."""
    own = [(f"arm '{arm.name}', ", arm.agent) for arm in suite.arms if arm.agent is not None]
    return [("", suite.agent), *own]


def sentences(suite: Mapping[str, Any]) -> list[str]:
    """What a caption says of arms' algorithms; `suite` as in `configuration.json`."""
    told = [
        f"{arm['name']}: {_words(arm['agent'], suite['agent'])}" for arm in suite["arms"] if arm.get("agent")
    ]
    return [f"Arms with an algorithm of their own: {'; '.join(told)}."] if told else []


def _words(own: Mapping[str, Any], agent: Mapping[str, Any]) -> str:
    """Name of an algorithm, and its settings that are neither the suite's nor its defaults."""
    usual = dataclasses.asdict(algorithm(own["name"]).config())
    set_here = {
        name: value
        for name, value in own.items()
        if name != "name" and value != agent.get(name) and value != _plain(usual.get(name))
    }
    return ", ".join([own["name"], *(f"{name} {_plain(value)}" for name, value in set_here.items())])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
