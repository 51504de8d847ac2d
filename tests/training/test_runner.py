"""What executing a Program gives: curves, scores, networks, and what happens when a member diverges."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.envs import Step, evaluate
from sparserl_jax.errors import UserError
from sparserl_jax.networks import Actor
from sparserl_jax.training import (
    Evaluation,
    Program,
    Run,
    Stopped,
    checkpoint,
    execute,
    group,
    memory,
    recipe,
    runner,
)
from tests.reference import small

once = pytest.mark.usefixtures("compiled_once")
DIAGNOSTICS = {
    "env_step", "update", "return", "critic_loss", "actor_loss", "q", "critic_grad_norm", "actor_grad_norm",
    "buffer", "overlap_actor", "overlap_critic", "last_return", "episodes", "invalid", "broken",
}  # fmt: skip


@pytest.mark.parametrize(("most", "kept"), [(10**9, 1), (0, 0)])
def test_compiled_programs_are_forgotten_before_mappings_run_out(program, monkeypatch, most: int, kept: int):
    earlier = jax.jit(lambda x: x + most)
    earlier(1.0)
    monkeypatch.setattr(memory, "MAPPINGS", most)
    monkeypatch.setattr(memory, "available", lambda used=None: 0)
    with pytest.raises(UserError, match="0 members fit"):  # so that nothing is compiled here
        execute(program)
    assert earlier._cache_size() == kept


def test_one_outcome_per_run_in_order(program, outcomes):
    assert [outcome.run for outcome in outcomes] == list(program.runs)
    assert [outcome.status for outcome in outcomes] == ["ok"] * 4


def test_curve_holds_every_diagnostic_at_every_evaluation(outcomes):
    for outcome in outcomes:
        assert DIAGNOSTICS <= set(outcome.curve)
        assert {values.shape for values in outcome.curve.values()} == {(4,)}
        np.testing.assert_array_equal(outcome.curve["env_step"], [120, 240, 360, 480])
        np.testing.assert_array_equal(outcome.curve["update"], [60, 180, 300, 420])
        assert all(np.all(np.isfinite(values)) for values in outcome.curve.values())
        assert outcome.final_returns.shape == (8,)
        assert 480 / 9 <= outcome.episodes < 480 and outcome.invalid_steps == 0


def test_curve_carries_no_clock_time(outcomes):
    assert not any("second" in name or "time" in name for outcome in outcomes for name in outcome.curve)
    assert {"train_seconds", "evaluate_seconds"} <= set(outcomes[0].measured)


def test_members_have_lives_of_their_own(outcomes):
    finals = [tuple(outcome.final_returns) for outcome in outcomes]
    assert len(set(finals)) == len(finals)


def test_only_methods_with_events_change_their_masks(outcomes):
    events = {outcome.run.recipe.name: outcome.events for outcome in outcomes}
    assert events["dense_rvl"] == events["tiny_rvl"] == {"actor": 0, "critic": 0}
    # 420 critic ticks, 140 actor ticks, an event every 20 and none on the last tick.
    assert events["rlx2"] == events["rlx2_paper"] == {"actor": 6, "critic": 20}
    for outcome in outcomes:
        moved = min(outcome.curve["overlap_critic"]) < 1.0
        assert moved == (outcome.run.recipe.name in ("rlx2", "rlx2_paper"))


def test_counts_are_those_of_the_masks_and_weights_outside_are_zero(outcomes):
    for outcome in outcomes:
        for network, layers in outcome.layers.items():
            kernels = [outcome.masks[network]["mlp"][layer.name]["kernel"] for layer in layers]
            counts = [int(n) for mask in kernels for n in mask.reshape(-1, *mask.shape[-2:]).sum(axis=(1, 2))]
            assert outcome.nnz[network] == counts
            jax.tree.map(
                lambda mask, value: np.testing.assert_array_equal(value[~mask], 0.0),
                outcome.masks[network],
                outcome.params[network],
            )
            assert jax.tree.structure(outcome.masks[network]) == jax.tree.structure(outcome.params[network])


def test_buffer_shrinks_under_the_dynamic_rule_and_respects_its_least_size(outcomes):
    sizes = np.array([outcome.curve["buffer"] for outcome in outcomes])
    assert np.all(sizes <= [120, 240, 360, 480])
    assert np.all(sizes >= 54)  # above 60 the oldest tenth goes
    assert np.any(sizes < [120, 240, 360, 480])


def test_recorded_parameters_are_the_policy_that_was_evaluated(program, outcomes):
    """A policy evaluated from the record scores what the record says."""
    env, plan = program.env, program.training.evaluation
    settings, outcome = program.settings, outcomes[2]
    actor = Actor(program.training.agent.hidden, 1)

    @jax.jit
    def score(key_data, repeat):
        key = jax.random.fold_in(jax.random.wrap_key_data(key_data), program.training.steps)
        key = jax.random.fold_in(key, repeat)
        return evaluate(
            env, key, lambda obs: actor.apply({"params": outcome.params["actor"]}, obs), plan.episodes
        )

    found = [score(settings.evaluation_key[2], np.int32(repeat)) for repeat in (1, 2)]
    np.testing.assert_allclose(np.concatenate(found), outcome.final_returns, rtol=1e-5)


def test_executing_again_gives_the_same_bits(program, outcomes):
    """Compiled again, too."""
    for ours, theirs in zip(execute(program), outcomes, strict=True):
        small.assert_same(ours, theirs)


@pytest.mark.parametrize("full", [True, False])
def test_a_full_device_is_told_in_a_sentence_and_other_errors_are_left_alone(
    program, compiled, monkeypatch, full
):
    text = "RESOURCE_EXHAUSTED: Out of memory" if full else "INTERNAL: a bug"

    def fails(*arguments):
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr(Program, "compile", lambda self, *_: ({**compiled[0], "warm_up": fails}, compiled[1]))
    monkeypatch.setattr(memory, "compiled_bytes", lambda stage: None)
    if full:
        with pytest.raises(
            UserError, match=f"program {program.name} ran out of memory with .* end other programs"
        ):
            execute(program)
    else:
        with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
            execute(program)


@once
def test_progress_hears_of_every_dispatch_every_score_and_the_end(program):
    watch = small.Watch()
    execute(program, progress=watch)
    assert watch.steps == list(range(30, 481, 30))
    assert watch.scores == [120, 240, 360, 480]
    assert any("compil" in stage for stage in watch.stages) and "final evaluation" in watch.stages[-1]


@pytest.mark.slow
def test_length_of_a_dispatch_does_not_change_the_results(outcomes):
    other = small.program(small.training(dispatch=60))
    for ours, theirs in zip(execute(other), outcomes, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours.masks, theirs.masks)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours.params, theirs.params)
        np.testing.assert_allclose(ours.final_returns, theirs.final_returns, atol=1e-4)
        for name in ("return", "buffer", "episodes", "overlap_critic", "last_return"):
            np.testing.assert_allclose(ours.curve[name], theirs.curve[name], atol=1e-4)


# ---- divergence ----------------------------------------------------------------------------------------------------


@once
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_member_that_diverges_is_said_to_and_leaves_the_others_as_they_were(
    program, outcomes, tmp_path, poison
):
    """One weight of one member's critic is spoilt half way."""
    with pytest.raises(Stopped):
        execute(program, tmp_path, progress=small.interrupt_at(240))
    step, member, notes = checkpoint.restore(tmp_path, program.shapes())
    critic = member.agent.critic
    spoilt = jax.tree.map(lambda leaf: jnp.asarray(leaf).at[2].set(poison), critic.params)
    agent = member.agent._replace(critic=critic._replace(params=spoilt))
    checkpoint.save(tmp_path, step, member._replace(agent=agent), notes)
    found = execute(program, tmp_path)
    assert [outcome.status for outcome in found] == ["ok", "ok", "diverged", "ok"]
    for index in (0, 1, 3):
        small.assert_same(found[index], outcomes[index])
    assert found[2].curve["broken"].tolist() == [False, False, True, True]
    assert np.isnan(found[2].curve["return"]).tolist() == [False, False, True, True]
    assert found[2].nnz == outcomes[2].nnz  # whatever the numbers are, the budget holds


