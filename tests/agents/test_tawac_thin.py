"""The two direct trainings of a policy of bounded support compute what they say, and find what there is to find."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.agents import in_sample, tawac_thin
from sparserl_jax.agents.policies import Boxed
from sparserl_jax.agents.registry import algorithm
from sparserl_jax.distributions import ThinQGaussian
from sparserl_jax.errors import UserError
from tests.agents.test_in_sample import ACTION, NUMBERS, SIZE, Small, bandit, networks, numbers, transitions
from tests.reference import in_sample_numpy, tawac_thin_numpy
from tests.reference.ppo_numpy import Adam

AGENTS = list(tawac_thin_numpy.LOSSES)
NOISE = np.random.default_rng(9).uniform(-0.65, 0.65, (SIZE, ACTION)).astype(np.float32)
SEED = 8
"""Of transitions by which no unit is moved by actions of the least weight, 1e-8, alone: Adam makes a whole step even of
that, and of its rounding."""


def narrowed(state: Any, by: float) -> Any:
    """The state with an actor whose log scales are less by so much: at the start nothing in the box is outside."""
    layer = dict(state.actor.params["mlp"]["output"])
    layer["bias"] = layer["bias"] - by * (jnp.arange(2 * ACTION) >= ACTION)
    return state._replace(
        actor=state.actor._replace(params={"mlp": {**state.actor.params["mlp"], "output": layer}})
    )


@pytest.mark.parametrize("name", AGENTS)
def test_losses_and_whole_updates_are_those_of_the_restatement(name):
    lab, adam = Small(name), Adam(1e-8)
    state = narrowed(lab.begin(temperature=0.1), 4.0)
    nets = networks(state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThinQGaussian, "sample", lambda d, key: d.mean + d.half_width * NOISE)
        for update in range(2):
            batch = transitions(update + SEED)
            known = tawac_thin_numpy.inside(nets["actor"], batch.obs, batch.action)
            assert known.any() and not known.all()
            state, metrics = lab.update(state, batch, update)
            own = tawac_thin_numpy.LOSSES[name]
            some = tawac_thin_numpy.weights(nets, batch, numbers(lab, temperature=0.1), NOISE) > 1e-8
            assert some.any() and not some.all()
            nets, losses = in_sample_numpy.updated(
                own, nets, batch, numbers(lab, temperature=0.1), NOISE, adam
            )
            in_sample_numpy.assert_agree(metrics, losses, networks(state), nets)


def test_an_action_outside_the_support_is_replaced_by_the_nearest_draw():
    """Half-width 0.3 about 0, two dimensions: an action inside stays, one outside gets a draw that is near it."""
    policy = Boxed(ThinQGaussian(jnp.zeros((4, 2)), jnp.full((4, 2), np.log(0.3**3 / 1.5)), 0.0, "product"))
    logged = np.array([[0.1, -0.2], [0.9, 0.0], [-0.4, -0.9], [0.0, 0.35]], np.float32)
    key = jax.random.key(3)
    found = np.asarray(tawac_thin.replaced(policy, logged, key))
    draws = np.stack([policy.sample(one) for one in jax.random.split(key, tawac_thin.DRAWS)])
    for row, (action, chosen) in enumerate(zip(logged, found, strict=True)):
        apart = np.linalg.norm(draws[:, row] - action, axis=-1)
        expected = action if row == 0 else draws[apart.argmin(), row]
        np.testing.assert_array_equal(chosen, expected)
    assert (np.abs(found) < 0.3).all() and (found[1:] != logged[1:]).any(axis=1).all()
    assert np.isfinite(policy.log_density(found)).all() and np.isneginf(policy.log_density(logged)[1:]).all()


@pytest.mark.parametrize("q", [1.0, 1.05, 2.0])
def test_weights_beyond_all_bounds_make_no_gradient_a_nan(q):
    """Advantages a million temperatures above zero and below."""
    found = jax.vmap(jax.value_and_grad(lambda a: jnp.log(in_sample.tsallis(a, 1e-6, 2.0 - q))))
    values, slopes = found(jnp.array([-1.0, -1e-7, 0.0, 1e-7, 1.0]))
    assert np.isfinite(values).all() and np.isfinite(slopes).all() and slopes[2] > 0
    np.testing.assert_allclose(np.exp(values[-1]), 1e4, rtol=1e-3)


def test_draws_that_weigh_nothing_have_no_say():
    """Where no draw does, the actor stands still."""
    lab = Small("tawac_reverse")
    state = lab.begin(temperature=1e-6)
    value = jax.tree.map(lambda x: x, state.value.params)
    value["mlp"]["output"]["bias"] = value["mlp"]["output"]["bias"] + 1e3  # all advantages far below zero
    state = state._replace(value=state.value._replace(params=value))
    after, metrics = lab.update(state, transitions(1), 0)
    assert metrics["actor_loss"] == 0
    for before, now in zip(
        jax.tree.leaves(state.actor.params), jax.tree.leaves(after.actor.params), strict=True
    ):
        np.testing.assert_array_equal(before, now)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "learning_rate", "high", "low"),
    # how far the reverse divergence goes beyond a best dose is its own affair: its clone is wide
    [("tawac_nearest", 1e-2, (0.15, 0.6), (-0.8, -0.3)), ("tawac_reverse", 3e-3, (0.1, 0.8), (-1.0, -0.5))],
)
def test_the_policy_leans_to_the_best_dose(name, learning_rate, high, low):
    """With best doses of 0.4 and -0.6 it finds the side and about the place, in the median of three trainings (a single
    one is chaotic: other processors round otherwise, and 600 updates later it is elsewhere)."""
    modes = []
    for seed in range(3):
        lab, rng = Small(name, learning_rate=learning_rate), np.random.default_rng(seed)
        state = lab.begin(temperature=0.1)
        for update in range(600):
            state, _ = lab.update(state, bandit(rng), update)
        params, _, _ = lab.agent.deployed(state)
        modes.append(np.asarray(lab.agent.policy(params, np.eye(2, 3, dtype=np.float32)))[:, 0])
    first, second = np.median(modes, axis=0)
    assert high[0] < first < high[1] and low[0] <= second < low[1]


@pytest.mark.parametrize("name", AGENTS)
def test_policies_that_cover_the_box_are_refused(name):
    with pytest.raises(
        UserError, match=f"agent '{name}' is about policies of bounded support: give policy = \"thin\""
    ):
        algorithm(name).config(policy="squashed", **{k: v for k, v in NUMBERS.items() if k != "tau"})
