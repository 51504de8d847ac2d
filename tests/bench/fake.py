"""A deterministic stand-in for training: outcomes with the shapes and counts of real ones, in microseconds."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import run as runs
from sparserl_jax.bench import suites
from sparserl_jax.envs.protocol import EnvSpec
from sparserl_jax.layers import LayerTable, leaf, with_leaf
from sparserl_jax.training.runner import Outcome
from sparserl_jax.training.sharding import Layout

SUITE: dict[str, Any] = {
    "name": "mini",
    "title": "a miniature",
    "steps": 4000,
    "warm_up": 400,
    "seeds": 6,
    "sparsities": [0.6, 0.9],
    "agent": {"hidden": [16, 16], "batch_size": 32},
    "schedule": {
        "topology_interval": 200,
        "delay": 400,
        "buffer_max": 2000,
        "buffer_min": 200,
        "buffer_check": 200,
    },
    "evaluation": {"interval": 200, "episodes": 5, "final_episodes": 10},
    "environments": [
        {"name": "gymnax:Pendulum-v1", "random": -1200.0, "learned": -200.0, "reference": -150.0},
        {
            "name": "brax:inverted_pendulum?backend=spring",
            "random": 20.0,
            "learned": 900.0,
            "reference": 1000.0,
        },
    ],
    "arms": [
        {"recipe": "dense"},
        {"recipe": "dense", "name": "dense_aa", "role": "aa", "seeds_from": 100},
        {"recipe": "placebo", "sparsities": [0.95]},
        {"recipe": "dense_rvl"},
        {"recipe": "tiny"},
        {"recipe": "static"},
        {"recipe": "set"},
        {"recipe": "rigl"},
        {"recipe": "rlx2"},
    ],
}
SMALL: dict[str, Any] = {
    "seeds": 2,
    "sparsities": [0.8],
    "environments": SUITE["environments"][:1],
    "arms": [{"recipe": "dense"}, {"recipe": "tiny"}, {"recipe": "rlx2"}],
}
"""Changes of SUITE that leave six runs."""

QUALITY = {
    "dense": 0.98,
    "dense_rvl": 1.0,
    "placebo": 0.3,
    "tiny": 0.9,
    "static": 0.75,
    "set": 0.9,
    "rigl": 0.95,
}
"""Final z of each recipe at sparsity 0; others 0.99."""


_make = plans.make  # tests replace the original


def table(**changes: Any) -> dict[str, Any]:
    """The suite's table with some top-level keys changed."""
    return {**SUITE, **changes}


def describe(source: Any) -> EnvSpec:
    """Specs without building environments."""
    obs = {"gymnax:Pendulum-v1": 3}.get(source, 4)
    return EnvSpec(str(source), obs, 1, (-2.0,), (2.0,), 200)


@dataclasses.dataclass(frozen=True)
class FakeProgram:
    """Runs of one environment and one n that take the same kinds of things from other runs."""

    runs: tuple[Any, ...]
    name: str
    compilations: int = 4
    why: str = "they share everything"
    given: Any = dataclasses.field(default=None, compare=False)
    host: bool = False

    @property
    def layout(self) -> Layout:
        """Of its members, as a real program has it."""
        return Layout.of(len(self.runs))

    def memory(self) -> int:
        """A number."""
        return 1_500_000 * len(self.runs)


def group(runs: list[Any]) -> list[FakeProgram]:
    """Runs by environment, n and what they take, as real programs are."""
    groups: dict[Any, list[Any]] = {}
    for run in runs:
        taken = ("-masks" if run.masks else "") + ("-expert" if run.expert else "")
        groups.setdefault((run.training.env, f"n{run.recipe.n}{taken}"), []).append(run)
    return [
        FakeProgram(tuple(members), f"{plans.slug(env)}-{kind}") for (env, kind), members in groups.items()
    ]


def make_plan(suite: suites.Suite | None = None, **changes: Any) -> plans.Plan:
    """A plan of the miniature suite with fake programs."""
    suite = suites.parse(table(**changes), "mini.toml") if suite is None else suite
    return _make(suite, group=group, describe=describe)


