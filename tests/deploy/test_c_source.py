"""The C file compiles without a warning and computes what NumPy computes."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sparserl_jax.deploy import blob, c_source, low_rank
from sparserl_jax.deploy.c_source import Head
from sparserl_jax.layers import LayerTable
from tests.accounting.networks import network
from tests.deploy.test_blob import filled

COMPILER = shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
OBSERVATIONS = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
BOUNDS = (-2.0, 0.0, 1.0), (2.0, 1.0, 1.5)


def run(text: str, folder: Path, observations: np.ndarray = OBSERVATIONS) -> np.ndarray:
    """What the program prints for observations, one row each."""
    assert COMPILER is not None
    source, program = folder / "policy.c", folder / "policy"
    source.write_text(text, encoding="utf-8")
    strict = "-std=c99 -Wall -Wextra -Werror -pedantic -O1 -DPOLICY_MAIN".split()
    subprocess.run([COMPILER, *strict, str(source), "-o", str(program), "-lm"], check=True, timeout=120)
    given = "\n".join(" ".join(f"{x:.9g}" for x in row) for row in observations)
    done = subprocess.run([str(program)], input=given, capture_output=True, text=True, check=True, timeout=60)
    return np.array([[float(x) for x in line.split()] for line in done.stdout.splitlines()])


def by_numpy(layers: LayerTable, params: dict, x: np.ndarray) -> np.ndarray:
    for layer in layers:
        x = x @ params[layer.name]["kernel"].astype(np.float64) + params[layer.name]["bias"]
        x = x if layer.output else np.maximum(x, 0)
    return x


def small(layers: LayerTable, density: float) -> tuple[dict, dict]:
    """Parameters that neither saturate nor die."""
    params, masks = filled(layers, density, 3)
    rng = np.random.default_rng(4)
    for leaves in params.values():
        leaves["kernel"] *= 0.3 * rng.choice([-1, 1], leaves["kernel"].shape)
        leaves["bias"] = rng.normal(0, 0.3, leaves["bias"].shape).astype(np.float32)
    return params, masks


@pytest.mark.parametrize("format", c_source.FORMATS)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_every_format_computes_the_same_network(format, density, tmp_path):
    layers = network(5, 20, 11, 3)
    params, masks = small(layers, density)
    tensors = blob.encode(layers, params, masks, (format,))
    head = Head("tanh", 1.0, *BOUNDS)
    low, high = np.array(BOUNDS)
    squashed = np.tanh(by_numpy(layers, params, OBSERVATIONS))
    found = run(c_source.source(layers, tensors, head, ["of a test */ here"]), tmp_path)
    np.testing.assert_allclose(found, low + (squashed + 1) / 2 * (high - low), atol=2e-6)
    if density == 1.0:
        assert np.ptp(squashed, axis=0).min() > 0.1


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (Head("tanh", 0.5, (-1.0,), (1.0,)), lambda y: 0.5 * np.tanh(y[:, :1])),
        (Head("clip", 1.0, (-3.0,), (3.0,)), lambda y: 3 * np.clip(y[:, :1], -1, 1)),
        (Head("largest"), lambda y: y.argmax(axis=1)[:, None]),
    ],
)
def test_heads(head, expected, tmp_path):
    """One action of three outputs, the others being for other uses, or the largest of three."""
    layers = network(5, 20, 3)
    params, masks = small(layers, 1.0)
    tensors = blob.encode(layers, params, masks, ("dense",))
    outputs = by_numpy(layers, params, OBSERVATIONS)
    wanted = expected(outputs)
    assert np.abs(outputs[:, 0]).max() > 1 and np.abs(outputs[:, 0]).min() < 1
    assert len(np.unique(np.round(wanted, 3))) > 1
    np.testing.assert_allclose(run(c_source.source(layers, tensors, head, []), tmp_path), wanted, atol=2e-6)


@pytest.mark.parametrize("format", c_source.FORMATS)
@pytest.mark.parametrize("factors", [2, 3])
def test_factors_compute_what_they_stand_for(factors, format, tmp_path):
    """The first layer at rank 2, the second at rank 0 (all zeros), the last plain; the network of their products."""
    layers = network(5, 20, 11, 3)
    params, masks = small(layers, 1.0)
    params["layer_1"]["kernel"][:] = 0
    found = low_rank.decompose(layers, params, masks, (2, 0, 3), factors)
    stored = low_rank.stored_layers(layers, (2, 0, 3), factors)
    assert len(stored) == 2 * factors + 1
    tensors = blob.encode(stored, found.params, found.masks, (format,))
    head = Head("clip", 1.0, (-1.0,) * 3, (1.0,) * 3)
    wanted = np.clip(by_numpy(layers, low_rank.multiplied_out(found.params), OBSERVATIONS), -1, 1)
    np.testing.assert_allclose(run(c_source.source(stored, tensors, head, []), tmp_path), wanted, atol=2e-6)


def test_a_layer_without_a_bias(tmp_path):
    layers = LayerTable(dataclasses.replace(layer, bias=None) for layer in network(5, 8, 1))
    params, masks = small(network(5, 8, 1), 0.5)
    tensors = blob.encode(layers, params, masks, ("csr8",))
    for leaves in params.values():
        leaves["bias"][:] = 0
    found = run(c_source.source(layers, tensors, Head("clip", 1.0, (-9.0,), (9.0,)), []), tmp_path)
    np.testing.assert_allclose(found, 9 * np.clip(by_numpy(layers, params, OBSERVATIONS), -1, 1), atol=1e-5)


def test_a_bitmask_with_empty_bytes_across_the_ends_of_rows(tmp_path):
    """Rows of 11, so bytes hold the end of one row and the beginning of the next; some bytes are empty."""
    layers = network(11, 8, 2)
    params, masks = small(layers, 1.0)
    mask = np.zeros(88, bool)
    mask[[0, 7, 17, 23, 48, 80, 87]] = True
    masks["layer_0"]["kernel"] = mask.reshape(8, 11).T
    params["layer_0"]["kernel"] *= masks["layer_0"]["kernel"]
    x = np.random.default_rng(1).normal(size=(6, 11)).astype(np.float32)
    tensors = blob.encode(layers, params, masks, ("bitmask",))
    assert not all(tensors[0].arrays["bits"])
    found = run(c_source.source(layers, tensors, Head("clip", 1.0, (-9.0,) * 2, (9.0,) * 2), []), tmp_path, x)
    np.testing.assert_allclose(found, 9 * np.clip(by_numpy(layers, params, x), -1, 1), atol=1e-5)


def test_indices_of_two_bytes_and_pointers_of_four(tmp_path):
    """300 inputs; 70,000 live weights."""
    layers = network(300, 250, 2)
    params, masks = small(layers, 0.94)
    tensors = blob.encode(layers, params, masks, ("csr8",))
    assert [tensors[0].arrays[name].itemsize for name in ("columns", "pointers")] == [2, 4]
    x = 0.1 * np.random.default_rng(1).normal(size=(3, 300)).astype(np.float32)
    found = run(c_source.source(layers, tensors, Head("clip", 1.0, (-1.0,) * 2, (1.0,) * 2), []), tmp_path, x)
    wanted = by_numpy(layers, params, x)
    assert np.abs(wanted).min() < 0.9
    np.testing.assert_allclose(found, np.clip(wanted, -1, 1), atol=2e-5)


@pytest.mark.parametrize("format", c_source.FORMATS)
def test_a_broken_sensor_is_not_hidden(format, tmp_path):
    layers = network(5, 20, 3)
    tensors = blob.encode(layers, *small(layers, 1.0), (format,))
    found = run(
        c_source.source(layers, tensors, Head("tanh", 1.0, *BOUNDS), []), tmp_path, np.full((1, 5), np.nan)
    )
    assert np.isnan(found).all()


@pytest.mark.parametrize(("given", "code"), [("1 2 3 4 5\n", 0), ("1 2 3\n", 1), ("1,2,3,4,5\n", 1)])
def test_the_program_says_when_it_cannot_read(given, code, tmp_path):
    layers = network(5, 4, 3)
    tensors = blob.encode(layers, *small(layers, 1.0), ("dense",))
    run(c_source.source(layers, tensors, Head("tanh", 1.0, *BOUNDS), []), tmp_path)
    done = subprocess.run([str(tmp_path / "policy")], input=given, text=True, capture_output=True, timeout=60)
    assert done.returncode == code and len(done.stdout.splitlines()) == (code == 0)
