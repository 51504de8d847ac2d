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
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparserl_jax.agents.registry import algorithm
from sparserl_jax.bench import tuning as tunings
from sparserl_jax.bench.strict import from_table
from sparserl_jax.errors import UserError, located, suggest
from sparserl_jax.training.config import AgentConfig, Evaluation, Run, Schedule, Start, Training
from sparserl_jax.training.recipe import Recipe, recipe

# Never in a file or a hash: Python objects, weights to start from (their hash stays), and [tune], which decides no
# number of a run.
_OBJECTS = ("object", "env_object", "arrays", "tune")
# Left out where not given, so that hashes stay what they were.
_LATER = ("overrides", "tuning", "unequal_tuning", "search", "start")
ROLES = ("method", "dense", "aa", "placebo")


@dataclasses.dataclass(frozen=True)
class Task:
    """One environment of a suite, with the frozen ends of its normalised score z = (x - random)/(reference - random).

    `learned` is the return the dense arm must reach before any verdict is given; a run that ends below `failed`
    (default: half way between `random` and `learned`) counts as failed. All in units of undiscounted return.
    `episodes` and `final_episodes` replace the suite's own numbers where episodes are long or hardly differ.
    `object` holds an environment passed from Python instead of a name; it never enters a file or a hash.
    """

    name: str
    random: float | None = None
    reference: float | None = None
    learned: float | None = None
    failed: float | None = None
    episodes: int | None = None
    final_episodes: int | None = None
    object: Any = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row family of the table: a recipe at one or more knobs, with its seeds.

    `role` tells the table what the arm is for: `dense` (the arm others are compared with), `aa` (the same with other
    seeds: shows what chance alone does), `placebo` (must lose, or the task tells nothing), `method`. `overrides`: its
    own values of traced settings; `tuning`: what they cost to find.
    """

    recipe: Recipe
    name: str
    role: str
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]
    critic_sparsities: tuple[float | None, ...] = ()
    overrides: tunings.Overrides = ()
    tuning: tunings.Tuning | None = None

    def run(self, training: Training, knob: float, seed: int) -> Run:
        """One seed of the arm at one knob."""
        critic = self.critic_sparsity(knob)
        return Run(training, self.recipe, knob, seed, self.name, critic, self.overrides)

    def critic_sparsity(self, knob: float) -> float | None:
        """The critic's own sparsity beside the actor's `knob`; None where they are equal."""
        return self.critic_sparsities[self.sparsities.index(knob)] if self.critic_sparsities else None


@dataclasses.dataclass(frozen=True)
class Suite:
    """A resolved comparison. `result = False` marks suites whose numbers may never be published.

    `tune`: the grid that `sparserl tune` searches. `unequal_tuning`: the suite admits that its arms were not tuned
    equally. `search`: set in the suites that `sparserl tune` makes of others.
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
            (task, arm, arm.run(training, knob, seed))
            for task, training in ((task, self.training(task)) for task in self.tasks)
            for arm in self.arms
            for knob in arm.sparsities
            for seed in arm.seeds
        ]

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
        names = [field.name for field in dataclasses.fields(value) if field.name not in hidden]
        found = {name: getattr(value, name) for name in names}
        if found.get("overrides"):
            found["overrides"] = dict(found["overrides"])
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


def _require(good: bool, where: str, sentence: str) -> None:
    if not good:
        raise UserError(f"{where}: {sentence}")


def check_knob(knob: float, where: str) -> None:
    """Refuse a sparsity outside [0, 1)."""
    _require(
        0.0 <= knob < 1.0,
        where,
        f"sparsity {knob:g} is outside [0, 1); it is the fraction of weights removed.",
    )


def check_ranges(suite: Suite, where: str) -> None:
    """Refuse numbers that no training could use."""
    agent, evaluation, schedule = suite.agent, suite.evaluation, suite.schedule
    positive = {
        "steps": suite.steps,
        "warm_up": suite.warm_up,
        "num_envs": suite.num_envs,
        "dispatch": 1 if suite.dispatch is None else suite.dispatch,
        "agent.batch_size": agent.batch_size,
        "agent.learning_rate": agent.learning_rate,
        "agent.policy_delay": agent.policy_delay,
        "evaluation.interval": evaluation.interval,
        "evaluation.episodes": evaluation.episodes,
        "evaluation.final_episodes": evaluation.final_episodes,
        "schedule.topology_interval": schedule.topology_interval,
        "schedule.delay": schedule.delay,
        "schedule.buffer_max": schedule.buffer_max,
        "schedule.buffer_check": schedule.buffer_check,
    }
    for key, value in positive.items():
        _require(value > 0, where, f"'{key}' must be positive, not {value}.")
    for task in suite.tasks:
        for key in ("episodes", "final_episodes"):
            own = getattr(suite.evaluation_of(task), key)
            _require(own > 0, where, f"'{key}' of environment '{task.name}' must be positive, not {own}.")
    _require(len(agent.hidden) > 0 and min(agent.hidden) > 0, where, "'agent.hidden' needs positive widths.")
    _require(0.0 < agent.gamma <= 1.0, where, f"'agent.gamma' must be in (0, 1], not {agent.gamma:g}.")
    _require(0.0 < agent.tau <= 1.0, where, f"'agent.tau' must be in (0, 1], not {agent.tau:g}.")
    drop = schedule.drop_fraction
    _require(0.0 <= drop <= 1.0, where, f"'schedule.drop_fraction' {drop:g} is outside [0, 1].")
    _require(
        suite.warm_up < suite.steps,
        where,
        f"warm_up {suite.warm_up} leaves nothing of {suite.steps} steps; lower it.",
    )
    batch = agent.batch_size
    _require(
        suite.warm_up >= batch, where, f"warm_up {suite.warm_up} is less than one batch ({batch}); raise it."
    )
    _require(
        0 <= schedule.buffer_min <= schedule.buffer_max,
        where,
        f"'schedule.buffer_min' {schedule.buffer_min} must lie between 0 and buffer_max ({schedule.buffer_max}).",
    )


