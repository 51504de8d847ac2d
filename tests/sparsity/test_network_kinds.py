"""Sparsity methods on convolutions and residual blocks: budgets by hand, and which units there are to remove."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserl_jax.conformance.laboratory import hasty
from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable, leaf
from sparserl_jax.networks import ActionValues, actor_layers
from sparserl_jax.sparsity import METHODS, allocation, promised, srigl, tiny
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Events, Evidence
from tests.reference import networks_numpy
from tests.reference.conformance import host, zero_outside

EVENTS = Events(interval=10, end=60, drop_fraction=0.5)
IMAGE, CHOICES = (5, 5, 4), 3
OBS = {"cnn": 100, "simba": 6}
NOTHING: Any = [None] * 6


@functools.cache
def network(kind: str) -> tuple[Any, LayerTable, Any]:
    """Module, table and a first draw."""
    module = ActionValues((32,) if kind == "cnn" else (16,), CHOICES, kind=kind, image=IMAGE)
    drawn = hasty(module.init)(jax.random.key(0), np.zeros(OBS[kind]))["params"]
    return module, actor_layers(module, OBS[kind]), host(drawn)


@functools.cache
def begun(kind: str, name: str, knob: float) -> tuple[Any, Any]:
    """(parameters, state) of a method at its start."""
    _, layers, params = network(kind)
    own = METHODS[name].settings(layers, knob, EVENTS, "released")
    made, _, state = hasty(lambda key, p, s: METHODS[name].family.init(key, p, layers, s))(
        jax.random.key(1), params, own
    )
    return host(made), state


def event(name: str, kind: str, knob: float, activity: dict[str, np.ndarray], tick: int = 20) -> Any:
    """(parameters, state) after one event."""
    params, state = begun(kind, name, knob)
    rng = np.random.default_rng(5)
    gradient = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
    evidence = Evidence(*NOTHING)._replace(
        grad=lambda: gradient,
        activations=lambda: {layer: jnp.asarray(x) for layer, x in activity.items()},
        init_params=lambda: network(kind)[2],
    )
    evolve = hasty(
        lambda p, s: METHODS[name].family.evolve(jax.random.key(2), jnp.int32(tick), p, {}, None, s, evidence)
    )
    params, _, _, state, effects = evolve(params, state)
    assert bool(effects.happened)
    return host(params), state


# ---- budgets -------------------------------------------------------------------------------------------------------


def test_erdos_renyi_kernel_budgets_of_a_cnn_by_hand():
    """MinAtar's Breakout: a convolution counts its kernel's sides (Evci et al. 2020), what reads the whole image its
    1,024 inputs. At 0.9 the output would be denser than dense, and the rest is shared by the others."""
    layers = actor_layers(ActionValues((128,), 3, kind="cnn", image=(10, 10, 4)), 400)
    total = 576 + 131_072 + 384
    sums = np.array([3 + 3 + 4 + 16, 1024 + 128, 128 + 3])
    share = 0.02 * total / sums.sum()
    assert (
        allocation.erk(layers, 0.98) == np.ceil(share * sums - 1e-9).astype(int).tolist() == [53, 2324, 265]
    )
    share = (0.1 * total - 384) / sums[:2].sum()
    assert allocation.erk(layers, 0.9) == [*np.ceil(share * sums[:2] - 1e-9).astype(int), 384]
    for name in ("static", "set", "rigl", "gradual"):
        assert promised(METHODS[name], layers, 0.98, EVENTS, "released").counts == [53, 2324, 265]


@given(
    st.tuples(st.integers(3, 6), st.integers(3, 6), st.integers(1, 5)),
    st.lists(st.integers(4, 40), min_size=1, max_size=2),
    st.floats(0, 0.9),
)
def test_budgets_of_any_cnn_are_met_and_its_narrow_network_reaches_them(image, widths, sparsity):
    places = (image[0] - 2, image[1] - 2)
    sides = [(3, 3, image[2], 16), (*places, 16, widths[0]), *zip(widths, [*widths[1:], 2], strict=True)]
    names = ["conv", *(f"hidden_{i}" for i in range(len(widths))), "output"]
    layers = LayerTable(
        Layer(
            name,
            (name, "kernel"),
            None,
            "dense" if at else "conv",
            shape,
            inputs=names[at - 1] if at else "input",
            outputs=name,
            output=name == "output",
        )
        for at, (name, shape) in enumerate(zip(names, sides, strict=True))
    )
    counts = allocation.erk(layers, sparsity)
    assert all(1 <= n <= layer.size for n, layer in zip(counts, layers, strict=True))
    assert 0 <= sum(counts) - (1 - sparsity) * layers.weights + 1e-6 <= len(layers) + 1e-5
    width = allocation.tiny_width(layers, sum(counts))
    units = allocation.narrowed(layers, width)
    assert units["conv"] == min(16, -(-width * 16 // max(widths)))
    narrow = METHODS["tiny"].promise(layers, sparsity, EVENTS, "released")
    assert sum(narrow.counts) == narrow.narrow.weights >= sum(counts)


@pytest.mark.parametrize("kind", ["cnn", "simba"])
@pytest.mark.parametrize(
    ("name", "knob"),
    [("rigl", 0.8), ("srigl", 0.8), ("nm", 0.5), ("rigl_16x1", 0.5), ("tiny", 0.8), ("synflow", 0.8)],
)
@pytest.mark.slow
def test_masks_are_on_all_layers_and_keep_what_is_promised(kind, name, knob):
    _, layers, drawn = network(kind)
    params, state = begun(kind, name, knob)
    kept = np.asarray(mask_ops.nnz_table(layers, state.masks)).tolist()
    promise = METHODS[name].promise(layers, knob, EVENTS, "released")
    if METHODS[name].family.declares.budget == "global":
        assert sum(kept) == sum(promise.counts)
    else:
        assert kept == list(promise.counts)
    assert sum(kept) < 0.6 * layers.weights and len(kept) == len(layers)
    for layer in layers:
        if layer.norm is not None:  # never masked, never moved
            for part in ("scale", "bias"):
                path = (*layer.norm, part)
                assert leaf(state.masks, path).all()
                np.testing.assert_array_equal(leaf(params, path), leaf(drawn, path))
    assert name == "nm" or zero_outside(params, state.masks)


def test_patterns_and_blocks_lie_along_channels():
    """2:4 among the channels at every place of a window; 16 outputs of one input live and die together."""
    _, layers, _ = network("cnn")
    _, state = begun("cnn", "nm", 0.5)
    for layer in layers:
        mask = np.asarray(leaf(state.masks, layer.kernel)).reshape(
            -1, layer.units_in // 4, 4, layer.units_out
        )
        assert (mask.sum(axis=2) == 2).all()
    _, state = begun("cnn", "rigl_16x1", 0.5)
    for layer in layers[:2]:
        mask = np.asarray(leaf(state.masks, layer.kernel)).reshape(-1, layer.units_out // 16, 16)
        assert set(mask.sum(axis=2).ravel().tolist()) == {0, 16}


@pytest.mark.parametrize("name", ["l0", "l0_unit"])
@pytest.mark.parametrize("kind", ["cnn", "simba"])
def test_a_network_that_is_taken_up_has_gates_of_the_methods_shapes_and_acts_as_it_did(kind, name):
    """Also where a dense layer reads an image, so that its kernel has a window and its gates have none."""
    _, layers, params = network(kind)
    family = METHODS[name].family
    own = METHODS[name].settings(layers, 0.3, EVENTS, "released")
    _, extra, state = family.init(jax.random.key(1), params, layers, own)
    rng = np.random.default_rng(3)
    masks = jax.tree.map(lambda x: np.ones(x.shape, bool), params)
    for layer in layers.maskable:
        units = rng.random(layer.units_in) < 0.5  # of one input unit all or none, as gates per unit can tell
        leaf(masks, layer.kernel)[:] &= units[:, None]
    adopted, gates, state = family.adopt(params, masks, state)
    shapes = jax.tree.map(np.shape, extra["log_alpha"])
    assert jax.tree.map(np.shape, gates["log_alpha"]) == shapes
    acting, _, _ = family.deployed(adopted, gates, state)
    for layer in layers.maskable:
        given = np.where(leaf(masks, layer.kernel), leaf(params, layer.kernel), 0)
        if name == "l0" or layer.kind == "dense":
            np.testing.assert_allclose(leaf(acting, layer.kernel), given, rtol=1e-6)


# ---- narrow networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cnn", "simba"])
def test_tiny_computes_what_a_really_narrow_network_does(kind):
    module, layers, _ = network(kind)
    params, state = begun(kind, "tiny", 0.8)
    units = tiny.widths(layers, 0.8)
    assert set(units) == ({"conv", "hidden_0"} if kind == "cnn" else {"hidden_0"})
    narrow: Any = {}
    for layer in layers:
        rows, columns = units.get(layer.inputs, layer.units_in), units.get(layer.outputs, layer.units_out)
        kernel, bias = leaf(params, layer.kernel), leaf(params, layer.bias)
        assert np.count_nonzero(kernel) == np.count_nonzero(kernel[..., :rows, :columns])
        narrow[layer.name] = {"kernel": kernel[..., :rows, :columns], "bias": bias[:columns]}
        bound = (layer.window * rows) ** -0.5  # of the narrow network's own law
        largest = np.abs(narrow[layer.name]["kernel"]).max()
        assert 0.8 * bound < largest <= bound * (1 + 1e-6) and np.abs(bias).max() <= bound * (1 + 1e-6)
    narrow |= {name: value for name, value in params[kind].items() if name.startswith("norm")}
    obs = np.random.default_rng(0).normal(size=(3, OBS[kind])).astype(np.float32)
    expected = networks_numpy.cnn(narrow, obs, IMAGE) if kind == "cnn" else networks_numpy.simba(narrow, obs)
    np.testing.assert_allclose(module.apply({"params": params}, obs), expected, atol=1e-5)


def test_orthogonal_convolutions_of_a_narrow_network_are_orthogonal():
    from sparserl_jax.networks import LinearActor

    module = LinearActor((32,), 2, kind="cnn", image=IMAGE)
    layers = actor_layers(module, OBS["cnn"])
    params = hasty(module.init)(jax.random.key(0), np.zeros(OBS["cnn"]))["params"]
    own = METHODS["tiny"].settings(layers, 0.8, EVENTS, "released")
    params, _, _ = hasty(lambda p, s: METHODS["tiny"].family.init(jax.random.key(1), p, layers, s))(
        params, own
    )
    units = tiny.widths(layers, 0.8)
    for layer in layers[:2]:
        rows, columns = units.get(layer.inputs, layer.units_in), units[layer.outputs]
        matrix = np.asarray(leaf(params, layer.kernel))[..., :rows, :columns].reshape(-1, columns)
        assert matrix.shape[0] >= columns
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(columns), atol=1e-4)


def test_a_residual_stream_too_wide_for_a_tiny_network_is_one_sentence():
    _, layers, _ = network("simba")
    with pytest.raises(UserError) as refused:
        tiny.widths(layers, 0.95)
    assert "is the fewest that one with this residual stream has" in str(refused.value)
    assert "\n" not in str(refused.value)


# ---- units ---------------------------------------------------------------------------------------------------------


def activity(layers: LayerTable, asleep: int = 0) -> dict[str, np.ndarray]:
    """Louder from unit to unit; the first `asleep` do not move at all."""
    return {
        layer.name: np.ones((4, 1), np.float32)
        * np.where(np.arange(layer.units_out) < asleep, 0.0, 100.0 + np.arange(layer.units_out)).astype(
            np.float32
        )
        for layer in layers.hidden
    }


@pytest.mark.parametrize("kind", ["cnn", "simba"])
def test_neurons_removes_channels_and_inner_units_with_all_that_belongs_to_them(kind):
    _, layers, _ = network(kind)
    own = METHODS["neurons"].settings(layers, 0.8, EVENTS, "released")
    params, state = event("neurons", kind, 0.8, activity(layers))
    np.testing.assert_array_equal(mask_ops.nnz_table(layers, state.masks), own.counts[2])
    left = {layer.outputs: own.units[2][at] for at, layer in enumerate(layers) if layer in layers.hidden}
    assert all(0 < left[layer.outputs] < layer.units_out for layer in layers.hidden)
    for layer in layers:
        gone_in, gone_out = (
            units - left.get(group, units)
            for units, group in ((layer.units_in, layer.inputs), (layer.units_out, layer.outputs))
        )
        mask = np.asarray(leaf(state.masks, layer.kernel))
        assert not mask[..., :gone_in, :].any() and not mask[..., :, :gone_out].any()
        assert mask[..., gone_in:, gone_out:].all()
        np.testing.assert_array_equal(leaf(state.masks, layer.bias), np.arange(layer.units_out) >= gone_out)
    assert zero_outside(params, state.masks)


@pytest.mark.parametrize("kind", ["cnn", "simba"])
@pytest.mark.slow
def test_redo_begins_sleeping_channels_and_inner_units_anew(kind):
    _, layers, drawn = network(kind)
    before, _ = begun(kind, "redo", 0.0)
    after, _ = event("redo", kind, 0.0, activity(layers, asleep=2))
    groups = {layer.outputs for layer in layers.hidden}
    for layer in layers:
        old, new = leaf(before, layer.kernel), leaf(after, layer.kernel)
        rows = slice(2, None) if layer.inputs in groups else slice(None)
        columns = slice(2, None) if layer in layers.hidden else slice(None)
        np.testing.assert_array_equal(new[..., rows, columns], old[..., rows, columns])
        if layer.inputs in groups:
            assert not new[..., :2, :].any()
        if layer in layers.hidden:
            assert set(new[..., rows, :2].ravel().tolist()) <= set(leaf(drawn, layer.kernel).ravel().tolist())
            assert (new[..., rows, :2] != old[..., rows, :2]).any()


@pytest.mark.slow
def test_srigl_ablates_no_unit_of_a_residual_stream():
    _, layers, params = network("simba")
    eager = srigl.method("eager", "ablates most units", ablation=1.0)
    own = jax.tree.map(jnp.asarray, eager.settings(layers, 0.7, EVENTS, "released"))
    rng = np.random.default_rng(3)
    gradient = jax.tree.map(lambda x: (rng.normal(size=x.shape) ** 5).astype(np.float32), params)

    def after(params: Any) -> Any:
        params, _, state = eager.family.init(jax.random.key(0), params, layers, own)
        seen = Evidence(*NOTHING)._replace(grad=lambda: gradient)
        return eager.family.evolve(jax.random.key(1), jnp.int32(10), params, {}, None, state, seen)[3].masks

    masks = host(hasty(after)(params))
    fed = {layer.name: leaf(masks, layer.kernel).any(axis=0) for layer in layers}
    assert not fed["hidden_0"].all()
    assert all(fed[name].all() for name in ("embed", "merge_0", "output"))
