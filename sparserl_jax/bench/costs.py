"""What a run costs and what its policy weighs, computed from a LayerTable and counts of live weights.

Theory counts live weights only (convention `mac2`: two operations per multiply-add, biases left out). Executed counts
what the arithmetic units really do: training with masks multiplies dense matrices, so a masked member executes what
a dense one does, and a tiny member what the really narrow network does.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from sparserl_jax.accounting import flops, sizes
from sparserl_jax.layers import LayerTable
from sparserl_jax.networks import Actor, TwinCritic, actor_layers, twin_critic_layers
from sparserl_jax.sparsity import METHODS
from sparserl_jax.sparsity.contract import Events
from sparserl_jax.training.config import AgentConfig, Run

CONVENTION = "mac2"
NETWORKS = ("actor", "critic")


class Declared(NamedTuple):
    """What a method promises about one network: live weights per tensor, its narrow form where it has one, how many
    topology events it has, and whether they grow weights by dense gradients."""

    counts: list[int]
    narrow: LayerTable | None
    events: int
    dense_growth: bool


def layer_tables(agent: AgentConfig, obs_dim: int, action_dim: int) -> dict[str, LayerTable]:
    """LayerTables of the full-width networks of an agent."""
    actor, critic = Actor(tuple(agent.hidden), action_dim), TwinCritic(tuple(agent.hidden))
    return {"actor": actor_layers(actor, obs_dim), "critic": twin_critic_layers(critic, obs_dim, action_dim)}


def _narrow(layers: LayerTable, live_in: list[int], live_out: list[int]) -> LayerTable:
    return LayerTable(
        dataclasses.replace(layer, shape=(*layer.shape[:-2], wide_in, wide_out))
        for layer, wide_in, wide_out in zip(layers, live_in, live_out, strict=True)
    )


def declared(run: Run, layers: dict[str, LayerTable]) -> dict[str, Declared]:
    """What a run's method declares about each network; raises `UserError` where a tensor would be starved."""
    method, training = METHODS[run.recipe.method], run.training
    ticks = {"critic": training.updates, "actor": training.updates // training.agent.policy_delay}
    promised = {}
    for network in NETWORKS:
        events = Events(training.schedule.topology_interval, ticks[network], training.schedule.drop_fraction)
        # The drop table of a long run is large and not needed: counts do not depend on the schedule.
        settings = method.settings(layers[network], run.knobs[network], Events(1, 1, 0.0), run.recipe.source)
        narrow = None
        if method.name == "tiny":
            narrow = _narrow(layers[network], settings.live_in.tolist(), settings.live_out.tolist())
        promised[network] = Declared(
            [int(count) for count in settings.counts],
            narrow,
            events.count if settings.evolves else 0,
            bool(settings.evolves and settings.grow_by_gradient),
        )
    return promised


def forward_dense(layers: LayerTable) -> int:
    """Forward operations per sample of all copies of a dense network."""
    return flops.forward(layers, None, CONVENTION)


def costs(
    run: Run, layers: dict[str, LayerTable], counts: dict[str, list[int]], promised: dict[str, Declared]
) -> dict[str, Any]:
    """FLOPs and sizes of one run, as plain integers.

    Args:
        layers: LayerTables of the full-width networks.
        counts: live weights per tensor, in the order of their `tensors`.
        promised: what the method declares, see `declared`.

    Returns:
        Inference cost per action and training cost per run in theory, of the dense full-width network, and as
        executed; parameters and bytes of one raw blob of the actor, biases included; weights of all networks.
    """
    training, agent = run.training, run.training.agent
    narrow = {network: promised[network].narrow or layers[network] for network in NETWORKS}
    shared: dict[str, Any] = {
        "updates": training.updates,
        "env_steps": training.steps - training.warm_up,
        "batch": agent.batch_size,
        "delay": agent.policy_delay,
        "convention": CONVENTION,
    }
    theory = flops.td3_run(
        layers["actor"],
        layers["critic"],
        counts["actor"],
        counts["critic"],
        dense_growth=promised["critic"].dense_growth,
        actor_events=promised["actor"].events,
        critic_events=promised["critic"].events,
        **shared,
    )
    executed = flops.td3_run(narrow["actor"], narrow["critic"], **shared)
    full = sizes.sizes(layers["actor"])
    kept = sizes.sizes(layers["actor"], counts["actor"])
    if promised["actor"].narrow is not None:
        kept = sizes.sizes(narrow["actor"])
    return {
        "convention": CONVENTION,
        "inference_flops": flops.forward(layers["actor"], counts["actor"], CONVENTION),
        "inference_flops_dense": forward_dense(layers["actor"]),
        "training_flops_theory": theory.total,
        "training_flops_dense": theory.dense,
        "training_flops_executed": executed.total,
        "actor_parameters": kept["params"],
        "actor_parameters_dense": full["params"],
        "actor_blob_bytes": kept["raw_blob"],
        "actor_blob_bytes_dense": full["raw_blob"],
        "weights": sum(sum(counts[network]) for network in NETWORKS),
        "weights_dense": sum(layers[network].weights for network in NETWORKS),
    }


def surcharge(run: Run, layers: dict[str, LayerTable], events: int) -> float:
    """Arithmetic a dense member pays for belonging to a family of masked methods, as a share of its updates.

    Masks are applied to the weights after every optimiser step and to the targets after every Polyak step, and an
    event selects weights by 32 counting passes, twice. Elementwise work is cheap in operations and dear in memory
    traffic, so this is a lower bound of the time; single-method programs measure the rest.
    """
    agent, updates = run.training.agent, max(run.training.updates, 1)
    actor, critic = layers["actor"].weights, layers["critic"].weights
    masks = critic + (critic + 2 * actor) / agent.policy_delay
    selection = events * 64 * (critic + actor / agent.policy_delay) / updates
    update = flops.td3_update(
        forward_dense(layers["actor"]),
        forward_dense(layers["critic"]) / layers["critic"][0].copies,
        batch=agent.batch_size,
        delay=agent.policy_delay,
    )
    return float((masks + selection) / update)
