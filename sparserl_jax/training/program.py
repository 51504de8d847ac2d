"""Program: Runs that share one compilation of each stage, and how a list of Runs falls into Programs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from typing import Any

import jax
import numpy as np

from sparserl_jax.agents.agent import Agent, Clock, unspoken
from sparserl_jax.agents.registry import AGENTS, build
from sparserl_jax.envs import Environment, HostEnvironment, make
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import method
from sparserl_jax.training import datasets
from sparserl_jax.training.config import Run, Training
from sparserl_jax.training.dataset_stages import DatasetStages
from sparserl_jax.training.given import Given, shapes
from sparserl_jax.training.host_stages import (
    HOST_STAGES,
    HostStages,
    ahead_of,
    policy_arguments,
    policy_stage,
)
from sparserl_jax.training.population import Member, MemberSettings, events_of, member_settings, stack
from sparserl_jax.training.precision import precise
from sparserl_jax.training.rollout_stages import RolloutStages
from sparserl_jax.training.sharding import Layout
from sparserl_jax.training.spaces import check_observations, check_spaces
from sparserl_jax.training.stages import Stages

STAGES = ("init", "warm_up", "train", "evaluate", "harvest")
"""The jitted functions of a Program; each is compiled once. There is no `warm_up` where no replay is learned from."""
ONCE = {"xla_backend_optimization_level": "0"}
"""Compiler options, on CPUs, of stages that run once: fully optimised, `init` takes as long to compile as `train`."""
ALONE = 1_500_000
"""Products of one forward pass of a batch through all networks from which a CPU core is better off with one member at a
time. On two cores, speed of one by one over batched, in order of products: DQN 2x64 0.85, BC 2x64 0.8, TD3 2x64 1.25,
SAC 2x64 1.5, DQN 2x128 1.5, FtTPO 2x64 1.45; TD3 up to 2x256: `benchmarks/perf --sections ways`."""
FILLS_A_CORE = 20_000_000
"""Such products from which one member's updates are worth a core of their own where environments run on the host."""
LOOK_SECONDS = 1.0
"""How often somebody is asked during a compilation whether to go on."""
WAVE = 3
"""Such members that a core computes in one call where environments run on the host: one at a time would be copied at
every step, more drive each other out of its caches (`benchmarks/perf --sections waves`)."""


