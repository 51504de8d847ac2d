"""Populations on several simulated devices and on one of them, for tests of the member axis over devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.reference.sharded FOLDER many|both MEMBERS...

For every number of members it writes FOLDER/<members>-<way>.npz, what each run ends in, for two ways of running the
same Program on all devices: `many`, and `many-many`, stopped half way and resumed. With `both` also `one` (one device),
`many-one` and `one-many` (stopped on the first, resumed on the second). With `many:sac` or `both:sac` SAC is trained in
place of TD3. Facts are printed as JSON.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sparserl_jax.agents.registry import algorithm
from sparserl_jax.training import (
    Outcome,
    Program,
    Run,
    Stopped,
    checkpoint,
    execute,
    group,
    memory,
    recipe,
    sharding,
)
from sparserl_jax.training.program import STAGES
from tests.reference import small

HALF_WAY = 240
AGENT = "sac" if sys.argv[2:] and sys.argv[2].endswith(":sac") else "td3"
COLLECTIVE = re.compile(
    r"\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-\w+|send|recv)(-start)?\("
)
"""Operations by which devices exchange data, in the text of a compiled program."""


def population(members: int) -> Program:
    """That many runs of the arms of `small`, seed after seed, on the devices of this moment."""
    like = small.training().agent
    shared = ("batch_size", "learning_rate", "policy_delay", "gamma", "tau")
    settings = {name: getattr(like, name) for name in shared}
    of = small.training(agent=algorithm(AGENT).config(hidden=(16,), **settings))
    runs = [
        Run(of, recipe(name), 0.0 if name == "dense_rvl" else 0.6, seed, name)
        for seed in range(-(-members // len(small.ARMS)))
        for name in small.ARMS
    ]
    (program,) = group(runs[:members])
    return program


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
    """Programs whose layout is asked for herein live on the first device."""
    everywhere = sharding.devices
    sharding.devices = lambda: everywhere()[:1]
    yield
    sharding.devices = everywhere


class Scores(small.Watch):
    """Progress that remembers of how many members it heard."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    def score(self, program: str, step: int, returns: list[float]) -> None:
        self.told.append(len(returns))


def compiled_once(program: Program, like: Program | None = None) -> Program:
    """The same Program, which is compiled now and never again, or not at all where `like` is the same to XLA."""
    if like is not None and texts(program) == texts(like):
        built = like.compile()
    else:
        built = program.compile()
    program.__dict__["compile"] = lambda *_: built
    return program


def texts(program: Program) -> dict[str, str]:
    """What XLA is given, by stage."""
    return {name: lowered.as_text() for name, lowered in program.lower().items()}


def lowered_for(program: Program) -> Any:
    """Platform to the training stage exported for it."""
    # The CUDA kernel for random bits is no promise of JAX for years to come, which nothing here relies on.
    unchecked = [jax.export.DisabledSafetyCheck.custom_call("cu_threefry2x32_ffi")]
    stage, arguments = program.stages["train"], program.arguments()["train"]
    return lambda platform: jax.export.export(stage, platforms=(platform,), disabled_checks=unchecked)(
        *arguments
    )


def facts(program: Program) -> dict[str, Any]:
    """What the compiled stages say of themselves."""
    stages, _ = program.compile()
    optimised = {name: stages[name].as_text() for name in STAGES}
    return {
        "devices": len(program.layout.devices),
        "rows": program.layout.rows,
        "collectives": {name: collectives(text) for name, text in optimised.items()},
        "branches": optimised["train"].count(" conditional("),
        "donated": stages["train"].memory_analysis().alias_size_in_bytes,
        "forecast": program.memory(),
        "exported": [exported.nr_devices for exported in map(lowered_for(program), ("cuda", "tpu"))],
        "peak": memory.compiled_bytes(stages["train"]),
    }


def keep(file: Path, outcomes: list[Outcome]) -> None:
    """All results of all runs, by name."""
    found = {
        f"{outcome.run.id}{name}": array
        for outcome in outcomes
        for name, array in small.result(outcome).items()
    }
    np.savez(file, **found)


def resumed(first: Program, second: Program, folder: Path) -> list[Outcome]:
    """Half of it by `first`, which leaves a checkpoint, the rest by `second`."""
    try:
        execute(first, folder, progress=small.interrupt_at(HALF_WAY))
    except Stopped:
        return execute(second, folder)
    raise AssertionError("nobody stopped it")


def exchanging() -> list[str]:
    """The collectives of a sum over all devices, which needs one."""
    spread = jax.sharding.NamedSharding(jax.make_mesh((len(sharding.devices()),), ("x",)), jax.P("x"))
    summed = jax.jit(jax.numpy.sum, in_shardings=spread).lower(np.zeros(16, np.float32))
    return collectives(summed.compile().as_text())


def collectives(text: str) -> list[str]:
    """Kinds of exchange in the text of a compiled program."""
    return sorted({kind for kind, _ in COLLECTIVE.findall(text)})


def main(folder: Path, both: bool, *populations: int) -> None:
    """All ways of running; those that take one device only where `both` are asked for."""
    compiled: list[str] = []

    def seen(event: str, seconds: float, **notes: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(str(notes.get("fun_name", event)))

    jax.monitoring.register_event_duration_secs_listener(seen)
    report: dict[str, Any] = {}
    many: Program | None = None
    for members in populations:
        before = len(compiled)
        many = compiled_once(population(members), many)
        watch = Scores()
        outcomes = execute(many, progress=watch)
        keep(folder / f"{members}-many.npz", outcomes)
        keep(folder / f"{members}-many-many.npz", resumed(many, many, folder / f"{members}-many"))
        found = checkpoint.restore(folder / f"{members}-many", many.shapes())
        assert found is not None
        step, state, notes = found
        report[f"{members}"] = facts(many) | {
            "told": watch.told,
            "saved_at": step,
            "saved_rows": sorted({leaf.shape[0] for leaf in jax.tree.leaves(state)}),
            "noted": sorted(
                {len(row) for column in notes["curve"].values() for row in column}
                | {len(row) for row in notes["metrics"].values()}
            ),
            "compiled": compiled[before:],
            "planned": many.compilations,
            "runs": [run.id for run in many.runs],
            "outcomes": [outcome.run.id for outcome in outcomes],
            "measured_members": outcomes[0].measured["members"],
            "events": max(outcome.events["critic"] for outcome in outcomes),
        }
        if both:
            with on_one_device():
                one = compiled_once(population(members))
            keep(folder / f"{members}-one.npz", execute(one))
            keep(folder / f"{members}-many-one.npz", resumed(many, one, folder / f"{members}-many-one"))
            keep(folder / f"{members}-one-many.npz", resumed(one, many, folder / f"{members}-one-many"))
            report["one"] = facts(one)
    print(json.dumps(report | {"exchanging": exchanging()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].startswith("both"), *map(int, sys.argv[3:]))
