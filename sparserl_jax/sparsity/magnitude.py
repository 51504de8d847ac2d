"""Magnitude pruning of a dense network: gradually or at once, tensor by tensor or all tensors together.

Gradual magnitude pruning (Zhu and Gupta 2017) removes at every event the live weights of smallest |w|, so that the
sparsity after tick t of T is

    s(t) = S (1 - (1 - x)^3),   x = (t / T - 0.2) / (0.8 - 0.2) cut to [0, 1]

(Obando-Ceron et al. 2024 for the shares of training in reinforcement learning). Per tensor S is that of
Erdos-Renyi-kernel or uniform allocation and every tensor follows its own curve; together, all weights of a network
compete. At once means the same final counts in one event.
"""

from __future__ import annotations

from collections.abc import Callable

from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import allocation, pruning
from sparserl_jax.sparsity.contract import Events, Method

# Budgets are declared by families: exact in every tensor, or exact in sum alone. Two families say both truthfully (and
# nobody selects twice); gradual and at once differ in numbers and share their family's program.
BY_TENSOR = pruning.family("magnitude", pruning.magnitude, pruning.per_tensor)
TOGETHER = pruning.family("magnitude_global", pruning.magnitude, pruning.over_all)

BEGIN, END = 0.2, 0.8
"""Shares of training between which sparsity rises."""
WHEN = END
"""Share of training at which everything is removed at once: where gradual pruning is done, so that both have the same
time to recover."""

Done = Callable[[Events], list[float]]


def by_tensor(
    name: str, done: Done, summary: str, allocate: Callable[[LayerTable, float], list[int]] = allocation.erk
) -> Method:
    """A method that prunes every tensor to its own count.

    Args:
        done: when, see `pruning.gradually` and `pruning.at_once`.
        allocate: live weights of each tensor at a sparsity, see `allocation`.
    """

    def settings(layers: LayerTable, knob: float, events: Events, source: str) -> pruning.Settings:
        return pruning.settings(layers, allocate(layers, knob), events, done(events))

    return pruning.method(name, BY_TENSOR, settings, summary)


def together(name: str, done: Done, summary: str) -> Method:
    """A method that prunes all tensors of a network by one threshold."""

    def settings(layers: LayerTable, knob: float, events: Events, source: str) -> pruning.Settings:
        return pruning.settings_in_all(layers, knob, events, done(events))

    return pruning.method(name, TOGETHER, settings, summary)
