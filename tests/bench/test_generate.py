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


def stored(rows: int = 7) -> Replay:
    """Observations 0, 1, 2, ...; terminal behind row 1, cut behind row 3, where the state after it was 99."""
    flags = np.zeros((rows, 1), np.uint16)
    flags[1], flags[3] = 1, 2
    return Replay(
        obs=np.arange(rows, dtype=np.float32)[:, None, None],
        action=np.zeros((rows, 1, 1), np.float32),
        mean=np.zeros((rows, 1, 0), np.float16),
        reward=np.arange(rows, dtype=np.float32)[:, None] * 10,
        flags=flags,
        final_obs=np.full((2, 1, 1), 99, np.float32),
        final_row=np.array([[3], [-1]], np.int32),
        slot=np.array([1], np.int32),
        left=np.int32(0),
    )  # type: ignore[arg-type]


def test_a_replay_becomes_its_transitions():
    made = datasets.of_replay(stored(), 6)
    assert made.next_obs[:, 0].tolist() == [1, 1, 3, 99, 5, 6] and made.obs[:, 0].tolist() == list(range(6))
    assert made.terminated.tolist() == [False, True, False, False, False, False]
    assert made.truncated.tolist() == [False, False, False, True, False, True]
    assert made.reward.tolist() == [0, 10, 20, 30, 40, 50]


def test_a_replay_that_has_lost_something_is_refused():
    for replay, rows in ((stored()._replace(left=np.int32(1)), 6), (stored(), 7)):  # type: ignore[arg-type]
        with pytest.raises(UserError, match="does not hold the first"):
            datasets.of_replay(replay, rows)


@pytest.fixture
def trained(tmp_path: Path) -> Any:
    """`of(returns)`: a finished training with those evaluations, its policies random; and all that it did."""
    plan = fake.make_plan(**{**fake.SMALL, "seeds": 1, "arms": [{"recipe": "dense"}]})
    fake.finished(tmp_path / "run", plan)
    (run,) = (tmp_path / "run" / "records").rglob("policy.npz")
    policies = tmp_path / "policies"
    policies.mkdir()
    for step in STEPS:
        (policies / f"step-{step:09d}.npz").write_bytes(run.read_bytes())
    whole = archive_of(tmp_path)
    record = {"provenance": {"config": {"training": {"agent": {"name": "td3"}}}}}

    uniform = whole._replace(reward=np.full(600, -6.0, np.float32))  # returns of -1,200
    archive.save(tmp_path / "random.npz", uniform, source="test", **BOUNDS)

    def of(*returns: float) -> generate.Trained:
        return generate.Trained("a/run", record, STEPS[: len(returns)], np.array(returns), policies)

    return of, whole


def archive_of(out: Path) -> OfflineDataset:
    """Three episodes of 200 steps as the whole of a training."""
    rng = np.random.default_rng(0)
    rows: Any = [rng.normal(size=(600, width)).astype(np.float32) for width in (3, 1, 3)]
    ends = np.arange(600) % 200 == 199
    reward = rng.normal(size=600).astype(np.float32)
    made = OfflineDataset(rows[0], rows[1].clip(-1, 1), reward, rows[2], np.zeros(600, bool), ends)
    archive.save(out / "full-replay.npz", made, source="test", **BOUNDS)
    return made


