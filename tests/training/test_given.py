"""Programs whose members take masks or a policy from finished runs: rewound weights, frozen masks, one dataset."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from sparserl_jax.agents.td3 import modules
from sparserl_jax.bench import suites
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.training import Program, group
from sparserl_jax.training import program as programs
from sparserl_jax.training.given import Given
from sparserl_jax.training.stages import member_key

SUITE = {
    "name": "given",
    "steps": 240,
    "warm_up": 60,
    "seeds": 2,
    "sparsities": [0.6],
    "num_envs": 2,
    "agent": {"hidden": [8, 8], "batch_size": 8, "learning_rate": 0.01},
    "schedule": {
        "topology_interval": 10,
        "delay": 20,
        "buffer_max": 240,
        "buffer_min": 60,
        "buffer_check": 60,
    },
    "evaluation": {"interval": 60, "episodes": 2, "final_episodes": 2},
    "environments": [{"name": "tests.reference.small:Drift"}],
    "arms": [
        {"recipe": "dense"},
        {"recipe": "rlx2"},
        {"recipe": "static", "name": "ticket", "ticket": {"arm": "rlx2"}},
        {"recipe": "static", "name": "fresh", "ticket": {"arm": "rlx2", "weights": "random"}},
        {"recipe": "static", "name": "clone", "clone": "dense", "ticket": {"arm": "rlx2"}},
    ],
}


@pytest.fixture(scope="module")
def parts() -> dict[str, Program]:
    """Programs by their first arm, on an environment of the tests."""
    suite = suites.parse(SUITE, "given.toml")
    return {made.runs[0].arm: made for made in group([run for _, _, run in suite.runs()])}


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def equal(left: Any, right: Any) -> bool:
    pairs = list(zip(leaves(left), leaves(right), strict=True))
    return all(np.array_equal(a, b) for a, b in pairs)


def random_masks(shapes: Any, seed: int) -> Any:
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: generator.random(leaf.shape) < 0.4, shapes)


@pytest.fixture(scope="module")
def masks(parts) -> Any:
    """Masks of both networks for the two seeds, `[seed, ...]`; any will do, the plan checks their counts."""
    program = parts["ticket"]
    both = random_masks(program.settings.given.masks, 5)
    return jax.tree.map(lambda rows: rows[:2], both)


@pytest.fixture(scope="module")
def start(parts) -> Any:
    """The rlx2 runs at their start: dense first draws by network, `[seed, ...]`."""
    program = parts["rlx2"]
    agent = program.agent
    keys = jax.vmap(lambda settings: member_key(settings, "agent"))(program.settings)

    def draw(key: jax.Array) -> Any:
        return modules((8, 8), 1).fresh(jax.random.split(key, 3)[0], 2, 1)

    member = jax.jit(jax.vmap(agent.init))(keys, program.settings.agent)
    return jax.device_get(jax.jit(jax.vmap(draw))(keys)), jax.device_get(member)


def test_what_takes_nothing_is_as_it_was(parts):
    assert parts["dense"].settings.given == Given() == parts["rlx2"].settings.given
    assert [tuple(run.arm for run in made.runs) for made in parts.values()] == [
        ("dense", "dense"),
        ("rlx2", "rlx2"),
        ("ticket", "ticket", "fresh", "fresh"),
        ("clone", "clone"),
    ]
    assert len({made.name for made in parts.values()}) == 4


def test_a_program_is_not_executed_without_what_it_takes(parts):
    assert parts["ticket"].memory() > 0  # the plan needs no masks
    with pytest.raises(UserError, match=r"run its suite with `sparserl bench`"):
        parts["ticket"].check_given()
    parts["rlx2"].check_given()


@pytest.fixture(scope="module")
def begun(parts, masks) -> tuple[Program, Any]:
    """The program of tickets with masks, seeds 0 and 1 of the first arm and of the second; and its first members."""
    twice = jax.tree.map(lambda rows: np.concatenate([rows, rows]), masks)
    program = dataclasses.replace(parts["ticket"], given=Given(masks=twice))
    program.check_given()
    assert program.name == parts["ticket"].name and program == parts["ticket"]
    return program, program.stages["init"](program.settings)


def test_a_ticket_begins_with_its_source_s_draw_under_the_given_mask(begun, masks, start):
    program, member = begun
    drawn, source = start
    found = jax.device_get(member.agent)
    for index, name in enumerate(("actor", "critic")):
        network = getattr(found, name)
        rewound = jax.tree.map(lambda rows: rows[:2], network.params)
        assert equal(jax.tree.map(lambda rows: rows[:2], network.sparsity.masks), masks[name])
        assert equal(rewound, mask_ops.apply(masks[name], drawn[name]))
        # Where the source's own first mask lives, too, the weights are those it began with.
        both = jax.tree.map(np.logical_and, masks[name], getattr(source, name).sparsity.masks)
        assert equal(mask_ops.apply(both, rewound), mask_ops.apply(both, getattr(source, name).params))
        assert equal(getattr(found, f"target_{name}")[0], network.params)
        assert not any(leaf.any() for leaf in leaves(network.opt_state)), index
        # The arm with weights of its own has other ones under the same masks.
        fresh = jax.tree.map(lambda rows: rows[2:], network.params)
        assert equal(jax.tree.map(lambda rows: rows[2:], network.sparsity.masks), masks[name])
        assert not equal(fresh, rewound)


def test_the_masks_of_tickets_never_change(begun, masks):
    program, member = begun
    twice = {name: jax.tree.map(lambda rows: np.concatenate([rows, rows]), masks[name]) for name in masks}
    before, training = jax.device_get(member.agent.actor.params), program.training
    member = program.stages["warm_up"](member, program.settings, programs.clock_at(training, 0))
    for step in (60, 120, 180):
        member, _ = program.stages["train"](member, program.settings, programs.clock_at(training, step))
    left = jax.device_get(program.stages["harvest"](member))
    assert equal(left["masks"], twice)
    assert all(not count.any() for count in leaves(member.tally.events))
    assert not equal(left["params"]["actor"], before)
    assert equal(left["params"]["critic"], mask_ops.apply(twice["critic"], left["params"]["critic"]))


def test_a_clone_learns_from_the_warm_up_of_its_expert_and_takes_no_further_steps(parts, masks):
    bare = parts["clone"]
    shapes = bare.settings.given
    assert set(shapes.masks) == {"actor"}
    generator = np.random.default_rng(2)
    expert = jax.tree.map(lambda x: generator.normal(size=x.shape).astype(np.float32), shapes.expert)
    program = dataclasses.replace(bare, given=Given({"actor": masks["actor"]}, expert))
    training, settings = program.training, program.settings
    member = program.stages["init"](settings)
    member = program.stages["warm_up"](member, settings, programs.clock_at(training, 0))
    kept = jax.device_get(member.replay)
    # [member, row, environment]: what the expert does in these states, without noise.
    acted = jax.vmap(program.agent.policy)(expert, kept.obs[:, :30])
    np.testing.assert_allclose(kept.action[:, :30], acted, rtol=1e-5, atol=1e-6)
    assert np.ptp(kept.obs[:, :30]) > 0.1 and training.schedule.buffer_max == 60
    before, episodes = jax.device_get(member.agent.actor.params), np.asarray(member.tally.episodes)
    losses = []
    for step in (60, 120, 180):
        member, metrics = program.stages["train"](member, settings, programs.clock_at(training, step))
        losses.append(float(np.mean(metrics["actor_loss"])))
    assert equal(jax.device_get(member.replay), kept) and equal(member.tally.episodes, episodes)
    assert losses[-1] < losses[0] and not equal(member.agent.actor.params, before)
    assert equal(program.agent.masks(jax.device_get(member.agent))["actor"], masks["actor"])
    seen, _ = program.stages["evaluate"](member, settings, programs.clock_at(training, 240), np.int32(0))
    assert np.isnan(seen["q_bias"]).all() and np.isfinite(seen["returns"]).all()
    assert np.asarray(seen["buffer"]).tolist() == [60, 60]
