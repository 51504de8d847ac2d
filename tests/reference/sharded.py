"""One population on several simulated devices and on one of them, for tests of the member axis over devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.reference.sharded MEMBERS FOLDER

writes FOLDER/<way>.npz, what every run ends in, for each way of running the same Program, and prints facts as JSON.
Ways: `one` (one device), `many` (all), and stopped half way on the first and resumed on the second kind of device:
`many_many`, `many_one`, `one_many`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sparserl_jax.training import Outcome, Program, Run, Stopped, execute, group, memory, recipe, sharding
from sparserl_jax.training.program import STAGES
from tests.reference import small

HALF_WAY = 240
COLLECTIVE = re.compile(
    r"\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-\w+|send|recv)(-start)?\("
)
"""Operations by which devices exchange data, in the text of a compiled program."""
COMPILED: list[str] = []
"""What XLA compiled so far, by name."""


def population(members: int) -> Program:
    """That many runs of the arms of `small`, seed after seed, on the devices of this moment."""
    of = small.training()
    runs = [
        Run(of, recipe(name), 0.0 if name == "dense_rvl" else 0.6, seed, name)
        for seed in range(-(-members // len(small.ARMS)))
        for name in small.ARMS
    ]
    (program,) = group(runs[:members])
    return program


def compiled_once(program: Program) -> Program:
    """The same Program, which compiles when first asked and gives the same stages ever after."""
    built = program.compile()
    program.__dict__["compile"] = lambda: built
    return program


def facts(program: Program) -> dict[str, Any]:
    """What the compiled stages say of themselves."""
    stages, _ = program.compile()
    texts = {name: stages[name].as_text() for name in STAGES}
    return {
        "devices": len(program.layout.devices),
        "rows": program.layout.rows,
        "collectives": {name: sorted(set(COLLECTIVE.findall(text))) for name, text in texts.items()},
        "branches": texts["train"].count(" conditional("),
        "donated": stages["train"].memory_analysis().alias_size_in_bytes,
        "forecast": program.memory(),
        "peak": memory.compiled_bytes(stages["train"]),
    }


def keep(file: Path, outcomes: list[Outcome]) -> None:
    """All results of all runs, by name."""
    found = {
        f"{outcome.run.id}{name}": array for outcome in outcomes for name, array in small.result(outcome).items()
    }
    np.savez(file, **found)


def stopped(program: Program, folder: Path) -> None:
    """Execute half of it, leaving a checkpoint."""
    try:
        execute(program, folder, progress=small.interrupt_at(HALF_WAY))
    except Stopped:
        return
    raise AssertionError("nobody stopped it")


def main(members: int, folder: Path) -> None:
    """All ways of running one Program."""

    def seen(event: str, seconds: float, **notes: Any) -> None:
        if event.endswith("backend_compile_duration"):
            COMPILED.append(str(notes.get("fun_name", event)))

    jax.monitoring.register_event_duration_secs_listener(seen)
    programs = {"many": compiled_once(population(members))}
    outcomes = execute(programs["many"])
    keep(folder / "many.npz", outcomes)
    stopped(programs["many"], folder / "many_many")
    keep(folder / "many_many.npz", execute(programs["many"], folder / "many_many"))
    compiled = list(COMPILED)

    everywhere = sharding.devices
    sharding.devices = lambda: everywhere()[:1]
    programs["one"] = compiled_once(population(members))
    sharding.devices = everywhere
    keep(folder / "one.npz", execute(programs["one"]))
    for first, second in (("many", "one"), ("one", "many")):
        place = folder / f"{first}_{second}"
        stopped(programs[first], place)
        keep(place.with_suffix(".npz"), execute(programs[second], place))

    for platform in ("cuda", "tpu"):
        jax.export.export(
            programs["many"].stages["train"],
            platforms=(platform,),
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("cu_threefry2x32_ffi")],
        )(*programs["many"].arguments()["train"])
    report = {name: facts(program) for name, program in programs.items()}
    print(
        json.dumps(
            {
                **report,
                "compiled": compiled,
                "outcomes": [outcome.run.id for outcome in outcomes],
                "events": max(outcome.events["critic"] for outcome in outcomes),
                "measured_members": outcomes[0].measured["members"],
                "placement": str(programs["many"].layout),
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
