"""One function trains every network: events replace the optimiser step, and inactive weights stay exactly zero."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparserl_jax.agents.optimise import Network, Trainer, effective, init_network, polyak, step_network
from sparserl_jax.conformance.laboratory import hasty
from sparserl_jax.networks import Actor, actor_layers
from sparserl_jax.sparsity import allocation, drop_grow, masks, redo
from sparserl_jax.sparsity.contract import Effects, Events, Evidence
from tests.reference import rlx2_numpy
from tests.reference.conformance import EVIDENCE, equal, host, slots_of, zero_outside

OBS, ACTION = 5, 2
MODULE = Actor((16, 16), ACTION)
LAYERS = actor_layers(MODULE, OBS)
EVENTS = Events(interval=5, end=21, drop_fraction=0.5)
TRAINER = Trainer(drop_grow.DROP_GROW, optax.adam(1e-2), LAYERS, EVENTS)


class Data(NamedTuple):
    """A regression batch."""

    inputs: np.ndarray
    wanted: np.ndarray


def data(seed: int) -> Data:
    rng = np.random.default_rng(seed)
    return Data(
        rng.normal(size=(64, OBS)).astype(np.float32), rng.uniform(-1, 1, (64, ACTION)).astype(np.float32)
    )


def loss(params: Any, batch: Data) -> tuple[jax.Array, Any]:
    return jnp.mean((MODULE.apply({"params": params}, batch.inputs) - batch.wanted) ** 2), {
        "aux": jnp.float32(3)
    }


def step(
    trainer: Trainer, network: Network, batch: Data, tick: jax.Array, evidence: Evidence = EVIDENCE
) -> Any:
    return step_network(
        trainer,
        network,
        lambda params: loss(params, batch),
        tick=tick,
        clock=tick,
        key=jax.random.fold_in(jax.random.key(0), tick),
        evidence=evidence,
    )


@pytest.fixture(scope="module")
def stepped():
    return jax.jit(lambda network, batch, tick: step(TRAINER, network, batch, tick))


@pytest.fixture(scope="module")
def fresh():
    params = jax.jit(MODULE.init)(jax.random.key(1), np.zeros(OBS, np.float32))["params"]
    start = jax.jit(lambda settings: init_network(TRAINER, jax.random.key(0), params, settings))

    def make(sparsity: float = 0.7, **choices: Any) -> Network:
        return start(drop_grow.settings(LAYERS, allocation.er(LAYERS, sparsity), EVENTS, **choices))

    return make


RIGL = {"evolves": True, "grow_by_gradient": True}


def run(stepped, network: Network, first: int, last: int) -> Network:
    for tick in range(first, last + 1):
        network, _ = stepped(network, data(tick), np.int32(tick))
    return network


def test_ordinary_ticks_equal_masked_adam(stepped, fresh):
    network = fresh(**RIGL)
    mask = network.sparsity.masks
    params, slots = network.params, network.opt_state
    for tick in range(1, 5):
        network, info = stepped(network, data(tick), np.int32(tick))
        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params, data(tick))
        grads = masks.apply(mask, grads)
        updates, slots = TRAINER.optimizer.update((grads, {}), slots, (params, {}))
        params = masks.apply(mask, optax.apply_updates((params, {}), updates)[0])
        np.testing.assert_allclose(info.loss, value, rtol=1e-5)
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(host(grads))))
        np.testing.assert_allclose(info.grad_norm, norm, rtol=1e-5)
        assert float(info.aux["aux"]) == 3 and not bool(info.effects.happened)
    for one, other in zip(jax.tree.leaves(network.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert equal(network.sparsity.masks, mask)
    for slot in slots_of(network.opt_state, network.params):
        assert zero_outside(slot, mask)  # entries that never were active have no moments


def test_an_event_takes_the_place_of_the_optimiser_step(stepped, fresh):
    before = run(stepped, fresh(**RIGL), 1, 4)
    after, info = stepped(before, data(5), np.int32(5))
    assert bool(info.effects.happened)
    assert equal(after.opt_state, before.opt_state)
    old, new = host(before.sparsity.masks), host(after.sparsity.masks)
    for w, m, w2, m2 in zip(
        *map(jax.tree.leaves, (host(before.params), old, host(after.params), new)), strict=True
    ):
        np.testing.assert_array_equal(w2, np.where(m & m2, w, 0))
    assert not equal(old, new)


def test_an_event_that_does_not_happen_asks_for_nothing(fresh):
    """Nor through ReDo on top of the method, whose own event then happens or does not."""

    def asking(*given: Any) -> Any:
        *network, _ = TRAINER.sparsifier.evolve(*given)
        return *network, Effects.of(happened=False, reset_replay=True, reset_targets=True)

    inner = TRAINER.sparsifier._replace(evolve=asking)
    before = fresh(**RIGL)
    for family in (inner, redo.over(inner)):
        trainer = TRAINER._replace(sparsifier=family)
        evidence = EVIDENCE._replace(
            activations=lambda: {layer.name: jnp.ones((4, layer.units_out)) for layer in LAYERS.hidden},
            init_params=lambda: before.params,
        )
        after, info = hasty(lambda one: step(trainer, one, data(5), np.int32(5), evidence))(before)  # noqa: B023
        assert not any(map(bool, info.effects)) and equal(after.sparsity.masks, before.sparsity.masks)


def test_an_event_grows_by_the_dense_gradient_of_this_ticks_batch(stepped, fresh):
    before = run(stepped, fresh(**RIGL), 1, 4)
    after, info = stepped(before, data(5), np.int32(5))
    (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(before.params, data(5))
    np.testing.assert_allclose(info.loss, value, rtol=1e-5)
    for layer, n, k in zip(
        LAYERS, before.sparsity.settings.counts, before.sparsity.settings.drops[0], strict=True
    ):
        w, m, g = (
            np.asarray(tree["mlp"][layer.name]["kernel"])
            for tree in (before.params, before.sparsity.masks, gradient)
        )
        mask, weight = rlx2_numpy.drop_grow(w, m, np.abs(g), int(k))
        assert np.all(g[mask & ~m] != 0)  # growth did not have to choose among the zeros of dead units
        assert mask.sum() == n
        np.testing.assert_array_equal(after.sparsity.masks["mlp"][layer.name]["kernel"], mask)
        np.testing.assert_array_equal(after.params["mlp"][layer.name]["kernel"], weight)
        assert np.abs(g[~m]).max() > 0 if not m.all() else True
    other, _ = stepped(before, data(6), np.int32(5))
    assert not equal(other.sparsity.masks, after.sparsity.masks)


def test_only_due_ticks_change_the_topology(stepped, fresh):
    network, changed = fresh(**RIGL), []
    for tick in range(1, 31):
        before = network
        network, info = stepped(network, data(tick), np.int32(tick))
        if bool(info.effects.happened):
            changed.append(tick)
        else:
            assert equal(before.sparsity.masks, network.sparsity.masks)
            assert int(network.opt_state[0].count) == int(before.opt_state[0].count) + 1
    assert changed == [5, 10, 15, 20]


def test_dropped_weights_stay_at_zero_while_their_moments_decay(stepped, fresh):
    before = run(stepped, fresh(**RIGL), 1, 4)
    network = run(stepped, before, 5, 9)
    lost = jax.tree.map(
        lambda then, now: np.asarray(then & ~now), before.sparsity.masks, network.sparsity.masks
    )
    assert sum(int(x.sum()) for x in jax.tree.leaves(lost)) > 10
    first, _ = slots_of(network.opt_state, network.params)
    moving = [
        np.abs(np.asarray(m)[x]) for m, x in zip(jax.tree.leaves(first), jax.tree.leaves(lost), strict=True)
    ]
    assert np.concatenate(moving).max() > 0  # without the projection Adam would move them
    assert zero_outside(network.params, network.sparsity.masks)


def test_a_member_without_events_takes_its_step_on_event_ticks(stepped, fresh):
    before = run(stepped, fresh(), 1, 4)
    event, info = stepped(before, data(5), np.int32(5))
    ordinary, _ = stepped(before, data(5), np.int32(6))
    assert equal(event, ordinary) and not bool(info.effects.happened)
    assert int(event.opt_state[0].count) == 5


def test_the_tick_is_a_branch_even_over_members(fresh):
    members = jax.tree.map(lambda x: jnp.stack([x, x]), fresh(**RIGL))
    one = jax.vmap(lambda network, tick: step(TRAINER, network, data(0), tick), in_axes=(0, None))
    text = str(jax.make_jaxpr(one)(members, np.int32(5)))
    assert " cond[" in text


def test_networks_without_events_have_no_branch(fresh):
    never = TRAINER._replace(events=Events(interval=5, end=5, drop_fraction=0.5))
    text = str(jax.make_jaxpr(lambda network: step(never, network, data(0), jnp.int32(5)))(fresh()))
    assert " cond[" not in text


def test_events_see_gradients_and_curvature_of_this_ticks_loss(fresh):
    seen = {}

    def evolve(key, tick, params, extra, opt_state, state, evidence):
        direction = jax.tree.map(jnp.ones_like, params)
        seen["gradient"], seen["curvature"] = evidence.grad(), evidence.hvp(direction)
        seen["return"] = evidence.episode_return()
        return params, extra, opt_state, state, Effects.of(True)

    trainer = TRAINER._replace(
        sparsifier=drop_grow.DROP_GROW._replace(evolve=evolve),
        events=Events(interval=1, end=9, drop_fraction=0.5),
    )
    network, batch = fresh(), data(3)

    def observe(network):
        # The branch is traced apart; tracing it alone lets the values out.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.lax, "cond", lambda flag, yes, no: yes())
            step(trainer, network, batch, jnp.int32(1))
        return dict(seen)

    found = jax.jit(observe)(network)
    gradient = jax.jit(jax.grad(lambda params: loss(params, batch)[0]))

    def slope(params):  # of the loss along the direction of ones
        return sum(jnp.sum(g) for g in jax.tree.leaves(jax.grad(lambda p: loss(p, batch)[0])(params)))

    curvature = jax.jit(jax.grad(slope))(network.params)
    for g, expected in zip(
        jax.tree.leaves(found["gradient"]), jax.tree.leaves(gradient(network.params)), strict=True
    ):
        np.testing.assert_allclose(g, expected, atol=1e-6)
    for h, expected in zip(jax.tree.leaves(found["curvature"]), jax.tree.leaves(curvature), strict=True):
        np.testing.assert_allclose(h, expected, atol=1e-5)
    assert float(found["return"]) == 1.5


def test_targets_move_by_tau_and_take_the_current_mask(fresh):
    network = fresh(**RIGL)
    target = jax.tree.map(lambda x: jnp.full_like(x, 2), network.params)
    params, extra = polyak(TRAINER, network, (target, {}), 0.25)
    expected = jax.tree.map(
        lambda w, t, m: np.where(m, np.float32(0.25) * w + np.float32(0.75) * t, 0),
        *map(host, (network.params, target, network.sparsity.masks)),
    )
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert zero_outside(params, network.sparsity.masks) and extra == {}


def test_mask_methods_use_their_parameters_as_they_are(fresh):
    network = fresh(**RIGL)
    for mode in ("learn", "act", "target", "deploy"):
        assert equal(effective(TRAINER, network, mode, jax.random.key(0)), network.params)