def names(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.npz")}


def test_the_first_in_the_range_and_the_best_are_taken(trained, tmp_path: Path):
    of, whole = trained
    low, top = -1200.0, -150.0
    found = of(low, low + 0.2 * (top - low), low + 0.35 * (top - low), low + 0.36 * (top - low), top, low)
    said = generate.sets(tmp_path, PENDULUM, found, generate.Wanted(transitions=500), seed=3)
    assert names(tmp_path) == set(generate.NAMES) and len(said) == 6
    cards = {name: archive.card(tmp_path / f"{name}.npz") for name in generate.NAMES}
    about = {name: card.get("about", {}) for name, card in cards.items()}
    assert [about[name]["step"] for name in ("medium", "medium-replay", "expert")] == [300, 300, 500]
    assert about["expert"]["z"] == 1 and about["medium"]["z"] == pytest.approx(0.35)
    ends = ("random", "reference", "noise")
    assert [about["medium"][name] for name in ends] == [low, top, 0.1]
    for name in ("medium", "expert"):  # whole episodes of 200 steps
        assert cards[name]["transitions"] == 600 and cards[name]["episodes"] == 3
    medium, expert, replay, both = (
        load(f"{tmp_path / name}.npz", obs_dim=3, **BOUNDS)
        for name in ("medium", "expert", "medium-replay", "medium-expert")
    )
    np.testing.assert_array_equal(replay.obs, whole.obs[:300])
    assert np.flatnonzero(replay.ends).tolist() == [199, 299]
    np.testing.assert_array_equal(both.obs, np.concatenate([medium.obs, expert.obs]))
    assert about["medium-expert"]["of"] == [cards["medium"]["sha256"], cards["expert"]["sha256"]]
    acting = policy.load(tmp_path / "policies" / "step-000000300.npz")
    apart = medium.action - np.clip(acting.act(medium.obs), -1, 1)
    assert 0.02 < np.abs(apart).mean() < 0.1


def test_what_is_there_is_kept_and_what_is_out_of_reach_is_named(trained, tmp_path: Path):
    of, _ = trained
    (tmp_path / "random.npz").unlink()
    found = of(-2000.0, -900.0, -400.0)
    wanted = generate.Wanted(-100.0, medium=(0.1, 0.11), transitions=200)
    said = generate.sets(tmp_path, PENDULUM, found, wanted, seed=0)
    assert names(tmp_path) == {"random", "full-replay"}
    low = archive.card(tmp_path / "random.npz")["returns"]["mean"]
    assert -1600 < low < -700  # of one episode
    z = (found.returns - low) / (-100.0 - low)
    (medium,) = (line for line in said if line.startswith("no medium"))
    assert "no evaluation has z in [0.1, 0.11]; the nearest is" in medium and "--medium" in medium
    expert = f"no expert: no evaluation has z >= 0.9; the nearest is {z[2]:.3g} at step 300"
    assert any(line.startswith(expert) for line in said)
    before = (tmp_path / "random.npz").read_bytes()
    more = generate.Wanted(-100.0, medium=(z[2] - 0.01, z[2] + 0.01), expert=z[2], transitions=400)
    said = generate.sets(tmp_path, PENDULUM, found, more, seed=0)
    assert names(tmp_path) == set(generate.NAMES) and (tmp_path / "random.npz").read_bytes() == before
    assert sum(line.endswith(", kept") for line in said) == 1


def test_a_reference_below_uniform_actions_is_refused(trained, tmp_path: Path):
    of, _ = trained
    with pytest.raises(UserError, match="is not above that of uniform actions"):
        generate.sets(tmp_path, PENDULUM, of(-3000.0), generate.Wanted(transitions=1), 0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--medium", "0.5", "0.4"], "give a range within (0, 1)"),
        (["--expert", "1.5"], "an expert in (0, 1]"),
        (["--transitions", "0"], "at least 1 transition"),
        (["--noise", "-1"], "a noise of 0 or more"),
        (["--agent", "ppo"], "take one such as td3 or sac"),
        (["--interval", "300"], "not a multiple of evaluation.interval = 300"),
        (["--env", "gymnax:CartPole-v1"], "discrete"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(tmp_path: Path, capsys, changes, sentence):
    given = {"--env": ["gymnax:Pendulum-v1"], "--steps": ["2000"], "--interval": ["500"]}
    given[changes[0]] = changes[1:]
    words = [word for option, values in given.items() for word in (option, *values)]
    assert cli.run(["datasets", "--out", str(tmp_path / "d"), *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert sentence in said and not (tmp_path / "d").exists()


@pytest.mark.slow
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
    assert "no medium" in said and "no expert" in said and "400 transitions" in said and "kept" in said
