"""The compiled stages of a Program that learns from rollouts of its own policies: init, train, evaluate, harvest.

A training dispatch is a whole number of iterations,

    [ T steps of E environments -> advantages -> K epochs x [ shuffle -> M minibatches, an update each ] ]*

and what an iteration has collected is forgotten after it. Population, clock, events, evaluation and everything around
the compiled stages are those of `stages.py`; random numbers belong to moments of the clock here, too.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sparserl_jax.agents.agent import Clock, Minibatch, OnPolicy, Rollout
from sparserl_jax.envs import EnvState, advance
from sparserl_jax.training import diagnostics
from sparserl_jax.training.population import Member, MemberSettings
from sparserl_jax.training.stages import Stages, counted, further_keys, member_key, watched


class RolloutStages(Stages):
    """The stages as per-member functions."""

    @property
    def config(self) -> Any:
        """The algorithm's numbers, among them the shape of an iteration (see `training/iterations.py`)."""
        return self.training.agent

    @property
    def on_policy(self) -> OnPolicy:
        """What the algorithm does with rollouts."""
        assert self.agent.on_policy is not None
        return self.agent.on_policy

    def train(
        self, member: Member, settings: MemberSettings, clock: Clock
    ) -> tuple[Member, dict[str, jax.Array]]:
        """One dispatch of training; metrics are means over the dispatch."""
        pool = self._pool(settings, clock)

        def iteration(
            carry: tuple[Member, Clock], _: None
        ) -> tuple[tuple[Member, Clock], dict[str, jax.Array]]:
            return self._iterate(*carry, settings, pool)

        assert self.training.iteration is not None
        count = self.training.dispatch_steps // self.training.iteration
        (member, _), metrics = jax.lax.scan(iteration, (member, clock), length=count)
        metrics = jax.tree.map(jnp.mean, metrics)
        return watched(member, metrics), metrics

    # ---- parts ----------------------------------------------------------------------------------------------------

    def _replay(self, envs: EnvState | tuple[()]) -> Any:
        return ()

    def _iterate(
        self, member: Member, clock: Clock, settings: MemberSettings, pool: Any
    ) -> tuple[tuple[Member, Clock], dict[str, jax.Array]]:
        gates = member_key(settings, "gates", clock.step)
        (member, clock), rollout = self._rollout(member, clock, settings, pool, gates)
        samples = self.on_policy.samples(member.agent, rollout, gates)
        size = self.config.batch_size
        count = self._count(samples)
        Carry = tuple[Member, Clock]

        def minibatch(carry: Carry, part: Any) -> tuple[Carry, dict[str, jax.Array]]:
            member, clock = carry
            key, keys = member_key(settings, "update", clock.update), further_keys(settings, clock)
            evidence = self._evidence(member, clock, settings)._replace(
                batch=lambda size: self._some(samples, next(keys), size)
            )
            agent, metrics = self.agent.update(member.agent, Minibatch(part, gates), key, clock, evidence)
            member = self._account(member._replace(agent=agent), clock, metrics)
            return (member, clock._replace(update=clock.update + 1)), metrics

        def epoch(carry: Carry, _: None) -> tuple[Carry, dict[str, jax.Array]]:
            order = jax.random.permutation(member_key(settings, "sample", carry[1].update), count)
            parts = jax.tree.map(lambda x: x[order].reshape(count // size, size, *x.shape[1:]), samples)
            return jax.lax.scan(minibatch, carry, parts)

        return jax.lax.scan(epoch, (member, clock), length=self.config.epochs)

    def _rollout(
        self, member: Member, clock: Clock, settings: MemberSettings, pool: Any, gates: jax.Array
    ) -> tuple[tuple[Member, Clock], Rollout]:
        """T steps of the member's environments."""

        def step(carry: tuple[Member, Clock], _: None) -> tuple[tuple[Member, Clock], Rollout]:
            member, clock = carry
            obs = member.envs.obs
            action, log_density = self.on_policy.behave(
                member.agent, obs, gates, member_key(settings, "act", clock.step)
            )
            envs, seen, finished = advance(
                self.env, member.envs, member_key(settings, "step", clock.step), action, pool
            )
            member = member._replace(envs=envs, tally=counted(member.tally, finished))
            row = Rollout(
                obs, action, log_density, seen.reward, seen.terminated, seen.truncated, seen.final_obs
            )
            return (member, clock._replace(step=clock.step + self.training.num_envs)), row

        return jax.lax.scan(step, (member, clock), length=self.config.rollout_steps)

    def _account(self, member: Member, clock: Clock, metrics: dict[str, Any]) -> Member:
        metrics.pop("reset_replay", None)  # there is none, and no iteration learns from an earlier one's data
        return super()._account(member, clock, metrics)

    @staticmethod
    def _count(samples: Any) -> int:
        return int(jax.tree.leaves(samples)[0].shape[0])

    def _some(self, samples: Any, key: jax.Array, size: int) -> Any:
        """`size` of the samples, drawn with replacement."""
        chosen = jax.random.randint(key, (size,), 0, self._count(samples))
        return jax.tree.map(lambda x: x[chosen], samples)

    def _diagnose(
        self, member: Member, settings: MemberSettings, clock: Clock
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """As of `Stages`, on a minibatch of a rollout made for it, which goes on from the member's environments and is
        thrown away: an iteration's own data are gone when it ends."""
        draw_key, gates, key, choice_key = jax.random.split(member_key(settings, "diagnose", clock.step), 4)
        apart = settings._replace(
            keys={
                name: jax.random.key_data(jax.random.fold_in(draw_key, i))
                for i, name in enumerate(settings.keys)
            }
        )
        _, rollout = self._rollout(member, clock, apart, self._pool(apart, clock), gates)
        samples = self.on_policy.samples(member.agent, rollout, gates)
        batch = Minibatch(self._some(samples, choice_key, self.config.batch_size), gates)
        masks = self.agent.masks(member.agent)
        changes, history = diagnostics.read_history(member.history, masks, self.agent.layers)
        nothing = jnp.full((), jnp.nan, jnp.float32)
        return {
            "buffer": nothing,
            "policy_distance": nothing,
            **changes,
            **self.agent.diagnose(member.agent, batch, key, clock),
        }, history
