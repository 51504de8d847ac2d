"""Statistics hit the published goldens, cover what they claim, and do not depend on the order of runs."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparserl_jax.bench import statistics as stats

ONE_TO_TEN = np.arange(1.0, 11.0)[:, None]
FINITE = st.floats(-100, 100, width=32)
MATRICES = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7), elements=FINITE
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_goldens_of_the_aggregates():
    assert stats.iqm(ONE_TO_TEN) == 5.5
    assert stats.optimality_gap(ONE_TO_TEN / 10) == pytest.approx(0.45)
    x = np.array([[1.0, 10, 100], [3, 30, 300]])
    assert stats.mean(x) == pytest.approx((2 + 20 + 200) / 3)
    assert stats.median(x) == 20


def test_iqm_pools_runs_and_tasks_and_drops_a_floored_quarter():
    x = np.array([[-1000.0, 1, 2], [3, 4, 9000]])  # six values: one dropped at each end
    assert stats.iqm(x) == 2.5
    assert stats.iqm([[5.0]]) == 5.0
    eight = np.array([[0.0, 0, 1, 2, 3, 4, 90, 90]]).T  # two dropped at each end
    assert stats.iqm(eight) == 2.5
    assert stats.iqm(np.vstack([eight, [[8.0]]])) == pytest.approx(
        (1 + 2 + 3 + 4 + 8) / 5
    )  # of nine, two as well
    assert stats.iqm(np.array([[0.0, 10, 20, 90]]).T) == 15


def test_golden_of_the_probability_of_improvement():
    x, y = [[1, 2], [3, 4], [5, 6]], [[0, 2], [3, 7]]
    assert stats.probability_of_improvement(x, y) == pytest.approx((0.75 + 5 / 12) / 2)
    assert stats.probability_of_improvement(x, x) == 0.5
    assert stats.probability_of_improvement(y, x) == pytest.approx(1 - (0.75 + 5 / 12) / 2)


def test_profiles_are_strict():
    x = [[0.0, 1.0], [1.0, 2.0]]
    np.testing.assert_allclose(stats.performance_profile(x, [-1, 0, 1, 2]), [1, 0.75, 0.25, 0])
    np.testing.assert_allclose(stats.performance_profile(x, [0.5, 1.5], of_means=True), [0.5, 0])


def test_normalisation_is_affine_per_task_and_diverged_runs_count_as_random():
    returns = [[-500.0, 10], [-82, np.nan], [-291, np.inf]]
    z = stats.normalise(returns, [-500, 0], [-82, 20])
    np.testing.assert_allclose(z, [[0, 0.5], [1, 0], [0.5, 0]])
    with pytest.raises(ValueError, match="above"):
        stats.normalise(returns, [0, 0], [-82, 20])


AGGREGATES = [
    stats.iqm,
    stats.mean,
    stats.median,
    stats.optimality_gap,
    lambda x: stats.performance_profile(x, [0, 1]),
]


@given(MATRICES, st.integers(0, 2**32 - 1))
def test_the_order_of_runs_never_matters(x, seed):
    shuffled = rng(seed).permuted(x, axis=0)  # every task shuffled on its own
    for aggregate in AGGREGATES:
        np.testing.assert_allclose(aggregate(shuffled), aggregate(x), atol=1e-9)
    once = stats.bootstrap(stats.iqm, x, resamples=20)
    again = stats.bootstrap(stats.iqm, shuffled, resamples=20)
    np.testing.assert_allclose(once, again, atol=1e-9)
    np.testing.assert_allclose(stats.probability_of_improvement(shuffled, x), 0.5, atol=1e-9)


@given(hnp.arrays(np.float64, (5, 4, 3), elements=FINITE))
def test_aggregates_of_a_batch_equal_single_calls(batch):
    for aggregate in AGGREGATES:
        np.testing.assert_allclose(aggregate(batch), [aggregate(x) for x in batch], atol=1e-9)


@given(MATRICES, st.floats(0.1, 10), st.floats(-10, 10))
def test_delta_scales_and_ignores_shifts(x, scale, shift):
    y = x[::-1] * 0.5
    assert stats.delta(scale * x + shift, scale * y + shift) == pytest.approx(
        scale * stats.delta(x, y), abs=1e-6
    )


def test_ratios_are_scale_free_and_only_given_where_both_are_positive():
    x, y = np.array([[90.0], [110]]), np.array([[100.0], [100]])
    assert stats.ratio(x, y) == pytest.approx(1.0) == pytest.approx(stats.ratio(7 * x, 7 * y))
    assert stats.ratio(-x, y) is None and stats.ratio(x, -y) is None


def test_intervals_of_a_difference_cover_its_truth_with_unequal_arms():
    generator = rng(8)
    covered = 0
    for _ in range(300):
        method, dense = generator.normal(0.9, 0.15, (8, 4)), generator.normal(1.0, 0.15, (12, 4))
        interval = stats.bootstrap(stats.delta, method, dense, resamples=300)
        covered += interval.lower <= -0.1 <= interval.upper
    assert 0.90 <= covered / 300 <= 0.985


def test_both_arms_and_every_task_are_resampled():
    steady, noisy = np.full((6, 2), 0.5), np.array([[0.5, 0.0]] * 3 + [[0.5, 1.0]] * 3)

    def width(*arms):
        interval = stats.bootstrap(stats.delta, *arms)
        return interval.upper - interval.lower

    assert width(steady, steady) == 0
    assert width(noisy, steady) > 0 and width(steady, noisy) > 0
    assert width(noisy, noisy) > width(noisy, steady)
    # Tasks are strata: a task never borrows another's runs, so without spread inside tasks there is no
    # interval.
    apart = np.array([[0.0, 1.0]] * 4)
    assert width(apart, apart) == 0


def test_the_same_scores_have_the_same_interval_in_any_unit_and_the_global_generator_is_untouched():
    x, y = rng(3).normal(size=(9, 3)), rng(4).normal(size=(7, 3))
    before = np.random.get_state()[1].copy()
    first = stats.bootstrap(stats.iqm, x)
    assert stats.bootstrap(stats.iqm, x.copy()) == first
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_allclose(stats.bootstrap(stats.iqm, 1000 * x - 5), 1000 * np.array(first) - 5)
    assert stats.compare(x, y) == stats.compare(x[::-1], y)
    np.testing.assert_allclose(stats.compare(2 * x, 2 * y)[:3], 2 * np.array(stats.compare(x, y)[:3]))


def test_arms_of_equal_shape_are_drawn_independently():
    """Equal scores in both arms: a difference of paired draws would never scatter."""
    x = rng(3).normal(size=(10, 1))
    found = stats.compare(x, x)
    alone = stats.bootstrap(stats.iqm, x)
    assert found.upper - found.lower > 1.2 * (alone.upper - alone.lower)


def test_an_interval_is_that_of_all_resamples_where_they_can_be_listed():
    """Three runs have 27 resamples: their exact percentiles."""
    x = np.array([0.0, 1.0, 5.0])
    every = np.array([[x[i], x[j], x[k]] for i in range(3) for j in range(3) for k in range(3)])
    exact = np.percentile(stats.iqm(every[..., None]), [2.5, 97.5], method="inverted_cdf")
    np.testing.assert_allclose(stats.bootstrap(stats.iqm, x[:, None])[1:], exact)


def test_vector_statistics_get_one_interval_per_entry():
    x = rng(3).normal(size=(9, 3))
    interval = stats.bootstrap(lambda m: stats.performance_profile(m, [-1, 0, 1]), x, resamples=700)
    assert interval.lower.shape == interval.upper.shape == interval.value.shape == (3,)
    assert (interval.lower <= interval.value).all() and (interval.value <= interval.upper).all()


@pytest.mark.parametrize(
    "lower, upper, expected",
    [
        (-0.03, 0.1, "matched"),
        (0.01, 0.2, "matched"),
        (-0.2, -0.0301, "worse"),
        (-0.031, -0.03, "undecided"),
        (-0.5, 0.5, "undecided"),
    ],
)
def test_verdicts(lower, upper, expected):
    assert stats.verdict(lower, upper) == expected


@pytest.mark.parametrize("dense", [0.1, 0.93, 1.0])
def test_a_loss_of_just_the_margin_is_matched_whatever_floats_make_of_it(dense: float):
    """0.90 - 0.93 is -0.030000000000000027 in floats, 0.97 - 1.0 is -0.03."""
    assert stats.compare(np.full((5, 1), dense - 0.03), np.full((5, 1), dense)).verdict == "matched"
    assert stats.compare(np.full((5, 1), dense - 0.0301), np.full((5, 1), dense)).verdict == "worse"


def test_bounds_that_are_unknown_decide_nothing():
    assert stats.verdict(np.nan, np.nan) == "undecided"


def test_seeds_that_would_decide_follow_the_stated_formula():
    # Equal arms, interval +-0.12 at 8 seeds: (0.12 / 0.03)^2 = 16 times the seeds for even odds.
    assert stats.seeds_to_decide(0.0, -0.12, 0.12, 8, power=0.5) == 128
    assert stats.seeds_to_decide(0.0, -0.12, 0.12, 8) == int(
        np.ceil(128 * ((1.959964 + 0.841621) / 1.959964) ** 2)
    )
    # Inferior by 0.07: the upper side of the interval has to shrink below the margin.
    assert stats.seeds_to_decide(-0.10, -0.3, 0.04, 10, power=0.5) == 40
    assert stats.seeds_to_decide(0.1, -0.01, 0.2, 10) == 10  # decided already
    assert stats.seeds_to_decide(-0.03, -0.2, 0.2, 10) is None  # on the margin: no number decides


@pytest.mark.parametrize(("effect", "welch"), [(2, 5), (1.5, 8), (1, 17), (0.75, 29), (0.5, 64), (0.25, 253)])
def test_seeds_that_would_decide_agree_with_the_power_table_of_welch(effect: float, welch: int):
    """Two arms of unit scatter that differ by `effect`, two-sided 5 %, power 80 %: normal quantiles ask for one seed
    fewer than Student's t."""
    half = NormalDist().inv_cdf(0.975) * np.sqrt(2)  # of the interval with one seed per arm
    assert stats.seeds_to_decide(effect, effect - half, effect + half, 1, margin=0.0) == welch - 1


