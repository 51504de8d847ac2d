"""FLOPs agree with the published per-step numbers, with the compiler's count, and with each other."""

import jax
import jax.numpy as jnp
import pytest

from sparserl_jax.accounting import flops
from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable
from sparserl_jax.sparsity import allocation
from tests.accounting.networks import ROWS, actor, critic, network

# Observation, action, A, C, F_step, F_step with the full backward pass, actor and one critic's parameters.
GOLDEN = [
    (17, 6, 142_848, 143_360, 421_724_160, 440_074_240, 71_942, 72_193),
    (11, 3, 138_240, 138_752, 408_158_208, 425_918_464, 69_635, 69_889),
    (111, 8, 192_000, 192_512, 566_427_648, 591_069_184, 96_520, 96_769),
    (27, 8, 148_992, 149_504, 439_812_096, 458_948_608, 75_016, 75_265),
    (376, 17, 332_288, 332_800, 979_435_520, 1_022_033_920, 166_673, 166_913),
]


@pytest.mark.parametrize("row", GOLDEN)
def test_dense_td3_costs_are_the_golden_ones(row):
    observation, action, a, c, step, full, actor_parameters, critic_parameters = row
    pi, q = actor(observation, action), critic(observation, action)
    assert flops.forward(pi) == a
    assert flops.forward(q) == 2 * c
    assert flops.td3_update(a, c, batch=256) == step == 256 * (2.5 * a + 9 * c)
    assert flops.td3_update(a, c, batch=256, full_backward=True) == full
    assert pi.weights + pi.biases == actor_parameters
    assert q.weights + q.biases == 2 * critic_parameters
    for full_backward, expected in ((False, step), (True, full)):
        run = flops.td3_run(pi, q, updates=1_000_000, full_backward=full_backward)
        assert run.total == run.updates == run.dense == 1_000_000 * expected


def test_delay_one_charges_the_actor_every_step():
    assert flops.td3_update(10, 100, delay=1) == 10 + 800 + 30 + 200
    run = flops.td3_run(actor(3, 1), critic(3, 1), updates=7, delay=3, batch=2)
    a, c = flops.forward(actor(3, 1)), flops.forward(critic(3, 1)) // 2
    assert run.total == 2 * (7 * (a + 8 * c) + 2 * (3 * a + 2 * c))


@pytest.mark.parametrize("delay", [1, 3])
def test_a_run_of_sac_adds_up_its_updates_step_by_step(delay):
    pi, q = actor(17, 12), critic(17, 6)
    a, c = flops.forward(pi), flops.forward(q) // 2
    short, long = (flops.sac_update(a, c, batch=256, n=n, delay=delay) for n in (1, 3))
    if delay == 1:
        assert (short, long) == (256 * (4 * a + 12 * c), 256 * (6 * a + 12 * c))
    one_step = flops.sac_run(pi, q, updates=9, delay=delay, env_steps=9)
    assert one_step.total == one_step.dense == 9 * short + 9 * a and one_step.ratio == 1.0
    delayed = flops.sac_run(pi, q, updates=9, delay=delay, target_actions=3 + 6 * 3)
    assert delayed.updates == 3 * short + 6 * long and delayed.dense == 9 * short
    assert delayed.ratio > 1  # a dense network with multi-step targets costs more than one without
    events = {"dense_growth": True, "actor_events": 2, "critic_events": 1}
    nnz = allocation.er(pi, 0.9), allocation.er(q, 0.9)
    grown = flops.sac_run(pi, q, *nnz, updates=9, delay=delay, **events)
    live, live_q = flops.forward(pi, nnz[0]), flops.forward(q, nnz[1])
    assert grown.surcharge == 256 * (2 * (a - live) + 2 * c - live_q)
    assert flops.td3_run(pi, q, updates=4, target_actions=8).updates == 256 * (
        4 * flops.td3_update(a, c) + 4 * a
    )


# Training share of each row: our formula, to the four digits at which it was checked.
SHARES = [0.1384, 0.0431, 0.0454, 0.1026, 0.186, 0.0446, 0.1121, 0.2246]
INFERENCE = [0.100, 0.020, 0.030, 0.040, 0.100, 0.020, 0.100, 0.100]


@pytest.mark.parametrize(
    "row, share, inference", list(zip(ROWS, SHARES, INFERENCE, strict=True)), ids=[r[0] for r in ROWS]
)
def test_sparse_training_shares_are_the_check_values(row, share, inference):
    name, observation, action, outputs, actor_s, _, critic_s, _ = row
    pi, q = actor(observation, outputs * action), critic(observation, action)
    live = flops.forward(pi, allocation.er(pi, actor_s), "minus1")
    live_q = flops.forward(q, allocation.er(q, critic_s), "minus1") / 2
    dense, dense_q = flops.forward(pi, None, "minus1"), flops.forward(q, None, "minus1") / 2
    if name.startswith("TD3"):
        ours = flops.td3_update(live, live_q) / flops.td3_update(dense, dense_q)
    else:  # three-step actor passes are charged against a one-step dense baseline
        ours = flops.sac_update(live, live_q, n=3) / flops.sac_update(dense, dense_q)
    # The check values were computed from fractional weights: Walker2d gives 0.04544 so, 0.04546 with whole
    # ones.
    assert ours == pytest.approx(share, abs=1e-4 if share != 0.186 else 5e-4)
    assert live / dense == pytest.approx(inference, abs=6e-4)


