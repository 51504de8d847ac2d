"""`sparserl datasets`: the usual sets of offline learning from one training of this suite's own agents.

One dense run is trained as by `sparserl train`, with a replay that holds all of it, and its policy is kept at every
evaluation. Scores are z = (return - random) / (reference - random), and the sets are those that D4RL made customary:

    random          uniform actions
    medium          the policy at the first evaluation with z in [0.3, 0.4]
    medium-replay   every transition of the training up to there
    full-replay     every transition of the training
    expert          the policy at the best evaluation, which has z >= 0.9
    medium-expert   medium, then expert

Every card holds what was asked for (`about.asked`). A set that is there already is kept if that was the same, and
refused before anything is trained if it was not: nothing is overwritten.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparserl_jax.agents.registry import algorithm
from sparserl_jax.bench import collect, played, policy, records, single
from sparserl_jax.data import OfflineDataset, archive, checks
from sparserl_jax.errors import UserError
from sparserl_jax.references import unlabelled

if TYPE_CHECKING:
    from rich.console import Console

    from sparserl_jax.bench.plan import Plan

NAMES = ("random", "medium", "medium-replay", "full-replay", "expert", "medium-expert")
EPISODES = 100
"""Least number of episodes of uniform actions, whose mean return is where z = 0."""
FINAL = 100
"""Episodes of the training's final evaluation, or a few more."""


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
        if self.reference is not None and not math.isfinite(self.reference):
            raise UserError(f"--reference {self.reference:g} is no return: give a finite number.")
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
class Order:
    """Sets that are wanted of a training: its plan, of one run; the folder; the seed of what is played."""

    plan: Plan
    out: Path
    wanted: Wanted
    seed: int

    @property
    def policies(self) -> Path:
        """Folder of the policies at the evaluations."""
        return self.out / "policies"

    def policy(self, step: int) -> Path:
        """The policy at an evaluation."""
        return self.policies / f"step-{step:09d}.npz"

    def set(self, name: str) -> Path:
        """The file of a set."""
        return self.out / f"{name}.npz"

    @property
    def spec(self) -> Any:
        """The environment's."""
        return self.plan.specs[self.plan.runs[0].task.name]

    def asked(self, name: str) -> dict[str, Any]:
        """All that a set depends on."""
        wish, training = self.wanted, {"training": self.plan.suite.hash()}
        ends = (
            {**training, "reference": wish.reference, "random": self.asked("random")}
            if name != "random"
            else {}
        )
        played = {"transitions": wish.transitions, "seed": self.seed}
        medium = {**ends, "medium": list(wish.medium)}
        noisy = {**played, "noise": wish.noise}
        return {
            "random": {"env": self.spec.name, **played},
            "full-replay": training,
            "medium-replay": medium,
            "medium": {**medium, **noisy},
            "expert": {**ends, **noisy, "expert": wish.expert},
            "medium-expert": {**medium, **noisy, "expert": wish.expert},
        }[name]

    def check(self) -> None:
        """Refuse a folder with sets or policies that are not what is asked for."""
        for name in NAMES:
            path = self.set(name)
            if not path.exists():
                continue
            about = archive.card(path).get("about", {})
            if about.get("asked") != self.asked(name):
                raise UserError(
                    f"'{path}' is there, and was made for something else ({_difference(about, self.asked(name))}): "
                    "move it and what was made with it away, or give another --out."
                )
        if self.policies.exists() and not (self.out / "training" / records.CONFIGURATION).is_file():
            raise UserError(
                f"'{self.policies}' is there without the training that it belongs to: move it away, or give another "
                "--out."
            )


def _difference(about: dict[str, Any], asked: dict[str, Any]) -> str:
    there = about.get("asked")
    if not isinstance(there, dict):
        return "its card does not say for what"
    odd = [key for key in asked if there.get(key) != asked[key]] or sorted(set(there) - set(asked))
    return ", ".join(f"{key} {there.get(key)}, not {asked.get(key)}" for key in odd)