class Treacherous(small.Drift):
    """Drift whose reward is sometimes not a number."""

    def step(self, key, state, action):
        state, step = super().step(key, state, action)
        bad = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.05)
        return state, Step(step.obs, jnp.where(bad, jnp.nan, step.reward), step.terminated, step.truncated)


@pytest.mark.slow
def test_absurd_learning_rate_diverges_and_rewards_that_are_no_numbers_are_counted():
    env = Treacherous()
    agent = dataclasses.replace(small.training().agent, learning_rate=1e30)
    of = small.training(
        env="treacherous", env_object=env, agent=agent, steps=240, evaluation=Evaluation(120, 4, 4)
    )
    (program,) = group([Run(of, recipe(name), 0.5, 0, name) for name in ("dense", "rigl")])
    for outcome in execute(program):
        assert outcome.status == "diverged"
        assert outcome.invalid_steps > 0
        assert np.array_equal(np.isnan(outcome.curve["return"]), outcome.curve["broken"])


# ---- checkpoints by time -------------------------------------------------------------------------------------------


@pytest.fixture
def saved(monkeypatch):
    """Environment steps at which a checkpoint is written (and not written)."""
    steps = []
    monkeypatch.setattr(checkpoint, "save", lambda folder, step, state, notes: steps.append(step))
    return steps


def hands(tick):
    """Time that passes by `tick` seconds with every look at it."""
    time = SimpleNamespace(now=0.0)

    def look():
        time.now += tick
        return time.now

    return look


@once
def test_checkpoints_are_as_far_apart_as_asked(program, tmp_path, monkeypatch, saved, often):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(
        runner, "time", SimpleNamespace(monotonic=lambda: now.seconds, perf_counter=hands(1e-3))
    )

    def pass_time(step):
        now.seconds += 60.0

    execute(program, tmp_path, progress=small.Watch(pass_time), checkpoint_seconds=150.0)
    # Minutes pass after each dispatch, so 180 s have passed after the third; the last is in the final evaluation.
    assert saved == [120, 210, 300, 390, 480]


@once
def test_checkpoints_cost_at_most_a_twentieth_of_the_work(program, tmp_path, monkeypatch, saved):
    """Each dispatch, evaluation and checkpoint takes a second by this clock: 20 of work allow the second checkpoint."""
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=hands(1.0), perf_counter=hands(1.0)))
    execute(program, tmp_path, checkpoint_seconds=0.0)
    assert saved == [30, 480]


@once
def test_program_at_its_end_needs_no_checkpoint(program, tmp_path, saved, often):
    execute(program, tmp_path, checkpoint_seconds=0.0)
    # The final evaluation has two pieces: one checkpoint before it, one between them, none behind.
    assert saved == [*range(30, 480, 30), 480, 480]
