"""Costs by formula agree with what the compiler counts."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from sparserl_jax.accounting import flops
from sparserl_jax.agents import tawac_thin
from sparserl_jax.agents.agent import Clock, Minibatch
from sparserl_jax.agents.ppo import PPOConfig, Samples
from sparserl_jax.agents.registry import algorithm
from sparserl_jax.agents.sac import SACConfig
from sparserl_jax.agents.td3 import TD3Config
from sparserl_jax.bench import costs
from sparserl_jax.sparsity import METHODS, drop_grow
from sparserl_jax.sparsity.contract import Events
from sparserl_jax.training import Run, recipe
from tests.reference import conformance, small

OBS, ACTION, BATCH = 17, 6, 128


def dense_member(config: Any) -> tuple[Any, Any]:
    """An agent, and shapes of a dense member of it without events."""
    events = Events(interval=1000, end=0, drop_fraction=0.5)
    networks = dict.fromkeys(config.NETWORKS, drop_grow.DROP_GROW)
    agent = algorithm(config.name).make(config, OBS, ACTION, networks, dict.fromkeys(networks, events))
    settings = {
        name: METHODS["dense"].settings(agent.layers[name], 0.0, events, "released") for name in networks
    }
    state = jax.eval_shape(agent.init, jax.random.key(0), {**settings, "dense_targets": np.bool_(False)})
    return agent, state


def counted_part(part: Any, state: Any, batch: Any) -> float:
    """XLA's own count of `update` or `delayed`."""
    fn = jax.jit(lambda state, batch, key, clock: part(state, batch, key, clock, conformance.EVIDENCE))
    lowered = fn.lower(state, batch, jax.random.key(1), Clock(np.int32(1), np.int32(1)))
    return float(lowered.cost_analysis().get("flops", 0.0))


def counted(config: Any, window: int) -> float:
    """XLA's own count of one update with its share of the delayed part, for a dense member without events."""
    agent, state = dense_member(config)
    windows = conformance.batch(0, BATCH, window=window)
    windows = windows._replace(
        obs=np.zeros((BATCH, OBS), np.float32),
        action=np.zeros((BATCH, ACTION), np.float32),
        closing_obs=np.zeros((BATCH, OBS), np.float32),
        successors=np.zeros((BATCH, window, OBS), np.float32) if window > 1 else None,
    )
    return (
        counted_part(agent.update, state, windows) + counted_part(agent.delayed, state, windows) / agent.delay
    )


@pytest.mark.parametrize(
    ("config", "window"), [(TD3Config, 1), (SACConfig, 1), (SACConfig, 3)], ids=["td3", "sac", "sac-n3"]
)
def test_the_formula_of_an_update_is_what_xla_counts(config, window):
    config = config(hidden=(64, 64), batch_size=BATCH)
    layers = costs.layer_tables(config, OBS, ACTION)
    actor, critic = costs.forward_dense(layers["actor"]), costs.forward_dense(layers["critic"]) / 2
    if config.name == "td3":
        formula = flops.td3_update(actor, critic, batch=BATCH, delay=config.policy_delay)
    else:
        formula = flops.sac_update(actor, critic, batch=BATCH, n=window, delay=config.policy_delay)
    # The compiler also counts element-wise work and leaves out gradients with respect to observations.
    assert 0.9 < counted(config, window) / formula < 1.1


OFFLINE = {
    "iql": {},
    "awac": {},
    "tawac": {},
    "tawac_nearest": {},
    "tawac_reverse": {},
    "inac": {},
    "fttpo_corrected": {},
    "fttpo_released": {"actor_loss": "spot", "critic_actor": "thin"},
}


@pytest.mark.parametrize("name", OFFLINE)
def test_the_formulas_of_algorithms_that_learn_from_datasets_are_what_xla_counts(name, monkeypatch):
    monkeypatch.setattr(tawac_thin, "DRAWS", 1)  # XLA counts the arithmetic of draws, too
    config = algorithm(name).config(hidden=(64, 64), batch_size=BATCH, **OFFLINE[name])
    layers = costs.layer_tables(config, OBS, ACTION)
    beside = {network: (layers[network], None) for network in config.NETWORKS[1:] if network != "critic"}
    switches = {"switches": OFFLINE[name]} if OFFLINE[name] else {}
    cost = algorithm(name).cost(
        layers["actor"], layers["critic"], updates=1, batch=BATCH, beside=beside, **switches
    )
    # A pass too many or too few would be 4 % and more.
    assert 0.98 < counted(config, 1) / cost.total < 1.02


@pytest.mark.parametrize("name", ["td3", "fttpo_corrected"])
def test_the_surcharge_of_masks_is_that_of_all_networks(name):
    """An operation per weight and optimiser step, and per target; an event counts every weight 64 times."""
    config = algorithm(name).config(hidden=(8, 8), batch_size=BATCH)
    layers = costs.layer_tables(config, OBS, ACTION)
    run = Run(small.training(agent=config, steps=400), recipe("dense"), 0.0, 0, "dense")
    actor, critic, *others = (layers[network].weights for network in sorted(config.NETWORKS))
    ticks = critic + sum(others) + actor / config.policy_delay
    operations = ticks + (critic + actor) / config.policy_delay + 7 * 64 * ticks / run.training.updates
    passes = {"td3": 2 * (2.5 * actor + 4.5 * critic), "fttpo_corrected": 0.0}
    if others:
        proposal, value = others
        passes[name] = 2 * (4 * actor + 5 * proposal + 6 * critic + 4 * value)
    assert costs.surcharge(run, layers, 7) == pytest.approx(operations / (BATCH * passes[name]))


def test_the_formula_of_ppo_is_what_xla_counts():
    """One update, and by hand what a run costs: K epochs of 3 A + 3 V per sample, A + V per step acted."""
    config = PPOConfig(hidden=(64, 64), batch_size=BATCH)
    layers = costs.layer_tables(config, OBS, ACTION)
    policy, value = (costs.forward_dense(layers[name]) for name in ("actor", "critic"))
    assert (policy, value) == (2 * 64 * (OBS + 64 + ACTION), 2 * 64 * (OBS + 64 + 1))
    one = flops.ppo_run(layers["actor"], layers["critic"], updates=1, batch=BATCH)
    assert one.total == one.dense == BATCH * 3 * (policy + value)
    agent, state = dense_member(config)
    shapes = {"obs": (OBS,), "action": (ACTION,), "log_density": (), "advantage": (), "target": ()}
    samples = Samples(**{name: np.zeros((BATCH, *shape), np.float32) for name, shape in shapes.items()})
    batch = Minibatch(samples, jax.random.key(0))
    assert 0.9 < counted_part(agent.update, state, batch) / one.total < 1.1
    half = [layer.size // 2 for layer, _ in layers["actor"].tensors]
    run = flops.ppo_run(
        layers["actor"], layers["critic"], half, None, updates=40, batch=BATCH, env_steps=512, last_values=512,
        dense_growth=True, actor_events=3, critic_events=3,
    )  # fmt: skip
    assert run.updates == 40 * BATCH * 3 * (policy // 2 + value)
    assert run.acting == 512 * (policy // 2 + 2 * value)
    assert run.surcharge == 3 * BATCH * (policy - policy // 2)
    assert run.dense == 40 * BATCH * 3 * (policy + value) + 512 * (policy + 2 * value)
