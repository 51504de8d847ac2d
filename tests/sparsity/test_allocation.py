"""Allocation reproduces the published layer sparsities and gives exact integer counts."""

import re
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable
from sparserl_jax.sparsity import allocation
from tests.accounting.networks import actor, critic, network

# Rows of the layer-sparsity table of the RLx2 reproduction: name, observation, action, SAC?, sparsities,
# layer sparsities.
ROWS = [
    ("TD3 HalfCheetah", 17, 6, 1, 0.90, (0.5520, 0.9442, 0), 0.85, (0.3712, 0.8963, 0)),
    ("TD3 Hopper", 11, 3, 1, 0.98, (0.8737, 0.9896, 0.5509), 0.95, (0.6905, 0.9679, 0)),
    ("TD3 Walker2d", 17, 6, 1, 0.97, (0.8716, 0.9840, 0.6509), 0.95, (0.8006, 0.9671, 0)),
    ("TD3 Ant", 111, 8, 1, 0.96, (0.9566, 0.9738, 0.5669), 0.88, (0.8433, 0.9005, 0)),
    ("SAC HalfCheetah", 17, 6, 2, 0.90, (0.5654, 0.9459, 0.3955), 0.80, (0.1565, 0.8609, 0)),
    ("SAC Hopper", 11, 3, 2, 0.98, (0.8727, 0.9895, 0.7710), 0.95, (0.6905, 0.9679, 0)),
    ("SAC Walker2d", 17, 6, 2, 0.90, (0.5654, 0.9459, 0.3955), 0.90, (0.5859, 0.9317, 0)),
    ("SAC Ant", 111, 8, 2, 0.90, (0.8900, 0.9334, 0.4343), 0.75, (0.6696, 0.7903, 0)),
]


