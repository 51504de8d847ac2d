"""What every sparsity method has to keep, as checks on a small TD3 that carries it.

`laboratory(family)` compiles the TD3 once per family and process; `train` records every state of a short training; the
`check_*` functions raise AssertionError where a promise of the Sparsifier contract is broken.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparserl_jax.agents import td3
from sparserl_jax.agents.agent import Clock
from sparserl_jax.agents.optimise import Network
from sparserl_jax.replay import Batch
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Events, Evidence, Method, Sparsifier
from sparserl_jax.sparsity.slots import map_slots

OBS, ACTION, WINDOW, BATCH = 5, 2, 3, 8
CONFIG = td3.TD3Config(hidden=(16, 16), batch_size=BATCH, learning_rate=1e-2, tau=0.05)
EVENTS = Events(interval=4, end=41, drop_fraction=0.5)
NO_EVENTS = Events(interval=4, end=0, drop_fraction=0.5)
NETWORKS = ("actor", "critic")


def observations(seed: int = 0, count: int = BATCH) -> np.ndarray:
    """Observations [count, OBS]."""
    return np.random.default_rng(seed).normal(size=(count, OBS)).astype(np.float32)


def batch(seed: int, size: int = BATCH, window: int = WINDOW) -> Batch:
    """Made-up windows: some end in a terminal state, some at a time limit, some after `window` steps."""
    rng = np.random.default_rng(seed)
    used = rng.integers(1, window + 1, size).astype(np.int32)
    kind = np.where(
        used < window, rng.integers(1, 3, size), rng.integers(0, 3, size)
    )  # 0 goes on, 1 terminal, 2 cut
    place = np.arange(window)
    last = place == used[:, None] - 1
    return Batch(
        obs=observations(seed + 1, size),
        action=rng.uniform(-1, 1, (size, ACTION)).astype(np.float32),
        rewards=np.where(place < used[:, None], rng.normal(size=(size, window)), 0).astype(np.float32),
        terminated=last & (kind == 1)[:, None],
        truncated=last & (kind == 2)[:, None],
        closing_obs=observations(seed + 2, size),
        used=used,
        valid=np.ones(size, bool),
    )


def _unavailable(*_: Any) -> Any:
    raise NotImplementedError


EVIDENCE = Evidence(
    grad=_unavailable,
    hvp=_unavailable,
    activations=_unavailable,
    batch=lambda size: jax.tree.map(jnp.asarray, batch(99, size)),
    init_params=_unavailable,
    episode_return=lambda: jnp.float32(1.5),
)


class Laboratory:
    """A small TD3 whose two networks carry one family of methods, each part compiled at its first use."""

    def __init__(
        self,
        family: Sparsifier,
        events: Events = EVENTS,
        config: td3.TD3Config = CONFIG,
        evidence: Evidence = EVIDENCE,
    ) -> None:
        self.family, self.events = family, events
        self.agent = agent = td3.make(
            config, OBS, ACTION, dict.fromkeys(NETWORKS, family), dict.fromkeys(NETWORKS, events)
        )
        self.layers = agent.layers
        self.init = jax.jit(agent.init)
        self.policy = jax.jit(agent.policy)
        self._act = jax.jit(agent.act, static_argnums=3)
        self._update = jax.jit(
            lambda state, batch, key, clock: agent.update(state, batch, key, clock, evidence)
        )
        self._delayed = jax.jit(
            lambda state, batch, key, clock: agent.delayed(state, batch, key, clock, evidence)
        )

    def settings(
        self, method: Method, knob: float, source: str = "released", dense_targets: bool = True
    ) -> Any:
        """Settings of one member."""
        per_network = {
            name: method.settings(self.layers[name], knob, self.events, source) for name in NETWORKS
        }
        return {**per_network, "dense_targets": np.bool_(dense_targets)}

    def act(
        self, state: Any, obs: np.ndarray, seed: int = 0, explore: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions and noise-free actions."""
        action, mean = self._act(state, obs, jax.random.key(seed), explore)
        return np.asarray(action), np.asarray(mean)

    def update(self, state: Any, windows: Batch, seed: int, updates: int) -> tuple[Any, dict[str, jax.Array]]:
        """The update that follows `updates` others."""
        return self._update(state, windows, jax.random.key(seed), _clock(updates))

    def delayed(
        self, state: Any, windows: Batch, seed: int, updates: int
    ) -> tuple[Any, dict[str, jax.Array]]:
        """The delayed part after `updates` updates."""
        return self._delayed(state, windows, jax.random.key(seed), _clock(updates))


def _clock(updates: int) -> Clock:
    return Clock(np.int32(100 + updates), np.int32(updates))


@functools.cache
def laboratory(family: Sparsifier, events: Events = EVENTS) -> Laboratory:
    """The laboratory of a family, shared by all tests of a process."""
    return Laboratory(family, events)


