"""The intervals and verdicts do what they promise, by simulation: coverage, A/A rows, and power to see a real loss.

The toy of coverage: four tasks, one run in five fails and stays near 0.1, the others reach 0.9 +- 0.1. Rates in
comments were measured with 10,000 tables; bounds are those figures with four standard errors of the tables drawn here.
"""

from __future__ import annotations

import numpy as np
import pytest

from sparserl_jax.bench import statistics as stats

LONG = pytest.param(4000, marks=pytest.mark.long)


def toy(generator: np.random.Generator, runs: int, tasks: int = 4) -> np.ndarray:
    """z[runs, tasks] with one failure in five."""
    shape = (runs, tasks)
    failed = generator.random(shape) < 0.2
    return np.where(failed, generator.normal(0.1, 0.05, shape), generator.normal(0.9, 0.1, shape))


def near(rate: float, expected: float, tables: int) -> bool:
    """Whether a simulated rate is within four standard errors of the measured one."""
    return abs(rate - expected) <= 4 * np.sqrt(expected * (1 - expected) / tables)


def aa_rows(tables: int, draw, resamples: int = 2000) -> dict[str, float]:
    """Verdicts on two arms of the same distribution, and how often the interval leaves out zero, as rates."""
    rates = dict.fromkeys(("matched", "undecided", "worse", "without zero"), 0)
    for _ in range(tables):
        found = stats.compare(draw(), draw(), resamples=resamples)
        rates[found.verdict] += 1
        rates["without zero"] += not found.lower <= 0 <= found.upper
    return {name: count / tables for name, count in rates.items()}


@pytest.mark.parametrize("tables", [600, LONG])
@pytest.mark.parametrize(
    ("runs", "coverage", "width"),
    [(3, 0.855, 0.296), (5, 0.915, 0.250), (10, 0.934, 0.175), (20, 0.944, 0.114)],
)
@pytest.mark.slow
def test_the_interval_of_the_iqm_covers_its_truth(runs: int, coverage: float, width: float, tables: int):
    """Nominal 95 %: three runs fall far short of it, which is why they carry no headline."""
    generator = np.random.default_rng(runs)
    truth, covered, widths = stats.iqm(toy(generator, 200_000)), 0, []
    for _ in range(tables):
        found = stats.bootstrap(stats.iqm, toy(generator, runs), resamples=2000)
        covered += found.lower <= truth <= found.upper
        widths.append(found.upper - found.lower)
    assert near(covered / tables, coverage, tables)
    assert np.mean(widths) == pytest.approx(width, rel=0.1)


@pytest.mark.parametrize("tables", [600, LONG])
@pytest.mark.parametrize(("runs", "coverage"), [(5, 0.901), (10, 0.941)])
@pytest.mark.slow
def test_the_interval_of_one_environment_covers_its_truth(runs: int, coverage: float, tables: int):
    generator = np.random.default_rng(400 + runs)
    truth, covered = stats.iqm(toy(generator, 200_000, 1)), 0
    for _ in range(tables):
        found = stats.bootstrap(stats.iqm, toy(generator, runs, 1), resamples=2000)
        covered += found.lower <= truth <= found.upper
    assert near(covered / tables, coverage, tables)


@pytest.mark.parametrize("tables", [600, LONG])
@pytest.mark.parametrize(("rate", "coverage"), [(0.3, 0.794), (0.4, 0.840)])
@pytest.mark.slow
def test_an_arm_that_fails_beside_one_that_never_does_is_covered_badly(
    rate: float, coverage: float, tables: int
):
    """At a ceiling: no run of five fails with a chance of (1 - rate)^5, and the interval then has no width."""
    generator = np.random.default_rng(500)

    def draw(runs: int) -> np.ndarray:
        failed = generator.random((runs, 1)) < rate
        return np.where(failed, generator.normal(0.1, 0.05, (runs, 1)), 1.0)

    truth = stats.iqm(draw(400_000)) - 1.0
    found = [stats.compare(draw(5), np.ones((5, 1)), resamples=2000) for _ in range(tables)]
    assert near(np.mean([one.lower <= truth <= one.upper for one in found]), coverage, tables)
    flat = [one for one in found if one.lower == one.upper]
    assert near(len(flat) / tables, (1 - rate) ** 5, tables)
    assert {one.verdict for one in flat} == {"matched"}


