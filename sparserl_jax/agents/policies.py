"""Stochastic policies in the box [-1, 1]: a network and the distribution it stands for (Zhu et al. 2025; their code).
`normal` is that of IQL's authors (Kostrikov et al. 2022), but for a deviation that depends on the state.

    kind       law                              mean               log scale, held in      the scale is
    squashed   tanh of a normal                 as it is           [-20, 2]                a standard deviation
    normal     normal                           tanh, in the box   [-5, 2]                 a standard deviation
    thin       q-Gaussian with q < 1            tanh, in the box   [-14, log(1 - 1e-6)]    in place of a variance
    fat        q-Gaussian with 1 < q < 3        tanh, in the box   [-log 1000, log 1000]   in place of a variance
    student    t, its dof one more output       tanh, in the box   [-14, log(1 - 1e-6)]    its square root (x 2 in log)
    beta       Beta, softplus(.) + 1 of both    -                  -                       -

All are one network whose output layer holds the means and then the log scales: a trunk that both share and two heads.
Draws are clipped to the box, without which thin and beta ones would leave it rarely and never, fat ones often: a share
of the draws then lies on its edge. Log densities are those before the clip, of an action held inside the box: what is
lost beyond it is not made up for. A clipped draw of a thin policy stays in its support, because its mean is in the box.

Where logged actions lie on the edge (clipped ones of deterministic policies with noise do), a squashed normal has to
reach for the inverse tanh of 1, and fits badly what is inside; normal, fat and student ones do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparserl_jax.distributions import (
    Beta,
    FatQGaussian,
    Normal,
    ReleasedFat,
    Student,
    TanhNormal,
    ThinQGaussian,
)
from sparserl_jax.distributions.q_gaussian import refuse_unless_normalisable
from sparserl_jax.distributions.released import refuse_unless_heavy
from sparserl_jax.envs.treatment import Danger, Treatment, TreatmentState, danger
from sparserl_jax.errors import suggest
from sparserl_jax.networks import GaussianActor, HeavyActor
from sparserl_jax.sparsity.contract import Params

BOX = 1.0 - 1e-6
"""Actions and means are held in [-BOX, BOX]."""
LOG_SCALE = {
    "squashed": (-20.0, 2.0),
    "normal": (-5.0, 2.0),
    "thin": (-14.0, math.log(BOX)),
    "fat": (-math.log(1000.0), math.log(1000.0)),
    "student": (-14.0, math.log(BOX)),
}
KINDS = (*LOG_SCALE, "beta")
COVERING = tuple(kind for kind in KINDS if kind != "thin")
"""Kinds whose support is the whole box: every logged action has a likelihood to learn from."""
DENSITIES = ("corrected", "released")


class Boxed(NamedTuple):
    """A law whose draws are clipped to the box; everything [..., action] is."""

    law: Any

    @property
    def mode(self) -> jax.Array:
        """What acts where nothing is drawn, [..., action]."""
        return _held(self.law.mode)

    @property
    def support(self) -> tuple[jax.Array, jax.Array]:
        """Lowest and highest actions that can be drawn, each [..., action]; `law.support` is that before the clip."""
        low, high = self.law.support
        return _held(low), _held(high)

    def unclipped(self, key: jax.Array) -> jax.Array:
        """`sample` before the clip."""
        return self.law.sample(key)  # type: ignore[no-any-return]

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions [..., action], differentiable in the network's outputs."""
        return _held(self.unclipped(key))

    def sample_with_density(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Actions [..., action] and their log densities [...]."""
        action = self.sample(key)
        return action, self.law.log_density(action)

    def log_density(self, action: jax.Array) -> jax.Array:
        """Log density [...] of actions [..., action]: -inf outside the support of a thin policy."""
        return self.law.log_density(_held(action))  # type: ignore[no-any-return]


class Squashed(NamedTuple):
    """A law in (-1, 1) by its own squash, whose densities are best known where its draws are made."""

    law: TanhNormal

    @property
    def mode(self) -> jax.Array:
        """See Boxed.mode."""
        return self.law.mode

    @property
    def support(self) -> tuple[jax.Array, jax.Array]:
        """See Boxed.support."""
        return -jnp.ones_like(self.law.mean), jnp.ones_like(self.law.mean)

    def sample(self, key: jax.Array) -> jax.Array:
        """See Boxed.sample."""
        return self.law.sample(key)[0]

    def unclipped(self, key: jax.Array) -> jax.Array:
        """See Boxed.unclipped: there is nothing to clip."""
        return self.sample(key)

    def sample_with_density(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See Boxed.sample_with_density."""
        return self.law.sample(key)

    def log_density(self, action: jax.Array) -> jax.Array:
        """See Boxed.log_density: nearer to the bounds than the box its inverse tanh would be of no use."""
        return self.law.log_density(_held(action))


Distribution = Boxed | Squashed


class Policy(NamedTuple):
    """A network and what it stands for.

    module: observation [..., obs] to its outputs. kind: see the table above. law(*outputs): the distribution before
    its draws are clipped.
    """

    module: GaussianActor | HeavyActor
    kind: str
    law: Callable[..., Any]

    def distribution(self, params: Params, obs: jax.Array) -> Distribution:
        """pi(. | s) over [..., action]."""
        outputs: Any = self.module.apply({"params": params}, obs)
        law = self.law(*outputs)
        return Squashed(law) if self.kind == "squashed" else Boxed(law)

    def act(self, params: Params, obs: jax.Array) -> jax.Array:
        """The mode [..., action]."""
        return self.distribution(params, obs).mode

    def sample(self, params: Params, obs: jax.Array, key: jax.Array) -> jax.Array:
        """A draw [..., action]."""
        return self.distribution(params, obs).sample(key)


def policy_of(
    kind: str,
    hidden: tuple[int, ...],
    action_dim: int,
    network: str = "mlp",
    *,
    law: str = "xavier_uniform",
    q: float | None = None,
    form: str | None = None,
    densities: str = "corrected",
) -> Policy:
    """A policy of one of `KINDS`.

    Args:
        kind, hidden, action_dim, network: see the module; `network` is a kind of `networks.KINDS`.
        law: of the initial weights.
        q, form: of the q-Gaussians, see `distributions.q_gaussian`; None: 0 (thin) or 2 (fat), and `product`.
        densities: `released`: those of the code released with FtTPO (`distributions.released`), which are `joint` and
            have no other form.

    Raises:
        UserError: there is no such kind, or no such q-Gaussian over so many dimensions.
    """
    if kind not in KINDS:
        raise suggest(kind, list(KINDS), "kind of policy")
    if densities not in DENSITIES:
        raise suggest(densities, list(DENSITIES), "densities of a policy")
    own = (HeavyActor if kind == "student" else GaussianActor)(hidden, action_dim, law, network)
    if kind not in ("thin", "fat"):
        return Policy(own, kind, _LAWS[kind])
    q = {"thin": 0.0, "fat": 2.0}[kind] if q is None else q
    released = densities == "released"
    form = form or ("joint" if released else "product")
    if released and kind == "fat":
        refuse_unless_heavy(q)
        return Policy(own, kind, lambda mean, spread: ReleasedFat(_mean(mean), _log_scale("fat", spread), q))
    refuse_unless_normalisable(kind, q, form, action_dim)
    made = ThinQGaussian if kind == "thin" else FatQGaussian
    return Policy(own, kind, lambda mean, spread: made(_mean(mean), _log_scale(kind, spread), q, form))


def danger_of(
    policy: Policy,
    params: Params,
    env: Treatment,
    key: jax.Array,
    state: TreatmentState,
    obs: jax.Array,
    draws: int = 10_000,
) -> Danger:
    """How dangerous the doses of a policy are in S states, from `draws` in each, before they are clipped to the box.

    state: [S, ...]; obs: f32[S, O], both of `env.reset`. Widths are those of the support before the clip.
    """

    def support(obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        known = policy.distribution(params, obs)
        low, high = known.law.support if isinstance(known, Boxed) else known.support
        return low, high

    def sample(key: jax.Array, obs: jax.Array) -> jax.Array:
        return policy.distribution(params, obs).unclipped(key)

    return danger(env, key, state, obs, sample, support, draws)


def _held(action: jax.Array) -> jax.Array:
    return jnp.clip(action, -BOX, BOX)


def _mean(raw: jax.Array) -> jax.Array:
    return BOX * jnp.tanh(raw)


def _log_scale(kind: str, raw: jax.Array) -> jax.Array:
    return jnp.clip(raw, *LOG_SCALE[kind])


def _student(mean: jax.Array, spread: jax.Array, tail: jax.Array) -> Student:
    dof = jax.nn.softplus(tail)[..., None] + 1.0 + 1e-6
    return Student(_mean(mean), 2.0 * _log_scale("student", spread), dof)


_LAWS: dict[str, Callable[..., Any]] = {
    "squashed": lambda mean, spread: TanhNormal(mean, _log_scale("squashed", spread)),
    "normal": lambda mean, spread: Normal(_mean(mean), _log_scale("normal", spread)),
    "student": _student,
    "beta": lambda alpha, beta: Beta(jax.nn.softplus(alpha) + 1.0, jax.nn.softplus(beta) + 1.0),
}
