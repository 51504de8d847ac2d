"""The n-step target of RLx2, the loop of the released replay buffer re-stated in pure Python."""

from __future__ import annotations

from collections.abc import Sequence


def n_step(
    rewards: Sequence[float], not_done: Sequence[bool], reset: Sequence[bool], gamma: float
) -> tuple[float, float, int]:
    """n-step return of `n = len(rewards)` consecutive slots of the ring, which need not belong to one episode.

    Args:
        rewards: r_k.
        not_done: False where the episode ended in a terminal state.
        reset: True where the episode was cut by its time limit.
        gamma: discount.

    Returns:
        R, the discount `b * gamma^(j+1)` of the bootstrap value, and j (meaningless when the discount is 0): the
        target is `R + discount * Q(s'_j)`.
    """
    n = len(rewards)
    total, b, c, j = 0.0, 1, 1, 0
    for k in range(n):
        total += c * b * gamma**k * rewards[k]
        b *= max(int(not_done[k]), 1 - c)  # ends after a time-limit cut are ignored
        if k == n - 1:
            break
        c *= 1 - int(reset[k])
        j += c
    return total, b * gamma ** (j + 1), j
