"""FtTPO computes what its equations say, released and corrected, with every switch, and its policies have one mask."""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from sparserl_jax.accounting import flops, in_sample_flops
from sparserl_jax.agents import fttpo
from sparserl_jax.agents.policies import Policy, policy_of
from sparserl_jax.agents.registry import algorithm
from sparserl_jax.bench import costs
from sparserl_jax.conformance.laboratory import clock_at, hasty
from sparserl_jax.distributions import FatQGaussian, ReleasedFat, TanhNormal, ThinQGaussian
from sparserl_jax.errors import UserError
from sparserl_jax.replay import Batch
from sparserl_jax.sparsity import METHODS
from sparserl_jax.sparsity import masks as mask_ops
from sparserl_jax.sparsity.contract import Events
from sparserl_jax.training import Run, recipe
from tests.reference import fttpo_numpy as oracle
from tests.reference import small
from tests.reference.conformance import EVIDENCE, equal, host, zero_outside
from tests.reference.in_sample_numpy import assert_agree, double
from tests.reference.ppo_numpy import Adam

OBS, ACTION, SIZE = 3, 2, 12
EVENTS = Events(interval=4, end=41, drop_fraction=0.5)
NUMBERS = {"learning_rate": 1e-2, "tau": 0.1, "gamma": 0.9, "temperature": 0.5, "hidden": (6, 5)}
RELEASED, CORRECTED = fttpo.ReleasedConfig(**NUMBERS), fttpo.CorrectedConfig(**NUMBERS)
NETWORKS = RELEASED.NETWORKS
rng = np.random.default_rng(9)
NOISE = {
    "thin": rng.uniform(-0.65, 0.65, (SIZE, ACTION)),
    "fat": rng.standard_t(1, (SIZE, ACTION)),
    "u": rng.uniform(0.01, 0.99, (SIZE, ACTION)),
    "v": rng.uniform(size=(SIZE, ACTION)),
}


class Small:
    """A small agent, whose policies carry the methods of this name; draws have `noise` where it is asked for."""

    def __init__(self, config: fttpo.FtTPOConfig, *methods: str, noisy: bool = False) -> None:
        self.config, self.noisy = config, noisy
        self.methods = dict(zip(NETWORKS, methods * 4 if len(methods) == 1 else methods, strict=True))
        families = {name: METHODS[method].family for name, method in self.methods.items()}
        self.agent = agent = algorithm(config.name).make(
            config, OBS, ACTION, families, dict.fromkeys(NETWORKS, EVENTS)
        )
        self._init = hasty(agent.init)
        self._update = hasty(lambda s, b, key, clock: agent.update(s, b, key, clock, EVIDENCE))

    def settings(self, sparsity: float = 0.5) -> dict[str, Any]:
        own = {
            name: METHODS[self.methods[name]].settings(table, sparsity, EVENTS, "released")
            for name, table in self.agent.layers.items()
        }
        return {**own, "dense_targets": np.bool_(False)}

    def begin(self, sparsity: float = 0.5) -> fttpo.State:
        return self._init(jax.random.key(0), self.settings(sparsity))

    def update(self, state: Any, batch: Batch, updates: int) -> tuple[Any, Any]:
        with pytest.MonkeyPatch.context() as patch:
            if self.noisy:
                noise = {name: jnp.asarray(part, jnp.float32) for name, part in NOISE.items()}
                fat = noise["fat"]
                patch.setattr(ThinQGaussian, "sample", lambda d, key: d.mean + d.half_width * noise["thin"])
                patch.setattr(FatQGaussian, "sample", lambda d, key: d.mean + jnp.exp(d.log_scale / 2) * fat)
                patch.setattr(ReleasedFat, "sample", lambda d, key: d.at(noise["u"], noise["v"]))
                patch.setattr(TanhNormal, "sample", lambda d, key: d.at(fat))
            return self._update(state, batch, jax.random.key(updates), clock_at(updates))


