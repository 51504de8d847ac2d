"""Networks beyond the MLP through the harness: records, policies, evaluation, inspection, and hashes that stay."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import sparserl_jax
from sparserl_jax.agents.td3 import TD3Config
from sparserl_jax.bench import (
    caption,
    check,
    continuing,
    evaluate,
    inspect,
    paths,
    records,
    reproduce,
    saved,
    suites,
)
from sparserl_jax.bench import plan as plans
from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable
from sparserl_jax.networks import ActionValues, Actor, actor_layers
from sparserl_jax.training.program import group
from tests.bench import fake, trained
from tests.reference import networks_numpy
from tests.reference.images import Halves

ENV = "tests.reference.images:Halves"
RUN = "rigl-s0700-seed001"
DQN: dict[str, Any] = {"agent": "dqn", "network": "cnn", "hidden": (8,), "recipe": "rigl"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny real training of two seeds on images."""
    return trained.train(tmp_path_factory.mktemp("cnn") / "x", env=ENV, seeds=2, **DQN)


@pytest.mark.slow
def test_a_folder_of_a_cnn_passes_the_check_and_its_policy_is_reproduced(original: Path):
    assert check.check(original.parents[1]) == []
    result = records.read(original / RUN)["result"]
    assert [tensor["shape"] for tensor in result["tensors"]["actor"]] == [
        [3, 3, 2, 16],
        [2, 2, 16, 8],
        [8, 2],
    ]
    assert result["costs"]["inference_flops_dense"] == 2 * (4 * 288 + 512 + 16)
    found = sparserl_jax.load(original / RUN)
    assert found.description["network"] == "cnn" and found.description["image"] == [4, 4, 2]
    obs = np.random.default_rng(0).integers(0, 2, (7, 32)).astype(np.float32)
    chosen = networks_numpy.cnn(found.params["cnn"], obs, Halves.spec.image).argmax(axis=1)
    np.testing.assert_array_equal(np.asarray(found(obs)), chosen)
    np.testing.assert_array_equal(np.asarray(found(obs.reshape(7, 4, 4, 2))), chosen)
    assert evaluate.reproduce(saved.find(original / RUN)).agrees
    settings, _ = records.load_all(original.parents[1])
    assert "DQN cnn 8" in caption.budget(settings)


def test_a_training_goes_on_from_a_cnn_and_inspect_shows_it(original: Path):
    made = trained.SETTINGS | {"agent": "dqn", "recipe": "rigl", "seeds": 1, "start": original / RUN}
    suite = trained.single.suite_of(ENV, **{key: value for key, value in made.items() if key != "hidden"})
    assert (suite.agent.network, suite.agent.hidden) == ("cnn", (8,))
    plan = plans.make(suite)
    assert "starts from actor of" in continuing.line(plan.suite.start)
    out = io.StringIO()
    inspect.show(saved.find(original / RUN), Console(file=out, width=100))
    assert "dqn, cnn, hidden layers 8" in out.getvalue() and "conv" in out.getvalue()


@pytest.mark.long
def test_ppo_trains_on_images(tmp_path: Path):
    made = {"agent": "ppo", "network": "cnn", "hidden": (8,), "recipe": "rigl", "seeds": 1, "warm_up": 0}
    steps = {"num_envs": 2, "steps": 5120, "batch_size": 64}
    folder = trained.train(tmp_path / "x", env=ENV, **made, **steps)
    assert check.check(tmp_path / "x") == []
    run = folder / "rigl-s0700-seed000"
    assert [t["name"] for t in records.read(run)["result"]["tensors"]["critic"]] == [
        "conv",
        "hidden_0",
        "output",
    ]
    assert evaluate.reproduce(saved.find(run)).agrees


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "sentence"),
    [
        ({"name": "dqn", "network": "cnn"}, "network 'cnn' reads images"),
        ({"name": "dqn", "network": "cmn"}, "unknown network of agent 'dqn' 'cmn': did you mean 'cnn'?"),
        ({"name": "td3", "network": "cnn"}, "unknown network of agent 'td3' 'cnn'"),
        ({"name": "td3", "network": "simba", "hidden": [8, 4]}, "one residual block per entry"),
        ({"name": "td3", "network": 3}, "'network' must be a text"),
    ],
)
def test_networks_that_do_not_fit_are_one_sentence(agent, sentence):
    table = fake.table(agent={"hidden": [16, 16], "batch_size": 32, **agent})
    table["arms"] = [{"recipe": "rigl"}]
    with pytest.raises(UserError) as refused:
        plans.make(suites.parse(table, "mini.toml"), group=fake.group, describe=fake.describe)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_images_smaller_than_a_window_are_one_sentence():
    suite = trained.single.suite_of(ENV, **trained.SETTINGS | DQN)
    spec = dataclasses.replace(Halves.spec, obs_dim=8, image=(2, 2, 2))
    with pytest.raises(
        UserError, match="has windows of 3 x 3, and the images of environment 'halves' are 2 x 2"
    ):
        plans.make(suite, describe=lambda source: spec)


