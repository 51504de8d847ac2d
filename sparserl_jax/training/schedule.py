"""When things happen in a run, and how the published schedules shrink to other budgets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from sparserl_jax.agents.agent import Range
from sparserl_jax.training.iterations import longest_dispatch, period, updates_of

PUBLISHED = 3_000_000
"""Environment steps that the defaults are published for."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When things happen; static per Program.

    topology_interval: ticks of a network between its topology events.
    delay: gradient updates before multi-step targets begin (T0).
    buffer_max, buffer_min: transitions per member. buffer_check: environment steps between checks.
    buffer_threshold: policy distance above which the oldest data is dropped. buffer_oldest: transitions looked
    at, 8 batches where not given. Defaults are those published for TD3; an algorithm's `SCHEDULE` says where others
    were published for it.
    drop_fraction: zeta at the start, cosine to 0 at the end of training.

    TRACED: what may differ between members of one Program all the same; a member's own `buffer_max` is at most that of
    the Program, whose replay has room for the largest.
    """

    TRACED: ClassVar[Mapping[str, Range]] = {
        "drop_fraction": Range(0.0, 1.0),
        "buffer_threshold": Range(0.0),
        "buffer_max": Range(8.0, whole=True),
    }

    topology_interval: int = 10_000
    delay: int = 300_000
    buffer_max: int = 1_000_000
    buffer_min: int = 100_000
    buffer_check: int = 10_000
    buffer_threshold: float = 0.2
    buffer_oldest: int | None = None
    drop_fraction: float = 0.5

    @staticmethod
    def scaled(
        steps: int, agent: Any = None, unit: int = 1, common: int | None = None, dynamic: bool = True
    ) -> Schedule:
        """The published schedule of an algorithm (default: TD3) shrunk to a budget of `steps` (RLx2: interval, delay,
        buffer sizes and check scale with the budget; fractions and thresholds do not). Without a replay there is the
        topology interval alone, and its budget is that of updates.

        The check alone is between compiled calls. It is rounded down to a multiple of the longest call: a tenth dropped
        at every check holds a buffer at nine checks, which must not be above its smallest size. Where a dynamic buffer
        asks for more frequent checks, it is the longest multiple of `unit` that divides `common`, and calls are short.

        Args:
            agent: its configuration.
            unit: environment steps that all periods are multiples of.
            common: the common period of all else; default `steps`.
            dynamic: whether a dynamic buffer may look at it.
        """
        if agent is not None and agent.experience != "replay":
            ticks = Schedule.topology_interval * updates_of(agent, steps) / PUBLISHED
            return Schedule(topology_interval=max(1, round(ticks)))
        paper = Schedule(**({} if agent is None else agent.SCHEDULE))
        common = steps if common is None else common
        longest = longest_dispatch(common, unit)

        def fit(value: int) -> int:
            return max(1, round(value * steps / PUBLISHED))

        check = fit(paper.buffer_check)
        frequent = dynamic and check < longest
        return Schedule(
            topology_interval=fit(paper.topology_interval),
            delay=fit(paper.delay),
            buffer_max=fit(paper.buffer_max),
            buffer_min=fit(paper.buffer_min),
            buffer_check=period(common, unit, check)
            if frequent
            else max(longest, check // longest * longest),
        )
