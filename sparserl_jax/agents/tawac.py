"""TAWAC, advantage weighted actor-critic with Tsallis weights (Zhu et al. 2024; a baseline of FtTPO, Zhu et al. 2025).

    L_V  = mean (V(s) - min Q'(s, b))^2, b ~ pi(. | s)
    L_Q  = mean (r + (1 - d) gamma min Q'(s', a') - Q(s, a))^2, for both critics, a' ~ pi(. | s')
    L_pi = mean - clip([1 + (q - 1) A / temperature]_+^(1 / (q - 1)), 1e-8, 1e4) log pi(a | s)
    A    = min Q(s, a) - V(s)

At q = 2 the weight is the truncated line [1 + A / temperature]_+: actions that are worse by more than a temperature
weigh nothing. At q = 1 it is the exponential. (In terms of `distributions.exp_q` the index is 2 - q.) These are the
losses of the code released with FtTPO, but for constant factors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax

from sparserl_jax.agents.agent import Agent, Range
from sparserl_jax.agents.in_sample import InSample, InSampleConfig, tsallis
from sparserl_jax.agents.optimise import Loss
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity.contract import Events, Sparsifier


class Traced(NamedTuple):
    """Numbers of TAWAC that no shape depends on, f32 scalars, but for discounts: gamma^k for k = 0 to 100, `[101]`."""

    learning_rate: Any
    tau: Any
    discounts: Any
    temperature: Any


@dataclasses.dataclass(frozen=True)
class TAWACConfig(InSampleConfig):
    """Hyper-parameters of TAWAC. q: of the weights, 1 or more. Others as in `InSampleConfig`; published temperatures
    are 1, 0.5 and 0.01, one for each dataset."""

    TRACED: ClassVar[Mapping[str, Range]] = {
        **InSampleConfig.TRACED,
        "temperature": Range(0.0, above=True),
    }
    NUMBERS: ClassVar[Callable[..., Any]] = Traced

    name: str = "tawac"
    temperature: float = 0.5
    q: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.q >= 1.0:
            raise UserError(
                f"agent.q = {self.q} must be at least 1: 2 is published, 1 makes exponential weights."
            )


def evaluated(common: InSample) -> dict[str, Callable[[Any, Any, jax.Array], Loss]]:
    """L_V and L_Q."""

    def value_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        return common.value_error(batch, common.drawn(state, batch.obs, key)[0])

    def critic_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        return common.bellman(state, batch, common.drawn(state, batch.closing_obs, key)[0])

    return {"value": value_loss, "critic": critic_loss}


def make(
    config: TAWACConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """TAWAC for observations of length `obs_dim` and actions of length `action_dim`; arguments and settings as of
    `td3.make`, with a third network, `value`."""
    common = InSample(config, obs_dim, action_dim, sparsifiers, events)

    def actor_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        """L_pi."""
        advantage = common.advantage(state, batch, key)
        return common.likelihood(batch, tsallis(advantage, state.traced.temperature, 2.0 - config.q))

    return common.learner({**evaluated(common), "actor": actor_loss})
