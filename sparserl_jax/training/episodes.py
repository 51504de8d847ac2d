"""The running episodes of a population on the host, and what brings them back after a stop.

Every reset has a seed of its own, made from the member's key and the number of the episode. The log holds, for each
member, that seed and the actions since: doing them again in a fresh environment gives the same state, if the
environment is repeatable. A step counts only when it is committed, so a log never speaks of half a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparserl_jax.data import OfflineDataset
from sparserl_jax.envs import HostEnvironment, Lookahead, Step, start_steps
from sparserl_jax.envs.host import Broken, begin, env_units, instances, proceed
from sparserl_jax.training.host_stages import Taken


class Log(NamedTuple):
    """What a checkpoint holds of every running episode. Axes: M members, T longest episode, A actions.

    seed u32[M] of its reset. episode i32[M], its number. length i32[M], steps since. actions f32[M,T,A] of the agent,
    in [-1, 1], meaningful before `length`.
    """

    seed: np.ndarray
    episode: np.ndarray
    length: np.ndarray
    actions: np.ndarray


class BrokenAt(Exception):
    """`Broken`, and the member it happened to."""

    def __init__(self, member: int, reason: str) -> None:
        super().__init__(reason)
        self.member = member


def reset_seed(key: np.ndarray, *numbers: int) -> int:
    """Seed of a reset, below 2^31, from key data u32[2] and the numbers that tell it from others of that key."""
    words = np.random.SeedSequence([int(word) for word in (*key, *numbers)]).generate_state(1)
    return int(words[0]) >> 1  # some environments hand it to code that takes a signed 32-bit integer


class Episodes:
    """One environment per member.

    Args:
        env: the environment; every member gets a fresh instance of it.
        keys: key data u32[M,2] of the members' resets.
        longest: steps an episode can have at most, T.
    """

    def __init__(self, env: HostEnvironment, keys: np.ndarray, longest: int) -> None:
        self.spec, self.keys = env.spec, np.asarray(keys)
        self.envs = instances(env, len(self.keys))
        members = len(self.envs)
        self.log = Log(
            np.zeros(members, np.uint32),
            np.zeros(members, np.int32),
            np.zeros(members, np.int32),
            np.zeros((members, longest, self.spec.action_dim), np.float32),
        )
        self.obs = np.zeros((members, self.spec.obs_dim), np.float32)
        self._pending: tuple[np.ndarray, np.ndarray, dict[int, int], np.ndarray] | None = None

    def start(self) -> np.ndarray:
        """First observations f32[M,E,O] of everybody's episode 0."""
        for member in range(len(self.envs)):
            self._restart(member, 0)
        return self.obs[:, None].copy()

    def step(self, action: np.ndarray) -> Taken:
        """One step of all members with the agent's actions f32[M,E,A]; not part of the log until `commit`.

        Raises BrokenAt.
        """
        action = np.clip(action[:, 0], np.float32(-1.0), np.float32(1.0))
        units = env_units(self.spec, action)
        members = len(self.envs)
        final, following = np.empty_like(self.obs), np.empty_like(self.obs)
        reward = np.zeros((members, 1), np.float32)
        terminated, truncated, invalid = (np.zeros((members, 1), bool) for _ in range(3))
        begun: dict[int, int] = {}
        for m, env in enumerate(self.envs):
            try:
                step = proceed(env, self.obs[m], units[m], int(self.log.length[m]) + 1)
                final[m] = following[m] = step.obs
                reward[m], terminated[m], truncated[m], invalid[m] = step[1:]
                if step.terminated or step.truncated:
                    begun[m] = reset_seed(self.keys[m], int(self.log.episode[m]) + 1)
                    following[m] = begin(env, begun[m])
            except Broken as broken:
                raise BrokenAt(m, str(broken)) from broken
        done = terminated | truncated
        self._pending = action, done[:, 0], begun, following
        return Taken(Step(final[:, None], reward, terminated, truncated), invalid, following[:, None])  # type: ignore[arg-type]

    def commit(self) -> None:
        """The last step has become part of the population."""
        assert self._pending is not None
        action, done, begun, self.obs = self._pending
        log, going = self.log, np.flatnonzero(~done)
        log.actions[going, log.length[going]] = action[going]
        log.length[going] += 1
        for member, seed in begun.items():
            log.seed[member], log.length[member] = seed, 0
            log.episode[member] += 1
        self._pending = None

    def resume(self, log: Log, obs: np.ndarray) -> np.ndarray:
        """Bring the logged episodes back; `obs` f32[M,O] is where they stood.

        Returns bool[M], whose could not be: their environment is not repeatable, or its observation at the end is
        not `obs` in every bit. Their next episode has begun instead. Raises BrokenAt.
        """
        self.log = Log(*(np.array(part) for part in log))
        self.obs = np.array(obs, np.float32)
        lost = np.array([not self._replayed(member) for member in range(len(self.envs))])
        for member in np.flatnonzero(lost):
            self._restart(int(member), int(self.log.episode[member]) + 1)
        return lost

    def close(self) -> None:
        """Give the environments back."""
        for env in self.envs:
            env.close()

    def _replayed(self, member: int) -> bool:
        env, log = self.envs[member], self.log
        if not env.repeatable:
            return False
        try:
            obs = begin(env, int(log.seed[member]))
            for number, action in enumerate(log.actions[member, : log.length[member]], start=1):
                step = proceed(env, obs, env_units(self.spec, action), number)
                obs = step.obs
                if step.terminated or step.truncated:
                    return False
        except Broken:
            return False
        return obs.tobytes() == self.obs[member].tobytes()

    def _restart(self, member: int, episode: int) -> None:
        seed = reset_seed(self.keys[member], episode)
        try:
            self.obs[member] = begin(self.envs[member], seed)
        except Broken as broken:
            raise BrokenAt(member, str(broken)) from broken
        self.log.seed[member], self.log.episode[member], self.log.length[member] = seed, episode, 0


