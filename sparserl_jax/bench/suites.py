"""Suites: a comparison written down as one TOML file, read strictly.

A suite says what is compared (arms: a recipe, its knobs, its seeds), on what (environments with frozen reference
returns) and under which budget. Everything a run needs is resolved here; an unknown key, a wrong type or a value out
of range is refused with one sentence before anything is compiled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparserl_jax.agents.agent import unspoken
from sparserl_jax.agents.registry import algorithm
from sparserl_jax.bench import budgets, tickets
from sparserl_jax.bench import tuning as tunings
from sparserl_jax.bench.algorithms import own_agent
from sparserl_jax.bench.ranges import (
    MOST_SEEDS,
    check_knob,
    check_levels,
    check_own_sparsities,
    check_ranges,
    check_reference,
    check_seeds,
    check_unique,
    refuse_replay,
    require,
)
from sparserl_jax.bench.strict import content, from_table
from sparserl_jax.errors import UserError, located, suggest
from sparserl_jax.references import plain_name
from sparserl_jax.sparsity import method as find_method
from sparserl_jax.training.config import AgentConfig, Evaluation, Run, Schedule, Start, Training
from sparserl_jax.training.datasets import Logged
from sparserl_jax.training.given import Ticket
from sparserl_jax.training.recipe import Recipe, fixed_sparsity, recipe

# Never in a file or a hash: Python objects, datasets and weights to start from (their digests stay), the place of the
# file, and [tune], which decides no number of a run.
_OBJECTS = ("object", "env_object", "logged", "folder", "arrays", "tune")
# Left out where not given, so that hashes stay what they were.
_LATER: tuple[str, ...] = (
    "overrides",
    "tuning",
    "unequal_tuning",
    "search",
    "start",
    "budget",
    "matmul_precision",
)
_LATER += ("ticket", "clone", "masks", "expert", "width", "dataset", "sampled", "agent", "grids", "known")
_LATER += ("by_environment", "environments", "at_steps")
_LATER_OF_TASKS = ("sparsity", "critic_sparsity")
UNWRITTEN = ("object", "logged")
"""Fields of `Task` that no file has."""
ROLES = ("method", "dense", "aa", "placebo")


@dataclasses.dataclass(frozen=True)
class Task:
    """One environment of a suite, with the frozen ends of its normalised score z = (x - random)/(reference - random).

    `learned` is the return the dense arm must reach before any verdict is given; a run that ends below `failed`
    (default: half way between `random` and `learned`) counts as failed. All in units of undiscounted return.
    `episodes` and `final_episodes` replace the suite's own numbers where episodes are long or hardly differ.
    `sparsity` (of the actor) and `critic_sparsity` (default: the same) are the knobs of all arms that have none of
    their own; either every environment of a suite has them, or none. `dataset`: what is learned from there in place of
    its steps, see `training/datasets.py`; `logged`: what the plan has read where it is a file. `known`: returns of
    policies that nobody learned, by name, which the table sets beside the rows. `object` holds an environment passed
    from Python instead of a name. It and `logged` never enter a file or a hash.
    """

    name: str
    random: float | None = None
    reference: float | None = None
    learned: float | None = None
    failed: float | None = None
    episodes: int | None = None
    final_episodes: int | None = None
    sparsity: float | None = None
    critic_sparsity: float | None = None
    dataset: str | None = None
    known: Any = None
    logged: Logged | None = dataclasses.field(default=None, compare=False, repr=False)
    object: Any = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row family of the table: a recipe at one or more knobs, with its seeds.

    `role` tells the table what the arm is for: `dense` (the arm others are compared with), `aa` (the same with other
    seeds: shows what chance alone does), `placebo` (must lose, or the task tells nothing), `method`. `sparsities`:
    of the actor; empty where the arm is trained at each environment's own. `overrides`: its own values of traced
    settings, `by_environment`: those of single environments; `tuning`: what they cost to find. `ticket`, `clone`: what
    its runs take from those of another arm, see `bench/tickets.py`. `width`: factor on the widths of the hidden layers
    of all its networks; None: 1. `agent`: an algorithm of its own; None: the suite's.
    """

    recipe: Recipe
    name: str
    role: str
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]
    critic_sparsities: tuple[float | None, ...] = ()
    overrides: tunings.Overrides = ()
    tuning: tunings.Tuning | None = None
    ticket: Ticket | None = None
    clone: str | None = None
    width: int | None = None
    agent: AgentConfig | None = None
    by_environment: tunings.ByEnvironment = ()

    def values(self, task: Task) -> tunings.Overrides:
        """Its own values of traced settings on one environment."""
        return tuple(
            sorted({**dict(self.overrides), **dict(dict(self.by_environment).get(task.name, ()))}.items())
        )

    def knobs(self, task: Task) -> tuple[tuple[float, float | None], ...]:
        """(sparsity of the actor, the critic's own or None where they are equal) of its runs on one environment."""
        if self.sparsities:
            return tuple((knob, self.critic_sparsity(knob)) for knob in self.sparsities)
        assert task.sparsity is not None, "parse gives every environment a sparsity, or every arm"
        return ((task.sparsity, task.critic_sparsity),)

    def critic_sparsity(self, knob: float) -> float | None:
        """The critic's own sparsity beside the actor's `knob`; None where they are equal."""
        return self.critic_sparsities[self.sparsities.index(knob)] if self.critic_sparsities else None


