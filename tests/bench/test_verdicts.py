"""Comparisons of rows: what they are relative to, what their verdicts say in words, and what is said beside them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from sparserl_jax.bench import caption, remarks, statistics, verdicts
from sparserl_jax.bench.rows import Block, Row

LEVELS: dict[str, float | None] = {"random": 0.0, "failed": 0.5, "learned": 0.9, "reference": 1.0}
DENSE_COSTS = {"actor_parameters_dense": 100, "actor_blob_bytes_dense": 400, "inference_flops_dense": 200,
               "training_flops_dense": 1000}  # fmt: skip


def row(arm: str, z: list[float], final: list[float] | None = None, **changes: Any) -> Row:
    """A row with these scores and, if they differ, these of the last policies; its returns are its z."""
    x, last = np.array(z), np.array(z if final is None else final)
    value, ended = (statistics.bootstrap(statistics.iqm, one[:, None]) for one in (x, last))
    usual = Row(
        arm=arm, role="method", method="static", sparsity=0.5, critic_sparsity=0.5, target=1,
        seeds=tuple(range(len(z))), diverged=0, returns=x, z=x, value=value, z_value=value, worst=x.min(), p10=x.min(),
        failure_rate=float(np.mean(x < 0.5)), final=ended, final_z=last, agent="one", dense_costs=DENSE_COSTS,
        compression_parameters=4.0, compression_bytes=3.0, inference_ratio=0.25, training_ratio=0.5, executed_ratio=1.0,
    )  # fmt: skip
    return dataclasses.replace(usual, **changes)


def block(*rows: Row) -> Block:
    placebo = row("placebo", [0.1] * 20, role="placebo")
    return verdicts.block("task", [*rows, placebo], LEVELS)


def dense(z: list[float], final: list[float] | None = None) -> Row:
    return row("dense", z, final, role="dense", method="dense", sparsity=0.0, critic_sparsity=0.0)


def named(found: Block, arm: str) -> Row:
    return next(row for row in found.rows if row.arm == arm)


def test_the_same_scores_have_the_same_numbers_under_every_name():
    z = [0.9, 0.95, 0.97, 1.0, 0.7]
    found = block(dense([1.0, 0.98, 0.96, 1.0, 0.99]), row("set", z), row("rigl", z[::-1], sparsity=0.9))
    one, two = named(found, "set"), named(found, "rigl")
    assert one.value == two.value and one.comparison == two.comparison and one.improvement == two.improvement


def test_failures_that_the_interquartile_mean_leaves_out_are_in_the_verdict():
    whole = [1.0] * 20
    found = block(dense(whole), row("lossy", [1.0] * 18 + [0.0, 0.2]), row("whole", whole))
    assert named(found, "lossy").verdict == "matched, but 2 of 20 failed"
    assert named(found, "lossy").comparison.verdict == "matched"
    assert named(found, "whole").verdict == "matched"
    # Not where dense fails as often, and the shares differ in their last bit.
    share = row("lossy", whole, failure_rate=0.1 + 0.2)
    found = block(dataclasses.replace(dense(whole), failure_rate=0.3), share)
    assert named(found, "lossy").verdict == "matched"
    found = block(dense([1.0] * 18 + [0.0, 0.2]), row("lossy", [1.0] * 18 + [0.0, 0.2]))
    assert named(found, "lossy").verdict == "matched"


def test_an_estimate_of_many_seeds_is_told_as_many():
    found = block(dense([1.0] * 5), row("lossy", [1.0] * 4 + [0.0]))
    assert named(found, "lossy").comparison.seeds > verdicts.MOST_SEEDS
    assert named(found, "lossy").verdict == "undecided (over 100 seeds)"


def test_costs_are_relative_to_dense_under_the_algorithm_of_the_reference():
    """Another algorithm's dense network costs five times as much to train and has half the parameters."""
    costs = {"actor_parameters_dense": 50, "actor_blob_bytes_dense": 200, "inference_flops_dense": 100,
             "training_flops_dense": 5000}  # fmt: skip
    z = [1.0] * 5
    found = block(dense(z), row("other", z, agent="two", dense_costs=costs), row("same", z))
    other, same = named(found, "other"), named(found, "same")
    assert (same.compression_parameters, same.training_ratio) == (4.0, 0.5)
    assert (other.compression_parameters, other.compression_bytes) == (8.0, 6.0)
    assert (other.inference_ratio, other.training_ratio, other.executed_ratio) == (0.125, 2.5, 5.0)


