"""What a Run is: plain frozen dataclasses, all of which can be written as JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from sparserl_jax.agents.agent import refuse_idle
from sparserl_jax.agents.awac import AWACConfig
from sparserl_jax.agents.bc import BCConfig
from sparserl_jax.agents.behaviour_cloning import BehaviourCloningConfig
from sparserl_jax.agents.ddpg import DDPGConfig
from sparserl_jax.agents.dqn import DQNConfig
from sparserl_jax.agents.fttpo import FtTPOConfig
from sparserl_jax.agents.inac import InACConfig
from sparserl_jax.agents.iql import IQLConfig
from sparserl_jax.agents.ppo import PPOConfig
from sparserl_jax.agents.sac import SACConfig
from sparserl_jax.agents.sql import SQLConfig
from sparserl_jax.agents.tawac import TAWACConfig
from sparserl_jax.agents.td3 import TD3Config
from sparserl_jax.agents.td3_bc import TD3BCConfig
from sparserl_jax.agents.xql import XQLConfig
from sparserl_jax.errors import UserError, located, suggest
from sparserl_jax.sparsity import method
from sparserl_jax.training import datasets, precision
from sparserl_jax.training.given import Source, Ticket
from sparserl_jax.training.idle import refuse_idle_parts
from sparserl_jax.training.iterations import check_iterations, grid_of, updates_of
from sparserl_jax.training.recipe import Recipe
from sparserl_jax.training.schedule import Schedule

OfflineConfig = (
    IQLConfig
    | AWACConfig
    | TAWACConfig
    | InACConfig
    | SQLConfig
    | XQLConfig
    | FtTPOConfig
    | TD3BCConfig
    | BCConfig
)
"""Those of the algorithms that learn from a dataset."""
AgentConfig = TD3Config | SACConfig | DDPGConfig | DQNConfig | PPOConfig | OfflineConfig
"""Configurations of the algorithms that a suite may choose."""
AnyConfig = AgentConfig | BehaviourCloningConfig
"""Those that a run may have."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluation: every `interval` environment steps `episodes` episodes; `final_episodes` at the end. `sampled`:
    actions are drawn from the policy; otherwise they are its deterministic ones."""

    interval: int
    episodes: int = 10
    final_episodes: int = 100
    sampled: bool = False


@dataclasses.dataclass(frozen=True)
class Start:
    """Trained networks that runs begin from instead of fresh ones.

    source: the run or file they come from, in words. env, agent: what that run trained. sha256: of the files they were
    read from. networks: which of the agent's networks are given; the others start fresh. arrays: by network, the pair
    (params, masks) of NumPy trees; what they hold is in `sha256`.
    """

    source: str
    env: str
    agent: str
    sha256: str
    networks: tuple[str, ...]
    arrays: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Training:
    """Everything the Runs of one arm share. `steps` and `warm_up` are environment steps of one member, warm-up
    (random actions, no updates) included in `steps`; `num_envs` (E) environments run in parallel per member, and one
    gradient update is made per environment step. An algorithm that learns from rollouts of its own has no warm-up, and
    `agent` says how many updates come of an iteration. `env_object` stands for `env` when the user passed an object.
    With `start`, all members begin from the networks of a finished run, which then also acts in the warm-up.
    `matmul_precision`: see precision.py, also where it is None. `dataset`: what it learns from instead of
    its own steps, see datasets.py; `steps` and all other steps are then gradient updates. `logged`: what was read from
    the file that it names, if it names one.
    """

    env: str
    agent: AnyConfig
    steps: int
    warm_up: int
    schedule: Schedule
    evaluation: Evaluation
    num_envs: int = 1
    dispatch: int | None = None
    env_object: Any = dataclasses.field(default=None, compare=False, repr=False)
    start: Start | None = None
    matmul_precision: str | None = None
    dataset: str | None = None
    logged: datasets.Logged | None = None

    @property
    def best(self) -> float:
        """Share of the episodes of its dataset that it learns from, the best by return; 1 for most algorithms."""
        return getattr(self.agent, "best", 1.0)

    @property
    def replayed(self) -> bool:
        """Whether it learns from a replay that its steps fill, neither from rollouts nor from a dataset."""
        return self.iteration is None and self.dataset is None

    @property
    def iteration(self) -> int | None:
        """Environment steps of one iteration of an algorithm that learns from its own rollouts; None for others."""
        return self.grid if self.agent.experience == "rollout" else None

    @property
    def hindsight(self) -> bool:
        """Whether what is drawn from the replay is relabelled with goals that were reached later."""
        return isinstance(self.agent, DDPGConfig) and self.agent.replay == "hindsight"

    @property
    def trained_steps(self) -> int:
        """Environment steps behind the warm-up."""
        return self.steps - self.warm_up

    @property
    def grid(self) -> int:
        """Environment steps that all periods are multiples of."""
        return grid_of(self.agent, self.num_envs)[0]

    def updates_at(self, step: int) -> int:
        """Gradient updates made until environment step `step`."""
        return updates_of(self.agent, max(0, step - self.warm_up))

    @property
    def updates(self) -> int:
        """Gradient updates of a whole run."""
        return self.updates_at(self.steps)

    @property
    def buffer_oldest(self) -> int:
        """Transitions at the old end of the replay by which the dynamic rule measures policy distance."""
        oldest = self.schedule.buffer_oldest
        return 8 * self.agent.batch_size if oldest is None else oldest

    @property
    def dispatch_steps(self) -> int:
        """Environment steps of one jitted call: the declared number, or the largest common divisor of the periods."""
        common = math.gcd(*self._periods().values())
        if self.dispatch is None:
            return common
        grid, named = grid_of(self.agent, self.num_envs)
        if self.dispatch < 1 or self.dispatch % grid:
            raise UserError(
                f"dispatch = {self.dispatch} is not a positive multiple of {grid} ({named}): the nearest valid value "
                f"is {max(grid, self.dispatch // grid * grid)}."
            )
        if common % self.dispatch:
            raise UserError(
                f"dispatch = {self.dispatch} does not divide the periods of the run (their greatest common divisor is "
                f"{common}): choose a divisor of {common}."
            )
        return self.dispatch

    def _periods(self) -> dict[str, int]:
        """Environment steps between things that happen, by the name of what says so."""
        named = {
            "steps": self.steps,
            "warm_up": self.warm_up,
            "evaluation.interval": self.evaluation.interval,
            "schedule.buffer_check": self.schedule.buffer_check,
        }
        of_a_replay = () if self.replayed else ("warm_up", "schedule.buffer_check")
        return {name: value for name, value in named.items() if name not in of_a_replay}

    def check(self) -> None:
        """Refuse what cannot be scheduled exactly."""
        for name, value in {
            "num_envs": self.num_envs,
            "agent.policy_delay": self.agent.policy_delay,
            "evaluation.episodes": self.evaluation.episodes,
            "evaluation.final_episodes": self.evaluation.final_episodes,
            "schedule.topology_interval": self.schedule.topology_interval,
            "schedule.buffer_oldest": self.buffer_oldest,
        }.items():
            if value < 1:
                raise UserError(f"{name} = {value} must be at least 1.")
        precision.check(self.matmul_precision, "matmul_precision")
        where = f"environment '{self.env}'"
        datasets.check(self.agent, self.dataset, self.num_envs, self.warm_up, where)
        if self.dataset is not None and self.logged is None and datasets.source(self.dataset, where) is None:
            raise UserError(f"{where}: dataset '{self.dataset}' has not been read: give 'logged', too.")
        schedule = self.schedule
        for name, allowed in self.agent.TRACED.items():
            number = getattr(self.agent, name)
            if not allowed.holds(number):
                raise UserError(f"agent.{name} = {number} must be a number {allowed}.")
        for name, number in {
            "schedule.delay": schedule.delay,
            "schedule.buffer_threshold": schedule.buffer_threshold,
            "schedule.buffer_min": schedule.buffer_min,
        }.items():
            if number < 0:
                raise UserError(f"{name} = {number} is negative: give 0 or more.")
        if self.iteration is not None:
            check_iterations(self.agent, self.num_envs, self.warm_up)
        elif self.replayed and not max(schedule.buffer_min, 8 * self.num_envs) <= schedule.buffer_max:
            raise UserError(
                f"schedule.buffer_max = {schedule.buffer_max} is less than buffer_min = {schedule.buffer_min} or than "
                f"eight steps of {self.num_envs} parallel environments: make it larger."
            )
        grid, grid_named = grid_of(self.agent, self.num_envs)
        if self.num_envs > 1 and self.num_envs % self.agent.policy_delay:
            raise UserError(
                f"num_envs = {self.num_envs} must be 1 or a multiple of policy_delay = {self.agent.policy_delay}."
            )
        for name, value in self._periods().items():
            if value <= 0 or value % grid:
                low = max(grid, value // grid * grid)
                raise UserError(
                    f"{name} = {value} is not a positive multiple of {grid} ({grid_named}): the nearest valid values "
                    f"are {low} and {low + grid}."
                )
        if self.warm_up >= self.steps:
            raise UserError(
                f"warm_up = {self.warm_up} leaves no training within steps = {self.steps}: make it smaller."
            )
        if self.steps % self.evaluation.interval:
            low = max(1, self.steps // self.evaluation.interval) * self.evaluation.interval
            raise UserError(
                f"steps = {self.steps} is not a multiple of evaluation.interval = {self.evaluation.interval}: the "
                f"nearest valid values are {low} and {low + self.evaluation.interval}."
            )
        episodes, final = self.evaluation.episodes, self.evaluation.final_episodes
        if final % episodes:
            low = max(final // episodes, 1) * episodes
            raise UserError(
                f"evaluation.final_episodes = {final} is not a multiple of evaluation.episodes = {episodes}, which the "
                f"final evaluation repeats: the nearest valid values are {low} and {low + episodes}."
            )
        if self.replayed and self.warm_up < self.num_envs * 8:
            raise UserError(
                f"warm_up = {self.warm_up} is less than eight steps of {self.num_envs} parallel environments: updates "
                "could not draw a single window; make it larger."
            )
        self.dispatch_steps  # noqa: B018 - raises where the declared dispatch does not fit


def check_override(agent: Any, name: str, value: Any, where: str) -> None:
    """Refuse a setting that members of one Program cannot differ in, and values that make no sense.

    `agent`: configuration (or its class) of the algorithm. Raises `UserError`.
    """
    alone = agent.experience != "replay"  # clones have a replay, but one that nothing may change
    timing = {k: v for k, v in Schedule.TRACED.items() if not (alone and k.startswith("buffer"))}
    known = {**agent.TRACED, **timing}
    if name not in known:
        fields = {field.name for cls in (agent, Schedule, Training) for field in dataclasses.fields(cls)}
        if name in fields:
            raise UserError(
                f"{where}: '{name}' is the same for all members of a program; those may differ in {', '.join(known)}."
            )
        raise suggest(name, list(known), f"setting in {where}")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not known[name].holds(value):
        raise UserError(f"{where}: '{name}' must be a number {known[name]}, not {value!r}.")
    refuse_idle(agent, name, where)


@dataclasses.dataclass(frozen=True)
class Run:
    """One seed of one arm at one knob. `critic_sparsity` overrides the knob for the critic.

    `overrides`: (name, value) of traced settings (`AgentConfig.TRACED`, `Schedule.TRACED`) in which this Run differs
    from its `training`; Runs with different ones share a Program.

    `width`: by how much its networks, those of `training`, are wider than its suite's; None: they are those.

    `ticket`, `clone`: what it takes from finished runs, and the arm whose policy it clones; `masks`, `expert`: the very
    runs. All runs of a Program take the same kinds of things.
    """

    training: Training
    recipe: Recipe
    sparsity: float
    seed: int
    arm: str
    critic_sparsity: float | None = None
    overrides: tuple[tuple[str, float], ...] = ()
    ticket: Ticket | None = None
    clone: str | None = None
    masks: Source | None = None
    expert: Source | None = None
    width: int | None = None

    def check(self) -> None:
        """Refuse settings that cannot be scheduled exactly, and recipes that do not suit the algorithm."""
        with located(f"arm '{self.arm}'"):
            self._check()

    def _check(self) -> None:
        training, recipe = self.effective, self.recipe
        training.check()
        if (not training.replayed or training.hindsight) and (recipe.n > 1 or recipe.buffer == "dynamic"):
            asked = "targets of several steps (n)" if recipe.n > 1 else "a dynamic buffer"
            lacks = (
                "has no replay"
                if not training.replayed
                else "relabels single steps of a replay of fixed size (hindsight)"
            )
            raise UserError(
                f"recipe '{recipe.name}' asks for {asked}, and agent '{training.agent.name}' {lacks}: give "
                "it n = 1 and a fixed buffer, or choose another recipe, such as 'rigl'."
            )
        if training.replayed and recipe.n * training.num_envs > min(
            training.warm_up, training.schedule.buffer_max
        ):
            raise UserError(
                f"recipe '{recipe.name}': windows of n = {recipe.n} steps are longer than the warm-up or the buffer; "
                "make n smaller."
            )
        refuse_idle_parts(training, recipe)

    @property
    def effective(self) -> Training:
        """The training settings with this Run's own values in them.

        Raises:
            UserError: an override that is not a traced setting, or out of range.
        """
        training, values = self.training, dict[str, Any](self.overrides)
        for name, value in values.items():
            check_override(training.agent, name, value, "overrides")
        if not values:
            return training
        timing = {name: values.pop(name) for name in Schedule.TRACED if name in values}
        if "buffer_max" in timing:
            timing["buffer_max"], room = int(timing["buffer_max"]), training.schedule.buffer_max
            if timing["buffer_max"] > room:
                raise UserError(
                    f"buffer_max = {timing['buffer_max']} is more than the suite's ({room}), for "
                    "which the replay has room: raise that one."
                )
        return dataclasses.replace(
            training,
            agent=dataclasses.replace(training.agent, **values),
            schedule=dataclasses.replace(training.schedule, **timing),
        )

    @property
    def knobs(self) -> dict[str, float]:
        """Sparsity of each network: a state value has the critics', further policies have the actor's."""
        fixed = self.recipe.sparsity
        actor = self.sparsity if fixed is None else fixed
        critic = self.critic_sparsity if self.critic_sparsity is not None and fixed is None else actor
        others = {name: critic if name == "value" else actor for name in self.training.agent.NETWORKS}
        return {**others, "actor": actor, "critic": critic}

    @property
    def id(self) -> str:
        """Name of the run's files, unique within a suite and environment."""
        swept = method(self.recipe.method).coefficient and self.recipe.sparsity is None
        knob = f"c{self.sparsity:g}" if swept else f"s{round(self.sparsity * 1000):04d}"
        return f"{self.arm}-{knob}-seed{self.seed:03d}"

    @property
    def key_name(self) -> str:
        """What the run's random key is folded from: a result does not depend on its place in a suite.

        The arm is left out on purpose: two arms of equal recipe differ by their seeds only. So are the overrides, like
        all of the training settings: settings are compared on common random numbers.
        """
        knobs, start = self.knobs, self.training.start
        name = f"{self.training.env}|{self.recipe.name}|{knobs['actor']!r}|{knobs['critic']!r}|{self.seed}"
        # A run that goes on from another one must not meet the random numbers of that one again.
        name = name if start is None else f"{name}|from {start.sha256}"
        name = name if self.width is None else f"{name}|width {self.width}"
        if self.ticket is not None and self.masks is not None:
            name += f"|{self.ticket.mask} mask, {self.ticket.weights} weights of {self.masks.key_name}"
        return name if self.expert is None else f"{name}|clone of {self.expert.key_name}"

    @property
    def draw_name(self) -> str:
        """What the key of the initial draw is folded from: a rewound run's weights are those of another run's start."""
        rewound = self.ticket is not None and self.ticket.weights == "rewound"
        return self.masks.key_name if rewound and self.masks is not None else self.key_name
