"""Python use, in five lines:

import sparserl_jax

results = sparserl_jax.train("gymnax:Pendulum-v1", recipe="rlx2", sparsity=0.9, seeds=4, steps=20_000)
print(results.scores, results.table())
action = results.policy(seed=0)([0.1, 0.2, 0.3])
"""

from __future__ import annotations

import dataclasses
import tempfile
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from sparserl_jax.bench.policy import Policy


@dataclasses.dataclass(frozen=True)
class Results:
    """What a training left in `folder`: records, tables, policies; everything is read from the files when asked for."""

    folder: Path

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records, seed by seed; see `bench/record.schema.json`."""
        from sparserl_jax.bench import records

        return records.load_all(self.folder)[1]

    @property
    def scores(self) -> np.ndarray:
        """Score of every seed, f64[seeds]: mean return of the last tenth of the evaluations; NaN where it diverged."""
        import numpy as np

        found = [record["result"]["score"] for record in self.records]
        return np.array([np.nan if score is None else score for score in found], np.float64)

    def curve(self, seed: int) -> dict[str, list[float | None]]:
        """Evaluation points and diagnostics of one seed, column by column."""
        from sparserl_jax.bench import records

        return records.read_curve(self._folder_of(seed) / "curve.csv")

    def table(self) -> str:
        """The table as Markdown."""
        from sparserl_jax.bench import summary, tables

        return tables.markdown(summary.summarise(self.folder))

    def policy(self, seed: int) -> Policy:
        """The trained policy of one seed: call it with observations `[..., obs]`."""
        from sparserl_jax.bench import policy

        return policy.load(self._folder_of(seed) / "policy.npz")

    def _folder_of(self, seed: int) -> Path:
        from sparserl_jax.errors import UserError

        seeds = {record["result"]["seed"]: record["run_id"] for record in self.records}
        if seed not in seeds:
            raise UserError(f"there is no seed {seed} in '{self.folder.name}'; it has {sorted(seeds)}.")
        return self.folder / "records" / seeds[seed]


def train(
    env: Any,
    agent: str = "td3",
    recipe: str | None = None,
    sparsity: float | None = None,
    seeds: int = 8,
    steps: int | None = None,
    *,
    out: str | Path | None = None,
    time_budget: float | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Results:
    """Train `seeds` members of one recipe on one environment, together, and return what they left on disk.

    Args:
        env: a name (`brax:hopper`, `gymnax:Pendulum-v1`, `my_pkg.envs:Factory`) or an environment object.
        sparsity: default 0.9; see `bench.single.suite_of`.
        recipe, steps: default rlx2 (rigl for DQN, PPO and what learns from a dataset), and 100,000 or what is nearest
            to it and fits.
        out: folder for the results. Default: `runs/train-<hash>` for a named environment, where the same call again
            goes on or returns at once; a fresh temporary folder for an object, whose code no hash can name. For an
            object, `out` must not hold results yet.
        time_budget: seconds after which to stop; `bench.run.Unfinished` is raised, the same call again goes on
            (with a named environment).
        quiet: print nothing.
        settings: further arguments of `bench.single.suite_of` (hidden, batch_size, num_envs, warm_up, ...).

    Raises:
        UserError: a mistake in the arguments, told in one sentence before anything is compiled.
    """
    from rich.console import Console

    from sparserl_jax.bench import plan as plans
    from sparserl_jax.bench import run as runs
    from sparserl_jax.bench import single, strict, tables
    from sparserl_jax.bench.paths import at_home
    from sparserl_jax.bench.records import CONFIGURATION
    from sparserl_jax.errors import UserError

    if time_budget is not None and (isinstance(time_budget, bool) or not isinstance(time_budget, Real)):
        raise UserError(f"train: time_budget must be a number of seconds, not {time_budget!r}.")
    # Records of another environment of the same class would count as finished.
    if out is not None and not isinstance(env, str) and (at_home(out) / CONFIGURATION).exists():
        raise UserError(
            f"'{out}' holds results already, and an environment object's code cannot be compared with what made them; "
            "give another folder with out=."
        )
    given = {
        "agent": agent,
        "recipe": recipe,
        "sparsity": sparsity,
        "seeds": seeds,
        "steps": steps,
        **settings,
    }
    suite = single.suite_of(env, **strict.checked(single.suite_of, given, "train"))
    plan = plans.make(suite)
    if out is None and not isinstance(env, str):
        folder = Path(tempfile.mkdtemp(prefix="sparserl-")) / "train"
    else:
        folder = runs.folder_of(plan, None if out is None else at_home(out))
    runs.run(plan, folder, Console(quiet=quiet), time_budget=time_budget)
    tables.write(folder)
    return Results(folder)
