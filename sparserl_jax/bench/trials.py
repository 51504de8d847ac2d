"""What came of a tuning: the table of its trials, the chosen ones, and `tuned.toml`."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparserl_jax.bench import caption, records, statistics, tables, tuning
from sparserl_jax.bench.summary import Row, summarise
from sparserl_jax.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

RESAMPLES = 2000
"""Of every interval and of the estimate of the selection's bias."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One trial: its values, its row of every environment, its score (IQM of z over seeds and environments, or of the
    return where the only environment has no levels) with interval, and the environments on which it is the one to
    take: all or none, unless each has its own choice."""

    arm: str
    name: str
    values: dict[str, float]
    rows: tuple[Row, ...]
    score: statistics.Interval
    chosen: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished tuning. optimism: by how much the best of an arm's trials looks better than it is, by bootstrap; for
    every environment where each has its own choice."""

    settings: dict[str, Any]
    environments: tuple[str, ...]
    trials: tuple[Trial, ...]
    optimism: dict[str, tuple[float, ...]]
    records: tuple[dict[str, Any], ...]

    @property
    def of_z(self) -> bool:
        """Whether scores are z, or returns."""
        return self.trials[0].rows[0].z is not None

    @property
    def by_environment(self) -> bool:
        """Whether each environment has its own choice."""
        return bool(self.settings["suite"]["search"].get("by_environment"))


def is_tuning(folder: Path) -> bool:
    """Whether `sparserl tune` made the folder."""
    return bool(records.load_all(folder)[0]["suite"].get("search"))


def optimism(scores: np.ndarray, rng: np.random.Generator) -> float:
    """How much better the best of several trials looks than it is.

    Seeds are drawn again with replacement, the same for all trials (they share their random numbers), per environment;
    the best trial of the draw is taken, and its score there compared with its score on all seeds. Where trials are
    equal this finds a part of the bias only: the best on all seeds tends to be the best of the draw, too.

    Args:
        scores: `[trials, seeds, environments]`.
        rng: source of randomness.

    Returns:
        The mean of that difference, in units of the scores; 0 with a single seed, which tells nothing.
    """
    trials, seeds, environments = scores.shape
    drawn = rng.integers(seeds, size=(RESAMPLES, seeds, environments))
    again = np.stack([statistics.iqm(np.take_along_axis(one[None], drawn, 1)) for one in scores])
    best = again.argmax(0)
    whole = np.array([statistics.iqm(one) for one in scores])
    return float(np.mean(again[best, np.arange(RESAMPLES)] - whole[best]))


def outcome(folder: Path) -> Outcome:
    """Scores and choices from the records of a folder; ties go to the earlier trial.

    Raises:
        UserError: the folder is no tuning's, or is not finished.
    """
    found = summarise(folder)
    search = found.settings["suite"].get("search")
    if not search:
        raise UserError(f"'{folder}' is not a tuning; give a folder that `sparserl tune` made.")
    if len(found.records) < len(found.settings["runs"]):
        raise UserError(
            f"'{folder}' lacks {len(found.settings['runs']) - len(found.records)} of {len(found.settings['runs'])} "
            "runs; run `sparserl tune` again to go on."
        )
    rows = {(row.arm, block.env): row for block in found.blocks for row in block.rows}
    environments = tuple(block.env for block in found.blocks)
    values = {arm["name"]: arm.get("overrides", {}) for arm in found.settings["suite"]["arms"]}
    every = range(len(environments))
    groups = [[index] for index in every] if search.get("by_environment") else [list(every)]
    trials: list[Trial] = []
    biases: dict[str, list[float]] = {}
    for arm, names in search["trials"]:
        mine, scores = [], []
        for name in names:
            own = tuple(rows[name, env] for env in environments)
            x = np.stack([row.returns if row.z is None else row.z for row in own], axis=1)
            score = statistics.bootstrap(statistics.iqm, x)
            mine.append(Trial(arm, name, values[name], own, score))
            scores.append(x)
        # Each of the groups of environments takes its best trial.
        everywhere = np.stack(scores)
        for group in groups:
            there = everywhere[:, :, group]
            best = int(np.argmax([statistics.iqm(one) for one in there]))
            taken = tuple(environments[index] for index in group)
            mine[best] = dataclasses.replace(mine[best], chosen=(*mine[best].chosen, *taken))
            biases.setdefault(arm, []).append(optimism(there, np.random.default_rng(len(names))))
        trials += mine
    bias = {arm: tuple(own) for arm, own in biases.items()}
    return Outcome(found.settings, environments, tuple(trials), bias, found.records)


