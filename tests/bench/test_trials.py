"""What comes of a tuning: the chosen trials, what the table says they are not, and suites of tuned arms."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparserl_jax.bench import check, records, statistics, summary, trials, tuning
from sparserl_jax.bench import run as runs
from sparserl_jax.errors import UserError
from tests.bench import fake
from tests.bench.tuned import BEST, TUNE, better, parse, plan_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "x"
    plan = plan_of(parse())
    runs.run(plan, folder, fake.quiet(), execute=fake.Execute(plan, better))
    return folder


# ---- what comes of it ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_trial_of_every_arm_is_chosen(finished):
    found = trials.outcome(finished)
    assert {trial.arm: trial.values for trial in found.trials if trial.chosen} == BEST
    assert len(found.trials) == 8 and found.of_z
    first = found.trials[0]
    z = np.stack([row.z for row in first.rows], axis=1)
    assert z.shape == (3, 2)
    ordered = np.sort(z.ravel())  # six values: one dropped at each end
    assert float(first.score.value) == pytest.approx(ordered[1:5].mean())
    assert float(first.score.lower) <= float(first.score.value) <= float(first.score.upper)


@pytest.mark.slow
def test_an_estimate_of_the_bias_below_zero_is_noise_and_shown_as_none(finished):
    found = trials.outcome(finished)
    noisy = dataclasses.replace(found, optimism={"dense": (-0.004,), "rlx2": (0.02,)})
    assert "dense 0; rlx2 0.02." in trials.notes(noisy)[0]


@pytest.mark.slow
def test_a_tie_goes_to_the_earlier_trial(tmp_path):
    plan = plan_of(parse())
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))  # values have no influence
    chosen = [trial.name for trial in trials.outcome(tmp_path / "x").trials if trial.chosen]
    assert chosen == ["dense_t0", "rlx2_t0"]


def test_a_search_on_one_seed_has_no_intervals(tmp_path: Path):
    plan = plan_of(parse(tune={**TUNE, "seeds": 1}))
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan, better))
    found = trials.outcome(tmp_path / "x")
    _, cells = trials.table(found)
    assert len(cells) == 8 and not any("[" in cell for line in cells for cell in line)
    trials.write(tmp_path / "x")
    numbers = list(csv.DictReader(io.StringIO((tmp_path / "x/tune.csv").read_text())))
    assert {(line["lower"], line["upper"]) for line in numbers} == {("", "")}
    assert all(float(line["score"]) for line in numbers)


def test_the_table_says_what_it_is_not(finished):
    text = (trials.write(finished)[0]).read_text()
    assert "TUNING, NOT A RESULT" in text and "biased upward" in text
    assert "4 trials for every arm, each on 3 seeds (1000 to 1002)" in text
    rows = [line for line in text.splitlines() if line.startswith(("| dense |", "| rlx2 |"))]
    assert len(rows) == 8 and sum("<-" in row for row in rows) == 2
    assert all(row.count("<-") in (0, 2) for row in rows), "chosen for both environments"
    assert "learning_rate 0.0003, tau 0.02" in next(row for row in rows if "<-" in row)
    lines = (finished / "tune.csv").read_text().splitlines()
    assert len(lines) == 1 + 8 * 3 * 2 and lines[0].startswith("arm,trial,learning_rate,tau,environment")


def test_a_tuning_is_recorded_checked_and_never_published(finished):
    assert check.check(finished) == []
    settings, found = records.load_all(finished)
    assert settings["suite"]["result"] is False and len(found) == 48
    record = next(r for r in found if r["result"]["arm"] == "rlx2_t2")
    config = record["provenance"]["config"]
    assert (
        config["training"]["agent"]["learning_rate"] == 1e-3 and config["training"]["agent"]["tau"] == 0.005
    )
    assert "overrides" not in config and record["result"]["seed"] >= 1000


@pytest.mark.slow
def test_a_tuning_goes_on_where_it_stopped_and_an_unfinished_one_chooses_nothing(tmp_path):
    plan, folder = plan_of(parse()), tmp_path / "x"

    def half(program, **options):
        if program.name.startswith("brax"):
            raise runs.Unfinished(3, "time budget")
        return fake.Execute(plan, better)(program, **options)

    with pytest.raises(runs.Unfinished):
        runs.run(plan, folder, fake.quiet(), execute=half)
    with pytest.raises(UserError, match="lacks 24 of 48 runs; run `sparserl tune` again"):
        trials.outcome(folder)
    again = fake.Execute(plan, better)
    runs.run(plan, folder, fake.quiet(), execute=again)
    assert all(name.startswith("brax") for name in again.programs) and trials.outcome(folder).trials


@pytest.mark.slow
def test_a_folder_of_a_suite_is_no_tuning(tmp_path):
    fake.finished(tmp_path / "x", fake.make_plan(seeds=2, sparsities=[0.8]))
    assert not trials.is_tuning(tmp_path / "x")
    with pytest.raises(UserError, match="is not a tuning"):
        trials.outcome(tmp_path / "x")


def test_the_best_of_equals_looks_better_than_it_is():
    """Eight trials of equal worth: the best of them looks better than nothing, which it is."""
    several = np.random.default_rng(0).normal(size=(12, 8, 6, 2))
    estimates = [trials.optimism(equal, np.random.default_rng(1)) for equal in several]
    looks = np.mean([max(float(statistics.iqm(one)) for one in equal) for equal in several])
    assert 0.5 * looks < np.mean(estimates) < looks
    equal = several[0]
    assert abs(trials.optimism(equal[:1], np.random.default_rng(1))) < 0.03
    apart = equal + 100 * np.arange(8)[:, None, None]
    assert abs(trials.optimism(apart, np.random.default_rng(1))) < 0.03
    assert trials.optimism(equal[:, :1], np.random.default_rng(1)) == 0


# ---- tuned arms in a suite -----------------------------------------------------------------------------------------


def claims(**changes: Any) -> dict[str, Any]:
    """`[tuned.<arm>]` of two arms and the A/A arm, with changes by arm."""
    entry = {"trials": 4, "seeds": [1000, 1001, 1002], "space_sha256": "0" * 64, "overrides": {"tau": 0.02}}
    return {name: {**entry, **changes.get(name, {})} for name in ("dense", "dense_aa", "rlx2")}


ARMS = [
    {"recipe": "dense"},
    {"recipe": "dense", "name": "dense_aa", "role": "aa", "seeds_from": 100},
    {"recipe": "placebo", "sparsities": [0.95]},
    {"recipe": "rlx2"},
]


@pytest.mark.slow
def test_the_chosen_values_can_be_pasted_into_the_suite(finished, tmp_path):
    text = (trials.write(finished)[2]).read_text()
    suite = parse(arms=ARMS, **tomllib.loads(text))
    arms = {arm.name: arm for arm in suite.arms}
    for name, source in (("dense", "dense"), ("dense_aa", "dense"), ("rlx2", "rlx2")):
        assert dict(arms[name].overrides) == BEST[source]
        assert arms[name].tuning.trials == 4 and arms[name].tuning.seeds == (1000, 1001, 1002)
        assert arms[name].tuning.space_sha256 == tuning.space_sha256(suite.tune.grid)
        assert arms[name].tuning.at_steps == suite.steps
    assert arms["placebo"].overrides == () and arms["placebo"].tuning is None

    plan = fake.make_plan(suite)
    assert len(plan.programs) == 4, "tuned arms share the Programs of untuned ones"
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))
    assert check.check(tmp_path / "x") == []
    found = {r["result"]["arm"]: r["provenance"] for r in records.load_all(tmp_path / "x")[1]}
    assert found["rlx2"]["tuning"] == {
        "n_trials": 4,
        "seeds": [1000, 1001, 1002],
        "space_sha256": tuning.space_sha256(suite.tune.grid),
    }
    assert "tuning" not in found["placebo"]
    assert found["rlx2"]["config"]["training"]["agent"]["tau"] == 0.005
    assert found["dense"]["config_hash"] == found["dense_aa"]["config_hash"]
    caption = "\n".join(summary.summarise(tmp_path / "x").caption)
    assert "Every method and dense were tuned alike: 4 trials x 3 seeds each." in caption
    assert "rlx2: learning_rate 0.001, tau 0.005" in caption
    assert "Trials were judged on the episodes on which all runs are evaluated" in caption
    assert "ANOTHER LENGTH" not in caption


def test_values_set_by_hand_are_named_and_need_no_claim():
    suite = parse(arms=[*ARMS[:1], {"recipe": "rlx2", "overrides": {"tau": 0.02, "drop_fraction": 0.3}}])
    assert suite.arms[1].overrides == (("drop_fraction", 0.3), ("tau", 0.02))
    assert suite.plain()["arms"][1]["overrides"] == {"drop_fraction": 0.3, "tau": 0.02}
    assert suite.runs()[-1][2].effective.schedule.drop_fraction == 0.3
    assert json.loads(json.dumps(suite.plain())) == suite.plain()


def test_one_recipe_with_two_values_are_two_arms_even_on_the_same_seeds():
    arms = [*ARMS[:1], {"recipe": "dense", "name": "slow", "role": "method", "overrides": {"tau": 0.001}}]
    plan = fake.make_plan(parse(arms=arms, tune=None))
    assert len({planned.run.key_name for planned in plan.runs}) == len(plan.runs) / 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tuned": {"rlx": {}}}, "did you mean 'rlx2'"),
        ({"tuned": {"rlx2": 3}}, "must be a table of settings"),
        ({"tuned": claims(rlx2={"trial": 4})}, "did you mean 'trials'"),
        ({"tuned": claims(rlx2={"trials": 0})}, "at least one trial"),
        ({"tuned": claims(rlx2={"overrides": {"hidden": 3}})}, "is the same for all members"),
        ({"tuned": claims(rlx2={"overrides": {"tau": 0}})}, "must be a number in (0, 1]"),
        (
            {"tuned": claims(rlx2={"seeds": [4]})},
            "'rlx2' was tuned on seeds that arm 'dense' is evaluated on",
        ),
        ({"tuned": claims(rlx2={"seeds": [103]})}, "that arm 'dense_aa' is evaluated on (100 to 105)"),
        ({"tuned": claims(rlx2={"trials": 8})}, "dense: 4 trials x 3 seeds, rlx2: 8 trials x 3 seeds"),
        ({"tuned": claims(rlx2={"seeds": [1000]})}, "were not tuned equally"),
        ({"tuned": {"rlx2": claims()["rlx2"]}}, "not tuned equally (dense: none, rlx2: 4 trials x 3 seeds)"),
        ({"tuned": claims(dense_aa={"overrides": {}})}, "'dense_aa' shows what chance alone does"),
        (
            {"tuned": claims(), "arms": [*ARMS[:3], {**ARMS[3], "overrides": {"tau": 0.1}}]},
            "has 'overrides' of its own already",
        ),
        ({"arms": [{**ARMS[0], "overrides": {"taw": 0.1}}]}, "did you mean 'tau'"),
        ({"arms": [{**ARMS[0], "overrides": 3}]}, "must be a table of settings"),
    ],
)
def test_a_mistake_in_what_arms_claim_gives_one_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        parse(**{"arms": ARMS, "tune": None, **changes})
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_unequal_tuning_must_be_admitted_and_is_captioned(tmp_path):
    unequal = {"arms": ARMS, "tuned": claims(rlx2={"trials": 8})}
    suite = parse(**unequal, unequal_tuning=True)
    plan = fake.make_plan(suite)
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))
    caption = "\n".join(summary.summarise(tmp_path / "x").caption)
    assert "UNEQUAL TUNING: dense: 4 trials x 3 seeds, rlx2: 8 trials x 3 seeds." in caption
