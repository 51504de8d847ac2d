"""Optimiser slots are found by structure, in any optax chain, and nothing else is touched."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparserl_jax.sparsity.slots import map_slots

PARAMS = {
    "hidden_0": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)},
    "output": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)},
}
OPTIMISERS = {
    "adam": (optax.adam(1e-3), 2),
    "sgd": (optax.sgd(0.1), 0),
    "momentum": (optax.sgd(0.1, momentum=0.9), 1),
    "clipped": (optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)), 2),
    "amsgrad": (optax.amsgrad(1e-3), 3),
    "lion": (optax.lion(1e-3), 1),
    "injected": (optax.inject_hyperparams(optax.adam)(learning_rate=1e-3), 2),
    "half precision": (optax.adam(1e-3, mu_dtype=jnp.bfloat16), 2),
    "averaged": (optax.chain(optax.adam(1e-3), optax.ema(0.9)), 3),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_slot_is_found_once_whatever_the_optimiser(name):
    optimiser, expected = OPTIMISERS[name]
    found = []
    map_slots(lambda slot: found.append(slot) or slot, optimiser.init(PARAMS), PARAMS)
    assert len(found) == expected
    assert all(jax.tree.structure(slot) == jax.tree.structure(PARAMS) for slot in found)


def test_the_function_sees_the_slot_and_the_trees_and_the_rest_is_untouched():
    optimiser = optax.adam(1e-3)
    _, state = optimiser.update(PARAMS, optimiser.init(PARAMS))
    masks = jax.tree.map(lambda p: jnp.arange(p.size).reshape(p.shape) % 2 == 0, PARAMS)

    def zero(slot, masks):
        return jax.tree.map(lambda value, mask: jnp.where(mask, value, 0), slot, masks)

    out = jax.jit(lambda s: map_slots(zero, s, PARAMS, masks))(state)
    assert jax.tree.structure(out) == jax.tree.structure(state)
    assert int(out[0].count) == 1
    for before, after in ((state[0].mu, out[0].mu), (state[0].nu, out[0].nu)):
        for b, a, m in zip(*(jax.tree.leaves(tree) for tree in (before, after, masks)), strict=True):
            np.testing.assert_array_equal(a, np.where(m, b, 0))


def test_equal_structure_with_other_shapes_is_no_slot():
    state = {"mirror": PARAMS, "norms": jax.tree.map(lambda p: p.sum(), PARAMS), "none": None}
    out = map_slots(lambda slot: jax.tree.map(jnp.zeros_like, slot), state, PARAMS)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(out["mirror"]))
    assert float(out["norms"]["hidden_0"]["kernel"]) == 12
    assert out["none"] is None


def test_members_can_be_mapped():
    optimiser = optax.adam(1e-3)
    stacked = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), PARAMS)
    state = jax.vmap(optimiser.init)(stacked)
    out = jax.vmap(lambda s, p: map_slots(lambda slot, q: q, s, p, p))(state, stacked)
    for value, param in zip(jax.tree.leaves(out[0].mu), jax.tree.leaves(stacked), strict=True):
        np.testing.assert_array_equal(value, param)