# ---- hashes --------------------------------------------------------------------------------------------------------


def test_an_unspoken_network_is_in_no_hash_and_programs_keep_their_names():
    suite = suites.parse(fake.table(), "mini.toml")
    spoken = suites.parse(fake.table(agent={**fake.SUITE["agent"], "network": "mlp"}), "mini.toml")
    other = suites.parse(fake.table(agent={**fake.SUITE["agent"], "network": "simba"}), "mini.toml")
    assert "network" not in suite.plain()["agent"] and suite.hash() == spoken.hash() != other.hash()
    assert other.plain()["agent"]["network"] == "simba"
    published = paths.checkout() / "results" / "quick_dqn"
    named = {
        records.read(path.parent)["provenance"]["program"]
        for path in published.glob("records/*/*/record.json")
    }
    runs = [run for _, _, run in suites.read(paths.suite_path("quick_dqn")).runs()]
    assert named == {program.name for program in group(runs)}
    simba = dataclasses.replace(runs[0], training=dataclasses.replace(runs[0].training, agent=other.agent))
    mlp = dataclasses.replace(runs[0], training=dataclasses.replace(runs[0].training, agent=suite.agent))
    assert group([simba])[0].name != group([mlp])[0].name


def test_a_row_is_trained_again_with_its_network():
    settings = {"suite": trained.single.suite_of(ENV, **trained.SETTINGS | DQN).plain()}
    assert "--network cnn --hidden 8" in reproduce.command(settings, ENV, "rigl", 0.7)


# ---- inspect -------------------------------------------------------------------------------------------------------


def masks_of(layers: LayerTable, kernels: dict[str, Any]) -> Any:
    """Masks that live but for the given kernels."""
    tree: dict[str, Any] = {}
    for layer in layers:
        kernel = (
            np.ones(layer.shape, bool) if layer.name not in kernels else np.asarray(kernels[layer.name], bool)
        )
        node = tree.setdefault(layer.kernel[0], {})
        node[layer.name] = {"kernel": kernel, "bias": np.ones(layer.units_out, bool)}
    return tree


def test_dead_units_of_a_residual_network_are_those_of_its_blocks():
    """One block of width 1: obs 0 -> stream; inner units 0 and 1 are read by it, 2 reads it in vain, 3 reads nothing.
    The stream reaches the action past the block."""
    layers = actor_layers(Actor((1,), 1, kind="simba"), 2)
    kernels = {
        "embed": [[1], [0]],
        "hidden_0": [[1, 1, 1, 0]],
        "merge_0": [[1], [1], [0], [0]],
        "output": [[1]],
    }
    (found,) = inspect.network("actor", layers, masks_of(layers, kernels))
    facts = {layer.name: (layer.unfed, layer.unread, layer.dead) for layer in found.layers}
    assert facts["hidden_0"] == (1, 2, 2) and facts["embed"] == facts["merge_0"] == (None, None, None)
    assert (found.inputs, found.inputs_used, found.outputs_driven) == (2, 1, 1)
    (cut,) = inspect.network("actor", layers, masks_of(layers, {**kernels, "hidden_0": np.zeros((1, 4))}))
    assert cut.inputs_used == 1 and cut.connected  # past the block
    (alone,) = inspect.network("actor", layers, masks_of(layers, {**kernels, "output": [[0]]}))
    assert not alone.connected


def test_a_narrow_cnn_is_stored_as_what_it_is():
    layers = actor_layers(ActionValues((6,), 2, kind="cnn", image=(4, 4, 2)), 32)
    masks = masks_of(layers, {})
    for name, rows, columns in (("conv", 2, 5), ("hidden_0", 5, 3), ("output", 3, 2)):
        kernel = masks["cnn"][name]["kernel"] = np.zeros_like(masks["cnn"][name]["kernel"])
        kernel[..., :rows, :columns] = True
    table = inspect.narrow(layers, masks)
    assert [layer.shape for layer in table] == [(3, 3, 2, 5), (2, 2, 5, 3), (3, 2)]
    masks["cnn"]["conv"]["kernel"][0, 0, 0, 0] = False
    assert inspect.narrow(layers, masks) == layers


def test_clones_have_the_network_of_their_expert():
    from sparserl_jax.bench import tickets

    suite = suites.parse(fake.table(), "mini.toml")
    agent = TD3Config(network="simba", hidden=(16, 16), batch_size=32)
    training = dataclasses.replace(suite.training(suite.tasks[0]), agent=agent)
    assert tickets.cloning(training).agent.network == "simba"
