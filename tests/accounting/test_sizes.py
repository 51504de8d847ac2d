"""Sizes agree with the published table of formats, whole-network factors and model sizes."""

import pytest

from sparserl_jax.accounting import sizes
from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable
from sparserl_jax.sparsity import allocation
from tests.accounting.networks import ROWS, actor, critic, network

# KiB of one 256x256 kernel of 32-bit values: dense, bitmask, csr32, csr8, coo32, coo16, entropy.
KIB = {
    0.5: (256, 136.0, 257.0, 160.5, 384.0, 192.0, 136.0),
    0.8: (256, 59.2, 103.4, 64.5, 153.6, 76.8, 57.0),
    0.9: (256, 33.6, 52.2, 32.5, 76.8, 38.4, 29.4),
    0.95: (256, 20.8, 26.6, 16.5, 38.4, 19.2, 15.1),
    0.98: (256, 13.1, 11.2, 6.9, 15.4, 7.7, 6.3),  # csr32 is 11.246; a copy of the table says 11.3
    0.99: (256, 10.6, 6.1, 3.7, 7.7, 3.8, 3.2),
}
ORDER = ("dense", "bitmask", "csr32", "csr8", "coo32", "coo16", "entropy")


@pytest.mark.parametrize("sparsity", KIB)
def test_formats_of_one_layer_match_the_table(sparsity):
    ours = sizes.sizes(network(256, 256), [round(65536 * (1 - sparsity))], include_bias=False)
    for name, expected in zip(ORDER, KIB[sparsity], strict=True):
        assert ours[name] / 1024 == pytest.approx(expected, abs=0.051)


def test_whole_actor_factors_at_95_percent():
    # 17-256-256-6 with Erdos-Renyi counts; 32-bit weights and biases, biases dense and charged on both sides;
    # every tensor in the named format; CSR rows are output units.
    layers = actor(17, 6)
    factors = sizes.compression(sizes.sizes(layers, allocation.er(layers, 0.95)))
    assert factors["bitmask"] == pytest.approx(11.4, abs=0.05)
    assert factors["csr32"] == pytest.approx(8.8, abs=0.05)
    assert factors["csr8"] == pytest.approx(13.7, abs=0.05)
    assert factors["params"] == pytest.approx(71_942 / (3_573 + 518), rel=1e-3)


@pytest.mark.parametrize(
    "observation, action, sparsity, low, high",
    # The last is the Hopper actor, 27.8; printed as 27.
    [(17, 6, 0.90, 7.35, 7.45), (17, 6, 0.97, 20.75, 20.85), (11, 3, 0.98, 27.0, 28.0)],
)
def test_csr8_factors_at_the_published_actor_sparsities(observation, action, sparsity, low, high):
    layers = actor(observation, action)
    factor = sizes.compression(sizes.sizes(layers, allocation.er(layers, sparsity)))["csr8"]
    assert low <= factor <= high


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_model_sizes_match_the_paper_to_the_printed_digit(row):
    name, observation, action, outputs, actor_s, size, critic_s, _ = row
    pi, q = actor(observation, outputs * action), critic(observation, action)
    live = {"actor": sum(allocation.er(pi, actor_s)), "critic": sum(allocation.er(q, critic_s))}
    full = {"actor": pi.weights, "critic": q.weights}
    share = sizes.weight_share(live, full, target_actor=name.startswith("TD3"))
    assert round(share, 3) == size


def test_dense_networks_carry_no_mask_bits():
    layers = actor(17, 6)
    ours = sizes.sizes(layers)
    assert ours["params"] == ours["dense_params"] == 71_942
    assert ours["dense"] == ours["bitmask"] == ours["raw_blob"] == ours["entropy"] == 4 * 71_942
    assert sizes.raw_blob(layers).formats == ("dense",) * 3


def test_the_raw_blob_takes_the_cheapest_format_per_tensor_and_says_so():
    layers = actor(17, 6)
    nnz = allocation.er(layers, 0.9)
    blob = sizes.raw_blob(layers, nnz, normaliser=34)
    assert blob.choice == "bitmask, csr8, dense"
    assert blob.values == 4 * sum(nnz)
    assert blob.indices == 17 * 256 // 8 + nnz[1]
    assert blob.pointers == 2 * 257
    assert blob.biases == 4 * 518
    assert blob.normaliser == 4 * 34
    assert blob.total == blob.values + blob.indices + blob.pointers + blob.biases + blob.normaliser
    named = sizes.sizes(layers, nnz)
    assert blob.total - blob.normaliser == named["raw_blob"] < min(named["bitmask"], named["csr8"])


def test_indices_and_pointers_widen_when_they_must():
    wide = Layer("wide", ("wide", "kernel"), None, "dense", (257, 512), output=True)
    assert sizes.tensor_parts(wide, 1000, "csr8") == sizes.Parts(4000, 2000, 2 * 513)
    assert sizes.tensor_parts(wide, 65_535, "csr8").pointers == 2 * 513
    assert sizes.tensor_parts(wide, 65_536, "csr8").pointers == 4 * 513
    assert sizes.tensor_parts(wide, 1000, "coo16") == sizes.Parts(4000, 4000)


def test_value_types_and_biases_are_the_callers_choice():
    layers = network(8, 8)
    assert sizes.sizes(layers, [4], value_bits=8)["bitmask"] == 4 + 8 + 8
    assert sizes.sizes(layers, [4], include_bias=False, value_bits=8)["bitmask"] == 4 + 8
    assert sizes.sizes(layers, [4], include_bias=False)["params"] == 4


def test_empty_tensors_and_unmaskable_layers_are_sized():
    masked, norm = network(8, 8)[0], Layer("norm", ("norm", "kernel"), None, "dense", (8, 8), maskable=False)
    ours = sizes.sizes(LayerTable((masked, norm)), [0], include_bias=False)
    assert ours["bitmask"] == 8 + 256 and ours["entropy"] == 256 and ours["params"] == 64


def test_counts_and_formats_that_do_not_exist_are_refused():
    with pytest.raises(UserError):
        sizes.sizes(network(8, 8), [65])
    with pytest.raises(ValueError, match="unknown format"):
        sizes.tensor_parts(network(8, 8)[0], 4, "zip")