def _interval(value: statistics.Interval, digits: str, seeds: int) -> str:
    """A score with its interval, which a single seed has not."""
    middle, lower, upper = (format(float(number), digits) for number in value)
    return middle if seeds < 2 else f"{middle} [{lower}, {upper}]"


def table(found: Outcome) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, trial by trial; the chosen one is marked on each environment that takes it."""
    score = "score: IQM of z" if found.of_z else "score: IQM of return"
    head = ["arm", "trial", "values", *found.environments, f"{score} [95 % CI]", "diverged"]
    cells = []
    for trial in found.trials:
        seeds = len(trial.rows[0].seeds) * len(trial.rows)
        cells.append(
            [
                trial.arm,
                trial.name.rpartition("_t")[2],
                tuning.values_text(trial.values),
                *(
                    _interval(row.value, ".5g", len(row.seeds)) + (" <-" if env in trial.chosen else "")
                    for env, row in zip(found.environments, trial.rows, strict=True)
                ),
                _interval(trial.score, ".3f" if found.of_z else ".5g", len(trial.rows[0].seeds)),
                f"{sum(row.diverged for row in trial.rows)} of {seeds}",
            ]
        )
    return head, cells


def notes(found: Outcome) -> list[str]:
    """Sentences under the table."""
    search = found.settings["suite"]["search"]
    counts = {arm: len(names) for arm, names in search["trials"]}
    equal = len(set(counts.values())) == 1
    unit = "z" if found.of_z else "return"
    # Below zero is the noise of the estimate: choosing the best never makes it look worse.
    bias = "; ".join(
        f"{arm} {', '.join(f'{max(value, 0.0):.3g}' for value in own)}" for arm, own in found.optimism.items()
    )
    if found.by_environment:
        bias += ", in the order of the environments"
    text = [
        "TUNING, NOT A RESULT: what a chosen trial came to is the largest of several on the seeds that chose it, so it "
        f"is biased upward, by about this much of {unit} or more (bootstrap): {bias}. Only runs on the suite's own "
        "seeds say how good the chosen values are; they are evaluated on the same episodes as the trials, whose luck "
        "the choice may follow.",
        (
            f"{next(iter(counts.values()))} trials for every arm"
            if equal
            else f"UNEQUAL TUNING: {_counts(counts)} trials"
        )
        + f", each on {len(search['seeds'])} seeds ({tuning.span(search['seeds'])}) and all environments, with common "
        f"random numbers. {caption.budget(found.settings)}.",
        f"Environments: interquartile mean of the return over seeds; score: interquartile mean of {unit} over seeds "
        "and environments; brackets: 95 % stratified bootstrap interval. A diverged run enters at the random policy's "
        "score. Ties go to the earlier trial. "
        + (
            "Each environment takes the trial that is best there (<-)."
            if found.by_environment
            else "All take the trial with the best score (<-)."
        ),
    ]
    ends = _at_ends(found)
    if ends:
        text.append(f"At the end of its range, so a wider grid may do better: {ends}.")
    text.append(
        f"{caption.origin(found.records)}; configuration {found.settings['suite_hash']}, grid "
        f"{caption.distinct([tuning.space_sha256(_grid_of(found, arm))[:12] for arm in counts])}."
    )
    return text


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{arm} {count}" for arm, count in counts.items())


def _grid_of(found: Outcome, arm: str) -> dict[str, list[float]]:
    """What was searched for an arm."""
    search = found.settings["suite"]["search"]
    grid: dict[str, list[float]] = search.get("grids", {}).get(arm, search["grid"])
    return grid


def _at_ends(found: Outcome) -> str:
    """Chosen values that are the smallest or largest of three or more that were tried."""
    ends = []
    for trial in (trial for trial in found.trials if trial.chosen):
        where = f" on {' and '.join(trial.chosen)}" if found.by_environment else ""
        for name, tried in _grid_of(found, trial.arm).items():
            mine = {other.values.get(name) for other in found.trials if other.arm == trial.arm}
            if len(mine) > 2 and trial.values.get(name) in (min(tried), max(tried)):
                ends.append(f"{name} of {trial.arm}{where}")
    return ", ".join(ends)


def tuned_toml(found: Outcome) -> str:
    """The chosen values as tables that a suite understands anywhere below its first lines."""
    suite = found.settings["suite"]
    search = suite["search"]
    text = [
        f"# Chosen by `sparserl tune` of the suite '{search['suite']}' (configuration "
        f"{found.settings['suite_hash']}). Paste this at the end of the suite file.",
        "# How good these values are, only runs on the suite's own seeds say.",
    ]
    counts = {arm: len(names) for arm, names in search["trials"]}
    if len(set(counts.values())) > 1:
        text.append(f"# The arms had unequal numbers of trials ({_counts(counts)}): the suite must say")
        text.append("# `unequal_tuning = true` in its first lines.")
    # The plan made names canonical; the suite file has them as they were written.
    names = search.get("environments") or found.environments
    written = dict(zip((task["name"] for task in suite["tasks"]), names, strict=True))
    chosen = {(trial.arm, env): trial for trial in found.trials for env in trial.chosen}
    not_searched = {arm["name"]: arm.get("by_environment", {}) for arm in suite["arms"]}
    takers = [(arm, arm) for arm in counts] + [(arm, source) for arm, source in search.get("chosen_for", [])]
    for arm, source in takers:
        text += [
            "",
            f"[tuned.{arm}]",
            f"trials = {counts[source]}",
            f"seeds = {list(search['seeds'])}",
            f'space_sha256 = "{tuning.space_sha256(_grid_of(found, source))}"',
            f"at_steps = {suite['steps']}",
        ]
        there = {}
        for env in found.environments:
            trial = chosen[source, env]
            own = not_searched[trial.name].get(env, {})
            there[env] = {**trial.values, **own} if found.by_environment else own
        if not found.by_environment:
            text.append(f"overrides = {_inline(chosen[source, found.environments[0]].values)}")
        if any(there.values()):
            text.append(f"[tuned.{arm}.by_environment]")
            # A basic string of TOML is escaped as one of JSON.
            text += [f"{json.dumps(written[env])} = {_inline(own)}" for env, own in there.items() if own]
    return "\n".join(text) + "\n"


def _inline(values: dict[str, float]) -> str:
    return "{ " + ", ".join(f"{name} = {value!r}" for name, value in values.items()) + " }"


def _csv(found: Outcome) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    arms = [arm for arm, _ in found.settings["suite"]["search"]["trials"]]
    names = list(dict.fromkeys(name for arm in arms for name in _grid_of(found, arm)))
    writer.writerow(
        ["arm", "trial", *names, "environment", "seed", "return", "z", "score", "lower", "upper", "chosen"]
    )
    for trial in found.trials:
        for env, row in zip(found.environments, trial.rows, strict=True):
            z = [None] * len(row.seeds) if row.z is None else row.z.tolist()
            for seed, value, normal in zip(row.seeds, row.returns.tolist(), z, strict=True):
                values = [trial.values.get(name) for name in names]
                score = tables.own(row, trial.score)
                line = [trial.arm, trial.name, *values, env, seed, value, normal, *score]
                writer.writerow(["" if v is None else v for v in (*line, int(env in trial.chosen))])
    return out.getvalue()


def write(folder: Path, found: Outcome | None = None) -> list[Path]:
    """Write `tune.md`, `tune.csv` and `tuned.toml` into the folder; returns their paths."""
    found = outcome(folder) if found is None else found
    head, cells = table(found)
    text = [
        f"# {found.settings['suite']['title']}",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    text += ["| " + " | ".join(row) + " |" for row in cells]
    text += ["", *(f"{line}\n" for line in notes(found))]
    made = {"tune.md": "\n".join(text), "tune.csv": _csv(found), "tuned.toml": tuned_toml(found)}
    for name, content in made.items():
        records.write_atomic(folder / name, content.encode())
    return [folder / name for name in made]


def show(folder: Path, console: Console) -> None:
    """Write the files of a finished tuning and print its table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = outcome(folder)
    write(folder, found)
    head, cells = table(found)
    screen = Table(title=found.settings["suite"]["title"], title_justify="left", box=box.SIMPLE_HEAD)
    for position, name in enumerate(head):
        screen.add_column(Text(name), justify="left" if position < 3 else "right")
    for trial, row in zip(found.trials, cells, strict=True):
        screen.add_row(*map(Text, row), style="bold" if trial.chosen else "")
    console.print(screen)
    for line in [*notes(found), f"Chosen values, for the suite: {folder / 'tuned.toml'}"]:
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
