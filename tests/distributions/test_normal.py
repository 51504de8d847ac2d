"""The diagonal normal is scipy's: density, draws and entropy, with a spread of its own in every component."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from sparserl_jax.distributions import Normal

DRAWS = 40_000
MEAN, STD = np.array([0.3, -1.0, 0.0]), np.array([0.2, 1.0, 3.0])


def test_draws_density_and_entropy_are_scipys():
    known, theirs = (
        Normal(jnp.array(MEAN, jnp.float32), jnp.log(jnp.array(STD, jnp.float32))),
        stats.norm(MEAN, STD),
    )
    action = np.array([[0.0, 0.0, 0.0], [0.5, -3.0, 4.0]], np.float32)
    np.testing.assert_allclose(known.log_density(action), theirs.logpdf(action).sum(1), rtol=1e-5)
    np.testing.assert_allclose(known.entropy, theirs.entropy().sum(), rtol=1e-5)
    wide = Normal(jnp.broadcast_to(known.mean, (DRAWS, 3)), known.log_std)
    found = np.asarray(jax.jit(wide.sample)(jax.random.key(0)), np.float64)
    for place in range(3):
        assert stats.kstest(found[:, place], stats.norm(MEAN[place], STD[place]).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(found.T) - np.eye(3)).max() < 0.03
    np.testing.assert_array_equal(known.mode, known.mean)