def transitions(seed: int, size: int = SIZE) -> Batch:
    """Made-up transitions: some terminal, two not to be used, some actions on the edge of the box."""
    rng = np.random.default_rng(seed)
    return Batch(
        obs=rng.normal(size=(size, OBS)).astype(np.float32),
        action=np.clip(rng.uniform(-1.1, 1.1, (size, ACTION)), -1, 1).astype(np.float32),
        rewards=rng.normal(size=(size, 1)).astype(np.float32),
        terminated=rng.random((size, 1)) < 0.3,
        truncated=np.zeros((size, 1), bool),
        closing_obs=rng.normal(size=(size, OBS)).astype(np.float32),
        used=np.ones(size, np.int32),
        valid=np.arange(size) >= 2,
    )


def networks(state: fttpo.State) -> dict[str, Any]:
    """Parameters by network in double precision, with the critics' target."""
    found = {name: double(host(getattr(state, name).params)) for name in NETWORKS}
    return {**found, "target_critic": double(host(state.target_critic[0]))}


def told(config: fttpo.FtTPOConfig) -> dict[str, Any]:
    form = config.actor_form or {"released": "joint", "corrected": "product"}[config.densities]
    return {**dataclasses.asdict(config), "actor_form": form}


# ---- equations ---------------------------------------------------------------------------------------------

OTHERS = {
    "spot": {"actor_loss": "spot", "weight_q": 1.0},
    "mle": {"actor_loss": "mle", "copy": "none", "weight_q": 0.5},
    "squashed": {"proposal": "squashed", "value_actor": "fat", "critic_actor": "thin"},
}


@pytest.mark.parametrize("config, updates", [
    pytest.param(RELEASED, 2, id="released"),
    pytest.param(CORRECTED, 2, id="corrected"),
    *(pytest.param(dataclasses.replace(CORRECTED, **changes), 1, id=name) for name, changes in OTHERS.items()),
])  # fmt: skip
@pytest.mark.slow
def test_losses_and_whole_updates_are_those_of_the_restatement(config, updates):
    """The second update has Adam's moments of the first, and an actor that is no longer a copy."""
    lab, adam = Small(config, "dense", noisy=True), Adam(1e-8)
    state = lab.begin()
    nets = networks(state)
    assert equal(state.actor.params, state.proposal.params)
    for update in range(updates):
        batch = transitions(update)
        state, metrics = lab.update(state, batch, update)
        nets, losses = oracle.updated(nets, batch, told(config), NOISE, adam)
        assert_agree(metrics, losses, networks(state), nets, loss_atol=2e-6, atol=3e-5)
    assert set(metrics["events"]) == set(NETWORKS) == set(lab.agent.ticks(3))


def test_the_loss_of_the_actor_is_kl_less_what_the_proposal_has_outside_its_support():
    """E[rho] is the proposal's probability inside: the estimator of the paper is biased for policies with a support."""
    half, scale = 0.4, 0.09
    mean = 0.2
    thin = lambda a: 0.75 / half * (1 - ((a - mean) / half) ** 2)  # noqa: E731
    fat = stats.cauchy(mean + 0.1, np.sqrt(scale))
    ends = (mean - half, mean + half)
    kl, _ = integrate.quad(lambda a: thin(a) * (np.log(thin(a)) - fat.logpdf(a)), *ends)
    outside = 1 - (fat.cdf(ends[1]) - fat.cdf(ends[0]))
    narrow = ThinQGaussian(jnp.full((100_000, 1), mean), jnp.full((100_000, 1), np.log(half**3 / 1.5)))
    drawn = jax.jit(narrow.sample)(jax.random.key(0))
    log_ratio = fat.logpdf(np.asarray(drawn)[:, 0]) - np.asarray(narrow.log_density(drawn))
    terms = np.exp(log_ratio) - 1 - log_ratio
    assert terms.min() >= 0 and terms.mean() == pytest.approx(kl - outside, abs=4 * terms.std() / 316 + 1e-3)
    assert outside > 0.3


