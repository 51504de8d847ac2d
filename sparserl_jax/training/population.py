"""Population: every array of a Program's members, and the host-side making of their traced settings."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np

from sparserl_jax.agents.agent import Agent
from sparserl_jax.envs import EnvState
from sparserl_jax.references import unlabelled
from sparserl_jax.replay import Capacity, Replay
from sparserl_jax.sparsity import method
from sparserl_jax.sparsity.contract import Events
from sparserl_jax.training.config import Run, Training
from sparserl_jax.training.given import Given

PURPOSES = (
    "agent",
    "start",
    "pool",
    "act",
    "step",
    "sample",
    "update",
    "delayed",
    "extra",
    "diagnose",
    "gates",
)
"""What a member draws random numbers for; each has a key of its own, folded with the moment of use."""


class MemberSettings(NamedTuple):
    """Traced settings of one member: what its Run says in numbers.

    keys: {purpose: uint32[2] key data}. evaluation_key: uint32[2], common to all arms of an environment. n: i32,
    steps of the TD target after T0; n_early: i32, before it. capacity: replay capacity policy. agent: settings for
    `Agent.init`. given: what it takes from finished runs.
    """

    keys: dict[str, Any]
    evaluation_key: Any
    n: Any
    n_early: Any
    capacity: Capacity
    agent: dict[str, Any]
    given: Given = Given()


class Tally(NamedTuple):
    """Running counts of one member.

    last_return: f32, return of the most recently finished training episode. episodes: i32 finished episodes.
    invalid: i32 steps whose physics returned NaN. broken: bool, a loss was not finite at some time.
    events: i32, topology events that happened, by network.
    """

    last_return: jax.Array
    episodes: jax.Array
    invalid: jax.Array
    broken: jax.Array
    events: dict[str, jax.Array]


class Member(NamedTuple):
    """The whole training state of one member; a Population is a Member whose arrays carry a leading member axis.

    envs: `()` where nothing acts. replay: `()` where the experience is rollouts, which are learned from and forgotten;
    the member's dataset where it has one of its own (`datasets.Dataset`). history: u8[weight] by network,
    what masks have been at curve points (see diagnostics.py).
    """

    agent: Any
    envs: EnvState | Any
    replay: Replay | Any
    tally: Tally
    history: dict[str, jax.Array]


def key_data(*words: str) -> np.ndarray:
    """Key data, uint32[2], folded from names: the same names give the same key everywhere."""
    return np.frombuffer(hashlib.sha256("|".join(words).encode()).digest()[:8], dtype="<u4").astype(np.uint32)


def events_of(training: Training) -> dict[str, Events]:
    """When each network's topology may change: every interval of its own ticks, until training ends."""
    schedule, updates, agent = training.schedule, training.updates, training.agent
    ends = {name: updates // (agent.policy_delay if name == "actor" else 1) for name in agent.NETWORKS}
    return {
        name: Events(schedule.topology_interval, end, schedule.drop_fraction) for name, end in ends.items()
    }


def member_settings(run: Run, agent: Agent, events: dict[str, Events]) -> MemberSettings:
    """Settings of one Run, as NumPy arrays; counts are made here, in float64."""
    training, recipe = run.effective, run.recipe
    schedule, chosen = training.schedule, method(recipe.method)
    events = {
        name: dataclasses.replace(own, drop_fraction=schedule.drop_fraction) for name, own in events.items()
    }
    knobs = run.knobs
    per_network = {
        name: chosen.settings(agent.layers[name], knobs[name], events[name], recipe.source)
        for name in agent.layers
    }
    limits: dict[str, Any] = {
        "max_rows": np.int32(buffer_rows(training) - 1),
        # A window must be left.
        "min_rows": np.int32(max(schedule.buffer_min // training.num_envs, recipe.n)),
        "threshold": np.float32(schedule.buffer_threshold),
        "dynamic": np.bool_(recipe.buffer == "dynamic"),
        "paper": np.bool_(recipe.source == "paper"),
    }
    names = dict.fromkeys(PURPOSES, run.key_name) | {"agent": run.draw_name}
    keys = {purpose: key_data("run", name, purpose) for purpose, name in names.items()}
    if training.dataset is not None and training.logged is None:  # the seed's, whatever the arm
        keys["dataset"] = key_data("dataset", training.env, training.dataset, str(run.seed))
    return MemberSettings(
        keys=keys,
        evaluation_key=key_data("evaluation", unlabelled(training.env)),
        n=np.int32(recipe.n),
        n_early=np.int32(1 if recipe.delayed else recipe.n),
        capacity=Capacity(**limits),
        agent={
            **per_network,
            "dense_targets": np.bool_(recipe.dense_targets),
            "traced": training.agent.traced(recipe.source),
        },
    )


def buffer_rows(training: Training) -> int:
    """Rows of the replay ring: its capacity, or the whole run where that is shorter, and the closing row."""
    return -(-min(training.schedule.buffer_max, training.steps) // training.num_envs) + 1


def stack(trees: list[Any]) -> Any:
    """Stack equal trees of NumPy arrays along a new leading member axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)
