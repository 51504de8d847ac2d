"""Executing a Program whose environments run on the host: one of them per member, two jitted calls per vector step.

    act for all members  ->  one step of every environment  ->  insert and update, with donated state

Where the layout has several waves of members, both calls are made once per wave: population, settings and sums are
lists of what belongs to each. Everything on the host has all members.

The unit is the vector step: Ctrl-C, the time budget, a checkpoint by time and an environment that breaks all leave the
state between two of them, wherever the dispatch stands; a dispatch is what the curve's losses are means over. A
checkpoint holds, beside the population, the seed of every running episode and the actions since (`episodes.py`), so
what a Run ends in does not depend on where it was stopped, as long as its environment is repeatable. Where it is not,
the interrupted episodes end as truncated, new ones begin, and the record says how many.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sparserl_jax.training.episodes import BrokenAt, Episodes, Log
from sparserl_jax.training.host_evaluation import HostEvaluation
from sparserl_jax.training.interrupts import whole
from sparserl_jax.training.outcome import Outcome
from sparserl_jax.training.program import Program, clock_at
from sparserl_jax.training.progress import Progress


class HostExecution(HostEvaluation):
    """The moving parts of `execute` for environments on the host."""

    def __init__(
        self, program: Program, folder: Path | None, progress: Progress, checkpoint_seconds: float
    ) -> None:
        super().__init__(program, folder, progress, checkpoint_seconds)
        self.seconds["environment"] = 0.0  # part of the seconds of warm_up and train
        self.sums: list[dict[str, Any]] = []
        self.cut = np.zeros(len(program.runs), np.int32)

    def prepare(self, deadline: float | None = None) -> None:
        """Make everybody's environment, too."""
        super().prepare(deadline)
        program = self.program
        keys = np.asarray(program.settings.keys["start"])
        longest = min(self.env.spec.max_episode_steps, self.training.steps)
        self.episodes = Episodes(self.env, keys, longest)
        like = program.host_stages.sums(program.shapes(), program.settings, clock_at(self.training, 0))
        self.zeros = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in like.items()}
        self.sums = self.layout.deal(self.zeros)

    def placed(self, tree: Any) -> Any:
        """See Execution.placed; a list of the waves'."""
        return self.layout.deal(tree)

    def begin(self) -> None:
        """A fresh population at the beginning of everybody's first episode."""
        try:
            first = self.episodes.start()
        except BrokenAt as broken:
            self._refuse(broken)
        self.population = [
            self.compiled["init"](*wave) for wave in zip(self.settings, self.layout.split(first), strict=True)
        ]

    def proceed(self) -> None:
        """See Execution.proceed."""
        try:
            self.vector_step()
        except BrokenAt as broken:
            self._refuse(broken)

    def vector_step(self) -> None:
        """One step of every member, with its update."""
        began = time.perf_counter()
        warming = self.step < self.training.warm_up
        kind = "warm_up" if warming else "train"
        clock = clock_at(self.training, self.step)
        uniform = warming and self.program.host_stages.first_actions == "uniform"
        act = self.compiled["uniform" if uniform else "act"]
        actions = [act(wave, own, clock) for wave, own in zip(self.population, self.settings, strict=True)]
        chosen = self.layout.join([action for action, _ in actions])
        ready = time.perf_counter()
        taken = self.episodes.step(chosen)
        self.seconds["environment"] += time.perf_counter() - ready
        with whole():
            parts = zip(self.population, self.settings, actions, self.layout.split(taken), strict=True)
            given = [(wave, own, clock, *both, step) for wave, own, both, step in parts]
            if warming:
                after = [self.compiled[kind](*one) for one in given]
            else:
                done = [self.compiled[kind](*one, own) for one, own in zip(given, self.sums, strict=True)]
                after, self.sums = [wave for wave, _ in done], [own for _, own in done]
            self.population = after
            self.episodes.commit()
            self.step += 1
            if self.step % self.training.dispatch_steps == 0:
                self._close_dispatch(warming)
        self.seconds[kind] += time.perf_counter() - began

    def _close_dispatch(self, warming: bool) -> None:
        jax.block_until_ready(self.population)
        if not warming:
            sums = self.layout.join(self.sums)
            self.metrics = {name: value[:, 0] / value[:, 1] for name, value in sums.items()}
        self.sums = self.layout.deal(self.zeros)

    def _evaluate(self, repeat: int) -> tuple[dict[str, np.ndarray], Any]:
        began = time.perf_counter()
        clock = clock_at(self.training, self.step)
        harvest, evaluate = self.compiled["harvest"], self.compiled["evaluate"]
        actors = [harvest(wave)["params"]["actor"] for wave in self.population]
        # On one device, whole and without copies: a call for every step of the episodes.
        together = len(actors) == len(self.layout.devices) == 1
        params = actors[0] if together else jax.device_put(self.layout.join(actors))
        gamma = self.layout.join([jax.vmap(self.program.agent.gamma)(wave.agent) for wave in self.population])
        returns, ahead = self.play(params, gamma, repeat)
        found = [
            evaluate(wave, own, clock, looked)
            for wave, own, looked in zip(
                self.population, self.settings, self.layout.split(ahead), strict=True
            )
        ]
        seen = {"returns": returns, **self.layout.join([seen for seen, _ in found])}
        self.seconds["evaluate"] += time.perf_counter() - began
        return seen, [history for _, history in found]

    def remember(self, history: Any) -> None:
        """See Execution.remember."""
        self.population = [
            wave._replace(history=own) for wave, own in zip(self.population, history, strict=True)
        ]

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def shapes(self) -> Any:
        """See Execution.shapes."""
        return self.program.shapes(), self.zeros, self.episodes.log

    def state(self) -> Any:
        """See Execution.state."""
        return self.layout.join(self.population), self.layout.join(self.sums), self.episodes.log

    def notes(self) -> dict[str, Any]:
        """See Execution.notes."""
        return {"cut": self.cut.tolist()}

    def adopt(self, state: Any, notes: dict[str, Any]) -> None:
        """Go on from what a checkpoint held; episodes that cannot be brought back are cut."""
        population, sums, log = state
        self.sums, self.cut = self.layout.deal(sums), np.asarray(notes["cut"], np.int32)
        try:
            lost = self.episodes.resume(Log(*log), np.asarray(population.envs.obs)[:, 0])
        except BrokenAt as broken:
            self._refuse(broken)
        if lost.any():
            clock, obs = clock_at(self.training, self.step), self.episodes.obs[:, None]
            population = self.program.stages["restart"](population, clock, obs, lost[:, None])
            cut = lost & (np.asarray(log.length) > 0)
            self.cut += cut
            self.saved = None  # what lies there has the episodes that are gone
            self.progress.warn(
                self.program.name,
                f"the running episodes of {int(cut.sum())} of {len(cut)} members could not be brought back: they end "
                "as truncated, and new ones begin.",
            )
        self.population = self.layout.deal(population)

    # ---- results ---------------------------------------------------------------------------------------------------

    def harvest(self) -> tuple[Any, Any]:
        """See Execution.harvest."""
        return tuple(  # type: ignore[return-value]
            self.layout.join(waves)
            for waves in (
                [self.compiled["harvest"](w) for w in self.population],
                [w.tally for w in self.population],
            )
        )

    def outcomes(self, final: np.ndarray) -> list[Outcome]:
        """See Execution.outcomes; the record also says whether a stop can have changed it."""
        found = super().outcomes(final)
        self.episodes.close()
        return [
            dataclasses.replace(
                outcome, measured={**outcome.measured, "episodes_cut_by_resuming": float(cut)}
            )
            for outcome, cut in zip(found, self.cut, strict=True)
        ]
