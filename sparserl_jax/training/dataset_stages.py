"""The compiled stages of a Program that learns from fixed datasets: init, train, evaluate, harvest.

`init` makes every member's dataset, where it is not that of a file (see datasets.py); a training dispatch is

    [ batch -> gradient update ]*      with the agent's delayed part after every `delay` updates

without a step in any environment; the step of the clock counts updates. Population, clock, events, evaluation and
everything around the compiled stages are those of `stages.py`.
"""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.agents.agent import Clock
from sparserl_jax.envs import EnvState, Lookahead
from sparserl_jax.training import datasets
from sparserl_jax.training.population import Member, MemberSettings
from sparserl_jax.training.stages import Stages, member_key


class DatasetStages(Stages):
    """The stages as per-member functions. `train` and `evaluate` take the dataset of a file behind their other
    arguments, without a member axis."""

    shared: datasets.Dataset | None = None

    def _on(self, shared: tuple[datasets.Dataset, ...]) -> DatasetStages:
        """These stages on the dataset of a file, where there is one."""
        if not shared:
            return self
        own = copy.copy(self)
        own.shared = shared[0]
        return own

    def init(self, settings: MemberSettings) -> Member:
        """A member at its start, with its dataset; it has no environments, and counts the episodes of its data."""
        training = self.training
        assert training.dataset is not None
        source = datasets.source(training.dataset, f"environment '{training.env}'")
        member = self._fresh(settings, ())
        if source is None:
            assert training.logged is not None
            found, invalid = training.logged.arrays.returns, member.tally.invalid
            returns: Any = found[datasets.best_of(found, training.best, np)].astype(np.float32)
        else:
            data, returns, invalid = datasets.make(self.env, member_key(settings, "dataset"), source)
            if training.best < 1:
                best = datasets.best_of(returns, training.best)
                data = datasets.narrowed(data, best)
                returns = jnp.sort(returns)[-datasets.best_count(training.best, len(returns)) :]
            member = member._replace(replay=data)
        tally = member.tally._replace(
            last_return=jnp.mean(returns), episodes=jnp.int32(len(returns)), invalid=invalid
        )
        return member._replace(tally=tally)

    def train(
        self, member: Member, settings: MemberSettings, clock: Clock, *shared: datasets.Dataset
    ) -> tuple[Member, dict[str, jax.Array]]:
        """One dispatch of training; metrics are means over the dispatch."""
        return Stages.train(self._on(shared), member, settings, clock)

    def evaluate(
        self,
        member: Member,
        settings: MemberSettings,
        clock: Clock,
        repeat: jax.Array,
        *shared: datasets.Dataset,
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """See Stages.evaluate."""
        return Stages.evaluate(self._on(shared), member, settings, clock, repeat)

    def look(
        self,
        member: Member,
        settings: MemberSettings,
        clock: Clock,
        ahead: Lookahead,
        *shared: datasets.Dataset,
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """`evaluate` where the host has played the episodes: diagnostics and history; `ahead` is what it found."""
        return self._on(shared)._seen(member, settings, clock, ahead)

    # ---- parts ----------------------------------------------------------------------------------------------------

    def _replay(self, envs: EnvState | tuple[()]) -> Any:
        return ()  # `init` puts the dataset there, if it is the member's own

    def _data(self, member: Member) -> datasets.Dataset:
        data = member.replay if self.shared is None else self.shared
        assert isinstance(data, datasets.Dataset)
        return data

    def _held(self, member: Member, clock: Clock) -> jax.Array:
        return self._data(member).held

    def _pool(self, settings: MemberSettings, clock: Clock) -> Any:
        return None

    def _collect(
        self, member: Member, clock: Clock, settings: MemberSettings, pool: Any, explore: str
    ) -> tuple[Member, Clock]:
        """A step of the clock alone."""
        return member, clock._replace(step=clock.step + 1)

    def _draw(self, member: Member, clock: Clock, settings: MemberSettings, key: jax.Array, size: int) -> Any:
        return datasets.draw(self._data(member), key, size)

    def _account(self, member: Member, clock: Clock, metrics: dict[str, Any]) -> Member:
        metrics.pop("reset_replay", None)  # a dataset is never emptied
        return super()._account(member, clock, metrics)
