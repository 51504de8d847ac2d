"""The compiled stages of a Program whose environments run on the host: two jitted calls per vector step.

    act (or uniform)  ->  the environments step on the host  ->  train (or warm_up): insert, update, buffer check

Everything that happens to a member is done by the functions of `stages.py`, at the same moments of the clock and with
the same random keys as where the environment is compiled too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.agents.agent import Agent, Clock
from sparserl_jax.envs import EnvState, Lookahead, Step, as_taken, follow, start_steps
from sparserl_jax.replay import cut
from sparserl_jax.training.config import Training
from sparserl_jax.training.population import Member, MemberSettings
from sparserl_jax.training.precision import precise
from sparserl_jax.training.sharding import Layout
from sparserl_jax.training.stages import Stages, evaluation_key

HOST_STAGES = ("init", "uniform", "act", "warm_up", "train", "policy", "evaluate", "harvest")
"""The jitted functions of a Program on the host; each is compiled once."""


class Taken(NamedTuple):
    """What one step on the host gave a member, with its axis E of one environment.

    step: f32 and bool [E, ...], `obs` before any reset. invalid: bool[E]. next_obs: f32[E,O].
    """

    step: Step
    invalid: Any
    next_obs: Any


class HostStages(Stages):
    """The stages as per-member functions; `env` is a HostEnvironment, of which only the spec is used."""

    _told: tuple[str, ...] | None = None

    def init(self, settings: MemberSettings, obs: jax.Array) -> Member:  # type: ignore[override]
        """A fresh member whose environments begin with `obs` f32[E,O]."""
        return self._fresh(settings, _begun(obs))

    def uniform(self, member: Member, settings: MemberSettings, clock: Clock) -> tuple[jax.Array, jax.Array]:
        """Random actions [E, action], twice."""
        return self._explore(member, clock, settings, "uniform")

    def act(self, member: Member, settings: MemberSettings, clock: Clock) -> tuple[jax.Array, jax.Array]:
        """Actions to take [E, action] in [-1, 1], and the same without noise."""
        return self._explore(member, clock, settings, "noise")

    def warm_up(  # type: ignore[override]
        self,
        member: Member,
        settings: MemberSettings,
        clock: Clock,
        action: jax.Array,
        mean: jax.Array,
        taken: Taken,
    ) -> Member:
        """Store one step."""
        member, clock = self._insert(member, clock, settings, action, mean, taken)
        return self._check_buffer(member, settings, clock)

    def train(  # type: ignore[override]
        self,
        member: Member,
        settings: MemberSettings,
        clock: Clock,
        action: jax.Array,
        mean: jax.Array,
        taken: Taken,
        sums: dict[str, jax.Array],
    ) -> tuple[Member, dict[str, jax.Array]]:
        """Store one step and make one update, with the delayed part where it is due.

        `sums`: by metric f32[2], the sum of its values so far and their number; this step's are added.
        """
        member, clock = self._insert(member, clock, settings, action, mean, taken)
        (member, clock), (batch, metrics) = self._update(member, clock, settings)

        def late() -> tuple[Any, dict[str, jax.Array]]:
            # Without the replay's rings: what a branch returns is copied.
            after, found = self._delayed(member, clock, settings, batch)
            return (after.agent, after.tally, after.replay.left), found

        def not_yet() -> tuple[Any, dict[str, jax.Array]]:
            found = {
                name: jnp.zeros(like.shape, like.dtype) for name, like in jax.eval_shape(late)[1].items()
            }
            return (member.agent, member.tally, member.replay.left), found

        due = clock.update % self.agent.delay == 0
        (agent, tally, left), found = jax.lax.cond(due, late, not_yet)
        losses = [value for name, value in (metrics | found).items() if name.endswith("_loss")]
        broken = functools.reduce(jnp.logical_or, [~jnp.isfinite(loss) for loss in losses])
        member = member._replace(
            agent=agent,
            replay=member.replay._replace(left=left),
            tally=tally._replace(broken=tally.broken | broken),
        )
        told = {name: jnp.stack([value, jnp.float32(1.0)]) for name, value in metrics.items()}
        told |= {name: jnp.stack([value, due.astype(jnp.float32)]) for name, value in found.items()}
        sums = {name: sums[name] + told[name] for name in told}
        return self._check_buffer(member, settings, clock), sums

    def _metrics(self, member: Member, settings: MemberSettings, clock: Clock) -> dict[str, jax.Array]:
        """All that an update and the delayed part tell; asked for its shapes only."""
        (member, clock), (batch, metrics) = self._update(member, clock, settings)
        return {**metrics, **self._delayed(member, clock, settings, batch)[1]}

    def evaluate(  # type: ignore[override]
        self, member: Member, settings: MemberSettings, clock: Clock, ahead: Lookahead
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """The member's diagnostics, and its history; the returns and `ahead` are what the host found."""
        return self._seen(member, settings, clock, ahead)

    def restart(self, member: Member, clock: Clock, obs: jax.Array, lost: jax.Array) -> Member:
        """Another episode that begins with `obs` f32[E,O] where `lost` bool[E]; the running one is truncated."""
        had_rows, envs = lost & (member.envs.steps > 0), member.envs
        replay = cut(member.replay, self._head(clock), had_rows, obs)
        begun = _begun(obs)
        envs = envs._replace(
            obs=obs,
            steps=jnp.where(lost, begun.steps, envs.steps),
            episode_return=jnp.where(lost, begun.episode_return, envs.episode_return),
        )
        return member._replace(envs=envs, replay=replay)

    def _insert(
        self,
        member: Member,
        clock: Clock,
        settings: MemberSettings,
        action: jax.Array,
        mean: jax.Array,
        taken: Taken,
    ) -> tuple[Member, Clock]:
        action = as_taken(self.env.spec, action)
        done = follow(member.envs, action, taken.step, taken.invalid, (), taken.next_obs)
        return self._store(member, clock, settings, mean, *done)

    # ---- as a Program uses them -------------------------------------------------------------------------------------

    def jitted(self, layout: Layout) -> dict[str, Any]:
        """The stages over the rows of the layout, jitted; the clock is unbatched and the state is donated. `policy` and
        `restart` take all members at once, on one device."""

        def over_members(fn: Callable[..., Any], *axes: int | None, donate: tuple[int, ...] = ()) -> Any:
            return layout.stage(precise(fn, self.training.matmul_precision), *axes, donate=donate)

        return {
            "init": over_members(self.init, 0, 0),
            "uniform": over_members(self.uniform, 0, 0, None),
            "act": over_members(self.act, 0, 0, None),
            "warm_up": over_members(self.warm_up, 0, 0, None, 0, 0, 0, donate=(0,)),
            "train": over_members(self.train, 0, 0, None, 0, 0, 0, 0, donate=(0, 6)),
            "policy": policy_stage(self.agent, self.training),
            "evaluate": over_members(self.evaluate, 0, 0, None, 0),
            "harvest": over_members(self.harvest, 0),
            "restart": at_once(self.restart, self.training.matmul_precision, 0, None, 0, 0),
        }

    def sums(self, population: Any, settings: MemberSettings, clock: Clock) -> dict[str, Any]:
        """Shapes of the sums that `train` adds to."""
        if self._told is None:
            told = jax.eval_shape(jax.vmap(self._metrics, in_axes=(0, 0, None)), population, settings, clock)
            self._told = tuple(told)
        like = jax.ShapeDtypeStruct((population.envs.obs.shape[0], 2), np.float32)
        return dict.fromkeys(self._told, like)

    def arguments(
        self, population: Any, settings: MemberSettings, clock: Clock, members: int
    ) -> dict[str, tuple[Any, ...]]:
        """What each stage is lowered with, by name, from the shapes of one wave of a population of `members`."""
        obs = population.envs.obs
        rows, num_envs, _ = obs.shape
        action = jax.ShapeDtypeStruct((rows, num_envs, self.env.spec.action_dim), np.float32)
        number, flag = (jax.ShapeDtypeStruct((rows, num_envs), kind) for kind in (np.float32, np.bool_))
        shapes: Any = (obs, number, flag, flag)
        taken = Taken(Step(*shapes), flag, obs)

        def whole(tree: Any) -> Any:
            return jax.tree.map(lambda x: jax.ShapeDtypeStruct((members, *x.shape[1:]), x.dtype), tree)

        params = jax.eval_shape(jax.vmap(self.harvest), population)["params"]["actor"]
        return {
            "init": (settings, obs),
            "uniform": (population, settings, clock),
            "act": (population, settings, clock),
            "warm_up": (population, settings, clock, action, action, taken),
            "train": (
                population,
                settings,
                clock,
                action,
                action,
                taken,
                self.sums(population, settings, clock),
            ),
            "policy": policy_arguments(self.training, whole(params), whole(obs)),
            "evaluate": (population, settings, clock, ahead_of(self.env, self.training, rows)),
            "harvest": (population,),
        }


