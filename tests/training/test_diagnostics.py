"""Diagnostics of a curve: each against NumPy on a small training, and planted problems show in them."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserl_jax.envs import Lookahead, evaluate_ahead
from sparserl_jax.layers import Layer, LayerTable
from sparserl_jax.training import Run, diagnostics, group, recipe, runner
from tests.reference import probes, rlx2_numpy, small

MEMBERS = ("rlx2", "rlx2_paper", "set", "static", "dense", "set")
SET, STATIC, DENSE, MISLED = range(2, 6)
WRONG_REWARD = 100.0


class Recorder(small.Watch):
    """Keeps the population at every curve point; tells one member's replay that every step is worth 100."""

    execution: Any

    def __init__(self) -> None:
        super().__init__()
        self.points: list[Any] = []

    def score(self, program: str, step: int, returns: list[float]) -> None:
        population = self.execution.population
        masks = self.execution.compiled["harvest"](population)["masks"]
        kept = (population.agent, population.replay, masks)
        self.points.append(jax.tree.map(np.asarray, (step, *kept)))

    def advance(self, program: str, step: int, steps: int) -> None:
        population = self.execution.population
        reward = population.replay.reward.at[MISLED].set(WRONG_REWARD)
        replay = population.replay._replace(reward=reward)
        self.execution.population = population._replace(replay=replay)


@pytest.fixture(scope="module")
def watched():
    """(outcomes, what the Recorder kept) of one Program of six members."""
    runs = []
    for place, name in enumerate(MEMBERS):
        known = dataclasses.replace(recipe(name), n=3)
        runs.append(Run(small.training(), known, 0.0 if name == "dense" else 0.6, place, f"{name}{place}"))
    (program,) = group(runs)
    recorder = Recorder()
    recorder.execution = runner.Execution(program, None, recorder, 300.0)
    return recorder.execution.run(None), recorder


# ---- columns -----------------------------------------------------------------------------------------------


def test_every_column_of_a_curve_is_documented_and_every_documented_column_is_there(watched):
    used = set()
    for outcome in watched[0]:
        for name in outcome.curve:
            found = diagnostics.column_of(name)
            assert found is not None, f"say in training/diagnostics.py what '{name}' is"
            assert re.fullmatch("[a-z0-9_]+", name)
            used.add(found[0].name)
    of_others = {"temperature", "policy_entropy", "policy_kl", "clipped", "epsilon"}  # SAC's, PPO's and DQN's
    of_others |= {"sparsity_{network}", "expected_sparsity_{network}", "live_{network}_{layer}"}  # of gates
    assert used == {column.name for column in diagnostics.COLUMNS} - of_others


def test_columns_are_told_apart():
    for name, column, where in (
        ("actor_grad_norm", "{network}_grad_norm", {"network": "actor"}),
        ("actor_masked_grad_norm", "{network}_masked_grad_norm", {"network": "actor"}),
        ("dormant_critic_hidden_0", "dormant_{network}_{layer}", {"network": "critic", "layer": "hidden_0"}),
    ):
        found = diagnostics.column_of(name)
        assert found is not None and (found[0].name, found[1]) == (column, where)
    assert diagnostics.column_of("wall_seconds") is None


# ---- masks -------------------------------------------------------------------------------------------------


def kernels(masks: Any, member: int) -> np.ndarray:
    """All weights' masks of one member as one vector, biases left out."""
    return np.concatenate([masks["mlp"][name]["kernel"][member].ravel() for name in sorted(masks["mlp"])])


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_turnover_overlap_and_regret_of_real_runs_equal_a_hand_count(watched, network):
    outcomes, recorder = watched
    for member, outcome in enumerate(outcomes):
        looks = [kernels(masks[network], member) for _, _, _, masks in recorder.points]
        last = looks[0]
        for point, live in enumerate(looks[1:], start=1):
            changed = len(set(np.flatnonzero(live)) - set(np.flatnonzero(last))) / live.sum()
            assert outcome.curve[f"turnover_{network}"][point] == pytest.approx(changed, abs=1e-6)
            last = live
    moved = outcomes[SET].curve[f"turnover_{network}"]
    assert np.all(moved[:3] > 0.02)  # there was something to count
    assert outcomes[SET].curve[f"grown_then_dropped_{network}"][-1] > 0.05


@pytest.mark.parametrize("member", [STATIC, DENSE])
def test_frozen_masks_have_no_turnover_and_overlap_in_full(watched, member):
    curve = watched[0][member].curve
    for network in ("actor", "critic"):
        assert np.all(curve[f"turnover_{network}"] == 0.0)
        assert np.all(curve[f"overlap_{network}"] == 1.0)
        assert np.all(curve[f"grown_then_dropped_{network}"] == 0.0)


def test_buffers_shrink_under_the_dynamic_rule_and_no_other(watched):
    """Of members that are trained together."""
    sizes = [outcome.curve["buffer"].tolist() for outcome in watched[0]]
    assert all(sizes[member] == [120, 240, 360, 480] for member in (SET, STATIC, DENSE, MISLED))
    assert all(sizes[member][-1] < 480 for member in range(SET))


SIZE = 12
LAYERS = {"net": LayerTable([Layer("only", ("kernel",), None, "dense", (3, 4), output=True)])}


