"""Algorithms that learn from a dataset compute what their equations say, and find the best supported action."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.accounting import flops, in_sample_flops
from sparserl_jax.agents import awac, in_sample, iql, sql, tawac, xql
from sparserl_jax.agents.policies import COVERING
from sparserl_jax.agents.registry import AGENTS as KNOWN
from sparserl_jax.agents.registry import algorithm, build
from sparserl_jax.conformance.laboratory import clock_at, hasty
from sparserl_jax.distributions import TanhNormal
from sparserl_jax.envs import EnvSpec
from sparserl_jax.errors import UserError
from sparserl_jax.replay import Batch
from sparserl_jax.sparsity import METHODS, drop_grow
from sparserl_jax.sparsity.contract import Events
from tests.reference import in_sample_numpy as oracle
from tests.reference import rlx2_numpy
from tests.reference.conformance import EVIDENCE, equal, host, zero_outside
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
    """Made-up transitions: some terminal, two not to be used, two with an action on the edge of the box."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(size, OBS)).astype(np.float32)
    action = rng.uniform(-0.95, 0.95, (size, ACTION)).astype(np.float32)
    action[3, 0], action[5, 1] = 1.0, -1.0
    return Batch(
        obs=obs,
        action=action,
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
@pytest.mark.slow
def test_losses_and_whole_updates_are_those_of_the_restatement(name):
    """Two updates, the second with Adam's moments of the first; parameters to a hundredth of a step."""
    lab, adam = small(name), Adam(1e-8)
    state = lab.begin()
    nets = networks(state)
    for update in range(2):
        batch = transitions(update)
        state, metrics = lab.update(state, batch, update)
        nets, losses = oracle.updated(name, nets, batch, numbers(lab), NOISE, adam)
        oracle.assert_agree(metrics, losses, networks(state), nets)
    assert set(metrics["events"]) == set(losses) == set(lab.agent.ticks(3))


SCALE = {"sql": "alpha"}
"""What weights are relative to, where it is no temperature."""


def at_the_actor(before: Any, after: Any) -> dict[str, Any]:
    """The networks that the actor's tick saw."""
    return {**networks(after), "actor": networks(before)["actor"]}


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.slow
def test_weights_are_clipped(name):
    """At tiny temperatures, where advantages would make them huge."""
    lab, batch = small(name), transitions(5)
    tiny = {SCALE.get(name, "temperature"): 1e-6}
    before = lab.begin(**tiny)
    after, metrics = lab.update(before, batch, 0)
    nets = at_the_actor(before, after)
    if "value" in nets:
        better = oracle.advantage(nets, "target_critic", batch)
    else:
        own, _ = oracle.drawn(nets["actor"], batch.obs, NOISE)
        better = oracle.worst(nets["critic"], batch.obs, batch.action) - oracle.worst(
            nets["critic"], batch.obs, own
        )
    assert better[batch.valid].max() > 0.02  # there is something to clip
    with np.errstate(over="ignore"):
        expected = oracle.LOSSES[name]["actor"](nets, batch, numbers(lab, **tiny), NOISE)
    assert np.isfinite(expected)
    np.testing.assert_allclose(metrics["actor_loss"], expected, rtol=1e-4)


def test_between_the_line_and_the_exponential_tawac_weighs_by_the_power_that_q_says():
    """At q = 1.5 by [1 + A / (2 temperature)]_+^2."""
    lab, batch = Small("tawac", noise=NOISE, q=1.5), transitions(5)
    before = lab.begin(temperature=0.3)
    after, metrics = lab.update(before, batch, 0)
    nets = at_the_actor(before, after)
    root = np.maximum(1 + 0.5 * oracle.advantage(nets, "critic", batch) / 0.3, 0)
    expected = oracle.cloned(nets, batch, np.clip(root**2, 1e-8, 1e4))
    np.testing.assert_allclose(metrics["actor_loss"], expected, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in AGENTS if name != "inac"])
