"""Masks hold exactly the counts they promise, choose what NumPy would choose, and survive packing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparserl_jax.layers import Layer, LayerTable, leaf
from sparserl_jax.networks import TwinCritic, critic_layers
from sparserl_jax.sparsity import masks, rows

SHAPE = (3, 7)
ENTRIES = 21
# A handful of values makes ties common; the wide strategy covers every float, NaN, infinities and subnormals
# included.
FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, -np.inf, np.inf, np.nan, 1e-40, -1e-40])
SCORES = st.one_of(
    hnp.arrays(np.float32, SHAPE, elements=FEW.map(np.float32)),
    hnp.arrays(np.float32, SHAPE, elements=st.floats(width=32)),
)
COUNTS = st.integers(0, ENTRIES)
KEYS = jax.random.key(0)


def jitted_for(backend: str, fn):
    """`fn` jitted as it is traced for a backend; computed here."""

    def call(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: backend)
            return fn(*arguments)

    return jax.jit(call)


plain = jax.jit(masks.top_count)
accelerated = jitted_for("gpu", masks.top_count)
mapped = jax.jit(jax.vmap(masks.top_count))
MEMBER_KEYS = jax.random.split(KEYS, 4)


def oracle(scores: np.ndarray, count: int, among: np.ndarray) -> np.ndarray:
    """Largest first, NaN last, equal scores by index."""
    flat = scores.reshape(-1).astype(np.float64)
    order = sorted(
        np.flatnonzero(among.reshape(-1)),
        key=lambda i: (np.isnan(flat[i]), 0 if np.isnan(flat[i]) else -flat[i], i),
    )
    mask = np.zeros(flat.size, bool)
    mask[order[:count]] = True
    return mask.reshape(scores.shape)


@given(SCORES, COUNTS)
def test_top_count_equals_numpy_with_ties_by_index(scores, count):
    chosen = plain(scores, count)
    np.testing.assert_array_equal(chosen, oracle(scores, count, np.ones(SHAPE, bool)))


@given(SCORES, COUNTS, hnp.arrays(np.bool_, SHAPE))
def test_top_count_chooses_candidates_only_and_never_more_than_there_are(scores, count, among):
    chosen = plain(scores, count, None, among)
    np.testing.assert_array_equal(chosen, oracle(scores, count, among))
    assert chosen.sum() == min(count, among.sum())


@given(SCORES, COUNTS, hnp.arrays(np.bool_, SHAPE), st.integers(0, 2**31 - 1))
def test_accelerators_choose_the_same_entries(scores, count, among, seed):
    key = jax.random.key(seed)
    np.testing.assert_array_equal(accelerated(scores, count, key, among), plain(scores, count, key, among))


def test_accelerators_search_without_asking_the_host():
    arguments = (jnp.zeros((3, 8)), jnp.ones(3, jnp.int32), KEYS)
    loops = [str(jax.make_jaxpr(jitted_for(name, rows.top))(*arguments)) for name in ("cpu", "gpu")]
    assert "while[" in loops[0] and "while[" not in loops[1]
    drawn = jax.random.normal(KEYS, (3, 8))
    found = [jitted_for(name, rows.top)(drawn, jnp.arange(3), KEYS, drawn < 1) for name in ("cpu", "gpu")]
    np.testing.assert_array_equal(*found)


@given(SCORES, COUNTS, st.integers(0, 2**31 - 1))
def test_keyed_ties_keep_the_count_and_the_multiset_of_scores(scores, count, seed):
    chosen = np.asarray(plain(scores, count, jax.random.key(seed)))
    reference = oracle(scores, count, np.ones(SHAPE, bool))
    assert chosen.sum() == count
    np.testing.assert_array_equal(np.sort(scores[chosen]), np.sort(scores[reference]))


@given(
    hnp.arrays(np.float32, (4, *SHAPE), elements=FEW.map(np.float32)),
    hnp.arrays(np.int32, 4, elements=COUNTS),
)
@pytest.mark.slow
def test_vmap_over_scores_and_traced_counts_equals_single_calls(scores, counts):
    together = mapped(scores, counts)
    keyed = mapped(scores, counts, MEMBER_KEYS)
    for member in range(4):
        np.testing.assert_array_equal(together[member], plain(scores[member], counts[member]))
        np.testing.assert_array_equal(
            keyed[member], plain(scores[member], counts[member], MEMBER_KEYS[member])
        )


@pytest.mark.parametrize("count, expected", [(-3, 0), (0, 0), (ENTRIES, ENTRIES), (10**6, ENTRIES)])
def test_counts_outside_the_range_are_clipped(count, expected):
    assert plain(jnp.full(SHAPE, jnp.nan), count).sum() == expected
    assert plain(jnp.zeros(SHAPE), count, KEYS).sum() == expected


@pytest.mark.slow
def test_keyed_ties_have_uniformly_random_winners():
    scores = jnp.array([5.0, 1, 1, 1, 1, 1, 1, 0])
    draws = 6000
    chosen = jax.vmap(lambda key: masks.top_count(scores, 3, key))(jax.random.split(KEYS, draws))
    wins = np.asarray(chosen.sum(0))
    assert wins[0] == draws and wins[7] == 0
    # Two of six tied entries win: probability 1/3 each, and each of the 15 pairs equally often.
    assert np.all(np.abs(wins[1:7] / draws - 1 / 3) < 4 * np.sqrt(2 / 9 / draws))
    pairs = np.asarray(chosen[:, 1:7]) @ (1 << np.arange(6))
    frequency = np.unique(pairs, return_counts=True)[1]
    assert frequency.size == 15
    expected = draws / 15
    assert (
        np.sum((frequency - expected) ** 2 / expected) < 36.1
    )  # chi-square, 14 degrees of freedom, p = 0.001


def test_top_count_compiles_without_a_sort():
    text = jax.jit(masks.top_count).lower(jnp.zeros((64, 64)), jnp.int32(5), KEYS).as_text()
    assert "sort" not in text


def test_large_tensors_are_exact():
    scores = jnp.round(
        jax.random.normal(KEYS, (256, 256)) * 8
    )  # a few dozen distinct values: ties by the thousand
    for count in (1, 9_999, 65_535):
        np.testing.assert_array_equal(
            plain(scores, count), oracle(np.asarray(scores), count, np.ones((256, 256), bool))
        )


def twin() -> tuple[LayerTable, dict]:
    layers = LayerTable(
        (
            Layer("hidden_0", ("hidden_0", "kernel"), ("hidden_0", "bias"), "dense", (3, 4), (2,)),
            Layer("norm", ("norm", "kernel"), None, "dense", (4, 4), (2,), maskable=False),
            Layer("output", ("output", "kernel"), ("output", "bias"), "dense", (4, 1), (2,), output=True),
        )
    )
    tree = {
        "hidden_0": {
            "kernel": jnp.zeros((2, 3, 4), bool).at[0, 0].set(True).at[1, 0, 0].set(True),
            "bias": jnp.ones((2, 4), bool),
        },
        "norm": {"kernel": jnp.ones((2, 4, 4), bool)},
        "output": {"kernel": jnp.ones((2, 4, 1), bool).at[1, 2].set(False), "bias": jnp.ones((2, 1), bool)},
    }
    return layers, tree


def test_nnz_table_counts_maskable_weights_layer_by_layer_then_copy_by_copy():
    layers, tree = twin()
    table = jax.jit(lambda m: masks.nnz_table(layers, m))(tree)
    assert table.dtype == jnp.int32
    assert table.tolist() == [4, 1, 4, 3]
    assert len(table) == len(layers.tensors)
    assert masks.nnz_table(LayerTable(), {}).shape == (0,)


def test_count_sums_all_leaves():
    assert int(masks.count(twin()[1])) == 4 + 1 + 8 + 32 + 7 + 2


def test_apply_gives_exact_zeros_even_where_weights_are_not_finite():
    params = {"a": jnp.array([1.0, jnp.nan, -jnp.inf, -2.0]), "b": jnp.array([3.0], jnp.bfloat16)}
    out = masks.apply({"a": jnp.array([True, False, False, True]), "b": jnp.array([True])}, params)
    np.testing.assert_array_equal(out["a"], [1.0, 0.0, 0.0, -2.0])
    assert out["b"].dtype == jnp.bfloat16


def test_overlap_is_the_shared_share_of_the_first_mask():
    first = {"a": jnp.array([True, True, True, True, False])}
    second = {"a": jnp.array([True, False, False, False, True])}
    nothing = {"a": jnp.zeros(5, bool)}
    assert float(masks.overlap(first, second)) == 0.25
    assert float(masks.overlap(second, first)) == 0.5
    assert float(masks.overlap(nothing, first)) == 1.0


def test_overlap_with_layers_ignores_biases():
    layers, tree = twin()
    other = jax.tree.map(jnp.logical_not, tree)
    assert float(masks.overlap(tree, other, layers)) == 0.0
    assert float(masks.overlap(tree, tree, layers)) == 1.0


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)))
def test_packing_round_trips_at_one_bit_per_entry(mask):
    bits = masks.pack(mask)
    assert bits.dtype == np.uint8 and bits.size == -(-mask.size // 8)
    back = masks.unpack(bits, mask.shape)
    assert back.dtype == bool
    np.testing.assert_array_equal(back, mask)


def test_unpacking_refuses_bytes_of_another_shape():
    with pytest.raises(ValueError, match="do not hold"):
        masks.unpack(np.zeros(2, np.uint8), (3, 7))


def test_largest_keeps_the_largest_weights_of_every_tensor_and_copy():
    layers = critic_layers(TwinCritic((4, 3)), 2, 1)
    rng = np.random.default_rng(0)
    params = {
        "mlp": {
            layer.name: {
                "kernel": rng.normal(size=layer.stack + layer.shape),
                "bias": np.ones((2, layer.units_out)),
            }
            for layer in layers
        }
    }
    alive = jax.tree.map(lambda x: np.ones(x.shape, bool), params)
    counts = np.array([5, 12, 0, 7, 3, 1], np.int32)
    found = jax.jit(lambda p, c: masks.largest(alive, p, c, layers))(params, counts)
    for (layer, copy), n in zip(layers.tensors, counts, strict=True):
        weights = np.abs(leaf(params, layer.kernel)[copy]).ravel()
        expected = np.zeros(layer.size, bool)
        expected[np.argsort(-weights)[:n]] = True
        np.testing.assert_array_equal(np.asarray(leaf(found, layer.kernel)[copy]).ravel(), expected)
        assert np.asarray(leaf(found, layer.bias)).all()
