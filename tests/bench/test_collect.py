"""Episodes of a trained policy become a dataset: what it did, whose they are, and that nothing is overwritten."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparserl_jax import cli
from sparserl_jax.bench import collect, records, saved
from sparserl_jax.data import card, load
from sparserl_jax.errors import UserError
from tests.bench import fake

PENDULUM = {"obs_dim": 3, "action_low": [-2.0], "action_high": [2.0]}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run's folder, its policy random."""
    root = tmp_path_factory.mktemp("collect") / "x"
    fake.finished(root, fake.make_plan(**{**fake.SMALL, "seeds": 1, "arms": [{"recipe": "dense"}]}))
    return root / "records" / "gymnax-Pendulum-v1" / "dense-s0000-seed000"


def test_what_is_written_is_what_the_policy_did(run: Path, tmp_path: Path):
    found = saved.find(run)
    made = collect.collect(found, tmp_path / "a.npz", episodes=3)
    data = load(f"{tmp_path / 'a.npz'}", **PENDULUM)
    assert (made["transitions"], made["episodes"]) == (600, 3) and data.truncated.sum() == 3
    assert made["sha256"] == data.sha256 and sum(made["returns"]["histogram"]["counts"]) == 3
    np.testing.assert_allclose(data.action, np.clip(found.policy.act(data.obs), -1, 1), atol=1e-5)
    within = np.flatnonzero(~data.ends)
    np.testing.assert_array_equal(data.next_obs[within], data.obs[within + 1])
    angle, speed = np.arctan2(data.obs[:, 1], data.obs[:, 0]), data.obs[:, 2]
    cost = angle**2 + 0.1 * speed**2 + 0.001 * (2 * data.action[:, 0]) ** 2
    np.testing.assert_allclose(data.reward, -cost, rtol=1e-3, atol=1e-3)


def test_the_card_says_whose_episodes_they_are(run: Path, tmp_path: Path, monkeypatch):
    found = saved.find(run)
    collect.collect(found, tmp_path / "a.npz", episodes=2, seed=5, noise=0.5)
    about, result = card(tmp_path / "a.npz")["about"], found.record["result"]
    assert about == {
        "env": "gymnax:Pendulum-v1",
        "trained_on": "gymnax:Pendulum-v1",
        "agent": "td3",
        "run": found.record["run_id"],
        **{key: result[key] for key in ("recipe", "method", "sparsity", "score", "final_score")},
        "policy_sha256": records.digest((run / "policy.npz").read_bytes()),
        "seed": 5,
        "noise": 0.5,
        "acted": "mode",
        "scores_of": "mode",
    }
    data = load(f"{tmp_path / 'a.npz'}", **PENDULUM)
    assert np.abs(data.action).max() <= 1
    apart = data.action - np.clip(found.policy.act(data.obs), -1, 1)
    assert 0.1 < np.abs(apart).mean() < 0.6
    collect.collect(found, tmp_path / "b.npz", episodes=2, seed=5, noise=0.5)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    monkeypatch.setattr("sparserl_jax.bench.evaluate.sampled", lambda saved: True)
    assert collect._about(found)["scores_of"] == "draws"


def test_many_episodes_are_played_in_parts_and_all_differ(run: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("sparserl_jax.bench.evaluate.AT_ONCE", 2)
    made = collect.collect(saved.find(run), tmp_path / "a.npz", episodes=5)
    data = load(f"{tmp_path / 'a.npz'}", **PENDULUM)
    assert made["episodes"] == 5 and np.unique(data.obs[::200], axis=0).shape == (5, 3)


def test_a_bare_policy_is_played_too(run: Path, tmp_path: Path):
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "policy.npz").write_bytes((run / "policy.npz").read_bytes())
    collect.collect(saved.find(tmp_path / "alone"), tmp_path / "a.npz", episodes=1)
    assert set(card(tmp_path / "a.npz")["about"]) == {"env", "agent", "policy_sha256", "seed", "noise"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"episodes": 0}, "give at least 1 episode"),
        ({"seed": -1}, "a seed of 0 or more"),
        ({"noise": float("nan")}, "a noise of 0 or more"),
        ({"env": "gymnax:CartPole-v1"}, "choose an environment that fits"),
        ({"out": "a.hdf5"}, "does not end in .npz"),
        ({"out": "there.npz"}, "exists and is not overwritten"),
        ({"out": "a" * 5000 + ".npz"}, "leads nowhere (File name too long)"),
        ({"out": "policy.npz/a.npz"}, "cannot be written"),
    ],
)
def test_what_cannot_be_collected_is_refused_in_one_sentence(
    run: Path, tmp_path: Path, changes: Any, sentence
):
    (tmp_path / "there.npz").write_text("mine")
    (tmp_path / "policy.npz").write_text("mine")
    given = {"episodes": 1, "out": "new.npz", **changes}
    with pytest.raises(UserError) as told:
        collect.collect(saved.find(run), tmp_path / given.pop("out"), **given)
    assert sentence in str(told.value) and "\n" not in str(told.value)
    assert (tmp_path / "there.npz").read_text() == "mine" and not (tmp_path / "new.npz").exists()


def test_a_run_that_diverged_makes_no_dataset(run: Path, tmp_path: Path):
    """Pendulum would end every episode at its first step, with a reward of 0."""
    found = saved.find(run)
    lost = {**found.record, "result": {**found.record["result"], "status": "diverged"}}
    with pytest.raises(UserError, match="diverged, and what it earns is no score"):
        collect.collect(dataclasses.replace(found, record=lost), tmp_path / "a.npz", episodes=1)
    assert not (tmp_path / "a.npz").exists()


def test_a_file_that_appears_meanwhile_is_kept(run: Path, tmp_path: Path, monkeypatch):
    played = collect._played

    def late(*given: Any) -> Any:
        (tmp_path / "a.npz").write_text("theirs")
        return played(*given)

    monkeypatch.setattr(collect, "_played", late)
    with pytest.raises(UserError, match="exists and is not overwritten"):
        collect.collect(saved.find(run), tmp_path / "a.npz", episodes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert (tmp_path / "a.npz").read_text() == "theirs"


def test_the_command_writes_and_says_what(run: Path, tmp_path: Path, capsys):
    out = tmp_path / "a.npz"
    assert cli.run(["collect", str(run), "--out", str(out), "--episodes", "2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "400 transitions in 2 episodes" in said and card(out)["sha256"][:12] in said
