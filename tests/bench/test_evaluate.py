"""Evaluating a recorded run gives the recorded bits, and says what differs where it does not."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import sparserl_jax
from sparserl_jax import cli
from sparserl_jax.bench import evaluate, policy, records, saved
from sparserl_jax.errors import UserError
from tests.bench import trained

RUN = "static-s0700-seed001"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.train(tmp_path_factory.mktemp("trained") / "x")


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of one run's folder."""
    return Path(shutil.copytree(original / RUN, tmp_path / RUN))


def change(folder: Path, edit) -> None:
    record = records.read(folder)
    edit(record)
    (folder / "record.json").write_text(json.dumps(record))


@pytest.mark.slow
def test_every_member_of_a_real_training_is_reproduced_bit_for_bit(original: Path, capsys):
    for folder in sorted(original.iterdir()):
        compared = evaluate.reproduce(saved.find(folder))
        assert compared.agrees and compared.recorded.point is not None and len(compared.recorded.final) == 4
        assert len(set(compared.found.final)) == 4
    assert cli.run(["evaluate", str(original / RUN)]) == 0
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert f"{RUN}: agrees with its record bit for bit: 4 final returns" in line


@pytest.mark.slow
def test_the_population_of_recorded_size_gives_the_recorded_bits_too(original: Path):
    found = saved.find(original / RUN)
    again = evaluate._again(found, evaluate.environment(found), 3, 1)
    assert again.final == tuple(found.record["result"]["final_returns"])
    assert again.point == records.read_curve(found.folder / "curve.csv")["return"][-1]


def test_where_one_policy_alone_gives_other_bits_it_is_evaluated_in_its_population(
    run: Path, monkeypatch, capsys
):
    asked = []
    real = evaluate._again

    def again(found, env, members, place):
        asked.append((members, place))
        numbers = real(found, env, 1, 0)
        if members == 1:
            first = float(np.nextafter(np.float32(numbers.final[0]), np.float32(0)))
            return evaluate.Numbers(numbers.point, (first, *numbers.final[1:]), numbers.score)
        return numbers

    monkeypatch.setattr(evaluate, "_again", again)
    assert cli.run(["evaluate", str(run)]) == 0
    assert asked == [(1, 0), (3, 1)]
    assert "in a population of 3 as then (alone, 1 of 5 differ)" in capsys.readouterr().out


def test_another_number_in_the_record_is_found(run: Path, capsys):
    def edit(record):
        record["result"]["final_returns"][2] += 0.5

    change(run, edit)
    assert cli.run(["evaluate", str(run)]) == 1
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert "differs from its record: 1 of 5 returns, by up to 0.5;" in line
    assert "different here: neither device nor versions" in line or "commit: " in line


def test_a_changed_policy_and_another_machine_are_named(run: Path, capsys):
    def edit(record):
        record["provenance"]["system"]["device_kind"] = "abacus"
        record["provenance"]["packages"]["jax"] = "0.1"

    change(run, edit)
    found = policy.load(run)
    found.params["mlp"]["output"]["bias"] += 0.25
    policy.save(run / "policy.npz", found.params, found.masks, found.description)
    assert cli.run(["evaluate", str(run / "policy.npz")]) == 1
    line = capsys.readouterr().out
    for words in ("policy.npz: changed after it was recorded", "device_kind: abacus -> cpu", "jax: 0.1 -> "):
        assert words in line


def test_a_diverged_run_agrees_though_it_has_no_score(run: Path, capsys):
    """Networks full of NaN act the same again: what they earn is recorded, but is no score."""
    found = policy.load(run)
    nan = {
        "mlp": {
            name: {k: v * np.nan for k, v in layer.items()} for name, layer in found.params["mlp"].items()
        }
    }
    policy.save(run / "policy.npz", nan, found.masks, found.description)
    earned = evaluate.reproduce(saved.find(run)).found.final
    lines = (run / "curve.csv").read_text().splitlines()
    cells = lines[-1].split(",")
    (run / "curve.csv").write_text("\n".join([*lines[:-1], ",".join([*cells[:2], "", *cells[3:]])]) + "\n")
    nothing = {"status": "diverged", "score": None, "final_score": None, "auc": None}
    change(run, lambda record: record["result"].update(**nothing, final_returns=list(earned)))
    assert cli.run(["evaluate", str(run)]) == 0
    assert "final score none, last curve point none" in capsys.readouterr().out


