"""What a run costs and what its policy weighs, computed from a LayerTable and counts of live weights.

Theory counts live weights only (convention `mac2`: two operations per multiply-add, biases left out). Executed counts
what the arithmetic units really do: training with masks multiplies dense matrices, so a masked member executes what
a dense one does, and a tiny member what the really narrow network does.
"""

from __future__ import annotations

from typing import Any

from sparserl_jax.accounting import flops, sizes
from sparserl_jax.layers import LayerTable
from sparserl_jax.networks import Actor, TwinCritic, actor_layers, twin_critic_layers
from sparserl_jax.sparsity import Promise, promised
from sparserl_jax.sparsity import method as find_method
from sparserl_jax.training.config import AgentConfig, Run
from sparserl_jax.training.population import events_of

CONVENTION = "mac2"
NETWORKS = ("actor", "critic")


def layer_tables(agent: AgentConfig, obs_dim: int, action_dim: int) -> dict[str, LayerTable]:
    """LayerTables of the full-width networks of an agent."""
    actor, critic = Actor(tuple(agent.hidden), action_dim), TwinCritic(tuple(agent.hidden))
    return {"actor": actor_layers(actor, obs_dim), "critic": twin_critic_layers(critic, obs_dim, action_dim)}


def declared(run: Run, layers: dict[str, LayerTable]) -> dict[str, Promise]:
    """What a run's method promises about each network; raises `UserError` where a tensor would be starved."""
    method, events = find_method(run.recipe.method), events_of(run.training)
    return {
        network: promised(method, layers[network], run.knobs[network], events[network], run.recipe.source)
        for network in NETWORKS
    }


def forward_dense(layers: LayerTable) -> int:
    """Forward operations per sample of all copies of a dense network."""
    return flops.forward(layers, None, CONVENTION)


def costs(
    run: Run, layers: dict[str, LayerTable], counts: dict[str, list[int]], promises: dict[str, Promise]
) -> dict[str, Any]:
    """FLOPs and sizes of one run, as plain integers.

    Args:
        layers: LayerTables of the full-width networks.
        counts: live weights per tensor at the end, in the order of their `tensors`.
        promises: what the method declares, see `declared`; its training is charged by them.

    Returns:
        Inference cost per action and training cost per run in theory, of the dense full-width network, and as
        executed; parameters and bytes of one raw blob of the actor, biases included; weights of all networks.
    """
    training, agent = run.training, run.training.agent
    narrow = {network: promises[network].narrow or layers[network] for network in NETWORKS}
    shared: dict[str, Any] = {
        "updates": training.updates,
        "env_steps": training.steps - training.warm_up,
        "batch": agent.batch_size,
        "delay": agent.policy_delay,
        "convention": CONVENTION,
    }
    events = events_of(training)
    theory = flops.td3_run(
        layers["actor"],
        layers["critic"],
        promises["actor"].trained(events["actor"]),
        promises["critic"].trained(events["critic"]),
        dense_growth=promises["critic"].dense_growth,
        actor_events=promises["actor"].events,
        critic_events=promises["critic"].events,
        **shared,
    )
    executed = flops.td3_run(narrow["actor"], narrow["critic"], **shared)
    full = sizes.sizes(layers["actor"])
    kept = sizes.sizes(layers["actor"], counts["actor"])
    if promises["actor"].narrow is not None:
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
