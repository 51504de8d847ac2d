"""Factors are the nearest ones of their rank, are counted by hand, and networks act with them as with their product."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserl_jax.deploy import low_rank
from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable, derive, leaf
from sparserl_jax.networks import ActionValues, Actor, GaussianActor, TwinCritic, actor_layers, critic_layers
from tests.accounting.networks import network


def params_of(layers: LayerTable, seed: int, density: float = 1.0) -> tuple[dict, dict]:
    """Random parameters and masks, every bias live."""
    random = np.random.default_rng(seed)
    params, masks = {}, {}
    for layer in layers:
        mask = random.random(layer.shape) < density
        kernel = random.normal(size=layer.shape).astype(np.float32)
        bias = random.normal(size=layer.units_out).astype(np.float32)
        params[layer.name] = {"kernel": np.where(mask, kernel, 0), "bias": bias}
        masks[layer.name] = {"kernel": mask, "bias": np.ones(layer.units_out, bool)}
    return params, masks


def one_layer(matrix) -> tuple[LayerTable, dict, dict]:
    layers = network(*np.shape(matrix))
    params, masks = params_of(layers, 0)
    params["layer_0"]["kernel"] = np.asarray(matrix, np.float32)
    return layers, params, masks


def shapes(tree: dict) -> dict:
    return jax.tree.map(np.shape, tree)


# --- The nearest matrix of a rank ---


@pytest.mark.parametrize("factors", [2, 3])
def test_eckart_and_young_by_hand(factors):
    """Singular values 3, 2, 1 in a 6 x 9 matrix: rank 2 loses the 1, rank 1 the 2 and the 1."""
    matrix = np.zeros((6, 9))
    matrix[0, 4], matrix[3, 2], matrix[5, 8] = 3, -2, 1
    layers, params, masks = one_layer(matrix)
    assert low_rank.singular_values(layers, params, masks)[0][:4] == pytest.approx([3, 2, 1, 0])
    two = low_rank.decompose(layers, params, masks, [2], factors)
    kept = matrix.copy()
    kept[5, 8] = 0
    assert low_rank.multiplied_out(two.params)["layer_0"]["kernel"] == pytest.approx(kept, abs=1e-6)
    assert two.parts[0].error == two.error == pytest.approx((1 / 14) ** 0.5)
    one = low_rank.decompose(layers, params, masks, [1], factors)
    assert one.error == pytest.approx((5 / 14) ** 0.5)


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    st.floats(0.0, 1.0),
    st.sampled_from([2, 3]),
    st.data(),
)
def test_what_is_lost_is_the_root_of_the_dropped_squares(seed, widths, density, factors, data):
    layers = network(*widths)
    params, masks = params_of(layers, seed, density)
    values = low_rank.singular_values(layers, params, masks)
    ranks = [data.draw(st.integers(0, low_rank.full_rank(layer))) for layer in layers]
    found = low_rank.decompose(layers, params, masks, ranks, factors)
    product = low_rank.multiplied_out(found.params)
    lost = total = stored = 0.0
    for part, layer, rank, each in zip(found.parts, layers, ranks, values, strict=True):
        kernel = params[layer.name]["kernel"].astype(np.float64)
        dropped = np.sum(each[rank:] ** 2) if part.factored else 0.0
        assert np.linalg.norm(kernel - product[layer.name]["kernel"]) == pytest.approx(dropped**0.5, abs=1e-5)
        size = np.sum(kernel**2)
        assert part.error == pytest.approx((dropped / size) ** 0.5 if size else 0.0, abs=1e-5)
        lost, total, stored = lost + dropped, total + size, stored + part.weights
        m, n = layer.shape
        smaller = rank * (m + n + (factors == 3)) < m * n
        assert part.factored == smaller
        assert part.weights == (rank * (m + n + (factors == 3)) if smaller else m * n)
    assert found.error == pytest.approx((lost / total) ** 0.5 if total else 0.0, abs=1e-5)
    assert found.compression == pytest.approx(1 - stored / layers.weights)
    # What accounting counts is what the parameters hold, tensor by tensor; masks mirror them.
    table = low_rank.stored_layers(layers, ranks, factors)
    assert table.weights == stored and table.biases == layers.biases
    assert [leaf(found.params, layer.kernel).shape for layer in table] == [layer.shape for layer in table]
    assert shapes(found.masks) == shapes(found.params)
    assert shapes(product) == shapes(params)


@pytest.mark.slow
def test_a_convolution_is_decomposed_as_its_merged_matrix():
    layers, module, params = small_convolution()
    masks = jax.tree.map(lambda x: np.ones(x.shape, bool), params)
    conv = layers[0]
    matrix = np.asarray(params["Conv_0"]["kernel"], np.float64).reshape(3 * 3 * 2, 8)
    values = np.linalg.svd(matrix, compute_uv=False)
    found = low_rank.decompose(layers, params, masks, [3, 1], 3)
    assert found.parts[0].weights == 3 * (18 + 8 + 1) < conv.size
    assert found.parts[0].error == pytest.approx(
        np.sqrt(np.sum(values[3:] ** 2) / np.sum(values**2)), rel=1e-5
    )
    assert shapes(found.params["Conv_0"]) == {
        "left": (3, 3, 2, 3),
        "scale": (1, 1, 1, 3),
        "right": (1, 1, 3, 8),
        "bias": (8,),
    }


def test_a_matrix_of_zeros_has_rank_0_and_outputs_its_bias():
    layers, params, masks = one_layer(np.ones((6, 9)))
    masks["layer_0"]["kernel"][:] = False
    values = low_rank.singular_values(layers, params, masks)
    for rule in ("energy=0.9", "numerical"):
        assert low_rank.choose(low_rank.rule(rule), layers, values) == (0,)
    found = low_rank.decompose(layers, params, masks, [0])
    assert found.parts[0] == low_rank.Part(layers[0], 0, True, 0, 0.0) and found.compression == 1
    with low_rank.acting():
        out = nn.Dense(9).apply({"params": found.params["layer_0"]}, jnp.ones(6))
    assert np.array_equal(out, params["layer_0"]["bias"])


# --- Counting ---


@pytest.mark.parametrize(("n", "rank"), [(64, 31), (128, 63), (256, 127), (512, 255)])
def test_three_factors_are_smaller_up_to_the_break_even_rank(n, rank):
    (layer,) = network(n, n)
    assert low_rank.stored_weights(layer, rank, 3) == rank * (2 * n + 1) < n * n
    assert low_rank.is_smaller(layer, rank, 3) and not low_rank.is_smaller(layer, rank + 1, 3)
    # Two factors of half the full rank have exactly as many weights, which is not smaller.
    assert low_rank.stored_weights(layer, n // 2, 2) == n * n and not low_rank.is_smaller(layer, n // 2, 2)
    assert low_rank.is_smaller(layer, n // 2 - 1, 2)


def test_a_layer_that_factors_would_not_shrink_stays_as_it_is():
    layers = network(3, 64, 64, 1)
    params, masks = params_of(layers, 1, 0.3)
    found = low_rank.decompose(layers, params, masks, [3, 10, 1])
    assert [part.factored for part in found.parts] == [False, True, False]
    assert [part.weights for part in found.parts] == [192, 10 * 129, 64]
    assert found.compression == pytest.approx(1 - (192 + 1290 + 64) / 4352)
    for name in ("layer_0", "layer_2"):
        assert found.params[name] is params[name] and found.masks[name] is masks[name]
    assert found.masks["layer_1"]["left"].all() and "kernel" not in found.params["layer_1"]
    names = [layer.name for layer in low_rank.stored_layers(layers, [3, 10, 1])]
    assert names == ["layer_0", "layer_1.left", "layer_1.scale", "layer_1.right", "layer_2"]


# --- Ranks ---


def test_rules_by_hand():
    layers, params, masks = one_layer(np.diag([3.0, 2.0, 1.0, 0.002]))
    values = low_rank.singular_values(layers, params, masks)
    ranks = {text: low_rank.choose(low_rank.rule(text), layers, values)[0] for text in (
        "energy=0.64", "energy=0.65", "energy=0.92", "energy=0.93", "energy=1", "numerical", "fraction=0.25",
        "fraction=0.26", "fraction=0.01", "rank=2",
    )}  # fmt: skip
    # Squares 9, 4, 1 of 14: shares 0.643, 0.929, then all but 3e-7; 0.002 is less than a thousandth of 3.
    assert list(ranks.values()) == [1, 2, 2, 3, 4, 3, 1, 2, 1, 2]
    assert [str(low_rank.rule(text)) for text in ranks] == list(ranks)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.floats(0.0, 0.5))
def test_the_numerical_rank_is_at_most_the_units_a_mask_leaves(seed, m, n, density):
    layers = network(m, n)
    params, masks = params_of(layers, seed, density)
    mask = masks["layer_0"]["kernel"]
    (rank,) = low_rank.choose(
        low_rank.rule("numerical"), layers, low_rank.singular_values(layers, params, masks)
    )
    assert rank <= min(np.count_nonzero(mask.any(0)), np.count_nonzero(mask.any(1)))


def test_fractions_have_no_rounding_noise():
    assert low_rank.ranks_of_fraction(network(20, 20), 0.15) == (3,)
    assert low_rank.ranks_of_fraction(network(100, 100), 0.07) == (7,)


@pytest.mark.parametrize("factors", [2, 3])
def test_a_sweep_goes_from_few_weights_to_the_plain_network(factors):
    layers = network(3, 64, 64, 1)
    found = low_rank.sweep(layers, factors)
    sizes = [low_rank.stored_layers(layers, ranks, factors).weights for ranks in found]
    assert sizes == sorted(sizes) and sizes[-1] == layers.weights
    stored = [low_rank.stored_layers(layers, ranks, factors) for ranks in found]
    assert len(set(stored)) == len(stored)
    assert found[0] == (1, 4, 1)  # a twentieth of 64 is 3.2
    assert (3, 4, 1) in found and (1, 20, 1) in found  # first and last layer whole, and all layers alike
    assert low_rank.sweep(network(2, 2), factors) == [(1,)]  # too small to gain anything: plain


@pytest.mark.parametrize(
    ("ranks", "sentence"),
    [
        ([4, 8, 1], r"rank 4 of layer layer_0 \(3, 64\) is not between [01] and its full rank 3"),
        ([3, 65, 1], r"rank 65 of layer layer_1 \(64, 64\) .* full rank 64"),
        ([3, -1, 1], "rank -1 of layer layer_1"),
        ([3, 8], r"2 ranks were given for 3 layers \(layer_0, layer_1, layer_2\): give one per layer"),
    ],
)
def test_ranks_that_no_matrix_has_are_refused(ranks, sentence):
    layers = network(3, 64, 64, 1)
    with pytest.raises(UserError, match=sentence):
        low_rank.decompose(layers, *params_of(layers, 0), ranks)
    with pytest.raises(UserError, match=sentence):
        low_rank.choose(low_rank.Rule("rank", ranks=tuple(ranks)), layers, [])


def test_rank_0_is_of_zeros_only_and_not_to_be_asked_for():
    layers = network(3, 64, 64, 1)
    with pytest.raises(
        UserError, match=r"rank 0 of layer layer_1 \(64, 64\) is not between 1 and its full rank 64"
    ):
        low_rank.choose(low_rank.rule("rank=3,0,1"), layers, [])


@pytest.mark.parametrize(
    "text",
    ["", "energy", "energy=0", "energy=1.1", "energy=nan", "numerical=2", "rank=", "rank=a", "z=-1", "y=1"],
)
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(UserError, match="is no rule for ranks: write one of energy=0.99"):
        low_rank.rule(text)


def test_what_cannot_be_decomposed_is_refused():
    layers, params, masks = one_layer([[1.0, np.nan], [1.0, 1.0]])
    with pytest.raises(UserError, match="weights of layer layer_0 are not finite"):
        low_rank.decompose(layers, params, masks, [1])
    twins = critic_layers(TwinCritic((4,)), 3, 1)
    with pytest.raises(UserError, match="layer hidden_0 is a stack of 2 tensors"):
        low_rank.singular_values(twins, {}, {})


# --- Acting ---


def factored(layers: LayerTable, params: dict, factors: int, share: float) -> dict:
    """Factors of a share of the full rank in every layer, also where they are larger."""
    for layer in layers:
        place = layer.kernel[:-1]
        matrix = np.asarray(leaf(params, layer.kernel), np.float64).reshape(layer.fan_in, layer.units_out)
        rank = max(1, int(share * low_rank.full_rank(layer)))
        params = low_rank._replaced(params, place, low_rank.factorise(layer, matrix, rank, factors))
    return params


def small_convolution():
    class Small(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(8, (3, 3), strides=2, padding="VALID")(x))
            return nn.Dense(4)(x.reshape(*x.shape[:-3], -1))

    image = jnp.zeros((7, 7, 2))
    module = Small()
    layers = derive(lambda key, x: module.init(key, x)["params"], image)
    return layers, module, module.init(jax.random.key(0), image)["params"]


@pytest.mark.parametrize("factors", [2, 3])
@pytest.mark.parametrize("kind", [Actor, GaussianActor, "conv", "cnn", "simba"])
@pytest.mark.slow
def test_networks_act_with_factors_as_with_their_product(kind, factors):
    if kind == "conv":
        layers, module, params = small_convolution()
        obs = jax.random.normal(jax.random.key(1), (5, 7, 7, 2))
    elif kind == "cnn":
        module = ActionValues((16, 12), 3, kind="cnn", image=(5, 4, 2))
        layers, obs = actor_layers(module, 40), jax.random.normal(jax.random.key(1), (5, 40))
        params = module.init(jax.random.key(0), obs)["params"]
    else:
        module = Actor((8, 8), 3, kind="simba") if kind == "simba" else kind((16, 12), 3)
        layers, obs = actor_layers(module, 7), jax.random.normal(jax.random.key(1), (5, 7))
        params = module.init(jax.random.key(0), obs)["params"]
    plain = module.apply({"params": params}, obs)
    for share in (1.0, 0.4):
        thin = factored(layers, params, factors, share)
        with low_rank.acting():
            out = module.apply({"params": thin}, obs)
            mapped = jax.jit(jax.vmap(lambda x, thin=thin: module.apply({"params": thin}, x)))(obs)
            assert jax.tree.all(
                jax.tree.map(np.array_equal, module.apply({"params": params}, obs), plain)
            )  # a plain network is left alone
        product = module.apply({"params": low_rank.multiplied_out(thin)}, obs)
        same = product if share < 1 else plain  # at full rank nothing is lost
        for a, b, c in zip(*map(jax.tree.leaves, (out, mapped, same)), strict=True):
            assert np.allclose(a, c, atol=1e-5) and np.allclose(b, c, atol=1e-5)
    lost = jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), out, plain))
    assert max(lost) > 1e-3  # the lower rank is another network
