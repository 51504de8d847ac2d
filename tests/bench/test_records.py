"""Records and their check: what is written is what happened, and any later change shows."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from sparserl_jax.bench import check, policy, records, schema, single
from sparserl_jax.errors import UserError
from tests.bench import fake
from tests.bench.forge import change, rehash

RLX2 = "gymnax-Pendulum-v1/rlx2-s0800-seed001"


def test_the_score_is_the_mean_of_the_last_tenth_of_the_points_rounded_up():
    assert [records.score_points(points) for points in (1, 9, 10, 11, 20, 21)] == [1, 1, 1, 2, 2, 3]
    found = records.scores([*range(9), 40.0, 60.0], [1.0, 2.0])
    assert (found["score"], found["score_points"], found["final_score"]) == (50.0, 2, 1.5)
    assert found["auc"] == pytest.approx((36 + 100) / 11)  # the mean of the curve


def test_a_sound_folder_passes(folder: Path):
    assert check.check(folder) == []


def test_the_schema_is_a_valid_schema_and_refuses_unknown_fields(folder: Path):
    Draft202012Validator.check_schema(schema.record_schema())
    record = records.read(folder / "records" / RLX2)
    assert schema.errors(record) == []
    record["result"]["bonus"] = 1
    record["result"]["sparsity"] = 1.0
    found = "; ".join(schema.errors(record))
    assert "bonus" in found and "record.result.sparsity" in found
    del record["result"]["bonus"]
    record["result"]["promise"] = "none"  # the knob is a coefficient
    assert schema.errors(record) == []


def test_a_record_survives_the_round_trip_and_holds_no_clock_in_its_result(folder: Path):
    record = records.read(folder / "records" / RLX2)
    assert json.loads(records.canonical(record)) == record
    curve = records.read_curve(folder / "records" / RLX2 / "curve.csv")
    assert not [name for name in curve if "second" in name or "time" in name]
    assert curve["critic_loss"][0] is None and curve["env_step"][-1] == 4000
    assert record["result"]["score_points"] == 2
    assert record["result"]["score"] == pytest.approx(np.mean(curve["return"][-2:]))
    assert record["result"]["final_score"] == pytest.approx(np.mean(record["result"]["final_returns"]))
    assert record["measured"]["steps_per_second"] == pytest.approx(2 * 3600 / 20)
    assert record["measured"]["evaluation_share"] == pytest.approx(4 / 25)


def test_the_same_run_gives_the_same_result_and_the_same_bytes(folder: Path, tmp_path: Path):
    fake.finished(tmp_path / "again", fake.make_plan(**fake.SMALL))
    for name in ("curve.csv", "policy.npz", "masks.npz"):
        assert (tmp_path / "again/records" / RLX2 / name).read_bytes() == (
            folder / "records" / RLX2 / name
        ).read_bytes()
    again, once = (records.read(root / "records" / RLX2) for root in (tmp_path / "again", folder))
    assert again["result"] == once["result"]


def test_no_host_name_and_no_path_enters_a_record(folder: Path):
    text = (folder / "records" / RLX2 / "record.json").read_text()
    assert str(Path.home()) not in text and str(folder) not in text and str(Path.cwd()) not in text


def test_an_edited_curve_is_found_even_with_a_new_hash(folder: Path):
    path = folder / "records" / RLX2 / "curve.csv"
    lines = path.read_text().splitlines()
    cells = lines[-1].split(",")
    path.write_text("\n".join([*lines[:-1], ",".join([*cells[:2], "0.0", *cells[3:]])]) + "\n")
    assert any("curve.csv was changed" in problem for problem in check.check(folder))
    rehash(folder, RLX2)
    found = check.check(folder)
    assert not any("sha256" in problem for problem in found)
    assert any("score is recorded as" in problem for problem in found)


def test_a_shortened_curve_is_found(folder: Path):
    path = folder / "records" / RLX2 / "curve.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    rehash(folder, RLX2)
    assert any("does not have 20 points" in problem for problem in check.check(folder))


def test_a_better_score_is_found(folder: Path):
    change(folder, RLX2, lambda record: record["result"].update(score=-1.0))
    (problem,) = check.check(folder)
    assert problem.startswith(f"{RLX2}: score is recorded as -1.0 but its files give ")
    change(folder, RLX2, lambda record: record["result"].update(final_score=-1.0))
    assert any("final_score is recorded as -1.0" in problem for problem in check.check(folder))


def test_a_dropped_run_is_found(folder: Path):
    shutil.rmtree(folder / "records" / RLX2)
    assert check.check(folder) == [f"{RLX2}: the record is missing"]


def test_a_doubled_seed_is_found(folder: Path):
    other = RLX2.replace("001", "000")
    change(folder, RLX2, lambda record: record["result"].update(seed=0))
    found = check.check(folder)
    assert any("holds seed 0, which its name denies" in problem for problem in found)
    assert any(f"{other} and {RLX2}: the same arm and seed 0 twice" in problem for problem in found)


def test_one_run_sold_as_two_is_found(folder: Path):
    other = folder / "records" / RLX2.replace("001", "000")
    for name in ("curve.csv", "policy.npz", "masks.npz"):
        shutil.copyfile(other / name, folder / "records" / RLX2 / name)
    donor = records.read(other)["result"]

    def edit(record):
        for key in ("score", "final_score", "auc", "final_returns"):
            record["result"][key] = donor[key]

    change(folder, RLX2, edit)
    rehash(folder, RLX2)
    assert any("the very same curve" in problem for problem in check.check(folder))


def test_a_wrong_count_of_weights_is_found(folder: Path):
    def edit(record):
        record["result"]["tensors"]["actor"][0]["nnz"] -= 3

    change(folder, RLX2, edit)
    assert any("weights recorded" in problem for problem in check.check(folder))


def test_a_mask_with_more_weights_than_declared_is_found(folder: Path):
    here = folder / "records" / RLX2
    masks = policy.load_masks(here / "masks.npz")
    kernel = masks["critic"]["mlp"]["hidden_1"]["kernel"]
    kernel[1, :2, :] = True
    policy.save_masks(here / "masks.npz", masks)
    count = int(kernel[1].sum())

    def edit(record):
        tensor = record["result"]["tensors"]["critic"][3]
        assert tensor["name"] == "hidden_1[1]"
        tensor["nnz"] = count

    change(folder, RLX2, edit)
    rehash(folder, RLX2)
    assert any("weights declared" in problem and "hidden_1[1]" in problem for problem in check.check(folder))


def test_weights_outside_the_mask_are_found(folder: Path):
    path = folder / "records" / RLX2 / "policy.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["weights/mlp/hidden_1/kernel"][:] = 1.0
    np.savez(path, **arrays)
    rehash(folder, RLX2)
    assert any("weights outside its mask" in problem for problem in check.check(folder))


def test_unequal_budgets_are_found(folder: Path):
    change(folder, RLX2, lambda record: record["result"]["budget"].update(batch_size=999))
    assert any("not all runs had the same budget" in problem for problem in check.check(folder))


def test_a_comparison_without_a_dense_arm_is_found(tmp_path: Path):
    fake.finished(tmp_path / "x", fake.make_plan(**{**fake.SMALL, "arms": [{"recipe": "rlx2"}]}))
    assert check.check(tmp_path / "x") == ["gymnax:Pendulum-v1: there is no dense arm to compare with"]


def test_a_single_training_needs_none(tmp_path: Path):
    suite = single.suite_of("gymnax:Pendulum-v1", steps=4000, seeds=2)
    fake.finished(tmp_path / "x", fake.make_plan(suite))
    assert check.check(tmp_path / "x") == []


def test_not_a_number_is_not_json(folder: Path):
    change(folder, RLX2, lambda record: record["result"].update(score=math.nan))
    with pytest.raises(UserError, match="not valid JSON"):
        check.check(folder)


def test_a_diverged_run_is_recorded_as_such_and_sound(tmp_path: Path):
    def diverge(outcome):
        curve = {**outcome.curve, "return": np.full(20, np.nan, np.float32)}
        return dataclasses.replace(
            outcome, status="diverged", curve=curve, final_returns=np.full(10, np.nan, np.float32)
        )

    fake.finished(tmp_path / "x", fake.make_plan(**fake.SMALL), change=diverge)
    result = records.read(tmp_path / "x/records" / RLX2)["result"]
    assert (result["status"], result["score"], result["final_score"]) == ("diverged", None, None)
    assert check.check(tmp_path / "x") == []


def test_the_policy_file_gives_back_the_deployed_function_without_pickle(folder: Path):
    import jax.numpy as jnp

    found = policy.load(folder / "records" / RLX2 / "policy.npz")
    record = records.read(folder / "records" / RLX2)
    assert found.description["config_hash"] == record["provenance"]["config_hash"]
    assert found.nnz == record["result"]["costs"]["actor_parameters"]
    obs = jnp.array([[0.1, -0.2, 0.3], [1.0, 0.0, -1.0]])
    hidden = obs
    for name in ("hidden_0", "hidden_1"):
        layer = found.params["mlp"][name]
        hidden = jnp.maximum(hidden @ layer["kernel"] + layer["bias"], 0)
    last = found.params["mlp"]["output"]
    expected = 2.0 * jnp.tanh(hidden @ last["kernel"] + last["bias"])
    np.testing.assert_allclose(found(obs), expected, rtol=1e-5, atol=1e-6)


def test_other_files_are_not_policies(tmp_path: Path):
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a policy file"):
        policy.load(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", description=np.array(json.dumps({"format": "other"})))
    with pytest.raises(UserError, match="format 'other'"):
        policy.load(tmp_path / "y.npz")
