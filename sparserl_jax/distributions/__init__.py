"""Action distributions: densities, sampling, bounds; no networks and no reinforcement learning in here."""

from sparserl_jax.distributions.tanh_normal import TanhNormal, bounded_log_std, rescaled

__all__ = ["TanhNormal", "bounded_log_std", "rescaled"]