def training(env: Any, agent: str, *, interval: int, episodes: int, **settings: Any) -> Plan:
    """The plan of the one run that the sets come from; `settings` as of `single.suite_of`.

    Raises:
        UserError: an agent without a replay, or an environment without real actions.
    """
    from sparserl_jax.bench import plan as plans

    config: Any = algorithm(agent).config
    if config.experience != "replay":
        raise UserError(
            f"agent '{agent}' has no replay for the sets to come from; take one such as td3 or sac."
        )
    if episodes < 1:
        raise UserError(f"--episodes {episodes}: give at least 1.")
    final = -(-FINAL // episodes) * episodes
    suite = single.suite_of(
        env, agent=agent, recipe="dense", seeds=1, episodes=episodes, final_episodes=final, **settings
    )
    schedule = dataclasses.replace(suite.schedule, buffer_max=suite.steps)
    evaluation = dataclasses.replace(suite.evaluation, interval=interval)
    plan = plans.make(dataclasses.replace(suite, schedule=schedule, evaluation=evaluation))
    played.refuse_choices(next(iter(plan.specs.values())))
    return plan


def make(order: Order, console: Console, time_budget: float | None = None) -> Iterator[str]:
    """Train, or go on, or find what is finished, then make the sets that are not there; a line for every set.

    Raises:
        Unfinished: the time is over; called again, it goes on.
        UserError: the folder holds something else, or a set cannot be made.
    """
    from sparserl_jax.bench import run as runs
    from sparserl_jax.training.runner import execute

    began = time.monotonic()
    runs.check_budget(time_budget)
    with runs.locked(order.out):
        order.check()
        watched = functools.partial(execute, observe=functools.partial(_keep, order))
        runs.run(order.plan, order.out / "training", console, time_budget=time_budget, execute=watched)
        for line in sets(order):
            yield line
            left = any(not order.set(name).exists() for name in NAMES)
            if left and time_budget is not None and time.monotonic() - began >= time_budget:
                raise runs.Unfinished(runs.EXIT_TIME_BUDGET, "time budget; run again to go on.")


def _keep(order: Order, execution: Any) -> None:
    """The policy of an evaluation and, at the last, everything that was done."""
    from sparserl_jax.training import datasets
    from sparserl_jax.training.population import Member

    left, _ = execution.harvest()

    def mine(tree: Any) -> Any:
        return {k: mine(v) if isinstance(v, dict) else np.asarray(v)[0] for k, v in tree.items()}

    order.policies.mkdir(parents=True, exist_ok=True)
    described = records.description(order.plan, order.plan.runs[0])
    actor = mine(left["params"]["actor"]), mine(left["masks"]["actor"])
    policy.save(order.policy(execution.step), *actor, described)
    if execution.step < order.plan.suite.steps:
        return
    state = execution.state()
    replay = (state if isinstance(state, Member) else state[0]).replay
    own = {name: np.asarray(value)[0] for name, value in replay._asdict().items() if value is not None}
    made, lost = datasets.of_replay(replay._replace(**own), order.plan.suite.steps)
    if all(np.isfinite(column).all() for column in made):  # of a diverged training there is no set
        about = {**_agent(order), "left_out": lost.tolist()}
        _save(order, "full-replay", made, "all of a training", about)


def _agent(order: Order) -> dict[str, Any]:
    planned = order.plan.runs[0]
    return {"agent": order.plan.suite.agent.name, "run": planned.folder.as_posix()}


def _save(order: Order, name: str, made: OfflineDataset, words: str, about: dict[str, Any]) -> dict[str, Any]:
    bounds = {"action_low": order.spec.action_low, "action_high": order.spec.action_high}
    facts = {"env": order.spec.name, **about, "asked": order.asked(name)}
    return archive.save(
        order.set(name), made, source=f"{name}: {words} on {order.spec.name}", about=facts, **bounds
    )


def sets(order: Order) -> Iterator[str]:
    """Make what is not there of a finished training's sets; a line for every set, made, kept or out of reach."""
    from sparserl_jax import envs
    from sparserl_jax.training.population import key_data

    wanted, task = order.wanted, order.plan.suite.tasks[0]
    env = envs.make(task.name if task.object is None else task.object)

    def made(name: str, words: str, about: dict[str, Any], build: Callable[[], OfflineDataset]) -> str:
        there = order.set(name).exists()
        card = archive.card(order.set(name)) if there else _save(order, name, build(), words, about)
        return collect.line(card, order.set(name)) + (", kept" if there else "")

    def play(name: str, act: Any, noise: float = 0.0, episodes: int = 1) -> OfflineDataset:
        key = key_data("datasets", unlabelled(env.spec.name), name, str(order.seed))
        return played.play(env, act, key, episodes=episodes, transitions=wanted.transitions, noise=noise)

    yield made("random", "uniform actions", {}, lambda: play("random", None, episodes=EPISODES))
    low = archive.card(order.set("random"))["returns"]["mean"]
    steps, returns = _evaluations(order)
    best = float(np.nanmax(returns)) if np.isfinite(returns).any() else math.nan
    top = best if wanted.reference is None else wanted.reference
    if not top > low:
        raise UserError(
            f"the reference, a return of {top:g}, is not above that of uniform actions, {low:g}: train longer into "
            "another folder, or give another --reference."
        )
    z = (returns - low) / (top - low)
    facts = {**_agent(order), "random": low, "reference": top}

    def of_policy(name: str, at: int) -> str:
        step, about = int(steps[at]), {**facts, "z": float(z[at]), "noise": wanted.noise}
        about |= {"step": step, "evaluated_return": float(returns[at])}
        if not order.set(name).exists() and not order.policy(step).exists():
            return f"no {name}: '{order.policy(step)}' is gone; only its training could write it again."
        return made(
            name,
            f"the policy of step {step:,}",
            about,
            lambda: play(name, policy.load(order.policy(step)).act, wanted.noise),
        )

    whole = order.set("full-replay")
    yield (
        f"{collect.line(archive.card(whole), whole)}"
        if whole.exists()
        else "no full-replay: the training held numbers that are not finite, or its file was moved away."
    )
    within = np.flatnonzero((z >= wanted.medium[0]) & (z <= wanted.medium[1]))
    if len(within):
        first, step = int(within[0]), int(steps[within[0]])
        yield of_policy("medium", first)
        if whole.exists() or order.set("medium-replay").exists():
            about = {**facts, "step": step, "z": float(z[first])}
            yield made("medium-replay", f"a training up to step {step:,}", about, lambda: _first(order, step))
    else:
        yield _missed("medium", wanted, steps, z)
    reached = np.isfinite(z).any() and np.nanmax(z) >= wanted.expert
    yield of_policy("expert", int(np.nanargmax(z))) if reached else _missed("expert", wanted, steps, z)
    parts = [order.set(name) for name in ("medium", "expert")]
    if all(part.exists() for part in parts):
        about = {**facts, "of": [archive.card(part)["sha256"] for part in parts], "noise": wanted.noise}
        yield made("medium-expert", "medium, then expert", about, lambda: _both(order, "medium", "expert"))


def _evaluations(order: Order) -> tuple[np.ndarray, np.ndarray]:
    """Steps i64[P] and returns f64[P] of the training's curve, NaN where it had diverged."""
    folder = order.out / "training" / "records" / order.plan.runs[0].folder
    curve = records.read_curve(folder / "curve.csv")
    returns = [np.nan if value is None else value for value in curve["return"]]
    return np.array(curve["env_step"], np.int64), np.array(returns, np.float64)


def _missed(name: str, wanted: Wanted, steps: np.ndarray, z: np.ndarray) -> str:
    """Why there is no such set."""
    low, high = wanted.medium if name == "medium" else (wanted.expert, math.inf)
    if not np.isfinite(z).any():
        return f"no {name}: no evaluation of the training is a number."
    off = np.where(np.isfinite(z), np.maximum(low - z, z - high), np.inf)
    near = int(np.argmin(off))
    ask = f"z in [{low:g}, {high:g}]" if name == "medium" else f"z >= {low:g}"
    other = f"give another --{name}, or " if 0 < z[near] < 1 else ""
    return (
        f"no {name}: no evaluation has {ask}; the nearest is {z[near]:.3g} at step {int(steps[near]):,}: {other}train "
        "longer or evaluate more often into another folder."
    )


def _load(order: Order, name: str) -> OfflineDataset:
    """A set as it lies there."""
    spec = order.spec
    return archive.load(order.set(name), checks.box(spec.obs_dim, spec.action_low, spec.action_high))


def _first(order: Order, steps: int) -> OfflineDataset:
    """What was done in the first steps of a training; the episode that they end in is truncated there."""
    rows = steps - sum(step < steps for step in archive.card(order.set("full-replay"))["about"]["left_out"])
    cut = OfflineDataset(*(column[:rows].copy() for column in _load(order, "full-replay")))
    cut.truncated[-1] |= not cut.terminated[-1]
    return cut


def _both(order: Order, *names: str) -> OfflineDataset:
    parts = (_load(order, name) for name in names)
    return OfflineDataset(*map(np.concatenate, zip(*parts, strict=True)))
