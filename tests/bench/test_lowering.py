"""Every Program of every shipped suite can be lowered for accelerators on a machine that has none.

Lowering finds an operation that a platform lacks; it compiles nothing and needs no device. The operations of a Program
are those of its learner and those of its environment, whatever its numbers (members, seeds, sparsities, periods): every
environment of the shipped suites is lowered once, and every agent once with each thing that changes its operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import pytest

from sparserl_jax import envs
from sparserl_jax.bench import paths, suites
from sparserl_jax.bench import plan as plans
from sparserl_jax.training.program import Program

SOON = ("quick", "quick_ddpg", "quick_dqn", "quick_sac", "quick_tickets")
"""Suites of common agents and families whose environments are soon traced."""

LOWERED: set[tuple[Any, ...]] = set()
"""Kinds of operations that suites before have shown to lower."""


def kinds(program: Program) -> set[tuple[Any, ...]]:
    """What decides which operations its networks, replay and loop hold, and those of what it steps itself."""
    training, agent = program.training, program.training.agent
    learner = {
        "network": agent.network,
        "multi_step": program.n_max > 1,
        "averaged": program.keep_mean,
        "given_masks": program.runs[0].masks is not None,
        "parallel": training.num_envs > 1,
        "precision": training.matmul_precision,
        "events": training.schedule.topology_interval < training.updates,
    }
    found = {(agent.name, *item) for item in learner.items()}
    found.add(("family", program.family))  # its masks are made by the same code for all agents
    if not program.host:
        found.add(("environment", training.env))
    return found


def unseen(programs: Iterable[Program]) -> Iterator[Program]:
    """Programs that hold all kinds not lowered yet, those with most of them first."""
    # Of what is stepped on the host only the updates are a program; those are lowered with other environments.
    left = [(program, kinds(program)) for program in programs if not program.stepped_on_host]
    while left := [(program, own) for program, own in left if not own <= LOWERED]:
        program, own = max(left, key=lambda pair: len(pair[1] - LOWERED))
        yield program
        LOWERED.update(own)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in SOON else pytest.mark.long) for name in paths.suite_names()],
)
@pytest.mark.slow
def test_every_stage_of_every_program_lowers_for_cuda_and_tpu(name: str):
    suite = suites.read(paths.suite_path(name))
    for program in unseen(plans.make(suite, describe=lambda source: envs.make(source).spec).programs):
        arguments = program.arguments()
        for stage in program.stage_names:
            exported = jax.export.export(
                program.stages[stage],
                platforms=("cuda", "tpu"),
                # Exports are to outlive JAX's versions, for which this kernel's name gives no guarantee.
                disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("cu_threefry2x32_ffi")],
            )(*arguments[stage])
            assert exported.platforms == ("cuda", "tpu")
            assert "module" in exported.mlir_module()