@dataclasses.dataclass(frozen=True)
class Program:
    """Runs of equal agent, environment, shapes, family of methods and longest TD target.

    All arrays but the clock carry a leading member axis, one member per Run, in the order of `runs`. `given`: what its
    members take from finished runs; None until they are there.
    """

    runs: tuple[Run, ...]
    given: Given | None = dataclasses.field(default=None, compare=False, repr=False)

    # ---- what it is ------------------------------------------------------------------------------------------------

    @property
    def training(self) -> Training:
        """Settings common to all its Runs."""
        return self.runs[0].training

    @property
    def n_max(self) -> int:
        """Longest TD target of its members."""
        return max(run.recipe.n for run in self.runs)

    @property
    def family(self) -> str:
        """Family of methods its members belong to."""
        return self.runs[0].recipe.family

    @property
    def keep_mean(self) -> bool:
        """Whether any member follows a dynamic buffer rule, so that noise-free actions are stored for all."""
        return any(run.recipe.buffer == "dynamic" for run in self.runs)

    @property
    def name(self) -> str:
        """Name of its folder: what it trains, and a hash of its membership."""
        # An object has no name that lasts and may not be copied; what a recipe is called in lists changes nothing.
        start = self.training.start
        training = dataclasses.replace(self.training, env_object=None, start=None, logged=None)
        named = [
            dataclasses.asdict(
                dataclasses.replace(
                    run, training=training, recipe=dataclasses.replace(run.recipe, summary="")
                )
            )
            for run in self.runs
        ]
        for run in named:
            for digested in ("start", "logged"):  # the names of programs that have none stay what they were
                run["training"].pop(digested)
            if training.matmul_precision is None:  # of those of unspoken precision, too
                run["training"].pop("matmul_precision")
            if training.dataset is None:  # of those that learn from their own steps
                run["training"].pop("dataset")
            if not training.evaluation.sampled:  # and of deterministic evaluation
                run["training"]["evaluation"].pop("sampled")
            for later in unspoken(training.agent):
                run["training"]["agent"].pop(later)
            for later in ("overrides", "ticket", "clone", "masks", "expert", "width"):  # and of those of none
                if not run[later]:
                    del run[later]
        words = [json.dumps(run, sort_keys=True, default=str) for run in named]
        words += [given.sha256 for given in (start, self.training.logged) if given is not None]
        digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:10]
        env = "".join(c if c.isalnum() else "-" for c in self.training.env)
        return f"{env}-{self.training.agent.name}-{self.family}-n{self.n_max}-{digest}"

    @property
    def why(self) -> str:
        """One sentence: why these Runs are compiled together and apart from others."""
        agent = self.training.agent
        kind = "" if agent.network == "mlp" else f"{agent.network} "
        return (
            f"{len(self.runs)} members share {agent.name} {kind}{agent.hidden} on {self.training.env}, method family "
            f"{self.family} and TD targets of at most {self.n_max} step(s)"
        )

    @property
    def compilations(self) -> int:
        """XLA compilations it costs: one per stage."""
        return len(self.stage_names)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The jitted functions that it has."""
        if self.stepped_on_host:
            return HOST_STAGES
        own = tuple(name for name in STAGES if self.training.replayed or name != "warm_up")
        return (*own, "policy") if self.host else own

    # ---- how it is built -------------------------------------------------------------------------------------------

    @cached_property
    def env(self) -> Environment | HostEnvironment:
        """The environment all members train in."""
        env = make(self.training.env if self.training.env_object is None else self.training.env_object)
        if isinstance(env, HostEnvironment) and self.training.iteration is not None:
            raise UserError(
                f"agent '{self.training.agent.name}' learns from rollouts, which environments on the host cannot "
                f"give yet, and '{env.spec.name}' is one: choose another agent, or a compiled environment."
            )
        if isinstance(env, HostEnvironment) and self.training.dataset is not None and not self.shared:
            raise UserError(
                f"dataset '{self.training.dataset}' is made inside compiled stages, and '{env.spec.name}' runs on the "
                "host: name a file, such as one that `sparserl collect` wrote."
            )
        if isinstance(env, HostEnvironment) and self.training.num_envs != 1:
            raise UserError(
                f"num_envs = {self.training.num_envs}: '{env.spec.name}' runs on the host, one environment per member; "
                "set num_envs = 1 (more seeds run side by side at once)."
            )
        return env

    @property
    def host(self) -> bool:
        """Whether its environments run on the host, outside the compiled stages (`training/host_evaluation.py`)."""
        return isinstance(self.env, HostEnvironment)

    @property
    def stepped_on_host(self) -> bool:
        """Whether its members also train in such environments (`training/host.py`)."""
        return self.host and self.training.replayed

    @cached_property
    def agent(self) -> Agent:
        """The algorithm with the family's functions."""
        training, spec = self.training, self.env.spec
        check_spaces(self.runs, spec)
        check_observations(training.agent, spec.image, f"environment '{spec.name}'")
        family, events = method(self.runs[0].recipe.method).family, events_of(self.training)
        agent = build(training.agent, spec, family, events)
        if training.evaluation.sampled and agent.sample_policy is None:
            raise UserError(
                f"evaluation.sampled: actions cannot be drawn from the policy of agent '{agent.name}'; drop it, or "
                f"take one of {', '.join(name for name, known in AGENTS.items() if known.drawn)}."
            )
        return agent

    @cached_property
    def settings(self) -> MemberSettings:
        """Traced settings of all members, NumPy arrays `[member, ...]`."""
        events = events_of(self.training)
        made = [member_settings(run, self.agent, events) for run in self.runs]
        kinds = [jax.tree.map(np.shape, own.agent) for own in made]
        name = self.runs[0].recipe.method
        for run, kind in zip(self.runs, kinds, strict=True):
            if kind == kinds[0]:
                continue
            if run.recipe.method == name:
                raise UserError(
                    f"the settings of sparsity method '{name}' differ in structure or shape between runs of one "
                    f"program ({_told(self.runs[0])} and {_told(run)}); make them equal for every knob and source."
                )
            raise UserError(
                f"sparsity methods '{name}' and '{run.recipe.method}' are one family ('{self.family}'), but their "
                "settings differ in structure or shape; make them equal, or give one a Sparsifier of its own."
            )
        return stack(made)._replace(given=self._taken(made[0]) if self.given is None else self.given)

    def _taken(self, first: MemberSettings) -> Given:
        """Shapes of what its members take from finished runs; nothing where they take nothing."""
        run = self.runs[0]
        kinds = {"masks": run.masks is not None, "expert": run.expert is not None}
        return shapes(self.agent, first.agent, len(self.runs), **kinds) if any(kinds.values()) else Given()

    def check_given(self) -> None:
        """Refuse to execute what still lacks the finished runs that it takes masks or a policy from."""
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(self.settings.given)):
            raise UserError(
                f"program {self.name} takes masks or a policy from finished runs: run its suite with `sparserl bench`."
            )

    @cached_property
    def layout(self) -> Layout:
        """Its members over the local devices. Where they train on the host: on cores that a member fills, in waves;
        else on one device."""
        layout = Layout.of(len(self.runs))
        if not self.stepped_on_host:
            return layout
        if layout.on_cpu and self.products >= FILLS_A_CORE:
            return layout.in_waves(WAVE)
        return dataclasses.replace(layout, devices=layout.devices[:1])

    @property
    def products(self) -> int:
        """Products of one forward pass of a batch through all networks of a member."""
        layers = [layer for table in self.agent.layers.values() for layer in table]
        return self.training.agent.batch_size * sum(
            layer.size * layer.copies * (layer.positions or 1) for layer in layers
        )

    @property
    def one_by_one(self) -> bool:
        """Whether a device trains its members one after another: on CPUs, where several at once only drive each other
        out of a core's caches."""
        return self.layout.on_cpu and not self.stepped_on_host and self.products >= ALONE

    @cached_property
    def shared(self) -> tuple[Any, ...]:
        """What all members are trained on together, arrays on the host: the dataset of a file, or nothing."""
        logged = self.training.logged
        return () if logged is None else (datasets.shared(logged, self.training.best),)

    @cached_property
    def stages(self) -> dict[str, Any]:
        """The stages over the rows of the layout, jitted; the clock is unbatched and the state is donated."""
        if self.stepped_on_host:
            return self.host_stages.jitted(self.layout)
        env: Any = self.env  # of one on the host, only its spec is used
        kind = Stages if self.training.replayed else RolloutStages
        if self.training.dataset is not None:
            kind = DatasetStages
        stages = kind(self.training, self.agent, env, self.n_max, self.keep_mean)

        all_alike = (None,) * len(self.shared)

        def over_members(fn: Callable[..., Any], *axes: int | None, **how: Any) -> Any:
            return self.layout.stage(precise(fn, self.training.matmul_precision), *axes, **how)

        made = {
            "init": over_members(stages.init, 0),
            "warm_up": over_members(stages.warm_up, 0, 0, None, donate=(0,)),
            "train": over_members(
                stages.train, 0, 0, None, *all_alike, donate=(0,), one_by_one=self.one_by_one
            ),
            "evaluate": over_members(stages.evaluate, 0, 0, None, None, *all_alike),
            "harvest": over_members(stages.harvest, 0),
        }
        if self.host:
            assert isinstance(stages, DatasetStages)
            made["evaluate"] = over_members(stages.look, 0, 0, None, 0, *all_alike)
            made["policy"] = policy_stage(self.agent, self.training)
        return {name: made[name] for name in self.stage_names}

    @cached_property
    def host_stages(self) -> HostStages:
        """The stages of a Program on the host, per member."""
        env: Any = self.env  # only its spec is used
        return HostStages(self.training, self.agent, env, self.n_max, self.keep_mean)

    def shapes(self) -> Member:
        """Shapes of the population, without computing anything."""
        return self._shapes

    @cached_property
    def _shapes(self) -> Member:
        # Asked for by the plan, the memory checks, the compilation and the resume: traced once.
        if self.stepped_on_host:
            first = jax.ShapeDtypeStruct((len(self.runs), 1, self.env.spec.obs_dim), np.float32)
            return jax.eval_shape(jax.vmap(self.host_stages.init), self.settings, first)
        rows = jax.eval_shape(self.stages["init"], self.layout.padded(self.settings))
        return self.layout.unpadded(rows)

    def memory(self) -> int:
        """Forecast of the bytes its population holds on each device."""
        held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.shapes()))
        # One after another, members are read from one copy and written to another.
        members = held // self.layout.members * self.layout.held * (2 if self.one_by_one else 1)
        return members + sum(leaf.nbytes for leaf in jax.tree.leaves(self.shared))

    def arguments(self) -> dict[str, tuple[Any, ...]]:
        """Shapes, or values on the host, of what every stage is called with."""
        population, settings = (self.layout.split(tree)[0] for tree in (self.shapes(), self.settings))
        clock = clock_at(self.training, 0)
        if self.stepped_on_host:
            return self.host_stages.arguments(population, settings, clock, len(self.runs))
        given: dict[str, tuple[Any, ...]] = {
            "init": (settings,),
            "warm_up": (population, settings, clock),
            "train": (population, settings, clock, *self.shared),
            "evaluate": (population, settings, clock, np.int32(0), *self.shared),
            "harvest": (population,),
        }
        if self.host:
            members, env = len(self.runs), self.env
            rows = jax.tree.leaves(population)[0].shape[0]
            given["evaluate"] = (
                population,
                settings,
                clock,
                ahead_of(env, self.training, rows),
                *self.shared,
            )
            params = jax.eval_shape(self.stages["harvest"], population)["params"]["actor"]
            obs = jax.ShapeDtypeStruct((members, 1, env.spec.obs_dim), np.float32)
            given["policy"] = policy_arguments(self.training, self.layout.unpadded(params), obs)
        return {name: given[name] for name in self.stage_names}

    def lower(self) -> dict[str, Any]:
        """Every stage lowered for this population."""
        return {name: self.stages[name].lower(*given) for name, given in self.arguments().items()}

    def compile(self, waiting: Callable[[], None] = lambda: None) -> tuple[dict[str, Any], dict[str, float]]:
        """Compiled stages, and the seconds that tracing all (`trace`) and compiling each of them took.

        XLA compiles one stage on about one core, so the stages are compiled side by side. Meanwhile `waiting` is called
        every `LOOK_SECONDS`; where it raises, nobody waits for the compiler (but the process, when it ends).
        """
        began = time.perf_counter()
        lowered = self.lower()
        seconds = {"trace": time.perf_counter() - began}

        def build(name: str) -> Any:
            began = time.perf_counter()
            hasty = name in ("init", "harvest") and jax.default_backend() == "cpu"
            built = lowered[name].compile(compiler_options=ONCE if hasty else None)
            seconds[name] = time.perf_counter() - began
            return built

        pool = ThreadPoolExecutor()
        try:
            stages = {name: pool.submit(build, name) for name in lowered}
            while wait(stages.values(), LOOK_SECONDS).not_done:
                waiting()
            return {name: stage.result() for name, stage in stages.items()}, seconds
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def clock_at(training: Training, step: int) -> Clock:
    """The clock after `step` environment steps, as NumPy scalars (nothing is compiled for it)."""
    return Clock(np.int32(step), np.int32(training.updates_at(step)))


def _told(run: Run) -> str:
    """What settings are made of."""
    knobs = ", ".join(f"{name} {knob:g}" for name, knob in sorted(run.knobs.items()))
    return f"{knobs}, {run.recipe.source}"


def group(runs: list[Run]) -> list[Program]:
    """Runs as Programs, in order of first appearance; members keep the order of `runs`.

    Runs go together when agent, environment, every period and shape, family and n_max are equal. A member that never
    uses multi-step targets is not grouped with one that does: it would pay for the longer windows; one that takes masks
    or a policy from finished runs has to wait for them. Overrides are traced and part nobody.
    """
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        run.check()
        # The family itself, not its name: a user's own may be called like a shipped one.
        family = method(run.recipe.method).family
        taken = run.masks is not None, run.expert is not None
        key = (run.training, id(run.training.env_object), family, run.recipe.n, taken)
        groups.setdefault(key, []).append(run)
    return [Program(tuple(members)) for members in groups.values()]
