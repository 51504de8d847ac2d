"""SAC through real Programs: compiled and on the host, resumed, lowered for accelerators, with members of all arms."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from sparserl_jax.training import (
    Evaluation,
    Program,
    Run,
    SACConfig,
    Schedule,
    Stopped,
    diagnostics,
    execute,
    group,
    recipe,
)
from tests.reference import small

AGENT = SACConfig(hidden=(16, 16), batch_size=16, learning_rate=3e-3, gamma=0.9, tau=0.02)


def training(**changes):
    """As `small`, shorter: an event every 20 ticks, a buffer that shrinks, longer targets half way."""
    schedule = dataclasses.replace(small.training().schedule, delay=60, buffer_max=240)
    of = small.training(agent=AGENT, steps=240, schedule=schedule, evaluation=Evaluation(120, 4, 8))
    return dataclasses.replace(of, **changes)


@pytest.fixture(scope="module")
def program() -> Program:
    return small.program(training())


@pytest.fixture(scope="module")
def outcomes(program):
    return execute(program)


@pytest.mark.slow
def test_all_arms_train_in_one_program_and_keep_their_counts(program, outcomes):
    assert "-sac-drop_grow-n3-" in program.name and program.compilations == 5
    for outcome in outcomes:
        assert outcome.status == "ok" and np.isfinite(outcome.curve["return"]).all()
        moving = outcome.run.recipe.method == "rigl"
        assert (outcome.events["actor"] > 5, outcome.events["critic"] > 5) == (moving, moving)
        for network, layers in outcome.layers.items():
            live = sum(outcome.nnz[network]) / layers.weights
            assert live == pytest.approx(1 - outcome.run.knobs[network], abs=0.06)
            outside = jax.tree.map(
                lambda mask, value: np.any(value[~mask]), outcome.masks[network], outcome.params[network]
            )
            assert not any(jax.tree.leaves(outside))
    assert outcomes[0].layers["actor"][-1].shape == (16, 2)  # one action: its mean and its spread


def test_every_column_of_a_curve_is_documented_and_every_documented_column_is_there(outcomes):
    used = {diagnostics.column_of(name)[0].name for outcome in outcomes for name in outcome.curve}
    of_others = {"policy_kl", "clipped", "epsilon"}  # PPO's and DQN's, and those of methods with gates
    of_others |= {"sparsity_{network}", "expected_sparsity_{network}", "live_{network}_{layer}"}
    assert used == {column.name for column in diagnostics.COLUMNS} - of_others
    for outcome in outcomes:
        assert outcome.curve["temperature"][-1] < outcome.curve["temperature"][0] <= 1.0
        assert np.all(np.abs(outcome.curve["policy_entropy"]) < 5)


def test_the_target_of_a_member_is_that_of_its_recipes_source(program):
    paths = dict(zip([run.arm for run in program.runs], program.settings.agent["traced"].path, strict=True))
    assert paths == {"dense_rvl": True, "tiny_rvl": True, "rlx2": True, "rlx2_paper": False}
    said = small.program(training(agent=dataclasses.replace(AGENT, entropy="bootstrap")))
    assert not said.settings.agent["traced"].path.any() and not said.agent.successors
    # Windows of one step need no states inside them, whatever the target.
    (short,) = group([Run(training(), recipe("rigl"), 0.6, 0, "rigl")])
    assert short.n_max == 1 and short.agent.successors


def test_a_run_that_was_stopped_and_resumed_ends_undisturbed(program, outcomes, tmp_path):
    with pytest.raises(Stopped):
        execute(program, tmp_path, progress=small.interrupt_at(150))
    for ours, theirs in zip(execute(program, tmp_path), outcomes, strict=True):
        small.assert_same(ours, theirs)


def test_every_stage_lowers_for_cuda_and_tpu(program):
    arguments = program.arguments()
    for name, stage in program.stages.items():
        for platform in ("cuda", "tpu"):
            exported = jax.export.export(
                stage,
                platforms=(platform,),
                disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("cu_threefry2x32_ffi")],
            )(*arguments[name])
            assert exported.platforms == (platform,)


def test_the_published_schedule_of_sac_keeps_more_experience():
    for agent, most, least in ((SACConfig(), 3_000_000, 200_000), (None, 1_000_000, 100_000)):
        found = Schedule.scaled(3_000_000, agent)
        assert (found.buffer_max, found.buffer_min, found.delay) == (most, least, 300_000)
    assert Schedule.scaled(300_000, SACConfig(), unit=10).buffer_min == 20_000


@pytest.mark.slow
def test_host_loop_computes_what_the_compiled_loop_computes(monkeypatch):
    pytest.importorskip("gymnasium")
    from tests.reference import host_toys

    monkeypatch.setattr(Program, "compile", host_toys.compile_quickly)
    agent = dataclasses.replace(AGENT, hidden=(8, 8), batch_size=8)
    pairs = [
        execute(host_toys.program(env, agent=agent, steps=160, evaluation=Evaluation(80, 2, 2)))
        for env in (host_toys.HostPull(), host_toys.Pull())
    ]
    for ours, theirs in zip(*pairs, strict=True):
        assert (ours.episodes, ours.events, ours.nnz) == (theirs.episodes, theirs.events, theirs.nnz)
        jax.tree.map(np.testing.assert_array_equal, ours.masks, theirs.masks)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours.params, theirs.params)
        assert set(ours.curve) == set(theirs.curve) and "temperature" in ours.curve
        for name, values in theirs.curve.items():
            np.testing.assert_allclose(ours.curve[name], values, rtol=1e-3, atol=1e-4, err_msg=name)
    assert pairs[0][1].events["actor"] > 2