def test_at_a_high_temperature_the_policy_clones(name):
    """All weights are 1. (InAC's are the inverse of the behaviour's density then.)"""
    lab, batch = small(name), transitions(6)
    before = lab.begin(**{SCALE.get(name, "temperature"): 1e9})
    _, metrics = lab.update(before, batch, 0)
    expected = oracle.cloned(networks(before), batch, 1.0)
    np.testing.assert_allclose(metrics["actor_loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.slow
def test_only_algorithms_with_a_value_of_the_policy_look_at_actions_that_are_not_logged(name):
    lab = Small(name)
    state, batch, asked = lab.begin(), transitions(7), set[bool]()
    values = in_sample.InSample.values

    def update(state: Any, batch: Batch) -> Any:
        def noted(self: Any, params: Any, obs: Any, action: Any) -> Any:
            asked.add(action is batch.action)
            return values(self, params, obs, action)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(in_sample.InSample, "values", noted)
            return lab.agent.update(state, batch, jax.random.key(0), clock_at(0), EVIDENCE)

    jax.eval_shape(update, state, batch)
    assert asked == ({True} if name in ("iql", "sql", "xql") else {True, False})


def stationary(loss: Any, value: float) -> None:
    """`loss` is least at `value`: its slope is 0 there and grows."""
    slope = jax.grad(loss)
    assert float(slope(jnp.float32(value))) == pytest.approx(0.0, abs=1e-5)
    assert slope(jnp.float32(value - 0.1)) < 0 < slope(jnp.float32(value + 0.1))


FOUND = np.random.default_rng(0).normal(size=200).astype(np.float32)


def test_an_expectile_of_a_half_is_the_mean_squared_error():
    np.testing.assert_allclose(iql.asymmetric_square(FOUND, 0.5), 0.5 * FOUND**2, rtol=1e-6)
    stationary(lambda v: jnp.mean(iql.asymmetric_square(FOUND - v, 0.5)), FOUND.mean())
    levels = np.linspace(FOUND.min(), FOUND.max(), 2001)
    least = [
        levels[np.argmin([np.asarray(iql.asymmetric_square(FOUND - v, e)).mean() for v in levels[::20]]) * 20]
        for e in (0.5, 0.7, 0.9, 0.99)
    ]
    assert least == sorted(least) and least[-1] > np.quantile(FOUND, 0.9)


def test_gumbel_regression_finds_the_soft_maximum():
    beta, valid = 0.7, np.arange(200) > 2
    soft = beta * np.log(np.mean(np.exp(FOUND[valid].astype(np.float64) / beta)))
    stationary(lambda v: jnp.mean(valid * xql.gumbel(FOUND - v, beta, valid)), soft)
    far = jax.grad(lambda v: jnp.mean(xql.gumbel(FOUND - v, 1e-3, valid)))(jnp.float32(0.0))
    assert np.isfinite(far)


def test_the_weights_of_sparse_q_learning_are_a_density_ratio():
    """Where its value loss is least they have mean 1 over the data, and some are 0."""
    alpha, low, high = 0.2, -5.0, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.mean(sql.ratio(FOUND - middle, alpha)) > 1 else (low, middle)
    stationary(lambda v: jnp.mean(sql.ratio(FOUND - v, alpha) ** 2 + v / alpha), low)
    assert (np.asarray(sql.ratio(FOUND - low, alpha)) == 0).mean() > 0.2


def test_exponential_weights_end_at_a_hundred():
    np.testing.assert_allclose(
        in_sample.exponential(jnp.array([-1e3, 0.0, 0.1, 1e3]), 0.1), [0, 1, np.e, 100]
    )


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(UserError, match="did you mean 'squashed'"):
        awac.AWACConfig(policy="squashd")
    with pytest.raises(UserError, match="at least 1"):
        tawac.TAWACConfig(q=0.5)


@pytest.mark.parametrize("name", AGENTS)
def test_policies_that_logged_actions_lie_outside_of_are_refused_in_one_sentence(name):
    config = algorithm(name).config
    for kind in COVERING:
        assert config(policy=kind).policy == kind
    with pytest.raises(UserError) as error:
        config(policy="thin")
    told = str(error.value)
    assert f"agent '{name}': a policy 'thin' gives logged actions outside its support no likelihood" in told
    assert "give one of squashed, normal, fat, student, beta" in told and "\n" not in told


def test_the_registry_knows_whose_policies_can_be_drawn_from():
    spec = EnvSpec("x", OBS, ACTION, (-1.0,) * ACTION, (1.0,) * ACTION, 10)
    for name, known in KNOWN.items():
        if "continuous" in known.actions:
            config = known.config(hidden=(4, 4))
            agent = build(config, spec, drop_grow.DROP_GROW, dict.fromkeys(config.NETWORKS, EVENTS))
            assert known.drawn == (agent.sample_policy is not None), name


# ---- acting ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_mode_acts_and_the_policy_can_be_drawn_from():
    lab, obs = small("iql"), transitions(8).obs
    state = lab.begin()
    actor = networks(state)["actor"]
    mode = np.tanh(oracle.policy(actor, obs)[0])
    params, _, _ = lab.agent.deployed(state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TanhNormal, "sample", lambda normal, key: normal.at(NOISE))
        drawn = lab.agent.sample_policy(params, obs, jax.random.key(0))
        explored, noise_free = lab.agent.act(state, obs, jax.random.key(0), True)
    expected = oracle.drawn(actor, obs, NOISE)[0]
    for action in (drawn, explored):
        np.testing.assert_allclose(action, expected, atol=1e-5)
    greedy, _ = lab.agent.act(state, obs, jax.random.key(0), False)
    for action in (lab.agent.policy(params, obs), greedy, noise_free):
        np.testing.assert_allclose(action, mode, atol=1e-5)
    first = rlx2_numpy.values(networks(state)["critic"], obs, mode)[0]
    np.testing.assert_allclose(lab.agent.value(state, obs), first, rtol=1e-4, atol=1e-5)


DOSES = np.array([-0.6, -0.2, 0.4, 0.8], np.float32)
REWARDS = np.array([[-1.0, 0.0, 1.0, 0.2], [1.0, 0.2, -0.5, -1.0]], np.float32)
"""Of every dose, by kind of patient; all episodes end at once."""
SETTINGS: dict[str, dict[str, float]] = {
    "iql": {"expectile": 0.9, "temperature": 0.1},
    "awac": {"temperature": 0.1},
    "tawac": {"temperature": 0.1},
    "inac": {"temperature": 0.1},
    "sql": {"alpha": 0.1},
    "xql": {"beta": 0.2, "temperature": 0.1},
}


def bandit(rng: np.random.Generator) -> Batch:
    """A batch of single decisions, the dose drawn uniformly; the second action does nothing."""
    kind, dose = rng.integers(0, 2, SIZE), rng.integers(0, 4, SIZE)
    obs = np.zeros((SIZE, OBS), np.float32)
    obs[np.arange(SIZE), kind] = 1.0
    return transitions(0)._replace(
        obs=obs,
        action=np.stack([DOSES[dose], rng.uniform(-0.5, 0.5, SIZE)], axis=1).astype(np.float32),
        rewards=REWARDS[kind, dose][:, None],
        terminated=np.ones((SIZE, 1), bool),
        closing_obs=obs,
        valid=np.ones(SIZE, bool),
    )


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.slow
def test_the_policy_finds_the_best_dose_that_the_data_support(name):
    lab, rng = small(name), np.random.default_rng(1)
    state = lab.begin(**SETTINGS[name])
    for update in range(1500 if name == "iql" else 600):
        state, _ = lab.update(state, bandit(rng), update)
    mode = np.tanh(oracle.policy(networks(state)["actor"], np.eye(2, OBS))[0])[:, 0]
    np.testing.assert_allclose(mode, DOSES[REWARDS.argmax(axis=1)], atol=0.15)


# ---- methods -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iql", "inac", "awac"])
def test_every_network_keeps_its_budget_and_its_mask(name):
    lab = small(name)
    state = lab.begin("rigl", 0.6)
    start = host(lab.agent.masks(state))
    assert set(start) == set(lab.config.NETWORKS)
    changed: dict[str, list[int]] = {network: [] for network in start}
    for update in range(9):
        before = host(lab.agent.masks(state))
        state, metrics = lab.update(state, transitions(20 + update), update)
        masks = host(lab.agent.masks(state))
        for network, own in masks.items():
            if not equal(before[network], own):
                changed[network].append(update + 1)
            assert zero_outside(getattr(state, network).params, own)
            counts = [int(leaf.sum()) for leaf in jax.tree.leaves(own)]
            assert counts == [int(leaf.sum()) for leaf in jax.tree.leaves(start[network])]
            assert bool(metrics["events"][network]) == ((update + 1) % 4 == 0)
        assert zero_outside(state.target_critic[0], masks["critic"])
    assert all(ticks == [4, 8] for ticks in changed.values()), changed


def test_diagnostics_look_at_every_network():
    for name in ("inac", "awac"):
        lab = small(name)
        seen = jax.eval_shape(lab.agent.diagnose, lab.begin(), transitions(3), jax.random.key(0), clock_at(4))
        for network in lab.config.NETWORKS:
            assert {f"{network}_masked_grad_norm", f"dormant_{network}_hidden_0"} <= set(seen)


# ---- costs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "actor", "twin", "value", "behaviour"),
    [("iql", 3, 5, 5, 0), ("awac", 5, 6, 0, 0), ("tawac", 5, 6, 4, 0), ("inac", 5, 6, 4, 4)],
)
def test_costs_count_the_passes_of_an_update(name, actor, twin, value, behaviour):
    layers = small(name).agent.layers
    beside = {
        network: (table, None) for network, table in layers.items() if network in ("value", "behaviour")
    }
    cost = algorithm(name).cost(layers["actor"], layers["critic"], updates=7, batch=3, beside=beside)
    policy, both = flops.forward(layers["actor"]), flops.forward(layers["critic"])
    state = 2 * (OBS * 8 + 8 * 6 + 6)
    assert cost.updates == 21 * ((actor + behaviour) * policy + twin * both + value * state)
    assert (cost.acting, cost.total, cost.dense) == (0, cost.updates, cost.updates)
    half = [layer.size // 2 for layer, _ in layers["actor"].tensors]
    sparse = in_sample_flops.run({"actor": 3}, layers["actor"], layers["critic"], half, updates=7, batch=3)
    assert sparse.ratio == pytest.approx(0.5)