@pytest.mark.parametrize("half", [0.3, 0.8])
def test_without_a_gradient_through_the_proposal_the_width_is_left_to_its_mass_inside(half):
    """By the log scale -1/3 (1 - E[rho]): of a density only what is outside; the released one counts sqrt(2) inside."""
    log_scale, spread = np.log(half**3 / 1.5), 0.04
    zeros = jnp.zeros((100_000, 1))

    def slope(fat: Any) -> float:
        def loss(log_scale: jax.Array) -> jax.Array:
            thin = ThinQGaussian(zeros, zeros + log_scale)
            action = thin.sample(jax.random.key(0))
            log_ratio = jax.lax.stop_gradient(fat.log_density(action)) - thin.log_density(action)
            return jnp.mean(jnp.exp(log_ratio) - 1.0 - log_ratio)

        return float(jax.jit(jax.grad(loss))(jnp.float32(log_scale)))

    def inside(width: float) -> float:
        return float(2 / np.pi * np.arctan(half / width))

    fat = FatQGaussian(zeros, zeros + np.log(spread)), ReleasedFat(zeros, zeros + np.log(spread))
    assert slope(fat[0]) == pytest.approx(-(1 - inside(np.sqrt(spread))) / 3, abs=0.01)
    assert slope(fat[1]) == pytest.approx(-(1 - np.sqrt(2) * inside(np.sqrt(2 * spread))) / 3, abs=0.01)


@pytest.mark.parametrize("config", [RELEASED, CORRECTED], ids=["released", "corrected"])
@pytest.mark.slow
def test_the_actor_of_the_released_code_learns_scales_alone_and_the_corrected_one_its_mean(config):
    """Gradients of L_t by the output layer's bias, no action being clipped; the proposal is elsewhere."""
    lab = Small(dataclasses.replace(config, copy="none"), "dense")
    state, bias = lab.begin(), {"actor": [0.0, 0.0, -5.0, -5.0], "proposal": [0.5, -0.5, -2.0, -2.0]}
    for name, own in bias.items():
        network = getattr(state, name)
        params = jax.tree.map(jnp.zeros_like, network.params)
        params["mlp"]["output"]["bias"] = jnp.array(own)
        state = state._replace(**{name: network._replace(params=params)})
    after, _ = lab.update(state, transitions(0), 0)
    moved = np.asarray(after.actor.params["mlp"]["output"]["bias"]) - np.array(bias["actor"])
    # Adam's first step has the size of the learning rate wherever the gradient is more than rounding.
    slots = jax.tree.leaves(after.actor.opt_state)
    first = next(leaf for leaf in slots if np.shape(leaf) == (2 * ACTION,))
    pull = np.abs(np.asarray(first))
    assert np.all(np.abs(moved[ACTION:]) > 0.009) and np.all(pull[ACTION:] > 1e-3)
    if config is RELEASED:
        assert np.all(pull[:ACTION] < 1e-5)
    else:
        assert np.all(pull[:ACTION] > 1e-3)
        assert moved[0] > 0 > moved[1]  # towards the proposal's means


DOSES = np.array([-0.6, -0.2, 0.4, 0.8], np.float32)
REWARDS = np.array([[-1.0, 0.0, 1.0, 0.2], [1.0, 0.2, -0.5, -1.0]], np.float32)
"""Of every dose, by kind of patient; all episodes end at once."""