def test_the_estimate_of_seeds_decides_most_comparisons():
    generator = rng(11)
    needed = stats.seeds_to_decide(0.0, -0.06, 0.06, 10)
    sd = 0.06 * np.sqrt(10) / 1.959964  # a difference whose interval is +-0.06 at ten seeds
    draws = generator.normal(0, sd / np.sqrt(needed), 4000)
    half = 1.959964 * sd / np.sqrt(needed)
    assert np.mean(draws - half >= -0.03) == pytest.approx(0.8, abs=0.03)


def test_compare_tells_equal_collapsed_and_uncertain_arms_apart():
    generator = rng(2)
    dense = generator.normal(1.0, 0.02, (20, 4))
    equal = stats.compare(generator.normal(1.0, 0.02, (20, 4)), dense)
    assert equal.verdict == "matched" and equal.seeds == 20
    assert equal.lower <= equal.delta <= equal.upper
    assert stats.compare(0.5 * dense, dense).verdict == "worse"
    unsure = stats.compare(generator.normal(1.0, 0.5, (5, 1)), generator.normal(1.0, 0.5, (7, 1)))
    assert unsure.verdict == "undecided" and unsure.seeds > 5


def test_one_run_decides_nothing():
    alone = stats.compare([[1.0, 1.0]], np.ones((5, 2)))
    assert alone.delta == 0 and np.isnan([alone.lower, alone.upper]).all()
    assert (alone.verdict, alone.seeds) == ("undecided", None)


def test_the_largest_matched_knob_needs_all_smaller_ones_matched():
    knobs = [0.9, 0.5, 0.8, 0.95]
    assert stats.largest_matched(knobs, ["undecided", "matched", "matched", "matched"]) == 0.8
    assert stats.largest_matched(knobs, ["matched"] * 4) == 0.95
    assert stats.largest_matched(knobs, ["matched", "worse", "matched", "matched"]) is None


def test_spread_shows_what_means_hide():
    x = np.append(np.ones(9), -2.0)[:, None]
    assert stats.spread(x, 0.5) == (-2.0, pytest.approx(0.7), 0.1)
    assert stats.spread([[0.4, 0.4]], [0.5, 0.3]).failure_rate == 0.5


@pytest.mark.parametrize("bad", [[1.0, 2.0], [[np.nan]], np.zeros((0, 3)), [[np.inf, 1.0]]])
def test_scores_that_cannot_be_aggregated_are_refused(bad):
    with pytest.raises(ValueError, match="scores must"):
        stats.iqm(bad)


def test_arms_must_share_their_tasks():
    with pytest.raises(ValueError, match="same tasks"):
        stats.bootstrap(stats.delta, np.ones((3, 2)), np.ones((3, 1)))
