"""DQN computes what its equations say, whatever sparsity method its network carries, and explores as declared."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.agents import dqn
from sparserl_jax.agents.agent import Clock
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import METHODS
from sparserl_jax.sparsity.contract import Events
from tests.reference import conformance, dqn_numpy
from tests.reference.conformance import EVIDENCE, OBS, equal, host, zero_outside

CHOICES = 3
EVENTS, NEVER = Events(4, 41, 0.5), Events(4, 0, 0.5)
CONFIG = dqn.DQNConfig(hidden=(16, 16), batch_size=24, learning_rate=1e-2, gamma=0.9, target_period=2)
FAMILIES = {method.family.name: name for name, method in reversed(METHODS.items())}


def batch(seed: int, window: int = 3) -> Any:
    """Windows whose actions are scores or one-hot choices: both mean their largest entry."""
    rng, windows = np.random.default_rng(seed), conformance.batch(seed, 24, window)
    scores = rng.uniform(-1, 1, (24, CHOICES)).astype(np.float32)
    taken = np.where(np.arange(24)[:, None] % 2, scores, np.eye(CHOICES)[scores.argmax(axis=1)])
    return windows._replace(action=taken.astype(np.float32), rewards=2 * windows.rewards)


class Lab:
    """DQN with one method at one sparsity; its parts are compiled at their first use."""

    def __init__(self, method: str = "static", knob: float = 0.5, events: Events = NEVER, **changes: Any):
        self.config = dataclasses.replace(CONFIG, **changes)
        found = METHODS[method]
        self.agent = agent = dqn.make(self.config, OBS, CHOICES, {"actor": found.family}, {"actor": events})
        own = found.settings(agent.layers["actor"], knob, events, "released")
        settings = {"actor": own, "dense_targets": np.bool_(False), "traced": self.config.traced()}
        self.start = jax.jit(agent.init)(jax.random.key(0), settings)
        self.act = jax.jit(agent.act, static_argnums=3)
        self.compiled = jax.jit(
            lambda state, data, key, clock: agent.update(state, data, key, clock, EVIDENCE)
        )

    def update(self, state: Any, data: Any, done: int) -> Any:
        return self.compiled(state, data, jax.random.key(done), Clock(np.int32(done), np.int32(done)))


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab()


def apart(lab: Lab) -> Any:
    """A state whose target is another network than the trained one, so that they cannot be taken for each other."""
    other = jax.tree.map(lambda x: 1.5 * jnp.flip(x, -1), lab.start.actor.params)
    return lab.start._replace(target=(other, {}))


@pytest.mark.parametrize(("double", "window", "kind"), [(True, 3, "squared"), (False, 1, "huber")])
@pytest.mark.slow
def test_the_loss_is_that_of_the_restatement(double, window, kind):
    lab, huber = Lab(double=double, loss=kind), kind == "huber"
    state, windows = apart(lab), batch(7, window)
    _, metrics = lab.update(state, windows, 0)
    online, frozen = host(state.actor.params), host(state.target[0])
    y = dqn_numpy.target(online, frozen, windows, CONFIG.gamma, double)
    assert float(metrics["actor_loss"]) == pytest.approx(dqn_numpy.loss(online, windows, y, huber), rel=1e-5)
    taken = dqn_numpy.values(online, windows.obs)[np.arange(24), windows.action.argmax(axis=1)]
    assert float(metrics["q"]) == pytest.approx(taken.mean(), rel=1e-5)
    other = dqn_numpy.loss(
        online, windows, dqn_numpy.target(online, frozen, windows, CONFIG.gamma, not double), huber
    )
    assert float(metrics["actor_loss"]) != pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize(("following", "kind"), [("hard", "squared"), ("polyak", "huber")])
@pytest.mark.slow
def test_updates_are_those_of_the_restatement_under_the_mask(following, kind):
    """Three ticks: gradients by hand, Adam, masks; the target is a copy after the second, or moves by tau each time."""
    lab = Lab(target=following, loss=kind, **({"tau": 0.3} if following == "polyak" else {}))
    state = apart(lab)
    live = host(lab.agent.masks(state)["actor"])["mlp"]
    params, frozen = host(state.actor.params)["mlp"], host(state.target[0])["mlp"]
    seen: list[Any] = []
    for done in range(3):
        windows = batch(20 + done)
        y = dqn_numpy.target({"mlp": params}, {"mlp": frozen}, windows, CONFIG.gamma, True)
        dense = dqn_numpy.gradient({"mlp": params}, windows, y, kind == "huber")
        seen.append(jax.tree.map(lambda g, m: g * m, dense, live))
        steps = jax.tree.map(lambda *g: dqn_numpy.adam(list(g), CONFIG.learning_rate), *seen)
        params = jax.tree.map(lambda w, step, m: (w + step) * m, params, steps, live)
        share = 0.3 if following == "polyak" else float(done == 1)
        if share:
            frozen = jax.tree.map(lambda w, t, m: (share * w + (1 - share) * t) * m, params, frozen, live)  # noqa: B023
        state, _ = lab.update(state, windows, done)
    for mine, expected in ((state.actor.params, params), (state.target[0], frozen)):
        for one, other in zip(jax.tree.leaves(host(mine)), jax.tree.leaves({"mlp": expected}), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)
    assert zero_outside(state.actor.params, {"mlp": live}) and zero_outside(state.target[0], {"mlp": live})


def test_windows_that_are_not_valid_have_no_weight(lab):
    windows = batch(44)
    spoilt = windows._replace(valid=np.arange(24) != 3, rewards=windows.rewards.copy())
    other = spoilt._replace(rewards=spoilt.rewards.copy())
    other.rewards[3] += 100
    assert equal(lab.update(lab.start, spoilt, 0)[0], lab.update(lab.start, other, 0)[0])
    assert not equal(lab.update(lab.start, spoilt, 0)[0], lab.update(lab.start, windows, 0)[0])


def test_a_hard_target_stays_as_it_was_copied_where_the_mask_moves_at_every_step():
    """Straight-through methods choose anew after every step; between copies the target keeps its own choice."""
    lab = Lab("ste")
    before = host(lab.start.actor.params), host(lab.agent.masks(lab.start)["actor"])
    state, _ = lab.update(lab.start, batch(1), 0)
    after = host(state.actor.params), host(lab.agent.masks(state)["actor"])
    assert not equal(before[1], after[1])
    windows = batch(2)
    following, metrics = lab.update(state, windows, 1)

    def in_force(params, masks):
        return jax.tree.map(lambda w, m: w * m, params, masks)

    def loss(frozen):
        y = dqn_numpy.target(in_force(*after), frozen, windows, CONFIG.gamma, True)
        return dqn_numpy.loss(in_force(*after), windows, y, False)

    assert float(metrics["actor_loss"]) == pytest.approx(loss(in_force(*before)), rel=1e-5)
    assert float(metrics["actor_loss"]) != pytest.approx(loss(in_force(before[0], after[1])), rel=1e-4)
    # The second update is where it is copied, its choice included.
    assert equal(following.target[0], following.actor.params)
    assert equal(following.target_sparsity, following.actor.sparsity)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_exploration_is_epsilon_greedy(lab, epsilon):
    state, obs = lab.start._replace(epsilon=jnp.float32(epsilon)), conformance.observations(1, 6000)
    taken, mean = (np.asarray(x) for x in lab.act(state, obs, jax.random.key(5), True))
    best = dqn_numpy.values(host(state.actor.params), obs).argmax(axis=1)
    np.testing.assert_array_equal(mean, np.eye(CHOICES)[best])
    assert set(np.unique(taken)) == {0.0, 1.0} and (taken.sum(axis=1) == 1).all()
    chosen = taken.argmax(axis=1)
    assert (chosen != best).mean() == pytest.approx(epsilon * (1 - 1 / CHOICES), abs=0.02)
    if epsilon == 1.0:
        np.testing.assert_allclose(np.bincount(chosen) / 6000, 1 / CHOICES, atol=0.02)
    again, _ = lab.act(state, obs, jax.random.key(5), False)
    np.testing.assert_array_equal(again, mean)


def test_epsilon_falls_linearly_with_the_updates_and_stays():
    lab = Lab(epsilon_start=0.9, epsilon_end=0.1, epsilon_steps=8)
    assert float(lab.start.epsilon) == pytest.approx(0.9)
    found = [float(lab.update(lab.start, batch(1), done)[0].epsilon) for done in (0, 3, 7, 30)]
    assert found == pytest.approx([0.8, 0.5, 0.1, 0.1], abs=1e-6)


def test_the_value_is_that_of_the_best_choice_and_a_begun_state_copies_its_target(lab):
    obs = conformance.observations(3, 9)
    found = jax.jit(lab.agent.value)(lab.start, obs)
    expected = dqn_numpy.values(host(lab.start.actor.params), obs).max(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    given = host(lab.start.actor.params), host(lab.agent.masks(lab.start)["actor"])
    begun = jax.jit(lambda state: lab.agent.begin(state, {"actor": given}))(apart(lab))
    assert equal(begun.actor.params, given[0]) and equal(begun.target[0], given[0])


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in ("drop_grow", "l0") else pytest.mark.long) for f in sorted(FAMILIES)],
)
@pytest.mark.slow
def test_every_family_of_methods_trains_and_keeps_what_is_dead_out(family):
    """Nine ticks with events: losses are numbers, and neither trained nor target network, copied after the eighth, has
    anything outside."""
    lab = Lab(FAMILIES[family] if family != "drop_grow" else "rigl", 0.5, EVENTS)
    state, events = lab.start, 0
    for done in range(9):
        state, metrics = lab.update(state, batch(100 + done), done)
        events += int(metrics["events"]["actor"])
        assert np.isfinite(metrics["actor_loss"])
    params, masks = jax.jit(lambda state: lab.agent.deployed(state)[:2])(state)
    assert zero_outside(params, masks)
    declares = METHODS[FAMILIES[family]].family.declares
    if declares.targets == "online":
        assert zero_outside(state.target[0], masks)
    if family == "drop_grow":
        assert events == 2 and not equal(masks, lab.agent.masks(lab.start)["actor"])
        live = sum(int(mask["kernel"].sum()) for mask in host(masks)["mlp"].values())
        assert live == pytest.approx(0.5 * lab.agent.layers["actor"].weights, abs=3)


def test_configurations_that_mean_nothing_are_refused():
    with pytest.raises(UserError, match="unknown target of agent 'dqn' 'hrad': did you mean 'hard'"):
        dqn.DQNConfig(target="hrad")
    with pytest.raises(UserError, match="unknown loss of agent 'dqn' 'squred': did you mean 'squared'"):
        dqn.DQNConfig(loss="squred")
    with pytest.raises(UserError, match="target_period = 0 must be at least 1"):
        dqn.DQNConfig(target_period=0)
    with pytest.raises(
        UserError, match="agent 'dqn': 'tau' changes nothing where target = \"hard\": drop it, or"
    ):
        dqn.DQNConfig(tau=0.01)
    dqn.DQNConfig(tau=0.01, target="polyak")
