"""IQL, implicit Q-learning (Kostrikov et al. 2022): values of the best logged actions, without a look at any other.

    L_V  = mean |e - 1(u < 0)| u^2,   u = min Q'(s, a) - V(s)                       (equation 5; expectile e)
    L_Q  = mean (r + (1 - d) gamma V(s') - Q(s, a))^2, for both critics             (equation 6)
    L_pi = mean - min(exp((min Q'(s, a) - V(s)) / temperature), 100) log pi(a | s)  (equation 7; their beta is
                                                                                     1 / temperature)

in the order of Algorithm 1; the policy is extracted along the way, as in the authors' code. That does it between L_V
and L_Q, anneals the actor's learning rate along a cosine and has log standard deviations that do not depend on the
state; none of this is done here.
The code released with FtTPO takes a quarter of the critics' loss and clips its gradients at a norm of 100, which is 400
of ours. The authors rescale rewards by the returns of the data; here they are taken as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from sparserl_jax.agents.agent import Agent, Range
from sparserl_jax.agents.in_sample import InSample, InSampleConfig, exponential, mean
from sparserl_jax.agents.optimise import Loss
from sparserl_jax.sparsity.contract import Events, Params, Sparsifier


class Traced(NamedTuple):
    """Numbers of IQL that no shape depends on, f32 scalars, but for discounts: gamma^k for k = 0 to 100, `[101]`."""

    learning_rate: Any
    tau: Any
    discounts: Any
    expectile: Any
    temperature: Any


@dataclasses.dataclass(frozen=True)
class IQLConfig(InSampleConfig):
    """Hyper-parameters of IQL; defaults are those published for MuJoCo's locomotion. expectile: e. Others as in
    `InSampleConfig`."""

    TRACED: ClassVar[Mapping[str, Range]] = {
        **InSampleConfig.TRACED,
        "expectile": Range(0.0, 1.0, above=True),
        "temperature": Range(0.0, above=True),
    }
    NUMBERS: ClassVar[Callable[..., Any]] = Traced

    name: str = "iql"
    expectile: float = 0.7
    temperature: float = 1 / 3


def asymmetric_square(error: jax.Array, expectile: jax.Array | float) -> jax.Array:
    """|e - 1(u < 0)| u^2, whose mean over u = x - m the e-expectile m of x minimises."""
    return jnp.where(error < 0.0, 1.0 - expectile, expectile) * error**2


def make(
    config: IQLConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """IQL for observations of length `obs_dim` and actions of length `action_dim`; arguments and settings as of
    `td3.make`, with a third network, `value`."""
    common = InSample(config, obs_dim, action_dim, sparsifiers, events)

    def value_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        """L_V."""
        found = common.logged(state, batch, key)

        def loss(params: Params) -> tuple[jax.Array, None]:
            error = found - common.state_value(params, batch.obs)
            return mean(batch, asymmetric_square(error, state.traced.expectile)), None

        return loss

    def actor_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        """L_pi."""
        advantage = common.advantage(state, batch, key, of_targets=True)
        return common.likelihood(batch, exponential(advantage, state.traced.temperature))

    return common.learner({"value": value_loss, "critic": common.bootstrapped, "actor": actor_loss})
