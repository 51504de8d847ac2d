"""A replay memory as a plain Python list of episodes: slow, obvious, nothing shared with the package."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass
class Moment:
    """One step of one environment, with its true next observation."""

    obs: np.ndarray
    action: np.ndarray
    mean: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    final_obs: np.ndarray


class History:
    """Everything that happened to `num_envs` environments since the start; `left` says what still counts."""

    def __init__(self, num_envs: int, rows: int, slots: int) -> None:
        self.num_envs, self.rows, self.slots = num_envs, rows, slots
        self.episodes: list[list[list[Moment]]] = [[[]] for _ in range(num_envs)]
        self.places: list[list[tuple[int, int]]] = [[] for _ in range(num_envs)]  # row -> (episode, step)
        self.left = 0
        self.head = 0

    def append(self, moments: list[Moment], capacity: int) -> None:
        for env, moment in enumerate(moments):
            episode = self.episodes[env][-1]
            episode.append(moment)
            self.places[env].append((len(self.episodes[env]) - 1, len(episode) - 1))
            if moment.terminated or moment.truncated:
                self.episodes[env].append([])
        self.head += 1
        while self.head - self.left > min(capacity, self.rows - 1):
            self.left += 1

    def moment(self, row: int, env: int) -> Moment:
        episode, step = self.places[env][row]
        return self.episodes[env][episode][step]

    def remembered(self, row: int, env: int) -> bool:
        """Is the final observation of the time-limit end at `row` among the last `slots` of this environment?"""
        cuts = [r for r in range(self.head) if self.moment(r, env).truncated]
        return row in cuts[-self.slots :]

    def window(self, row: int, env: int, n: int) -> list[Moment]:
        """Up to n steps of the episode that holds `row`, from there on."""
        episode, step = self.places[env][row]
        return self.episodes[env][episode][step : step + n]

    def legal(self, row: int, env: int, n: int) -> bool:
        if row < self.left or row + n > self.head:
            return False
        window = self.window(row, env, n)
        return not window[-1].truncated or self.remembered(row + len(window) - 1, env)

    def released_rule(self, policy: Callable, threshold: float, min_rows: int, oldest: int) -> None:
        """Half the mean square against the noise-free actions; one drop of 10 %."""
        rows = range(self.left, self.head)[: max(1, oldest // self.num_envs)]
        moments = [self.moment(row, env) for row in rows for env in range(self.num_envs)]
        if not moments:
            return
        distance = 0.5 * np.mean([np.asarray(policy(m.obs) - m.mean, np.float64) ** 2 for m in moments])
        if distance > threshold and self.head - self.left > min_rows:
            self.left += int(0.1 * (self.head - self.left))

    def paper_rule(self, policy: Callable, threshold: float, min_rows: int, oldest: int) -> None:
        """Mean Euclidean distance to the actions taken; pop the oldest until it is small."""
        while self.head - self.left > min_rows:
            rows = range(self.left, self.head)[: max(1, oldest // self.num_envs)]
            moments = [self.moment(row, env) for row in rows for env in range(self.num_envs)]
            gaps = [np.asarray(policy(m.obs) - m.action, np.float64) for m in moments]
            distance = np.mean([np.linalg.norm(gap) for gap in gaps])
            if distance <= threshold:
                return
            self.left += 1
