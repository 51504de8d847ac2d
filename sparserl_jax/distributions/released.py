"""The heavy-tailed q-Gaussian as the code released with FtTPO has it (Zhu et al. 2025): NOT what the paper describes.

Everything here is kept as it is there, because the published curves were made with it; `q_gaussian.FatQGaussian` is the
distribution itself. With m(a) = sum_i (a_i - mean_i)^2 / scale_i over D dimensions and g = (3 - q) / (2 (q - 1)):

    log_density   log exp_q(-m(a) / (2 (3 - q))) - log Z,
                  Z = G(g) / G(g + D/2) (pi (3 - q) / (q - 1))^(D/2) prod_i scale_i^(1/2)
    sample        a_i = mean_i + sqrt(scale_i) sqrt(-2 ln_p(u)) cos(2 pi v),   p = (q - 1) / (3 - q)

It differs from a q-Gaussian in four ways:

    a  The generalised Box-Muller method (Thistleton et al. 2007) has p = (1 + q) / (3 - q). With q = 2 the p used is 1,
       ln_1 is the logarithm, and what is drawn is a NORMAL action of variances scale_i.
    b  The 1/2 in the density is not in its Z: in one dimension it integrates to sqrt(2) for every q.
    c  In D dimensions the power stays 1/(1 - q), where Z belongs to one that grows with D: with q = 2 and D >= 2 there
       is no integral at all, and from D = 3 on -log density falls without bound as scales shrink around any action.
    d  The density depends on m(a) alone, draws have independent components: two laws from D = 2 on, also without a.

The thin one of the same code is a q-Gaussian, `ThinQGaussian` of form `joint`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparserl_jax.distributions.q_gaussian import ln_q
from sparserl_jax.errors import UserError


class ReleasedFat(NamedTuple):
    """1 < q < 3: a "density" and draws of another law, see the module.

    mean, log_scale: f32[..., action]; q is static.
    """

    mean: jax.Array
    log_scale: jax.Array
    q: float = 2.0

    @property
    def mode(self) -> jax.Array:
        """The middle, [..., action]."""
        return self.mean

    @property
    def support(self) -> tuple[jax.Array, jax.Array]:
        """Lowest and highest actions that can be drawn: none is too far."""
        return jnp.full_like(self.mean, -jnp.inf), jnp.full_like(self.mean, jnp.inf)

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions [..., action], differentiable in mean and log_scale."""
        radial, turning = jax.random.split(key)
        # Not 0, whose logarithm is infinite; `1 -` because uniform numbers are below 1.
        return self.at(
            1.0 - jax.random.uniform(radial, self.mean.shape), jax.random.uniform(turning, self.mean.shape)
        )

    def at(self, u: jax.Array, v: jax.Array) -> jax.Array:
        """`sample` from given numbers u in (0, 1] and v in [0, 1], each [..., action]."""
        refuse_unless_heavy(self.q)
        length = jnp.sqrt(jnp.maximum(-2.0 * ln_q(u, (self.q - 1.0) / (3.0 - self.q)), 0.0))
        return self.mean + jnp.exp(0.5 * self.log_scale) * length * jnp.cos(2.0 * math.pi * v)

    def log_density(self, action: jax.Array) -> jax.Array:
        """What stands for a log density [...] of actions [..., action]."""
        refuse_unless_heavy(self.q)
        q, dims = self.q, self.mean.shape[-1]
        g = (3.0 - q) / (2.0 * (q - 1.0))
        log_z = math.lgamma(g) - math.lgamma(g + dims / 2) + dims / 2 * math.log(math.pi * 2.0 * g)
        far = jnp.sum((action - self.mean) ** 2 * jnp.exp(-self.log_scale), axis=-1)
        log_power = -jnp.log1p(far / (4.0 * g)) / (q - 1.0)
        return log_power - log_z - 0.5 * jnp.sum(self.log_scale, axis=-1)


def refuse_unless_heavy(q: float) -> None:
    """Raise UserError for a q that the released formulas have no value for."""
    if not 1.0 < q < 3.0:
        raise UserError(f"fat q-Gaussian as released: q is {q}; give one between 1 and 3.")