def _arm(table: Mapping[str, Any], top: _SuiteTable, agent: AgentConfig, where: str) -> Arm:
    table = dict(table)
    changes, own = table.pop("set", {}), table.pop("overrides", {})
    written = from_table(_ArmTable, table, where)
    with located(where):
        chosen = recipe(written.recipe)
    name = written.name or chosen.name
    if changes:
        if not isinstance(changes, Mapping):
            raise UserError(f"{where}: 'set' must be a table of recipe fields, not {changes!r}.")
        # Under the recipe's own name, the table would say that it is still the recipe.
        named = written.name is not None or "method" not in changes
        _require(
            named, where, f"'set' gives recipe '{name}' another method; give the arm a 'name' of its own."
        )
        chosen = from_table(Recipe, {**vars(chosen), "name": name, **changes}, f"{where}.set")
    _require(
        name.replace("_", "").isalnum(), where, f"arm name '{name}' may hold letters, digits and _ only."
    )
    fixed = () if chosen.sparsity is None else (chosen.sparsity,)
    knobs = written.sparsities if written.sparsities is not None else fixed or top.sparsities
    _require(
        len(knobs) > 0,
        where,
        f"arm '{name}' has no sparsity; give 'sparsities' here or at the top of the suite.",
    )
    _require(len(set(knobs)) == len(knobs), where, f"arm '{name}' lists a sparsity twice.")
    critic = written.critic_sparsities or ()
    _require(
        len(critic) in (0, len(knobs)),
        where,
        f"arm '{name}': critic_sparsities must be as long as sparsities.",
    )
    for knob in (*knobs, *critic):
        check_knob(knob, where)
    count = top.seeds if written.seeds is None else written.seeds
    first = top.seeds_from if written.seeds_from is None else written.seeds_from
    _require(
        count > 0 and first >= 0, where, f"arm '{name}' needs at least one seed, counted from 0 or more."
    )
    default_role = {"dense": "dense", "placebo": "placebo"}.get(name, "method")
    role = written.role or default_role
    if role not in ROLES:
        raise suggest(role, list(ROLES), f"role in {where}")
    values = tunings.overrides_of(own, agent, f"{where}.overrides")
    return Arm(chosen, name, role, knobs, tuple(range(first, first + count)), critic, values)


def _unique(names: list[str], what: str, where: str) -> None:
    for name in names:
        _require(
            names.count(name) == 1, where, f"{what} '{name}' appears twice; give one of them another name."
        )


def parse(table: Mapping[str, Any], where: str) -> Suite:
    """A suite from the content of its file; `where` names the file in messages."""
    table = dict(table)
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
    if timing is None:
        grid = top.dispatch or math.lcm(max(top.num_envs, 1), max(agent.policy_delay, 1))
        schedule = Schedule.scaled(top.steps, grid)
    else:
        schedule = from_table(Schedule, timing, f"{where} [schedule]")
    plain_name = top.name.replace("_", "").isalnum()
    _require(plain_name, where, f"suite name '{top.name}' may hold letters, digits and _ only.")
    for key, value in (("environments", environments), ("arms", arms)):
        good = isinstance(value, list) and len(value) > 0
        _require(good, where, f"the suite needs at least one [[{key}]] block.")
    tasks = [from_table(Task, entry, f"{where} [[environments]]", skip=("object",)) for entry in environments]
    for task in tasks:
        levels = (task.random, task.reference, task.learned)
        _require(
            all(v is None for v in levels) or all(v is not None for v in levels),
            where,
            f"environment '{task.name}' needs random, reference and learned together, or none of them.",
        )
        if task.random is not None and task.reference is not None:
            _require(task.reference > task.random, where, f"'{task.name}': reference must exceed random.")
    resolved = [_arm(entry, top, agent, f"{where} [[arms]]") for entry in arms]
    _unique([task.name for task in tasks], "environment", where)
    _unique([arm.name for arm in resolved], "arm", where)
    dense = [arm for arm in resolved if arm.role == "dense"]
    _require(len(dense) <= 1, where, "only one arm may have the role 'dense'.")
    resolved = tunings.apply(resolved, tuned, agent, where)
    _check_seeds(resolved, where)
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
    )
    check_ranges(suite, where)
    return suite


def _check_seeds(arms: list[Arm], where: str) -> None:
    """Two arms with the same recipe, knob and seed would be one run counted twice: the A/A row must use other seeds."""
    seen: dict[tuple[Any, ...], str] = {}
    for arm in arms:
        # The key of a run folds in the recipe, not the arm's name.
        for knob in arm.sparsities:
            own = arm.critic_sparsity(knob)
            critic = knob if own is None else own
            for seed in arm.seeds:
                other = seen.setdefault((arm.recipe, arm.overrides, knob, critic, seed), arm.name)
                _require(
                    other == arm.name,
                    where,
                    f"arms '{other}' and '{arm.name}' are the same runs (seed {seed}); give one of them 'seeds_from'.",
                )


def read(path: Path) -> Suite:
    """The suite in a TOML file."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read the suite file '{path.name}': {error.strerror}; check the path."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} is not valid TOML ({error}); mend that line.") from None
    return parse(table, path.name)