@given(st.lists(st.integers(0, 2**SIZE - 1), min_size=2, max_size=5))
def test_history_of_any_masks_is_that_of_sets(looks):
    sets = [{i for i in range(SIZE) if bits >> i & 1} for bits in looks]

    def tree(live: set[int]) -> Any:
        return {"net": {"kernel": jnp.array([i in live for i in range(SIZE)]).reshape(3, 4)}}

    history = diagnostics.begin_history(tree(sets[0]), LAYERS)
    assert {name: past.dtype for name, past in history.items()} == {"net": np.uint8}
    start, grown, last = sets[0], set(), sets[0]
    for live in sets[1:]:
        seen, history = diagnostics.read_history(history, tree(live), LAYERS)
        found = {name: float(value) for name, value in seen.items()}
        assert found == {
            "overlap_net": pytest.approx(len(live & start) / len(live) if live else 1.0, abs=1e-6),
            "turnover_net": pytest.approx(len(live - last) / len(live) if live else 0.0, abs=1e-6),
            "grown_then_dropped_net": pytest.approx(len(grown - live) / max(len(grown), 1), abs=1e-6),
        }
        grown, last = grown | (live - start), live


# ---- values ------------------------------------------------------------------------------------------------


def test_values_that_are_too_high_show_by_orders(watched):
    """A replay that promises 100 a step, where evaluation earns at most 1: Q climbs towards 1000, returns do not."""
    outcomes, _ = watched
    honest = [np.abs(outcomes[member].curve["q_bias"][1:]) for member in range(MISLED)]
    misled = outcomes[MISLED].curve["q_bias"]
    assert np.max(honest) < 20
    assert np.all(np.diff(misled) > 0) and misled[-1] > 200


@pytest.mark.parametrize("offset", [0.0, 3.0, -0.5])
def test_bias_is_the_offset_from_the_true_value_wherever_the_time_limit_falls(offset):
    """Episodes of 3 steps of an endless task: without the last state's value the bias would be off by gamma^3 V."""
    env = probes.TimeLimited()
    _, seen = jax.jit(lambda key: evaluate_ahead(env, key, lambda obs: obs[:1] * 0, 8, 0.9))(
        jax.random.key(0)
    )

    def value(obs: jax.Array) -> np.ndarray:
        return env.value(np.asarray(obs), np.zeros(1), 0.9).astype(np.float32) + np.float32(offset)

    assert float(diagnostics.value_bias(value, seen)) == pytest.approx(offset, abs=1e-4)
    biased = seen._replace(discount=jnp.zeros_like(seen.discount))
    assert abs(float(diagnostics.value_bias(value, biased)) - offset) > 1.0  # what the rule guards against


def test_bias_leaves_out_states_no_episode_reached_and_adds_nothing_behind_a_termination():
    """Two episodes, two start steps; values 10 everywhere. By hand: gaps 10 - 4, 10 - 7 - 0.5 * 10 and 10 - 1."""
    seen = Lookahead(
        obs=jnp.zeros((2, 2, 1)),
        visited=jnp.array([[True, True], [False, True]]),
        returns=jnp.array([[4.0, 7.0], [99.0, 1.0]]),
        discount=jnp.array([[0.0, 0.5], [0.9, 0.0]]),
        last_obs=jnp.zeros((2, 1)),
    )
    found = diagnostics.value_bias(lambda obs: jnp.full(obs.shape[:-1], 10.0), seen)
    assert float(found) == pytest.approx((6 - 2 + 9) / (1 + 0.5 + 1))


# ---- replay and gradients ----------------------------------------------------------------------------------


def test_policy_distance_is_that_of_the_oldest_transitions(watched):
    """Half the mean square difference to the stored noise-free actions; of the paper's rule, a Euclidean distance to
    the actions taken."""
    outcomes, recorder = watched
    training = small.training()
    for point, (step, agent, replay, _) in enumerate(recorder.points):
        for member, outcome in enumerate(outcomes):
            rows = np.arange(replay.left[member], step // training.num_envs)
            rows = rows[: training.buffer_oldest // training.num_envs] % replay.reward.shape[1]
            params = jax.tree.map(lambda x, member=member: x[member], agent.actor.params)
            obs = replay.obs[member][rows]
            action = rlx2_numpy.action(params, obs)
            mean, taken = (x[member][rows].astype(np.float64) for x in (replay.mean, replay.action))
            if outcome.run.recipe.source == "paper":
                expected = np.sqrt(((action - taken) ** 2).sum(axis=-1)).mean()
            else:
                expected = 0.5 * ((action - mean) ** 2).mean()
            np.testing.assert_allclose(outcome.curve["policy_distance"][point], expected, rtol=1e-3)


def test_only_what_is_masked_has_gradients_of_masked_weights(watched):
    for member, outcome in enumerate(watched[0]):
        for network in ("actor", "critic"):
            norms = outcome.curve[f"{network}_masked_grad_norm"]
            assert np.all(norms == 0.0) if member == DENSE else np.any(norms > 0.0)


def test_final_episodes_are_no_curve_point(watched):
    """The two final evaluations look again at the same masks and leave no trace."""
    outcomes, recorder = watched
    assert len(recorder.points) == len(outcomes[0].curve["turnover_actor"]) == 4
    last = jax.tree.map(np.asarray, recorder.execution.population.history)
    live = kernels(recorder.points[-1][3]["actor"], SET)
    assert ((last["actor"][SET] & diagnostics.LAST) > 0).sum() == live.sum()