@pytest.mark.slow
def test_fresh_episodes_are_named_by_their_seed(run: Path, capsys, monkeypatch):
    found = saved.find(run)
    once = evaluate.fresh(found, episodes=12, seed=3)
    assert once.shape == (12,) and len(set(once.tolist())) == 12
    assert not np.array_equal(once, evaluate.fresh(found, episodes=12, seed=4))
    monkeypatch.setattr(evaluate, "AT_ONCE", 8)
    assert len(set(evaluate.fresh(found, episodes=12, seed=3).tolist())) == 12
    monkeypatch.undo()
    assert not set(once.tolist()) & set(found.record["result"]["final_returns"])
    assert cli.run(["evaluate", str(run), "--episodes", "12", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert f"mean {once.mean():.6g}"[:10] in said and f"worst {once.min():.6g}" in said
    assert "95 % interval over episodes" in said


def test_a_policy_without_its_record_is_evaluated_afresh(run: Path, tmp_path: Path, capsys):
    shutil.copyfile(run / "policy.npz", tmp_path / "mine.npz")
    assert cli.run(["evaluate", str(tmp_path / "mine.npz"), "--episodes", "1"]) == 0
    assert "mine.npz on gymnax:Pendulum-v1: 1 fresh episode, seed 0" in capsys.readouterr().out
    with pytest.raises(UserError, match="no record.json beside"):
        evaluate.reproduce(saved.find(tmp_path / "mine.npz"))


def test_load_takes_a_file_a_run_or_a_folder_with_one_run(original: Path, run: Path, tmp_path: Path):
    obs = np.array([1.0, 0.0, 0.1])
    expected = sparserl_jax.load(run / "policy.npz")(obs)
    assert expected.shape == (1,) and abs(float(expected[0])) <= 2.0
    assert np.array_equal(sparserl_jax.load(str(run))(obs), expected)
    one = tmp_path / "suite/records/env"
    shutil.copytree(run, one / RUN)
    shutil.copytree(run, one / f".{RUN}.part")
    assert np.array_equal(sparserl_jax.load(tmp_path / "suite")(obs), expected)
    with pytest.raises(UserError, match="holds 3 runs; give one of them"):
        sparserl_jax.load(original.parents[1])
    with pytest.raises(UserError, match="length 3, not 4; it was trained on gymnax:Pendulum-v1"):
        sparserl_jax.load(run)(np.zeros(4))


def _truncate(run: Path) -> None:
    data = (run / "policy.npz").read_bytes()
    (run / "policy.npz").write_bytes(data[: len(data) // 2])


def _flip(run: Path) -> None:
    data = bytearray((run / "policy.npz").read_bytes())
    data[len(data) // 2] ^= 255
    (run / "policy.npz").write_bytes(bytes(data))


def _lose_a_tensor(run: Path) -> None:
    with np.load(run / "policy.npz") as file:
        kept = {name: file[name] for name in file.files if name != "weights/mlp/output/bias"}
    np.savez(run / "policy.npz", **kept)


def _claim(shape: tuple[int, ...]) -> Callable[[Path], None]:
    """An array whose header claims a shape that no memory holds."""

    def harm(run: Path) -> None:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(run / "policy.npz", "a") as file:
            file.writestr("more.npy", head.getvalue())

    return harm


def _diverge(run: Path) -> None:
    found = policy.load(run)
    found.params["mlp"]["output"]["bias"][:] = np.nan
    policy.save(run / "policy.npz", found.params, found.masks, found.description)


def _another_environment(run: Path) -> None:
    found = policy.load(run)
    description = {**found.description, "env": "somewhere"}
    policy.save(run / "policy.npz", found.params, found.masks, description)


@pytest.mark.parametrize(
    ("damage", "line", "sentence"),
    [
        (None, "evaluate nowhere", "there is no file or folder 'nowhere'"),
        (None, "evaluate {run} --env brax:hopper", "with observations of length 3, but those of brax:hopper"),
        (None, "evaluate {run} --env gymnax:Pendulum-v2", "did you mean 'gymnax:Pendulum-v1'?"),
        (None, "evaluate {run} --episodes 0", "at least 1 episode"),
        (None, "evaluate {run} --seed -1", "a seed of 0 or more"),
        (None, "evaluate {run}/masks.npz", "'masks.npz' holds no whole policy"),
        (None, "evaluate {run}/curve.csv", "'curve.csv' is not a policy file"),
        (None, "inspect {run}/..", "holds no policy.npz; give a run's folder"),
        (_truncate, "evaluate {run}", "'policy.npz' is not a policy file"),
        (_flip, "inspect {run}", "'policy.npz' is not a policy file"),
        (_lose_a_tensor, "inspect {run}", "'policy.npz' holds no whole policy"),
        (_claim((10**13,)), "inspect {run}", "'policy.npz' is not a policy file of this package"),
        (_claim((10**30,)), "inspect {run}", "'policy.npz' is not a policy file of this package"),
        (_diverge, "evaluate {run} --episodes 2", f"{RUN}' has weights that are no numbers"),
        (_another_environment, "evaluate {run}", "was trained on 'somewhere', which cannot be made here"),
        (lambda run: (run / "record.json").write_text("{"), "evaluate {run}", "is not valid JSON"),
        (lambda run: (run / "record.json").write_text("{}"), "inspect {run}", "not a record of this version"),
        (lambda run: (run / "curve.csv").write_text("a,b\n"), "evaluate {run}", "curve.csv' cannot be read"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(damage, line, sentence, run: Path, capsys, monkeypatch):
    def compile_nothing(*arguments):
        raise AssertionError("compiled before the mistake was told")

    monkeypatch.setattr(evaluate, "_evaluation", compile_nothing)
    if damage is not None:
        damage(run)
    assert cli.run(line.format(run=run).split()) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and sentence in error[0]
