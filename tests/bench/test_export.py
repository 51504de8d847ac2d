"""What leaves as a file is as long as the tables say, acts as the policy that was evaluated, and overwrites nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

import sparserl_jax
from sparserl_jax import cli
from sparserl_jax.agents import bc, registry
from sparserl_jax.agents.registry import trained_by
from sparserl_jax.arguments import Export
from sparserl_jax.bench import decompose, export, inspect, policy, raw, saved
from sparserl_jax.deploy import c_source, forms, low_rank
from tests.deploy import test_c_source

RESULTS = Path(__file__).resolve().parents[2] / "results"
PENDULUM = "quick/records/gymnax-Pendulum-v1"
TREATMENT = "fttpo_treatment/records/own-Treatment-III"
ABLATION = "fttpo_ablation/records/own-Treatment-III"
HOPPER = "offline_hopper/records/gymnasium-Hopper-v5-medium-expert"
AGENTS = {
    "td3": f"{PENDULUM}/rigl-s0970-seed001",
    "tiny": f"{PENDULUM}/tiny-s0970-seed001",
    "placebo": f"{PENDULUM}/placebo-s0995-seed000",
    "dense": f"{PENDULUM}/dense-s0000-seed000",
    "sac": "quick_sac/records/gymnax-Pendulum-v1/set-s0800-seed000",
    "ddpg": "quick_ddpg/records/own-NeedleReach/tiny-s0900-seed10004",
    "dqn": "quick_dqn/records/gymnax-CartPole-v1/static-s0800-seed2000",
    "ppo": "ppo_classic/records/gymnax-Pendulum-v1/set-s0800-seed000",
    "ppo with choices": "l0_table/records/gymnax-Acrobot-v1/dense-s0000-seed13000",
    "fttpo_corrected": f"{ABLATION}/corrected-s0000-seed19400",
    "fttpo_released": f"{TREATMENT}/fttpo_released-s0000-seed19009",
    "thin": f"{ABLATION}/thin_reverse-s0000-seed19400",
    "fat": f"{ABLATION}/fat_alone-s0000-seed19400",
    "squashed": f"{TREATMENT}/inac-s0000-seed19000",
    "normal": f"{HOPPER}/iql-s0000-seed24000",
    "td3_bc": f"{HOPPER}/td3_bc-s0000-seed24000",
    "behaviour_cloning": "quick_tickets/records/gymnax-Pendulum-v1/clone_rlx2_ticket-s0900-seed4004",
    "whole units": "sparsifier_zoo/records/gymnax-Pendulum-v1/neurons-s0900-seed000",
    "dense weights": "sparsifier_zoo/records/gymnax-Pendulum-v1/top_kast-s0900-seed000",
}
UNKNOWN = "no description of a policy of this version"
IMAGES = "l0_minatar/records/gymnax-Asterix-MinAtar/dense-s0000-seed22000"


def observations(of: sparserl_jax.Policy, count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, of.description["obs_dim"])).astype(np.float32)


@pytest.mark.parametrize("run", [*AGENTS.values(), IMAGES], ids=[*AGENTS, "images"])
def test_the_raw_file_has_the_bytes_of_the_table_and_acts_the_same(run, tmp_path):
    found, out = saved.find(RESULTS / run), tmp_path / "policy.bin"
    made = export.export(found, out)
    told = found.record["result"]["costs"]
    tables, masks = inspect.tables(found)
    assert out.stat().st_size == made.size == inspect.storage(tables["actor"], masks["actor"])[0]["raw_blob"]
    assert made.dense == told["actor_blob_bytes_dense"]
    # Tables count units that a method removed as a whole among the biases; the file does not have them.
    whole = "neurons" in run
    assert made.size < told["actor_blob_bytes"] if whole else made.size == told["actor_blob_bytes"]
    again, x = sparserl_jax.load(out), observations(found.policy)
    # A narrow network is stored without the zeros around it, and sums in another order.
    apart = 2e-6 if whole or "tiny" in run else 0.0
    np.testing.assert_allclose(again(x), found.policy(x), rtol=0, atol=apart)


@pytest.mark.skipif(test_c_source.COMPILER is None, reason="there is no C compiler")
@pytest.mark.parametrize("run", AGENTS.values(), ids=AGENTS)
def test_c_source_acts_as_the_policy_does(run, tmp_path):
    found, out = saved.find(RESULTS / run), tmp_path / "given.c"
    export.export(found, out)
    x = observations(found.policy)
    acted = np.asarray(found.policy(x))
    printed = test_c_source.run(out.read_text(encoding="utf-8"), tmp_path, x)
    if "num_actions" in found.policy.description:
        assert np.array_equal(printed[:, 0], acted)
    else:
        wide = np.subtract(*(found.policy.description[key] for key in ("action_high", "action_low")))
        np.testing.assert_allclose(printed / wide, acted / wide, atol=2e-5)


@pytest.mark.parametrize("factors", [2, 3])
@pytest.mark.slow
def test_factors_are_exported_as_factors(factors, tmp_path):
    found = saved.find(RESULTS / AGENTS["td3"])
    made = decompose.decompose(found, low_rank.rule("rank=1,5,1"), factors, episodes=1)
    decompose.write(made, tmp_path / "thin.npz")
    thin, out = saved.find(tmp_path / "thin.npz"), tmp_path / "thin.bin"
    (form,) = (one for one in made.forms if one.name == forms.FACTORS[factors])
    assert export.export(thin, tmp_path / "dense.bin", "dense").size == form.blob.total
    # A layer that stays plain keeps its mask, which `decompose` does not count in the row of factors.
    assert export.export(thin, out).size < form.blob.total
    x = observations(found.policy)
    np.testing.assert_allclose(sparserl_jax.load(out)(x), thin.policy(x), rtol=0, atol=1e-6)
    if test_c_source.COMPILER is not None:
        export.export(thin, tmp_path / "thin.c")
        printed = test_c_source.run((tmp_path / "thin.c").read_text(encoding="utf-8"), tmp_path, x)
        np.testing.assert_allclose(printed, thin.policy(x), atol=4e-5)


def test_the_command_says_what_it_wrote_and_what_is_evaluated_is_the_file(tmp_path, capsys):
    out = tmp_path / "small.bin"
    assert cli.run(["export", str(RESULTS / AGENTS["td3"]), "--out", str(out), "--format", "csr8"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{out.stat().st_size:,} bytes" in said and "hidden_1 csr8" in said
    assert cli.run(["evaluate", str(out), "--episodes", "2", "--seed", "1"]) == 0
    ours = capsys.readouterr().out
    assert (
        cli.run(["evaluate", str(RESULTS / AGENTS["td3"] / "policy.npz"), "--episodes", "2", "--seed", "1"])
        == 0
    )
    assert ours.splitlines()[1:] == capsys.readouterr().out.splitlines()[1:]


@pytest.mark.parametrize(
    ("run", "name", "format", "sentence"),
    [
        ("td3", "policy.onnx", "smallest", "a raw file's name ends in .bin, C source's in .c"),
        ("td3", "policy.c", "coo16", "no C code for the format coo16"),
        ("td3", "nowhere/policy.c", "smallest", "there is no folder"),
        (None, "policy.c", "smallest", "C code for mlp only"),
    ],
)
def test_what_cannot_be_written_is_refused(run, name, format, sentence, tmp_path):
    found = saved.find(RESULTS / (IMAGES if run is None else AGENTS[run]))
    with pytest.raises(sparserl_jax.UserError, match=sentence):
        export.export(found, tmp_path / name, format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["policy.bin", "policy.json"])
def test_nothing_is_overwritten(there, tmp_path):
    (tmp_path / there).write_text("mine", encoding="utf-8")
    with pytest.raises(sparserl_jax.UserError, match="exists and is not overwritten"):
        export.export(saved.find(RESULTS / AGENTS["td3"]), tmp_path / "policy.bin")
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["mine"]


def test_a_link_to_nowhere_and_an_endless_name_are_refused(tmp_path):
    (tmp_path / "link.c").symlink_to(tmp_path / "gone.c")
    for name, sentence in (("link.c", "exists and is not overwritten"), ("x" * 300 + ".c", "leads nowhere")):
        with pytest.raises(sparserl_jax.UserError, match=sentence):
            export.export(saved.find(RESULTS / AGENTS["td3"]), tmp_path / name)


def policies_of(agent: str) -> list[dict[str, Any]]:
    """What a description says of the policies that an agent may have."""
    config = trained_by(agent).config
    kinds = bc.POLICIES if issubclass(config, bc.BCConfig) else getattr(config, "POLICIES", ("squashed",))
    return [{} if kind == "squashed" else {"policy": kind} for kind in kinds]


REAL = [agent for agent, known in registry.AGENTS.items() if "continuous" in known.actions]


@pytest.mark.parametrize(
    ("agent", "said"),
    [(agent, said) for agent in [*REAL, "behaviour_cloning"] for said in policies_of(agent)],
)
def test_the_head_is_what_the_policy_does_with_its_outputs(agent, said):
    """A network of zeros puts out the biases of its last layer."""
    described = {"agent": agent, "hidden": [4], "obs_dim": 3, "action_dim": 2, **said}
    described |= {"action_low": (-1.0,) * 2, "action_high": (1.0,) * 2}
    if said.get("policy") == "beta":
        with pytest.raises(sparserl_jax.UserError, match="Beta policy"):
            export.head(described, "x")
        return
    layers = inspect.layer_tables(described)["actor"]
    outputs = np.array([0.3, -2.5, 0.9, -0.1, 0.2], np.float32)[: layers[-1].units_out]
    params: dict[str, Any] = {"mlp": {}}
    for layer in layers:
        bias = outputs if layer.output else np.zeros(4, np.float32)
        params["mlp"][layer.name] = {"kernel": np.zeros(layer.shape, np.float32), "bias": bias}
    acted = policy.Policy(params, {}, described)(np.zeros(3))
    head, shown = export.head(described, "x"), outputs[:2]
    ours = shown if head.squash == "clip" else np.float32(head.scale) * np.tanh(shown)
    np.testing.assert_allclose(np.clip(ours, -1, 1), acted, rtol=0, atol=2e-7)


def _without_description(out: Path) -> None:
    out.with_suffix(".json").unlink()


def _other_bytes(out: Path) -> None:
    data = bytearray(out.read_bytes())
    data[0] ^= 1
    out.write_bytes(data)


def _said(change: Callable[[dict[str, Any]], Any], sealed: bool = True) -> Callable[[Path], None]:
    def harm(out: Path) -> None:
        card = out.with_suffix(".json")
        said = json.loads(card.read_text())
        change(said)
        if sealed:
            said["description_sha256"] = raw.sealed(said)
        card.write_text(json.dumps(said), encoding="utf-8")

    return harm


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (_said(lambda said: said["tensors"][0]["arrays"]["bias"].__setitem__(0, 0), sealed=False), UNKNOWN),
        (
            _said(lambda said: said["tensors"][0]["arrays"]["bias"].__setitem__(1, ">f4"), sealed=False),
            UNKNOWN,
        ),
        (_said(lambda said: said["policy"].update(action_high=[3.0]), sealed=False), UNKNOWN),
        (_without_description, "or its description 'policy.json' is missing"),
        (_other_bytes, "not the file that"),
        (_said(lambda said: said.update(format="raw-0")), UNKNOWN),
        (_said(lambda said: said.update(tensors=[])), UNKNOWN),
        (_said(lambda said: said.update(policy=list(said["policy"]))), UNKNOWN),
        (_said(lambda said: said["policy"].update(agent="nobody")), UNKNOWN),
        (_said(lambda said: said["policy"].update(hidden=[3])), UNKNOWN),
        (_said(lambda said: said["tensors"][0]["arrays"]["bias"].__setitem__(0, 10**30)), UNKNOWN),
        (_said(lambda said: said["tensors"][0].update(shape=[10**9, 10**9])), UNKNOWN),
        (_said(lambda said: said["tensors"][0].update(shape=[8000, 8000])), UNKNOWN),
        (_said(lambda said: said["tensors"][0].update(name="output")), UNKNOWN),
        (_said(lambda said: said["tensors"][0]["arrays"]["values"].__setitem__(2, 1)), UNKNOWN),
        (_said(lambda said: said["tensors"][0]["arrays"]["bias"].__setitem__(1, "<i4")), UNKNOWN),
    ],
)
def test_damaged_files_are_told_in_one_sentence(harm, sentence, tmp_path):
    out = tmp_path / "policy.bin"
    export.export(saved.find(RESULTS / AGENTS["td3"]), out)
    harm(out)
    with pytest.raises(sparserl_jax.UserError, match=sentence) as error:
        sparserl_jax.load(out)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".bin", ".c"])
@pytest.mark.parametrize("bias", [5, None])
def test_a_policy_that_is_not_the_network_it_describes_is_not_exported(suffix, bias, tmp_path):
    found = saved.find(RESULTS / AGENTS["td3"])
    params = {"mlp": {name: dict(layer) for name, layer in found.policy.params["mlp"].items()}}
    short = params["mlp"]["hidden_0"].pop("bias")[:bias]
    if bias is not None:
        params["mlp"]["hidden_0"]["bias"] = short
    wrong = dataclasses.replace(found, policy=dataclasses.replace(found.policy, params=params))
    with pytest.raises(sparserl_jax.UserError, match="are not those of the network that it describes"):
        export.export(wrong, tmp_path / f"policy{suffix}")
    assert not any(tmp_path.iterdir())


def test_the_formats_of_the_command_are_those_there_are():
    assert get_args(get_type_hints(Export)["format"]) == export.FORMATS
    assert set(c_source.FORMATS) < set(export.FORMATS)
