"""What a suite file says about tuning: `[tune]` (a grid to search), `[tuned.<arm>]` (what a search chose),
`[arms.overrides]` and `[arms.by_environment]` (an arm's own values); and whether the arms were tuned equally.

Only traced settings may be tuned or overridden (`AgentConfig.TRACED`, `Schedule.TRACED`): arms that differ in them
still share a Program, and a grid costs no compilation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sparserl_jax.bench.ranges import MOST_SEEDS, check_knob
from sparserl_jax.bench.strict import from_table
from sparserl_jax.errors import UserError, suggest
from sparserl_jax.sparsity import method as find_method
from sparserl_jax.training.config import check_override

if TYPE_CHECKING:
    from sparserl_jax.bench.suites import Arm

Overrides = tuple[tuple[str, float], ...]
"""(name, value) of traced settings, sorted by name."""
ByEnvironment = tuple[tuple[str, Overrides], ...]
"""(environment, values there, which stand above the arm's own), sorted by environment."""
Grid = tuple[tuple[str, tuple[float, ...]], ...]
"""(name, values to try) of traced settings: names sorted, values ascending."""
TUNED_ROLES = ("method", "dense")
"""Arms that compete, and so must be tuned equally; placebo and A/A arms do not."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What an arm's values cost to find: trials (settings tried), the seeds of each, the hash of the grid, and how many
    steps each trial had, where that is known."""

    trials: int
    seeds: tuple[int, ...]
    space_sha256: str | None = None
    at_steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Tune:
    """Grids to search: every combination for every arm, each on the same seeds, which no arm is evaluated on.

    grid: of all arms but those in `grids`, (arm, its own). sparsity: knob of arms that have one. unequal: a setting
    that changes nothing in an arm is left out there, so that arms may have different numbers of trials.
    by_environment: every environment gets the values that were best there.
    """

    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    grid: Grid
    grids: tuple[tuple[str, Grid], ...] = ()
    sparsity: float | None = None
    unequal: bool = False
    by_environment: bool = False

    def grid_of(self, arm: str) -> Grid:
        """What is searched for an arm."""
        return dict(self.grids).get(arm, self.grid)


def points(grid: Grid, without: Sequence[str] = ()) -> list[Overrides]:
    """All combinations, the last name fastest; `without` these names."""
    kept = [(name, values) for name, values in grid if name not in without]
    names = [name for name, _ in kept]
    return [tuple(zip(names, values, strict=True)) for values in itertools.product(*(v for _, v in kept))]


def space_sha256(grid: Grid | Mapping[str, Sequence[float]]) -> str:
    """SHA-256 of a grid as canonical JSON; the order in which it was written does not matter."""
    text = json.dumps(dict(grid), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Search:
    """What a tuning suite holds about itself: the suite it tunes, its grids and seeds, and the trials of every arm.

    grid: of the arms that are not in `grids`; space_sha256: its hash. trials: (arm, names of its trials) in order.
    chosen_for: (A/A arm, the arm whose values it takes). by_environment: whether each environment has its own choice;
    environments: then their names as that suite has them, which the plan makes canonical, in its order.
    """

    suite: str
    grid: dict[str, tuple[float, ...]]
    seeds: tuple[int, ...]
    space_sha256: str
    trials: tuple[tuple[str, tuple[str, ...]], ...]
    chosen_for: tuple[tuple[str, str], ...] = ()
    grids: dict[str, dict[str, tuple[float, ...]]] = dataclasses.field(default_factory=dict)
    by_environment: bool = False
    environments: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _TuneTable:
    """`[tune]` as written."""

    seeds: int
    seeds_from: int
    grid: Any = None
    grids: Any = None
    arms: tuple[str, ...] | None = None
    sparsity: float | None = None
    unequal: bool = False
    by_environment: bool = False


@dataclasses.dataclass(frozen=True)
class _TunedTable:
    """`[tuned.<arm>]` as written."""

    trials: int
    seeds: tuple[int, ...]
    overrides: Any = dataclasses.field(default_factory=dict)
    by_environment: Any = dataclasses.field(default_factory=dict)
    space_sha256: str | None = None
    at_steps: int | None = None


def overrides_of(table: Any, agent: Any, where: str) -> Overrides:
    """An arm's own values from its table, checked, sorted by name; `agent`: the suite's agent configuration."""
    if not isinstance(table, Mapping):
        raise UserError(f"{where} must be a table of settings, not {table!r}.")
    for name, value in table.items():
        check_override(agent, name, value, where)
    return frozen(table)


def frozen(values: Mapping[str, Any]) -> Overrides:
    """Values of settings in the form that can be compared and hashed."""
    return tuple(sorted((name, float(value)) for name, value in values.items()))


def by_environment_of(table: Any, agent: Any, environments: Sequence[str], where: str) -> ByEnvironment:
    """An arm's values on single environments from its table, each checked as `overrides_of` does."""
    if not isinstance(table, Mapping):
        raise UserError(f"{where} must hold a table per environment, not {table!r}.")
    for env in table:
        if env not in environments:
            raise suggest(env, list(environments), f"environment in {where}")
    found = ((env, overrides_of(own, agent, f"{where}, '{env}'")) for env, own in table.items())
    return tuple(sorted((env, values) for env, values in found if values))


def parse(table: Any, arms: Sequence[Arm], agent: Any, where: str) -> Tune:
    """The `[tune]` table of a suite with these arms; raises `UserError`."""
    where = f"{where} [tune]"
    written = from_table(_TuneTable, table, where)
    if not 1 <= written.seeds <= MOST_SEEDS or written.seeds_from < 0:
        raise UserError(f"{where}: give 1 to {MOST_SEEDS} seeds, counted from 0 or more.")
    names = _competing(written.arms, arms, where)
    agents = {arm.name: agent if arm.agent is None else arm.agent for arm in arms if arm.name in names}
    own = {} if written.grids is None else _own_grids(written.grids, agents, where)
    common = {name: config for name, config in agents.items() if name not in own}
    if common and written.grid is None:
        raise UserError(f"{where}: 'grid' is missing, and arm '{next(iter(common))}' has none of its own.")
    if written.grid is not None and not common:
        raise UserError(
            f"{where}: every arm has a grid of its own in 'grids', so nobody uses 'grid'; drop it."
        )
    tune = Tune(
        seeds=tuple(range(written.seeds_from, written.seeds_from + written.seeds)),
        arms=names,
        grid=_grid(written.grid, common, f"{where} grid") if common else (),
        grids=tuple(own.items()),
        sparsity=written.sparsity,
        unequal=written.unequal,
        by_environment=written.by_environment,
    )
    trials = {name: len(points(tune.grid_of(name))) for name in names}
    if len(set(trials.values())) > 1 and not tune.unequal:
        raise UserError(
            f"{where}: the arms would not be tuned equally ({_counted(trials)}): give their grids equally many points, "
            "or say 'unequal = true' and the caption will say it too."
        )
    for arm in arms:
        if set(arm.seeds) & set(tune.seeds):
            beyond = max(seed for other in arms for seed in other.seeds) + 1
            raise UserError(
                f"{where}: seeds {span(tune.seeds)} overlap with those arm '{arm.name}' is evaluated on "
                f"({span(arm.seeds)}): let seeds_from be at least {beyond}."
            )
    if tune.sparsity is not None:
        check_knob(tune.sparsity, where, coefficient=not swept_by_sparsity(arms, names))
    return tune


def swept_by_sparsity(arms: Sequence[Arm], names: Sequence[str]) -> bool:
    """Whether some of the tuned arms follow a sparsity, so that the table's `sparsity` is one; where all of them have
    coefficients of penalties, it is one of those."""
    tuned = [arm for arm in arms if arm.name in names and arm.recipe.sparsity is None]
    return any(not find_method(arm.recipe.method).coefficient for arm in tuned)


def _competing(names: tuple[str, ...] | None, arms: Sequence[Arm], where: str) -> tuple[str, ...]:
    by_name = {arm.name: arm for arm in arms}
    if names is None:
        names = tuple(arm.name for arm in arms if arm.role in TUNED_ROLES)
    for name in names:
        if name not in by_name:
            raise suggest(name, list(by_name), f"arm in {where}")
        if by_name[name].role not in TUNED_ROLES:
            raise UserError(
                f"{where}: arm '{name}' has the role '{by_name[name].role}' and is not tuned; leave it out of 'arms'."
            )
    if not names or len(set(names)) != len(names):
        raise UserError(f"{where}: 'arms' must name at least one arm, and none twice.")
    return names


def _own_grids(table: Any, agents: Mapping[str, Any], where: str) -> dict[str, Grid]:
    """The grids that arms have of their own; `agents`: the algorithms of the arms that are tuned."""
    if not isinstance(table, Mapping):
        raise UserError(f"{where}: 'grids' must hold a table per arm, not {table!r}.")
    for name in table:
        if name not in agents:
            raise suggest(name, list(agents), f"tuned arm in {where} grids")
    return {name: _grid(own, {name: agents[name]}, f"{where} grids.{name}") for name, own in table.items()}


def _grid(table: Any, agents: Mapping[str, Any], where: str) -> Grid:
    """A grid as written, of arms with these algorithms."""
    if not isinstance(table, Mapping):
        raise UserError(f"{where}: it must be a table of lists, not {table!r}.")
    grid, size = [], 1
    for name in sorted(table):
        values = table[name] if isinstance(table[name], list | tuple) else [table[name]]
        for arm, agent in agents.items():
            for value in values:
                check_override(agent, name, value, f"{where}, arm '{arm}'" if len(agents) > 1 else where)
        numbers = tuple(sorted(float(value) for value in values))
        if not numbers or len(set(numbers)) != len(numbers):
            raise UserError(f"{where}: '{name}' needs a list of different values, not {table[name]!r}.")
        grid.append((name, numbers))
        size *= len(numbers)
    if size < 2:
        raise UserError(
            f"{where}: the grid has {size if grid else 'no'} point{'' if size == 1 and grid else 's'}, so there is "
            "nothing to choose: list at least two values of a setting."
        )
    return tuple(grid)


def apply(arms: Sequence[Arm], table: Any, agent: Any, environments: Sequence[str], where: str) -> list[Arm]:
    """Arms with what `[tuned.<arm>]` says of them; `environments`: names of all that the suite has."""
    if not isinstance(table, Mapping):
        raise UserError(f"{where}: 'tuned' must hold a table per arm, not {table!r}.")
    names = [arm.name for arm in arms]
    for name in table:
        if name not in names:
            raise suggest(name, names, f"arm in {where} [tuned]")
    found = []
    for arm in arms:
        if arm.name not in table:
            found.append(arm)
            continue
        own = f"{where} [tuned.{arm.name}]"
        written = from_table(_TunedTable, table[arm.name], own)
        own_agent = agent if arm.agent is None else arm.agent
        values = overrides_of(written.overrides, own_agent, own)
        there = by_environment_of(written.by_environment, own_agent, environments, f"{own}, by_environment")
        if written.trials < 1 or not written.seeds:
            raise UserError(f"{own}: give at least one trial and the seeds it was tried on.")
        if written.at_steps is not None and written.at_steps < 1:
            raise UserError(f"{own}: at_steps = {written.at_steps} is no length of a trial; give its steps.")
        for key in ("overrides", "by_environment"):
            if getattr(arm, key):
                raise UserError(f"{own}: the arm has '{key}' of its own already; keep one of the two.")
        seeds = tuple(sorted(set(written.seeds)))
        claim = Tuning(written.trials, seeds, written.space_sha256, written.at_steps)
        found.append(dataclasses.replace(arm, overrides=values, by_environment=there, tuning=claim))
    return found


def check_equal(arms: Sequence[Arm], unequal: bool, where: str) -> None:
    """Refuse arms that were tuned on seeds of the evaluation, and arms that were not tuned equally unless the suite
    says so (`unequal_tuning = true`).
    """
    for tuned in (arm for arm in arms if arm.tuning is not None):
        for arm in arms:
            if set(arm.seeds) & set(tuned.tuning.seeds):  # type: ignore[union-attr]
                raise UserError(
                    f"{where}: arm '{tuned.name}' was tuned on seeds that arm '{arm.name}' is evaluated on "
                    f"({span(arm.seeds)}): give the arms other seeds."
                )
    efforts = {
        arm.name: Effort.of(arm.tuning, arm.by_environment, arm.overrides)
        for arm in arms
        if arm.role in TUNED_ROLES
    }
    if len(set(efforts.values())) > 1 and not unequal:
        raise UserError(
            f"{where}: the arms were not tuned equally ({_told(efforts)}): tune them alike, or say "
            "'unequal_tuning = true' at the top, and the caption will say it too."
        )


class Effort(NamedTuple):
    """What was spent on an arm's values, nothing where there is no claim: trials, seeds of each, and whether the best
    trial was taken on each environment by itself, which chooses from more."""

    trials: int = 0
    seeds: int = 0
    apart: bool = False

    @classmethod
    def of(cls, claim: Tuning | None, by_environment: Any, overrides: Any) -> Effort:
        """Of an arm with these values: a choice that is the same everywhere stands in `overrides`."""
        if claim is None:
            return cls()
        return cls(claim.trials, len(claim.seeds), bool(by_environment) and not overrides)

    def __str__(self) -> str:
        words = f"{self.trials} trials x {self.seeds} seeds" if self.trials else "none"
        return words + (" and the best on each environment" if self.apart else "")


def _told(efforts: Mapping[str, Effort]) -> str:
    return ", ".join(f"{name}: {spent}" for name, spent in efforts.items())


def _counted(trials: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count} trials" for name, count in trials.items())


def span(seeds: Sequence[int]) -> str:
    """Seeds in words: `1000 to 1002` where they follow each other."""
    low, high = min(seeds), max(seeds)
    if len(seeds) == high - low + 1:
        return f"{low}" if low == high else f"{low} to {high}"
    return ", ".join(map(str, seeds))


def values_text(values: Mapping[str, float]) -> str:
    """Settings in words: `learning_rate 0.001, tau 0.02`."""
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def sentences(suite: Mapping[str, Any]) -> list[str]:
    """What a caption says of tuning and of arms' own values, often nothing; `suite` as in `configuration.json`."""
    arms, lines = suite["arms"], []
    efforts = {
        arm["name"]: Effort.of(
            Tuning(**arm["tuning"]) if arm.get("tuning") else None,
            arm.get("by_environment"),
            arm.get("overrides"),
        )
        for arm in arms
        if arm["role"] in TUNED_ROLES
    }
    different = set(efforts.values())
    if len(different) > 1:
        lines.append(f"UNEQUAL TUNING: {_told(efforts)}.")
    elif different - {Effort()}:
        spent = different.pop()
        best = ", the best taken on each environment" if spent.apart else ""
        lines.append(
            f"Every method and dense were tuned alike: {spent.trials} trials x {spent.seeds} seeds each{best}."
        )
    tuned = [arm for arm in arms if arm.get("tuning")]
    if tuned:
        lines.append(
            "Trials were judged on the episodes on which all runs are evaluated (with other training seeds), so their "
            "luck may be in the choice."
        )
    lengths = {arm["name"]: arm["tuning"].get("at_steps") for arm in tuned}
    apart = {name: steps for name, steps in lengths.items() if steps not in (None, suite["steps"])}
    if apart:
        told = ", ".join(f"{name} {steps:,}" for name, steps in apart.items())
        lines.append(f"TUNED AT ANOTHER LENGTH than the {suite['steps']:,} steps of these runs: {told}.")
    own = [f"{arm['name']}: {values_text(arm['overrides'])}" for arm in arms if arm.get("overrides")]
    own += [
        f"{arm['name']} on {env}: {values_text(values)}"
        for arm in arms
        for env, values in arm.get("by_environment", {}).items()
    ]
    if own:
        lines.append(f"Arms with values of their own: {'; '.join(own)}.")
    return lines