def evaluation(
    call: Callable[..., Any], params: Any, key: np.ndarray, step: int, repeat: int, episodes: int, drawn: bool
) -> tuple[Callable[[np.ndarray], np.ndarray], list[int]]:
    """What `play` needs for one evaluation: how members act, and the seeds of its episodes.

    Args:
        call: what `host_stages.acting` made, with or without draws (`drawn`); params: of the acting networks, [M,...].
        key: key data u32[2] of evaluations; step, repeat: which one.
    """
    calls, moment = itertools.count(), (key, np.int32(step), np.int32(repeat))

    def act(obs: np.ndarray) -> np.ndarray:
        more = (*moment, np.int32(next(calls))) if drawn else ()
        return np.asarray(call(params, obs, *more))

    return act, [reset_seed(key, step, repeat, episode) for episode in range(episodes)]


def play(
    envs: Sequence[HostEnvironment], act: Callable[[np.ndarray], np.ndarray], seeds: Sequence[int]
) -> np.ndarray:
    """Undiscounted returns f32[M, episodes]: every member plays whole episodes, one from each seed.

    Args:
        envs: one environment per member.
        act: observations f32[M,E,O] to deterministic actions [M,E,A] in [-1, 1].
        seeds: of the resets, common to all members.

    Raises BrokenAt.
    """
    return play_ahead(envs, act, seeds, np.zeros(len(envs)))[0]


def play_ahead(
    envs: Sequence[HostEnvironment],
    act: Callable[[np.ndarray], np.ndarray],
    seeds: Sequence[int],
    gamma: np.ndarray,
) -> tuple[np.ndarray, Lookahead]:
    """`play`, and what the states at `start_steps` of the episodes turned out to be worth at discounts `gamma` f32[M],
    `[M, ...]`."""
    spec, members, starts = envs[0].spec, len(envs), np.array(start_steps(envs[0]))
    looked = (members, len(starts), len(seeds))
    zeros: Any = np.zeros  # a Lookahead on the host
    seen = Lookahead(
        obs=zeros((*looked, spec.obs_dim), np.float32),
        visited=zeros(looked, bool),
        returns=zeros(looked),
        discount=zeros(looked),
        last_obs=zeros((members, len(seeds), spec.obs_dim), np.float32),
    )
    obs = np.zeros((members, spec.obs_dim), np.float32)
    returns = np.zeros((members, len(seeds)))
    episode, time = np.zeros(members, int), np.zeros(members, int)  # members do not wait for each other
    member = 0
    try:
        for member, env in enumerate(envs):
            obs[member] = begin(env, seeds[0])
        while np.any(episode < len(seeds)):
            units = env_units(spec, act(obs[:, None])[:, 0])
            for member in np.flatnonzero(episode < len(seeds)).tolist():
                step = proceed(envs[member], obs[member], units[member], int(time[member]) + 1)
                place = (member, ..., episode[member])
                _look(seen, place, starts == time[member], obs[member], step, gamma[member])
                returns[member, episode[member]] += step.reward
                obs[member], time[member] = step.obs, time[member] + 1
                if step.terminated or step.truncated:
                    seen.last_obs[member, episode[member]] = step.obs
                    episode[member], time[member] = episode[member] + 1, 0
                    if episode[member] < len(seeds):
                        obs[member] = begin(envs[member], seeds[episode[member]])
    except Broken as broken:
        raise BrokenAt(member, str(broken)) from broken
    exact = {"returns": seen.returns.astype(np.float32), "discount": seen.discount.astype(np.float32)}
    return returns.astype(np.float32), seen._replace(**exact)


def record(
    env: HostEnvironment, act: Callable[[np.random.Generator, np.ndarray], np.ndarray], seed: int
) -> OfflineDataset:
    """One whole episode as a dataset.

    Args:
        act: random numbers of the episode and an observation f32[O] to an action f32[A], which is clipped to [-1, 1].
        seed: of the reset and of the random numbers.

    Raises Broken.
    """
    rng = np.random.default_rng([seed, 1])  # of two words: the seed by itself is the environment's
    obs, done = begin(env, seed).copy(), False  # some environments write into one array of theirs
    rows: list[tuple[Any, ...]] = []
    while not done:
        action = np.clip(act(rng, obs), np.float32(-1.0), np.float32(1.0))
        step = proceed(env, obs, env_units(env.spec, action), len(rows) + 1)
        flags = np.bool_(step.terminated), np.bool_(step.truncated)
        after = step.obs.copy()
        rows.append((obs, action, np.float32(step.reward), after, *flags))
        obs, done = after, step.terminated or step.truncated
    return OfflineDataset(*(np.stack(column) for column in zip(*rows, strict=True)))


def _look(
    seen: Any, place: tuple[Any, ...], begins: np.ndarray, obs: np.ndarray, step: Any, gamma: float
) -> None:
    """One step of one member's episode, at `place` of `seen`; begins bool[J]: it is a start step."""
    member, _, episode = place
    seen.obs[member, begins, episode] = obs
    seen.visited[place] |= begins
    counts = seen.visited[place]
    weight = np.where(begins, 1.0, seen.discount[place])
    seen.returns[place] += np.where(counts, weight * step.reward, 0.0)
    seen.discount[place] = np.where(counts & (not step.terminated), gamma * weight, 0.0)
