"""Whole episodes of a policy, or of uniform actions, as a dataset: side by side in compiled environments, one by one on
the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sparserl_jax.bench import evaluate
from sparserl_jax.data import OfflineDataset
from sparserl_jax.errors import UserError

if TYPE_CHECKING:
    from sparserl_jax.envs import HostEnvironment

Act = Callable[[Any], Any]
"""Observations f32[..., O] to actions [..., A]."""


def play(
    env: Any,
    act: Act | None,
    key: np.ndarray,
    *,
    episodes: int = 1,
    transitions: int = 0,
    noise: float = 0.0,
    precision: str | None = None,
) -> OfflineDataset:
    """Episodes of `act`, or of uniform actions where that is None.

    Args:
        key: key data u32[2] of everything that is drawn.
        episodes, transitions: at least so many, in whole episodes and no more of them than that takes; one may be left
            out.
        noise: standard deviation of the normal noise on actions in [-1, 1], which are clipped.
        precision: of matrix products.

    Raises:
        UserError: the environment has no real actions, or broke.
    """
    from sparserl_jax.envs import HostEnvironment

    spec = env.spec
    refuse_choices(spec)
    if isinstance(env, HostEnvironment):
        parts = _on_host(env, act, key, noise, precision)
    else:
        least = max(-(-transitions // spec.max_episode_steps), episodes)
        parts = _compiled(env, act, key, noise, precision, min(least, evaluate.AT_ONCE))
    found: list[OfflineDataset] = []
    ended = rows = 0
    while ended < episodes or rows < transitions:
        found.append(next(parts))
        ended, rows = ended + int(found[-1].ends.sum()), rows + len(found[-1].reward)
    whole = OfflineDataset(*map(np.concatenate, zip(*found, strict=True)))
    enough = max(episodes, 1 + int(whole.episode[transitions - 1]) if transitions else 0)
    kept = whole.episode < enough
    return OfflineDataset(*(column[kept] for column in whole))


def refuse_choices(spec: Any) -> None:
    """Refuse environments without real actions, which datasets hold."""
    if spec.actions != "continuous":
        raise UserError(
            f"'{spec.name}' has {spec.actions} actions, and datasets hold real ones; name another --env."
        )


def _compiled(
    env: Any, act: Act | None, key: np.ndarray, noise: float, precision: str | None, episodes: int
) -> Iterator[OfflineDataset]:
    """That many episodes at a time, without end."""
    import jax
    import jax.numpy as jnp

    from sparserl_jax.training import datasets
    from sparserl_jax.training.precision import precise

    source = datasets.Source("episodes", episodes)

    def noisy(own: jax.Array, obs: jax.Array) -> jax.Array:
        assert act is not None
        action = act(obs)
        return jnp.clip(action + noise * jax.random.normal(own, action.shape), -1.0, 1.0)

    @jax.jit
    def some(number: jax.Array) -> datasets.Dataset:
        base = jax.random.wrap_key_data(jnp.asarray(key))
        playing = precise(
            lambda own: datasets.make(env, own, source, None if act is None else noisy).data, precision
        )
        return playing(jax.random.fold_in(base, number))  # type: ignore[no-any-return]

    number = 0
    while True:
        yield datasets.rows_of(jax.device_get(some(np.int32(number))))
        number += 1


def _on_host(
    env: HostEnvironment, act: Act | None, key: np.ndarray, noise: float, precision: str | None
) -> Iterator[OfflineDataset]:
    """One episode at a time, without end."""
    import jax

    from sparserl_jax.envs.host import told
    from sparserl_jax.training.episodes import record, reset_seed
    from sparserl_jax.training.precision import precise

    policy = None if act is None else jax.jit(precise(act, precision))

    def chosen(rng: np.random.Generator, obs: np.ndarray) -> np.ndarray:
        if policy is None:
            return rng.uniform(-1.0, 1.0, env.spec.action_dim).astype(np.float32)
        action = np.asarray(policy(obs))
        return action + np.float32(noise) * rng.standard_normal(action.shape, np.float32)

    number = 0
    while True:
        with told(env):
            episode = record(env, chosen, reset_seed(key, number))
        yield episode
        number += 1