@pytest.mark.parametrize(("loss", "decided"), [(0.0, 0.25), (0.1, 0.69)])
@pytest.mark.long
def test_the_seeds_told_for_undecided_comparisons_are_optimistic(loss: float, decided: float):
    """Of five seeds and a scatter of 0.1, whose estimate of delta and spread is not the truth."""
    generator, told, made = np.random.default_rng(600), 0, 0
    while told < 300:
        found = stats.compare(
            generator.normal(1 - loss, 0.1, (5, 1)), generator.normal(1, 0.1, (5, 1)), resamples=2000
        )
        if found.verdict == "undecided" and found.seeds is not None and found.seeds <= 100:
            shape = (found.seeds, 1)
            again = stats.compare(generator.normal(1 - loss, 0.1, shape), generator.normal(1, 0.1, shape))
            told, made = told + 1, made + (again.verdict != "undecided")
    assert near(made / told, decided, told)


@pytest.mark.parametrize("tables", [1000, LONG])
@pytest.mark.parametrize(
    ("runs", "excluded", "worse"),
    # Measured on the toy and on one task with scatter 0.05 and 0.15; the largest of the three.
    [(5, 0.068, 0.016), (10, 0.053, 0.009), (20, 0.052, 0.005)],
)
@pytest.mark.slow
def test_the_aa_row_is_called_worse_no_more_often_than_the_nominal_rate(
    runs: int, excluded: float, worse: float, tables: int
):
    """An upper bound below -0.03 is rarer than the 2.5 % of tables in which it lies below 0."""
    generator = np.random.default_rng(100 + runs)
    for draw in (
        lambda: toy(generator, runs),
        lambda: generator.normal(1.0, 0.05, (runs, 1)),
        lambda: generator.normal(1.0, 0.15, (runs, 1)),
    ):
        rates = aa_rows(tables, draw)
        assert rates["worse"] <= 0.025
        assert rates["worse"] <= worse + 4 * np.sqrt(worse * (1 - worse) / tables)
        assert rates["without zero"] <= excluded + 4 * np.sqrt(excluded * (1 - excluded) / tables)


@pytest.mark.parametrize("tables", [200, LONG])
@pytest.mark.parametrize(("runs", "found"), [(5, 0.488), (10, 0.676), (20, 0.891)])
def test_an_arm_that_loses_a_fifth_is_found_and_never_called_matched(runs: int, found: float, tables: int):
    """True delta -0.2 with one failure in five: found in two tables of three at ten seeds, in nine of ten at twenty."""
    generator = np.random.default_rng(200 + runs)
    verdicts = [
        stats.compare(toy(generator, runs) - 0.2, toy(generator, runs), resamples=2000).verdict
        for _ in range(tables)
    ]
    assert verdicts.count("matched") <= 0.005 * tables
    assert near(verdicts.count("worse") / tables, found, tables)


@pytest.mark.parametrize("tables", [300, LONG])
@pytest.mark.parametrize(
    ("runs", "tasks", "scatter", "matched"),
    [(8, 1, 0.10, 0.072), (8, 8, 0.15, 0.216), (20, 8, 0.15, 0.408), (40, 8, 0.15, 0.648)],
)
@pytest.mark.slow
def test_equal_arms_are_called_matched_as_often_as_measured(
    runs: int, tasks: int, scatter: float, matched: float, tables: int
):
    """The price of an interval rule: equal arms need many seeds, or many environments, to be called matched."""
    generator = np.random.default_rng(300 + runs + tasks)
    rates = aa_rows(tables, lambda: generator.normal(1.0, scatter, (runs, tasks)))
    assert near(rates["matched"], matched, tables)
