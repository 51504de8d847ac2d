"""PPO through real Programs: whole iterations, true last observations, exact resume, and what is refused."""

from __future__ import annotations

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.agents.agent import OnPolicy
from sparserl_jax.distributions import Normal
from sparserl_jax.errors import UserError
from sparserl_jax.training import (
    Evaluation,
    PPOConfig,
    Program,
    Run,
    Schedule,
    Stopped,
    Training,
    diagnostics,
    execute,
    group,
    recipe,
    rollout_stages,
)
from sparserl_jax.training.program import clock_at
from tests.reference import small

AGENT = PPOConfig(hidden=(16, 16), rollout_steps=10, epochs=2, batch_size=15, learning_rate=3e-3, gamma=0.9)
ARMS = {"dense": 0.0, "tiny": 0.6, "rigl": 0.6, "set": 0.8, "static": 0.8}


def training(**changes) -> Training:
    """Iterations of 30 steps with 4 updates; an event every 5 ticks, up to the last tick but one."""
    given = {
        "agent": AGENT,
        "warm_up": 0,
        "steps": 360,
        "dispatch": 60,
        "schedule": Schedule(topology_interval=5),
    }
    return small.training(**{**given, "evaluation": Evaluation(120, 4, 8), **changes})


def programs(of: Training | None = None, **arms: float) -> list[Program]:
    of = training() if of is None else of
    return group([Run(of, recipe(name), knob, 0, name) for name, knob in (arms or ARMS).items()])


@pytest.fixture(scope="module")
def program() -> Program:
    return programs()[0]


@pytest.fixture(scope="module")
def compiled(program):
    return program.compile()


@pytest.fixture(scope="module")
def outcomes(program, compiled):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "compile", lambda self, *_: compiled)
        return execute(program)


# ---- whole runs --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_arms_of_the_family_train_in_one_program_and_keep_their_counts(program, compiled, outcomes):
    assert len(programs()) == 1 and "-ppo-drop_grow-n1-" in program.name
    assert set(compiled[0]) == {"init", "train", "evaluate", "harvest"} and program.compilations == 4
    assert program.training.updates == 360 // 30 * 2 * 2 == 48
    for outcome in outcomes:
        assert outcome.status == "ok" and np.isfinite(outcome.curve["return"]).all()
        moving = outcome.run.recipe.method in ("rigl", "set")
        assert outcome.events == dict.fromkeys(("actor", "critic"), 9 if moving else 0)
        assert outcome.curve["update"].tolist() == [16, 32, 48]
        assert outcome.curve["env_step"].tolist() == [120, 240, 360]
        for network, layers in outcome.layers.items():
            live = sum(outcome.nnz[network]) / layers.weights
            assert live == pytest.approx(1 - outcome.run.knobs[network], abs=0.06)
            outside = jax.tree.map(
                lambda mask, value: np.any(value[~mask]), outcome.masks[network], outcome.params[network]
            )
            assert not any(jax.tree.leaves(outside))


def test_every_column_is_documented_and_those_of_a_replay_are_empty(outcomes):
    for outcome in outcomes:
        known = {diagnostics.column_of(name)[0].name for name in outcome.curve}
        assert {"policy_kl", "clipped", "policy_entropy", "q_bias", "q"} <= known
        assert "temperature" not in known
        for name, column in outcome.curve.items():
            empty = name in ("buffer", "policy_distance")
            assert np.isnan(column).all() if empty else np.isfinite(column).all(), name
    assert all(outcome.episodes > 360 / 9 for outcome in outcomes)  # the time limit is 9 steps


def test_a_run_that_was_stopped_and_resumed_ends_undisturbed(
    program, compiled, outcomes, tmp_path, monkeypatch
):
    monkeypatch.setattr(Program, "compile", lambda self, *_: compiled)
    with pytest.raises(Stopped):
        execute(program, tmp_path, progress=small.interrupt_at(180))
    for ours, theirs in zip(execute(program, tmp_path), outcomes, strict=True):
        small.assert_same(ours, theirs)


