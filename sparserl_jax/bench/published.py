"""Numbers that a paper prints (`benchmarks/published/<paper>.toml`), read strictly: what it does not print is None."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparserl_jax.bench import paths
from sparserl_jax.bench.strict import content, from_table
from sparserl_jax.errors import UserError, suggest

AVERAGE = "average"
"""What stands for the environment in a row of averages."""
SHARES = (
    "sparsity",
    "critic_sparsity",
    "size",
    "training_flops",
    "inference_flops",
    "outcome",
    "low_rank",
)
"""Numbers of a row that are shares."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One environment of a table. returns: by our arm, in the paper's unit; shares relative to dense: size,
    training_flops, inference_flops. Where a paper prints what came out of a training and no returns, `arms` are ours
    that stand beside it: outcome is the share of weights that was removed, low_rank what thin factors saved."""

    environment: str
    returns: Any = dataclasses.field(default_factory=dict)
    arms: tuple[str, ...] = ()
    sparsity: float | None = None
    critic_sparsity: float | None = None
    size: float | None = None
    training_flops: float | None = None
    inference_flops: float | None = None
    outcome: float | None = None
    low_rank: float | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """Our arms that stand beside it."""
        return tuple(self.returns) or self.arms


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of the paper (or half of one). agent: empty where the paper does not say. suites: ours that test it,
    any budget. success: return above which an episode of ours has reached its goal, where there is one. costs_of: the
    methods whose size and FLOPs its rows print; empty: of all."""

    label: str
    title: str
    suites: tuple[str, ...]
    agent: str = ""
    rows: tuple[Row, ...] = ()
    note: str = ""
    success: float | None = None
    costs_of: tuple[str, ...] = ()

    def printed(self, row: Row, method: str) -> Row:
        """What a row prints of one method."""
        if not self.costs_of or method in self.costs_of:
            return row
        return dataclasses.replace(row, size=None, training_flops=None, inference_flops=None)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A claim whose values are not in print."""

    label: str
    title: str
    suites: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What the published runs were. environments: the physics; versions: published name by ours. None: not in print."""

    environments: str
    versions: Any
    steps: int | None = None
    seeds: int | None = None


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper's numbers. version: which text of it was read. suites: ours, in the order in which they are run."""

    paper: str
    venue: str
    version: str
    unit: str
    suites: tuple[str, ...]
    protocol: Protocol
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...] = ()


def names() -> list[str]:
    """Papers whose numbers are shipped."""
    return sorted(path.stem for path in paths.data_folder("published").glob("*.toml"))


def find(name: str) -> Paper:
    """A shipped paper's numbers; raises `UserError` for an unknown name or a file that is not well formed."""
    path = paths.published_path(name)
    if path is None:
        raise suggest(name, names(), "paper")
    return read(path)


def read(path: Path) -> Paper:
    """The numbers in a TOML file."""
    return parse(content(path, "published numbers"), path.name)


def parse(content: Mapping[str, Any], where: str) -> Paper:
    """Numbers from the content of a file; `where` names it in messages."""
    made = dict(content)
    made["protocol"] = from_table(Protocol, made.get("protocol", {}), f"{where} [protocol]")
    made["tables"] = tuple(_table(table, f"{where} [[tables]]") for table in _list(made, "tables", where))
    made["figures"] = tuple(
        from_table(Figure, figure, f"{where} [[figures]]") for figure in _list(made, "figures", where)
    )
    paper = from_table(Paper, made, where)
    _strings(paper.protocol.versions, f"{where} [protocol] versions")
    return paper


def _list(content: Mapping[str, Any], key: str, where: str) -> list[Any]:
    found = content.get(key, [])
    if not isinstance(found, list):
        raise UserError(f"{where}: write [[{key}]], one block for each.")
    return found


def _table(content: Any, where: str) -> Table:
    if not isinstance(content, Mapping):
        raise UserError(f"{where} must be a table, not {content!r}.")
    rows = tuple(_row(row, f"{where} rows") for row in _list(content, "rows", where))
    table = from_table(Table, {**content, "rows": rows}, where)
    seen = [row.environment for row in rows]
    for environment in seen:
        if seen.count(environment) > 1:
            raise UserError(f"{where}: {table.label} has '{environment}' twice; drop one.")
    return table


def _row(content: Any, where: str) -> Row:
    row = from_table(Row, content, where)
    where = f"{where}, '{row.environment}'"
    if not isinstance(row.returns, Mapping) or bool(row.returns) == bool(row.arms):
        raise UserError(
            f"{where}: 'returns' must hold a number per arm, or 'arms' their names and no returns."
        )
    for arm, value in row.returns.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{where}: the return of '{arm}' must be a number, not {value!r}; leave it out.")
    for name in SHARES:
        share = getattr(row, name)
        if share is not None and not 0.0 <= share <= 1.0:
            raise UserError(f"{where}: '{name}' is a share of dense, between 0 and 1, not {share:g}.")
    return row


def _strings(found: Any, where: str) -> None:
    if not isinstance(found, Mapping) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"{where} must hold a name per environment.")
