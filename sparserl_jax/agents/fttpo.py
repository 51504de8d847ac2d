"""FtTPO, fat-to-thin policy optimisation (Zhu et al. 2025): a policy of bounded support, learned from a dataset.

A logged action outside the support of a thin policy has no likelihood, so no weighted likelihood can train one. FtTPO
has two policies: the `proposal` pi_f, fat, is trained on logged actions; the `actor` pi_t, thin, only on draws of its
own, towards the proposal, and is what acts. In this order, on one batch:

    value      L_V = 1/2 mean (V(s) - min Q'(s, a1))^2,     a1 ~ pi_t(. | s)
    critic     L_Q = 1/4 sum_i mean (y - Q_i(s, a))^2,      y = r + (1 - d) gamma min Q'(s', a2),  a2 ~ pi_f(. | s')
    proposal   L_f = -mean w log pi_f(a | s),               w = exp_q((min Q(s, a) - V(s)) / temperature) in WEIGHTS
    actor      L_t = mean min(rho, 1e4) - 1 - log rho,      rho = pi_f(b | s) / pi_t(b | s),  b ~ pi_t(. | s)

and between the last two the proposal's trunk and mean head are copied into the actor, which keeps its log-scale head.
With q = 0 the weight is [1 + A / temperature]_+, so that bad actions count for nothing. L_t is meant to estimate
KL(pi_t || pi_f); the mean of rho is not 1 but what pi_f has inside the support of pi_t, so that it is KL less the
probability of pi_f outside.

Paper and released code are not the same algorithm. There are two, and none that is called just FtTPO:

    fttpo_released   as in the code: the densities and the sampler of `distributions/released.py`, the thin one joint;
                     no gradient through log pi_f(b | s), so that the actor's loss moves its scales alone
    fttpo_corrected  as in the paper: q-Gaussians that are products over dimensions, drawn from as they are; the
                     gradient of L_t is whole, through b, too

Every other difference is a switch, see `FtTPOConfig` and docs/methods/fttpo.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparserl_jax.agents.actor_critic import ActorCritic, Modules
from sparserl_jax.agents.agent import LATER, Agent, Range, check_network, refuse_idle
from sparserl_jax.agents.in_sample import InSample, mean, tsallis
from sparserl_jax.agents.optimise import Loss, Network, StepInfo, init_network
from sparserl_jax.agents.policies import Distribution, Policy, policy_of
from sparserl_jax.agents.targets import discounts
from sparserl_jax.errors import UserError, suggest
from sparserl_jax.layers import leaf, with_leaf
from sparserl_jax.networks import TwinCritic, Value
from sparserl_jax.sparsity.contract import Events, Params, Sparsifier

LARGEST_RATIO = 1e4
"""Of pi_f to pi_t."""
CHOICES = {
    "proposal": ("fat", "squashed"),
    "actor_loss": ("kl", "kl_pathwise", "spot", "mle"),
    "copy": ("trunk_and_mean", "none"),
    "value_actor": ("thin", "fat"),
    "critic_actor": ("fat", "thin"),
    "densities": ("released", "corrected"),
}
"""Values of the switches."""


class Traced(NamedTuple):
    """Numbers of FtTPO that no shape depends on, f32 scalars, but for discounts: gamma^k for k = 0 to 100, f32[101]."""

    learning_rate: Any
    tau: Any
    discounts: Any
    temperature: Any


@dataclasses.dataclass(frozen=True)
class FtTPOConfig:
    """What both algorithms are told.

    temperature: that of the weights, the paper's tau. tau: step of the critics' targets. weight_q: q of the weights.
    proposal: law of pi_f. actor_loss: `kl`, L_t with log pi_f(b | s) held fixed; `kl_pathwise`, L_t; `spot`, mean of
    -min Q(s, b) / V(s) - temperature log pi_f(b | s), of which only Q has a gradient; `mle`, mean of -log pi_f(b | s).
    copy: what the actor takes over before its loss. value_actor, critic_actor: whose actions V(s) and y are about,
    those of the actor (`thin`) or of the proposal (`fat`). densities, actor_q, actor_form, proposal_q, proposal_form:
    those of the policies, see `policies.policy_of`.

    network, hidden, TRACED, SCHEDULE, NETWORKS, BODIES and experience as in `TD3Config`. NEEDS: settings that change
    nothing unless others have these values. SWITCHES: settings that decide which passes an update makes.
    policy_delay: all networks move at every update.
    """

    TRACED: ClassVar[Mapping[str, Range]] = {
        "learning_rate": Range(0.0, above=True),
        "gamma": Range(0.0, 1.0, above=True),
        "tau": Range(0.0, 1.0, above=True),
        "temperature": Range(0.0, above=True),
    }
    NEEDS: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "proposal_q": {"proposal": "fat"},
        "proposal_form": {"densities": "corrected", "proposal": "fat"},
        "actor_form": {"densities": "corrected"},
    }
    SWITCHES: ClassVar[tuple[str, ...]] = ("value_actor", "critic_actor", "actor_loss")
    SCHEDULE: ClassVar[Mapping[str, int]] = {}
    NETWORKS: ClassVar[tuple[str, ...]] = ("actor", "proposal", "critic", "value")
    BODIES: ClassVar[tuple[str, ...]] = ("mlp", "simba")
    experience: ClassVar[str] = "dataset"
    policy_delay: ClassVar[int] = 1

    name: str = ""
    hidden: tuple[int, ...] = (256, 256)
    network: str = dataclasses.field(default="mlp", metadata=LATER)
    batch_size: int = 256
    learning_rate: float = 3e-4
    gamma: float = 0.99
    tau: float = 0.005
    temperature: float = 1.0
    weight_q: float = 0.0
    proposal: Literal["fat", "squashed"] = "fat"
    actor_loss: Literal["kl", "kl_pathwise", "spot", "mle"] = "kl"
    copy: Literal["trunk_and_mean", "none"] = "trunk_and_mean"
    value_actor: Literal["thin", "fat"] = "thin"
    critic_actor: Literal["fat", "thin"] = "fat"
    densities: Literal["released", "corrected"] = "released"
    actor_q: float = 0.0
    actor_form: Literal["joint", "product"] | None = None
    proposal_q: float = 2.0
    proposal_form: Literal["joint", "product"] | None = None

    def __post_init__(self) -> None:
        check_network(self)
        for field, known in CHOICES.items():
            if getattr(self, field) not in known:
                raise suggest(str(getattr(self, field)), list(known), f"{field} of agent '{self.name}'")
        for field in self.NEEDS:
            if getattr(self, field) != getattr(type(self), field):
                refuse_idle(self, field, f"agent '{self.name}'")
        if not math.isfinite(self.weight_q):
            raise UserError(f"agent '{self.name}': weight_q is {self.weight_q}; give a number.")
        policies(self, 1)  # refuses what has no density

    def traced(self, source: str = "released") -> Traced:
        """The traced numbers, as NumPy arrays; the same for a recipe of either `source`."""
        made = {"discounts": discounts(self.gamma)}
        own = {name: np.float32(getattr(self, name)) for name in Traced._fields if name not in made}
        return Traced(**made, **own)

    def target_actions(self, n: int, source: str = "released") -> int:
        """Actor passes for the target of one window; they are part of the algorithm's own count of costs."""
        return 1


