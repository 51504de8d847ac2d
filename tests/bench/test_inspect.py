"""What `inspect` says of a network, against networks worked out by hand and against the records."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sparserl_jax.bench import inspect, paths, records, saved, suites
from sparserl_jax.conformance.functions import parameters
from sparserl_jax.layers import LayerTable, leaf
from sparserl_jax.networks import Actor, TwinCritic, actor_layers, critic_layers
from tests.bench import fake, test_algorithms

RUN = "gymnax-Pendulum-v1/rlx2-s0800-seed000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inspect") / "mini"
    arms = [{"recipe": "dense"}, {"recipe": "tiny"}, {"recipe": "rlx2"}]
    plan = fake.make_plan(seeds=1, sparsities=[0.8], environments=fake.SUITE["environments"][:1], arms=arms)
    fake.finished(root, plan)
    return root / "records"


def printed(path: Path, width: int = 80) -> str:
    out = io.StringIO()
    inspect.show(saved.find(path), Console(file=out, width=width))
    return out.getvalue()


def masks_of(layers: LayerTable, kernels: list[np.ndarray]) -> dict:
    """Masks from kernels, every bias live."""
    return {
        "mlp": {
            layer.name: {"kernel": np.asarray(kernel, bool), "bias": np.ones(np.shape(kernel)[-1], bool)}
            for layer, kernel in zip(layers, kernels, strict=True)
        }
    }


def test_dead_units_of_a_network_drawn_by_hand():
    """Two observations, hidden layers of 4 and 3, one action.

    obs 0 -> a0 -> b0 -> action; obs 0 -> a1 -> nothing; nothing -> a2 -> b1 -> action; obs 1 -> a3 -> b2 -> nothing.
    """
    layers = actor_layers(Actor((4, 3), 1), 2)
    first = [[1, 1, 0, 0], [0, 0, 0, 1]]
    second = [[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    third = [[1], [1], [0]]
    (found,) = inspect.network("actor", layers, masks_of(layers, [first, second, third]))
    a, b, out = found.layers
    assert (a.live, a.size, a.unfed, a.unread, a.dead) == (3, 8, 1, 2, 3)
    assert (b.live, b.size, b.unfed, b.unread, b.dead) == (3, 12, 1, 1, 2)
    assert (out.live, out.size, out.unfed, out.unread, out.dead) == (2, 3, None, None, None)
    assert (found.inputs, found.inputs_used, found.outputs, found.outputs_driven) == (2, 1, 1, 1)
    assert found.connected


def test_live_weights_in_every_layer_need_not_connect_anything():
    layers = actor_layers(Actor((2, 2), 2), 1)
    (found,) = inspect.network(
        "actor", layers, masks_of(layers, [[[1, 0]], [[0, 0], [0, 1]], [[0, 0], [1, 0]]])
    )
    assert all(layer.live for layer in found.layers) and not found.connected
    assert (found.inputs_used, found.outputs_driven) == (0, 0)
    assert [layer.dead for layer in found.layers[:2]] == [2, 2]


def test_units_of_a_normalised_stream_depend_on_one_another():
    """An observation reaches unit 0 of the stream alone, the action reads unit 1 alone: by the mean and the deviation
    of the stream it depends on the observation."""
    layers = actor_layers(Actor((4,), 1, kind="simba"), 2)
    masks = jax.tree.map(lambda of: np.zeros(of.shape, bool), parameters(layers))
    embed, output = (next(layer for layer in layers if layer.name == name) for name in ("embed", "output"))
    leaf(masks, embed.kernel)[0, 0] = leaf(masks, output.kernel)[1, 0] = True
    (found,) = inspect.network("actor", layers, masks)
    assert found.connected and (found.inputs_used, found.outputs_driven) == (1, 1)
    leaf(masks, embed.kernel)[0, 0] = False
    (found,) = inspect.network("actor", layers, masks)
    assert not found.connected


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.7))
def test_paths_are_those_of_a_walk_through_the_network(seed: int, density: float):
    """Oracle: numbers of paths, by products of 0/1 matrices."""
    random = np.random.default_rng(seed)
    layers = critic_layers(TwinCritic((5, 4)), 3, 2)
    masks = masks_of(layers, [random.random((2, *layer.shape)) < density for layer in layers])
    for copy, found in enumerate(inspect.network("critic", layers, masks)):
        one, two, three = (masks["mlp"][layer.name]["kernel"][copy].astype(int) for layer in layers)
        paths_through = one @ two @ three
        assert found.inputs_used == np.count_nonzero(paths_through.sum(axis=1))
        assert found.outputs_driven == np.count_nonzero(paths_through.sum(axis=0))
        first, second = (
            one.sum(axis=0) * (two @ three).sum(axis=1),
            (one @ two).sum(axis=0) * three.sum(axis=1),
        )
        assert found.layers[0].dead == np.count_nonzero(first == 0)
        assert found.layers[1].dead == np.count_nonzero(second == 0)
        assert found.layers[1].unfed == np.count_nonzero((one @ two).sum(axis=0) == 0)
        assert found.layers[0].unread == np.count_nonzero((two @ three).sum(axis=1) == 0)


def test_bytes_are_those_of_the_record_for_every_published_run():
    root = paths.checkout()
    assert root is not None
    found = sorted((root / "results" / "quick" / "records").glob("*/*seed000"))
    assert found
    for path in found:
        one = saved.find(path)
        layers, masks = inspect.tables(one)
        kept, full = inspect.storage(layers["actor"], masks["actor"])
        costs = one.record["result"]["costs"]
        assert (kept["raw_blob"], full["raw_blob"]) == (
            costs["actor_blob_bytes"],
            costs["actor_blob_bytes_dense"],
        )
        assert (kept["params"], full["params"]) == (
            costs["actor_parameters"],
            costs["actor_parameters_dense"],
        )


def test_the_page_of_a_record_fits_a_narrow_terminal_and_agrees_with_it(folder: Path):
    said = printed(folder / RUN)
    result = records.read(folder / RUN)["result"]
    tables = [line for line in said.splitlines() if line.startswith(" ")]
    assert tables and max(len(line) for line in tables) <= 80 and "…" not in said
    assert "recipe rlx2 (method rigl), sparsity 0.8, seed 0, 4,000 steps" in said
    assert f"score {result['score']:.6g}" in said and "commit " in said
    tensor = result["tensors"]["actor"][1]
    assert f"{tensor['nnz']:,} of {tensor['size']:,}" in said
    assert said.count("critic[") >= 4 and "observations reach an action" in said
    assert f"{result['costs']['actor_blob_bytes']:,}" in said


@pytest.mark.parametrize(
    ("agent", "names"),
    [
        ({"name": "inac", "policy": "student"}, ["actor", "critic[0]", "critic[1]", "value", "behaviour"]),
        ({"name": "fttpo_released"}, ["actor", "proposal", "critic[0]", "critic[1]", "value"]),
    ],
)
def test_every_network_of_a_record_is_listed_and_every_policy_is_what_it_was_trained_as(
    agent, names, tmp_path: Path
):
    arm = {"recipe": "rigl", "name": "x", "agent": agent}
    plan = fake.make_plan(suites.parse(test_algorithms.offline(arm, seeds=1), "x"))
    fake.finished(tmp_path / "x", plan)
    (run,) = (tmp_path / "x/records/own-Treatment-III").glob("x-*")
    said = printed(run)
    for name in names:
        assert f"\n {name} " in said and f"\n{name}: " in said
    outputs = 3 if agent["name"] == "inac" else 2  # of a dose: mean, spread and tail
    assert f"\nactor: 4 of 4 observations reach an output; {outputs} of {outputs} outputs depend on" in said
    assert "\nvalue: 4 of 4 observations reach a value; 1 of 1 values depend on an observation" in said
    law = ", student policy" if "policy" in agent else ""
    assert f"{agent['name']}{law}, hidden layers 8 x 8" in said


def test_a_policy_alone_tells_what_it_can(folder: Path, tmp_path: Path):
    shutil.copyfile(folder / RUN / "policy.npz", tmp_path / "mine.npz")
    said = printed(tmp_path / "mine.npz")
    assert "no record beside it" in said and "critic" not in said and "hidden_1" in said


def test_a_file_without_masks_in_their_place_is_told(folder: Path, tmp_path: Path):
    from sparserl_jax import UserError

    mine = Path(shutil.copytree(folder / RUN, tmp_path / "mine"))
    shutil.copyfile(mine / "policy.npz", mine / "masks.npz")
    with pytest.raises(UserError, match="'masks.npz' holds no masks"):
        printed(mine)


def test_a_network_without_a_path_says_so(folder: Path, tmp_path: Path):
    from sparserl_jax.bench import policy

    found = policy.load(folder / RUN)
    found.masks["mlp"]["hidden_1"]["kernel"][:] = False
    policy.save(tmp_path / "policy.npz", found.params, found.masks, found.description)
    assert "no path leads from any observation to any action: the actions are constant" in printed(tmp_path)


def test_a_diverged_run_has_no_score(tmp_path: Path):
    import dataclasses

    def diverge(outcome):
        return dataclasses.replace(outcome, status="diverged")

    plan = fake.make_plan(
        seeds=1, sparsities=[0.8], environments=fake.SUITE["environments"][:1], arms=[{"recipe": "dense"}]
    )
    fake.finished(tmp_path / "x", plan, change=diverge)
    assert "diverged: no score" in printed(tmp_path / "x")