@pytest.mark.long
@pytest.mark.parametrize("config", [RELEASED, CORRECTED], ids=["released", "corrected"])
def test_the_thin_policy_settles_on_the_best_logged_dose(config):
    lab, rng = Small(dataclasses.replace(config, temperature=0.1), "dense"), np.random.default_rng(1)
    state = lab.begin()
    for update in range(600):
        kind, dose = rng.integers(0, 2, SIZE), rng.integers(0, 4, SIZE)
        batch = transitions(0)._replace(
            obs=np.eye(2, OBS, dtype=np.float32)[kind],
            action=np.stack([DOSES[dose], rng.uniform(-0.5, 0.5, SIZE)], axis=1).astype(np.float32),
            rewards=REWARDS[kind, dose][:, None],
            terminated=np.ones((SIZE, 1), bool),
            valid=np.ones(SIZE, bool),
        )
        state, _ = lab.update(state, batch, update)
    params, _, _ = lab.agent.deployed(state)
    obs = np.repeat(np.eye(2, OBS, dtype=np.float32), 200, axis=0)
    doses = np.asarray(lab.agent.sample_policy(params, obs, jax.random.key(0)))[:, 0].reshape(2, 200)
    np.testing.assert_allclose(np.median(doses, axis=1), DOSES[REWARDS.argmax(axis=1)], atol=0.15)


# ---- two policies, one mask --------------------------------------------------------------------------------


@functools.cache
def trained(*methods: str, copy: str = "trunk_and_mean") -> tuple[Small, list[fttpo.State]]:
    lab = Small(dataclasses.replace(CORRECTED, copy=copy), *methods)
    states = [lab.begin()]
    for update in range(9):
        states.append(lab.update(states[-1], transitions(update), update)[0])
    return lab, states


def masks(lab: Small, state: Any, name: str) -> Any:
    return host(lab.agent.masks(state)[name])


@pytest.mark.slow
def test_both_policies_obey_one_mask_before_during_and_after_events():
    lab, states = trained("rigl")
    counts = METHODS["rigl"].settings(lab.agent.layers["actor"], 0.5, EVENTS, "released").counts
    for state in states:
        assert bool(state.one_mask)
        assert equal(masks(lab, state, "actor"), masks(lab, state, "proposal"))
        for name in NETWORKS:
            assert zero_outside(getattr(state, name).params, masks(lab, state, name))
        np.testing.assert_array_equal(
            mask_ops.nnz_table(lab.agent.layers["actor"], masks(lab, state, "actor")), counts
        )
        assert zero_outside(state.target_critic[0], masks(lab, state, "critic"))
    changed = [
        not equal(masks(lab, one, "actor"), masks(lab, other, "actor"))
        for one, other in zip(states[:-1], states[1:], strict=True)
    ]
    assert changed == [tick in (4, 8) for tick in range(1, 10)]


def test_at_an_event_the_actor_is_the_copy_of_the_proposal_but_for_its_scales():
    lab, states = trained("rigl")
    mine, theirs = (host(getattr(states[4], name).params)["mlp"] for name in ("actor", "proposal"))
    assert equal(mine["hidden_0"], theirs["hidden_0"]) and equal(mine["hidden_1"], theirs["hidden_1"])
    np.testing.assert_array_equal(mine["output"]["bias"][:ACTION], theirs["output"]["bias"][:ACTION])
    assert np.all(mine["output"]["bias"][ACTION:] != theirs["output"]["bias"][ACTION:])
    # On other ticks it is one optimiser step away.
    after = host(states[5].actor.params)["mlp"]["hidden_0"]["bias"]
    copied = host(states[5].proposal.params)["mlp"]["hidden_0"]["bias"]
    assert 0 < np.abs(after - copied).max() <= 1.5 * CORRECTED.learning_rate


@pytest.mark.slow
def test_an_actor_that_is_sparse_alone_keeps_its_own_mask():
    """Both are of one family, where masks have settings: dense and RigL may share a program."""
    lab, states = trained("rigl", "dense", "dense", "dense")
    assert not bool(states[0].one_mask)
    for state in states:
        assert zero_outside(state.actor.params, masks(lab, state, "actor"))
        kernel = masks(lab, state, "proposal")["mlp"]["hidden_1"]["kernel"]
        assert kernel.all() and not masks(lab, state, "actor")["mlp"]["hidden_1"]["kernel"].all()
    assert not equal(masks(lab, states[0], "actor"), masks(lab, states[-1], "actor"))


