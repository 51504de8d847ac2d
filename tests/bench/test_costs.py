"""Costs by formula agree with what the compiler counts."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from sparserl_jax.accounting import flops
from sparserl_jax.agents.agent import Clock
from sparserl_jax.agents.registry import algorithm
from sparserl_jax.agents.sac import SACConfig
from sparserl_jax.agents.td3 import TD3Config
from sparserl_jax.bench import costs
from sparserl_jax.sparsity import METHODS, drop_grow
from sparserl_jax.sparsity.contract import Events
from tests.reference import conformance

OBS, ACTION, BATCH = 17, 6, 128


def counted(config: Any, window: int) -> float:
    """XLA's own count of one update with its share of the delayed part, for a dense member without events."""
    events = Events(interval=1000, end=0, drop_fraction=0.5)
    networks = dict.fromkeys(conformance.NETWORKS, drop_grow.DROP_GROW)
    agent = algorithm(config.name).make(config, OBS, ACTION, networks, dict.fromkeys(networks, events))
    settings = {
        name: METHODS["dense"].settings(agent.layers[name], 0.0, events, "released") for name in networks
    }
    state = jax.eval_shape(agent.init, jax.random.key(0), {**settings, "dense_targets": np.bool_(False)})
    windows = conformance.batch(0, BATCH, window=window)
    windows = windows._replace(
        obs=np.zeros((BATCH, OBS), np.float32),
        action=np.zeros((BATCH, ACTION), np.float32),
        closing_obs=np.zeros((BATCH, OBS), np.float32),
        successors=np.zeros((BATCH, window, OBS), np.float32) if window > 1 else None,
    )
    key, clock = jax.random.key(1), Clock(np.int32(1), np.int32(1))

    def count(part) -> float:
        fn = jax.jit(
            lambda state, windows, key, clock: part(state, windows, key, clock, conformance.EVIDENCE)
        )
        return float(fn.lower(state, windows, key, clock).cost_analysis()["flops"])

    return count(agent.update) + count(agent.delayed) / agent.delay


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
