"""What algorithms have in common that learn values and a policy from a dataset: networks, the losses that they share,
the order of an update.

One update takes one batch through every network, in this order, each tick seeing what the ones before it changed:

    [behaviour]  [value]  critic  (the critic's target moves by Polyak averaging)  actor

An algorithm says which of the networks in brackets it has and gives a loss for each. Batches hold single transitions
(s, a, r, s'), with d = 1 where s' is terminal. `min Q` is the smaller of the twin critics, `min Q'` that of their
targets. Actions live in [-1, 1]. All networks have one learning rate; nothing is annealed, and no gradient is clipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.agents.actor_critic import ActorCritic, Modules
from sparserl_jax.agents.agent import LATER, Agent, Clock, Range, check_network
from sparserl_jax.agents.optimise import Loss, Network
from sparserl_jax.agents.policies import COVERING, Distribution, Policy, policy_of
from sparserl_jax.agents.targets import discounts, n_step_return
from sparserl_jax.distributions import exp_q, ln_q
from sparserl_jax.errors import UserError
from sparserl_jax.networks import TwinCritic, Value
from sparserl_jax.sparsity.contract import Events, Evidence, Params, Sparsifier

LARGEST_WEIGHT = 100.0
"""Most that a logged action weighs (in the code of IQL; of SQL and XQL, too)."""
WEIGHTS = (1e-8, 1e4)
"""Least and most that one weighs in the code of InAC and TAWAC."""


@dataclasses.dataclass(frozen=True)
class InSampleConfig:
    """What all of these algorithms are told.

    policy: kind of policy, one of POLICIES: most learn from likelihoods of logged actions, which all kinds that cover
    the box have. network, hidden, TRACED, SCHEDULE, NETWORKS, BODIES and experience as in `TD3Config`. NUMBERS: the
    record that `traced` fills. policy_delay: all networks move at every update.
    """

    TRACED: ClassVar[Mapping[str, Range]] = {
        "learning_rate": Range(0.0, above=True),
        "gamma": Range(0.0, 1.0, above=True),
        "tau": Range(0.0, 1.0, above=True),
    }
    NUMBERS: ClassVar[Callable[..., Any]]
    SCHEDULE: ClassVar[Mapping[str, int]] = {}
    NETWORKS: ClassVar[tuple[str, ...]] = ("actor", "critic", "value")
    BODIES: ClassVar[tuple[str, ...]] = ("mlp", "simba")
    POLICIES: ClassVar[tuple[str, ...]] = COVERING
    experience: ClassVar[str] = "dataset"
    policy_delay: ClassVar[int] = 1

    name: str = ""
    hidden: tuple[int, ...] = (256, 256)
    network: str = dataclasses.field(default="mlp", metadata=LATER)
    policy: str = "squashed"
    batch_size: int = 256
    learning_rate: float = 3e-4
    gamma: float = 0.99
    tau: float = 0.005

    def __post_init__(self) -> None:
        check_network(self)
        policy_of(self.policy, self.hidden, 1, self.network)  # refuses kinds that there are not
        if self.policy not in self.POLICIES:
            raise UserError(f"agent '{self.name}'{self.refusal()}")

    def refusal(self) -> str:
        """Why its policy is none of POLICIES that it learns, behind its name."""
        return (
            f": a policy '{self.policy}' gives logged actions outside its support no likelihood to learn from; give "
            f"one of {', '.join(self.POLICIES)}, or take the agent 'fttpo_corrected', which trains such a policy on "
            "draws of its own."
        )

    def traced(self, source: str = "released") -> Any:
        """The traced numbers, as NumPy arrays; the same for a recipe of either `source`."""
        numbers = {name: np.float32(getattr(self, name)) for name in self.TRACED if name != "gamma"}
        return self.NUMBERS(discounts=discounts(self.gamma), **numbers)

    def target_actions(self, n: int, source: str = "released") -> int:
        """Actor passes for the target of one window; they are part of the algorithm's own count of costs."""
        return 1


class State(NamedTuple):
    """One member: three networks, the critics' target as (params, extra), the key data of the initial draw, its own
    numbers."""

    actor: Network
    critic: Network
    value: Network
    target_critic: tuple[Params, Any]
    init_key: jax.Array
    traced: Any


