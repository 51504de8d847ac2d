"""Training on datasets: what they hold, how they are drawn, that nothing else is learned from, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import envs
from sparserl_jax.agents.td3_bc import TD3BCConfig
from sparserl_jax.bench import suites
from sparserl_jax.errors import UserError
from sparserl_jax.training import (
    Evaluation,
    Program,
    Run,
    SACConfig,
    Schedule,
    Stopped,
    TD3Config,
    Training,
    datasets,
    execute,
    group,
    recipe,
)
from sparserl_jax.training.program import clock_at
from sparserl_jax.training.stages import Stages, evaluation_returns
from tests.bench import fake
from tests.reference import small

DATA = "own:random?episodes=6"
AGENT = TD3BCConfig(hidden=(16, 16), batch_size=16, learning_rate=3e-3, gamma=0.9)
ARMS = {"dense": 0.0, "tiny": 0.6, "static": 0.6, "rigl": 0.6}


def training(**changes) -> Training:
    """40 updates a dispatch, an event every 10 ticks."""
    given = {"agent": AGENT, "dataset": DATA, "warm_up": 0, "num_envs": 1, "steps": 160, "dispatch": 40}
    given |= {"schedule": Schedule(topology_interval=10), "evaluation": Evaluation(80, 4, 8)}
    return small.training(**{**given, **changes})


def runs(of: Training | None = None, seeds: int = 2) -> list[Run]:
    of = training() if of is None else of
    return [Run(of, recipe(name), knob, seed, name) for name, knob in ARMS.items() for seed in range(seeds)]


@pytest.fixture(scope="module")
def program() -> Program:
    (only,) = group(runs())
    return only


@pytest.fixture(scope="module")
def compiled(program):
    return program.compile()


@pytest.fixture(scope="module")
def outcomes(program, compiled):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "compile", lambda self, *_: compiled)
        return execute(program)


# ---- data --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> datasets.Made:
    """60 episodes of a task that terminates, is cut by chance, and has a time limit of 9 steps."""
    source = datasets.source("own:random?episodes=60", "here")
    return jax.device_get(jax.jit(lambda key: datasets.make(small.Drift(), key, source))(jax.random.key(0)))


@pytest.mark.slow
def test_a_dataset_is_whole_episodes_one_after_another(made):
    data, rows = made.data, int(made.data.rows)
    assert data.obs.shape == (60 * 9, 2) and 60 < rows < 60 * 9
    ends = (data.terminated | data.truncated)[:rows]
    assert ends.sum() == 60 and ends[-1]
    assert not (data.terminated & data.truncated)[:rows].any()
    assert data.terminated[:rows].any() and data.truncated[:rows].any()
    within = np.flatnonzero(~ends)
    np.testing.assert_array_equal(data.next_obs[within], data.obs[within + 1])
    lengths = np.diff(np.concatenate([[-1], np.flatnonzero(ends)]))
    assert lengths.max() == 9 and lengths.min() < 9
    # What the task says of every row: terminated beyond |1|, reward of the place after the step.
    np.testing.assert_array_equal(data.terminated[:rows], np.abs(data.next_obs[:rows, 0]) > 1)
    reward = 1 - data.next_obs[:, 0] ** 2 - 0.1 * (2 * data.action[:, 0]) ** 2
    np.testing.assert_allclose(data.reward[:rows], reward[:rows], atol=1e-5)
    episode = np.concatenate([[0], np.cumsum(ends)[:-1]])
    np.testing.assert_allclose(made.returns, np.bincount(episode, data.reward[:rows]), atol=1e-4)
    assert made.invalid == 0


@pytest.mark.slow
def test_its_actions_are_uniform_and_its_first_states_are_resets(made):
    data, rows = made.data, int(made.data.rows)
    action = data.action[:rows, 0]
    assert np.abs(action).max() <= 1 and np.unique(action).size == rows
    assert abs(action.mean()) < 4 * 0.577 / np.sqrt(rows) and action.std() == pytest.approx(0.577, rel=0.1)
    first = np.concatenate([[0], np.flatnonzero((data.terminated | data.truncated)[: rows - 1]) + 1])
    assert np.abs(data.obs[first, 0]).max() <= 0.5 and np.unique(data.obs[first, 0]).size == 60


@pytest.mark.slow
def test_choices_are_one_hot_and_all_are_made():
    env = envs.make("gymnax:CartPole-v1")
    source = datasets.source("own:random?episodes=4", "here")
    data = jax.jit(lambda key: datasets.make(env, key, source).data)(jax.random.key(0))
    action = np.asarray(data.action)[: int(data.rows)]
    assert set(map(tuple, action)) == {(1.0, 0.0), (0.0, 1.0)}


def test_draws_are_uniform_over_the_rows_there_are_and_whole(made):
    data, rows, size = made.data, int(made.data.rows), 40_000
    batch = jax.device_get(jax.jit(lambda key: datasets.draw(data, key, size))(jax.random.key(1)))
    row = {float(action): i for i, action in enumerate(data.action[:rows, 0])}
    chosen = np.array([row[float(action)] for action in batch.action[:, 0]])
    counts = np.bincount(chosen, minlength=rows)
    assert counts.min() > 0 and np.sum((counts - size / rows) ** 2 / (size / rows)) < rows + 6 * np.sqrt(
        2 * rows
    )
    for ours, theirs in (
        (batch.obs, data.obs),
        (batch.rewards[:, 0], data.reward),
        (batch.terminated[:, 0], data.terminated),
        (batch.truncated[:, 0], data.truncated),
        (batch.closing_obs, data.next_obs),
    ):
        np.testing.assert_array_equal(ours, theirs[chosen])
    assert batch.valid.all() and (batch.used == 1).all()


@pytest.mark.slow
def test_arms_of_a_seed_share_their_data_and_seeds_do_not(program, compiled):
    population = program.layout.unpadded(compiled[0]["init"](program.layout.place(program.settings)))
    obs = np.asarray(population.replay.obs)
    seeds = [run.seed for run in program.runs]
    for i, own in enumerate(seeds):
        for j, other in enumerate(seeds):
            assert np.array_equal(obs[i], obs[j]) == (own == other)
    assert population.envs == ()


# ---- training ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_arms_train_in_one_program_by_updates_alone(program, compiled, outcomes):
    assert set(compiled[0]) == {"init", "train", "evaluate", "harvest"} and program.compilations == 4
    assert program.training.updates == 160 and clock_at(program.training, 80) == (80, 80)
    for outcome in outcomes:
        assert outcome.status == "ok" and outcome.episodes == 6
        np.testing.assert_array_equal(outcome.curve["env_step"], [80, 160])
        np.testing.assert_array_equal(outcome.curve["update"], [80, 160])
        assert (outcome.curve["buffer"] > 6).all() and (outcome.curve["buffer"] <= 6 * 9).all()
        moving = outcome.run.recipe.method == "rigl"
        assert outcome.events == ({"actor": 7, "critic": 15} if moving else {"actor": 0, "critic": 0})


def test_no_environment_is_stepped_in_training(program, monkeypatch):
    def refuse(*_):
        raise AssertionError("an environment is used")

    given = program.arguments()  # whose shapes, if nobody has asked for them, come from the environment
    monkeypatch.setattr(small.Drift, "step", refuse)
    monkeypatch.setattr(small.Drift, "reset", refuse)
    (fresh,) = group(runs(dataclasses.replace(training(), env_object=small.Drift())))
    fresh.stages["train"].lower(*given["train"])
    with pytest.raises(AssertionError, match="an environment is used"):
        fresh.stages["init"].lower(*given["init"])


def test_a_stopped_program_goes_on_to_the_same_end(program, compiled, outcomes, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Program, "compile", lambda self, *_: compiled)

    def stop(step: int) -> None:
        if step == 80:
            raise KeyboardInterrupt

    with pytest.raises(Stopped):
        execute(program, tmp_path, progress=small.Watch(stop))
    for first, second in zip(outcomes, execute(program, tmp_path), strict=True):
        small.assert_same(first, second)


# ---- evaluation with drawn actions -------------------------------------------------------------------------


@pytest.mark.slow
def test_sampled_evaluation_draws_from_the_policy(monkeypatch):
    monkeypatch.setattr(Stages, "_seen", lambda *_: ({}, {}))  # diagnostics are compiled elsewhere
    agent = SACConfig(hidden=(16, 16), batch_size=16, gamma=0.9)
    of = small.training(agent=agent, num_envs=1, evaluation=Evaluation(120, 4, 8, sampled=True))
    programs = [
        group([Run(own, recipe("dense"), 0.0, 0, "dense")])[0]
        for own in (of, dataclasses.replace(of, evaluation=Evaluation(120, 4, 8)))
    ]
    drawn, settled = programs
    assert drawn.name != settled.name
    member = drawn.stages["init"](drawn.layout.place(drawn.settings))
    found = []
    for program in programs:
        seen, _ = program.stages["evaluate"](
            member, program.layout.place(program.settings), clock_at(of, 120), np.int32(0)
        )
        found.append(np.asarray(seen["returns"])[0])
    assert not np.isclose(*found).any()
    params = jax.tree.map(lambda x: x[0], drawn.layout.unpadded(member).agent.actor.params)
    key = np.asarray(drawn.settings.evaluation_key)[0]
    for returns, act, sampled in zip(
        found, (drawn.agent.sample_policy, drawn.agent.policy), (True, False), strict=True
    ):
        again = jax.jit(
            lambda params, act=act, sampled=sampled: evaluation_returns(
                small.Drift(), lambda *seen: act(params, *seen), key, jnp.int32(120), 0, 4, sampled
            )
        )(params)
        np.testing.assert_allclose(returns, again, atol=1e-4)


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"warm_up": 40}, "warm_up = 40, but training on a dataset takes no steps"),
        ({"num_envs": 2}, "num_envs = 2, but training on a dataset takes no steps"),
        ({"dataset": None}, "agent 'td3_bc' learns from a dataset; give the environment one"),
        ({"agent": TD3Config()}, "agent 'td3' learns from its own steps, not from a dataset"),
        ({"dataset": "own:randm?episodes=5"}, "did you mean 'own:random'"),
        ({"dataset": "own:random"}, "must say how many episodes it has"),
        ({"dataset": "own:random?episodes=0"}, "must say how many episodes it has"),
        ({"dataset": "own:random?episodes=5&steps=3"}, "must say how many episodes it has"),
        ({"dataset": "own:random?episodes=many"}, "must say how many episodes it has"),
        ({"steps": 81, "evaluation": Evaluation(81)}, "steps = 81 is not a positive multiple of 2"),
    ],
)
def test_what_makes_no_sense_on_a_dataset_is_refused_in_one_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        training(**changes).check()
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "asked"), [("rlx2", "several steps"), ("dense_rvl", "several steps")])
def test_recipes_that_need_a_replay_are_refused(name: str, asked: str):
    with pytest.raises(UserError, match=f"{asked}.*agent 'td3_bc' has no replay"):
        Run(training(), recipe(name), 0.0, 0, name).check()
    dynamic = dataclasses.replace(recipe("rigl"), buffer="dynamic")
    with pytest.raises(UserError, match="a dynamic buffer.*has no replay"):
        Run(training(), dynamic, 0.5, 0, "x").check()
    with pytest.raises(UserError, match="'buffer_max' is the same|setting in arm"):
        Run(training(), recipe("rigl"), 0.5, 0, "x", overrides=(("buffer_max", 100.0),)).check()


def test_policies_that_are_not_drawn_from_are_refused():
    of = small.training(evaluation=Evaluation(120, 4, 8, sampled=True))
    with pytest.raises(
        UserError,
        match=r"evaluation\.sampled: actions cannot be drawn.*agent 'td3'; drop it, or take one of sac, iql, fttpo_",
    ):
        _ = group(runs(of))[0].agent


# ---- suites ------------------------------------------------------------------------------------------------


def offline(**changes) -> suites.Suite:
    given = {
        "agent": {"name": "td3_bc", "batch_size": 16},
        "warm_up": 0,
        "schedule": {"topology_interval": 10},
    }
    given |= {"environments": [{"name": "own:Treatment-III", "dataset": DATA}], "num_envs": 1}
    return suites.parse(fake.table(**{**given, **changes}), "mini.toml")


def test_a_suite_hands_its_dataset_on_and_hashes_it():
    suite = offline(arms=[{"recipe": "dense"}, {"recipe": "rigl"}])
    (task,) = suite.tasks
    assert suite.training(task).dataset == DATA and suite.plain()["tasks"][0]["dataset"] == DATA
    other = offline(
        arms=[{"recipe": "dense"}, {"recipe": "rigl"}],
        environments=[{"name": "own:Treatment-III", "dataset": "own:random?episodes=7"}],
    )
    assert other.hash() != suite.hash()
    # Where neither is said, nothing of it stands in a file that a hash is made of.
    usual = suites.parse(fake.table(), "mini.toml").plain()
    assert "dataset" not in usual["tasks"][0] and "sampled" not in usual["evaluation"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"warm_up": 40}, "set warm_up = 0"),
        ({"environments": [{"name": "own:Treatment-III"}]}, "give the environment one, such as dataset ="),
        ({"agent": {"name": "td3"}}, "drop 'dataset', or take an agent such as 'td3_bc'"),
        ({"schedule": {"buffer_max": 100}}, "no delayed targets that 'buffer_max'"),
    ],
)
def test_a_mistake_in_a_suite_is_told_in_one_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        offline(**changes)
    assert sentence in str(error.value) and "mini.toml" in str(error.value)
