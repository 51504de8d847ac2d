"""Every Program of every shipped suite can be lowered for accelerators on a machine that has none.

Lowering finds an operation that a platform lacks; it compiles nothing and needs neither data nor device.
"""

import dataclasses

import jax
import pytest

from sparserl_jax.bench import paths, suites
from sparserl_jax.bench import plan as plans
from sparserl_jax.training.program import STAGES

HOST = ("gymnasium",)
"""Prefixes of environments that run on the host, of which there is no program to lower."""
LONG = ("standard",)
"""Suites whose environments take more than a few seconds to trace."""


def cases():
    for name in paths.suite_names():
        for task in suites.read(paths.suite_path(name)).tasks:
            if task.name.partition(":")[0] not in HOST:
                marks = [pytest.mark.slow] if name in LONG else []
                yield pytest.param(name, task, id=f"{name}-{plans.slug(task.name)}", marks=marks)


def test_every_shipped_suite_has_something_to_lower():
    assert {case.values[0] for case in cases()} == set(paths.suite_names()) >= {"quick", "smoke", "standard"}


@pytest.mark.parametrize(("name", "task"), list(cases()))
def test_every_stage_of_every_program_lowers_for_cuda_and_tpu(name, task):
    suite = dataclasses.replace(suites.read(paths.suite_path(name)), tasks=(task,))
    programs = plans.make(suite).programs
    assert programs
    for program in programs:
        arguments = program.arguments()
        for stage in STAGES:
            for platform in ("cuda", "tpu"):
                exported = jax.export.export(
                    program.stages[stage],
                    platforms=(platform,),
                    # Exports are to outlive JAX's versions, for which this kernel's name gives no guarantee.
                    disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("cu_threefry2x32_ffi")],
                )(*arguments[stage])
                assert exported.platforms == (platform,)
                assert "module" in exported.mlir_module()
