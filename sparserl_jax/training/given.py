"""What a run takes from finished runs of its suite: masks to keep frozen (a lottery ticket), a policy to clone.

RLx2, Figures 3 and 7 and appendix C.4; the name is that of Frankle and Carbin 2019. What is taken is given to a Program
when it is executed, as arrays with a member axis, so that every member has its own; the plan knows shapes only.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax

from sparserl_jax.agents.agent import Agent


@dataclasses.dataclass(frozen=True)
class Ticket:
    """Masks of another arm's finished runs, seed by seed, never changed again.

    arm: whose runs they are. mask: `final`, as that run ended, or `random`, drawn anew with as many weights in every
    tensor. weights: `rewound` to the initial draw of that run, or `random`, a draw of the run's own.
    """

    arm: str
    mask: Literal["final", "random"] = "final"
    weights: Literal["rewound", "random"] = "rewound"


@dataclasses.dataclass(frozen=True)
class Source:
    """A run that something is taken from: the name of its files within its environment, and its key's name."""

    run: str
    key_name: str


class Given(NamedTuple):
    """Arrays of members `[member, ...]`, or of one; empty where nothing is taken.

    masks: {network: tree of bool arrays that mirrors the parameters}. expert: parameters of the acting network to
    clone.
    """

    masks: Any = ()
    expert: Any = ()


def shapes(agent: Agent, settings: dict[str, Any], members: int, *, masks: bool, expert: bool) -> Given:
    """Shapes of what `members` members take; `settings`: those for `agent.init` of one of them."""

    def parts(key: jax.Array) -> tuple[Any, Any]:
        state = agent.init(key, settings)
        return agent.masks(state), agent.networks(state)["actor"].params

    live, params = jax.eval_shape(parts, jax.eval_shape(lambda: jax.random.key(0)))

    def of_all(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((members, *leaf.shape), leaf.dtype), tree)

    return Given(of_all(live) if masks else (), of_all(params) if expert else ())
