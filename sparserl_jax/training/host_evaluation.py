"""Executing a Program that learns from a dataset and is evaluated in environments on the host, one per member.

Training is compiled whole, dispatch after dispatch; the episodes of an evaluation are played in a plain loop, all
members side by side. `host.py` builds on it, where members train in such environments, too.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, NoReturn

import jax
import numpy as np

from sparserl_jax.envs import HostEnvironment, Lookahead, check
from sparserl_jax.envs.host import instances
from sparserl_jax.errors import UserError
from sparserl_jax.training.episodes import BrokenAt, evaluation, play_ahead
from sparserl_jax.training.outcome import Outcome
from sparserl_jax.training.program import clock_at
from sparserl_jax.training.runner import Execution


class HostEvaluation(Execution):
    """The moving parts of `execute` where the environments of evaluations run on the host."""

    def prepare(self, deadline: float | None = None) -> None:
        """Look at the environment once more, make everybody's, and compile."""
        program = self.program
        env = check(program.env)
        assert isinstance(env, HostEnvironment)
        self.env = env
        if not env.repeatable:
            self.progress.warn(
                program.name,
                f"{env.spec.name} is not repeatable (equal seeds and actions gave different results): "
                + (
                    "a run that is stopped goes on, but not to the same end."
                    if program.stepped_on_host
                    else "evaluations are not the same when repeated."
                ),
            )
        self.playground = instances(env, len(program.runs))
        super().prepare(deadline)

    def evaluate(self) -> None:
        """See Execution.evaluate."""
        try:
            super().evaluate()
        except BrokenAt as broken:
            self._refuse(broken)

    def final_returns(self, deadline: float | None = None) -> np.ndarray:
        """See Execution.final_returns."""
        try:
            return super().final_returns(deadline)
        except BrokenAt as broken:
            self._refuse(broken)

    def play(self, params: Any, gamma: np.ndarray, repeat: int) -> tuple[np.ndarray, Lookahead]:
        """Returns f32[member, episodes] of one evaluation, and what its start states were worth at discounts `gamma`
        f32[member]. params: of the acting networks, arrays [member, ...]. Raises BrokenAt."""
        key = np.asarray(self.program.settings.evaluation_key)[0]  # common to all arms
        plan = self.training.evaluation
        called = (self.compiled["policy"], params, key, self.step, repeat)
        act, seeds = evaluation(*called, plan.episodes, plan.sampled)
        return play_ahead(self.playground, act, seeds, gamma)

    def _evaluate(self, repeat: int) -> tuple[dict[str, np.ndarray], Any]:
        began = time.perf_counter()
        layout, clock = self.layout, clock_at(self.training, self.step)
        params = jax.device_put(layout.join([self.compiled["harvest"](self.population)["params"]["actor"]]))
        gamma = layout.join([jax.vmap(self.program.agent.gamma)(self.population.agent)])
        returns, ahead = self.play(params, gamma, repeat)
        given = (self.population, self.settings, clock, layout.place(ahead), *self.shared)
        seen, history = self.compiled["evaluate"](*given)
        self.seconds["evaluate"] += time.perf_counter() - began
        return {"returns": returns, **layout.join([seen])}, history

    def outcomes(self, final: np.ndarray) -> list[Outcome]:
        """See Execution.outcomes; the record also says whether equal seeds and actions gave equal episodes."""
        found = super().outcomes(final)
        for env in self.playground:
            env.close()
        facts = {"environment_repeatable": self.env.repeatable}
        return [dataclasses.replace(outcome, measured={**outcome.measured, **facts}) for outcome in found]

    def _refuse(self, broken: BrokenAt) -> NoReturn:
        """Keep everybody's work, then say what broke where."""
        self.save()  # which does nothing while there is no population, as before a resume is complete
        kept = self.folder is not None and self.population is not None
        run = self.program.runs[broken.member]
        steps = "environment step" if self.training.dataset is None else "update"
        raise UserError(
            f"environment '{self.env.spec.name}' broke at {steps} {self.step} of member {broken.member} "
            f"({run.id}): {broken}; mend it and run again"
            + (", all members go on from the checkpoint of this step." if kept else ".")
        ) from broken
