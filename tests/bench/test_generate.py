"""Sets of data from one training: what each holds, which policies they are of, and what is kept or out of reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparserl_jax import cli
from sparserl_jax.bench import generate, policy
from sparserl_jax.data import OfflineDataset, archive, load
from sparserl_jax.errors import UserError
from sparserl_jax.replay import Replay
from sparserl_jax.training import datasets
from tests.bench import fake

BOUNDS: dict[str, Any] = {"action_low": (-2.0,), "action_high": (2.0,)}
STEPS = np.arange(1, 7) * 100
PENDULUM = "gymnax:Pendulum-v1"


def stored(rows: int = 7, slots: int = 2) -> Replay:
    """Observations 0, 1, 2, ...; terminal behind row 1, cut behind row 3, where the state after it was 99."""
    flags = np.zeros((rows, 1), np.uint16)
    flags[1], flags[3] = 1, 2
    return Replay(
        obs=np.arange(rows, dtype=np.float32)[:, None, None],
        action=np.zeros((rows, 1, 1), np.float32),
        mean=np.zeros((rows, 1, 0), np.float16),
        reward=np.arange(rows, dtype=np.float32)[:, None] * 10,
        flags=flags,
        final_obs=np.full((slots, 1, 1), 99, np.float32),
        final_row=np.array([[3], *[[-1]] * (slots - 1)], np.int32),
        slot=np.array([1], np.int32),
        left=np.int32(0),
    )  # type: ignore[arg-type]


def test_a_replay_becomes_its_transitions():
    made, lost = datasets.of_replay(stored(), 6)
    assert made.next_obs[:, 0].tolist() == [1, 1, 3, 99, 5, 6] and made.obs[:, 0].tolist() == list(range(6))
    assert made.terminated.tolist() == [False, True, False, False, False, False]
    assert made.truncated.tolist() == [False, False, False, True, False, True]
    assert made.reward.tolist() == [0, 10, 20, 30, 40, 50] and len(lost) == 0


def test_a_truncation_whose_last_observation_is_gone_is_left_out():
    replay = stored()
    replay.flags[5] = 2 + (0 << 2)  # in the slot that row 3 had before
    replay.final_row[0], replay.final_obs[0] = 5, 77
    made, lost = datasets.of_replay(replay, 6)
    assert lost.tolist() == [3] and made.obs[:, 0].tolist() == [0, 1, 2, 4, 5]
    assert made.next_obs[:, 0].tolist() == [1, 1, 3, 5, 77]
    assert made.truncated.tolist() == [False, False, True, False, True]


def test_a_replay_that_has_lost_something_is_refused():
    for replay, rows in ((stored()._replace(left=np.int32(1)), 6), (stored(), 7)):  # type: ignore[arg-type]
        with pytest.raises(UserError, match="does not hold the first"):
            datasets.of_replay(replay, rows)


class Trained:
    """A folder with a finished training, made up, and its sets."""

    def __init__(self, out: Path, monkeypatch: Any) -> None:
        self.out, self.monkeypatch = out, monkeypatch
        self.plan = generate.training(PENDULUM, "td3", interval=500, episodes=10, steps=2000, hidden=(8, 8))
        fake.finished(out / "training", self.plan)
        (self.run,) = (out / "training" / "records").rglob("dense-*")
        (out / "policies").mkdir()
        for step in STEPS:
            (out / "policies" / f"step-{step:09d}.npz").write_bytes((self.run / "policy.npz").read_bytes())

    def order(self, **wanted: Any) -> generate.Order:
        return generate.Order(self.plan, self.out, generate.Wanted(**wanted), 3)

    def evaluated(self, *returns: float) -> None:
        found = STEPS[: len(returns)], np.array(returns)
        self.monkeypatch.setattr(generate, "_evaluations", lambda order: found)

    def put(self, name: str, reward: float, **wanted: Any) -> OfflineDataset:
        """A set of three episodes of 200 steps, as if it had been made for that."""
        rng = np.random.default_rng(0)
        rows: Any = [rng.normal(size=(600, width)).astype(np.float32) for width in (3, 1, 3)]
        ends = np.arange(600) % 200 == 199
        rewards = np.full(600, reward, np.float32)
        made = OfflineDataset(rows[0], rows[1].clip(-1, 1), rewards, rows[2], np.zeros(600, bool), ends)
        about = {"asked": self.order(**wanted).asked(name), "left_out": []}
        archive.save(self.out / f"{name}.npz", made, source="test", about=about, **BOUNDS)
        return made


@pytest.fixture
def trained(tmp_path: Path, monkeypatch) -> Trained:
    return Trained(tmp_path, monkeypatch)


def names(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.npz")}


def cards(folder: Path) -> dict[str, Any]:
    return {name: archive.card(folder / f"{name}.npz") for name in names(folder)}


@pytest.mark.slow
def test_the_first_in_the_range_and_the_best_are_taken(trained: Trained, tmp_path: Path):
    wanted = {"transitions": 500}
    trained.put("random", -6.0, **wanted)  # returns of -1,200
    whole = trained.put("full-replay", -3.0, **wanted)
    low, top = -1200.0, -150.0
    trained.evaluated(
        low, low + 0.2 * (top - low), low + 0.35 * (top - low), low + 0.36 * (top - low), top, low
    )
    order = trained.order(**wanted)
    order.check()
    assert len(list(generate.sets(order))) == 6 and names(tmp_path) == set(generate.NAMES)
    found = cards(tmp_path)
    about = {name: card["about"] for name, card in found.items()}
    assert [about[name]["step"] for name in ("medium", "medium-replay", "expert")] == [300, 300, 500]
    assert about["expert"]["z"] == 1 and about["medium"]["z"] == pytest.approx(0.35)
    ends = ("random", "reference", "noise", "agent")
    assert [about["medium"][name] for name in ends] == [low, top, 0.1, "td3"]
    for name in ("medium", "expert"):  # whole episodes of 200 steps
        assert found[name]["transitions"] == 600 and found[name]["episodes"] == 3
    medium, expert, replay, both = (
        load(f"{tmp_path / name}.npz", obs_dim=3, **BOUNDS)
        for name in ("medium", "expert", "medium-replay", "medium-expert")
    )
    np.testing.assert_array_equal(replay.obs, whole.obs[:300])
    assert np.flatnonzero(replay.ends).tolist() == [199, 299]
    np.testing.assert_array_equal(both.obs, np.concatenate([medium.obs, expert.obs]))
    assert about["medium-expert"]["of"] == [found["medium"]["sha256"], found["expert"]["sha256"]]
    acting = policy.load(order.policy(300))
    apart = medium.action - np.clip(acting.act(medium.obs), -1, 1)
    assert 0.02 < np.abs(apart).mean() < 0.1
    before = {path: path.read_bytes() for path in tmp_path.glob("*.npz")}
    order.check()
    assert sum(line.endswith(", kept") for line in generate.sets(order)) == 5
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*.npz")}


def test_what_is_out_of_reach_or_gone_is_named_and_the_rest_is_made(trained: Trained, tmp_path: Path):
    trained.put("random", -6.0, transitions=1)
    trained.evaluated(-1500.0, -1000.0, -600.0)
    said = list(generate.sets(trained.order(reference=-200.0, transitions=1)))
    assert names(tmp_path) == {"random"}
    assert said[1].startswith("no full-replay: the training held numbers that are not finite, or its file")
    assert said[2] == (
        "no medium: no evaluation has z in [0.3, 0.4]; the nearest is 0.2 at step 200: give another --medium, or train "
        "longer or evaluate more often into another folder."
    )
    assert said[3].startswith(
        "no expert: no evaluation has z >= 0.9; the nearest is 0.6 at step 300: give another"
    )
    trained.order().policy(300).unlink()
    said = list(generate.sets(trained.order(reference=-200.0, transitions=1, medium=(0.1, 0.3), expert=0.5)))
    assert names(tmp_path) == {"random", "medium"}
    assert said[-1].startswith("no expert: '") and "is gone" in said[-1]


def test_rows_that_are_left_out_of_the_whole_are_no_steps_of_its_beginning(trained: Trained, tmp_path: Path):
    whole = trained.put("full-replay", 0.0)
    about = {**archive.card(tmp_path / "full-replay.npz")["about"], "left_out": [7, 250, 400]}
    archive.save(tmp_path / "full-replay.npz", whole, source="test", about=about, **BOUNDS)
    assert len(generate._first(trained.order(), 300).reward) == 298


@pytest.mark.slow
def test_uniform_actions_are_of_many_episodes_whatever_is_asked(trained: Trained, tmp_path: Path):
    trained.evaluated(-3000.0)
    with pytest.raises(
        UserError, match="the reference, a return of -3000, is not above that of uniform actions"
    ):
        list(generate.sets(trained.order(transitions=1)))
    card = cards(tmp_path)["random"]
    assert card["episodes"] == generate.EPISODES and -1500 < card["returns"]["mean"] < -900


@pytest.mark.parametrize(
    ("name", "other", "words"),
    [
        ("random", {"transitions": 7}, "transitions 7, not 1"),
        ("expert", {"noise": 0.5}, "noise 0.5, not 0.1"),
        ("medium-replay", {"medium": (0.2, 0.3)}, r"medium \[0.2, 0.3\], not \[0.3, 0.4\]"),
        ("medium-expert", {"reference": 3.0}, "reference 3.0, not None"),
    ],
)
@pytest.mark.slow
def test_a_set_that_was_made_for_something_else_is_refused(trained: Trained, name, other, words):
    trained.put(name, 0.0, **{"transitions": 1, **other})
    with pytest.raises(
        UserError, match=f"'.*{name}.npz' is there, and was made for something else .*{words}"
    ):
        trained.order(transitions=1).check()


@pytest.mark.slow
def test_what_is_not_ours_is_refused_and_kept(trained: Trained, tmp_path: Path, capsys):
    mine = trained.put("full-replay", 0.0)
    archive.save(tmp_path / "full-replay.npz", mine, source="mine", **BOUNDS)
    with pytest.raises(UserError, match="its card does not say for what"):
        trained.order().check()
    (tmp_path / "full-replay.npz").write_bytes(b"mine")
    words = [
        "datasets",
        "--env",
        PENDULUM,
        "--steps",
        "2000",
        "--interval",
        "500",
        "--hidden",
        "8",
        "8",
        "--seed",
        "0",
    ]
    assert cli.run([*words, "--out", str(tmp_path)]) == 2
    assert (
        "\n" not in capsys.readouterr().err.strip() and (tmp_path / "full-replay.npz").read_bytes() == b"mine"
    )
    (tmp_path / "full-replay.npz").unlink()
    (tmp_path / "training").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="is there without the training that it belongs to"):
        trained.order().check()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--medium", "0.5", "0.4"], "give a range within (0, 1)"),
        (["--expert", "1.5"], "an expert in (0, 1]"),
        (["--transitions", "0"], "at least 1 transition"),
        (["--noise", "-1"], "a noise of 0 or more"),
        (["--reference", "nan"], "is no return"),
        (["--episodes", "0"], "give at least 1"),
        (["--agent", "ppo"], "take one such as td3 or sac"),
        (["--interval", "300"], "not a multiple of evaluation.interval = 300"),
        (["--env", "gymnax:CartPole-v1"], "discrete"),
        (
            ["--env", "gymnax:CartPole-v1", "--agent", "dqn"],
            "has discrete actions, and datasets hold real ones",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(tmp_path: Path, capsys, changes, sentence):
    usual = {"--env": PENDULUM, "--steps": "2000", "--interval": "500", "--episodes": "3"}
    words = [word for option, value in usual.items() if option not in changes for word in (option, value)]
    words += changes
    assert cli.run(["datasets", "--out", str(tmp_path / "d"), *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert sentence in said and not (tmp_path / "d").exists()


@pytest.mark.long
def test_the_command_trains_once_and_all_of_the_training_is_there(tmp_path: Path, capsys):
    pytest.importorskip("gymnasium")
    options = (
        "--env gymnasium:Pendulum-v1 --steps 2000 --interval 500 --episodes 1 --hidden 8 8 --batch-size 16"
    )
    words = [
        "datasets",
        *options.split(),
        "--transitions",
        "300",
        "--reference",
        "-1",
        "--out",
        str(tmp_path),
    ]
    assert cli.run(words) == 0
    whole = load(f"{tmp_path / 'full-replay.npz'}", obs_dim=3, **BOUNDS)
    assert len(whole.reward) == 2000 and np.flatnonzero(whole.ends).tolist() == list(range(199, 2000, 200))
    within = np.flatnonzero(~whole.ends)
    np.testing.assert_array_equal(whole.next_obs[within], whole.obs[within + 1])
    angle, speed = np.arctan2(whole.obs[:, 1], whole.obs[:, 0]), whole.obs[:, 2]
    cost = angle**2 + 0.1 * speed**2 + 0.001 * (2 * whole.action[:, 0]) ** 2
    np.testing.assert_allclose(whole.reward, -cost, rtol=1e-3, atol=1e-3)
    assert len(list((tmp_path / "policies").iterdir())) == 4
    assert names(tmp_path) >= {"random", "full-replay"}
    capsys.readouterr()
    (record,) = (tmp_path / "training").rglob("record.json")
    before = record.stat().st_mtime_ns
    assert cli.run(words) == 0
    assert record.stat().st_mtime_ns == before
    said = " ".join(capsys.readouterr().out.split())
    assert "no medium" in said and "no expert" in said and "20,000 transitions" in said and "kept" in said