def test_conventions_count_one_layer_as_defined():
    layers = network(10, 4)
    nnz = [20]
    assert [flops.forward(layers, nnz, name) for name in ("mac2", "minus1", "mac1", "micronet")] == [
        40,
        38,
        20,
        44,
    ]
    assert flops.forward(layers, None, "minus1") == (2 * 10 - 1) * 4


@pytest.mark.parametrize("convention", flops.CONVENTIONS)
def test_all_ones_masks_cost_what_dense_costs_and_empty_layers_nothing(convention):
    layers = critic(17, 6)
    full = [layer.size for layer, _ in layers.tensors]
    assert flops.forward(layers, full, convention) == flops.forward(layers, None, convention)
    assert flops.forward(layers, [0] * 6, convention) == 0


def test_ratios_hardly_depend_on_the_convention():
    layers = actor(17, 6)
    nnz = allocation.er(layers, 0.9)
    shares = [
        flops.forward(layers, nnz, c) / flops.forward(layers, None, c) for c in ("mac2", "minus1", "mac1")
    ]
    assert max(shares) / min(shares) < 1.01


def test_dense_counts_agree_with_the_compiler():
    layers = actor(17, 6)
    shapes = [layer.shape for layer in layers]

    def run(kernels, x):
        for index, kernel in enumerate(kernels):
            x = x @ kernel
            x = jax.nn.relu(x) if index < len(kernels) - 1 else x
        return x

    lowered = jax.jit(run).lower([jnp.zeros(s) for s in shapes], jnp.zeros((256, 17)))
    costs = lowered.compile().cost_analysis()
    assert costs["flops"] == pytest.approx(256 * flops.forward(layers), rel=0.02)


def test_the_surcharge_of_dense_gradients_gives_the_rigl_average():
    dense, live, interval = 1000, 100, 99
    average = (interval * 3 * live + 3 * live + flops.dense_gradient_surcharge(dense, live)) / (interval + 1)
    assert average == pytest.approx((3 * live * interval + 2 * live + dense) / (interval + 1))


def test_a_run_adds_acting_and_surcharge_to_the_updates():
    pi, q = actor(17, 6), critic(17, 6)
    pi_nnz, q_nnz = allocation.er(pi, 0.9), allocation.er(q, 0.85)
    settings = {"updates": 2_975_000, "env_steps": 2_975_000, "actor_events": 148, "critic_events": 297}
    rigl = flops.td3_run(pi, q, pi_nnz, q_nnz, dense_growth=True, **settings)
    random = flops.td3_run(pi, q, pi_nnz, q_nnz, **settings)
    dense = flops.td3_run(pi, q, **settings)
    live, live_q = flops.forward(pi, pi_nnz), flops.forward(q, q_nnz)
    assert random.surcharge == dense.surcharge == 0
    assert rigl.surcharge == 256 * (148 * (142_848 - live) + 297 * (2 * 143_360 - live_q))
    assert rigl.total == random.total + rigl.surcharge
    assert rigl.acting == 2_975_000 * live
    assert dense.ratio == 1.0
    assert random.ratio == pytest.approx(0.1392, abs=5e-4)
    assert rigl.surcharge / rigl.total < 1e-3  # negligible, as the paper says


def test_unmaskable_layers_are_always_dense():
    masked, norm = network(4, 3)[0], Layer("norm", ("norm", "kernel"), None, "dense", (3, 3), maskable=False)
    assert flops.forward(LayerTable((masked, norm)), [5]) == 2 * (5 + 9)


def test_convolutions_need_their_output_size():
    layers = LayerTable((Layer("conv", ("conv", "kernel"), None, "conv", (3, 3, 2, 4), output=True),))
    assert flops.forward(layers, [10], positions={"conv": 49}) == 2 * 10 * 49
    assert flops.forward(layers, None, "minus1", {"conv": 49}) == (2 * 18 - 1) * 4 * 49
    with pytest.raises(UserError, match="convolution conv"):
        flops.forward(layers, [10])


@pytest.mark.parametrize(
    "nnz, message", [([1], "6 maskable"), ([1, 1, 1, 1, 1, 999], "999"), ([-1] + [1] * 5, "-1")]
)
def test_counts_that_do_not_fit_are_refused(nnz, message):
    with pytest.raises(UserError, match=message):
        flops.forward(critic(3, 1), nnz)


def test_unknown_conventions_are_refused_with_a_suggestion():
    with pytest.raises(UserError, match="mac2"):
        flops.forward(actor(3, 1), None, "mac3")
