"""The algorithms by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sparserl_jax.accounting import flops, in_sample_flops
from sparserl_jax.agents import (
    awac,
    bc,
    behaviour_cloning,
    ddpg,
    dqn,
    fttpo,
    in_sample,
    inac,
    iql,
    ppo,
    sac,
    sql,
    tawac,
    tawac_thin,
    td3,
    td3_bc,
    xql,
)
from sparserl_jax.agents.agent import Agent
from sparserl_jax.errors import suggest


class Algorithm(NamedTuple):
    """A named algorithm.

    config: its configuration class. make: its constructor; that of an algorithm with a network for images is told their
        shape (`image=`). modules: (hidden, action_dim, network, image) to its networks.
    cost: FLOPs of a run, see `accounting.flops.td3_run`. actions: kinds of actions it chooses, `EnvSpec.actions`;
        with more than one, `make` is told which (`actions=`). goals: `make` is told of the environment's (`goal=`).
        drawn: evaluations may draw from its policy (`Agent.sample_policy`).
    """

    config: type
    make: Callable[..., Agent]
    modules: Callable[..., Any]
    cost: Callable[..., flops.TrainingCost]
    summary: str
    actions: tuple[str, ...] = ("continuous",)
    goals: bool = False
    drawn: bool = False


AGENTS: dict[str, Algorithm] = {
    "td3": Algorithm(
        td3.TD3Config,
        td3.make,
        td3.modules,
        flops.td3_run,
        "twin delayed deterministic policy gradient",
    ),
    "sac": Algorithm(
        sac.SACConfig,
        sac.make,
        sac.modules,
        flops.sac_run,
        "soft actor-critic with a learned temperature",
        drawn=True,
    ),
    "ddpg": Algorithm(
        ddpg.DDPGConfig,
        ddpg.make,
        ddpg.modules,
        flops.ddpg_run,
        "deep deterministic policy gradient with one critic, on request with hindsight replay of goals",
        goals=True,
    ),
    "dqn": Algorithm(
        dqn.DQNConfig,
        dqn.make,
        dqn.modules,
        flops.dqn_run,
        "deep Q-learning with double estimation",
        ("discrete",),
    ),
    "ppo": Algorithm(
        ppo.PPOConfig,
        ppo.make,
        ppo.modules,
        flops.ppo_run,
        "proximal policy optimisation with the clipped surrogate, on rollouts of its own",
        ("continuous", "discrete"),
    ),
    "iql": Algorithm(
        iql.IQLConfig,
        iql.make,
        in_sample.modules,
        in_sample_flops.iql_run,
        "implicit Q-learning from a dataset, by expectiles of the logged actions' values",
        drawn=True,
    ),
    "fttpo_released": Algorithm(
        fttpo.ReleasedConfig,
        fttpo.make,
        fttpo.modules,
        in_sample_flops.fttpo_run,
        "fat-to-thin policy optimisation from a dataset, as in its released code",
        drawn=True,
    ),
    "fttpo_corrected": Algorithm(
        fttpo.CorrectedConfig,
        fttpo.make,
        fttpo.modules,
        in_sample_flops.fttpo_run,
        "fat-to-thin policy optimisation from a dataset, with normalised densities and their own sampler",
        drawn=True,
    ),
    "awac": Algorithm(
        awac.AWACConfig,
        awac.make,
        awac.modules,
        in_sample_flops.awac_run,
        "advantage weighted actor-critic from a dataset",
        drawn=True,
    ),
    "tawac": Algorithm(
        tawac.TAWACConfig,
        tawac.make,
        in_sample.modules,
        in_sample_flops.tawac_run,
        "AWAC with Tsallis weights, which drop bad actions, from a dataset",
        drawn=True,
    ),
    "tawac_nearest": Algorithm(
        tawac_thin.NearestConfig,
        tawac_thin.make_nearest,
        in_sample.modules,
        in_sample_flops.tawac_run,
        "TAWAC for a policy of bounded support, logged actions outside it replaced by the nearest draw",
        drawn=True,
    ),
    "tawac_reverse": Algorithm(
        tawac_thin.ReverseConfig,
        tawac_thin.make_reverse,
        inac.modules,
        in_sample_flops.tawac_reverse_run,
        "TAWAC for a policy of bounded support, by reverse KL from a cloned behaviour policy",
        drawn=True,
    ),
    "inac": Algorithm(
        inac.InACConfig,
        inac.make,
        inac.modules,
        in_sample_flops.inac_run,
        "in-sample actor-critic from a dataset, with a cloned behaviour policy",
        drawn=True,
    ),
    "sql": Algorithm(
        sql.SQLConfig,
        sql.make,
        in_sample.modules,
        in_sample_flops.iql_run,
        "sparse Q-learning from a dataset, regularised by the chi-square divergence",
        drawn=True,
    ),
    "xql": Algorithm(
        xql.XQLConfig,
        xql.make,
        in_sample.modules,
        in_sample_flops.iql_run,
        "extreme Q-learning from a dataset, by Gumbel regression",
        drawn=True,
    ),
    "td3_bc": Algorithm(
        td3_bc.TD3BCConfig,
        td3_bc.make,
        td3.modules,
        flops.td3_bc_run,
        "TD3 on a fixed dataset, its actor held to the actions in it",
        drawn=True,
    ),
    "bc": Algorithm(
        bc.BCConfig,
        bc.make,
        bc.modules,
        flops.cloning_run,
        "behaviour cloning of a dataset, or of the best share of its episodes",
        drawn=True,
    ),
    "bc10": Algorithm(
        bc.BC10Config,
        bc.make,
        bc.modules,
        flops.cloning_run,
        "behaviour cloning of the best tenth of a dataset's episodes",
        drawn=True,
    ),
}

CLONING = Algorithm(
    behaviour_cloning.BehaviourCloningConfig,
    behaviour_cloning.make,
    behaviour_cloning.modules,
    flops.cloning_run,
    "regression of the actor onto another policy's actions",
)
"""What the arms of a suite that clone are trained by: it needs their expert, so nobody chooses it by name."""


def build(config: Any, spec: Any, family: Any, events: dict[str, Any]) -> Agent:
    """The algorithm of a configuration for an environment's `EnvSpec`, all of its networks under one family of methods;
    `events` by network."""
    known = trained_by(config.name)
    told: dict[str, Any] = {"actions": spec.actions} if len(known.actions) > 1 else {}
    if known.goals:
        told["goal"] = spec.goal
    if "cnn" in config.BODIES:
        told["image"] = spec.image
    return known.make(config, spec.obs_dim, spec.action_dim, dict.fromkeys(events, family), events, **told)


def trained_by(name: str) -> Algorithm:
    """The algorithm that runs name as their agent: one that can be chosen, or `behaviour_cloning`."""
    return CLONING if name == "behaviour_cloning" else algorithm(name)


def algorithm(name: str) -> Algorithm:
    """The algorithm called `name`."""
    if name not in AGENTS:
        raise suggest(name, list(AGENTS), "agent")
    return AGENTS[name]