@dataclasses.dataclass(frozen=True)
class ReleasedConfig(FtTPOConfig):
    """FtTPO as in the released code."""

    name: str = "fttpo_released"


@dataclasses.dataclass(frozen=True)
class CorrectedConfig(FtTPOConfig):
    """FtTPO as in the paper, with densities that are some."""

    name: str = "fttpo_corrected"
    actor_loss: Literal["kl", "kl_pathwise", "spot", "mle"] = "kl_pathwise"
    densities: Literal["released", "corrected"] = "corrected"


class State(NamedTuple):
    """One member: four networks, the critics' target as (params, extra), whether both policies have one mask, the key
    data of the initial draw, its numbers."""

    actor: Network
    proposal: Network
    critic: Network
    value: Network
    target_critic: tuple[Params, Any]
    one_mask: jax.Array
    init_key: jax.Array
    traced: Traced


def policies(config: FtTPOConfig, action_dim: int) -> tuple[Policy, Policy]:
    """The thin and the fat policy."""
    size, densities = (config.hidden, action_dim, config.network), config.densities
    thin = policy_of("thin", *size, q=config.actor_q, form=config.actor_form, densities=densities)
    fat = policy_of(
        config.proposal, *size, q=config.proposal_q, form=config.proposal_form, densities=densities
    )
    return thin, fat


