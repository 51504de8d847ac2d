"""Offline datasets: one format, whatever file they come from."""

from sparserl_jax.data.dataset import OfflineDataset

__all__ = ["OfflineDataset"]