def exact(layers: LayerTable, sparsity: str) -> list[int]:
    """The same rule in rational arithmetic: no rounding anywhere before the truncation."""
    want = Fraction(sparsity)
    tensors = [layer for layer, _ in layers.tensors]
    odds = [Fraction(layer.shape[0] + layer.shape[1], layer.size) for layer in tensors]
    dense: set[int] = set()
    eps = Fraction(0)
    while len(dense) < len(tensors):
        free = [i for i in range(len(tensors)) if i not in dense]
        budget = sum(tensors[i].size * (1 - want) for i in free) - sum(tensors[i].size * want for i in dense)
        eps = budget / sum(odds[i] * tensors[i].size for i in free)
        top = max(odds[i] for i in free)
        if eps * top <= 1:
            break
        dense |= {i for i in free if odds[i] == top}
    zeros = [0 if i in dense else int((1 - eps * odds[i]) * t.size) for i, t in enumerate(tensors)]
    return [t.size - z for t, z in zip(tensors, zeros, strict=True)]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_erdos_renyi_reproduces_the_table_to_four_digits_and_the_exact_integers(row):
    _, observation, action, outputs, actor_s, actor_layers, critic_s, critic_layers = row
    for layers, sparsity, expected, copies in (
        (actor(observation, outputs * action), actor_s, actor_layers, 1),
        (critic(observation, action), critic_s, critic_layers, 2),
    ):
        counts = allocation.er(layers, sparsity)
        assert all(isinstance(kept, int) for kept in counts)
        assert counts == exact(layers, str(sparsity))
        assert counts == allocation.erk(layers, sparsity)  # the two agree on dense layers
        for index, (layer, _) in enumerate(layers.tensors):
            share = 1 - counts[index] / layer.size
            assert abs(share - expected[index // copies]) < 0.5e-4 + 1 / layer.size


def test_exact_live_weights_of_the_two_headline_networks():
    assert allocation.er(actor(17, 6), 0.90) == [1950, 3657, 1536]
    assert allocation.er(critic(11, 3), 0.95) == [1110, 1110, 2104, 2104, 256, 256]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_overall_sparsity_is_met_within_one_weight_per_tensor(row):
    layers = critic(row[1], row[2])
    kept = sum(allocation.er(layers, row[6]))
    wanted = (1 - row[6]) * layers.weights
    assert wanted - 1e-6 <= kept <= wanted + len(layers.tensors)


def test_convolutions_count_their_kernel_in_erk_and_not_in_er():
    layers = LayerTable(
        (
            Layer("conv", ("conv", "kernel"), None, "conv", (3, 3, 16, 32)),
            Layer("output", ("output", "kernel"), None, "dense", (64, 64), output=True),
        )
    )
    kernel, plain = allocation.erk(layers, 0.8), allocation.er(layers, 0.8)
    assert kernel[0] / kernel[1] == pytest.approx((3 + 3 + 16 + 32) / (64 + 64), rel=1e-2)
    assert plain[0] / plain[1] == pytest.approx((16 + 32) * 9 / (64 + 64), rel=1e-2)
    assert sum(kernel) == pytest.approx(sum(plain), abs=4)


def test_uniform_truncates_zeros_and_keeps_the_output_layer_maskable():
    assert allocation.uniform(actor(17, 6), 0.9) == [4352 - 3916, 65536 - 58982, 1536 - 1382]


@pytest.mark.parametrize("rule", [allocation.uniform, allocation.er, allocation.erk])
def test_zero_sparsity_is_dense(rule):
    layers = critic(17, 6)
    assert rule(layers, 0.0) == [layer.size for layer, _ in layers.tensors]


@given(st.lists(st.integers(1, 64), min_size=2, max_size=5), st.floats(0, 0.99), st.integers(1, 2))
def test_counts_lie_between_one_and_dense(widths, sparsity, copies):
    layers = network(*widths, copies=copies)
    try:
        counts = allocation.er(layers, sparsity)
    except UserError:
        assume(False)
    assert all(1 <= kept <= layer.size for kept, (layer, _) in zip(counts, layers.tensors, strict=True))
    wanted = (1 - sparsity) * layers.weights
    assert wanted - 1e-6 <= sum(counts) <= wanted + len(counts) + 1e-6


def test_a_starved_tensor_is_named_with_the_largest_reachable_sparsity():
    layers = network(4, 8, 8, 1)
    with pytest.raises(UserError, match="layer_2") as caught:
        allocation.uniform(layers, 0.95)
    message = str(caught.value)
    assert "layer_2 (8, 1)" in message
    reachable = float(re.search(r"at most ([\d.]+)", message).group(1))
    assert reachable == pytest.approx(1 - 1 / 8, abs=2e-6)
    assert min(allocation.uniform(layers, reachable)) >= 1
    with pytest.raises(UserError):
        allocation.uniform(layers, reachable + 1e-4)


def test_a_larger_minimum_is_respected():
    layers = actor(17, 6)
    assert min(allocation.er(layers, 0.99, minimum=40)) >= 40
    with pytest.raises(UserError, match="fewer than 400"):
        allocation.er(layers, 0.99, minimum=400)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_sparsities_out_of_range_are_refused(sparsity):
    with pytest.raises(UserError):
        allocation.er(actor(17, 6), sparsity)


def test_densities_are_the_realised_ones():
    layers = actor(17, 6)
    counts = allocation.er(layers, 0.9)
    density = [kept / layer.size for (layer, _), kept in zip(layers.tensors, counts, strict=True)]
    assert density == pytest.approx([0.4480, 0.0558, 1.0], abs=1e-4)


@pytest.mark.parametrize(
    "layers, nnz, width",
    [
        (actor(17, 6), 7142, 74),  # real width 73.8: the HalfCheetah actor at 90 %
        (critic(17, 6), 21504, 93),  # 92.4: each Q of its critic at 85 %
        (actor(11, 3), 1382, 31),  # 30.8: the Hopper actor at 98 %
        (network(5, 64, 2), 7, 1),
        (network(5, 64, 2), 8, 2),
        (actor(17, 6), 71424, 256),  # a dense network is its own tiny network
        (critic(17, 6), 2 * 71680, 256),
    ],
)
def test_tiny_width_is_the_smallest_that_reaches_the_budget(layers, nnz, width):
    hidden, copies = len(layers) - 1, layers[0].copies
    ends = layers[0].units_in + layers[-1].units_out

    def weights(h):
        return copies * (ends * h + (hidden - 1) * h * h)

    assert allocation.tiny_width(layers, nnz) == width
    assert weights(width) >= nnz and (width == 1 or weights(width - 1) < nnz)


def test_tiny_width_reaches_what_the_sparse_arm_keeps():
    layers = critic(111, 8)
    nnz = sum(allocation.er(layers, 0.88))
    width = allocation.tiny_width(layers, nnz)
    assert (
        2 * (119 * width + width**2 + width) >= nnz > 2 * (119 * (width - 1) + (width - 1) ** 2 + width - 1)
    )


def test_tiny_width_refuses_networks_it_cannot_narrow():
    with pytest.raises(UserError, match="hidden"):
        allocation.tiny_width(network(17, 6), 10)
    with pytest.raises(UserError, match="at least 1"):
        allocation.tiny_width(actor(17, 6), 0)
