"""Dense and sparse policies of a finished suite at equal ranks: `sparserl decompose results/l0_table`.

A sparse row of the table (an arm at one knob) stands against the dense one. Ranks are chosen for a row as a whole, on
selection episodes: the fewest weights at which the interquartile mean of z over its seeds is within a loss of the
undecomposed policies'. Both rows are then played at both choices, and undecomposed, on other episodes, those of
`sparserl evaluate`; at any ranks a run's score is the mean of its episodes, and runs are what intervals are over. So
it shows whether sparse policies lose less by decomposition than dense ones, at the ranks that suit either.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparserl_jax.bench import (
    costs,
    decompose,
    evaluate,
    inspect,
    only,
    records,
    saved,
    single,
    statistics,
    summary,
)
from sparserl_jax.bench.equal_rank_page import name
from sparserl_jax.bench.rows import Block, Row
from sparserl_jax.bench.saved import Saved
from sparserl_jax.bench.verdicts import reference
from sparserl_jax.deploy import forms, low_rank
from sparserl_jax.deploy.low_rank import Rule
from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable, leaf

Ranks = tuple[int, ...]
Play = Callable[[Sequence[Any]], np.ndarray]
"""Parameters of any number of policies -> returns f32[policies, episodes]."""


class Settings(NamedTuple):
    """What was asked for: the rule, 2 or 3 factors, fresh episodes and their seed, selection episodes."""

    rule: Rule
    factors: int
    episodes: int
    seed: int
    selection: int


class Line(NamedTuple):
    """A sparse row beside the dense one at the same ranks; ranks None: undecomposed.

    chosen_for: the rows whose choice these ranks are, none where they were given. saved: share of weights, biases not
    counted. dense, sparse: z[runs] on fresh episodes.
    """

    row: Row
    ranks: Ranks | None
    chosen_for: tuple[str, ...]
    saved: float
    dense: np.ndarray
    sparse: np.ndarray


class Stored(NamedTuple):
    """Bytes of a row's actor in every form, biases included, mean over its seeds; ranks as in `Line`."""

    row: Row
    ranks: Ranks
    bytes: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Section:
    """One environment: its block of the suite's table, and what was found."""

    block: Block
    lines: tuple[Line, ...]
    stored: tuple[Stored, ...]


def is_suite(path: Path) -> bool:
    """Whether a path is the folder of a suite, and not that of a single training, a run or a policy."""
    if not (path / records.CONFIGURATION).is_file():
        return False
    return bool(records.read_configuration(path)["suite"]["name"] != single.SINGLE)


def compare(root: Path, settings: Settings, texts: Sequence[str] = ()) -> list[Section]:
    """Every environment that has a dense row with the sparse rows wanted: by default all whose networks are as wide
    and whose algorithm is told the same.

    A/A rows, dense with other seeds, are always among them: what chance and the choice of ranks do without a method.

    Args:
        root: what `sparserl bench` or `sparserl publish` made.
        texts: rows, each written `[ENV/]ARM[@SPARSITY]`.

    Raises:
        UserError: settings out of range, no such rows, no dense row or no levels, or ranks that do not fit.
    """
    rule = settings.rule
    if rule.name not in ("z", "fraction", "rank"):
        raise UserError(
            f"the rule '{rule}' gives every policy ranks of its own: give z, fraction or rank here."
        )
    decompose.check_episodes(settings.factors, settings.episodes, settings.seed, settings.selection)
    found = summary.summarise(root)
    chosen = [(block, _wanted(found, block, texts)) for block in found.blocks]
    chosen = [(block, rows) for block, rows in chosen if any(row.role != "aa" for row in rows)]
    if not chosen:
        raise UserError(f"'{root}' has no sparse rows to compare with dense; name some with --only.")
    for block, _ in chosen:
        levels = block.levels
        if reference(block.rows) is None:
            raise UserError(f"'{root}' has no dense row on {block.env} to compare with; finish it first.")
        if levels["random"] is None or levels["reference"] is None:
            raise UserError(
                f"the suite of '{root}' declares no levels of {block.env}, so z has no ends; add them."
            )
    return [_section(root, block, rows, settings) for block, rows in chosen]


