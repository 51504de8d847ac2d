"""Known ways to get sparse training wrong are caught: each check passes on the code and fails on the planted fault."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparserl_jax.agents import actor_critic, optimise, targets, td3
from sparserl_jax.agents.optimise import Network, Trainer
from sparserl_jax.layers import leaf, with_leaf
from sparserl_jax.networks import Actor, actor_layers
from sparserl_jax.replay import storage, windows
from sparserl_jax.sparsity import METHODS, allocation, drop_grow
from sparserl_jax.sparsity.contract import Events, Sparsifier
from tests.reference import conformance, rlx2_numpy
from tests.reference.conformance import EVIDENCE, NETWORKS, NO_EVENTS, Laboratory, equal, host, zero_outside
from tests.reference.nstep import n_step
from tests.replay.common import experience

DROP_GROW = drop_grow.DROP_GROW
RIGL = METHODS["rigl"]


# ---- checks ------------------------------------------------------------------------------------------------


def begin() -> tuple[Laboratory, td3.TD3State]:
    lab = conformance.laboratory(DROP_GROW)
    return lab, lab.init(jax.random.key(0), lab.settings(RIGL, 0.6, dense_targets=True))


def check_targets_are_masked() -> None:
    """After a target update every entry of a target outside the online mask is zero."""
    lab = Laboratory(DROP_GROW, NO_EVENTS)
    state, _ = lab.delayed(begin()[1], conformance.batch(0), 0, 2)
    for name in NETWORKS:
        target = getattr(state, f"target_{name}")[0]
        assert zero_outside(target, lab.agent.masks(state)[name]), f"the target {name} is not masked"


def check_td_target() -> None:
    """The critic's loss on a fixed batch is that of the NumPy re-statement."""
    lab = Laboratory(
        DROP_GROW, NO_EVENTS, td3.TD3Config(**{**conformance.CONFIG.__dict__, "target_noise": 0.0})
    )
    state, batch = begin()[1], conformance.batch(1, 64)
    state = state._replace(traced=state.traced._replace(target_noise=np.float32(0)))
    _, metrics = lab.update(state, batch, 0, 0)
    actor, critic = (host(getattr(state, f"target_{name}")[0]) for name in NETWORKS)
    target = rlx2_numpy.td3_target(actor, critic, batch, conformance.CONFIG.gamma, np.float32(0))
    expected = rlx2_numpy.critic_loss(host(state.critic.params), batch, target)
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-4)


def check_windows_end_with_the_episode() -> None:
    """n-step returns of stored experience equal the re-statement on the rows as they were written."""
    steps, n, gamma = 60, 3, 0.9
    first, data, _ = experience(3, steps, 1, truncate=0.2, terminate=0.2)
    replay = storage.init(steps + 1, 1, 2, 1, steps, False, jnp.asarray(first))
    insert = jax.jit(storage.insert)
    for row in range(steps):
        replay = insert(replay, np.int32(row), jax.tree.map(lambda x, row=row: x[row], data))
    start = np.arange(steps - n + 1, dtype=np.int32)
    batch = windows.window_at(replay, np.int32(steps), start, np.zeros_like(start), n, n)
    total, discount = targets.n_step_return(batch, gamma)
    ends = {"terminated": 0, "truncated": 0}
    for i in start:
        rows = slice(i, i + n)
        terminated, truncated = data.terminated[rows, 0], data.truncated[rows, 0]
        expected, factor, j = n_step(data.reward[rows, 0], ~terminated, truncated, gamma)
        np.testing.assert_allclose((total[i], discount[i]), (expected, factor), atol=1e-6)
        if factor:
            np.testing.assert_array_equal(batch.closing_obs[i], data.final_obs[i + j, 0])
        ends["terminated"] += int(terminated.any())
        ends["truncated"] += int(truncated.any())
    assert min(ends.values()) > 10  # the example holds both kinds


def check_twin_critics_have_their_own_masks(family: Sparsifier) -> None:
    """The copies of a twin critic are sparsified each for itself."""
    lab, state = begin()
    layers = lab.layers["critic"]
    init = jax.jit(lambda key, params, own: family.init(key, params, layers, own)[2].masks)
    dense = state.target_critic[0]  # the draw before sparsification
    for source in ("released", "paper"):
        masks = init(jax.random.key(2), dense, lab.settings(RIGL, 0.6, source)["critic"])
        first, second = np.asarray(leaf(masks, layers[1].kernel))
        assert not np.array_equal(first, second), f"one mask for both critics ({source})"


MODULE = Actor((16, 16), 2)
LAYERS = actor_layers(MODULE, conformance.OBS)


