"""Action distributions: densities, sampling, bounds; no networks and no reinforcement learning in here."""

from sparserl_jax.distributions.categorical import Categorical
from sparserl_jax.distributions.normal import Normal
from sparserl_jax.distributions.tanh_normal import TanhNormal, bounded_log_std, rescaled

__all__ = ["Categorical", "Normal", "TanhNormal", "bounded_log_std", "rescaled"]