@pytest.mark.slow
def test_without_copying_masks_go_their_own_ways_from_one_beginning():
    lab, states = trained("rigl", copy="none")
    assert equal(masks(lab, states[0], "actor"), masks(lab, states[0], "proposal"))
    assert not equal(masks(lab, states[-1], "actor"), masks(lab, states[-1], "proposal"))


@pytest.mark.long
@pytest.mark.parametrize("method", ["ste", "l0"])
def test_supports_and_gates_that_move_with_every_step_are_those_of_the_proposal(method):
    """Learned by its loss alone: of the actor's own step only weights are left."""
    lab = Small(CORRECTED, method)
    state = lab.begin({"ste": 0.5, "l0": 1.0}[method])
    begun = state
    for update in range(3):
        state, metrics = lab.update(state, transitions(update), update)
        assert np.isfinite(float(metrics["actor_loss"])) and float(metrics["actor_grad_norm"]) > 0
        assert equal(masks(lab, state, "actor"), masks(lab, state, "proposal"))
        assert equal(host(state.actor.extra), host(state.proposal.extra))
        assert equal(host(state.actor.sparsity), host(state.proposal.sparsity))
        assert not equal(host(state.actor.params), host(state.proposal.params))
    moved = state.proposal.extra if method == "l0" else masks(lab, state, "proposal")
    first = begun.proposal.extra if method == "l0" else masks(lab, begun, "proposal")
    assert not equal(host(moved), host(first))


def test_given_masks_of_the_actor_are_also_the_proposals():
    lab, states = trained("rigl")
    drawn = jax.tree.map(np.array, masks(lab, states[0], "actor"))
    kernel = drawn["mlp"]["hidden_1"]["kernel"]
    drawn["mlp"]["hidden_1"]["kernel"] = np.roll(kernel, 1)
    begun = hasty(lab.agent.under)(states[0], {"actor": drawn})
    for state in (begun, lab.update(begun, transitions(0), 0)[0]):
        assert equal(masks(lab, state, "actor"), drawn) and equal(masks(lab, state, "proposal"), drawn)
    assert equal(begun.actor.params, begun.proposal.params)


# ---- the contract ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_acts_by_its_thin_policy_and_evaluates_by_drawing():
    lab, states = trained("rigl")
    agent, state, obs = lab.agent, states[-1], jnp.asarray(transitions(3).obs)
    params, _, _ = agent.deployed(state)
    thin = policy_of("thin", CORRECTED.hidden, ACTION)
    np.testing.assert_array_equal(agent.policy(params, obs), thin.act(params, obs))
    low, high = thin.distribution(params, obs).support
    drawn = np.stack([agent.sample_policy(params, obs, jax.random.key(seed)) for seed in range(20)])
    assert np.all(drawn >= low - 1e-6) and np.all(drawn <= high + 1e-6) and np.unique(drawn).size > 100
    greedy, mean = agent.act(state, obs, jax.random.key(0), False)
    np.testing.assert_array_equal(greedy, mean)
    explored, _ = agent.act(state, obs, jax.random.key(0), True)
    assert not np.array_equal(explored, mean)
    seen = hasty(agent.diagnose)(state, transitions(4), jax.random.key(0), clock_at(9))
    assert {f"dormant_{name}_hidden_0" for name in NETWORKS} <= set(seen)
    assert all(np.isfinite(value) for value in seen.values())
    assert agent.experience == "dataset" and agent.value(state, obs).shape == (SIZE,)


def test_units_are_not_begun_anew_under_a_policy_that_keeps_its_own_scales_of_them():
    given = (8, 1, dict.fromkeys(NETWORKS, METHODS["redo"].family), dict.fromkeys(NETWORKS, EVENTS))
    with pytest.raises(UserError, match='choose another method, or copy = "none"'):
        fttpo.make(fttpo.ReleasedConfig(), *given)
    assert fttpo.make(fttpo.ReleasedConfig(copy="none"), *given).experience == "dataset"


