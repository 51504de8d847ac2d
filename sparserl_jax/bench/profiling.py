"""`sparserl profile`: a few dispatches of one program under JAX's profiler, and where their time goes.

The trace itself (for TensorBoard or Perfetto) goes to the folder the user names; what is printed is a summary: seconds
of each stage, compiling and running, what a whole run would take of each, and the kinds of work in the trace.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from sparserl_jax.bench import operations
from sparserl_jax.bench.plan import Plan
from sparserl_jax.errors import UserError

STAGES = ("warm_up", "train", "evaluate")


@dataclasses.dataclass(frozen=True)
class Stage:
    """Seconds of one stage: to compile it, of one call, the calls of a whole run, and its work by kind (ns)."""

    compiling: float
    call: float
    calls: int
    work: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Profile:
    """What was found of one program."""

    program: str
    members: int
    device: str
    tracing: float
    stages: dict[str, Stage]

    def lines(self) -> list[str]:
        """The summary."""
        run = sum(stage.calls * stage.call for stage in self.stages.values())
        said = [
            f"program {self.program}: {self.members} members on {self.device}; tracing its Python took "
            f"{self.tracing:.1f} s",
            f"{'stage':<10}{'compile':>10}{'one call':>12}{'calls':>8}{'whole run':>12}{'share':>8}",
        ]
        for name, stage in self.stages.items():
            total = stage.calls * stage.call
            said.append(
                f"{name:<10}{stage.compiling:>8.1f} s{stage.call * 1e3:>9.1f} ms{stage.calls:>8}{total:>10.1f} s"
                f"{100 * total / run if run else 0:>6.0f} %"
            )
        for name, stage in self.stages.items():
            said += _work(name, stage.work)
        if not any(stage.work for stage in self.stages.values()):
            said.append(
                "this backend's trace names no operations, so nothing is said of kinds of work; open the trace itself."
            )
        return said


def _work(name: str, work: dict[str, float]) -> list[str]:
    total = sum(work.values())
    if not total:
        return []
    shares = [f"{100 * work[kind] / total:.0f} % {kind}" for kind in operations.KINDS if work.get(kind)]
    return [f"work in {name}: {', '.join(shares)} (of {total / 1e6:.1f} ms in the trace)"]


def profile(plan: Plan, trace: Path, dispatches: int = 2) -> Profile:
    """Profile the first program of a plan.

    Args:
        trace: folder for the trace; made, and refused if it holds anything.
        dispatches: calls of every stage that are timed, and as many again that are traced.

    Raises:
        UserError: the folder is not empty, or the environments run on the host.
    """
    import jax

    from sparserl_jax.bench import provenance, rates
    from sparserl_jax.training.progress import Silent
    from sparserl_jax.training.runner import Execution

    if dispatches < 1:
        raise UserError(f"--dispatches {dispatches}: give at least 1.")
    if trace.exists() and (not trace.is_dir() or any(trace.iterdir())):
        raise UserError(f"--out '{trace}' is not an empty folder; give another one for the trace.")
    program = plan.programs[0]
    if program.host:
        raise UserError(
            f"the environments of {program.name} run on the host, outside compiled stages; `python -m benchmarks.perf` "
            "measures that loop."
        )
    running = Execution(program, None, Silent(), float("inf"))
    running.prepare()
    training = program.training
    stages = [name for name in STAGES if name in running.compiled]
    programs = {name: running.compiled[name].as_text() for name in stages}
    modules = {name: operations.module_name(text) for name, text in programs.items()}
    running.begin()

    def call(name: str) -> float:
        running.step = 0 if name == "warm_up" else training.warm_up
        began = time.perf_counter()
        if name == "evaluate":
            running._evaluate(1)
        else:
            running.dispatch()
        return time.perf_counter() - began

    each = {}
    for name in stages:
        call(name)  # the first one also sets the device up
        each[name] = min(call(name) for _ in range(dispatches))
    with jax.profiler.trace(str(trace)):
        for name in stages:
            with jax.profiler.TraceAnnotation(f"stage {name}"):
                for _ in range(dispatches):
                    call(name)
    work = operations.spent(trace, {modules[name]: operations.kinds(text) for name, text in programs.items()})
    evaluation = training.evaluation
    calls = {
        "warm_up": training.warm_up // training.dispatch_steps,
        "train": training.trained_steps // training.dispatch_steps,
        "evaluate": training.steps // evaluation.interval + evaluation.final_episodes // evaluation.episodes,
    }
    return Profile(
        program.name,
        len(program.runs),
        rates.device_of(provenance.system()),
        running.compile_seconds["trace"],
        {
            name: Stage(running.compile_seconds[name], each[name], calls[name], work.get(modules[name], {}))
            for name in stages
        },
    )


def lines(found: Profile, trace: Path) -> list[Any]:
    """The summary, and where the trace lies."""
    return [*found.lines(), f"Trace: {trace}"]