def modules(
    hidden: tuple[int, ...], action_dim: int, network: str = "mlp", image: tuple[int, ...] | None = None
) -> Modules:
    """The networks, and the mode of the actor's policy, which is the same for every thin law. No `image` is read."""
    actor = policy_of("thin", hidden, action_dim, network)
    value = Value(hidden, "xavier_uniform", network)
    critic = TwinCritic(hidden, "xavier_uniform", network)
    return Modules(actor.module, critic, actor.act, {"proposal": actor.module, "value": value})


class FatToThin(InSample):
    """The networks of FtTPO and what passes between the policies; static. Arguments as of `td3.make`.

    The proposal starts as a copy of the actor. Where one method with equal settings makes both sparse, they also have
    one mask (`State.one_mask`), the proposal's, which is copied with its weights, and so is what the method trains or
    keeps beside them; where not, what is copied is cut to the actor's own mask.
    """

    def __init__(
        self,
        config: FtTPOConfig,
        obs_dim: int,
        action_dim: int,
        sparsifiers: dict[str, Sparsifier],
        events: dict[str, Events],
    ) -> None:
        self.config: Any = config
        self.thin, self.fat = policies(config, action_dim)
        self.one_family = sparsifiers["actor"] == sparsifiers["proposal"]
        if (
            self.one_family
            and config.copy != "none"
            and sparsifiers["actor"].declares.slots.startswith("zero")
        ):
            raise UserError(
                "FtTPO's acting policy takes its layers from the proposal, but not the log-scales that read them, so "
                "that units which ReDo begins anew would not begin at zero there; choose another method, or "
                'copy = "none".'
            )
        parts = modules(config.hidden, action_dim, config.network)
        ActorCritic.__init__(self, parts, obs_dim, action_dim, sparsifiers, events, targets=("critic",))

    def distribution(self, params: Params, obs: jax.Array) -> Distribution:
        """pi_t(. | s), over `[..., action]`."""
        return self.thin.distribution(params, obs)

    def actions(self, which: str, state: State, obs: jax.Array, key: jax.Array) -> jax.Array:
        """Actions `[..., action]` of the `thin` or the `fat` policy for targets."""
        gate_key, draw_key = jax.random.split(key)
        name, policy = {"thin": ("actor", self.thin), "fat": ("proposal", self.fat)}[which]
        return policy.sample(self.online(name, state, "target", gate_key), obs, draw_key)

    # ---- two policies, one mask ------------------------------------------------------------------------------------

    def _fresh(self, key: jax.Array) -> dict[str, Params]:
        fresh = super()._fresh(key)
        return {**fresh, "proposal": fresh["actor"]}

    def init(self, key: jax.Array, settings: dict[str, Any]) -> dict[str, Any]:
        """As of `ActorCritic.init`."""
        made, mine, theirs = super().init(key, settings), settings["actor"], settings["proposal"]
        # By the actor's key: with equal settings its method then chooses the same mask.
        draw_key, actor_key, *_ = jax.random.split(key, 1 + len(self.layers))
        dense = self._fresh(draw_key)["proposal"]
        made["proposal"] = init_network(self.trainers["proposal"], actor_key, dense, theirs)
        equal = jnp.asarray(self.one_family)
        if self.one_family:
            pairs = zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True)
            equal = jnp.all(jnp.array([True, *(jnp.all(one == other) for one, other in pairs)]))
        return {**made, "one_mask": equal}

    def begin(self, state: Any, given: dict[str, tuple[Params, Params]]) -> Any:
        """As of `ActorCritic.begin`; where both policies have one mask, the proposal begins as the actor does."""
        begun = super().begin(state, given)
        if "actor" not in given or "proposal" in given or not self.one_family:
            return begun
        alike = super().begin(state, {"proposal": given["actor"]}).proposal
        return begun._replace(proposal=_chosen(state.one_mask, alike, begun.proposal))

    def handed_down(self, state: Any) -> Any:
        """The actor with the proposal's trunk and mean head, its own log-scale head and its own optimiser slots."""
        actor, params = state.actor, state.proposal.params
        (output,) = [layer for layer in self.layers["actor"] if layer.output]
        for path in (output.kernel, output.bias):
            if path is not None:
                spread = jnp.arange(output.units_out) >= self.action_dim
                kept = jnp.where(spread, leaf(actor.params, path), leaf(params, path))
                params = with_leaf(params, path, kept)
        return state._replace(actor=self._under_one_mask(state, actor._replace(params=params)))

    def _under_one_mask(self, state: Any, actor: Network) -> Network:
        """`actor` as the proposal is sparse, where both policies have one mask."""
        extra, sparsity = actor.extra, actor.sparsity
        if self.one_family:
            theirs = (state.proposal.extra, state.proposal.sparsity)
            extra, sparsity = _chosen(state.one_mask, theirs, (extra, sparsity))
        masked = self.trainers["actor"].sparsifier.project(actor.params, extra, actor.opt_state, sparsity)
        return Network(*masked, sparsity)

    def step(self, name: str, state: Any, loss: Loss, batch: Any, **rest: Any) -> tuple[Any, StepInfo]:
        """As of `ActorCritic.step`; the actor takes over from the proposal before its own."""
        if name != "actor" or self.config.copy == "none":
            return super().step(name, state, loss, batch, **rest)
        state = self.handed_down(state)
        stepped, info = super().step(name, state, loss, batch, **rest)
        # One mask evolves by one loss: at the event of its own the actor is the copy of the proposal after its, and
        # what other ticks change (gates, supports that follow the weights) stays the proposal's.
        actor = _chosen(info.effects.happened & state.one_mask, state.actor, stepped.actor)
        if jax.tree.leaves(actor.extra) or self.trainers["actor"].sparsifier.refresh is not None:
            actor = self._under_one_mask(state, actor)
        return stepped._replace(actor=actor), info


