"""Behaviour cloning against its definition in NumPy: loss, gradient, one Adam step, masks, first draw."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.agents import behaviour_cloning, td3
from sparserl_jax.agents.agent import Clock
from sparserl_jax.agents.registry import AGENTS, CLONING, trained_by
from sparserl_jax.errors import UserError
from sparserl_jax.replay.windows import Batch
from sparserl_jax.sparsity import drop_grow
from sparserl_jax.sparsity.contract import Events
from sparserl_jax.sparsity.static import settings
from tests.reference import rlx2_numpy
from tests.reference.conformance import EVIDENCE

OBS, ACTION, SIZE = 3, 2, 16
EVENTS = Events(5, 20, 0.5)
CONFIG = behaviour_cloning.BehaviourCloningConfig(hidden=(8, 8), batch_size=SIZE, learning_rate=1e-2)
AGENT = behaviour_cloning.make(CONFIG, OBS, ACTION, {"actor": drop_grow.DROP_GROW}, {"actor": EVENTS})
SETTINGS = {"actor": settings(AGENT.layers["actor"], 0.5, EVENTS, "released"), "traced": CONFIG.traced()}


def batch(seed: int, lost: int = 0) -> Batch:
    """States and actions, the first `lost` of them not to be used."""
    rng = np.random.default_rng(seed)
    blank = np.zeros((SIZE, 1))
    return Batch(
        obs=rng.normal(size=(SIZE, OBS)).astype(np.float32),
        action=rng.uniform(-1, 1, (SIZE, ACTION)).astype(np.float32),
        rewards=blank.astype(np.float32),
        terminated=blank.astype(bool),
        truncated=blank.astype(bool),
        closing_obs=np.full((SIZE, OBS), np.nan, np.float32),
        used=np.ones(SIZE, np.int32),
        valid=np.arange(SIZE) >= lost,
    )


@pytest.fixture(scope="module")
def functions() -> Any:
    return jax.jit(AGENT.init), jax.jit(
        lambda state, data, clock: AGENT.update(state, data, jax.random.key(3), clock, EVIDENCE)
    )


def loss(params: Any, data: Batch) -> float:
    """Mean over batch and action dimensions; lost entries weigh nothing."""
    error = (rlx2_numpy.action(params, data.obs) - data.action) ** 2
    return float(np.mean(np.where(data.valid[:, None], error, 0.0)))


def perturbed(params: Any, layer: str, index: tuple[int, int], by: float) -> Any:
    kernel = np.array(params["mlp"][layer]["kernel"], np.float64)
    kernel[index] += by
    changed = {**params["mlp"][layer], "kernel": kernel}
    return {"mlp": {**params["mlp"], layer: changed}}


@pytest.mark.parametrize("lost", [0, 5])
@pytest.mark.slow
def test_the_loss_and_its_step_are_those_of_the_definition(functions, lost: int):
    init, update = functions
    state = init(jax.random.key(0), SETTINGS)
    before, data = jax.device_get(state.actor.params), batch(1, lost)
    after, metrics = update(state, data, Clock(np.int32(0), np.int32(0)))
    assert float(metrics["actor_loss"]) == pytest.approx(loss(before, data), rel=1e-5)
    # Adam's first step is the sign of the gradient times the learning rate; masked weights stay where they are.
    mask = jax.device_get(AGENT.masks(state)["actor"])["mlp"]
    live = {name: np.argwhere(part["kernel"]) for name, part in mask.items()}
    for name, places in live.items():
        moved = np.asarray(after.actor.params["mlp"][name]["kernel"]) - before["mlp"][name]["kernel"]
        assert not moved[~mask[name]["kernel"]].any()
        for place in map(tuple, places[:: max(1, len(places) // 6)]):
            slope = (
                loss(perturbed(before, name, place, 1e-4), data)
                - loss(perturbed(before, name, place, -1e-4), data)
            ) / 2e-4
            if abs(slope) > 1e-4:
                assert moved[place] == pytest.approx(-1e-2 * np.sign(slope), rel=2e-3)
            else:
                assert abs(moved[place]) <= 1.001e-2


@pytest.mark.slow
def test_it_learns_and_its_mask_stays(functions):
    init, update = functions
    state, data = init(jax.random.key(0), SETTINGS), batch(2)
    data = data._replace(action=np.tanh(data.obs[:, :ACTION]))
    first, mask = loss(jax.device_get(state.actor.params), data), jax.device_get(AGENT.masks(state))
    for tick in range(60):
        state, metrics = update(state, data, Clock(np.int32(tick), np.int32(tick)))
        assert not metrics["events"]["actor"]
    assert loss(jax.device_get(state.actor.params), data) < first / 2
    assert jax.tree.all(jax.tree.map(np.array_equal, mask, jax.device_get(AGENT.masks(state))))


@pytest.mark.slow
def test_the_same_key_draws_the_actor_of_td3(functions):
    config = td3.TD3Config(hidden=(8, 8))
    names = ("actor", "critic")
    learner = td3.make(
        config, OBS, ACTION, dict.fromkeys(names, drop_grow.DROP_GROW), dict.fromkeys(names, EVENTS)
    )
    chosen = {name: settings(learner.layers[name], 0.5, EVENTS, "paper") for name in names}
    theirs = jax.jit(learner.init)(jax.random.key(7), {**chosen, "dense_targets": jnp.bool_(False)})
    ours = functions[0](jax.random.key(7), {**SETTINGS, "actor": chosen["actor"]})
    for mine, other in (
        (ours.actor.params, theirs.actor.params),
        (AGENT.masks(ours)["actor"], learner.masks(theirs)["actor"]),
    ):
        assert jax.tree.all(jax.tree.map(np.array_equal, jax.device_get(mine), jax.device_get(other)))


def test_nobody_chooses_it_by_name():
    assert "behaviour_cloning" not in AGENTS
    assert trained_by("behaviour_cloning").make is behaviour_cloning.make
    assert trained_by("td3") is AGENTS["td3"]
    with pytest.raises(UserError, match="agent"):
        trained_by("behaviour_clonin")


@pytest.mark.parametrize("found", [*AGENTS.values(), CLONING], ids=lambda found: found.config().name)
def test_a_configuration_says_what_its_algorithm_learns_from(found):
    config = found.config()
    names = ("actor", "critic", *config.NETWORKS)
    actions = {"actions": found.actions[0]} if len(found.actions) > 1 else {}
    both = dict.fromkeys(names, drop_grow.DROP_GROW), dict.fromkeys(names, EVENTS)
    made = found.make(config, OBS, ACTION, *both, **actions)
    assert made.experience == config.experience
    assert (made.on_policy is not None) == (config.experience == "rollout")
