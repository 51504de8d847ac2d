"""Statistics of scores x[runs, tasks]: aggregates, stratified bootstrap intervals and non-inferiority
verdicts.

Aggregates work on the last two axes, so that a batch of resamples `[..., runs, tasks]` costs one call. Points
of one learning curve are never runs. Resamples are drawn from fixed seeds: the same scores have the same interval,
whatever they are called.
Formulas: Agarwal et al. 2021 (rliable); scores are compared as z = (return - random) / (reference - random).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

MARGIN = 0.03
"""Largest loss of z that still counts as matched."""

RESAMPLES = 50_000
"""Of an interval, as in rliable. Two of 580 verdicts of results/ are others with 200,000; with 2,000, about one in a
hundred depends on the draws."""
_BATCH = 1000
"""Resamples at a time: bounds the memory of pairwise statistics."""
_MOST_KEPT = 20_000_000
"""Draws of an arm that are kept for the next one of its shape."""

Statistic = Callable[..., np.ndarray]


class Interval(NamedTuple):
    """A statistic of the data and its bootstrap interval."""

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def _scores(x: ArrayLike) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(f"scores must be [runs, tasks] with at least one of each, not {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(
            "scores must be finite: diverged runs enter at the random policy's score (see normalise)"
        )
    return x


def normalise(returns: ArrayLike, random: ArrayLike, reference: ArrayLike) -> np.ndarray:
    """z[runs, tasks] = (return - random) / (reference - random); runs that diverged (not finite) get z = 0.

    Args:
        returns: raw returns [runs, tasks].
        random, reference: returns of the random policy and of the frozen reference, [tasks] or scalar.
    """
    low, high = np.asarray(random, np.float64), np.asarray(reference, np.float64)
    if np.any(high <= low):
        raise ValueError("a reference return must be above the random policy's")
    z = (np.asarray(returns, np.float64) - low) / (high - low)
    return np.where(np.isfinite(z), z, 0.0)


def iqm(x: ArrayLike) -> np.ndarray:
    """Interquartile mean of all runs and tasks: floor(0.25 * count) values are dropped at each end."""
    x = _scores(x)
    flat = np.sort(x.reshape(*x.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return flat[..., cut : flat.shape[-1] - cut].mean(-1)


def mean(x: ArrayLike) -> np.ndarray:
    """Mean over tasks of the tasks' means."""
    return _scores(x).mean((-2, -1))


def median(x: ArrayLike) -> np.ndarray:
    """Median over tasks of the tasks' means."""
    return np.median(_scores(x).mean(-2), axis=-1)


def optimality_gap(x: ArrayLike, goal: float = 1.0) -> np.ndarray:
    """How far scores fall short of `goal`: goal - mean(min(x, goal))."""
    return goal - np.minimum(_scores(x), goal).mean((-2, -1))


