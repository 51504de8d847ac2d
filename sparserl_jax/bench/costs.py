"""What a run costs and what its policy weighs, computed from a LayerTable and counts of live weights.

Theory counts live weights only (convention `mac2`: two operations per multiply-add, biases left out). Executed counts
what the arithmetic units really do: training with masks multiplies dense matrices, so a masked member executes what
a dense one does, and a tiny member what the really narrow network does.
"""

from __future__ import annotations

from typing import Any

from sparserl_jax.accounting import flops, sizes
from sparserl_jax.agents.registry import trained_by
from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import Promise, promised
from sparserl_jax.sparsity import method as find_method
from sparserl_jax.training.config import AnyConfig, Run
from sparserl_jax.training.population import events_of

CONVENTION = "mac2"
_NONE, _UNPROMISED = {"critic": LayerTable()}, {"critic": Promise([])}
"""An algorithm without critics: its critic is a network without layers."""


def layer_tables(
    agent: AnyConfig, obs_dim: int, action_dim: int, image: tuple[int, ...] | None = None
) -> dict[str, LayerTable]:
    """LayerTables of the full-width networks that an agent trains; `image`: shape of observations that are images."""
    kind = {"policy": agent.policy} if hasattr(agent, "policy") else {}
    modules = trained_by(agent.name).modules(tuple(agent.hidden), action_dim, agent.network, image, **kind)
    every = modules.layers(obs_dim, action_dim)
    return {network: every[network] for network in agent.NETWORKS}


def declared(run: Run, layers: dict[str, LayerTable]) -> dict[str, Promise]:
    """What a run's method promises about each network; raises `UserError` where a tensor would be starved."""
    method, events = find_method(run.recipe.method), events_of(run.training)
    return {
        network: promised(method, layers[network], run.knobs[network], events[network], run.recipe.source)
        for network in run.training.agent.NETWORKS
    }


def forward_dense(layers: LayerTable) -> int:
    """Forward operations per sample of all copies of a dense network."""
    return flops.forward(layers, None, CONVENTION)


def _beside(tables: dict[str, LayerTable], counts: dict[str, list[int]] | None = None) -> dict[str, Any]:
    """What a cost is told of networks that are neither actor nor critic, and of their live weights (None: all)."""
    others = [network for network in tables if network not in ("actor", "critic")]
    found = {network: (tables[network], None if counts is None else counts[network]) for network in others}
    return {"beside": found} if found else {}


def _switches(agent: AnyConfig) -> dict[str, Any]:
    """What a cost is told of settings that decide which passes an update makes (`SWITCHES` of a configuration)."""
    names = getattr(agent, "SWITCHES", ())
    return {"switches": {name: getattr(agent, name) for name in names}} if names else {}


def _target_actions(run: Run, executed: bool = False) -> int:
    """Actor passes for the targets of all updates, per sample: multi-step targets begin with the schedule's delay."""
    agent, updates = run.training.agent, run.training.updates
    if executed:  # windows have one length from the start, and every member computes what the hungriest needs
        return updates * agent.target_actions(run.recipe.n)
    early = min(updates, max(run.training.schedule.delay - 1, 0)) if run.recipe.delayed else 0
    late = (updates - early) * agent.target_actions(run.recipe.n, run.recipe.source)
    return early * agent.target_actions(1, run.recipe.source) + late


def _wide_gradients(run: Run, layers: dict[str, LayerTable], promises: dict[str, Promise]) -> int:
    """Operations of weight gradients beyond those of the live weights, of a whole run: one forward pass's worth of the
    weights that every tick learns, instead of one of the live ones."""
    agent, extra = run.training.agent, 0
    for network, events in events_of(run.training).items():
        learned = promises[network].learned
        if learned is not None:
            ticks = run.training.updates // (agent.policy_delay if network == "actor" else 1)
            wide, live = (
                flops.forward(layers[network], counts, CONVENTION)
                for counts in (learned, promises[network].trained(events))
            )
            extra += ticks * agent.batch_size * (wide - live)
    return extra


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
    networks = agent.NETWORKS
    layers = {network: layers[network] for network in networks}
    narrow = {**_NONE, **{network: promises[network].narrow or layers[network] for network in networks}}
    tables, promised = {**_NONE, **layers}, {**_UNPROMISED, **promises}
    shared: dict[str, Any] = {
        "updates": training.updates,
        "env_steps": training.trained_steps,
        "batch": agent.batch_size,
        "delay": agent.policy_delay,
        "convention": CONVENTION,
        **_switches(agent),
    }
    events, count = events_of(training), trained_by(agent.name).cost
    theory = count(
        tables["actor"],
        tables["critic"],
        promised["actor"].trained(events["actor"]),
        promised["critic"].trained(events.get("critic", events["actor"])),
        dense_growth=any(promises[network].dense_growth for network in networks),
        actor_events=promised["actor"].events,
        critic_events=promised["critic"].events,
        target_actions=_target_actions(run),
        **_beside(layers, {network: promises[network].trained(events[network]) for network in networks}),
        **shared,
    )
    if training.iteration is not None:
        # Advantages take the value of every step's last state, see `flops.ppo_run`.
        shared["last_values"] = training.trained_steps
    executed = count(
        narrow["actor"],
        narrow["critic"],
        target_actions=_target_actions(run, executed=True),
        **_beside(narrow),
        **shared,
    )
    full = sizes.sizes(layers["actor"])
    kept = sizes.sizes(layers["actor"], counts["actor"])
    if promises["actor"].narrow is not None:
        kept = sizes.sizes(narrow["actor"])
    return {
        "convention": CONVENTION,
        "inference_flops": flops.forward(layers["actor"], counts["actor"], CONVENTION),
        "inference_flops_dense": forward_dense(layers["actor"]),
        "training_flops_theory": theory.total + _wide_gradients(run, layers, promises),
        "training_flops_dense": theory.dense,
        "training_flops_executed": executed.total,
        "actor_parameters": kept["params"],
        "actor_parameters_dense": full["params"],
        "actor_blob_bytes": kept["raw_blob"],
        "actor_blob_bytes_dense": full["raw_blob"],
        "weights": sum(sum(counts[network]) for network in networks),
        "weights_dense": sum(layers[network].weights for network in networks),
    }


def surcharge(run: Run, layers: dict[str, LayerTable], events: int) -> float:
    """Arithmetic a dense member pays for belonging to a family of masked methods, as a share of its updates.

    Masks are applied to the weights after every optimiser step and to targets (rollouts have none) after every Polyak
    step, and an event selects weights by 32 counting passes, twice. Elementwise work is cheap in operations and dear in
    memory traffic, so this is a lower bound of the time; single-method programs measure the rest.
    """
    agent, updates = run.training.agent, max(run.training.updates, 1)
    tables = {**_NONE, **{network: layers[network] for network in agent.NETWORKS}}
    actor, critic = tables["actor"].weights, tables["critic"].weights
    trained = sum(table.weights for table in tables.values()) - actor + actor / agent.policy_delay
    targets = 0 if run.training.iteration is not None else (critic + actor) / agent.policy_delay
    selection = events * 64 * trained / updates
    delay = agent.policy_delay
    update = trained_by(agent.name).cost(
        tables["actor"],
        tables["critic"],
        updates=delay,
        target_actions=delay * agent.target_actions(run.recipe.n),
        batch=agent.batch_size,
        delay=delay,
        **_beside(tables),
        **_switches(agent),
        convention=CONVENTION,
    )
    return float((trained + targets + selection) / (update.updates / delay))