def test_a_larger_network_of_the_same_algorithm_is_held_against_the_reference():
    """Four times the parameters of dense, half of them kept: twice as large, and tiny of the small one is no match."""
    costs = {name: 4 * cost for name, cost in DENSE_COSTS.items()}
    z = [1.0] * 5
    large = {"sparsity": 0.5, "compression_parameters": 2.0, "dense_costs": costs}
    found = block(dense(z), row("tiny", z, method="tiny", sparsity=0.5), row("large", z, **large))
    own = named(found, "large")
    assert (own.compression_parameters, own.training_ratio, own.inference_ratio) == (0.5, 2.0, 1.0)
    assert verdicts.opponent(own, found.rows) is None
    assert verdicts.opponent(row("small", z, sparsity=0.5), found.rows).arm == "tiny"


def test_verdicts_that_the_last_policies_would_change_are_told():
    one = [1.0] * 5
    found = block(dense(one), row("falls", one, [0.5] * 5), row("stays", one))
    line = remarks.by_last_policies(found) or ""
    assert "falls 0.5 worse, not matched" in line and "stays" not in line and "learned" not in line
    assert "dense is below the learned level (0.8)" in (
        remarks.by_last_policies(block(dense(one, [0.8] * 5))) or ""
    )
    assert "the same verdicts" in (remarks.by_last_policies(block(dense(one), row("stays", one))) or "")


@pytest.mark.parametrize(("z", "told"), [([1.0] * 5, False), ([0.2, 0.95, 1.0, 1.0, 1.0], True)])
def test_a_level_that_dense_reached_by_its_point_estimate_alone_is_told(z: list[float], told: bool):
    found = block(dense(z))
    assert found.reason is None
    assert (remarks.barely_learned(found) is not None) == told


def test_nothing_is_said_of_verdicts_where_there_are_none():
    found = block(dense([0.5] * 5), row("set", [0.5] * 5))
    assert found.reason is not None
    assert remarks.by_last_policies(found) is None and remarks.barely_learned(found) is None


def test_one_seed_per_arm_is_no_reason_to_call_a_task_not_learned():
    lone = row("placebo", [0.0], role="placebo")
    found = verdicts.block("task", [dense([1.0]), row("set", [1.0]), lone], LEVELS)
    assert found.reason == "no verdicts: a single seed has no interval"
    pooled = verdicts.spoken(verdicts.judge([dense([1.0]), row("set", [0.5])]), None)
    assert pooled[1].verdict == "undecided (a single seed)"


def test_seeds_that_would_decide_are_those_of_the_row():
    """Both arms would grow by one factor."""
    z = [1.0, 0.9, 1.1, 0.8, 1.2]
    few = named(block(dense(z), row("set", [1.0, 0.9, 1.1, 0.8, 1.15])), "set").comparison
    many = named(block(dense(z), row("set", [1.0, 0.9, 1.1, 0.8, 1.15] * 4)), "set").comparison
    assert few.verdict == many.verdict == "undecided"
    smaller = statistics.compare(
        np.array([[1.0], [0.9], [1.1], [0.8], [1.15]] * 4), np.array(z)[:, None]
    ).seeds
    assert many.seeds == 4 * smaller
    assert (
        few.seeds
        == statistics.compare(np.array([[1.0], [0.9], [1.1], [0.8], [1.15]]), np.array(z)[:, None]).seeds
    )


def test_knobs_that_have_no_row_are_not_said_to_be_matched():
    whole = [1.0] * 20
    found = block(dense(whole), row("set", whole, sparsity=0.5), row("set", whole, sparsity=0.9))
    told = "Largest sparsity matched, all smaller ones matched too: set 0.9"
    assert f"{told}. By" in remarks.largest_matched(
        dataclasses.replace(found, swept={"set": (0.5, 0.9, 0.95)})
    )
    swept = dataclasses.replace(found, swept={"set": (0.5, 0.8, 0.9)})
    assert f"{told} (without 0.8, which has no row). By" in remarks.largest_matched(swept)


def test_a_sparsity_that_two_coefficients_share_is_matched_if_both_are():
    assert statistics.largest_matched([0.5, 0.8, 0.8], ["matched", "matched", "worse"]) == 0.5
    assert statistics.largest_matched([0.5, 0.8, 0.8], ["matched", "matched", "matched"]) == 0.8


def test_what_few_seeds_and_no_scatter_are_worth_is_told():
    whole, spread = [1.0] * 5, [0.99, 1.0, 1.0, 1.01, 1.02]
    (said,) = caption._number_of_verdicts([block(dense(whole), row("flat", whole), row("set", spread))])
    assert said.startswith("3 comparisons were judged")  # the placebo's, too
    assert "With fewer than 10 seeds, worse and matched tell of these runs" in said
    assert said.endswith(
        "In 1 matched row the interval has no width: (almost) all runs reached the same return, which shows nothing of "
        "rare failures."
    )
    (said,) = caption._number_of_verdicts([block(dense([0.99, 1.01] * 10), row("set", [0.99, 1.01] * 10))])
    assert said.endswith("nothing is corrected for their number.")
