"""A small agent (TD3 unless asked otherwise) that carries one family of sparsity methods, and what is needed to look at
its trainings.

`laboratory(family)` compiles a TD3 once per family and process; `train` records every state of a short training.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.agents import td3
from sparserl_jax.agents.agent import Clock
from sparserl_jax.agents.optimise import Network
from sparserl_jax.agents.registry import algorithm
from sparserl_jax.conformance.broken import host
from sparserl_jax.replay import Batch
from sparserl_jax.sparsity.contract import Events, Evidence, Method, Sparsifier
from sparserl_jax.sparsity.slots import map_slots
from sparserl_jax.training.config import AgentConfig

OBS, ACTION, WINDOW, BATCH = 5, 2, 3, 8
CONFIG = td3.TD3Config(hidden=(16, 16), batch_size=BATCH, learning_rate=1e-2, tau=0.05)
EVENTS = Events(interval=4, end=41, drop_fraction=0.5)
NO_EVENTS = Events(interval=4, end=0, drop_fraction=0.5)
NETWORKS = ("actor", "critic")


def observations(seed: int = 0, count: int = BATCH) -> np.ndarray:
    """Observations [count, OBS]."""
    return np.random.default_rng(seed).normal(size=(count, OBS)).astype(np.float32)


def batch(seed: int, size: int = BATCH, window: int = WINDOW, successors: bool = False) -> Batch:
    """Made-up windows: some end in a terminal state, some at a time limit, some after `window` steps.

    `successors`: with the observations inside the windows.
    """
    rng = np.random.default_rng(seed)
    used = rng.integers(1, window + 1, size).astype(np.int32)
    kind = np.where(
        used < window, rng.integers(1, 3, size), rng.integers(0, 3, size)
    )  # 0 goes on, 1 terminal, 2 cut
    place = np.arange(window)
    last = place == used[:, None] - 1
    arrays: Any = {
        "obs": observations(seed + 1, size),
        "action": rng.uniform(-1, 1, (size, ACTION)).astype(np.float32),
        "rewards": np.where(place < used[:, None], rng.normal(size=(size, window)), 0).astype(np.float32),
        "terminated": last & (kind == 1)[:, None],
        "truncated": last & (kind == 2)[:, None],
        "closing_obs": observations(seed + 2, size),
        "used": used,
        "valid": np.ones(size, bool),
    }
    if successors:
        inside = observations(seed + 3, size * window).reshape(size, window, OBS)
        closed = (place >= used[:, None] - 1)[..., None]
        arrays["successors"] = np.where(closed, arrays["closing_obs"][:, None], inside)
    return Batch(**arrays)


def _unavailable(*_: Any) -> Any:
    raise NotImplementedError("filled in by the agent")


EVIDENCE = Evidence(
    grad=_unavailable,
    hvp=_unavailable,
    activations=_unavailable,
    batch=lambda size: jax.tree.map(jnp.asarray, batch(99, size)),
    init_params=_unavailable,
    episode_return=lambda: jnp.float32(1.5),
)


def hasty(fn: Any, **options: Any) -> Any:
    """`jax.jit` for functions that run a few times on small arrays: on CPUs compiled without optimisation."""
    unoptimised = {"xla_backend_optimization_level": "0"} if jax.default_backend() == "cpu" else None
    return jax.jit(fn, compiler_options=unoptimised, **options)


class Laboratory:
    """A small agent whose two networks carry one family of methods, each part compiled at its first use."""

    def __init__(
        self,
        family: Sparsifier,
        events: Events = EVENTS,
        config: AgentConfig = CONFIG,
        evidence: Evidence = EVIDENCE,
    ) -> None:
        self.family, self.events, self.config = family, events, config
        self.agent = agent = algorithm(config.name).make(
            config, OBS, ACTION, dict.fromkeys(NETWORKS, family), dict.fromkeys(NETWORKS, events)
        )
        self.layers = agent.layers
        self.init = hasty(agent.init)
        self.policy = hasty(agent.policy)
        self._act = hasty(agent.act, static_argnums=3)
        self.compiled = {
            "update": hasty(
                lambda state, batch, key, clock: agent.update(state, batch, key, clock, evidence)
            ),
            "delayed": hasty(
                lambda state, batch, key, clock: agent.delayed(state, batch, key, clock, evidence)
            ),
        }

    def settings(
        self, method: Method, knob: float, source: str = "released", dense_targets: bool = True
    ) -> Any:
        """Settings of one member."""
        per_network = {
            name: method.settings(self.layers[name], knob, self.events, source) for name in NETWORKS
        }
        return {**per_network, "dense_targets": np.bool_(dense_targets)}

    def act(
        self, state: Any, obs: np.ndarray, seed: int = 0, explore: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions and noise-free actions."""
        action, mean = self._act(state, obs, jax.random.key(seed), explore)
        return np.asarray(action), np.asarray(mean)

    def update(self, state: Any, windows: Batch, seed: int, updates: int) -> tuple[Any, dict[str, jax.Array]]:
        """The update that follows `updates` others."""
        return self.compiled["update"](state, windows, jax.random.key(seed), clock_at(updates))

    def delayed(
        self, state: Any, windows: Batch, seed: int, updates: int
    ) -> tuple[Any, dict[str, jax.Array]]:
        """The delayed part after `updates` updates."""
        return self.compiled["delayed"](state, windows, jax.random.key(seed), clock_at(updates))