def modules(
    hidden: tuple[int, ...],
    action_dim: int,
    network: str = "mlp",
    image: tuple[int, ...] | None = None,
    policy: str = "squashed",
    beside: tuple[str, ...] = ("value",),
) -> Modules:
    """The networks, and the policy's mode; none reads an `image`. beside: which there are of `value`, `behaviour`."""
    head = policy_of(policy, hidden, action_dim, network)
    further = {"value": Value(hidden, "orthogonal", network), "behaviour": head.module}

    def mode(params: Params, obs: jax.Array) -> jax.Array:
        return head.distribution(params, obs).mode

    critic = TwinCritic(hidden, "orthogonal", network)
    return Modules(head.module, critic, mode, {name: further[name] for name in beside})


def mean(batch: Any, each: jax.Array) -> jax.Array:
    """Mean over a batch, entries that are not valid counted as 0."""
    return jnp.mean(batch.valid.astype(jnp.float32) * each)


def exponential(advantage: jax.Array, temperature: jax.Array) -> jax.Array:
    """Weights min(exp(A / temperature), 100) of logged actions, `[batch]`."""
    return jnp.minimum(jnp.exp(advantage / temperature), LARGEST_WEIGHT)


def tsallis(advantage: jax.Array, temperature: jax.Array, q: float) -> jax.Array:
    """Weights exp_q(A / temperature) in WEIGHTS, `[batch]`: TAWAC's and FtTPO's.

    The exponent is held where the weight reaches its bound: beyond it an exponential overflows, and the gradient of the
    clip, for whoever asks, would be 0 times infinity.
    """
    most = ln_q(jnp.float32(WEIGHTS[1]), q)
    return jnp.clip(exp_q(jnp.minimum(advantage / temperature, most), q), *WEIGHTS)


