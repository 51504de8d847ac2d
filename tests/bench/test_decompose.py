"""A decomposed policy is a policy: it acts, is evaluated, saved and loaded; and ranks are chosen on other episodes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import sparserl_jax
from benchmarks import levels
from sparserl_jax import cli
from sparserl_jax.bench import decompose, evaluate, export, paths, policy, saved
from sparserl_jax.bench.saved import Saved
from sparserl_jax.deploy import forms, low_rank
from sparserl_jax.errors import UserError
from sparserl_jax.networks import ActionValues, Actor
from sparserl_jax.sparsity import masks
from sparserl_jax.training.population import key_data
from tests.bench import trained

RUN = "static-s0700-seed001"
ENV = "gymnax:Pendulum-v1"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.train(tmp_path_factory.mktemp("trained") / "x")


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of one run's folder."""
    return Path(shutil.copytree(original / RUN, tmp_path / RUN))


def published(name: str) -> saved.Saved:
    root = paths.checkout()
    assert root is not None
    return saved.find(root / "results" / "quick" / "records" / "gymnax-Pendulum-v1" / name)


@pytest.mark.long
def test_the_command_writes_a_policy_that_loads_and_acts_as_reported(run: Path, tmp_path: Path, capsys):
    out = tmp_path / "thin.npz"
    line = [
        "decompose",
        str(run),
        "--rule",
        "rank=1,3,1",
        "--episodes",
        "8",
        "--seed",
        "5",
        "--out",
        str(out),
    ]
    assert cli.run(line) == 0
    said = capsys.readouterr().out
    assert f"{RUN}: rule rank=1,3,1, three factors" in said
    # 3-8-8-1: rank 1 of the first layer takes 12 of 24 weights, rank 3 of the second 51 of 64; the last stays plain.
    assert f"compression {100 * (1 - 71 / 96):.1f} %: 71 of 96 weights, biases not counted" in said
    assert "output stays plain: factors of rank 1 would have 10 weights" in said
    (row,) = [line.split() for line in said.splitlines() if line.startswith(" three factors")]
    assert row[2:7] == ["71", "284", "0", "68", "352"] and row[-1] == "142"

    thin, plain = sparserl_jax.load(out), sparserl_jax.load(run)
    assert thin.decomposed and not plain.decomposed
    assert (thin.description["factors"], thin.description["ranks"]) == (3, [1, 3, 1])
    live = int(plain.masks["mlp"]["output"]["kernel"].sum())  # a layer that stays plain keeps its mask
    assert thin.nnz == 12 + 51 + live + 17
    obs = np.random.default_rng(0).normal(size=(50, 3))
    product = dataclasses.replace(
        thin, params=low_rank.multiplied_out(thin.params), description=plain.description
    )
    assert np.allclose(thin(obs), product(obs), atol=1e-5)
    assert not np.allclose(thin(obs), plain(obs), atol=1e-3)

    # The printed returns are those of the file and of the run, on the episodes that `evaluate` plays.
    assert cli.run(["evaluate", str(out), "--episodes", "8", "--seed", "5"]) == 0
    assert cli.run(["evaluate", str(run), "--episodes", "8", "--seed", "5"]) == 0
    after, before = (
        line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("mean")
    )
    assert f"undecomposed {before}, decomposed {after}" in said and before != after


