"""What is measured: TD3 at HalfCheetah size on an environment that costs next to nothing.

The environment has the shapes of HalfCheetah (17 observations, 6 actions, episodes of 1000 steps) and linear dynamics,
so the time per step is that of the learner, the replay and the loop; physics is reported apart.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.agents import td3
from sparserl_jax.envs import EnvSpec, Step
from sparserl_jax.envs import make as make_env
from sparserl_jax.sparsity.contract import (
    Declares,
    Effects,
    Events,
    Sparsifier,
    identity_effective,
    no_penalty,
)
from sparserl_jax.training import Evaluation, Run, Schedule, TD3Config, Training, recipe
from sparserl_jax.training.precision import precise
from sparserl_jax.training.program import Program, clock_at
from sparserl_jax.training.sharding import Layout
from sparserl_jax.training.stages import Stages

OBS, ACTIONS = 17, 6
WAYS = {"batched": False, "one_by_one": True}
"""How each device may compute its members: together (`vmap`) or one after another (`lax.map`)."""


def in_a_process(command: list[str], **environment: str) -> list[float]:
    """The numbers that a command prints last, as JSON; `environment`: variables of its own.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    own = {**os.environ, **environment}
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=True)
    return [float(number) for number in json.loads(done.stdout.splitlines()[-1])]


def interleaved(programs: dict[str, Callable[[], None]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of every call, `[repeats]` per program, called in turns after one call each to warm up."""
    for program in programs.values():
        program()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            began = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - began)
    return {name: np.asarray(values) for name, values in seconds.items()}


class LinearDynamics:
    """A stable linear system of HalfCheetah's shapes; reward is minus the squared norm of the observation."""

    spec = EnvSpec("linear dynamics 17/6", OBS, ACTIONS, (-1.0,) * ACTIONS, (1.0,) * ACTIONS, 1000)

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A standard normal state, which is also the observation."""
        state = jax.random.normal(key, (OBS,))
        return state, state

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, Step]:
        """x' = 0.95 x + 0.1 (a, 0)."""
        state = 0.95 * state + 0.1 * jnp.pad(action, (0, OBS - ACTIONS))
        return state, Step(state, -jnp.sum(state**2), jnp.bool_(False), jnp.bool_(False))


def _init(key: jax.Array, params: Any, layers: Any, settings: Any) -> tuple[Any, Any, Any]:
    return params, {}, {}


def _evolve(key: Any, tick: Any, params: Any, extra: Any, opt_state: Any, state: Any, evidence: Any) -> Any:
    return params, extra, opt_state, state, Effects.of()


BARE = Sparsifier(
    name="bare",
    init=_init,
    effective=identity_effective,
    penalty=no_penalty,
    gradients=lambda grads, params, extra, state: grads,
    project=lambda params, extra, opt_state, state: (params, extra, opt_state),
    evolve=_evolve,
    deployed=lambda params, extra, state: (
        params,
        jax.tree.map(lambda x: jnp.ones(x.shape, bool), params),
        "plain",
    ),
    declares=Declares(budget="none", targets="none", slots="keep"),
)
"""No masks, no state and, with no events scheduled, no event code: plain dense TD3 on the same loop."""


def training(
    interval: int,
    dispatch: int = 1000,
    buffer: int = 100_000,
    hidden: tuple[int, ...] = (256, 256),
    precision: str | None = None,
    batch_size: int = 256,
) -> Training:
    """The workload's settings: warm-up of one dispatch, updates at every step after it."""
    return Training(
        env=LinearDynamics.spec.name,
        agent=TD3Config(hidden=hidden, batch_size=batch_size),
        steps=1_000_000,
        warm_up=dispatch,
        schedule=Schedule(topology_interval=interval, delay=0, buffer_max=buffer, buffer_check=dispatch),
        evaluation=Evaluation(dispatch),
        dispatch=dispatch,
        env_object=LinearDynamics(),
        matmul_precision=precision,
    )


class Workload:
    """A compiled training dispatch with a population to run it on."""

    def __init__(
        self,
        members: int,
        method: str = "static",
        bare: bool = False,
        interval: int = 10**9,
        dispatch: int = 1000,
        precision: str | None = None,
        way: str = "batched",
        hidden: int = 256,
        batch_size: int = 256,
        knob: float | None = None,
    ) -> None:
        """knob: of all members; None: sparsities between 0.5 and 0.95, so that no member's work is another's."""
        self.training = training(
            interval, dispatch, hidden=(hidden, hidden), precision=precision, batch_size=batch_size
        )
        spread = [0.5 + 0.45 * i / max(members - 1, 1) for i in range(members)]
        knobs = spread if knob is None else [knob] * members
        runs = [Run(self.training, recipe(method), knob, seed, method) for seed, knob in enumerate(knobs)]
        program = Program(tuple(runs))
        agent, settings = program.agent, program.settings
        if bare:
            events = {name: Events(interval, 0, 0.0) for name in agent.layers}
            agent = td3.make(self.training.agent, OBS, ACTIONS, dict.fromkeys(agent.layers, BARE), events)
            settings = settings._replace(
                agent={name: {} for name in events} | {"dense_targets": np.zeros(members, bool)}
            )
        self.layout = layout = Layout.of(members)
        stages = Stages(self.training, agent, make_env(LinearDynamics()), 1, False)

        def stage(fn: Callable[..., Any], *axes: int | None) -> Any:
            return layout.stage(
                precise(fn, precision), *axes, donate=(0,) if len(axes) > 1 else (), one_by_one=WAYS[way]
            )

        self.settings = layout.place(settings)
        self.population = stage(stages.init, 0)(self.settings)
        start = clock_at(self.training, 0)
        self.population = stage(stages.warm_up, 0, 0, None)(self.population, self.settings, start)
        self.step = self.training.warm_up
        clock = clock_at(self.training, self.step)
        self.train = stage(stages.train, 0, 0, None).lower(self.population, self.settings, clock).compile()

    def __call__(self) -> None:
        """One dispatch."""
        self.population, _ = self.train(self.population, self.settings, clock_at(self.training, self.step))
        jax.block_until_ready(self.population)
        self.step += self.training.dispatch_steps
