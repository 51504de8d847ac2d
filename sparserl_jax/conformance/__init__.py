"""Conformance: whether a sparsity method keeps what it declares, on a small TD3; tests and users ask the same."""
