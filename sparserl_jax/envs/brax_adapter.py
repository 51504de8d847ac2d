"""brax environments, raw: no episode, batching or auto-reset wrapper of brax is used.

brax's physics and returns are its own: they are not comparable with gym MuJoCo.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ..errors import UserError, suggest
from .protocol import EnvSpec, Step

BACKENDS = ("generalized", "mjx", "positional", "spring")
MAX_EPISODE_STEPS = 1000  # brax.envs.create: episode_length=1000
# A dummy for brax's own tests; and one whose fluid model (brax 0.14.2, its only backend) calls jnp.clip with an
# argument that jax 0.10 no longer has. Both can still be made by name.
UNLISTED = frozenset({"fast", "swimmer"})


class BraxEnvironment:
    """A raw brax environment as an Environment.

    Actions are brax's: [-1, 1] for every actuator (its environments scale to the actuator limits themselves).
    `done` is the task's termination; the time limit is ours. Resets cost about a physics step: use a pool.
    Raises UserError for brax's own wrappers that reset, batch or limit episodes, and for observations that
    are not one flat vector.
    """

    expensive_reset = True

    def __init__(self, env: Any, name: str | None = None, max_episode_steps: int = MAX_EPISODE_STEPS) -> None:
        self.env = env
        name = name or f"brax:{type(env.unwrapped).__name__.lower()}"
        _refuse_wrappers(env, name)
        # Traced once, whatever number of programs and stages it becomes part of: a trace takes seconds.
        self._reset, self._step = (jax.jit(own, inline=True) for own in (env.reset, env.step))
        # By shape only: brax's own `observation_size` runs a whole reset eagerly.
        obs = jax.eval_shape(self._reset, jax.random.key(0)).obs
        if getattr(obs, "ndim", 0) != 1:
            raise UserError(
                f"environment '{name}': observations are not one float vector [O]; flatten them first."
            )
        size = int(env.action_size)
        self.spec = EnvSpec(name, obs.shape[0], size, (-1.0,) * size, (1.0,) * size, max_episode_steps)

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        """See Environment.reset."""
        state = self._reset(key)
        return state, state.obs

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Step]:
        """See Environment.step. brax's steps are deterministic: the key is not used."""
        # brax updates the dictionaries inside a state in place; under jit these are not the caller's.
        after = self._step(state, action)
        return after, Step(after.obs, after.reward, after.done > 0.5, jnp.bool_(False))


def build(env_id: str, options: dict[str, Any], name: str) -> BraxEnvironment:
    """The environment registered as `env_id`; options go to its constructor, `max_episode_steps` to ours."""
    registry = _registry()
    if env_id not in registry:
        raise suggest(f"brax:{env_id}", [f"brax:{known}" for known in registry], "environment")
    options = dict(options)
    limit = options.pop("max_episode_steps", MAX_EPISODE_STEPS)
    if options.get("backend", BACKENDS[0]) not in BACKENDS:
        raise suggest(str(options["backend"]), list(BACKENDS), f"backend of environment 'brax:{env_id}'")
    with _quiet():
        try:
            env = registry[env_id](**options)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"environment '{name}': an option is not one brax takes ({error}); change it."
            ) from error
        if "backend=" not in name and getattr(env, "backend", None):
            # The backend changes the physics, hence the task: a record names it even where it was left out.
            name = f"{name}{'&' if '?' in name else '?'}backend={env.backend}"
        return BraxEnvironment(env, name, limit)


def names() -> list[str]:
    """Ids of the registered environments that work."""
    return sorted(set(_registry()) - UNLISTED)


def _registry() -> dict[str, Any]:
    with _quiet():
        with contextlib.redirect_stdout(io.StringIO()):  # MuJoCo prints which optional parts it did not find
            import brax.envs

        return brax.envs._envs  # brax offers no public listing


def _refuse_wrappers(env: Any, name: str) -> None:
    from brax.envs.wrappers import training

    forbidden = (training.VmapWrapper, training.EpisodeWrapper, training.AutoResetWrapper)
    while True:
        if isinstance(env, forbidden):
            raise UserError(
                f"environment '{name}' is inside brax's {type(env).__name__}, but batching, time "
                "limits and resets are the rollout's work: pass the raw one (brax.envs.get_environment)."
            )
        if "env" not in vars(env):
            return
        env = env.env


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without brax's warning at every construction that its environments are no longer developed, and without MuJoCo's
    of old words in brax's models, which it also writes into a MUJOCO_LOG.TXT where the user stands."""
    import mujoco

    def told(text: str) -> None:
        if "deprecated" not in text:
            warnings.warn(text, stacklevel=2)

    before = mujoco.get_mju_user_warning()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Brax System", category=UserWarning)
        mujoco.set_mju_user_warning(told)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(before)
