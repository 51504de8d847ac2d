"""Cloning a dataset: loss and whole updates as the NumPy re-statement has them, masks, costs, what is refused."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from sparserl_jax.accounting import flops
from sparserl_jax.agents import bc
from sparserl_jax.agents.registry import algorithm
from sparserl_jax.conformance.laboratory import clock_at, hasty
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import METHODS, drop_grow
from sparserl_jax.sparsity.contract import Events
from tests.agents.test_in_sample import ACTION, OBS, SIZE, transitions
from tests.reference import in_sample_numpy as oracle
from tests.reference.conformance import EVIDENCE, equal, host, zero_outside
from tests.reference.ppo_numpy import Adam

EVENTS = Events(interval=4, end=41, drop_fraction=0.5)


class Small:
    """A small agent of one policy, and its functions compiled."""

    def __init__(self, policy: str) -> None:
        self.config = bc.BCConfig(hidden=(8, 6), batch_size=SIZE, learning_rate=1e-2, policy=policy)
        family, events = {"actor": drop_grow.DROP_GROW}, {"actor": EVENTS}
        self.agent = agent = bc.make(self.config, OBS, ACTION, family, events)
        self._init = hasty(agent.init)
        self._update = hasty(lambda s, b, key, clock: agent.update(s, b, key, clock, EVIDENCE))

    def begin(self, method: str = "dense", sparsity: float = 0.0) -> Any:
        own = METHODS[method].settings(self.agent.layers["actor"], sparsity, EVENTS, "released")
        return self._init(jax.random.key(0), {"actor": own, "traced": self.config.traced()})

    def update(self, state: Any, batch: Any, updates: int) -> tuple[Any, Any]:
        return self._update(state, batch, jax.random.key(updates), clock_at(updates))


@pytest.fixture(scope="module", params=list(oracle.CLONING))
def lab(request) -> Small:
    return Small(request.param)


def networks(state: Any) -> dict[str, Any]:
    return {"actor": oracle.double(host(state.actor.params))}


def test_losses_and_whole_updates_are_those_of_the_restatement(lab):
    """Two updates, the second with Adam's moments of the first; entries that are not valid weigh nothing."""
    adam, state = Adam(1e-8), lab.begin()
    nets, noise = networks(state), np.zeros((SIZE, ACTION))
    for update in range(2):
        batch = transitions(update)
        state, metrics = lab.update(state, batch, update)
        nets, losses = oracle.updated(lab.config.policy, nets, batch, {"learning_rate": 1e-2}, noise, adam)
        oracle.assert_agree(metrics, losses, networks(state), nets)
    assert set(metrics["events"]) == {"actor"} == set(lab.agent.ticks(3))


def test_it_clones_and_keeps_its_budget(lab):
    state = lab.begin("rigl", 0.5)
    start = host(lab.agent.masks(state))["actor"]
    data = transitions(3)._replace(valid=np.ones(SIZE, bool))
    data = data._replace(action=np.tanh(data.obs[:, :ACTION]))
    changed, first = [], None
    for update in range(40):
        before = host(lab.agent.masks(state))["actor"]
        state, metrics = lab.update(state, data, update)
        masks = host(lab.agent.masks(state))["actor"]
        first = metrics["actor_loss"] if first is None else first
        if not equal(before, masks):
            changed.append(update + 1)
        assert zero_outside(state.actor.params, masks)
        assert [int(x.sum()) for x in jax.tree.leaves(masks)] == [
            int(x.sum()) for x in jax.tree.leaves(start)
        ]
    assert changed and all(tick % 4 == 0 for tick in changed)
    assert metrics["actor_loss"] < first - 0.02
    params, _, _ = lab.agent.deployed(state)
    near = np.abs(np.asarray(lab.agent.policy(params, data.obs)) - data.action).mean()
    assert near < 0.85 * np.abs(data.action).mean()


def test_draws_of_a_deterministic_policy_are_its_one_action(lab):
    params, _, _ = lab.agent.deployed(lab.begin())
    obs = transitions(0).obs
    drawn = np.stack([lab.agent.sample_policy(params, obs, jax.random.key(i)) for i in range(3)])
    if lab.config.policy == bc.DETERMINISTIC:
        np.testing.assert_array_equal(drawn, np.stack([lab.agent.policy(params, obs)] * 3))
    else:
        assert np.ptp(drawn, axis=0).min() > 0 and np.abs(drawn).max() < 1


@pytest.mark.parametrize("policy", bc.POLICIES)
def test_networks_for_a_description_are_those_that_are_trained(policy):
    """`sparserl evaluate` makes them from the kind of policy that a file names."""
    config = bc.BCConfig(hidden=(4,), policy=policy)
    family, events = {"actor": drop_grow.DROP_GROW}, {"actor": EVENTS}
    agent = bc.make(config, OBS, ACTION, family, events)
    parts = bc.modules((4,), ACTION, policy=policy)
    assert parts.layers(OBS, ACTION)["actor"] == agent.layers["actor"]


def test_costs_are_a_forward_and_a_backward_pass_of_the_actor():
    layers = Small("squashed").agent.layers["actor"]
    for name in ("bc", "bc10"):
        cost = algorithm(name).cost(layers, None, updates=7, batch=3)
        assert (cost.updates, cost.acting) == (7 * 3 * 3 * flops.forward(layers), 0)


def test_ten_percent_cloning_is_a_share_of_the_episodes():
    assert (algorithm("bc").config().best, algorithm("bc10").config().best) == (1.0, 0.1)
    for best in (0.0, 1.5, -0.1, float("nan")):
        with pytest.raises(UserError, match=r"agent\.best = .* must be in \(0, 1\]"):
            bc.BCConfig(best=best)
    with pytest.raises(UserError, match="policy of agent 'bc'"):
        bc.BCConfig(policy="thin")
    with pytest.raises(UserError, match="did you mean 'deterministic'"):
        bc.BCConfig(policy="determinstic")
