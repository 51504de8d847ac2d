"""`sparserl decompose`: a trained policy with low-rank factors in place of weights, what it earns then, and its bytes.

The rule `z=0.05` sweeps a common rank fraction and takes the fewest weights that lose at most 0.05 of
z = (return - random) / (reference - random) on selection episodes. What is reported is always played on other episodes,
those of `sparserl evaluate --episodes`, which no choice has seen. Ends of z: those that the run's suite declares; where
there are none, random actions and the undecomposed policy on the selection episodes (0.05 is then 5 % of its gain).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sparserl_jax.bench import costs, evaluate, inspect, new_file, policy, records, summary
from sparserl_jax.bench.policy import Policy
from sparserl_jax.bench.saved import Saved
from sparserl_jax.deploy import forms, low_rank
from sparserl_jax.deploy.low_rank import Decomposition, Rule
from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable, leaf, with_leaf
from sparserl_jax.references import unlabelled

if TYPE_CHECKING:
    from sparserl_jax.envs import Environment, HostEnvironment

SELECTION = 20
"""Episodes on which the rule z compares ranks."""
SUFFIX = ".npz"
"""Of a decomposed policy's file."""


class Ends(NamedTuple):
    """Returns at which z is 0 and 1, and where they come from."""

    random: float
    reference: float
    source: str

    def z(self, returns: Any) -> Any:
        """Normalised score."""
        return (returns - self.random) / (self.reference - self.random)


class Candidate(NamedTuple):
    """Ranks that the rule z tried, and their mean return and z on the selection episodes."""

    ranks: tuple[int, ...]
    mean: float
    z: float


