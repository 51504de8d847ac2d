"""Every Program of every shipped suite can be lowered for accelerators on a machine that has none.

Lowering finds an operation that a platform lacks; it compiles nothing and needs no device. The operations of a Program
are those of its learner and those of its environment, whatever its numbers (members, seeds, sparsities, periods): every
environment of the shipped suites is lowered once, and every agent once with each thing that changes its operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import pytest

from sparserl_jax import envs
from sparserl_jax.bench import paths, suites
from sparserl_jax.bench import plan as plans
from sparserl_jax.training.program import Program

LONG = ("brax:ant", "brax:halfcheetah", "brax:hopper", "brax:walker2d")
"""Environments that take more than a few seconds to trace."""


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


def cases() -> Iterator[Any]:
    """Programs that hold all there is, each named by the first suite that has it."""
    seen: set[tuple[Any, ...]] = set()
    for name in paths.suite_names():
        suite = suites.read(paths.suite_path(name))
        for program in plans.make(suite, describe=lambda source: envs.make(source).spec).programs:
            env, here = program.training.env, kinds(program)
            # Of what is stepped on the host only the updates are a program; those are lowered with other environments.
            if program.stepped_on_host or here <= seen:
                continue
            known = any(kind[0] == program.training.agent.name for kind in seen)
            seen |= here
            # The quick ones: every agent once, in an environment that is soon traced.
            marks = [pytest.mark.slow] if known or env.partition("?")[0] in LONG else []
            called = f"{program.training.agent.name}-{plans.slug(env)}-n{program.n_max}-{name}"
            yield pytest.param(program, id=called, marks=marks)


@pytest.mark.parametrize("program", list(cases()))
def test_every_stage_of_every_program_lowers_for_cuda_and_tpu(program: Program):
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
