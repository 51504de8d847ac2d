"""`sparserl datasets`: the usual sets of offline learning from one training of this suite's own agents.

One dense run is trained as by `sparserl train`, with a replay that holds all of it, and its policy is kept at every
evaluation. Scores are z = (return - random) / (reference - random), and the sets are those that D4RL made customary:

    random          uniform actions
    medium          the policy at the first evaluation with z in [0.3, 0.4]
    medium-replay   every transition of the training up to there
    full-replay     every transition of the training
    expert          the policy at the best evaluation, which has z >= 0.9
    medium-expert   medium, then expert

A set that is there already is kept; what a training did not reach is named, and the other sets are made.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparserl_jax.agents.registry import algorithm
from sparserl_jax.bench import collect, played, policy, records, single
from sparserl_jax.data import OfflineDataset, archive
from sparserl_jax.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from sparserl_jax.bench.plan import Plan, Planned

NAMES = ("random", "medium", "medium-replay", "full-replay", "expert", "medium-expert")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the sets are to be. reference: return with z = 1; None: that of the best evaluation. medium: range of z of
    the medium policy; expert: least z of the best. transitions: of each set of a policy, at least, in whole episodes.
    noise: standard deviation on the actions of medium and expert."""

    reference: float | None = None
    medium: tuple[float, float] = (0.3, 0.4)
    expert: float = 0.9
    transitions: int = 100_000
    noise: float = 0.1

    def check(self) -> None:
        """Refuse what no set can be made of."""
        low, high = self.medium
        if not (
            0 < low < high < 1
            and 0 < self.expert <= 1
            and self.transitions >= 1
            and 0 <= self.noise < math.inf
        ):
            raise UserError(
                f"medium = {low:g} to {high:g}, expert = {self.expert:g}, transitions = {self.transitions}, noise = "
                f"{self.noise:g}: give a range within (0, 1), an expert in (0, 1], at least 1 transition and a noise "
                "of 0 or more."
            )


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished training in its folder: the run's id, its record, evaluations (steps i64[P], returns f64[P]) and the
    folder of the policies at them."""

    run: str
    record: dict[str, Any]
    steps: np.ndarray
    returns: np.ndarray
    policies: Path


def training(env: Any, agent: str, *, interval: int, **settings: Any) -> Plan:
    """The plan of the one run that the sets come from; `settings` as of `single.suite_of`."""
    from sparserl_jax.bench import plan as plans

    config: Any = algorithm(agent).config
    if config.experience != "replay":
        raise UserError(
            f"agent '{agent}' has no replay for the sets to come from; take one such as td3 or sac."
        )
    suite = single.suite_of(env, agent=agent, recipe="dense", seeds=1, **settings)
    schedule = dataclasses.replace(suite.schedule, buffer_max=suite.steps)
    evaluation = dataclasses.replace(suite.evaluation, interval=interval)
    return plans.make(dataclasses.replace(suite, schedule=schedule, evaluation=evaluation))


def train(plan: Plan, out: Path, console: Console, time_budget: float | None) -> Trained:
    """Train, or go on, or find what is finished, in `out`; raises `Unfinished`."""
    from sparserl_jax.bench import run as runs
    from sparserl_jax.training.runner import execute

    planned, folder, policies = plan.runs[0], out / "training", out / "policies"
    watch = functools.partial(_keep, plan, planned, out, policies)
    runs.run(
        plan, folder, console, time_budget=time_budget, execute=functools.partial(execute, observe=watch)
    )
    found = folder / "records" / planned.folder
    curve = records.read_curve(found / "curve.csv")
    returns = [np.nan if value is None else value for value in curve["return"]]
    return Trained(
        planned.folder.as_posix(),
        records.read(found),
        np.array(curve["env_step"], np.int64),
        np.array(returns, np.float64),
        policies,
    )


def _keep(plan: Plan, planned: Planned, out: Path, policies: Path, execution: Any) -> None:
    """The policy of an evaluation and, at the last, everything that was done."""
    from sparserl_jax.training import datasets
    from sparserl_jax.training.population import Member

    left, _ = execution.harvest()

    def mine(tree: Any) -> Any:
        return {k: mine(v) if isinstance(v, dict) else np.asarray(v)[0] for k, v in tree.items()}

    policies.mkdir(parents=True, exist_ok=True)
    described = records.description(plan, planned)
    policy.save(
        _file(policies, execution.step),
        mine(left["params"]["actor"]),
        mine(left["masks"]["actor"]),
        described,
    )
    if execution.step < plan.suite.steps:
        return
    state = execution.state()
    member = state if isinstance(state, Member) else state[0]
    replay = member.replay._replace(
        **{k: np.asarray(v)[0] for k, v in member.replay._asdict().items() if v is not None}
    )
    made = datasets.of_replay(replay, plan.suite.steps)
    about = {"env": planned.task.name, "agent": plan.suite.agent.name, "trained_on": planned.task.name}
    _save(out, "full-replay", made, "all of a training", about, plan.specs[planned.task.name])


def _file(policies: Path, step: int) -> Path:
    return policies / f"step-{step:09d}.npz"


def _save(
    out: Path, name: str, made: OfflineDataset, words: str, about: dict[str, Any], spec: Any
) -> dict[str, Any]:
    bounds = {"action_low": spec.action_low, "action_high": spec.action_high}
    source = f"{name}: {words} on {spec.name}"
    return archive.save(out / f"{name}.npz", made, source=source, about=about, **bounds)


def sets(out: Path, source: Any, found: Trained, wanted: Wanted, seed: int) -> list[str]:
    """Make what is not there; returns a line for every set, made, kept or out of reach. `source`: the environment, as
    `envs.make` takes it."""
    from sparserl_jax import envs
    from sparserl_jax.training.population import key_data

    env, said = envs.make(source), []
    spec = env.spec
    agent = {"agent": found.record["provenance"]["config"]["training"]["agent"]["name"], "run": found.run}

    def path(name: str) -> Path:
        return out / f"{name}.npz"

    def make(name: str, words: str, about: dict[str, Any], build: Any) -> dict[str, Any]:
        there = path(name).exists()
        told = {"env": spec.name, **about}
        card = archive.card(path(name)) if there else _save(out, name, build(), words, told, spec)
        said.append(collect.line(card, path(name)) + (", kept" if there else ""))
        return card

    def play(name: str, act: Any) -> OfflineDataset:
        key = key_data("datasets", spec.name, name, str(seed))
        noise = 0.0 if act is None else wanted.noise
        return played.play(env, act, key, transitions=wanted.transitions, noise=noise)

    low = make("random", "uniform actions", {"seed": seed}, lambda: play("random", None))["returns"]["mean"]
    best = float(np.nanmax(found.returns)) if np.isfinite(found.returns).any() else math.nan
    top = best if wanted.reference is None else wanted.reference
    if not top > low:
        raise UserError(
            f"the reference, a return of {top:g}, is not above that of uniform actions, {low:g}: train longer, or give "
            "another --reference."
        )
    z = (found.returns - low) / (top - low)

    def of_policy(name: str, at: int) -> None:
        about = {
            **agent,
            "step": int(found.steps[at]),
            "evaluated_return": float(found.returns[at]),
            "z": float(z[at]),
            "random": low,
            "reference": top,
            "noise": wanted.noise,
            "seed": seed,
        }
        acting = policy.load(_file(found.policies, int(found.steps[at])))
        make(name, f"the policy of step {about['step']:,}", about, lambda: play(name, acting.act))

    within = np.flatnonzero((z >= wanted.medium[0]) & (z <= wanted.medium[1]))
    if len(within):
        of_policy("medium", int(within[0]))
        step = int(found.steps[within[0]])
        about = {**agent, "step": step, "z": float(z[within[0]]), "random": low, "reference": top}
        make(
            "medium-replay",
            f"a training up to step {step:,}",
            about,
            lambda: _first(path("full-replay"), step),
        )
    else:
        said.append(_missed("medium", wanted, found, z))
    said.append(collect.line(archive.card(path("full-replay")), path("full-replay")))
    if best_at(z) is not None and z[best_at(z)] >= wanted.expert:
        of_policy("expert", int(best_at(z)))  # type: ignore[arg-type]
    else:
        said.append(_missed("expert", wanted, found, z))
    if path("medium").exists() and path("expert").exists():
        both = {"of": [archive.card(path(name))["sha256"] for name in ("medium", "expert")], **agent}
        make("medium-expert", "medium, then expert", both, lambda: _both(path("medium"), path("expert")))
    return said


def best_at(z: np.ndarray) -> int | None:
    """Which evaluation is the best; None where none is a number."""
    return int(np.nanargmax(z)) if np.isfinite(z).any() else None


def _missed(name: str, wanted: Wanted, found: Trained, z: np.ndarray) -> str:
    """Why there is no such set."""
    low, high = wanted.medium if name == "medium" else (wanted.expert, math.inf)
    if not np.isfinite(z).any():
        return f"no {name}: no evaluation of the training is a number."
    off = np.where(np.isfinite(z), np.maximum(low - z, z - high), np.inf)
    near = int(np.argmin(off))
    ask = f"z in [{low:g}, {high:g}]" if name == "medium" else f"z >= {low:g}"
    option = "--medium" if name == "medium" else "--expert"
    return (
        f"no {name}: no evaluation has {ask}; the nearest is {z[near]:.3g} at step {int(found.steps[near]):,}. Give "
        f"another {option}, or train longer or evaluate more often into another folder."
    )


def _columns(path: Path) -> OfflineDataset:
    """The arrays of a set as they lie there."""
    with np.load(path, allow_pickle=False) as file:
        return OfflineDataset(*(file[name] for name in OfflineDataset._fields))


def _first(path: Path, rows: int) -> OfflineDataset:
    """The first rows of a set; the episode that they end in is truncated there."""
    cut = OfflineDataset(*(column[:rows].copy() for column in _columns(path)))
    cut.truncated[-1] |= not cut.terminated[-1]
    return cut


def _both(one: Path, other: Path) -> OfflineDataset:
    return OfflineDataset(*map(np.concatenate, zip(_columns(one), _columns(other), strict=True)))
