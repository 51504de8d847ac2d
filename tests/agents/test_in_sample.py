"""Algorithms that learn from a dataset compute what their equations say, and find the best supported action."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from sparserl_jax.agents.registry import algorithm
from sparserl_jax.conformance.laboratory import clock_at, hasty
from sparserl_jax.distributions import TanhNormal
from sparserl_jax.replay import Batch
from sparserl_jax.sparsity import METHODS, drop_grow
from sparserl_jax.sparsity.contract import Events
from tests.reference import in_sample_numpy as oracle
from tests.reference.conformance import EVIDENCE, host
from tests.reference.ppo_numpy import Adam

OBS, ACTION, SIZE = 3, 2, 12
EVENTS = Events(interval=4, end=41, drop_fraction=0.5)
NUMBERS = {"learning_rate": 1e-2, "tau": 0.1, "gamma": 0.9}
AGENTS = list(oracle.LOSSES)


class Small:
    """A small agent whose networks all carry the family that drops and grows; draws have `noise` where it is given."""

    def __init__(
        self, name: str, obs: int = OBS, action: int = ACTION, noise: np.ndarray | None = None, **changes: Any
    ) -> None:
        self.config = algorithm(name).config(hidden=(8, 6), batch_size=SIZE, **NUMBERS | changes)
        names = self.config.NETWORKS
        self.agent = agent = algorithm(name).make(
            self.config,
            obs,
            action,
            dict.fromkeys(names, drop_grow.DROP_GROW),
            dict.fromkeys(names, EVENTS),
        )
        self._init = hasty(agent.init)
        self._update = hasty(lambda s, b, key, clock: agent.update(s, b, key, clock, EVIDENCE))
        self.noise = noise

    def begin(self, method: str = "dense", sparsity: float = 0.0, **numbers: float) -> Any:
        """A fresh state with `numbers` in place of the configuration's."""
        own = METHODS[method]
        of = {
            name: own.settings(table, sparsity, EVENTS, "released")
            for name, table in self.agent.layers.items()
        }
        traced = dataclasses.replace(self.config, **numbers).traced()
        settings = {**of, "dense_targets": np.bool_(True), "traced": traced}
        return self._init(jax.random.key(0), settings)

    def update(self, state: Any, batch: Batch, updates: int) -> tuple[Any, Any]:
        """The update that follows `updates` others."""
        with pytest.MonkeyPatch.context() as patch:
            if self.noise is not None:
                patch.setattr(TanhNormal, "sample", lambda normal, key: normal.at(self.noise))
            return self._update(state, batch, jax.random.key(updates), clock_at(updates))


NOISE = np.random.default_rng(9).normal(size=(SIZE, ACTION)).astype(np.float32)
small = functools.cache(lambda name: Small(name, noise=NOISE))


def transitions(seed: int, size: int = SIZE) -> Batch:
    """Made-up transitions: some terminal, two not to be used."""
    rng = np.random.default_rng(seed)
    return Batch(
        obs=rng.normal(size=(size, OBS)).astype(np.float32),
        action=rng.uniform(-0.95, 0.95, (size, ACTION)).astype(np.float32),
        rewards=rng.normal(size=(size, 1)).astype(np.float32),
        terminated=rng.random((size, 1)) < 0.3,
        truncated=np.zeros((size, 1), bool),
        closing_obs=rng.normal(size=(size, OBS)).astype(np.float32),
        used=np.ones(size, np.int32),
        valid=np.arange(size) >= 2,
    )


def networks(state: Any) -> dict[str, Any]:
    """Parameters by network, in double precision, with the critic's target."""
    names = [name for name in ("actor", "critic", "value", "behaviour") if hasattr(state, name)]
    found = {name: oracle.double(host(getattr(state, name).params)) for name in names}
    return {**found, "target_critic": oracle.double(host(state.target_critic[0]))}


def numbers(lab: Small, **changes: float) -> dict[str, float]:
    return {name: getattr(lab.config, name) for name in lab.config.TRACED} | changes


# ---- equations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_losses_and_whole_updates_are_those_of_the_restatement(name):
    """Two updates, the second with Adam's moments of the first."""
    lab, adam = small(name), Adam(1e-8)
    state = lab.begin()
    nets = networks(state)
    for update in range(2):
        batch = transitions(update)
        state, metrics = lab.update(state, batch, update)
        nets, losses = oracle.updated(name, nets, batch, numbers(lab), NOISE, adam)
        for network, loss in losses.items():
            np.testing.assert_allclose(
                metrics[f"{network}_loss"], loss, rtol=1e-5, atol=1e-6, err_msg=network
            )
        for network, params in networks(state).items():
            for path, array in oracle.arrays(params).items():
                np.testing.assert_allclose(
                    array, oracle.arrays(nets[network])[path], atol=2e-5, err_msg=f"{network} {path}"
                )
    assert set(metrics["events"]) == set(losses) == set(lab.agent.ticks(3))