class Moment(NamedTuple):
    """One call of a training. `updates` counts the critic updates done when it returned."""

    part: str
    updates: int
    before: Any
    after: Any
    metrics: dict[str, Any]

    def tick(self, network: str) -> int:
        """Gradient computations of a network done when the call returned."""
        if network == "critic":
            return self.updates
        return self.updates // 2 - int(self.part == "update" and self.updates % 2 == 0)


def train(lab: Laboratory, state: Any, cycles: int, seed: int = 0, done: int = 0) -> list[Moment]:
    """Twice update and once delayed, `cycles` times, each on a batch of its own, from `done` updates on."""
    moments = []
    for cycle in range(cycles):
        for _ in range(2):
            before, windows = state, batch(1000 * seed + 10 * done)
            state, metrics = lab.update(before, windows, seed + 10_000 + done, done)
            done += 1
            moments.append(Moment("update", done, before, state, metrics))
        before = state
        state, metrics = lab.delayed(before, windows, seed + 20_000 + cycle, done)
        moments.append(Moment("delayed", done, before, state, metrics))
    return moments


# ---- small tools -------------------------------------------------------------------------------------------


def _data(x: Any) -> np.ndarray:
    is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def host(tree: Any) -> Any:
    """A tree of NumPy arrays; keys become their data."""
    return jax.tree.map(_data, tree)


def equal(one: Any, other: Any) -> bool:
    """Whether two trees hold the same values (NaN equals NaN; keys compare by their data)."""
    pairs = list(zip(jax.tree.leaves(host(one)), jax.tree.leaves(host(other)), strict=True))
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def zero_outside(values: Any, masks: Any) -> bool:
    """Whether every entry outside its mask is exactly zero."""
    return all(
        np.all(np.asarray(value)[~np.asarray(mask)] == 0)
        for value, mask in zip(jax.tree.leaves(values), jax.tree.leaves(masks), strict=True)
    )