class InSample(ActorCritic):
    """The networks of such an algorithm; static. Arguments as of `td3.make`."""

    def __init__(
        self,
        config: InSampleConfig,
        obs_dim: int,
        action_dim: int,
        sparsifiers: dict[str, Sparsifier],
        events: dict[str, Events],
    ) -> None:
        self.config = config
        self._head = policy_of(config.policy, config.hidden, action_dim, config.network)
        parts = modules(
            config.hidden,
            action_dim,
            config.network,
            policy=config.policy,
            beside=tuple(name for name in config.NETWORKS if name not in ("actor", "critic")),
        )
        super().__init__(parts, obs_dim, action_dim, sparsifiers, events, targets=("critic",))

    # ---- networks as functions -------------------------------------------------------------------------------------

    def distribution(self, params: Params, obs: jax.Array) -> Distribution:
        """pi(. | s), over `[..., action]`."""
        return self._head.distribution(params, obs)

    def state_value(self, params: Params, obs: jax.Array) -> jax.Array:
        """V(s), [...]."""
        return jnp.asarray(self.modules.beside["value"].apply({"params": params}, obs))

    def logged(self, state: Any, batch: Any, key: jax.Array) -> jax.Array:
        """min Q'(s, a) of the logged actions, `[batch]`."""
        return self.worst(self.target("critic", state, key), batch.obs, batch.action)

    def drawn(self, state: Any, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """min Q'(s, a) of an action drawn from the policy in every s, and log pi(a | s), `[batch]` each."""
        draw_key, actor_key, critic_key = jax.random.split(key, 3)
        policy = self.distribution(self.online("actor", state, "target", actor_key), obs)
        action, log_density = policy.sample_with_density(draw_key)
        return self.worst(self.target("critic", state, critic_key), obs, action), log_density

    def baseline(self, state: Any, obs: jax.Array, key: jax.Array) -> jax.Array:
        """V(s) of the network as it stands, `[batch]`."""
        return self.state_value(self.online("value", state, "target", key), obs)

    def advantage(self, state: Any, batch: Any, key: jax.Array, of_targets: bool = False) -> jax.Array:
        """min Q(s, a) - V(s) of the logged actions, `[batch]`; `of_targets`: with Q' in the place of Q."""
        critic_key, value_key = jax.random.split(key)
        if of_targets:
            found = self.logged(state, batch, critic_key)
        else:
            found = self.worst(self.online("critic", state, "learn", critic_key), batch.obs, batch.action)
        return found - self.baseline(state, batch.obs, value_key)

    def worst(self, params: Params, obs: jax.Array, action: jax.Array) -> jax.Array:
        """min(Q1, Q2)(s, a), [...]."""
        return jnp.min(self.values(params, obs, action), axis=0)

    # ---- losses ----------------------------------------------------------------------------------------------------

    def bellman(self, state: Any, batch: Any, following: jax.Array) -> Loss:
        """Mean squared error of both critics to r + (1 - d) gamma `following`, summed; beside it their mean value."""
        reward, discount = n_step_return(batch, state.traced.discounts)
        return self.squared_error(batch, reward + discount * following)

    def bootstrapped(self, state: Any, batch: Any, key: jax.Array) -> Loss:
        """`bellman` with V(s')."""
        return self.bellman(state, batch, self.baseline(state, batch.closing_obs, key))

    def value_error(self, batch: Any, target: jax.Array) -> Loss:
        """Mean of (V(s) - target)^2."""

        def loss(params: Params) -> tuple[jax.Array, None]:
            return mean(batch, (self.state_value(params, batch.obs) - target) ** 2), None

        return loss

    def likelihood(self, batch: Any, weight: jax.Array | float, policy: Policy | None = None) -> Loss:
        """Mean of -weight log pi(a | s) over the logged actions; pi is the agent's own where no `policy` is given."""
        head = self._head if policy is None else policy

        def loss(params: Params) -> tuple[jax.Array, None]:
            return -mean(batch, weight * head.distribution(params, batch.obs).log_density(batch.action)), None

        return loss

    # ---- the whole -------------------------------------------------------------------------------------------------

    def learner(
        self,
        losses: Mapping[str, Callable[[Any, Any, jax.Array], Loss]],
        state_type: Callable[..., Any] = State,
    ) -> Agent:
        """The algorithm: `losses` are (state, batch, key) to the loss, by network, in the order of an update."""
        config = self.config

        def init(key: jax.Array, settings: dict[str, Any]) -> Any:
            traced = jax.tree.map(jnp.asarray, settings.get("traced", config.traced()))
            return state_type(**self.init(key, settings), traced=traced)

        def act(state: Any, obs: jax.Array, key: jax.Array, explore: bool) -> tuple[jax.Array, jax.Array]:
            gate_key, noise_key = jax.random.split(key)
            drawn_from = self.distribution(self.online("actor", state, "act", gate_key), obs)
            return drawn_from.sample(noise_key) if explore else drawn_from.mode, drawn_from.mode

        def update(
            state: Any, batch: Any, key: jax.Array, clock: Clock, evidence: Evidence
        ) -> tuple[Any, dict[str, Any]]:
            """One tick of every network; the critics' target moves right behind them."""
            metrics: dict[str, Any] = {"events": {}}
            for draws, (name, of) in enumerate(losses.items()):
                loss_key, *keys = jax.random.split(jax.random.fold_in(key, draws), 3)
                state, info = self.step(
                    name,
                    state,
                    of(state, batch, loss_key),
                    batch,
                    tick=clock.update + 1,
                    clock=clock,
                    keys=tuple(keys),
                    evidence=evidence,
                )
                state = self.averaged(state) if name == "critic" else state
                state = self.reset_targets(state, info.effects.reset_targets)
                told = self.told(name, info, **({"q": info.aux} if name == "critic" else {}))
                metrics |= {**told, "events": {**metrics["events"], **told["events"]}}
            return state, metrics

        def diagnose(state: Any, batch: Any, key: jax.Array, clock: Clock) -> dict[str, jax.Array]:
            return self.diagnose(state, losses, batch, key, clock)

        return Agent(
            name=config.name,
            experience=config.experience,
            delay=config.policy_delay,
            layers=self.layers,
            init=init,
            act=act,
            policy=self.modules.policy,
            deployed=self.deployed,
            update=update,
            delayed=lambda state, batch, key, clock, evidence: (state, {}),
            ticks=lambda updates: dict.fromkeys(self.layers, updates),
            networks=self.networks,
            masks=self.masks,
            weights=self.weights,
            gamma=self.gamma,
            value=self.value,
            diagnose=diagnose,
            begin=self.begin,
            under=self.under,
            sample_policy=lambda params, obs, key: self.distribution(params, obs).sample(key),
        )