def _wanted(found: summary.Summary, block: Block, texts: Sequence[str]) -> list[Row]:
    """The rows of a block that are compared."""
    places = [
        only.Place(each.env, row.runs[0].partition("/")[0], row.arm, row.sparsity)
        for each in found.blocks
        for row in each.rows
    ]
    wanted = [only.parse(text, places, found.name) for text in texts]
    dense, rows = reference(block.rows), []
    for row in block.rows:
        named = any(one.meets(only.Place(block.env, "", row.arm, row.sparsity)) for one in wanted)
        other = row.method == "tiny" or (dense is not None and not _alike(row, dense))
        if named and other:
            raise UserError(
                f"'{name(row)}' has another algorithm than dense, other settings of it, or networks of another width, "
                "and is not compared at its ranks; leave it out."
            )
        sparse = named if wanted else row.role == "method" and row.method != "dense"
        if row is not dense and not other and (sparse or row.role == "aa"):
            rows.append(row)
    return rows


def _alike(row: Row, dense: Row) -> bool:
    """Whether the policies of a row are sure to be dense's kind of function of the weights: same algorithm, told the
    same but for tunable numbers, and the same layers."""
    layers = [one.dense_costs.get("actor_parameters_dense") for one in (row, dense)]
    return (row.agent, row.width) == (dense.agent, dense.width) and layers[0] == layers[1]


class _Group(NamedTuple):
    """The policies of one row, run by run. lost: bool[runs], whose weights are not finite."""

    row: Row
    runs: tuple[Saved, ...]
    lost: np.ndarray

    def plain(self) -> list[Any]:
        """Parameters of the runs; of lost ones those of no network."""
        return [_network(run, gone) for run, gone in zip(self.runs, self.lost, strict=True)]


def _network(run: Saved, lost: bool) -> Any:
    import jax

    return jax.tree.map(np.zeros_like, run.policy.params) if lost else run.policy.params


def _group(root: Path, row: Row) -> _Group:
    runs = tuple(saved.find(root / "records" / run) for run in row.runs)
    return _Group(row, runs, np.array([run.diverged for run in runs]))


def _section(root: Path, block: Block, rows: Sequence[Row], settings: Settings) -> Section:
    dense = reference(block.rows)
    assert dense is not None
    groups = [_group(root, row) for row in (dense, *rows)]
    first = groups[0].runs[0]
    layers, factors = inspect.tables(first)[0]["actor"], settings.factors
    env = evaluate.environment(first)
    precision, draw = evaluate.declared_precision(first), evaluate.sampler(first, env)

    def player(key: np.ndarray, episodes: int) -> Play:
        at_once = min(episodes, evaluate.AT_ONCE)
        played = evaluate.side_by_side(first.policy, env, key, MEMBERS, at_once, precision, draw)
        return lambda every: _played(played, every, episodes)

    if settings.rule.name == "z":
        sweep = low_rank.sweep(layers, factors)
        select = player(decompose.selection_key(env.spec.name, settings.seed), settings.selection)
        own = [_chosen(group, layers, sweep, block, settings, select) for group in groups]
    else:
        given = low_rank.choose(settings.rule, layers, ())
        own = [given for _ in groups]
    fresh = player(evaluate.fresh_key(env.spec.name, settings.seed), settings.episodes)

    asked = dict.fromkeys((0, ranks) for ranks in (None, *own))
    asked |= dict.fromkeys(
        (index, ranks) for index in range(1, len(groups)) for ranks in (None, own[0], own[index])
    )
    z = _fresh_scores(asked, groups, layers, factors, block, fresh)
    lines, stored = [], [_stored(groups[0], layers, own[0])]
    for index, group in enumerate(groups[1:], start=1):
        for ranks in dict.fromkeys((None, own[0], own[index])):
            labels = [
                name(one.row) for one, mine in ((groups[0], own[0]), (group, own[index])) if mine == ranks
            ]
            kept = layers.weights if ranks is None else low_rank.stored_layers(layers, ranks, factors).weights
            lines.append(
                Line(
                    group.row,
                    ranks,
                    tuple(labels) if settings.rule.name == "z" else (),
                    1 - kept / layers.weights,
                    z[0, ranks],
                    z[index, ranks],
                )
            )
            if ranks is not None:
                stored.append(_stored(group, layers, ranks))
    return Section(block, tuple(lines), tuple(stored))


