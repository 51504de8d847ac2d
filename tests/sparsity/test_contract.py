"""The Sparsifier contract carries mask methods, trained gates, unit pruning and lottery tickets through one TD3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import pytest

from sparserl_jax.sparsity import METHODS, allocation
from sparserl_jax.sparsity.contract import Effects, Method
from tests.reference import conformance
from tests.reference.conformance import (
    EVENTS,
    NETWORKS,
    Laboratory,
    Moment,
    equal,
    host,
    laboratory,
    zero_outside,
)
from tests.reference.toy_methods import DORMANT, GATES, LARGEST_LOGIT, TICKET

pytestmark = pytest.mark.slow

SHIPPED = ("dense", "tiny", "static", "set", "rigl")
TOYS = {"gates": GATES, "dormant": DORMANT, "ticket": TICKET}
KNOB, CYCLES = 0.6, 8
TAU = conformance.CONFIG.tau


class Case(NamedTuple):
    """A short training of one method."""

    method: Method
    lab: Laboratory
    moments: list[Moment]

    @property
    def last(self):
        return self.moments[-1].after

    @property
    def start(self):
        return self.moments[0].before


@pytest.fixture(scope="module", params=[*SHIPPED, *TOYS])
def case(request) -> Case:
    method = TOYS.get(request.param) or METHODS[request.param]
    lab = laboratory(method.family)
    state = lab.init(jax.random.key(0), lab.settings(method, KNOB))
    return Case(method, lab, conformance.train(lab, state, CYCLES))


def trained(method: Method, seed: int = 1, knob: float = KNOB, cycles: int = CYCLES) -> Case:
    lab = laboratory(method.family)
    state = lab.init(jax.random.key(seed), lab.settings(method, knob))
    return Case(method, lab, conformance.train(lab, state, cycles, seed))


def declared_budget(case: Case) -> Callable[[str, int], Sequence[int]] | None:
    """The integers a method promises, restated from its definition."""
    layers = case.lab.layers
    sizes = {name: [layer.size for layer, _ in layers[name].tensors] for name in NETWORKS}
    if case.method.name == "gates":
        return None
    if case.method.name == "dormant":
        return lambda name, tick: sizes[name]
    if case.method.name == "ticket":
        counts = {
            name: case.method.settings(layers[name], KNOB, EVENTS, "released").counts for name in NETWORKS
        }
        return lambda name, tick: counts[name][tick // EVENTS.interval]
    if case.method.name == "dense":
        return lambda name, tick: sizes[name]
    if case.method.name == "tiny":
        width = {
            name: allocation.tiny_width(layers[name], sum(allocation.er(layers[name], KNOB)))
            for name in NETWORKS
        }
        ends = {"actor": (5, 2, 1), "critic": (7, 1, 2)}  # in, out, copies
        return lambda name, tick: [
            n
            for n in (ends[name][0] * width[name], width[name] ** 2, width[name] * ends[name][1])
            for _ in range(ends[name][2])
        ]
    return lambda name, tick: allocation.er(layers[name], KNOB)


# ---- held by every method ----------------------------------------------------------------------------------


def test_what_acts_is_what_is_evaluated_and_deployed(case):
    for moment in (case.moments[0], case.moments[11], case.moments[-1]):
        conformance.check_one_function(case.lab, moment.after)
    conformance.check_one_function(case.lab, case.start)


def test_parameters_outside_the_support_influence_no_action(case):
    conformance.check_actions_ignore_the_rest(case.lab, case.start)
    conformance.check_actions_ignore_the_rest(case.lab, case.last)


def test_parameters_outside_the_support_influence_no_target(case):
    conformance.check_targets_ignore_the_rest(case.lab, case.moments[1].after, 2)
    conformance.check_targets_ignore_the_rest(case.lab, case.moments[-2].after, 2 * CYCLES)


def test_budgets_hold_after_every_step_and_event(case):
    conformance.check_budget(case.lab, case.moments, declared_budget(case))


def test_events_treat_optimiser_slots_as_declared(case):
    """The slots of methods whose events replace no optimiser step go on moving; the shipped settings keep slots."""
    if case.method.name in ("dense", "tiny", "static", "gates"):
        for moment in case.moments:
            name = "critic" if moment.part == "update" else "actor"
            counts = [int(getattr(state, name).opt_state[0].count) for state in (moment.before, moment.after)]
            assert counts == [moment.tick(name) - 1, moment.tick(name)]
        return
    kind = case.lab.family.declares.slots
    assert conformance.check_slots(case.lab, case.moments, "keep" if kind == "setting" else kind) == 6


def test_everything_stays_finite_and_learns(case):
    assert all(
        np.isfinite(np.asarray(value)).all() for value in jax.tree.leaves(case.last._replace(init_key=0))
    )
    for name in NETWORKS:
        assert not equal(getattr(case.last, name).params, getattr(case.start, name).params)


def test_deployed_masks_hold_for_the_critic_too(case):
    masks = case.lab.agent.masks(case.last)["critic"]
    critic = case.last.critic
    params, _, _ = case.lab.family.deployed(critic.params, critic.extra, critic.sparsity)
    assert zero_outside(params, masks)


@pytest.mark.parametrize("name", ["drop_grow", *TOYS])
def test_members_together_equal_members_alone(name):
    if name == "drop_grow":
        members = [(METHODS[m], knob, "released") for m, knob in zip(SHIPPED, (0.0, 0.7, 0.3, 0.6, 0.8))]
        members += [(METHODS["rigl"], 0.5, "paper"), (METHODS["static"], 0.5, "paper")]
    else:
        members = [(TOYS[name], knob, "released") for knob in (0.2, 0.5, 0.8)]
    conformance.check_members(conformance.live(laboratory(members[0][0].family), members))


# ---- trained gates -----------------------------------------------------------------------------------------


def test_gates_are_trained_with_the_weights_and_averaged_into_targets():
    case = trained(GATES, cycles=3)
    for name in NETWORKS:
        began, ended = (host(getattr(state, name).extra["log_gates"]) for state in (case.start, case.last))
        assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(began), jax.tree.leaves(ended)))
        assert (
            max(np.abs(z).max() for z in jax.tree.leaves(ended)) <= LARGEST_LOGIT
        )  # projected after every step
        moment = case.moments[2]
        before = host(getattr(moment.before, f"target_{name}")[1])
        after = host(getattr(moment.after, f"target_{name}")[1])
        online = host(getattr(moment.after, name).extra)
        for t, o, out in zip(*map(jax.tree.leaves, (before, online, after)), strict=True):
            np.testing.assert_allclose(out, TAU * o + (1 - TAU) * t, atol=1e-6)


def test_gates_are_pushed_by_their_penalty():
    lab = laboratory(GATES.family)
    settings = lab.settings(GATES, KNOB)
    free = {**settings, **{name: settings[name]._replace(strength=np.float32(0)) for name in NETWORKS}}
    states = [lab.init(jax.random.key(0), s) for s in (settings, free)]
    assert equal(states[0].critic.params, states[1].critic.params)
    (with_penalty, told), (without, told_free) = (lab.update(s, conformance.batch(0), 0, 0) for s in states)
    np.testing.assert_array_equal(
        told["critic_loss"], told_free["critic_loss"]
    )  # the loss reported is the task's own
    openness = [
        sum(float(jax.nn.sigmoid(z).sum()) for z in jax.tree.leaves(s.critic.extra))
        for s in (with_penalty, without)
    ]
    assert openness[0] < openness[1]


def test_gates_learn_soft_and_act_hard():
    lab = laboratory(GATES.family)
    state = lab.init(jax.random.key(0), lab.settings(GATES, KNOB))
    actor = state.actor
    key = jax.random.key(0)
    soft, hard = (lab.family.effective(*actor[:2], actor.sparsity, mode, key) for mode in ("learn", "act"))
    gates = host(actor.extra["log_gates"])
    for weight, gate, learnt, acted in zip(
        *map(jax.tree.leaves, (host(actor.params), gates, soft, hard)), strict=True
    ):
        np.testing.assert_allclose(learnt, weight / (1 + np.exp(-gate)), rtol=1e-5)
        np.testing.assert_array_equal(acted, np.where(gate > 0, weight, 0))
        assert (gate > 0).any()
    closed = sum(int((gate <= 0).sum()) for gate in jax.tree.leaves(gates))
    assert closed > 100  # the example is not trivially dense


# ---- least active units ------------------------------------------------------------------------------------


def activity(state, windows) -> dict[str, dict[str, np.ndarray]]:
    """Mean activation of every hidden unit on a batch, by NumPy: [units] for the actor, [2, units] for the critic."""

    def hidden(layers, x):
        first = np.maximum(x @ layers["hidden_0"]["kernel"] + layers["hidden_0"]["bias"], 0)
        second = np.maximum(first @ layers["hidden_1"]["kernel"] + layers["hidden_1"]["bias"], 0)
        return {"hidden_0": first.mean(axis=0), "hidden_1": second.mean(axis=0)}

    actor, critic = host(state.actor.params)["mlp"], host(state.critic.params)["mlp"]
    copies = [
        hidden(
            jax.tree.map(lambda x, c=c: x[c], critic), np.concatenate([windows.obs, windows.action], axis=1)
        )
        for c in range(2)
    ]
    return {
        "actor": hidden(actor, windows.obs),
        "critic": {name: np.stack([copy[name] for copy in copies]) for name in copies[0]},
    }


def test_the_least_active_unit_of_this_batch_is_removed():
    case = trained(DORMANT, cycles=1)
    windows = conformance.batch(77)
    for name, call, updates in (("critic", case.lab.update, 3), ("actor", case.lab.delayed, 8)):
        before = case.last
        after, _ = call(before, windows, 0, updates)
        alive = host(case.lab.agent.masks(after)[name])["mlp"]
        activities = activity(before, windows)[name]
        for layer in ("hidden_0", "hidden_1"):
            assert np.partition(activities[layer], 1, axis=-1)[..., 0].min() >= 0
            removed = ~alive[layer]["bias"]
            np.testing.assert_array_equal(removed.sum(axis=-1), 1)
            chosen = np.argmax(removed, axis=-1)
            np.testing.assert_allclose(
                np.take_along_axis(activities[layer], chosen[..., None], axis=-1)[..., 0],
                activities[layer].min(axis=-1),
                atol=1e-6,
            )
            rows = alive["hidden_1" if layer == "hidden_0" else "output"]["kernel"].any(axis=-1)
            np.testing.assert_array_equal(rows, alive[layer]["bias"])  # nobody reads a removed unit


def test_units_are_removed_down_to_the_limit_and_no_further():
    case = trained(DORMANT, knob=0.15)
    units = case.lab.agent.masks(case.last)["critic"]["mlp"]["hidden_0"]["bias"].sum(axis=-1)
    assert units.tolist() == [14, 14]  # four events, two removals allowed


# ---- lottery ticket ----------------------------------------------------------------------------------------


def test_a_ticket_rewinds_to_the_initial_weights_under_its_new_mask():
    case = trained(TICKET)
    dense = laboratory(METHODS["dense"].family)
    initial = host(
        dense.init(jax.random.key(1), dense.settings(METHODS["dense"], 0.0))
    )  # the same draw, untouched
    seen = 0
    for moment in case.moments:
        name = "critic" if moment.part == "update" else "actor"
        if moment.tick(name) % EVENTS.interval:
            continue
        seen += 1
        masks = host(case.lab.agent.masks(moment.after)[name])
        start = getattr(initial, name).params
        network = getattr(moment.after, name)
        assert equal(network.params, jax.tree.map(lambda w, m: np.where(m, w, 0), start, masks))
        assert not equal(getattr(moment.before, name).params, network.params)
        assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(network.opt_state))
    assert seen == 6  # four events of the critic, two of the actor


def test_a_ticket_resets_targets_and_asks_for_an_empty_replay():
    case = trained(TICKET)
    for moment in case.moments:
        name = "critic" if moment.part == "update" else "actor"
        event = moment.tick(name) % EVENTS.interval == 0
        assert bool(moment.metrics["reset_replay"]) == event
        for network in NETWORKS:
            online, (target, _) = getattr(moment.after, network), getattr(moment.after, f"target_{network}")
            if event:
                assert equal(target, online.params)
            elif moment.part == "update":
                assert equal(target, getattr(moment.before, f"target_{network}")[0])


def test_what_an_event_that_did_not_happen_asks_for_is_dropped():
    for happened in (True, False):
        kept = Effects.of(happened, reset_replay=True, reset_targets=True).kept()
        assert [bool(flag) for flag in kept] == [happened] * 3


def test_methods_without_resets_declare_none_and_report_none(case):
    if case.method is TICKET:
        assert set(case.lab.family.declares.resets) == {"replay", "targets"}
    else:
        assert all("reset_replay" not in moment.metrics for moment in case.moments)