def _begun(obs: jax.Array) -> EnvState:
    """Episodes that have just begun."""
    count = obs.shape[0]
    return EnvState((), obs, jnp.zeros(count, jnp.int32), jnp.zeros(count, jnp.float32))


def at_once(fn: Callable[..., Any], precision: str | None, *axes: int | None) -> Any:
    """A per-member function over all members on one device, jitted, at a precision of matrix products."""
    return jax.jit(jax.vmap(precise(fn, precision), in_axes=axes))


def drawing(draw: Callable[..., Any]) -> Callable[..., Any]:
    """`draw(params, obs, key)`, of which every call in an evaluation has a key of its own, the same for all members:
    (params, obs, key data of evaluations, step, number of the evaluation, number of the call)."""

    def call(params: Any, obs: Any, key: Any, step: Any, repeat: Any, number: Any) -> Any:
        return draw(params, obs, jax.random.fold_in(evaluation_key(key, step, repeat), number))

    return call


def acting(policy: Callable[..., Any], draw: Callable[..., Any] | None, precision: str | None) -> Any:
    """How all members act in evaluations, jitted: parameters [M,...] and observations f32[M,E,O] to actions; where
    these are drawn (`draw`), behind them what `drawing` asks for."""
    if draw is None:
        return at_once(policy, precision, 0, 0)
    return at_once(drawing(draw), precision, 0, 0, None, None, None, None)


