"""The compiled stages of a Program: init, warm_up, train, evaluate, harvest.

All functions here are per member and pure; the Program vmaps them with the clock unbatched. Random numbers belong to
moments of the clock, so a result does not depend on how a run is cut into dispatches, except where initial states come
from a pool, which is drawn afresh for every dispatch (the curve's losses are means over the last dispatch, too). A
training dispatch is

    [ environment steps -> replay -> gradient updates ]*      then the buffer check

with one gradient update per environment step and the agent's delayed part after every `delay` updates.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from sparserl_jax.agents.agent import Agent, Clock
from sparserl_jax.envs import (
    Environment,
    EnvState,
    Finished,
    Lookahead,
    Transition,
    advance,
    evaluate,
    evaluate_ahead,
    make_pool,
    start,
)
from sparserl_jax.errors import UserError
from sparserl_jax.replay import check, hindsight, init, insert, sample, slots_needed
from sparserl_jax.replay import size as replay_size
from sparserl_jax.sparsity.contract import Evidence
from sparserl_jax.training import diagnostics
from sparserl_jax.training.config import Training
from sparserl_jax.training.population import Member, MemberSettings, Tally, buffer_rows

POOL = 32
"""Initial states drawn afresh for every dispatch where resetting an environment costs as much as stepping it."""


def member_key(settings: MemberSettings, purpose: str, at: jax.Array | int = 0) -> jax.Array:
    """Key of a member for one purpose at one moment."""
    return jax.random.fold_in(jax.random.wrap_key_data(settings.keys[purpose]), at)


def further_keys(settings: MemberSettings, clock: Clock) -> Iterator[jax.Array]:
    """Keys of the further batches that a method may draw in one update: every call has its own."""
    for call in itertools.count():
        yield jax.random.fold_in(member_key(settings, "extra", clock.update), call)


def evaluation_key(key_data: jax.Array, step: jax.Array | int, repeat: jax.Array | int) -> jax.Array:
    """Key of one evaluation: at environment step `step`, curve point (`repeat` 0) or part number `repeat` of the final
    one."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key_data), step), repeat)


def evaluation_returns(
    env: Environment,
    policy: Callable[..., jax.Array],
    key_data: jax.Array,
    step: jax.Array | int,
    repeat: jax.Array | int,
    episodes: int,
    sampled: bool = False,
) -> jax.Array:
    """Returns f32[episodes] of one evaluation, for whoever evaluates a policy again with the key data of the run;
    `policy` and `sampled` as of `envs.evaluate`."""
    return evaluate(env, evaluation_key(key_data, step, repeat), policy, episodes, sampled=sampled)


def counted(tally: Tally, finished: Finished) -> Tally:
    """The counts with the episodes in them that ended in one step of a member's environments."""
    done = jnp.any(finished.done)
    last = jnp.sum(jnp.where(finished.done, finished.returns, 0.0)) / jnp.maximum(jnp.sum(finished.done), 1)
    return tally._replace(
        last_return=jnp.where(done, last, tally.last_return),
        episodes=tally.episodes + jnp.sum(finished.done, dtype=jnp.int32),
        invalid=tally.invalid + finished.invalid,
    )


def watched(member: Member, metrics: dict[str, jax.Array]) -> Member:
    """The member, broken where a loss of its dispatch was not finite."""
    losses = [value for name, value in metrics.items() if name.endswith("_loss")]
    broken = ~jnp.all(jnp.isfinite(jnp.stack(losses)))
    return member._replace(tally=member.tally._replace(broken=member.tally.broken | broken))


