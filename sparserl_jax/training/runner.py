"""Executing a Program on the host: dispatch after dispatch, evaluation, checkpoints by time, exact resume.

A dispatch is one jitted call. Between dispatches, on the host: evaluation where due, checkpoint where due, progress,
Ctrl-C, time budget. What a Run ends in is a function of its configuration, its seed, the Program's membership and the
kind of device; killing the process and executing again gives the same arrays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sparserl_jax.errors import UserError
from sparserl_jax.training import checkpoint, datasets, diagnostics, memory
from sparserl_jax.training.interrupts import whole
from sparserl_jax.training.outcome import Outcome, counts
from sparserl_jax.training.program import Program, clock_at
from sparserl_jax.training.progress import Progress, Silent

CHECKPOINT_SECONDS = 300.0
"""Least time between checkpoints."""
CHECKPOINT_SHARE = 0.05
"""Largest share of the run spent on writing them."""
NEWS_SECONDS = 1.0
"""Most time between two reports of progress where pieces of training are small."""


class Stopped(Exception):
    """Execution stopped before its end, with a checkpoint written; `reason` is `time budget` or `interrupted`. idle:
    the deadline came before anything was done but to compile."""

    def __init__(self, reason: str, step: int, idle: bool = False) -> None:
        super().__init__(f"stopped at environment step {step} ({reason})")
        self.reason, self.step, self.idle = reason, step, idle


def execute(
    program: Program,
    folder: Path | None = None,
    deadline: float | None = None,
    progress: Progress | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    rehearsed: Callable[[float, float], None] | None = None,
    observe: Callable[[Execution], None] | None = None,
) -> list[Outcome]:
    """Train and evaluate all members of `program`; one Outcome per Run, in order.

    Args:
        program: what to run.
        folder: where checkpoints go and are looked for; None: no checkpoints.
        deadline: `time.monotonic()` value after which no further dispatch or evaluation is begun.
        progress: told what happens.
        checkpoint_seconds: least time between checkpoints.
        rehearsed: told, before a fresh beginning, the seconds that all dispatches and evaluations will take by a few
            timed ones, and those of the compilation; what it raises ends the execution. Not called for environments
            on the host.
        observe: called with the moving parts after every point of the curve; it must not change them.

    Raises:
        Stopped: at the deadline or on Ctrl-C, after a checkpoint.
        UserError: the population does not fit into the memory of the devices, or its checkpoints into the host's.
    """
    execution = _kind(program)(program, folder, progress or Silent(), checkpoint_seconds)
    execution.observe = observe
    try:
        return execution.run(deadline, rehearsed)
    except KeyboardInterrupt:
        execution.save()
        raise Stopped("interrupted", execution.step) from None
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(memory.exhausted(program.layout, program.name, str(error))) from error


def _kind(program: Program) -> type[Execution]:
    """The loop that the program's environments need."""
    if not program.host:
        return Execution
    from sparserl_jax.training import host, host_evaluation  # which build on this file

    return host.HostExecution if program.stepped_on_host else host_evaluation.HostEvaluation


