"""Known ways to get SAC wrong are caught: each check passes on the code and fails on the planted fault."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparserl_jax.agents import actor_critic, sac, targets
from sparserl_jax.distributions import TanhNormal
from sparserl_jax.sparsity import METHODS, drop_grow
from tests.reference import conformance, in_sample_numpy, rlx2_numpy, sac_numpy
from tests.reference.conformance import ACTION, BATCH, NO_EVENTS, WINDOW, Laboratory, host, zero_outside

CONFIG = sac.SACConfig(hidden=(16,), batch_size=BATCH, learning_rate=1e-2, tau=0.05, gamma=0.9)
SIZE, ALPHA = 32, 0.5


def begin(lab: Laboratory) -> sac.SACState:
    state = lab.init(jax.random.key(0), lab.settings(METHODS["rigl"], 0.6, dense_targets=True))
    return state._replace(log_temperature=jnp.float32(math.log(ALPHA)))


def laboratory(**changes: Any) -> Laboratory:
    """Never shared: what is planted stays in what was traced."""
    return Laboratory(drop_grow.DROP_GROW, NO_EVENTS, dataclasses.replace(CONFIG, **changes))


# ---- checks ------------------------------------------------------------------------------------------------


def check_target_is_masked() -> None:
    """After a target update every entry of the target outside the online mask is zero."""
    lab = laboratory()
    state, _ = lab.delayed(begin(lab), conformance.batch(0), 0, 1)
    masks = lab.agent.masks(state)["critic"]
    assert zero_outside(state.target_critic[0], masks), "the target critic is not masked"


def check_critic_loss() -> None:
    """On a fixed batch with given draws the loss is that of the re-statement."""
    lab, windows = laboratory(), conformance.batch(1, SIZE, successors=True)
    noise = np.random.default_rng(0).normal(size=(SIZE, WINDOW, ACTION)).astype(np.float32)
    state = begin(lab)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TanhNormal, "sample", lambda self, key: self.at(jnp.asarray(noise)))
        _, metrics = lab.update(state, windows, 0, 0)
    networks = host(state.actor.params), host(state.target_critic[0])
    target = sac_numpy.target(*networks, windows, CONFIG.gamma, ALPHA, noise, path=True)
    expected = rlx2_numpy.critic_loss(host(state.critic.params), windows, target)
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-4)


def actor_tick() -> tuple[Laboratory, sac.SACState, sac.SACState, Any, Any, np.ndarray]:
    """A laboratory, the states before and after a tick of the actor, its metrics, its windows and its noise."""
    lab, windows = laboratory(), conformance.batch(2, SIZE)
    noise = np.random.default_rng(1).normal(size=(SIZE, ACTION)).astype(np.float32)
    state = begin(lab)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TanhNormal, "sample", lambda self, key: self.at(jnp.asarray(noise)))
        after, metrics = lab.delayed(state, windows, 0, 1)
    return lab, state, after, metrics, windows, noise


def check_actor_loss() -> None:
    """The same for the actor."""
    _, state, _, metrics, windows, noise = actor_tick()
    networks = host(state.actor.params), host(state.critic.params)
    expected, _ = sac_numpy.actor_loss(*networks, windows, ALPHA, noise)
    np.testing.assert_allclose(metrics["actor_loss"], expected, rtol=1e-4)


def check_actor_step() -> None:
    """The actor goes down the loss as central differences of the restatement have it: through its actions and through
    their density."""
    lab, state, after, metrics, windows, noise = actor_tick()
    actor, critic = (
        in_sample_numpy.double(host(getattr(state, name).params)) for name in ("actor", "critic")
    )
    slopes, norm = in_sample_numpy.live_gradient(
        lambda: sac_numpy.actor_loss(actor, critic, windows, ALPHA, noise)[0],
        actor,
        host(lab.agent.masks(state)["actor"]),
    )
    np.testing.assert_allclose(metrics["actor_grad_norm"], norm, rtol=1e-3)
    for path, moved in in_sample_numpy.arrays(host(after.actor.params)).items():
        clear = np.abs(slopes[path]) > 1e-4
        change = moved - in_sample_numpy.arrays(actor)[path]
        np.testing.assert_array_equal(np.sign(change[clear]), -np.sign(slopes[path][clear]))


def check_temperature_falls_where_entropy_abounds() -> None:
    """A fresh policy has more entropy than the target: the temperature falls by one step of Adam."""
    lab = laboratory()
    state = begin(lab)
    after, _ = lab.delayed(state, conformance.batch(3), 0, 1)
    change = float(after.log_temperature - state.log_temperature)
    assert change == pytest.approx(-CONFIG.learning_rate, rel=1e-3), "the temperature goes the wrong way"


def check_one_step_targets_agree() -> None:
    """In windows of one step both soft targets are the same."""
    windows = conformance.batch(4, SIZE, 1, successors=True)
    found = []
    for entropy, given in (("path", windows), ("bootstrap", windows._replace(successors=None))):
        lab = laboratory(entropy=entropy)
        found.append(float(lab.update(begin(lab), given, 0, 0)[1]["critic_loss"]))
    assert found[0] == pytest.approx(found[1], rel=1e-6), "one-step targets differ"


CHECKS = (
    check_target_is_masked,
    check_critic_loss,
    check_actor_loss,
    check_actor_step,
    check_temperature_falls_where_entropy_abounds,
    check_one_step_targets_agree,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__[6:])
def test_the_checks_pass_on_the_code(check):
    check()


# ---- planted faults ----------------------------------------------------------------------------------------


def test_a_target_that_is_not_masked_is_caught(monkeypatch):
    def unmasked(trainer, network, target, tau):
        return optax.incremental_update((network.params, network.extra), target, tau)

    monkeypatch.setattr(actor_critic, "polyak", unmasked)
    with pytest.raises(AssertionError, match="not masked"):
        check_target_is_masked()


REAL_ENTROPY, REAL_RETURN = targets.entropy_discounts, targets.n_step_return
ENTROPY_FAULTS = {
    "after a terminal": lambda batch, gamma, path: REAL_ENTROPY(
        batch._replace(terminated=jnp.zeros_like(batch.terminated)), gamma, path
    ),
    "not along the path": lambda batch, gamma, path: REAL_ENTROPY(batch, gamma, False),
    "behind the window": lambda batch, gamma, path: jnp.broadcast_to(
        jnp.asarray(gamma[1 : WINDOW + 1]), batch.rewards.shape
    ),
}


@pytest.mark.parametrize("fault", ENTROPY_FAULTS)
def test_entropy_that_counts_wrongly_is_caught(fault, monkeypatch):
    monkeypatch.setattr(sac, "entropy_discounts", ENTROPY_FAULTS[fault])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_critic_loss()


def test_truncation_treated_as_termination_is_caught(monkeypatch):
    def truncation_ends(batch, gamma):
        return REAL_RETURN(batch._replace(terminated=batch.terminated | batch.truncated), gamma)

    monkeypatch.setattr(sac, "n_step_return", truncation_ends)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_critic_loss()


def density_without(part: str) -> Any:
    def at(self: TanhNormal, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        before = self.mean + jnp.exp(self.log_std) * noise
        normal = jnp.sum(-0.5 * noise**2 - self.log_std - 0.5 * math.log(2 * math.pi), axis=-1)
        squash = jnp.sum(jnp.log(1 - jnp.tanh(before) ** 2 + 1e-6), axis=-1)
        return jnp.tanh(before), normal if part == "squash" else normal + self.log_std.sum(-1) - squash

    return at


@pytest.mark.parametrize(("part", "check"), [("squash", check_actor_loss), ("scale", check_critic_loss)])
def test_a_density_that_lacks_a_part_is_caught(part, check, monkeypatch):
    monkeypatch.setattr(TanhNormal, "at", density_without(part))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check()


def test_an_actor_that_trusts_the_larger_critic_or_their_mean_is_caught(monkeypatch):
    for worst in (jnp.max, jnp.mean):
        patched = type("numpy", (), {**vars(jnp), "min": staticmethod(worst)})
        with monkeypatch.context() as patch:
            patch.setattr(sac, "jnp", patched)
            with pytest.raises(AssertionError, match="Not equal to tolerance"):
                check_actor_loss()


REAL_VALUES, REAL_AT = actor_critic.ActorCritic.values, TanhNormal.at
STOPPED = {
    "its actions": (
        actor_critic.ActorCritic,
        "values",
        lambda self, params, obs, action: REAL_VALUES(self, params, obs, jax.lax.stop_gradient(action)),
    ),
    "their density": (
        TanhNormal,
        "at",
        lambda self, noise: (REAL_AT(self, noise)[0], jax.lax.stop_gradient(REAL_AT(self, noise)[1])),
    ),
}


@pytest.mark.parametrize("through", STOPPED)
def test_an_actor_that_does_not_learn_through_a_part_of_its_loss_is_caught(through, monkeypatch):
    """Its loss is the same number."""
    monkeypatch.setattr(*STOPPED[through])
    check_actor_loss()
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_actor_step()


def test_a_temperature_that_moves_the_other_way_is_caught(monkeypatch):
    def contrary(*_: Any) -> optax.GradientTransformation:
        return optax.chain(optax.scale(-1.0), actor_critic.adam())

    monkeypatch.setattr(sac, "adam", contrary)
    with pytest.raises(AssertionError, match="wrong way"):
        check_temperature_falls_where_entropy_abounds()


def test_a_bootstrap_whose_entropy_is_discounted_by_the_window_is_caught(monkeypatch):
    real = sac.entropy_discounts
    monkeypatch.setattr(sac, "entropy_discounts", lambda *given: real(*given) * CONFIG.gamma)
    with pytest.raises(AssertionError, match="one-step targets differ"):
        check_one_step_targets_agree()
