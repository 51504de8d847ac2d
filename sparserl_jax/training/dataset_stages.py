"""The compiled stages of a Program that learns from fixed datasets: init, train, evaluate, harvest.

`init` makes every member's dataset (see datasets.py); a training dispatch is

    [ batch -> gradient update ]*      with the agent's delayed part after every `delay` updates

without a step in any environment; the step of the clock counts updates. Population, clock, events, evaluation and
everything around the compiled stages are those of `stages.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sparserl_jax.agents.agent import Clock
from sparserl_jax.envs import EnvState
from sparserl_jax.training import datasets
from sparserl_jax.training.population import Member, MemberSettings
from sparserl_jax.training.stages import Stages, member_key


class DatasetStages(Stages):
    """The stages as per-member functions."""

    def init(self, settings: MemberSettings) -> Member:
        """A member at its start, with its dataset; it has no environments, and counts the episodes of its data."""
        assert self.training.dataset is not None
        source = datasets.source(self.training.dataset, f"environment '{self.training.env}'")
        data, returns, invalid = datasets.make(self.env, member_key(settings, "dataset"), source)
        member = self._fresh(settings, ())
        tally = member.tally._replace(
            last_return=jnp.mean(returns), episodes=jnp.int32(source.episodes), invalid=invalid
        )
        return member._replace(replay=data, tally=tally)

    # ---- parts ----------------------------------------------------------------------------------------------------

    def _replay(self, envs: EnvState | tuple[()]) -> Any:
        return ()  # `init` puts the dataset there

    @staticmethod
    def _data(member: Member) -> datasets.Dataset:
        assert isinstance(member.replay, datasets.Dataset)
        return member.replay

    def _held(self, member: Member, clock: Clock) -> jax.Array:
        return self._data(member).rows

    def _pool(self, settings: MemberSettings, clock: Clock) -> Any:
        return None

    def _collect(
        self, member: Member, clock: Clock, settings: MemberSettings, pool: Any, explore: str
    ) -> tuple[Member, Clock]:
        """A step of the clock alone."""
        return member, clock._replace(step=clock.step + 1)

    def _draw(self, member: Member, clock: Clock, settings: MemberSettings, key: jax.Array, size: int) -> Any:
        batch = datasets.draw(self._data(member), key, size)
        return batch if self.agent.successors else batch._replace(successors=None)

    def _account(self, member: Member, clock: Clock, metrics: dict[str, Any]) -> Member:
        metrics.pop("reset_replay", None)  # a dataset is never emptied
        return super()._account(member, clock, metrics)