def test_what_diagnostics_draw_for_one_purpose_they_draw_for_no_other(program, monkeypatch):
    """The key that samples are chosen with is neither used for the rollout nor the parent of a key that is."""

    class Chosen(Exception):
        """Enough is known."""

    class Spy(rollout_stages.RolloutStages):
        def _pool(self, settings, clock):
            return None

        def _rollout(self, member, clock, settings, pool, gates):
            self.used = [jax.random.wrap_key_data(data) for data in settings.keys.values()]
            self.used.append(gates)
            return None, None

        def _some(self, samples, key, size):
            self.chooser = key
            raise Chosen

    stages = object.__new__(Spy)
    stages.training = program.training
    monkeypatch.setattr(
        Spy, "on_policy", OnPolicy(behave=lambda *_: None, samples=lambda *_: None), raising=False
    )
    settings = jax.tree.map(lambda x: x[0], program.settings)
    member = collections.namedtuple("Member", "agent")(None)
    with pytest.raises(Chosen):
        stages._diagnose(member, settings, clock_at(program.training, 60))
    children = [jax.random.fold_in(stages.chooser, i) for i in range(len(settings.keys))]
    taken, mine = (
        {jax.random.key_data(key).tobytes() for key in keys}
        for keys in (stages.used, [stages.chooser, *children])
    )
    assert len(taken) == len(settings.keys) + 1 and not taken & mine


@pytest.mark.slow
def test_a_result_depends_neither_on_the_dispatch_nor_on_who_shares_the_program(outcomes):
    (alone,) = programs(training(dispatch=120), rigl=0.6)
    (ours,) = execute(alone)
    (theirs,) = (outcome for outcome in outcomes if outcome.run.arm == "rigl")
    for network, masks in theirs.masks.items():
        jax.tree.map(np.testing.assert_array_equal, masks, ours.masks[network])
    np.testing.assert_allclose(ours.curve["return"], theirs.curve["return"], rtol=1e-3)


@pytest.mark.slow
def test_gradual_pruning_reaches_its_sparsity_by_ticks():
    (program,) = programs(gradual=0.8)
    (outcome,) = execute(program)
    live = sum(outcome.nnz["actor"]) / outcome.layers["actor"].weights
    assert live == pytest.approx(0.2, abs=0.02) and outcome.events["actor"] > 1


# ---- one iteration -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def member(program, compiled):
    """The first member at its start, with its settings."""
    population = compiled[0]["init"](program.layout.place(program.settings))
    return jax.tree.map(lambda x: jnp.asarray(x)[0], (population, program.settings))


def stages_of(program: Program) -> rollout_stages.RolloutStages:
    return rollout_stages.RolloutStages(program.training, program.agent, program.env, 1, False)


def collected(program, member):
    """A rollout, the member after it, and max |ratio - 1| when its samples are met first."""
    stages, (state, settings), gates = stages_of(program), member, jax.random.key(3)

    def run(state, settings):
        (after, clock), steps = stages._rollout(state, clock_at(program.training, 0), settings, None, gates)
        samples = stages.on_policy.samples(state.agent, steps, gates)
        policy = program.agent.policy(state.agent.actor.params, samples.obs)
        normal = Normal(policy, state.agent.log_std)
        ratio = jnp.exp(normal.log_density(samples.action) - samples.log_density)
        return steps, after, clock, jnp.max(jnp.abs(ratio - 1.0))

    return jax.jit(run)(state, settings)


def check_chain(program, member) -> None:
    """Steps follow each other: the true last observation of an episode is not the first of the next."""
    steps, after, clock, _ = collected(program, member)
    done = np.asarray(steps.terminated | steps.truncated)
    following = np.concatenate([np.asarray(steps.obs)[1:], np.asarray(after.envs.obs)[None]])
    same = np.all(np.asarray(steps.final_obs) == following, axis=-1)
    assert done.any() and int(clock.step) == 30
    np.testing.assert_array_equal(same, ~done, err_msg="a reset has leaked into the last observation")
    assert int(after.tally.episodes) == done.sum()


def check_first_ratio(program, member) -> None:
    """What is learned from is the action as drawn: its density is that of the policy that acted."""
    steps, _, _, error = collected(program, member)
    assert np.abs(np.asarray(steps.action)).max() > 1.0, "no action was drawn outside the box"
    assert float(error) < 1e-6, "the ratio is not 1"