class Execution:
    """The moving parts of `execute`."""

    def __init__(
        self, program: Program, folder: Path | None, progress: Progress, checkpoint_seconds: float
    ) -> None:
        self.program, self.folder, self.progress = program, folder, progress
        self.checkpoint_seconds = checkpoint_seconds
        self.training, self.step = program.training, 0
        self.population: Any = None  # a Member; where environments run on the host, one for each wave
        self.points: list[dict[str, np.ndarray]] = []
        self.final: list[np.ndarray] = []  # returns [member, episodes] of the final evaluation so far
        self.metrics: dict[str, np.ndarray] = {}
        self.seconds = {"warm_up": 0.0, "train": 0.0, "evaluate": 0.0, "checkpoint": 0.0, "compile": 0.0}
        self.observe: Callable[[Execution], None] | None = None
        self.saved_at, self.longest_save = time.monotonic(), 0.0
        self.saved: tuple[int, ...] | None = None  # see `at`
        self.began_at: tuple[int, ...] = ()

    def run(
        self, deadline: float | None, rehearsed: Callable[[float, float], None] | None = None
    ) -> list[Outcome]:
        """Everything, from the compilation to the outcomes."""
        self.prepare(deadline)
        if not self.restore():
            if rehearsed is not None and not self.program.host:
                self.going_on(deadline)
                rehearsed(self.rehearse(), self.seconds["compile"])
            self.begin()
        self.began_at = self.at
        self.loop(deadline)
        final = self.final_returns(deadline)
        return self.outcomes(final)

    @property
    def at(self) -> tuple[int, ...]:
        """How far it has come: step, curve points, pieces of the final evaluation."""
        return self.step, len(self.points), len(self.final)

    def stop_at(self, deadline: float | None) -> None:
        """Raise `Stopped`, with a checkpoint written, where the time is up, or only writing it would fit."""
        if deadline is not None and time.monotonic() >= deadline - self.longest_save:
            self.save()
            raise Stopped("time budget", self.step, idle=self.at == self.began_at)

    def going_on(self, deadline: float | None) -> None:
        """While it compiles: raise `KeyboardInterrupt` on Ctrl-C, and `Stopped` where the time is up."""
        self.progress.stage(self.program.name, "compiling")
        if deadline is not None and time.monotonic() >= deadline:
            raise Stopped("time budget", self.step, idle=True)

    def prepare(self, deadline: float | None = None) -> None:
        """Compile, if it fits; meanwhile Ctrl-C and the deadline are heard."""
        self.program.check_given()
        name, layout = self.program.name, self.program.layout
        memory.forget_compiled()
        held = self.program.memory()
        memory.check(held, layout, name)
        if self.folder is not None:
            memory.check_checkpoint(held * len(layout.devices), name)
        self.progress.stage(name, "compiling")
        began = time.perf_counter()
        self.compiled, self.compile_seconds = self.program.compile(lambda: self.going_on(deadline))
        self.seconds["compile"] = time.perf_counter() - began
        self.peak = memory.compiled_bytes(self.compiled["train"])
        memory.check(max(memory.compiled_bytes(stage) or 0 for stage in self.compiled.values()), layout, name)
        self.layout = layout
        self.settings = self.placed(self.program.settings)
        self.shared = self.layout.share(self.program.shared)

    def placed(self, tree: Any) -> Any:
        """Arrays `[member, ...]` on the devices, as the stages take them."""
        return self.layout.place(tree)

    def begin(self) -> None:
        """A fresh population."""
        self.population = self.compiled["init"](self.settings)

    def rehearse(self) -> float:
        """Seconds that all dispatches and evaluations will take, by timed ones of a population that is thrown away."""
        training, folder = self.training, self.folder
        self.progress.stage(self.program.name, "measuring its speed")
        calls = {
            "warm_up": training.warm_up // training.dispatch_steps,
            "train": training.trained_steps // training.dispatch_steps,
            "evaluate": training.steps // training.evaluation.interval
            + training.evaluation.final_episodes // training.evaluation.episodes,
        }
        kept, each = dict(self.seconds), dict.fromkeys(calls, 0.0)
        try:
            self.folder = None  # nothing of it may become a checkpoint
            self.begin()
            for kind in (kind for kind in calls if calls[kind]):
                for _ in range(2):  # the first call also sets the device up
                    self.step, before = (0 if kind == "warm_up" else training.warm_up), self.seconds[kind]
                    if kind == "evaluate":
                        self._evaluate(1)
                    else:
                        self.dispatch()
                    each[kind] = self.seconds[kind] - before
        finally:
            self.population, self.metrics, self.step = None, {}, 0
            self.seconds, self.folder = kept, folder
        return sum(calls[kind] * each[kind] for kind in calls)

    def loop(self, deadline: float | None) -> None:
        """Piece after piece of training, up to the last evaluation of the curve."""
        training, name = self.training, self.program.name
        told = time.monotonic()
        while self.step < training.steps or self.point_due():
            self.stop_at(deadline)
            # An evaluation changes nothing; one that was interrupted is still due.
            if self.point_due():
                self.evaluate()
            else:
                self.proceed()
            if self.point_due():
                continue
            if self.checkpoint_due():
                with whole():
                    self.save()
            if self.step % training.dispatch_steps == 0 or time.monotonic() - told >= NEWS_SECONDS:
                told = time.monotonic()
                self.progress.advance(name, self.step, training.steps)

    def point_due(self) -> bool:
        """Whether the curve lacks the point of this step."""
        at = self.points[-1]["env_step"][0] if self.points else 0
        return self.step % self.training.evaluation.interval == 0 and self.step > at

    def proceed(self) -> None:
        """The least piece of training."""
        with whole():
            self.dispatch()

    def dispatch(self) -> None:
        """One jitted call."""
        began, clock = time.perf_counter(), clock_at(self.training, self.step)
        kind = "warm_up" if self.step < self.training.warm_up else "train"
        if kind == "warm_up":
            self.population = self.compiled[kind](self.population, self.settings, clock)
        else:
            given = (self.population, self.settings, clock, *self.shared)
            self.population, metrics = self.compiled[kind](*given)
            self.metrics = {key: np.asarray(value)[: self.layout.members] for key, value in metrics.items()}
        jax.block_until_ready(self.population)
        self.step += self.training.dispatch_steps
        self.seconds[kind] += time.perf_counter() - began

    def evaluate(self) -> None:
        """One curve point."""
        seen, history = self._evaluate(0)
        members, clock = len(self.program.runs), clock_at(self.training, self.step)
        point = {
            "env_step": np.full(members, self.step),
            "update": np.full(members, int(clock.update)),
            # A member that diverged has no policy: whatever NaN actions score is not a return.
            "return": np.where(seen["broken"], np.float32("nan"), seen.pop("returns").mean(axis=1)),
        }
        missing = np.full(members, np.nan, np.float32)
        names = ("critic_loss", "actor_loss", "q", "critic_grad_norm", "actor_grad_norm")
        point |= {name: self.metrics.get(name, missing) for name in names}
        point |= {name: value for name, value in self.metrics.items() if name.endswith("_grad_norm")}
        point |= {name: self.metrics[name] for name in ("policy_kl", "clipped") if name in self.metrics}
        with whole():  # a point, the masks it was the last to look at, and what an observer makes of it
            self.points.append({**point, **seen})
            self.remember(history)
            if self.observe is not None:
                self.observe(self)
        self.tell_emptied()
        self.progress.score(self.program.name, self.step, [float(x) for x in point["return"]])

    def curve(self, member: int, columns: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """The curve of one member so far, columns [points]; only these, or all."""
        wanted = self.points[0] if columns is None else columns
        return {key: np.stack([point[key][member] for point in self.points]) for key in wanted}

    def tell_emptied(self) -> None:
        """A sentence for every layer that has lost its last weight since the last curve point."""
        watched = diagnostics.watched(self.points[-1])
        if not watched:
            return
        for member, run in enumerate(self.program.runs):
            for network, layer, step in diagnostics.emptied(self.curve(member, watched)):
                if step == self.step:
                    self.progress.warn(
                        self.program.name,
                        f"{run.id} on {run.training.env}: layer '{layer}' of the {network} has no weight left at "
                        f"environment step {step}; its coefficient {run.knobs[network]:g} is too large for this "
                        "network: give a smaller one.",
                    )

    def remember(self, history: Any) -> None:
        """The history of the masks, with the latest look in it, becomes the members'."""
        assert self.population is not None
        self.population = self.population._replace(history=history)

    def _evaluate(self, repeat: int) -> tuple[dict[str, np.ndarray], Any]:
        """What is seen of the members, and the history of their masks with this look in it; nothing is changed."""
        began = time.perf_counter()
        clock = clock_at(self.training, self.step)
        assert self.population is not None
        given = (self.population, self.settings, clock, np.int32(repeat), *self.shared)
        seen, history = self.compiled["evaluate"](*given)
        seen = {key: np.asarray(value)[: self.layout.members] for key, value in seen.items()}
        self.seconds["evaluate"] += time.perf_counter() - began
        return seen, history

    def final_returns(self, deadline: float | None = None) -> np.ndarray:
        """Returns [member, final_episodes] of the final policies, on keys no curve point has used. It can take minutes,
        so that a checkpoint keeps what there is of it, too."""
        plan = self.training.evaluation
        pieces = plan.final_episodes // plan.episodes
        while len(self.final) < pieces:
            self.progress.stage(self.program.name, f"final evaluation, {len(self.final)} of {pieces}")
            self.stop_at(deadline)
            self.final.append(self._evaluate(1 + len(self.final))[0]["returns"])
            if len(self.final) < pieces and self.checkpoint_due():
                with whole():
                    self.save()
        return np.concatenate(self.final, axis=1)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def checkpoint_due(self) -> bool:
        """By time, and never more than a small share of it."""
        if self.folder is None:
            return False
        spent = self.seconds["checkpoint"]
        working = self.seconds["warm_up"] + self.seconds["train"] + self.seconds["evaluate"]
        return (
            time.monotonic() - self.saved_at >= self.checkpoint_seconds
            and spent <= CHECKPOINT_SHARE * max(working, 1e-9)
        )

    def shapes(self) -> Any:
        """What a checkpoint holds, in shapes."""
        return self.program.shapes()

    def state(self) -> Any:
        """What a checkpoint holds: members only, so that it can be taken up on another number of devices."""
        return self.layout.unpadded(self.population)

    def adopt(self, state: Any, notes: dict[str, Any]) -> None:
        """Go on from what a checkpoint held."""
        self.population = self.layout.place(state)

    def notes(self) -> dict[str, Any]:
        """Facts a checkpoint holds beside the arrays and the curve."""
        return {}

    def save(self) -> None:
        """Write the whole state, unless this one lies there already: what is being replaced could be lost."""
        if self.folder is None or self.population is None or self.at == self.saved:
            return
        began = time.perf_counter()
        curve = (
            {key: [point[key].tolist() for point in self.points] for key in self.points[0]}
            if self.points
            else {}
        )
        # Python's JSON keeps every float32 exactly (it prints the shortest decimal of the float64 value).
        notes = {
            "curve": curve,
            "dtypes": {key: str(value.dtype) for key, value in self.points[0].items()} if self.points else {},
            "metrics": {key: value.tolist() for key, value in self.metrics.items()},
            "final": [returns.tolist() for returns in self.final],
            "seconds": self.seconds,
            **self.notes(),
        }
        checkpoint.save(self.folder, self.step, self.state(), notes)
        self.saved_at, self.saved = time.monotonic(), self.at
        took = time.perf_counter() - began
        self.seconds["checkpoint"] += took
        self.longest_save = max(self.longest_save, took)

    def restore(self) -> bool:
        """Go on where the newest usable checkpoint stopped."""
        if self.folder is None:
            return False
        name = self.program.name
        found = checkpoint.restore(self.folder, self.shapes(), lambda text: self.progress.warn(name, text))
        if found is None:
            return False
        self.step, state, notes = found
        self.progress.stage(name, f"resuming at step {self.step}")
        columns, dtypes = notes["curve"], notes["dtypes"]
        count = len(next(iter(columns.values()))) if columns else 0
        self.points = [
            {key: np.asarray(columns[key][i], dtypes[key]) for key in columns} for i in range(count)
        ]
        self.metrics = {key: np.asarray(value, np.float32) for key, value in notes["metrics"].items()}
        # Checkpoints of earlier versions know nothing of a final evaluation that was begun.
        self.final = [np.asarray(returns, np.float32) for returns in notes.get("final", [])]
        self.saved = self.at
        earlier = notes["seconds"]
        self.seconds = {
            key: value + (earlier[key] if key != "compile" else 0.0) for key, value in self.seconds.items()
        }
        self.adopt(state, notes)
        return True

    # ---- results ---------------------------------------------------------------------------------------------------

    def harvest(self) -> tuple[Any, Any]:
        """What the members leave (see Stages.harvest), and their counts; NumPy arrays `[member or row, ...]`."""
        assert self.population is not None
        left, tally = jax.device_get((self.compiled["harvest"](self.population), self.population.tally))
        return left, tally

    def data(self) -> list[dict[str, Any] | None]:
        """What is to be said of the members' datasets; None where they learn from their own steps."""
        training, members = self.training, len(self.program.runs)
        if training.dataset is None:
            return [None] * members
        if training.logged is not None:
            return [training.logged.described()] * members
        own = jax.device_get(self.population.replay)
        found = [datasets.rows_of(jax.tree.map(lambda x, i=i: x[i], own)) for i in range(members)]
        return [datasets.described(training.dataset, rows) for rows in found]

    def outcomes(self, final: np.ndarray) -> list[Outcome]:
        """One Outcome per Run."""
        agent, program = self.program.agent, self.program
        left, tally = self.harvest()
        params, masks = left["params"], left["masks"]
        measured = {f"{key}_seconds": value for key, value in self.seconds.items()}
        measured |= {f"compile_{key}_seconds": value for key, value in self.compile_seconds.items()}
        measured |= {"members": float(len(program.runs)), "devices": float(len(program.layout.devices))}
        measured |= {"one_by_one": float(program.one_by_one), "waves": float(self.layout.waves)}
        measured["memory_forecast_bytes"] = float(program.memory())
        if self.peak is not None:
            measured["memory_compiled_bytes"] = float(self.peak)
        learned = self.data()
        outcomes = []
        for i, run in enumerate(program.runs):

            def mine(tree: Any, i: int = i) -> Any:
                return jax.tree.map(lambda x: np.asarray(x)[i], tree)

            kept = {name: mine(masks[name]) for name in masks}
            curve = self.curve(i)
            diverged = bool(tally.broken[i]) or not np.all(np.isfinite(final[i]))
            outcomes.append(
                Outcome(
                    run=run,
                    status="diverged" if diverged else "ok",
                    curve=curve,
                    final_returns=final[i],
                    params={name: mine(params[name]) for name in params},
                    masks=kept,
                    nnz={name: counts(agent.layers[name], kept[name]) for name in masks},
                    layers=agent.layers,
                    events={name: int(count[i]) for name, count in tally.events.items()},
                    episodes=int(tally.episodes[i]),
                    invalid_steps=int(tally.invalid[i]),
                    measured=measured,
                    data=learned[i],
                )
            )
        return outcomes