@dataclasses.dataclass(frozen=True)
class Suite:
    """A resolved comparison. `result = False` marks suites whose numbers may never be published.

    `folder`: where relative paths of its file begin. `tune`: the grid that `sparserl tune` searches. `unequal_tuning`:
    the suite admits that its arms were not tuned equally. `search`: set in the suites that `sparserl tune` makes of
    others. `budget`: what its length is called in a file that has several, see `bench/budgets.py`.
    """

    name: str
    title: str
    result: bool
    agent: AgentConfig
    steps: int
    warm_up: int
    num_envs: int
    schedule: Schedule
    evaluation: Evaluation
    dispatch: int | None
    tasks: tuple[Task, ...]
    arms: tuple[Arm, ...]
    start: Start | None = None
    tune: tunings.Tune | None = None
    unequal_tuning: bool = False
    search: tunings.Search | None = None
    budget: str | None = None
    matmul_precision: str | None = None
    folder: Path = dataclasses.field(default=Path(), compare=False, repr=False)

    def training(self, task: Task) -> Training:
        """The training configuration of one environment, shared by all arms."""
        return Training(
            env=task.name,
            env_object=task.object,
            agent=self.agent,
            steps=self.steps,
            warm_up=self.warm_up,
            num_envs=self.num_envs,
            schedule=self.schedule,
            evaluation=self.evaluation_of(task),
            dispatch=self.dispatch,
            start=self.start,
            matmul_precision=self.matmul_precision,
            dataset=task.dataset,
            logged=task.logged,
        )

    def evaluation_of(self, task: Task) -> Evaluation:
        """How runs on one environment are evaluated: the suite's evaluation with the environment's own episodes."""
        return dataclasses.replace(
            self.evaluation,
            episodes=self.evaluation.episodes if task.episodes is None else task.episodes,
            final_episodes=self.evaluation.final_episodes
            if task.final_episodes is None
            else task.final_episodes,
        )

    def runs(self) -> list[tuple[Task, Arm, Run]]:
        """Every run: environment by environment, arm by arm, knob by knob, seed by seed."""
        return [
            (task, arm, self._run(task, arm, (knob, critic), seed, training))
            for task, training in ((task, self.training(task)) for task in self.tasks)
            for arm in self.arms
            for knob, critic in arm.knobs(task)
            for seed in arm.seeds
        ]

    def _run(
        self, task: Task, arm: Arm, knobs: tuple[float, float | None], seed: int, training: Training
    ) -> Run:
        if arm.agent is not None:
            training = dataclasses.replace(training, agent=arm.agent)
        if arm.width is not None:
            wide = tuple(arm.width * units for units in training.agent.hidden)
            training = dataclasses.replace(training, agent=dataclasses.replace(training.agent, hidden=wide))
        taken = tickets.sources(self.arms, arm, task, training, knobs, seed)
        training = training if arm.clone is None else tickets.cloning(training)
        own = (training, arm.recipe, knobs[0], seed, arm.name, knobs[1], arm.values(task))
        return Run(*own, width=arm.width, **taken)

    @property
    def points(self) -> int:
        """Evaluations during training."""
        return self.steps // self.evaluation.interval

    def plain(self) -> dict[str, Any]:
        """The suite as JSON-able values, in a fixed order."""
        return plain(self)

    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of everything but the title."""
        content = {key: value for key, value in self.plain().items() if key != "title"}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as dicts, lists and scalars.

    Left out: environment objects, weights to start from (their hash stays) and the word that there are none, and what
    a recipe says about itself in words, which decides no number.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hidden = (*_OBJECTS, "summary") if isinstance(value, Recipe) else _OBJECTS
        left_out = {*hidden, *unspoken(value)}
        names = [field.name for field in dataclasses.fields(value) if field.name not in left_out]
        found = {name: getattr(value, name) for name in names}
        if found.get("overrides"):
            found["overrides"] = dict(found["overrides"])
        if isinstance(value, Arm):
            found["by_environment"] = {env: dict(own) for env, own in value.by_environment}
        if isinstance(value, Task):
            found = {k: v for k, v in found.items() if v is not None or k not in _LATER_OF_TASKS}
        return {name: plain(entry) for name, entry in found.items() if entry or name not in _LATER}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


@dataclasses.dataclass(frozen=True)
class _ArmTable:
    """An arm as written in the file."""

    recipe: str
    name: str | None = None
    role: str | None = None
    sparsities: tuple[float, ...] | None = None
    critic_sparsities: tuple[float, ...] | None = None
    seeds: int | None = None
    seeds_from: int | None = None
    clone: str | None = None
    width: int | None = None


@dataclasses.dataclass(frozen=True)
class _SuiteTable:
    """The top level of the file, without its tables."""

    name: str
    steps: int
    warm_up: int
    seeds: int
    dispatch: int | None = None
    sparsities: tuple[float, ...] = ()
    seeds_from: int = 0
    num_envs: int = 1
    title: str = ""
    result: bool = True
    unequal_tuning: bool = False
    budget: str | None = None
    matmul_precision: str | None = None


def _arm(table: Any, number: int, top: _SuiteTable, tasks: list[Task], agent: AgentConfig, where: str) -> Arm:
    """The `[[arms]]` block of a number from 1."""
    require(isinstance(table, Mapping), where, f"arm {number} is a table with a recipe, not {table!r}.")
    table = dict(table)
    called = table.get("name", table.get("recipe", number))
    here = f"{where}, arm {called!r}"
    changes, values, wanted = table.pop("set", {}), table.pop("overrides", {}), table.pop("agent", None)
    there = table.pop("by_environment", {})
    ticket = tickets.parse(table.pop("ticket", None), here)
    written = from_table(_ArmTable, table, here)
    with located(here):
        chosen = recipe(written.recipe)
    name = written.name or chosen.name
    if changes:
        if not isinstance(changes, Mapping):
            raise UserError(f"{here}: 'set' must be a table of recipe fields, not {changes!r}.")
        # Under the recipe's own name, the table would say that it is still the recipe.
        named = written.name is not None or "method" not in changes
        require(named, here, f"'set' gives recipe '{name}' another method; give the arm a 'name' of its own.")
        kept = fixed_sparsity(chosen, changes.get("method"))
        chosen = from_table(
            Recipe, {**vars(chosen), "name": name, "sparsity": kept, **changes}, f"{here}, set"
        )
    require(plain_name(name), where, f"arm name '{name}' may hold letters a to z, digits and _ only.")
    fixed = () if chosen.sparsity is None else (chosen.sparsity,)
    require(
        written.sparsities is not None or bool(fixed) or not find_method(chosen.method).coefficient,
        where,
        f"method '{chosen.method}' of arm '{name}' is swept by a coefficient, not by a sparsity: give the arm its own, "
        "such as sparsities = [1.0, 10.0, 100.0].",
    )
    require(
        not fixed or written.sparsities in (None, fixed),
        where,
        f"arm '{name}' has sparsities = {list(written.sparsities or ())}, but recipe '{chosen.name}' is always trained "
        f"at {chosen.sparsity}; drop 'sparsities', or choose another recipe or method.",
    )
    knobs = written.sparsities if written.sparsities is not None else fixed or top.sparsities
    require(
        len(knobs) > 0 or (tasks[0].sparsity is not None and written.sparsities is None),
        where,
        f"arm '{name}' has no sparsity; give 'sparsities' here or at the top of the suite.",
    )
    require(len(set(knobs)) == len(knobs), where, f"arm '{name}' lists a sparsity twice.")
    critic = written.critic_sparsities or ()
    require(
        len(critic) in (0, len(knobs)),
        where,
        f"arm '{name}': critic_sparsities must be as long as sparsities.",
    )
    for knob in (*knobs, *critic):
        check_knob(knob, here, find_method(chosen.method).coefficient)
    count = top.seeds if written.seeds is None else written.seeds
    first = top.seeds_from if written.seeds_from is None else written.seeds_from
    require(count > 0 and first >= 0, where, f"arm '{name}' needs at least one seed, counted from 0 or more.")
    require(count <= MOST_SEEDS, where, f"arm '{name}' has {count} seeds; give at most {MOST_SEEDS}.")
    default_role = {"dense": "dense", "placebo": "placebo"}.get(name, "method")
    role = written.role or default_role
    if role not in ROLES:
        raise suggest(role, list(ROLES), f"role in {here}")
    other = None if wanted is None else own_agent(wanted, agent, f"{here}, agent")
    require(
        other is None or (role not in ("dense", "aa") and ticket is None and written.clone is None),
        where,
        f"arm '{name}' has an algorithm of its own, which the arm that all others are compared with, its A/A, tickets "
        "and clones cannot have; drop 'agent'.",
    )
    trained = agent if other is None else other
    overrides = tunings.overrides_of(values, trained, f"{here}, overrides")
    names = [task.name for task in tasks]
    single = tunings.by_environment_of(there, trained, names, f"{here}, by_environment")
    seeds, width = tuple(range(first, first + count)), written.width
    require(
        width is None or (width >= 2 and role not in ("dense", "aa")),
        where,
        f"arm '{name}' has width = {width}, but a width is a whole number from 2 on, and 1 for the arm that all others "
        "are compared with and its A/A; leave it out.",
    )
    own = (ticket, written.clone, width, other, single)
    return Arm(chosen, name, role, knobs, seeds, critic, overrides, None, *own)


def parse(table: Mapping[str, Any], where: str, budget: str | None = None) -> Suite:
    """A suite from the content of its file, at one of its budgets; `where` names the file in messages."""
    table = budgets.chosen(table, budget, where)
    wanted = table.pop("agent", {})
    named = wanted.get("name", "td3") if isinstance(wanted, Mapping) else "td3"
    with located(f"{where} [agent]"):
        config = algorithm(str(named)).config
    agent: AgentConfig = from_table(config, wanted, f"{where} [agent]")
    timing = table.pop("schedule", None)
    evaluation = from_table(Evaluation, table.pop("evaluation", {}), f"{where} [evaluation]")
    environments, arms = table.pop("environments", []), table.pop("arms", [])
    tune, tuned = table.pop("tune", None), table.pop("tuned", {})
    known = [f.name for f in dataclasses.fields(_SuiteTable)]
    for key in table:
        if key not in known:
            tables = ["agent", "schedule", "evaluation", "environments", "arms", "tune", "tuned"]
            raise suggest(key, [*known, *tables], f"key in {where}")
    top = from_table(_SuiteTable, table, where)
    require(
        plain_name(top.name), where, f"suite name '{top.name}' may hold letters a to z, digits and _ only."
    )
    for key, value in (("environments", environments), ("arms", arms)):
        good = isinstance(value, list) and len(value) > 0
        require(good, where, f"the suite needs at least one [[{key}]] block.")
    tasks = [from_table(Task, entry, f"{where} [[environments]]", skip=UNWRITTEN) for entry in environments]
    check_levels(tasks, where)
    check_own_sparsities(tasks, top.sparsities, where)
    blocks = enumerate(arms, 1)
    resolved = [_arm(entry, number, top, tasks, agent, f"{where} [[arms]]") for number, entry in blocks]
    check_unique([task.name for task in tasks], "environment", where)
    check_unique([arm.name for arm in resolved], "arm", where)
    if timing is None:
        unit = top.dispatch or math.lcm(max(top.num_envs, 1), max(agent.policy_delay, 1))
        common = top.dispatch or math.gcd(top.steps, top.warm_up, evaluation.interval)
        dynamic = any(arm.recipe.buffer == "dynamic" for arm in resolved)
        schedule = Schedule.scaled(top.steps, agent, unit, common, dynamic)
    else:
        given = {**agent.SCHEDULE, **timing} if isinstance(timing, Mapping) else timing
        refuse_replay(agent, given, f"{where} [schedule]")
        schedule = from_table(Schedule, given, f"{where} [schedule]")
    resolved = tunings.apply(resolved, tuned, agent, [task.name for task in tasks], where)
    check_reference(resolved, where)
    check_seeds(resolved, tasks, where)
    tickets.check(resolved, tasks, agent.name, where)
    tunings.check_equal(resolved, top.unequal_tuning, where)
    suite = Suite(
        name=top.name,
        title=top.title or top.name,
        result=top.result,
        agent=agent,
        steps=top.steps,
        warm_up=top.warm_up,
        num_envs=top.num_envs,
        schedule=schedule,
        evaluation=evaluation,
        dispatch=top.dispatch,
        tasks=tuple(tasks),
        arms=tuple(resolved),
        tune=None if tune is None else tunings.parse(tune, resolved, agent, where),
        unequal_tuning=top.unequal_tuning,
        budget=top.budget,
        matmul_precision=top.matmul_precision,
    )
    check_ranges(suite, where)
    if suite.tune is not None:
        tickets.refuse_tuned(suite.arms, suite.tune.arms, where)
    return suite


def read(path: Path, budget: str | None = None) -> Suite:
    """The suite in a TOML file, at one of its budgets."""
    return dataclasses.replace(parse(content(path), path.name, budget), folder=path.parent)