def test_an_update_costs_25_forward_passes():
    """2x256 networks, batch 256, 8 measurements and one dose: 0.87 GFLOP."""
    agent = fttpo.make(
        fttpo.ReleasedConfig(),
        8,
        1,
        dict.fromkeys(NETWORKS, METHODS["dense"].family),
        dict.fromkeys(NETWORKS, EVENTS),
    )
    layers = agent.layers
    beside = {name: (layers[name], None) for name in ("proposal", "value")}
    cost = in_sample_flops.fttpo_run(layers["actor"], layers["critic"], updates=1, beside=beside)
    assert cost.total == cost.dense and cost.total == pytest.approx(0.87e9, rel=0.01)


@pytest.mark.parametrize("switches", [
    {},
    {"value_actor": "fat"},
    {"critic_actor": "thin", "copy": "none"},
    {"actor_loss": "spot", "value_actor": "fat", "critic_actor": "thin"},
    {"actor_loss": "mle", "proposal": "squashed"},
])  # fmt: skip
@pytest.mark.slow
def test_costs_are_those_of_the_passes_that_an_update_makes_with_its_switches(switches, monkeypatch):
    """Forward passes as traced; behind them two for each network that is trained, and critics back to their inputs."""
    lab = Small(dataclasses.replace(RELEASED, **switches), "dense")
    state = jax.eval_shape(lab.agent.init, jax.random.key(0), lab.settings())
    seen = collections.Counter[str]()

    def noted(owner: Any, name: str, of: Any) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda self, *given: (seen.update([of(self)]), real(self, *given))[1]
        )

    noted(Policy, "distribution", lambda self: "actor" if self.kind == "thin" else "proposal")
    noted(fttpo.FatToThin, "values", lambda self: "twin")
    noted(fttpo.FatToThin, "state_value", lambda self: "value")
    jax.eval_shape(
        lambda s: lab.agent.update(s, transitions(0), jax.random.key(0), clock_at(0), EVIDENCE), state
    )
    passes = {name: forward + 2 for name, forward in seen.items()}
    passes["twin"] += switches.get("actor_loss") == "spot"
    layers = lab.agent.layers
    tables = {**layers, "twin": layers["critic"]}
    by_hand = sum(times * flops.forward(tables[name]) for name, times in passes.items())
    task = small.training(agent=lab.config, dataset="own:random?episodes=6", warm_up=0, num_envs=1, steps=40)
    run = Run(task, recipe("dense"), 0.0, 0, "dense")
    counts = {name: [layer.size for layer, _ in table.tensors] for name, table in layers.items()}
    found = costs.costs(run, layers, counts, costs.declared(run, layers))
    assert found["training_flops_theory"] == found["training_flops_executed"] == 40 * 256 * by_hand


@pytest.mark.parametrize("changes, sentence", [
    ({"copy": "trunk"}, "copy of agent 'fttpo_corrected' 'trunk': did you mean 'trunk_and_mean'"),
    ({"actor_loss": "rkl"}, "actor_loss of agent"),
    ({"proposal_q": 3.5}, "1 < q < 3 only"),
    ({"actor_q": 1.0}, "give one below 1"),
    ({"proposal": "squashed", "proposal_q": 1.5}, "'proposal_q' changes nothing where proposal = \"squashed\""),
    ({"proposal": "squashed", "proposal_form": "product"}, "'proposal_form' changes nothing where proposal = "),
    ({"densities": "released", "proposal_form": "joint"}, "'proposal_form' changes nothing where densities = "),
    ({"densities": "released", "actor_form": "product"}, "'actor_form' changes nothing"),
    ({"weight_q": float("nan")}, "weight_q is nan"),
])  # fmt: skip
def test_settings_that_do_not_exist_are_refused_in_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(CORRECTED, **changes)


def test_a_proposal_without_a_density_is_refused_before_anything_is_compiled():
    with pytest.raises(UserError, match="or form 'product'"):
        Small(dataclasses.replace(CORRECTED, proposal_form="joint"), "dense")