def garbage(values: Any, outside: Any, seed: int) -> Any:
    """`values` with large random numbers in the entries marked by `outside`."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda value, out: np.where(out, 100 * rng.normal(size=value.shape), value).astype(np.float32),
        host(values),
        host(outside),
    )


def slots_of(opt_state: Any, params: Any) -> list[Any]:
    """All optimiser slots that mirror `params`."""
    found: list[Any] = []
    map_slots(lambda slots: found.append(slots) or slots, opt_state, params)
    return found


def _opposite(masks: Any) -> Any:
    return jax.tree.map(lambda mask: ~np.asarray(mask), masks)


def _support(lab: Laboratory, network: Network) -> Any:
    return lab.family.deployed(network.params, network.extra, network.sparsity)[1]


# ---- the promises ------------------------------------------------------------------------------------------


def check_one_function(lab: Laboratory, state: Any) -> None:
    """What acts, what is evaluated and what is deployed are the same function of the same non-zeros."""
    obs = observations(7, 32)
    params, masks, _ = lab.agent.deployed(state)
    acted, mean = lab.act(state, obs)
    np.testing.assert_array_equal(acted, mean)
    np.testing.assert_allclose(acted, lab.policy(params, obs), atol=1e-6)
    np.testing.assert_allclose(lab.act(state, obs, explore=True)[1], mean, atol=1e-6)
    assert zero_outside(params, masks)
    assert jax.tree.structure(masks) == jax.tree.structure(params)
    for mask, value in zip(jax.tree.leaves(masks), jax.tree.leaves(params), strict=True):
        assert mask.dtype == bool and mask.shape == value.shape
    assert equal(masks, lab.agent.masks(state)["actor"])


def check_actions_ignore_the_rest(lab: Laboratory, state: Any) -> None:
    """Parameters outside the support influence no action."""
    obs, actor = observations(8, 32), state.actor
    dirty = garbage(actor.params, _opposite(_support(lab, actor)), 1)
    params, extra, opt_state = lab.family.project(dirty, actor.extra, actor.opt_state, actor.sparsity)
    other = state._replace(actor=Network(params, extra, opt_state, actor.sparsity))
    assert equal(lab.act(state, obs), lab.act(other, obs))
    assert equal(lab.agent.deployed(state)[:2], lab.agent.deployed(other)[:2])


def check_targets_ignore_the_rest(lab: Laboratory, state: Any, updates: int) -> None:
    """Target parameters outside the support influence no target after a target update.

    Outside means: outside the online mask where targets are projected with it, otherwise outside their own support.
    """
    family = lab.family

    def used(name: str, state: Any) -> Any:
        params, extra = getattr(state, f"target_{name}")
        network = getattr(state, name)
        return family.effective(params, extra, network.sparsity, "target", jax.random.key(0))

    clean, _ = lab.delayed(state, batch(5), 0, updates)
    dirty = state
    for name in NETWORKS:
        params, extra = getattr(state, f"target_{name}")
        if family.declares.targets == "online":
            outside = _opposite(_support(lab, getattr(clean, name)))
        else:
            outside = jax.tree.map(lambda value: np.asarray(value) == 0, used(name, clean))
        dirty = dirty._replace(**{f"target_{name}": (garbage(params, outside, 2), extra)})
    again, _ = lab.delayed(dirty, batch(5), 0, updates)
    for name in NETWORKS:
        assert equal(used(name, clean), used(name, again)), name
        if family.declares.targets == "online":
            params, _ = getattr(again, f"target_{name}")
            assert zero_outside(params, _support(lab, getattr(again, name))), name
    after, metrics = lab.update(clean, batch(6), 1, updates)
    other, others = lab.update(again, batch(6), 1, updates)
    assert equal(metrics, others) and equal(after.critic, other.critic)


def check_budget(
    lab: Laboratory, moments: Sequence[Moment], budget: Callable[[str, int], Sequence[int]] | None
) -> None:
    """Live weights are as declared after every call; `budget(network, tick)` gives the declared integers."""
    declared = lab.family.declares.budget
    for moment in moments:
        for name in NETWORKS:
            masks = lab.agent.masks(moment.after)[name]
            found = np.asarray(mask_ops.nnz_table(lab.layers[name], masks))
            if declared == "none":
                assert budget is None
                continue
            assert budget is not None
            integers = np.asarray(budget(name, moment.tick(name)))
            if declared == "per_tensor":
                np.testing.assert_array_equal(found, integers)
            elif declared == "global":
                assert found.sum() == integers.sum()
            else:
                assert declared == "at_most" and np.all(found <= integers)


def check_slots(lab: Laboratory, moments: Sequence[Moment], kind: str) -> None:
    """At events optimiser slots are treated as `kind` says: keep, zero_grown or zero_inactive."""
    events = 0
    for moment in moments:
        name = "critic" if moment.part == "update" else "actor"
        before, after = getattr(moment.before, name), getattr(moment.after, name)
        if not bool(lab.events.due(moment.tick(name))):
            continue
        events += 1
        masks, old = host(_support(lab, after)), host(_support(lab, before))
        params = after.params
        pairs = zip(slots_of(before.opt_state, params), slots_of(after.opt_state, params), strict=True)
        for earlier, later in pairs:
            if kind == "keep":
                assert equal(earlier, later)
            elif kind == "zero_grown":
                grown = jax.tree.map(lambda now, then: now & ~then, masks, old)
                assert equal(later, jax.tree.map(lambda x, new: np.where(new, 0, x), host(earlier), grown))
            else:
                assert kind == "zero_inactive" and zero_outside(later, masks)
    assert events >= 2


def check_members(
    lab: Laboratory, members: Sequence[tuple[Method, float, str]], network: str = "critic", tick: int = 8
) -> None:
    """`init` and `evolve` over members with other settings equal single calls: masks exactly, values to 1e-6."""
    family, layers, optimiser = lab.family, lab.layers[network], optax.adam(1e-3)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lab.agent.init, jax.random.key(0), lab.settings(*members[0]))

    def drawn() -> Any:
        """Random parameters of all members."""
        like = getattr(shapes, network).params
        return jax.tree.map(lambda x: rng.normal(size=(len(members), *x.shape)).astype(np.float32), like)

    def life(keys: jax.Array, settings: Any, fresh: Any, gradient: Any, hidden: Any, tick: jax.Array) -> Any:
        params, extra, state = family.init(keys[0], fresh, layers, settings)
        begun = (params, extra, family.deployed(params, extra, state)[1])
        slots = optimiser.init((params, extra))
        slots = map_slots(lambda slot: jax.tree.map(jnp.add, slot, gradient), slots, params)
        evidence = EVIDENCE._replace(
            grad=lambda: gradient, activations=lambda: hidden, init_params=lambda: fresh, hvp=lambda v: v
        )
        params, extra, slots, state, effects = family.evolve(
            keys[1], tick, params, extra, slots, state, evidence
        )
        return begun, (params, extra, slots, family.deployed(params, extra, state)[1], effects)

    settings = [method.settings(layers, knob, lab.events, source) for method, knob, source in members]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *settings)
    keys = jax.random.split(jax.random.key(3), (len(members), 2))
    hidden = {
        layer.name: rng.random((len(members), *layer.stack, BATCH, layer.units_out)).astype(np.float32)
        for layer in layers[:-1]
    }
    inputs = (keys, stacked, drawn(), drawn(), hidden)
    single = jax.jit(life)
    together = jax.jit(jax.vmap(life, in_axes=(0, 0, 0, 0, 0, None)))(*inputs, np.int32(tick))
    for i in range(len(members)):
        alone = single(*jax.tree.map(lambda x, i=i: x[i], inputs), np.int32(tick))
        mine = jax.tree.map(lambda x, i=i: x[i], together)
        assert jax.tree.structure(alone) == jax.tree.structure(mine)
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(mine), strict=True):
            if a.dtype == bool:
                np.testing.assert_array_equal(a, b)
            else:
                np.testing.assert_allclose(a, b, atol=1e-6)