def performance_profile(x: ArrayLike, levels: ArrayLike, of_means: bool = False) -> np.ndarray:
    """Share of runs (`of_means`: of task means) strictly above each level, mean over tasks, [..., levels]."""
    x = _scores(x)
    x = x.mean(-2, keepdims=True) if of_means else x
    return (x[..., None] > np.asarray(levels, np.float64)).mean((-3, -2))


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Chance that a run of x beats a run of y on the same task, ties counting half, averaged over tasks."""
    x, y = _scores(x)[..., :, None, :], _scores(y)[..., None, :, :]
    return ((x > y) + 0.5 * (x == y)).mean((-3, -2, -1))


def delta(method: ArrayLike, dense: ArrayLike) -> np.ndarray:
    """IQM(method) - IQM(dense) of z scores; the arms may have different numbers of runs."""
    return iqm(method) - iqm(dense)


def ratio(method: ArrayLike, dense: ArrayLike) -> float | None:
    """IQM(method) / IQM(dense) of raw returns, as papers print it; None unless both are positive."""
    above, below = float(iqm(method)), float(iqm(dense))
    return above / below if above > 0 and below > 0 else None


def _draws(place: int, shape: tuple[int, int], resamples: int) -> Iterator[np.ndarray]:
    """Which runs every resample of an arm of this shape takes, in pieces [at most _BATCH, runs, tasks]: the same for
    all arms of the shape that stand at this place among the arguments of a statistic."""
    rng = np.random.default_rng([place, *shape])
    for start in range(0, resamples, _BATCH):
        drawn = rng.integers(shape[0], size=(min(_BATCH, resamples - start), *shape))
        yield drawn.astype(np.min_scalar_type(shape[0]))


@functools.lru_cache(maxsize=32)
def _kept(place: int, shape: tuple[int, int], resamples: int) -> list[np.ndarray]:
    return list(_draws(place, shape, resamples))


def bootstrap(
    statistic: Statistic, *arms: ArrayLike, resamples: int = RESAMPLES, level: float = 0.95
) -> Interval:
    """Percentile interval of `statistic(*arms)` by stratified bootstrap.

    Every arm resamples the runs of each task with replacement, independently of the other tasks and arms;
    tasks are fixed. The order of runs has no influence, because runs are sorted per task before they are
    drawn. Which of them are drawn depends on the arms' shapes and places alone, so that an interval changes
    with the unit of scores as they do, and with nothing else.

    Args:
        statistic: maps arms [..., runs, tasks] to [...] or [..., k].
        arms: score matrices [runs, tasks] with the same tasks.
        resamples: number of resamples.
        level: coverage, 0.95 for the 2.5 % and 97.5 % points.
    """
    matrices = [np.sort(_scores(arm), axis=0) for arm in arms]
    if len({matrix.shape[1:] for matrix in matrices}) != 1 or matrices[0].ndim != 2:
        raise ValueError("arms must be [runs, tasks] with the same tasks")
    return _bootstrap(
        statistic, tuple((own.shape, own.tobytes()) for own in matrices), resamples=resamples, level=level
    )


@functools.lru_cache(maxsize=4096)  # every kind of table of a folder asks for the same intervals
def _bootstrap(
    statistic: Statistic, arms: tuple[tuple[tuple[int, int], bytes], ...], resamples: int, level: float
) -> Interval:
    """`bootstrap` of sorted arms, each as its shape and the bytes of its float64 scores."""
    matrices = [np.frombuffer(content, np.float64).reshape(shape) for shape, content in arms]
    small = all(resamples * matrix.size <= _MOST_KEPT for matrix in matrices)
    draws = [
        (_kept if small else _draws)(place, matrix.shape, resamples) for place, matrix in enumerate(matrices)
    ]
    found = []
    for drawn in zip(*draws, strict=True):
        pairs = zip(matrices, drawn, strict=True)
        found.append(statistic(*[np.take_along_axis(matrix[None], own, 1) for matrix, own in pairs]))
    tail = 50 * (1 - level)
    lower, upper = np.percentile(np.concatenate(found), [tail, 100 - tail], axis=0)
    return Interval(statistic(*matrices), lower, upper)


_SLACK = 1e-12
"""Rounding of a subtraction, which must not decide on which side of the margin a difference lies."""


def within(bound: float, margin: float = MARGIN) -> bool:
    """Whether a difference is at or above -margin."""
    return bound >= -margin - _SLACK


def verdict(lower: float, upper: float, margin: float = MARGIN) -> str:
    """`matched` (lower bound >= -margin), `worse` (upper bound < -margin) or `undecided`."""
    if within(lower, margin):
        return "matched"
    return "worse" if upper < -margin - _SLACK else "undecided"


def seeds_to_decide(
    value: float, lower: float, upper: float, seeds: int, margin: float = MARGIN, power: float = 0.8
) -> int | None:
    """Seeds per arm that would probably decide an undecided comparison, if the present difference is true.

    The interval shrinks as 1 / sqrt(seeds). Let g = |value + margin| be the distance to the margin, h the
    half of the interval on the side of the margin and q = (1.96 + z_power) / 1.96; then
    seeds' = ceil(seeds * (q * h / g)^2), both arms growing by the same factor. At power 0.5, q is 1.

    Args:
        value, lower, upper: difference and its 95 % interval.
        seeds: runs per arm and task now; for unequal arms those of the smaller.
        margin: the margin of `verdict`.
        power: wanted chance of a decision, at least 0.5.

    Returns:
        A number of seeds, `seeds` itself when already decided; None when the difference sits on the margin.
    """
    if verdict(lower, upper, margin) != "undecided":
        return seeds
    gap = abs(value + margin)
    if gap < _SLACK:
        return None
    half = value - lower if value > -margin else upper - value
    q = 1 + NormalDist().inv_cdf(power) / NormalDist().inv_cdf(0.975)
    return max(seeds + 1, math.ceil(seeds * (q * half / gap) ** 2))


class Comparison(NamedTuple):
    """IQM_z(method) - IQM_z(dense), its 95 % interval, the verdict (of `verdict`, or `uneven` in pooled rows, see
    `summary.pooled`), and seeds that would decide: of the smaller arm, in rows of a table of the row's own."""

    delta: float
    lower: float
    upper: float
    verdict: str
    seeds: int | None


def compare(
    method: ArrayLike,
    dense: ArrayLike,
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Non-inferiority of `method` z[runs, tasks] to `dense` z[runs', tasks], resampling both per task.

    With a single run in an arm nothing is known about its scatter: NaN bounds, verdict `undecided`.
    """
    if min(len(_scores(method)), len(_scores(dense))) < 2:
        return Comparison(float(delta(method, dense)), math.nan, math.nan, "undecided", None)
    value, lower, upper = map(float, bootstrap(delta, method, dense, resamples=resamples))
    seeds = min(len(_scores(method)), len(_scores(dense)))
    needed = seeds_to_decide(value, lower, upper, seeds, margin)
    return Comparison(value, lower, upper, verdict(lower, upper, margin), needed)


def largest_matched(knobs: Sequence[float], verdicts: Sequence[str]) -> float | None:
    """Largest knob at which it and all smaller ones are `matched`; None if the smallest is not.

    Tested in the fixed order of the knob and stopped at the first failure, the sweep needs no correction for
    the number of tests.
    """
    best = None
    outcomes = sorted(zip(knobs, verdicts, strict=True))
    for knob, group in itertools.groupby(outcomes, key=lambda one: one[0]):
        if any(outcome != "matched" for _, outcome in group):
            break
        best = knob
    return best


class Spread(NamedTuple):
    """How runs scatter, all tasks together: worst run, 10th percentile, share of runs below a threshold."""

    worst: float
    p10: float
    failure_rate: float


def spread(x: ArrayLike, failure: ArrayLike) -> Spread:
    """Spread of scores [runs, tasks]; a run fails below `failure`, [tasks] or one number for all."""
    x = _scores(x)
    return Spread(float(x.min()), float(np.percentile(x, 10)), float((x < np.asarray(failure)).mean()))
