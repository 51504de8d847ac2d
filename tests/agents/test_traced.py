"""Numbers that no shape depends on come with the member: one agent trains members of different ones."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import optax
import pytest

from sparserl_jax.agents.agent import Range
from sparserl_jax.agents.noise import scaled_normal
from sparserl_jax.agents.optimise import adam
from sparserl_jax.agents.td3 import TD3Config, Traced
from sparserl_jax.sparsity import METHODS, drop_grow
from tests.reference import conformance
from tests.reference.conformance import CONFIG, NETWORKS, NO_EVENTS, Laboratory

OTHER = dataclasses.replace(
    CONFIG,
    learning_rate=3e-3,
    gamma=0.8,
    tau=0.2,
    exploration_noise=0.3,
    target_noise=0.5,
    target_noise_clip=0.3,
)
"""Another value of everything that is traced."""


def test_every_traced_name_is_a_number_of_the_configuration_and_arrives_in_the_arrays():
    names = {field.name for field in dataclasses.fields(TD3Config)}
    assert set(TD3Config.TRACED) <= names
    assert {name.replace("discounts", "gamma") for name in Traced._fields} == set(TD3Config.TRACED)
    for name in TD3Config.TRACED:
        assert getattr(OTHER, name) != getattr(CONFIG, name)
        changed = dataclasses.replace(CONFIG, **{name: getattr(OTHER, name)}).traced()
        differ = [
            key
            for key in Traced._fields
            if not np.array_equal(getattr(changed, key), getattr(CONFIG.traced(), key))
        ]
        assert differ == ["discounts" if name == "gamma" else name]


def trained(lab: Laboratory, settings: Any, members: int | None, updates: int = 20) -> list[Any]:
    """The state after `updates` updates with their delayed parts, and exploring actions from it; members on the leading
    axis of `settings` where a number of them is given."""
    agent, clock = lab.agent, conformance._clock
    over = (lambda fn, axes: jax.jit(jax.vmap(fn, axes))) if members else (lambda fn, axes: jax.jit(fn))
    start = over(agent.init, (None, 0))
    update = over(lambda s, b, k, c: agent.update(s, b, k, c, conformance.EVIDENCE)[0], (0, None, None, None))
    delayed = over(
        lambda s, b, k, c: agent.delayed(s, b, k, c, conformance.EVIDENCE)[0], (0, None, None, None)
    )
    state = start(jax.random.key(0), settings)
    for number in range(updates):
        windows = conformance.batch(700 + number)
        state = update(state, windows, jax.random.key(number), clock(number))
        if number % 2:
            state = delayed(state, windows, jax.random.key(number), clock(number + 1))
    act = over(lambda s, o, k: agent.act(s, o, k, True)[0], (0, None, None))
    return [state, act(state, conformance.observations(5, 16), jax.random.key(9))]


def test_a_member_trains_as_an_agent_with_its_values_would():
    """Beside one of other values, 20 updates: masks exactly, values to 1e-5 (events: training/test_overrides.py)."""
    lab = Laboratory(drop_grow.DROP_GROW, NO_EVENTS)
    own = Laboratory(drop_grow.DROP_GROW, NO_EVENTS, OTHER)
    settings = [
        {**lab.settings(METHODS["rigl"], 0.6), "traced": config.traced()} for config in (CONFIG, OTHER)
    ]
    together = trained(lab, jax.tree.map(lambda *x: np.stack(x), *settings), 2)
    neighbour, mine = (jax.tree.map(lambda x, i=i: np.asarray(x)[i], together) for i in (0, 1))
    alone = trained(
        own, own.settings(METHODS["rigl"], 0.6), None
    )  # its values stand in the configuration only
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(alone), strict=True):
        if one.dtype == bool:
            np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_allclose(one, other, atol=1e-5)
    for name in NETWORKS:
        networks = [getattr(state, name) for state in (mine[0], neighbour[0])]
        assert not conformance.equal(*(network.params for network in networks))
    assert not np.allclose(mine[1], neighbour[1], atol=1e-2)


def test_adam_with_a_learning_rate_that_arrives_is_adam_with_a_constant_one():
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(4, 3)).astype(np.float32)}
    plain, ours = optax.adam(1e-2), adam()
    slots, own = plain.init(params), ours.init(params)
    assert jax.tree.structure(slots) == jax.tree.structure(own)
    theirs = mine = params
    constant = jax.jit(plain.update)
    traced = jax.jit(lambda g, s, p, rate: ours.update(g, s, p, learning_rate=rate))
    for _ in range(5):
        grads = {"w": rng.normal(size=(4, 3)).astype(np.float32)}
        step, slots = constant(grads, slots, theirs)
        theirs = optax.apply_updates(theirs, step)
        step, own = traced(grads, own, mine, np.float32(1e-2))
        mine = optax.apply_updates(mine, step)
        np.testing.assert_array_equal(mine["w"], theirs["w"])


def test_noise_of_a_traced_scale_has_the_bits_of_noise_of_a_constant_one():
    key, shape, scale = jax.random.key(3), (64, 2), 0.1
    constant = jax.jit(lambda key: scale * jax.random.normal(key, shape))(key)
    traced = jax.jit(lambda key, scale: scaled_normal(key, shape, scale))(key, np.float32(scale))
    np.testing.assert_array_equal(constant, traced)
    np.testing.assert_allclose(traced, scale * np.asarray(jax.random.normal(key, shape)), rtol=1e-6)
    assert (np.asarray(scaled_normal(key, shape, 0.0)) == 0).all()


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "text"),
    [
        (Range(0.0), (0.0, 7.0), (-1e-9, math.inf, math.nan), "at least 0"),
        (Range(0.0, above=True), (1e-9, 1e30), (0.0, -1.0, math.inf, math.nan), "above 0"),
        (Range(0.0, 1.0), (0.0, 1.0), (-0.1, 1.1, math.nan), "in [0, 1]"),
        (Range(0.0, 1.0, above=True), (0.1, 1.0), (0.0, 1.1), "in (0, 1]"),
    ],
)
def test_ranges_hold_what_they_say(allowed, inside, outside, text):
    assert all(map(allowed.holds, inside)) and not any(map(allowed.holds, outside))
    assert str(allowed) == text