def test_a_rollout_keeps_true_last_observations_and_actions_as_drawn(program, member):
    check_chain(program, member)
    check_first_ratio(program, member)


def test_a_reset_that_leaks_into_the_last_observation_is_caught(program, member, monkeypatch):
    sound = rollout_stages.advance

    def faulty(*given):
        carry, seen, finished = sound(*given)
        return carry, seen._replace(final_obs=seen.next_obs), finished

    monkeypatch.setattr(rollout_stages, "advance", faulty)
    with pytest.raises(AssertionError, match="leaked"):
        check_chain(program, member)


def test_clipped_actions_with_the_density_of_drawn_ones_are_caught(program, member, monkeypatch):
    real = rollout_stages.Rollout
    monkeypatch.setattr(
        rollout_stages, "Rollout", lambda obs, action, *rest: real(obs, jnp.clip(action, -1, 1), *rest)
    )
    with pytest.raises(AssertionError, match="outside the box"):
        check_first_ratio(program, member)


def test_every_epoch_meets_every_sample_once(program, member):
    """The minibatches of an iteration, as the agent gets them."""
    stages, (state, settings) = stages_of(program), member
    met = []

    def update(agent, batch, key, clock, evidence):
        jax.debug.callback(lambda x: met.append(np.asarray(x)), batch.samples.obs, ordered=True)
        return agent, {"actor_loss": jnp.float32(0)}

    stages.agent = program.agent._replace(update=update)
    clock = clock_at(program.training, 0)
    (_, after), _ = jax.jit(lambda state: stages._iterate(state, clock, settings, None))(state)
    jax.effects_barrier()
    assert int(after.update) == len(met) == 4 and int(after.step) == 30
    epochs = np.stack(met).reshape(2, 30, -1)
    rows = [sorted(map(tuple, epoch)) for epoch in epochs]
    assert rows[0] == rows[1] and len(set(rows[0])) == 30
    assert not np.array_equal(epochs[0], epochs[1])


# ---- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"warm_up": 30}, "set warm_up = 0"),
        (
            {"steps": 350},
            "steps = 350 is not a positive multiple of 30 (parallel environments x rollout steps)",
        ),
        ({"evaluation": Evaluation(100, 4, 8)}, "evaluation.interval = 100"),
        ({"dispatch": 45}, "dispatch = 45 is not a positive multiple of 30"),
        ({"agent": dataclasses.replace(AGENT, batch_size=16)}, "the nearest valid value is 15"),
        ({"agent": dataclasses.replace(AGENT, epochs=0)}, "agent.epochs = 0 must be at least 1"),
        ({"agent": dataclasses.replace(AGENT, clip=0.0)}, "agent.clip = 0.0 must be a number above 0"),
    ],
)
def test_periods_that_do_not_fit_iterations_are_refused(changes, said):
    with pytest.raises(UserError) as refused:
        training(**changes).check()
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["rlx2", "dense_rvl"])
def test_recipes_that_need_a_replay_are_refused(name):
    with pytest.raises(UserError, match=f"recipe '{name}' asks for .* has no replay"):
        programs(**{name: 0.0})
    dynamic = dataclasses.replace(recipe("rigl"), buffer="dynamic")
    with pytest.raises(UserError, match="a dynamic buffer"):
        group([Run(training(), dynamic, 0.5, 0, "rigl")])


def test_overrides_of_a_replay_are_refused():
    run = Run(training(), recipe("rigl"), 0.5, 0, "rigl", overrides=(("buffer_max", 1000.0),))
    with pytest.raises(UserError, match="buffer_max"):
        group([run])
    traced = dataclasses.replace(run, overrides=(("clip", 0.1), ("entropy", 0.01)))
    assert traced.effective.agent.clip == 0.1 and len(group([traced])) == 1


def test_environments_on_the_host_are_refused():
    pytest.importorskip("gymnasium")
    of = training(env="gymnasium:Pendulum-v1")
    with pytest.raises(UserError, match="which environments on the host cannot give yet"):
        assert programs(of, rigl=0.5)[0].host