@pytest.mark.slow
def test_nothing_is_ever_overwritten(run: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "side_by_side", None)  # told before anything is played
    before = (run / "policy.npz").read_bytes()
    assert cli.run(["decompose", str(run), "--rule", "numerical", "--out", str(run / "policy.npz")]) == 2
    assert "exists and is not overwritten; give a new file" in capsys.readouterr().err
    assert (run / "policy.npz").read_bytes() == before
    assert cli.run(["decompose", str(run), "--rule", "numerical", "--out", str(tmp_path / "thin.bin")]) == 2
    assert "a decomposed policy's name ends in .npz" in capsys.readouterr().err
    assert cli.run(["decompose", str(run), "--rule", "numerical", "--out", str(tmp_path / "a/b.npz")]) == 2
    assert f"there is no folder '{tmp_path / 'a'}'" in capsys.readouterr().err
    monkeypatch.undo()
    # Also where the file appears only while episodes are played.
    made = decompose.decompose(saved.find(run), low_rank.rule("numerical"), episodes=1)
    with pytest.raises(UserError, match="exists and is not overwritten"):
        decompose.write(made, run / "policy.npz")
    assert (run / "policy.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "--rule rank=4,3,1",
            "rank 4 of layer hidden_0 (3, 8) is not between 1 and its full rank 3; give one that is",
        ),
        (
            "--rule rank=3,0,1",
            "rank 0 of layer hidden_1 (8, 8) is not between 1 and its full rank 8; give one that is",
        ),
        ("--rule rank=3,3", "2 ranks were given for 3 layers (hidden_0, hidden_1, output)"),
        ("--rule enrgy=0.9", "'enrgy=0.9' is no rule for ranks: write one of energy=0.99"),
        ("--rule numerical --episodes 0", "episodes = 0, of the selection 20"),
        ("--selection-episodes 0", "of the selection 0"),
        ("--seed -1", "a seed of 0 or more"),
    ],
)
def test_a_mistake_is_told_in_one_sentence_before_anything_is_played(
    arguments, sentence, original: Path, capsys, monkeypatch
):
    monkeypatch.setattr(evaluate, "side_by_side", None)
    assert cli.run(["decompose", str(original / RUN), *arguments.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and sentence in error[0]


def test_a_decomposed_policy_is_not_decomposed_inspected_or_continued(original: Path, tmp_path: Path, capsys):
    found = saved.find(original / RUN)
    layers, plain = decompose.actor(found)
    thin = low_rank.decompose(layers, plain.params, plain.masks, [1, 1, 1])
    file = tmp_path / "thin.npz"
    said = {**plain.description, "form": low_rank.FORM, "decomposed_from": RUN}
    policy.save(file, thin.params, thin.masks, said)
    for line in (f"decompose {file}", f"inspect {file}", f"train --env {ENV} --from {file}"):
        assert cli.run(line.split()) == 2
        assert f"holds low-rank factors; give the policy it was made of ({RUN})" in capsys.readouterr().err


def other_kind(kind: str) -> saved.Saved:
    """An untrained policy of 6 x 6 x 2 images, or of 7 numbers, by a network of another kind."""
    said: dict[str, Any] = {"env": "a:b", "agent": "td3", "hidden": [16, 16], "obs_dim": 7, "action_dim": 2}
    module: Any = Actor((16, 16), 2, kind="simba")
    if kind == "cnn":
        module = ActionValues((12,), 3, kind="cnn", image=(6, 6, 2))
        said |= {"agent": "dqn", "hidden": [12], "obs_dim": 72, "action_dim": 3, "image": [6, 6, 2]}
    said |= {"network": kind, "action_low": [-1.0] * 2, "action_high": [1.0] * 2}
    params = jax.device_get(module.init(jax.random.key(0), np.zeros(said["obs_dim"]))["params"])
    masks = jax.tree.map(lambda x: np.ones(x.shape, bool), params)
    return saved.Saved(policy.Policy(params, masks, said), Path("policy.npz"), None)


@pytest.mark.parametrize(("kind", "ranks"), [("cnn", (4, 3, 1)), ("simba", (2, 5, 6, 3, 4, 1))])
@pytest.mark.slow
def test_convolutions_and_residual_blocks_are_decomposed_saved_and_loaded(kind, ranks, tmp_path: Path):
    found = other_kind(kind)
    layers, plain = decompose.actor(found)
    thin = low_rank.decompose(layers, plain.params, plain.masks, ranks)
    assert all(part.factored for part in thin.parts) and len(thin.parts) == len(ranks)
    made = policy.Policy(thin.params, thin.masks, {**plain.description, "form": low_rank.FORM})
    policy.save(tmp_path / "thin.npz", made.params, made.masks, made.description)
    obs = np.random.default_rng(0).normal(size=(20, plain.description["obs_dim"]))
    product = dataclasses.replace(plain, params=low_rank.multiplied_out(thin.params))
    acted = np.asarray(policy.load(tmp_path / "thin.npz").act(obs))
    assert np.allclose(acted, product.act(obs), atol=1e-5)
    assert not np.allclose(acted, plain.act(obs), atol=1e-3)
    whole = low_rank.decompose(layers, plain.params, plain.masks, [low_rank.full_rank(x) for x in layers], 2)
    assert np.allclose(dataclasses.replace(made, params=whole.params).act(obs), plain.act(obs), atol=1e-5)
    dense, *_, three = forms.forms(layers, [layer.size for layer in layers], ranks)
    assert three.weights == sum(part.weights for part in thin.parts)
    if kind == "cnn":
        # 18 to 16 at 4 x 4 places, 256 to 12, 12 to 3: r (m + n + 1) weights each, beside 31 biases.
        assert (dense.weights, three.weights) == (288 + 3072 + 36, 140 + 807 + 16)
        assert (dense.blob.total, three.blob.total) == (4 * (3396 + 31), 4 * (963 + 31))
        assert dense.flops - three.flops == 2 * (16 * (288 - 140) + (3072 - 807) + (36 - 16))


def narrow_cnn() -> Saved:
    found = other_kind("cnn")
    masks = found.policy.masks["cnn"]
    masks["hidden_0"]["kernel"][..., 5:] = masks["output"]["kernel"][5:] = False
    return found


def test_narrow_networks_of_other_kinds_are_refused():
    with pytest.raises(UserError, match="is a narrow network inside the tensors of a 'cnn'"):
        decompose.actor(narrow_cnn())


def test_they_are_exported_in_their_wide_tensors(tmp_path: Path):
    found = narrow_cnn()
    made = export.export(found, tmp_path / "a.bin")
    obs = np.random.default_rng(0).normal(size=(20, found.policy.description["obs_dim"]))
    live = dataclasses.replace(found.policy, params=masks.apply(found.policy.masks, found.policy.params))
    assert np.allclose(policy.load(tmp_path / "a.bin").act(obs), live.act(obs), atol=1e-6)
    assert made.size < made.dense


def test_a_diverged_policy_is_refused(run: Path):
    found = policy.load(run)
    found.params["mlp"]["hidden_1"]["kernel"][found.masks["mlp"]["hidden_1"]["kernel"]] = np.nan
    policy.save(run / "policy.npz", found.params, found.masks, found.description)
    with pytest.raises(UserError, match="weights of layer hidden_1 are not finite"):
        decompose.decompose(saved.find(run), low_rank.rule("numerical"))


@pytest.mark.slow
def test_the_rule_z_keeps_the_fewest_weights_that_lose_little_and_reports_other_episodes():
    found = published("dense-s0000-seed000")
    made = decompose.decompose(found, low_rank.rule("z=0.05"), episodes=10, selection=10)
    chosen = made.selection
    assert chosen is not None
    assert chosen.ends == (-1221.7, -150.0, "declared by the suite quick")
    assert chosen.least == pytest.approx((chosen.undecomposed + 1221.7) / (1221.7 - 150.0) - 0.05)
    place = chosen.candidates.index(chosen.chosen)
    assert all(one.z < chosen.least for one in chosen.candidates[:place]) and place > 0
    assert chosen.chosen.z >= chosen.least
    assert made.decomposition.ranks == chosen.chosen.ranks and made.decomposition.compression > 0.5
    # The plain candidate is the undecomposed policy, on the same episodes.
    assert chosen.candidates[-1].mean == chosen.undecomposed

    # Selection episodes are nobody else's: neither those reported, of any seed, nor those of the training.
    env = ENV
    others = [evaluate.fresh_key(env, seed) for seed in range(100)] + [key_data("evaluation", env)]
    mine = [decompose.selection_key(env, seed) for seed in range(100)]
    assert not {key.tobytes() for key in mine} & {key.tobytes() for key in others}
    assert len({key.tobytes() for key in mine}) == 100
    _, plain = decompose.actor(found)
    played = evaluate.side_by_side(plain, evaluate.environment(found), mine[0], 1, 10, None)
    one = {
        "mlp": {name: {k: v[None] for k, v in layer.items()} for name, layer in plain.params["mlp"].items()}
    }
    selected = played(one, 0, 0)[0]
    assert selected.mean() == pytest.approx(chosen.undecomposed, rel=1e-3)
    assert not set(selected.tolist()) & set(made.before.tolist())
    # Reported are the fresh episodes of `evaluate`, the same before and after.
    assert np.array_equal(made.before, evaluate.fresh(found, episodes=10))


@pytest.mark.slow
def test_without_declared_ends_z_is_the_share_of_the_gain_over_random_actions(tmp_path: Path, monkeypatch):
    found = published("set-s0800-seed000")
    shutil.copyfile(found.path, tmp_path / "mine.npz")
    alone = saved.find(tmp_path / "mine.npz")
    assert decompose.declared_ends(alone) is None and decompose.declared_ends(found) is not None
    layers, plain = decompose.actor(alone)
    chosen = decompose.select(dataclasses.replace(alone, policy=plain), layers, 0.05, 3, 10, 0)
    assert (
        -1700 < chosen.ends.random < -800
    )  # of random actions, over seeds -1221.7 +- 9.1 with 1000 episodes
    assert chosen.ends.reference == chosen.undecomposed and chosen.least == pytest.approx(0.95)
    monkeypatch.setattr(decompose, "_random", lambda *_: np.zeros(10))
    with pytest.raises(
        UserError, match="and random actions 0 on the selection episodes: there is nothing to keep"
    ):
        decompose.select(dataclasses.replace(alone, policy=plain), layers, 0.05, 3, 10, 0)


def test_a_narrow_policy_is_decomposed_as_the_narrow_network_that_it_is():
    found = published("tiny-s0800-seed000")
    layers, plain = decompose.actor(found)
    assert [layer.shape for layer in layers] == [(3, 28), (28, 28), (28, 1)]
    assert all(mask.all() for mask in policy.flatten(plain.masks, "_").values())
    obs = np.random.default_rng(0).normal(size=(50, 3))
    assert np.allclose(plain(obs), found.policy(obs), atol=1e-5)
    wide, same = decompose.actor(published("set-s0800-seed000"))
    assert [layer.shape for layer in wide] == [(3, 64), (64, 64), (64, 1)]
    assert same.description["hidden"] == [64, 64]


def test_dense_and_sparse_policies_at_equal_rank_play_the_same_episodes(monkeypatch):
    monkeypatch.setattr(evaluate, "AT_ONCE", 4)  # more episodes than are played side by side
    runs = [published("dense-s0000-seed000"), published("set-s0800-seed000")]
    ranks = [(3, 4, 1), (3, 16, 1), (3, 64, 1)]
    found = decompose.at_equal_rank(runs, ranks, episodes=6, seed=2)
    assert [one.name for one in found] == [run.name for run in runs for _ in range(4)]
    assert [one.decomposition and one.decomposition.ranks for one in found] == [None, *ranks] * 2
    assert [round(one.sparsity, 2) for one in found] == [0.0] * 4 + [0.8] * 4
    for run, mine in zip(runs, (found[:4], found[4:]), strict=True):
        assert np.allclose(mine[0].returns, evaluate.fresh(run, episodes=6, seed=2), rtol=1e-2, atol=1.0)
        assert np.array_equal(mine[3].returns, mine[0].returns)  # plain at full rank
        errors = [one.decomposition.error for one in mine[1:]]
        assert errors[0] > errors[1] > errors[2] == 0
        # The factored policy itself earns what its product did.
        layers, plain = decompose.actor(run)
        thin = policy.Policy(
            mine[2].decomposition.params,
            mine[2].decomposition.masks,
            {**plain.description, "form": low_rank.FORM},
        )
        own = evaluate.fresh(dataclasses.replace(run, policy=thin), episodes=6, seed=2)
        assert np.allclose(own, mine[2].returns, rtol=1e-2, atol=1.0)
    with pytest.raises(UserError, match=r"tiny-s0800-seed000' .* cannot have the same ranks as"):
        decompose.at_equal_rank([runs[0], published("tiny-s0800-seed000")], ranks)
    with pytest.raises(UserError, match="rank 65 of layer hidden_1"):
        decompose.at_equal_rank(runs, [(3, 65, 1)], episodes=2)
    with pytest.raises(UserError, match="at least one policy"):
        decompose.at_equal_rank([], ranks)


def test_random_actions_are_played_on_the_host_too():
    pytest.importorskip("gymnasium")
    from tests.reference import host_toys

    key = decompose.selection_key("toys:pull", 0)
    host, compiled = (
        decompose._random(env, key, 200).mean() for env in (host_toys.HostPull(), host_toys.Pull())
    )
    assert host == pytest.approx(compiled, rel=0.1)

    class Falls(host_toys.HostPull):
        def step(self, action: np.ndarray) -> Any:
            return 1 / 0

    broken = Falls()
    with pytest.raises(UserError, match=r"broke: step raised ZeroDivisionError: .*; mend it"):
        decompose._random(broken, key, 1)
    with pytest.raises(UserError, match=r"broke: step raised ZeroDivisionError: .*; mend it"):
        levels.measured(broken, 1)
    assert np.array_equal(
        decompose._random(host_toys.HostPull(), key, 3), decompose._random(host_toys.HostPull(), key, 3)
    )
