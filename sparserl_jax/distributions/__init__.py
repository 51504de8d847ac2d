"""Action distributions: densities, sampling, bounds; no networks and no reinforcement learning in here."""

from sparserl_jax.distributions.beta import Beta
from sparserl_jax.distributions.categorical import Categorical
from sparserl_jax.distributions.normal import Normal
from sparserl_jax.distributions.q_gaussian import FatQGaussian, ThinQGaussian, exp_q, ln_q
from sparserl_jax.distributions.released import ReleasedFat
from sparserl_jax.distributions.student import Student
from sparserl_jax.distributions.tanh_normal import TanhNormal, bounded_log_std, rescaled

__all__ = [
    "Beta",
    "Categorical",
    "FatQGaussian",
    "Normal",
    "ReleasedFat",
    "Student",
    "TanhNormal",
    "ThinQGaussian",
    "bounded_log_std",
    "exp_q",
    "ln_q",
    "rescaled",
]