def policy_stage(agent: Agent, training: Training) -> Any:
    """`acting` of a Program."""
    draw = agent.sample_policy if training.evaluation.sampled else None
    assert draw is not None or not training.evaluation.sampled, "the program refuses to draw from such agents"
    return acting(agent.policy, draw, training.matmul_precision)


def policy_arguments(training: Training, params: Any, obs: Any) -> tuple[Any, ...]:
    """Shapes of what `policy_stage` is called with, of parameters and observations of all members."""
    number = jax.ShapeDtypeStruct((), np.int32)
    drawn = (jax.ShapeDtypeStruct((2,), np.uint32), number, number, number)
    return (params, obs, *drawn) if training.evaluation.sampled else (params, obs)


def ahead_of(env: Any, training: Training, members: int) -> Lookahead:
    """Shapes of what the host finds in the evaluation episodes of so many members."""
    episodes, obs = training.evaluation.episodes, env.spec.obs_dim
    looked = (members, len(start_steps(env)), episodes)
    number = jax.ShapeDtypeStruct(looked, np.float32)
    shapes: Any = (
        jax.ShapeDtypeStruct((*looked, obs), np.float32),
        jax.ShapeDtypeStruct(looked, np.bool_),
        number,
        number,
        jax.ShapeDtypeStruct((members, episodes, obs), np.float32),
    )
    return Lookahead(*shapes)
