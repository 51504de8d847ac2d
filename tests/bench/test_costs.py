"""Costs by formula agree with what the compiler counts."""

from __future__ import annotations

import jax
import numpy as np

from sparserl_jax.accounting import flops
from sparserl_jax.agents import td3
from sparserl_jax.agents.agent import Clock
from sparserl_jax.bench import costs
from sparserl_jax.sparsity import METHODS, drop_grow
from sparserl_jax.sparsity.contract import Events
from tests.reference import conformance

OBS, ACTION, BATCH, DELAY = 17, 6, 128, 2


def counted() -> float:
    """XLA's own count of one TD3 update with its share of the delayed part, for a dense member without events."""
    config = td3.TD3Config(hidden=(64, 64), batch_size=BATCH, policy_delay=DELAY)
    events = Events(interval=1000, end=0, drop_fraction=0.5)
    networks = dict.fromkeys(conformance.NETWORKS, drop_grow.DROP_GROW)
    agent = td3.make(config, OBS, ACTION, networks, dict.fromkeys(networks, events))
    settings = {
        name: METHODS["dense"].settings(agent.layers[name], 0.0, events, "released") for name in networks
    }
    state = jax.eval_shape(agent.init, jax.random.key(0), {**settings, "dense_targets": np.bool_(False)})
    windows = conformance.batch(0, BATCH, window=1)
    windows = windows._replace(
        obs=np.zeros((BATCH, OBS), np.float32),
        action=np.zeros((BATCH, ACTION), np.float32),
        closing_obs=np.zeros((BATCH, OBS), np.float32),
    )
    key, clock = jax.random.key(1), Clock(np.int32(1), np.int32(1))

    def count(part) -> float:
        fn = jax.jit(
            lambda state, windows, key, clock: part(state, windows, key, clock, conformance.EVIDENCE)
        )
        return float(fn.lower(state, windows, key, clock).cost_analysis()["flops"])

    return count(agent.update) + count(agent.delayed) / DELAY


def test_the_formula_of_an_update_is_what_xla_counts():
    layers = costs.layer_tables(td3.TD3Config(hidden=(64, 64)), OBS, ACTION)
    critic = costs.forward_dense(layers["critic"]) / layers["critic"][0].copies
    formula = flops.td3_update(costs.forward_dense(layers["actor"]), critic, batch=BATCH, delay=DELAY)
    # The compiler also counts element-wise work and leaves out gradients with respect to observations.
    assert 0.9 < counted() / formula < 1.1