def _chosen(flag: jax.Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), one, other)


def make(
    config: FtTPOConfig,
    obs_dim: int,
    action_dim: int,
    sparsifiers: dict[str, Sparsifier],
    events: dict[str, Events],
) -> Agent:
    """FtTPO for observations of length `obs_dim` and actions of length `action_dim`; arguments and settings as of
    `td3.make`, with a `proposal` and a `value` besides."""
    common = FatToThin(config, obs_dim, action_dim, sparsifiers, events)

    def value_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        """L_V."""
        draw_key, critic_key = jax.random.split(key)
        action = common.actions(config.value_actor, state, batch.obs, draw_key)
        target = common.worst(common.target("critic", state, critic_key), batch.obs, action)
        return _times(0.5, common.value_error(batch, target))

    def critic_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        """L_Q; beside it the mean value."""
        draw_key, critic_key = jax.random.split(key)
        action = common.actions(config.critic_actor, state, batch.closing_obs, draw_key)
        target = common.target("critic", state, critic_key)
        return _times(0.25, common.bellman(state, batch, common.worst(target, batch.closing_obs, action)))

    def proposal_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        """L_f, its weights by the online critics."""
        advantage = common.advantage(state, batch, key)
        weight = tsallis(advantage, state.traced.temperature, config.weight_q)

        def loss(params: Params) -> tuple[jax.Array, None]:
            return -mean(
                batch, weight * common.fat.distribution(params, batch.obs).log_density(batch.action)
            ), None

        return loss

    def actor_loss(state: Any, batch: Any, key: jax.Array) -> Loss:
        """L_t, or what stands in its place."""
        proposal_key, critic_key, value_key, draw_key = jax.random.split(key, 4)
        proposal = common.fat.distribution(common.online("proposal", state, "learn", proposal_key), batch.obs)

        def each(params: Params) -> jax.Array:
            action, log_thin = common.distribution(params, batch.obs).sample_with_density(draw_key)
            log_fat = proposal.log_density(action)
            if config.actor_loss == "mle":
                return -log_fat
            if config.actor_loss == "spot":
                critic = common.online("critic", state, "learn", critic_key)
                value = common.state_value(common.online("value", state, "learn", value_key), batch.obs)
                gain = common.worst(critic, batch.obs, action) / value
                return -gain - state.traced.temperature * jax.lax.stop_gradient(log_fat)
            if config.actor_loss == "kl":
                log_fat = jax.lax.stop_gradient(log_fat)
            log_ratio = log_fat - log_thin
            # Cut before the exponential: beyond it would be infinite, and its gradient no number.
            return jnp.exp(jnp.minimum(log_ratio, math.log(LARGEST_RATIO))) - 1.0 - log_ratio

        return lambda params: (mean(batch, each(params)), None)

    losses = {"value": value_loss, "critic": critic_loss, "proposal": proposal_loss, "actor": actor_loss}
    return common.learner(losses, State)


def _times(factor: float, loss: Loss) -> Loss:
    """A loss times a number."""

    def scaled(params: Params) -> tuple[jax.Array, Any]:
        value, seen = loss(params)
        return factor * value, seen

    return scaled