MEMBERS = 32
"""Policies that are played side by side; one program serves any number of them."""


def _played(played: Callable[[Any, int, int], np.ndarray], every: Sequence[Any], episodes: int) -> np.ndarray:
    """Returns f32[policies, episodes], `MEMBERS` at a time; the last ones are filled up with repeats."""
    parts = []
    for start in range(0, len(every), MEMBERS):
        part = list(every[start : start + MEMBERS])
        full = decompose.stacked([*part, *[part[-1]] * (MEMBERS - len(part))])
        parts.append(evaluate.gathered(functools.partial(played, full, 0), episodes)[: len(part)])
    return np.concatenate(parts)


def _at(group: _Group, layers: LayerTable, ranks: Ranks | None, factors: int) -> list[Any]:
    """Plain parameters of a row's runs at one choice of ranks."""
    if ranks is None:
        return group.plain()
    made = []
    for params, run in zip(group.plain(), group.runs, strict=True):
        found = low_rank.decompose(layers, params, run.policy.masks, ranks, factors)
        made.append(low_rank.multiplied_out(found.params))
    return made


def _z(returns: np.ndarray, group: _Group, block: Block) -> np.ndarray:
    """z[runs] of returns [runs, episodes]; runs that diverged enter at 0."""
    random, best = block.levels["random"], block.levels["reference"]
    assert random is not None and best is not None, "compare has refused it"
    return statistics.normalise(
        np.where(group.lost, np.nan, returns.mean(axis=1, dtype=np.float64)), random, best
    )


def _chosen(
    group: _Group, layers: LayerTable, sweep: Sequence[Ranks], block: Block, settings: Settings, select: Play
) -> Ranks:
    """The first of the sweep, fewest weights first, at which the row loses little on the selection episodes."""
    every = [None, *sweep]
    params = [one for ranks in every for one in _at(group, layers, ranks, settings.factors)]
    returns = select(params).reshape(len(every), len(group.runs), -1)
    undecomposed, *tried = (float(statistics.iqm(_z(each, group, block)[:, None])) for each in returns)
    least = undecomposed - settings.rule.value
    return next((ranks for ranks, z in zip(sweep, tried, strict=True) if z >= least), sweep[-1])


def _fresh_scores(
    asked: dict[tuple[int, Ranks | None], None],
    groups: Sequence[_Group],
    layers: LayerTable,
    factors: int,
    block: Block,
    fresh: Play,
) -> dict[tuple[int, Ranks | None], np.ndarray]:
    """z[runs] of groups at ranks, played together."""
    params = [_at(groups[index], layers, ranks, factors) for index, ranks in asked]
    returns = fresh([one for each in params for one in each])
    ends = np.cumsum([len(each) for each in params])
    parts = np.split(returns, ends[:-1])
    return {
        (index, ranks): _z(part, groups[index], block)
        for (index, ranks), part in zip(asked, parts, strict=True)
    }


def _stored(group: _Group, layers: LayerTable, ranks: Ranks) -> Stored:
    found: dict[str, list[int]] = {}
    for run in group.runs:
        nnz = [int(np.count_nonzero(leaf(run.policy.masks, layer.kernel))) for layer in layers]
        for form in forms.forms(layers, nnz, ranks, costs.CONVENTION):
            found.setdefault(form.name, []).append(form.blob.total)
    return Stored(group.row, ranks, {form: float(np.mean(every)) for form, every in found.items()})