class Stages:
    """The stages of one Program as per-member functions."""

    def __init__(
        self, training: Training, agent: Agent, env: Environment, n_max: int, keep_mean: bool
    ) -> None:
        self.training, self.agent, self.env = training, agent, env
        self.n_max, self.keep_mean = n_max, keep_mean
        self.pooled = bool(getattr(env, "expensive_reset", False))

    @property
    def first_actions(self) -> str:
        """How members act before the first update: at random, as the actor that training starts from, or as the policy
        to clone, whose actions are the dataset."""
        if self.agent.experience == "dataset":
            return "expert"
        given = self.training.start
        return "uniform" if given is None or "actor" not in given.networks else "noise"

    def init(self, settings: MemberSettings) -> Member:
        """A member at its start: fresh, or with the networks that the training is given."""
        return self._fresh(settings, start(self.env, member_key(settings, "start"), self.training.num_envs))

    def _fresh(self, settings: MemberSettings, envs: EnvState | tuple[()]) -> Member:
        """A member whose environments have been reset; `()` where it has none."""
        training = self.training
        agent = self.agent.init(member_key(settings, "agent"), settings.agent)
        if training.start is not None:
            if self.agent.begin is None:
                raise UserError(
                    f"agent '{self.agent.name}' cannot start from trained networks; leave --from out."
                )
            agent = self.agent.begin(agent, training.start.arrays)
        if settings.given.masks:
            assert self.agent.under is not None, "the plan refuses tickets of other agents"
            agent = self.agent.under(agent, settings.given.masks)
        tally = Tally(
            last_return=jnp.zeros((), jnp.float32),
            episodes=jnp.zeros((), jnp.int32),
            invalid=jnp.zeros((), jnp.int32),
            broken=jnp.zeros((), bool),
            events={name: jnp.zeros((), jnp.int32) for name in self.agent.layers},
        )
        history = diagnostics.begin_history(self.agent.masks(agent), self.agent.layers)
        return Member(agent, envs, self._replay(envs), tally, history)

    def _replay(self, envs: EnvState | tuple[()]) -> Any:
        """An empty replay of episodes that have just begun."""
        assert isinstance(envs, EnvState)
        rows, spec = buffer_rows(self.training), self.env.spec
        slots, num_envs = slots_needed(rows, spec.max_episode_steps), self.training.num_envs
        sizes, relabels = (rows, num_envs, spec.obs_dim, spec.action_dim), self.agent.hindsight is not None
        return init(*sizes, slots, self.keep_mean, envs.obs, keep_episodes=relabels)

    def warm_up(self, member: Member, settings: MemberSettings, clock: Clock) -> Member:
        """One dispatch without updates."""
        pool = self._pool(settings, clock)
        explore = self.first_actions

        def step(carry: tuple[Member, Clock], _: None) -> tuple[tuple[Member, Clock], None]:
            return self._collect(*carry, settings, pool, explore=explore), None

        steps = self.training.dispatch_steps // self.training.num_envs
        (member, clock), _ = jax.lax.scan(step, (member, clock), length=steps)
        return self._check_buffer(member, settings, clock)

    def train(
        self, member: Member, settings: MemberSettings, clock: Clock
    ) -> tuple[Member, dict[str, jax.Array]]:
        """One dispatch of training; metrics are means over the dispatch."""
        pool, delay, num_envs = self._pool(settings, clock), self.agent.delay, self.training.num_envs
        Carry = tuple[Member, Clock]

        def tick(carry: Carry, _: None) -> tuple[Carry, tuple[Any, dict[str, jax.Array]]]:
            if num_envs == 1:
                carry = self._collect(*carry, settings, pool, explore="noise")
            return self._update(*carry, settings)

        def cycle(carry: Carry, _: None) -> tuple[Carry, dict[str, jax.Array]]:
            carry, (batches, metrics) = jax.lax.scan(tick, carry, length=delay)
            batch = jax.tree.map(lambda x: x[-1], batches)
            member, delayed_metrics = self._delayed(*carry, settings, batch)
            return (member, carry[1]), {**jax.tree.map(jnp.mean, metrics), **delayed_metrics}

        def vector_step(carry: Carry, _: None) -> tuple[Carry, dict[str, jax.Array]]:
            carry = self._collect(*carry, settings, pool, explore="noise")
            carry, metrics = jax.lax.scan(cycle, carry, length=num_envs // delay)
            return carry, jax.tree.map(jnp.mean, metrics)

        steps = self.training.dispatch_steps
        body, length = (cycle, steps // delay) if num_envs == 1 else (vector_step, steps // num_envs)
        (member, clock), metrics = jax.lax.scan(body, (member, clock), length=length)
        metrics = jax.tree.map(jnp.mean, metrics)
        return self._check_buffer(watched(member, metrics), settings, clock), metrics

    def evaluate(
        self, member: Member, settings: MemberSettings, clock: Clock, repeat: jax.Array
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """Returns [episodes] of the deployed policy on keys common to all arms, and the member's diagnostics; beside
        them the history of its masks with this look in it."""
        params, _, _ = self.agent.deployed(member.agent)
        sampled = self.training.evaluation.sampled
        policy = self.agent.sample_policy if sampled else self.agent.policy
        assert policy is not None, "the program refuses to draw from such agents"
        returns, ahead = evaluate_ahead(
            self.env,
            evaluation_key(settings.evaluation_key, clock.step, repeat),
            functools.partial(policy, params),
            self.training.evaluation.episodes,
            self.agent.gamma(member.agent),
            sampled=sampled,
        )
        seen, history = self._seen(member, settings, clock, ahead)
        return {"returns": returns, **seen}, history

    def _seen(
        self, member: Member, settings: MemberSettings, clock: Clock, ahead: Lookahead
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """The member's diagnostics and counts, and the history of its masks with this look in it."""
        seen, history = self._diagnose(member, settings, clock)
        seen["q_bias"] = diagnostics.value_bias(lambda obs: self.agent.value(member.agent, obs), ahead)
        tally = member.tally._asdict()
        events = {f"events_{name}": count for name, count in tally.pop("events").items()}
        return {**seen, **events, **tally}, history

    def harvest(self, member: Member) -> dict[str, dict[str, Any]]:
        """What a finished member leaves: `{"params": ..., "masks": ...}` by network, the acting one as deployed."""
        acting, _, _ = self.agent.deployed(member.agent)
        params = {**self.agent.weights(member.agent), "actor": acting}
        return {"params": params, "masks": self.agent.masks(member.agent)}

    # ---- parts ----------------------------------------------------------------------------------------------------

    def _head(self, clock: Clock) -> jax.Array:
        """Rows of the replay that have been written."""
        step = clock.step
        if self.agent.experience == "dataset":
            step = jnp.minimum(step, self.training.warm_up)
        return step // self.training.num_envs

    def _held(self, member: Member, clock: Clock) -> jax.Array:
        """Transitions to learn from."""
        return replay_size(member.replay, self._head(clock))

    def _pool(self, settings: MemberSettings, clock: Clock) -> Any:
        if not self.pooled:
            return None
        return make_pool(self.env, member_key(settings, "pool", clock.step), POOL)

    def _collect(
        self, member: Member, clock: Clock, settings: MemberSettings, pool: Any, explore: str
    ) -> tuple[Member, Clock]:
        """One step of the member's environments into its replay; a step of the clock alone where it learns from what
        the warm-up left there."""
        if explore == "noise" and self.agent.experience == "dataset":
            return member, clock._replace(step=clock.step + self.training.num_envs)
        action, mean = self._explore(member, clock, settings, explore)
        envs, transition, finished = advance(
            self.env, member.envs, member_key(settings, "step", clock.step), action, pool
        )
        return self._store(member, clock, settings, mean, envs, transition, finished)

    def _explore(
        self, member: Member, clock: Clock, settings: MemberSettings, explore: str
    ) -> tuple[jax.Array, jax.Array]:
        """Actions [E, action] to take, and the same without noise."""
        key = member_key(settings, "act", clock.step)
        if explore == "uniform":
            shape = (self.training.num_envs, self.env.spec.action_dim)
            action = jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
            return action, action
        if explore == "expert":
            action = self.agent.policy(settings.given.expert, member.envs.obs)
            return action, action
        return self.agent.act(member.agent, member.envs.obs, key, True)

    def _store(
        self,
        member: Member,
        clock: Clock,
        settings: MemberSettings,
        mean: jax.Array,
        envs: EnvState,
        transition: Transition,
        finished: Finished,
    ) -> tuple[Member, Clock]:
        """What a step gave into the replay and the counts."""
        kept_mean = mean if self.keep_mean else None
        replay = insert(member.replay, self._head(clock), transition, kept_mean, settings.capacity.max_rows)
        tally = counted(member.tally, finished)
        clock = clock._replace(step=clock.step + self.training.num_envs)
        return member._replace(envs=envs, replay=replay, tally=tally), clock

    def _draw(self, member: Member, clock: Clock, settings: MemberSettings, key: jax.Array, size: int) -> Any:
        if self.agent.hindsight is not None:
            goal, limit = self.env.spec.goal, self.env.spec.max_episode_steps
            assert goal is not None, "refused in spaces.py"
            share = self.agent.hindsight(member.agent)
            return hindsight.sample(member.replay, self._head(clock), key, size, goal, share, limit)
        early = (
            clock.update + 1 < self.training.schedule.delay
        )  # updates are counted from 1, as in RLx2's code
        n = jnp.where(early, settings.n_early, settings.n)
        inside = self.agent.successors and self.n_max > 1
        return sample(member.replay, self._head(clock), key, size, self.n_max, n, successors=inside)

    def _evidence(self, member: Member, clock: Clock, settings: MemberSettings) -> Evidence:
        def unavailable(*_: Any) -> Any:
            raise NotImplementedError("filled in by the agent")

        keys = further_keys(settings, clock)
        return Evidence(
            grad=unavailable,
            hvp=unavailable,
            activations=unavailable,
            batch=lambda size: self._draw(member, clock, settings, next(keys), size),
            init_params=unavailable,
            episode_return=lambda: member.tally.last_return,
        )

    def _update(
        self, member: Member, clock: Clock, settings: MemberSettings
    ) -> tuple[tuple[Member, Clock], tuple[Any, dict[str, jax.Array]]]:
        batch = self._draw(
            member,
            clock,
            settings,
            member_key(settings, "sample", clock.update),
            self.training.agent.batch_size,
        )
        key = member_key(settings, "update", clock.update)
        agent, metrics = self.agent.update(
            member.agent, batch, key, clock, self._evidence(member, clock, settings)
        )
        member = self._account(member._replace(agent=agent), clock, metrics)
        return (member, clock._replace(update=clock.update + 1)), (batch, metrics)

    def _delayed(
        self, member: Member, clock: Clock, settings: MemberSettings, batch: Any
    ) -> tuple[Member, dict[str, jax.Array]]:
        key = member_key(settings, "delayed", clock.update)
        agent, metrics = self.agent.delayed(
            member.agent, batch, key, clock, self._evidence(member, clock, settings)
        )
        return self._account(member._replace(agent=agent), clock, metrics), metrics

    def _account(self, member: Member, clock: Clock, metrics: dict[str, Any]) -> Member:
        """Take events and resets out of the metrics: count the first, obey the second."""
        events = dict(member.tally.events)
        for name, happened in metrics.pop("events", {}).items():
            events[name] = events[name] + happened.astype(jnp.int32)
        member = member._replace(tally=member.tally._replace(events=events))
        reset = metrics.pop("reset_replay", None)
        if reset is None:
            return member
        # Not quite empty, about a batch stays: an update must find a window to draw. Rows hold one transition of each
        # parallel environment.
        rows = -(-self.training.agent.batch_size // self.training.num_envs)
        newest = self._head(clock) - max(rows, self.n_max)
        left = jnp.where(reset, jnp.maximum(member.replay.left, newest), member.replay.left)
        return member._replace(replay=member.replay._replace(left=left))

    def _diagnose(
        self, member: Member, settings: MemberSettings, clock: Clock
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """Diagnostics that need no episodes (see diagnostics.py), and the history of masks with this look in it."""
        draw_key, key = jax.random.split(member_key(settings, "diagnose", clock.step))
        batch = self._draw(member, clock, settings, draw_key, self.training.agent.batch_size)
        masks = self.agent.masks(member.agent)
        changes, history = diagnostics.read_history(member.history, masks, self.agent.layers)
        distance = jnp.full((), jnp.nan, jnp.float32)
        if self.keep_mean:
            _, distance = self._apply_rule(
                member, clock, settings.capacity._replace(dynamic=jnp.bool_(False))
            )
        return {
            "buffer": self._held(member, clock),
            "policy_distance": distance,
            **changes,
            **self.agent.diagnose(member.agent, batch, key, clock),
        }, history

    def _apply_rule(self, member: Member, clock: Clock, capacity: Any) -> tuple[Any, jax.Array]:
        """Replay under the rule, and the policy distance that was measured."""
        params, _, _ = self.agent.deployed(member.agent)
        return check(
            member.replay,
            self._head(clock),
            capacity,
            lambda obs: self.agent.policy(params, obs),
            self.training.buffer_oldest,
        )

    def _check_buffer(self, member: Member, settings: MemberSettings, clock: Clock) -> Member:
        """The dynamic capacity rule, where it is due and any member follows it."""
        if not self.keep_mean:
            return member
        moment = clock.step % self.training.schedule.buffer_check == 0
        left = jax.lax.cond(
            moment,
            lambda: self._apply_rule(member, clock, settings.capacity)[0].left,
            lambda: member.replay.left,
        )
        return member._replace(replay=member.replay._replace(left=left))