def clock_at(updates: int) -> Clock:
    """The clock after `updates` updates."""
    return Clock(np.int32(100 + updates), np.int32(updates))


@functools.cache
def laboratory(family: Sparsifier, events: Events = EVENTS, config: AgentConfig = CONFIG) -> Laboratory:
    """The laboratory of a family, shared by all tests of a process."""
    return Laboratory(family, events, config)


class Moment(NamedTuple):
    """One call of a training. `updates` counts the critic updates done when it returned, of which `delay` go to one of
    the actor."""

    part: str
    updates: int
    before: Any
    after: Any
    metrics: dict[str, Any]
    delay: int = 2

    @property
    def events(self) -> dict[str, bool]:
        """Whether an event happened, by network trained in this call."""
        return {name: bool(happened) for name, happened in self.metrics["events"].items()}

    def tick(self, network: str) -> int:
        """Gradient computations of a network done when the call returned."""
        if network == "critic":
            return self.updates
        return self.updates // self.delay - int(self.part == "update" and self.updates % self.delay == 0)


def train(lab: Laboratory, state: Any, cycles: int, seed: int = 0, done: int = 0) -> list[Moment]:
    """The updates up to a delayed part, and that (in TD3: twice update, once delayed), `cycles` times, from `done`
    updates on; each update on a batch of its own."""
    moments, delay = [], lab.agent.delay
    for cycle in range(cycles):
        for _ in range(delay):
            before = state
            windows = batch(1000 * seed + 10 * done, successors=lab.agent.successors)
            state, metrics = lab.update(before, windows, seed + 10_000 + done, done)
            done += 1
            moments.append(Moment("update", done, before, state, metrics, delay))
        before = state
        state, metrics = lab.delayed(before, windows, seed + 20_000 + cycle, done)
        moments.append(Moment("delayed", done, before, state, metrics, delay))
    return moments


# ---- small tools -------------------------------------------------------------------------------------------


def equal(one: Any, other: Any) -> bool:
    """Whether two trees hold the same values (NaN equals NaN; keys compare by their data)."""
    pairs = list(zip(jax.tree.leaves(host(one)), jax.tree.leaves(host(other)), strict=True))
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def zero_outside(values: Any, masks: Any) -> bool:
    """Whether every entry outside its mask is exactly zero."""
    return all(
        np.all(np.asarray(value)[~np.asarray(mask)] == 0)
        for value, mask in zip(jax.tree.leaves(values), jax.tree.leaves(masks), strict=True)
    )


def garbage(values: Any, outside: Any, seed: int) -> Any:
    """`values` with large random numbers in the entries marked by `outside`."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda value, out: np.where(out, 100 * rng.normal(size=value.shape), value).astype(np.float32),
        host(values),
        host(outside),
    )


def slots_of(opt_state: Any, params: Any) -> list[Any]:
    """All optimiser slots that mirror `params`."""
    found: list[Any] = []

    def note(slots: Any) -> Any:
        found.append(slots)
        return slots

    map_slots(note, opt_state, params)
    return found


def opposite(masks: Any) -> Any:
    """True where a mask is False."""
    return jax.tree.map(lambda mask: ~np.asarray(mask, bool), masks)


def support(lab: Laboratory, network: Network) -> Any:
    """Masks of a network as its method deploys them."""
    return lab.family.deployed(network.params, network.extra, network.sparsity)[1]
