"""What every sparsity method has to keep, as checks on a small agent that carries it.

The `check_*` functions raise `Broken` where a promise of the Sparsifier contract is not kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparserl_jax.agents.optimise import Network
from sparserl_jax.conformance.broken import Broken, require, same
from sparserl_jax.conformance.laboratory import (
    BATCH,
    EVIDENCE,
    NETWORKS,
    Laboratory,
    Moment,
    batch,
    clock_at,
    equal,
    garbage,
    hasty,
    host,
    observations,
    opposite,
    slots_of,
    support,
    train,
    zero_outside,
)
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Method, Promise
from sparserl_jax.sparsity.slots import map_slots

TOLERANCE = 1e-6
"""Largest difference of actions and of members computed together and alone."""


def check_one_function(lab: Laboratory, state: Any, where: str = "the actor") -> None:
    """What acts, what is evaluated and what is deployed are the same function of the same non-zeros."""
    obs = observations(7, 32)
    params, masks, _ = lab.agent.deployed(state)
    acted, mean = lab.act(state, obs)
    same(acted, mean, f"{where}: actions without exploration")
    same(acted, np.asarray(lab.policy(params, obs)), f"{where}: actions of the deployed weights", TOLERANCE)
    for seed in (0, 1):
        noisy = lab.act(state, obs, seed, explore=True)[1]
        same(mean, noisy, f"{where}: noise-free actions while exploring", TOLERANCE)
    live = jax.tree.map(lambda value, mask: np.where(mask, value, 0), host(params), host(masks))
    same(live, host(params), f"{where}: deployed weights outside their masks")
    same(masks, lab.agent.masks(state)["actor"], f"{where}: masks")


def check_actions_ignore_the_rest(lab: Laboratory, state: Any, where: str = "the actor") -> None:
    """Parameters outside the support influence no action."""
    obs, actor = observations(8, 32), state.actor
    dirty = garbage(actor.params, opposite(support(lab, actor)), 1)
    params, extra, opt_state = lab.family.project(dirty, actor.extra, actor.opt_state, actor.sparsity)
    other = state._replace(actor=Network(params, extra, opt_state, actor.sparsity))
    after = f"{where}, with other numbers outside its mask and `project`ed"
    same(lab.act(state, obs), lab.act(other, obs), f"{after}: actions")
    same(lab.agent.deployed(state)[:2], lab.agent.deployed(other)[:2], f"{after}: what is deployed")


def check_losses_ignore_the_rest(lab: Laboratory, state: Any, updates: int, where: str) -> None:
    """Parameters outside the support influence no loss, of either network, after `updates` updates."""
    dirty = state
    for name in NETWORKS:
        network = getattr(state, name)
        params = garbage(network.params, opposite(support(lab, network)), 3)
        params, extra, slots = lab.family.project(params, network.extra, network.opt_state, network.sparsity)
        dirty = dirty._replace(**{name: Network(params, extra, slots, network.sparsity)})
    for part, call in (("update", lab.update), ("delayed", lab.delayed)):
        windows = batch(4, successors=lab.agent.successors)
        (_, clean), (_, other) = (call(one, windows, 2, updates) for one in (state, dirty))
        clean, other = (
            {k: v for k, v in t.items() if k == "q" or k.endswith("_loss")} for t in (clean, other)
        )
        same(clean, other, f"{where}, with other numbers outside its masks and `project`ed: {part}")


def check_targets_ignore_the_rest(lab: Laboratory, state: Any, updates: int) -> None:
    """Target parameters outside the support influence no target after a target update.

    Outside means: outside the online mask where targets are projected with it, otherwise outside their own support.
    What a target chooses itself depends on all of it, so there only the number of its weights can be looked at.
    """
    family = lab.family

    def used(name: str, state: Any) -> Any:
        params, extra = getattr(state, f"target_{name}")
        network = getattr(state, name)
        return family.effective(params, extra, network.sparsity, "target", jax.random.key(0))

    clean, _ = lab.delayed(state, batch(5), 0, updates)
    dirty = state
    targets = [name for name in NETWORKS if hasattr(state, f"target_{name}")]
    if family.declares.targets == "own":
        for name in targets:
            online = lab.agent.masks(clean)[name]
            own = jax.tree.map(lambda value: np.asarray(value) != 0, used(name, clean))
            most, found = (mask_ops.nnz_table(lab.layers[name], tree) for tree in (online, own))
            where = f"the target {name} after {updates} updates"
            require((found <= most).all(), f"at most {most} weights per tensor", found, where)
        return
    for name in targets:
        params, extra = getattr(state, f"target_{name}")
        if family.declares.targets == "online":
            outside = opposite(support(lab, getattr(clean, name)))
        else:
            outside = jax.tree.map(lambda value: np.asarray(value) == 0, used(name, clean))
        dirty = dirty._replace(**{f"target_{name}": (garbage(params, outside, 2), extra)})
    again, _ = lab.delayed(dirty, batch(5), 0, updates)
    where = f"after {updates} updates, with other numbers outside the mask before the target update"
    for name in targets:
        same(used(name, clean), used(name, again), f"the target {name} {where}")
        if family.declares.targets == "online":
            params, _ = getattr(again, f"target_{name}")
            clear = zero_outside(params, support(lab, getattr(again, name)))
            require(clear, "zeros outside the online mask", "other numbers", f"the target {name}")
    after, metrics = lab.update(clean, batch(6), 1, updates)
    other, others = lab.update(again, batch(6), 1, updates)
    same((metrics, after.critic), (others, other.critic), f"the update {where}")


def check_budget(
    lab: Laboratory, moments: Sequence[Moment], budget: Callable[[str, int], Sequence[int]] | None
) -> None:
    """Live weights are as declared after every call; `budget(network, tick)` gives the declared integers."""
    declared = lab.family.declares.budget
    for moment in moments:
        for name in NETWORKS:
            if budget is None:
                require(declared == "none", "a budget", "none", name)
                continue
            tick = moment.tick(name)
            found = np.asarray(mask_ops.nnz_table(lab.layers[name], lab.agent.masks(moment.after)[name]))
            integers = np.asarray(budget(name, tick))
            where = f"the {name} after tick {tick}"
            if declared == "global":
                total, kept = int(integers.sum()), int(found.sum())
                require(total == kept, f"{total} live weights in all", kept, where)
                continue
            kept_to = found == integers if declared == "per_tensor" else found <= integers
            if not kept_to.all():
                index = int(np.argmin(kept_to))
                tensor = lab.layers[name].describe(*lab.layers[name].tensors[index])
                words = "" if declared == "per_tensor" else "at most "
                raise Broken(
                    f"{words}{integers[index]} live weights", found[index], f"{where}, tensor {tensor}"
                )


def check_events(lab: Laboratory, moments: Sequence[Moment], promises: dict[str, Promise]) -> None:
    """Topology changes at no more events than promised."""
    for name in NETWORKS:
        most = promises[name].events
        allowed = most <= lab.events.count
        require(
            allowed, f"at most the schedule's {lab.events.count} events", most, f"the promise of the {name}"
        )
        happened = [m.tick(name) for m in moments if m.events.get(name)]
        where = f"the {name} at ticks {happened}"
        require(len(happened) <= most, f"at most {most} events", len(happened), where)


def check_slots(lab: Laboratory, moments: Sequence[Moment], kind: str) -> int:
    """At events optimiser slots are treated as `kind` says; returns how many events were seen.

    Kinds: keep, zero_grown, zero_inactive, zero_changed; `setting` is any of the first three, the same at all events.
    """
    if kind == "setting":
        failures = []
        for one in ("keep", "zero_grown", "zero_inactive"):
            try:
                return check_slots(lab, moments, one)
            except Broken as failure:
                failures.append(failure)
        raise failures[0]
    events = 0
    for moment in moments:
        name = "critic" if moment.part == "update" else "actor"
        if not moment.events.get(name):
            continue
        events += 1
        before, after = getattr(moment.before, name), getattr(moment.after, name)
        masks, old, params = host(support(lab, after)), host(support(lab, before)), after.params
        pairs = zip(slots_of(before.opt_state, params), slots_of(after.opt_state, params), strict=True)
        where = f"optimiser slots ({kind}) of the {name} at tick {moment.tick(name)}"
        for earlier, later in pairs:
            if kind == "keep":
                same(earlier, later, where)
            elif kind == "zero_changed":
                changed = jax.tree.map(
                    lambda now, then, mask: mask & (now != then), host(params), host(before.params), masks
                )
                # Of weights that came out as they were, slots may have been kept or not.
                zero = jax.tree.map(lambda slot, at: at | (slot == 0), host(later), changed)
                same(jax.tree.map(lambda x, at: np.where(at, 0, x), host(earlier), zero), host(later), where)
            elif kind == "zero_grown":
                grown = jax.tree.map(lambda now, then: now & ~then, masks, old)
                same(
                    jax.tree.map(lambda x, new: np.where(new, 0, x), host(earlier), grown), host(later), where
                )
            else:
                live = jax.tree.map(lambda x, mask: np.where(mask, x, 0), host(later), masks)
                same(live, host(later), where)
    return events


class Lives(NamedTuple):
    """`init` and one `evolve` of several members, each alone and all together.

    begun: (params, extra, masks). evolved: (params, extra, optimiser state, masks, effects). blind: `evolved` under
    another dense gradient, everything else equal: of a network that is sparse from the beginning only the gradients of
    dead weights are others.
    """

    alone: list[tuple[Any, Any]]
    together: tuple[Any, Any]
    blind: Any


def live(
    lab: Laboratory, members: Sequence[tuple[Method, float, str]], network: str = "critic", tick: int = 8
) -> Lives:
    """The lives of `members` (method, knob, source) of one family, on random numbers."""
    family, layers, optimiser = lab.family, lab.layers[network], optax.adam(1e-3)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lab.agent.init, jax.random.key(0), lab.settings(*members[0]))

    def drawn() -> Any:
        """Random parameters of all members."""
        like = getattr(shapes, network).params
        return jax.tree.map(lambda x: rng.normal(size=(len(members), *x.shape)).astype(np.float32), like)

    def life(
        keys: jax.Array, settings: Any, fresh: Any, gradient: Any, moved: Any, hidden: Any, tick: jax.Array
    ) -> Any:
        params, extra, state = family.init(keys[0], fresh, layers, settings)
        begun = (params, extra, family.deployed(params, extra, state)[1])
        slots = optimiser.init((params, extra))
        slots = map_slots(lambda slot: jax.tree.map(jnp.add, slot, moved), slots, params)
        evidence = EVIDENCE._replace(
            grad=lambda: gradient,
            activations=lambda: hidden,
            init_params=lambda: fresh,
            hvp=lambda v: v,
            loss=lambda weights: sum((jnp.sum(w**2) for w in jax.tree.leaves(weights)), jnp.float32(0)),
        )
        params, extra, slots, state, effects = family.evolve(
            keys[1], tick, params, extra, slots, state, evidence
        )
        return begun, (params, extra, slots, family.deployed(params, extra, state)[1], effects)

    settings = [method.settings(layers, knob, lab.events, source) for method, knob, source in members]
    shapes_of = [jax.tree.map(lambda leaf: list(np.shape(leaf)), one) for one in settings]
    for other, (_, knob, source) in zip(shapes_of, members, strict=True):
        where = f"the settings at the knob {knob:g} with source '{source}'"
        require(other == shapes_of[0], f"one structure and shape, {shapes_of[0]}", other, where)
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *settings)
    keys = jax.random.split(jax.random.key(3), (len(members), 2))
    hidden = {
        layer.name: rng.random((len(members), *layer.stack, BATCH, layer.units_out)).astype(np.float32)
        for layer in layers.hidden
    }
    fresh, gradient, moved, other = (drawn() for _ in range(4))
    inputs = (keys, stacked, fresh, gradient, moved, hidden)
    single, now = hasty(life), np.int32(tick)
    together = hasty(jax.vmap(life, in_axes=(0, 0, 0, 0, 0, 0, None)))(*inputs, now)
    each = [jax.tree.map(lambda x, i=i: x[i], inputs) for i in range(len(members))]
    alone = [single(*mine, now) for mine in each]
    # The gradients of live weights are there anyway; only where all live is theirs the dense gradient.
    alive = host(alone[0][0][2])
    dense = all(mask.all() for mask in jax.tree.leaves(alive))
    changed = jax.tree.map(
        lambda mask, mine, x: np.where(mask & (not dense), mine, x[0]), alive, each[0][3], other
    )
    return Lives(alone, together, single(*each[0][:3], changed, *each[0][4:], now)[1])


def check_members(lives: Lives) -> None:
    """`init` and `evolve` over members with other settings equal single calls: masks exactly, values to 1e-6."""
    for i, alone in enumerate(lives.alone):
        mine = jax.tree.map(lambda x, i=i: x[i], lives.together)
        for part, expected, found in zip(("init", "evolve"), alone, mine, strict=True):
            same(expected, found, f"{part} of member {i} among {len(lives.alone)}", TOLERANCE)


def check_growth(lives: Lives, promise: Promise) -> None:
    """Events without promised dense growth do not depend on dense gradients."""
    if not promise.dense_growth:
        same(lives.alone[0][1], lives.blind, "evolve under another dense gradient")


def check_resets(lab: Laboratory, lives: Lives) -> None:
    """Events ask for no reset that is not declared: it would not be obeyed."""
    for i, (_, evolved) in enumerate(lives.alone):
        for what in ("replay", "targets"):
            asked = bool(getattr(evolved[-1], f"reset_{what}")) and bool(evolved[-1].happened)
            declared = what in lab.family.declares.resets
            words = f"'{what}' in its declared resets", "an event that asks for it"
            require(declared or not asked, *words, f"evolve of member {i}")


def check_resumes(lab: Laboratory, start: Any, cycles: int = 3) -> None:
    """A training goes on bit for bit from a checkpoint, and the program is the same at every tracing."""
    from sparserl_jax.training import checkpoint

    middle = train(lab, start, cycles)[-1].after
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), 1, middle, {})
        found = checkpoint.restore(Path(folder), jax.eval_shape(lambda: start))
    assert found is not None
    through, resumed = (
        train(lab, state, 1, done=lab.agent.delay * cycles)[-1].after for state in (middle, found[1])
    )
    same(through, resumed, "the training after the checkpoint")
    # Numbers drawn on the host are frozen into a compiled program and differ only between programs.
    fresh, clock = Laboratory(lab.family, lab.events, lab.config), (jax.random.key(0), clock_at(3))
    for part in ("update", "delayed"):
        programs = [one.compiled[part].lower(middle, batch(0), *clock) for one in (lab, fresh)]
        if programs[0].as_text() != programs[1].as_text():
            first, second = (program.compile()(middle, batch(0), *clock) for program in programs)
            same(first, second, f"{part}, traced a second time (draw from the key, not on the host)")


def check_finite(start: Any, moments: Sequence[Moment]) -> None:
    """Weights, slots and losses stay finite, and the weights move."""
    for moment in moments:
        where = f"tick {moment.tick('critic')} of the critic, {moment.part}"
        learned = {name: getattr(moment.after, name)._replace(sparsity=None) for name in NETWORKS}
        for path, leaf in jax.tree_util.tree_leaves_with_path(host((learned, moment.metrics))):
            finite = leaf.dtype.kind != "f" or np.isfinite(leaf).all()
            require(finite, "finite numbers", "others", f"{where}, {jax.tree_util.keystr(path)}")
    for name in NETWORKS:
        moved = not equal(getattr(start, name).params, getattr(moments[-1].after, name).params)
        require(moved, "weights that learn", "the initial ones", f"the {name} after {len(moments)} calls")
