"""Orthogonal weights, wide ones and narrow ones inside them: polar factor, padding, and the law of what comes out."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from sparserl_jax import orthogonal
from sparserl_jax.layers import leaf
from sparserl_jax.networks import GaussianActor, TwinCritic, actor_layers, critic_layers
from sparserl_jax.sparsity import METHODS, drop_grow, tiny
from sparserl_jax.sparsity.contract import Events

EVENTS = Events(interval=5, end=20, drop_fraction=0.5)
nearest = jax.jit(orthogonal.nearest)


def drawn(rows: int, columns: int, seed: int = 0, copies: int = 1) -> np.ndarray:
    """(Semi-)orthogonal matrices [copies, rows, columns], uniformly distributed."""
    keys = jax.random.split(jax.random.key(seed), copies)
    return np.asarray(jax.jit(jax.vmap(lambda key: orthogonal.init(key, (rows, columns))))(keys))


@pytest.mark.parametrize("rows, columns", [(7, 7), (3, 9), (12, 5), (6, 1)])
@pytest.mark.parametrize("live_rows, live_columns", [(3, 5), (2, 2), (3, 1)])
def test_polar_factor_of_a_block_is_that_of_the_singular_value_decomposition(
    rows, columns, live_rows, live_columns
):
    live_rows, live_columns = min(rows, live_rows), min(columns, live_columns)
    wide = drawn(rows, columns)[0]
    exists = (np.arange(rows) < live_rows)[:, None] & (np.arange(columns) < live_columns)
    found = np.asarray(nearest(np.where(exists, wide, 0)))
    assert np.all(found[~exists] == 0)
    block = wide[:live_rows, :live_columns].astype(np.float64)
    u, _, v = np.linalg.svd(block, full_matrices=False)
    np.testing.assert_allclose(found[:live_rows, :live_columns], u @ v, atol=1e-4)
    gram = found.T @ found if live_rows >= live_columns else found @ found.T
    units = min(live_rows, live_columns)
    np.testing.assert_allclose(gram, np.diag(np.arange(len(gram)) < units), atol=1e-5)


def test_smallest_singular_values_are_reached():
    """A block that is nearly singular needs the most iterations."""
    u, v = drawn(5, 5, 1)[0], drawn(5, 5, 2)[0]
    near = (u * np.array([1.0, 0.5, 1e-2, 1e-4, 1e-6], np.float32)) @ v
    found = np.asarray(nearest(near.astype(np.float32)))
    np.testing.assert_allclose(found @ found.T, np.eye(5), atol=1e-4)


def test_draws_are_orthogonal_whatever_their_shape():
    for rows, columns in ((1, 1), (1, 7), (7, 1), (64, 64), (17, 64), (128, 3)):
        for found in drawn(rows, columns, 5, copies=50):
            narrow = found if rows >= columns else found.T
            np.testing.assert_allclose(narrow.T @ narrow, np.eye(narrow.shape[1]), atol=1e-5)


def test_no_program_of_sac_factorises():
    """Batched kernels of LAPACK lock up populations on machines with two cores."""
    from tests.reference import small
    from tests.training.test_sac_program import training

    text = small.program(training()).lower()["init"].as_text().lower()
    assert "dot_general" in text and not any(word in text for word in ("lapack", "geqrf", "householder"))


def test_narrow_draws_are_distributed_like_those_of_a_narrow_initialiser():
    """4 x 4 blocks of 12 x 12 draws against 4 x 4 draws: a uniform law has E w^2 = 1/n, E w^4 = 3 / (n (n + 2)), and no
    correlation between entries."""
    exists = (np.arange(12) < 4)[:, None] & (np.arange(12) < 4)
    narrow = np.asarray(nearest(np.where(exists, drawn(12, 12, copies=20_000), 0)))[:, :4, :4]
    for found in (narrow, drawn(4, 4, 9, copies=20_000)):
        np.testing.assert_allclose((found**2).mean(axis=0), np.full((4, 4), 1 / 4), atol=6e-3)
        np.testing.assert_allclose((found**4).mean(axis=0), np.full((4, 4), 3 / 24), atol=6e-3)
        flat = found.reshape(len(found), -1)
        np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(16) / 4, atol=6e-3)


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_tiny_starts_orthogonal_and_wide_methods_keep_their_draw(network):
    if network == "actor":
        module, inputs = GaussianActor((24, 24), 2), (np.zeros(5),)
        layers = actor_layers(module, 5)
    else:
        module, inputs = TwinCritic((24, 24), "orthogonal"), (np.zeros(5), np.zeros(2))
        layers = critic_layers(module, 5, 2)
    params = jax.jit(module.init)(jax.random.key(0), *inputs)["params"]
    start = jax.jit(drop_grow.init, static_argnums=2)

    def begun(method: str) -> tuple:
        own = METHODS[method].settings(layers, 0.7, EVENTS, "released")
        found, _, state = start(jax.random.key(1), params, layers, own)
        return found, state.masks

    dense, _ = begun("dense")
    jax.tree.map(np.testing.assert_array_equal, dense, params)
    static, masks = begun("static")
    jax.tree.map(lambda a, b, m: np.testing.assert_array_equal(a, np.where(m, b, 0)), static, params, masks)
    narrow, masks = begun("tiny")
    width = tiny.widths(layers, 0.7)["hidden_0"]
    assert 5 < width < 24
    for layer in layers:
        kernels = np.asarray(leaf(narrow, layer.kernel)).reshape(layer.copies, *layer.shape)
        live = np.asarray(leaf(masks, layer.kernel)).reshape(kernels.shape)
        for kernel, mask in zip(kernels, live, strict=True):
            rows, columns = mask.any(axis=1).sum(), mask.any(axis=0).sum()
            block = kernel[:rows, :columns]
            gram = block.T @ block if rows >= columns else block @ block.T
            np.testing.assert_allclose(gram, np.eye(min(rows, columns)), atol=1e-5)
            assert np.all(kernel[~mask] == 0)
        assert not np.asarray(leaf(narrow, layer.bias)).any()
