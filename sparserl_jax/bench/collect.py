"""`sparserl collect`: whole episodes of a trained policy as a dataset, in this package's own file (`data/archive.py`).

The card says whose they are: environment, agent, recipe and method, the run, its score, the digest of its policy file,
and how it was played. The same policy, seed and machine give the same file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sparserl_jax.bench import evaluate, new_file, played, records
from sparserl_jax.bench.saved import Saved
from sparserl_jax.data import OfflineDataset, archive
from sparserl_jax.errors import UserError
from sparserl_jax.references import unlabelled

ENDING = ".npz"


def collect(
    saved: Saved, out: Path, *, episodes: int, seed: int = 0, noise: float = 0.0, env: str | None = None
) -> dict[str, Any]:
    """Play a policy and write what it did to a new file; returns the file's card.

    Args:
        out: the file, which must not be there yet.
        episodes: at least 1.
        seed: names the episodes, which are never those of any evaluation.
        noise: standard deviation of the normal noise on actions in [-1, 1], which are clipped.
        env: another environment's name; default that of the training.

    Raises:
        UserError: numbers out of range, a file that is there, a policy that diverged, or an environment that has no
            such data.
    """
    if episodes < 1 or seed < 0 or not 0 <= noise < math.inf:
        raise UserError(
            f"episodes = {episodes}, seed = {seed}, noise = {noise:g}: give at least 1 episode, a seed of 0 or more "
            "and a noise of 0 or more."
        )
    saved.check_played()
    _check_target(out)
    there = evaluate.environment(saved, env)
    spec = there.spec
    made = _played(saved, there, episodes, seed, noise)
    about = {**_about(saved), "env": spec.name, "seed": seed, "noise": noise}
    words = f"{episodes} episodes of {saved.policy.description['agent']} on {spec.name}"
    bounds = {"action_low": spec.action_low, "action_high": spec.action_high}
    try:
        return archive.save(out, made, source=words, about=about, new=True, **bounds)
    except OSError as error:
        _check_target(out)  # made by somebody else while episodes were played
        raise UserError(f"'{out}' cannot be written ({error.strerror}); give another --out.") from None


def line(card: dict[str, Any], out: Path) -> str:
    """What was written, in words."""
    returns = card["returns"]
    return (
        f"{out}: {card['transitions']:,} transitions in {card['episodes']:,} episodes, returns from "
        f"{returns['min']:.6g} to {returns['max']:.6g} (mean {returns['mean']:.6g}), sha256 {card['sha256'][:12]}"
    )


def _check_target(out: Path) -> None:
    if out.suffix != ENDING:
        raise UserError(
            f"--out '{out}' does not end in {ENDING}, by which a dataset of this package is known; let it."
        )
    new_file.check(out, make_folder=True)


def _about(saved: Saved) -> dict[str, Any]:
    """Whose episodes they are, from the record where there is one."""
    said = {
        "agent": saved.policy.description["agent"],
        "policy_sha256": records.digest(saved.path.read_bytes()),
    }
    if saved.record is None:
        return said
    result = saved.record["result"]
    named = {key: result[key] for key in ("recipe", "method", "sparsity", "score", "final_score")}
    # The episodes are of the mode, beside the noise; the scores may be of another policy.
    acted = {"acted": "mode", "scores_of": "draws" if evaluate.sampled(saved) else "mode"}
    return {**said, "run": saved.record["run_id"], "trained_on": result["env"], **named, **acted}


def _played(saved: Saved, env: Any, episodes: int, seed: int, noise: float) -> OfflineDataset:
    """That many episodes."""
    from sparserl_jax.training.population import key_data

    key = key_data("collect", unlabelled(env.spec.name), str(seed))
    precision = evaluate.declared_precision(saved)
    return played.play(env, saved.policy.act, key, episodes=episodes, noise=noise, precision=precision)