def _network(layers: LayerTable, counts: list[int], generator: np.random.Generator) -> tuple[dict, dict]:
    """Random parameters and masks with exactly `counts` live weights per tensor."""
    params: dict[str, Any] = {"mlp": {layer.name: {"kernel": 0, "bias": 0} for layer in layers}}
    masks = params
    position = 0
    for layer in layers:
        kernel = np.zeros((layer.copies, layer.size), bool)
        for copy in range(layer.copies):
            kernel[copy, generator.permutation(layer.size)[: counts[position]]] = True
            position += 1
        kernel = kernel.reshape(*layer.stack, *layer.shape)
        masks = with_leaf(masks, layer.kernel, kernel)
        params = with_leaf(
            params, layer.kernel, generator.normal(size=kernel.shape).astype(np.float32) * kernel
        )
        bias = np.ones((*layer.stack, layer.units_out), bool)
        masks = with_leaf(masks, layer.bias, bias)
        params = with_leaf(params, layer.bias, np.zeros(bias.shape, np.float32))
        assert leaf(masks, layer.kernel).shape == kernel.shape
    return params, masks


def outcome(plan: plans.Plan, planned: plans.Planned, quality: dict[str, float] | None = None) -> Outcome:
    """What a run might end in: a curve that rises to the quality of its recipe, less the price of sparsity."""
    run, task = planned.run, planned.task
    generator = np.random.default_rng(zlib.crc32(run.key_name.encode()))
    goal = (QUALITY if quality is None else quality).get(run.recipe.name, 0.99)
    goal -= 0.12 * min(run.sparsity, 1.0) ** 8 * (run.recipe.method != "dense") + 0.015 * abs(
        generator.normal()
    )
    steps = np.arange(1, plan.suite.points + 1) * plan.suite.evaluation.interval
    random, reference = (task.random or 0.0), (task.reference or 1.0)
    z = goal * (1 - np.exp(-4 * steps / plan.suite.steps)) / (1 - np.exp(-4)) + 0.02 * generator.normal(
        size=steps.size
    )
    points = (random + z * (reference - random)).astype(np.float32)
    promised = plan.promise(run)
    networks = {n: _network(plan.layers_of(run)[n], promised[n].counts, generator) for n in promised}
    final = np.full(plan.suite.evaluation.final_episodes, points[-1], np.float32)
    return Outcome(
        run=run,
        status="ok",
        curve={
            "env_step": steps.astype(np.int32),
            "update": np.maximum(steps - plan.suite.warm_up, 0).astype(np.int32),
            "return": points,
            "broken": np.zeros(steps.size, bool),
            "critic_loss": np.where(steps > plan.suite.warm_up, 0.5, np.nan).astype(np.float32),
        },
        final_returns=final + generator.normal(size=final.size).astype(np.float32),
        params={n: networks[n][0] for n in networks},
        masks={n: networks[n][1] for n in networks},
        nnz={n: list(promised[n].counts) for n in networks},
        layers=plan.layers_of(run),
        events={n: promised[n].events for n in networks},
        episodes=plan.suite.steps // 200,
        invalid_steps=0,
        measured={
            "train_seconds": 20.0,
            "evaluate_seconds": 4.0,
            "warm_up_seconds": 1.0,
            "compile_seconds": 9.0,
        },
    )


class Execute:
    """`training.runner.execute` in miniature; remembers what it was asked to run."""

    def __init__(self, plan: plans.Plan, change: Any = None, quality: dict[str, float] | None = None) -> None:
        self.plan, self.change, self.quality, self.programs = plan, change, quality, []

    def __call__(
        self, program: FakeProgram, *, folder: Path, deadline: float | None, progress: Any
    ) -> list[Outcome]:
        self.programs.append(program.name)
        progress.stage(program.name, "compiling train")
        found = [outcome(self.plan, planned, self.quality) for planned in self.plan.of(program)]
        given = getattr(program, "given", None)
        if given is not None and given.masks:
            for index, one in enumerate(found):  # tickets keep what they are given
                one.masks = jax.tree.map(lambda rows, index=index: rows[index], given.masks)
        for step in (2000, 4000):
            progress.score(program.name, step, [0.0])
            progress.advance(program.name, step, 4000)
        return [self.change(one) if self.change else one for one in found]


def quiet() -> Console:
    """A console that writes nowhere."""
    import io

    return Console(file=io.StringIO(), width=220)


def finished(folder: Path, plan: plans.Plan | None = None, **options: Any) -> plans.Plan:
    """A folder with all records of the miniature suite."""
    plan = make_plan() if plan is None else plan
    runs.run(plan, folder, quiet(), execute=Execute(plan, **options))
    return plan