def regression(family: Sparsifier) -> tuple[Any, Network]:
    """One network trained on a regression: (step function of network and tick, fresh network)."""
    trainer = Trainer(family, optax.adam(1e-2), LAYERS, Events(5, 21, 0.5))
    rng = np.random.default_rng(0)
    obs, wanted = conformance.observations(2, 32), rng.uniform(-1, 1, (32, 2)).astype(np.float32)

    def step(network: Network, tick: jax.Array) -> tuple[Network, Any]:
        return optimise.step_network(
            trainer,
            network,
            lambda params: (jnp.mean((MODULE.apply({"params": params}, obs) - wanted) ** 2), None),
            tick=tick,
            clock=tick,
            key=jax.random.fold_in(jax.random.key(1), tick),
            evidence=EVIDENCE,
        )

    params = begin()[1].target_actor[0]
    own = drop_grow.settings(
        LAYERS, allocation.er(LAYERS, 0.7), trainer.events, evolves=True, grow_by_gradient=True
    )
    start = jax.jit(lambda own: optimise.init_network(trainer, jax.random.key(0), params, own))
    return jax.jit(step), start(own)


def check_inactive_weights_stay_zero(family: Sparsifier) -> None:
    """Through events and the optimiser steps between them every weight outside the mask is exactly zero."""
    step, network = regression(family)
    for tick in range(1, 13):
        network, _ = step(network, np.int32(tick))
        assert zero_outside(network.params, network.sparsity.masks), f"inactive weights moved by tick {tick}"


def check_events_replace_the_optimiser_step() -> None:
    """On an event tick surviving weights and optimiser slots do not move."""
    step, network = regression(DROP_GROW)
    for tick in range(1, 5):
        network, _ = step(network, np.int32(tick))
    after, _ = step(network, np.int32(5))
    old, new = host(network.sparsity.masks), host(after.sparsity.masks)
    assert not equal(old, new), "no event"
    assert equal(network.opt_state, after.opt_state), "an optimiser step was taken"
    for w, m, w2, m2 in zip(
        *map(jax.tree.leaves, (host(network.params), old, host(after.params), new)), strict=True
    ):
        np.testing.assert_array_equal(w2[m & m2], w[m & m2])
        assert np.all(w2[m2 & ~m] == 0)


# ---- on the code as it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "check",
    [
        check_targets_are_masked,
        check_td_target,
        check_windows_end_with_the_episode,
        lambda: check_twin_critics_have_their_own_masks(DROP_GROW),
        lambda: check_inactive_weights_stay_zero(DROP_GROW),
        check_events_replace_the_optimiser_step,
    ],
    ids=["target mask", "td target", "windows", "twin masks", "projection", "event"],
)
def test_the_checks_pass_on_the_code(check):
    check()


# ---- on planted faults -------------------------------------------------------------------------------------


def test_a_target_that_is_not_masked_is_caught(monkeypatch):
    def unmasked(trainer, network, target, tau):
        return optax.incremental_update((network.params, network.extra), target, tau)

    monkeypatch.setattr(actor_critic, "polyak", unmasked)
    with pytest.raises(AssertionError, match="not masked"):
        check_targets_are_masked()


def test_a_missing_projection_after_adam_is_caught():
    faulty = DROP_GROW._replace(project=lambda params, extra, opt_state, state: (params, extra, opt_state))
    with pytest.raises(AssertionError, match="moved"):
        check_inactive_weights_stay_zero(faulty)


def test_a_window_that_runs_over_an_episode_end_is_caught(monkeypatch):
    span = windows._span

    def blind(replay, *rest):
        return span(replay._replace(flags=jnp.zeros_like(replay.flags)), *rest)

    monkeypatch.setattr(windows, "_span", blind)
    with pytest.raises(AssertionError, match="Mismatch"):
        check_windows_end_with_the_episode()


REAL_RETURN = targets.n_step_return


def truncation_ends(batch, gamma):
    return REAL_RETURN(batch._replace(terminated=batch.terminated | batch.truncated), gamma)


def test_truncation_treated_as_termination_is_caught_in_the_return(monkeypatch):
    monkeypatch.setattr(targets, "n_step_return", truncation_ends)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_windows_end_with_the_episode()


def test_truncation_treated_as_termination_is_caught_in_the_loss(monkeypatch):
    monkeypatch.setattr(td3, "n_step_return", truncation_ends)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_td_target()


def test_twin_critics_that_share_one_mask_are_caught():
    def shared(key, params, layers, settings):
        params, extra, state = drop_grow.init(key, params, layers, settings)
        masks = state.masks
        for layer in layers:
            mask = leaf(masks, layer.kernel)
            masks = with_leaf(masks, layer.kernel, jnp.broadcast_to(mask[:1], mask.shape))
        return params, extra, state._replace(masks=masks)

    with pytest.raises(AssertionError, match="one mask for both"):
        check_twin_critics_have_their_own_masks(DROP_GROW._replace(init=shared))


def test_an_event_followed_by_an_optimiser_step_is_caught(monkeypatch):
    real = optimise.step_network

    def both(trainer, network, loss, *, tick, **rest):
        stepped, info = real(trainer, network, loss, tick=tick, **rest)
        more, _ = real(trainer._replace(events=NO_EVENTS), stepped, loss, tick=tick, **rest)
        due = trainer.events.due(tick)
        return jax.tree.map(lambda new, old: jnp.where(due, new, old), more, stepped), info

    monkeypatch.setattr(optimise, "step_network", both)
    with pytest.raises(AssertionError, match="an optimiser step was taken"):
        check_events_replace_the_optimiser_step()
