"""Memory is known from shapes, before anything is allocated."""

import jax
import jax.numpy as jnp
import pytest

from sparserl_jax.accounting import memory


def test_bytes_of_arrays_shapes_and_keys():
    tree = {"a": jnp.zeros((3, 4)), "b": jnp.zeros(5, bool), "c": jax.ShapeDtypeStruct((2, 2), jnp.float16)}
    assert memory.tree_bytes(tree) == 48 + 5 + 8
    assert memory.tree_bytes(jax.random.split(jax.random.key(0), 3)) == 24
    assert memory.tree_bytes({}) == 0


def test_forecasts_trace_and_never_allocate():
    def huge(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (1_000_000, 1_000_000))

    assert memory.forecast(huge, jax.random.key(0)) == 4 * 10**12


def test_breakdown_is_largest_first():
    tree = {"small": jnp.zeros(1), "large": {"x": jnp.zeros(8), "y": jnp.zeros(8)}}
    assert list(memory.breakdown(tree).items()) == [("large", 64), ("small", 4)]
    with pytest.raises(TypeError, match="mapping"):
        memory.breakdown([jnp.zeros(1)])