class Selection(NamedTuple):
    """How the rule z chose: the first of the candidates, fewest weights first, whose z is at least `least`."""

    ends: Ends
    episodes: int
    undecomposed: float
    least: float
    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate:
        """The last candidate stores everything plain, so there is one."""
        return next((one for one in self.candidates if one.z >= self.least), self.candidates[-1])


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A decomposed policy and everything that is said of it.

    policy: the decomposed one. before, after: returns f32[episodes] of the same fresh episodes, undecomposed and
    decomposed. selection: of the rule z, None for others. narrow: the network is narrower than the tensors it was
    trained in, which nothing here counts. forms: what the undecomposed and the decomposed network take.
    """

    name: str
    rule: Rule
    decomposition: Decomposition
    policy: Policy
    before: np.ndarray
    after: np.ndarray
    seed: int
    selection: Selection | None
    narrow: bool
    forms: tuple[forms.Form, ...]


def actor(saved: Saved, wide: bool = False) -> tuple[LayerTable, Policy]:
    """Layers of a policy and the policy, without units of wide tensors that are masked altogether (a narrow network's).

    Args:
        wide: narrow networks of other kinds than `mlp`, whose widths no description of a policy can name one by one,
            stay in their wide tensors.

    Raises:
        UserError: it is decomposed already, a narrow network of another kind that may not stay, or its files do not fit
            each other.
    """
    found, _ = inspect.tables(saved)
    layers, masks, params = found["actor"], saved.policy.masks, saved.policy.params
    if inspect.narrow(layers, masks) == layers:
        return layers, saved.policy
    kind = saved.policy.description.get("network", "mlp")
    if kind != "mlp" and wide:
        return layers, saved.policy
    if kind != "mlp":
        raise UserError(
            f"'{saved.name}' is a narrow network inside the tensors of a '{kind}', which no description of a policy "
            "can name; take one of another recipe."
        )
    links = [np.asarray(leaf(masks, layer.kernel), bool) for layer in layers]
    written = [link.any(axis=0) for link in links[:-1]]
    if not all(np.array_equal(a, link.any(axis=1)) for a, link in zip(written, links[1:], strict=True)):
        return layers, saved.policy
    live = [np.ones(layers[0].units_in, bool), *written, np.ones(layers[-1].units_out, bool)]
    smaller = []
    for layer, rows, columns in zip(layers, live, live[1:], strict=False):
        kept = np.ix_(rows, columns)
        params, masks = (
            with_leaf(tree, layer.kernel, leaf(tree, layer.kernel)[kept]) for tree in (params, masks)
        )
        if layer.bias is not None:
            params, masks = (
                with_leaf(tree, layer.bias, leaf(tree, layer.bias)[columns]) for tree in (params, masks)
            )
        smaller.append(dataclasses.replace(layer, shape=(int(rows.sum()), int(columns.sum()))))
    hidden = [layer.units_out for layer in smaller if not layer.output]
    return LayerTable(smaller), Policy(params, masks, {**saved.policy.description, "hidden": hidden})


def decompose(
    saved: Saved,
    rule: Rule,
    factors: int = 3,
    episodes: int = evaluate.EPISODES,
    seed: int = 0,
    selection: int = SELECTION,
) -> Outcome:
    """Decompose a policy by a rule and play fresh episodes with it, before and after.

    Args:
        factors: 2 or 3.
        episodes, seed: fresh ones that are reported.
        selection: episodes of the rule z; other ones.

    Raises:
        UserError: ranks that do not fit, a policy that cannot be decomposed, or an environment that cannot be played.
    """
    check_episodes(factors, episodes, seed, selection)
    layers, plain = actor(saved)
    values = low_rank.singular_values(layers, plain.params, plain.masks)
    same = dataclasses.replace(saved, policy=plain)
    chosen = None
    if rule.name == "z":
        chosen = select(same, layers, rule.value, factors, selection, seed)
        ranks = chosen.chosen.ranks
    else:
        ranks = low_rank.choose(rule, layers, values)
    found = low_rank.decompose(layers, plain.params, plain.masks, ranks, factors)
    said = {"form": low_rank.FORM, "factors": factors, "ranks": list(ranks), "rule": str(rule)}
    made = Policy(found.params, found.masks, {**plain.description, **said, "decomposed_from": saved.name})
    nnz = [int(np.count_nonzero(leaf(plain.masks, layer.kernel))) for layer in layers]
    return Outcome(
        name=saved.name,
        rule=rule,
        decomposition=found,
        policy=made,
        before=evaluate.fresh(same, episodes=episodes, seed=seed),
        after=evaluate.fresh(dataclasses.replace(saved, policy=made), episodes=episodes, seed=seed),
        seed=seed,
        selection=chosen,
        narrow=plain.description["hidden"] != saved.policy.description["hidden"],
        forms=tuple(forms.forms(layers, nnz, ranks, costs.CONVENTION)),
    )


def check_target(out: Path) -> None:
    """Refuse what cannot be the new file of a decomposed policy; raises `UserError`."""
    if out.suffix != SUFFIX:
        raise UserError(
            f"--out '{out}': a decomposed policy's name ends in {SUFFIX}; let it (`sparserl export` then makes .bin "
            "or .c of it)."
        )
    new_file.check(out)


def check_episodes(factors: int, episodes: int, seed: int, selection: int) -> None:
    """Refuse another number of factors than 2 or 3, no episodes, or a negative seed; raises `UserError`."""
    if factors not in forms.FACTORS:
        raise UserError(f"factors = {factors}: a matrix is stored as 2 or 3 factors.")
    if min(episodes, selection) < 1 or seed < 0:
        raise UserError(
            f"episodes = {episodes}, of the selection {selection}, seed = {seed}: give at least 1 episode of each and "
            "a seed of 0 or more."
        )


def selection_key(env: str, seed: int) -> np.ndarray:
    """Key data of selection episodes: never those of a fresh evaluation or of a training's."""
    from sparserl_jax.training.population import key_data

    return key_data("selection of ranks", unlabelled(env), str(seed))


def stacked(trees: Sequence[Any]) -> Any:
    """One tree whose leaves have an axis in front, one entry for each tree."""
    import jax

    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _truncated(
    layers: LayerTable, plain: Policy, ranks: Sequence[tuple[int, ...]], factors: int
) -> list[Decomposition]:
    return [low_rank.decompose(layers, plain.params, plain.masks, each, factors) for each in ranks]


def select(
    saved: Saved, layers: LayerTable, loss: float, factors: int, episodes: int, seed: int
) -> Selection:
    """Sweep a common rank fraction, every candidate and the undecomposed policy on the same episodes.

    Raises:
        UserError: the policy earns no more than random actions, where those are an end of z.
    """
    plain, env = saved.policy, evaluate.environment(saved)
    key = selection_key(env.spec.name, seed)
    every = low_rank.sweep(layers, factors)
    candidates = [low_rank.multiplied_out(one.params) for one in _truncated(layers, plain, every, factors)]
    precision, draw = evaluate.declared_precision(saved), evaluate.sampler(saved, env)
    played = evaluate.side_by_side(plain, env, key, 1 + len(every), episodes, precision, draw)
    undecomposed, *means = played(stacked([plain.params, *candidates]), 0, 0).mean(axis=1).tolist()
    ends = declared_ends(saved)
    if ends is None:
        low = float(_random(env, key, episodes).mean())
        if not undecomposed > low:
            raise UserError(
                f"'{saved.name}' earns {undecomposed:.6g} and random actions {low:.6g} on the selection episodes: "
                "there is nothing to keep; give another rule than z."
            )
        ends = Ends(low, undecomposed, "random actions and the undecomposed policy on the selection episodes")
    tried = tuple(Candidate(ranks, mean, ends.z(mean)) for ranks, mean in zip(every, means, strict=True))
    return Selection(ends, episodes, undecomposed, ends.z(undecomposed) - loss, tried)


def declared_ends(saved: Saved) -> Ends | None:
    """The ends of z that the suite of a recorded run declares; None where it declares none, or there is no record."""
    root = saved.folder.parent.parent.parent
    if saved.record is None or not (root / records.CONFIGURATION).is_file():
        return None
    settings = records.read_configuration(root)
    levels = summary.levels_of(settings, saved.record["result"]["env"])
    if levels["random"] is None or levels["reference"] is None:
        return None
    return Ends(levels["random"], levels["reference"], f"declared by the suite {settings['suite']['name']}")


def _random(env: Environment | HostEnvironment, key: np.ndarray, episodes: int) -> np.ndarray:
    """Returns [episodes] of uniform random actions."""
    import jax

    from sparserl_jax.envs import HostEnvironment, evaluate_random
    from sparserl_jax.envs.host import instances, play_random, told
    from sparserl_jax.training.episodes import reset_seed
    from sparserl_jax.training.precision import precise
    from sparserl_jax.training.stages import evaluation_key

    if not isinstance(env, HostEnvironment):
        drawn = jax.jit(precise(lambda key: evaluate_random(env, evaluation_key(key, 0, 0), episodes), None))
        return np.asarray(drawn(key))
    seeds = [reset_seed(key, 0, 0, episode) for episode in range(episodes)]
    with told(env):
        return play_random(instances(env, 1)[0], np.random.default_rng(key), seeds)


class AtRank(NamedTuple):
    """One policy at one choice of ranks. sparsity: of its weights. decomposition: None for the undecomposed policy.
    returns: f32[episodes], on the same episodes for every policy and rank."""

    name: str
    sparsity: float
    decomposition: Decomposition | None
    returns: np.ndarray


def at_equal_rank(
    runs: Sequence[Saved],
    ranks: Sequence[tuple[int, ...]],
    factors: int = 3,
    episodes: int = evaluate.EPISODES,
    seed: int = 0,
) -> list[AtRank]:
    """Policies of one environment and one shape (dense and sparse ones, say), each undecomposed and at equal ranks.

    All play the fresh episodes of `seed`, in one compiled program. Returns run by run, undecomposed first.

    Raises:
        UserError: policies that differ in environment, agent, widths or whether evaluations drew actions, or ranks that
            do not fit them.
    """
    if not runs or episodes < 1:
        raise UserError("equal ranks: give at least one policy and one episode.")
    actors = [actor(saved) for saved in runs]
    (layers, first), shape = actors[0], _shape(runs[0], actors[0][1])
    for saved, (_, other) in zip(runs, actors, strict=True):
        if _shape(saved, other) != shape:
            raise UserError(
                f"'{saved.name}' ({_shape(saved, other)}) cannot have the same ranks as '{runs[0].name}' ({shape}); "
                "give policies of one environment, agent and widths, evaluated in one way."
            )
    for each in ranks:
        low_rank.check_ranks(layers, each, least=1)
    env = evaluate.environment(runs[0])
    played = evaluate.side_by_side(
        first,
        env,
        evaluate.fresh_key(env.spec.name, seed),
        1 + len(ranks),
        min(episodes, evaluate.AT_ONCE),
        evaluate.declared_precision(runs[0]),
        evaluate.sampler(dataclasses.replace(runs[0], policy=first), env),
    )
    found = []
    for saved, (_, plain) in zip(runs, actors, strict=True):
        made = _truncated(layers, plain, ranks, factors)
        params = stacked([plain.params, *(low_rank.multiplied_out(one.params) for one in made)])
        every = evaluate.gathered(functools.partial(played, params, 0), episodes)
        live = sum(int(np.count_nonzero(leaf(plain.masks, layer.kernel))) for layer in layers)
        for one, returns in zip((None, *made), every, strict=True):
            found.append(AtRank(saved.name, 1 - live / layers.weights, one, returns))
    return found


def _shape(saved: Saved, plain: Policy) -> str:
    described = plain.description
    kind = f", {described['network']}" if "network" in described else ""
    drawn = ", actions drawn" if evaluate.sampled(saved) else ""
    return (
        f"{described['agent']} on {described['env']}{kind}, hidden layers {list(described['hidden'])}{drawn}"
    )


def write(outcome: Outcome, path: Path) -> None:
    """Write the decomposed policy to a new file, which `sparserl_jax.load` reads."""
    made = outcome.policy
    try:
        policy.save(path, made.params, made.masks, made.description, mode="xb")
    except FileExistsError:  # made by somebody else while episodes were played
        new_file.check(path)
        raise
