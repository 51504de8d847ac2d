"""Commands that read what is there: records, policies, methods."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from sparserl_jax.arguments import (
    Check,
    Collect,
    Compare,
    Conformance,
    Danger,
    Decompose,
    Evaluate,
    Export,
    Inspect,
    List,
    Plot,
    Publish,
    Table,
    flat,
)
from sparserl_jax.commands.console import say
from sparserl_jax.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


def check(command: Check, console: Console) -> int:
    """`sparserl check`."""
    from sparserl_jax.bench import check as checks
    from sparserl_jax.bench import run as runs
    from sparserl_jax.bench import tables

    code, folders = runs.EXIT_OK, checks.folders(command.folder)
    for folder in folders:
        try:
            problems, remarks = checks.check(folder), list[str]()
            if not problems:
                problems, remarks = tables.differing(folder)
            say(console, *problems, *remarks, checks.verdict(folder, problems))
        except UserError as error:
            # A file that cannot be read is a problem of this folder; the others are looked at, too.
            problems = [str(error)]
            say(console, f"{folder}: {error}")
        code = runs.EXIT_CHECK_FAILED if problems else code
    if not folders:
        raise UserError(
            f"nothing to check in '{command.folder}': give a folder that `sparserl bench` or `sparserl publish` made."
        )
    return code


def publish(command: Publish, console: Console) -> int:
    """`sparserl publish`."""
    from sparserl_jax.bench import publish as publishing

    target = publishing.publish(command.folder, replace=command.replace, partial=command.partial)
    say(console, f"Published: {target}")
    say(console, *publishing.left_out(target))
    return 0


def compare(command: Compare, console: Console) -> int:
    """`sparserl compare`."""
    from sparserl_jax.bench import against, tables
    from sparserl_jax.bench import compare as comparing

    found = comparing.compare(command.folders, command.out, command.against)
    if command.against is None:
        tables.screen(found, console)
    else:
        against.screen(found, command.against, console)
    if command.out is not None:
        say(console, f"Tables: {command.out}")
    return 0


def table(command: Table, console: Console) -> int:
    """`sparserl table`."""
    from sparserl_jax.bench import against, summary, tables, trials

    if trials.is_tuning(command.folder):
        if command.against is not None:
            raise UserError(f"'{command.folder}' is a tuning, which has no arms; leave out --against.")
        trials.show(command.folder, console)
        return 0
    found = summary.summarise(command.folder)
    if command.against is not None:
        against.screen(found, command.against, console)
        return 0
    tables.write(command.folder, found)
    tables.screen(found, console)
    return 0


def plot(command: Plot, console: Console) -> int:
    """`sparserl plot`."""
    from sparserl_jax.bench import plots, plots_diagnostics, summary

    found = summary.summarise(command.folder)
    if not found.blocks:
        raise UserError(f"'{command.folder}' has no record yet; finish it with `sparserl bench`.")
    made = plots.write(command.folder, found)
    if command.diagnostics:
        made += plots_diagnostics.write(command.folder, found)
    say(console, *map(str, made))
    return 0


def conformance(command: Conformance, console: Console) -> int:
    """`sparserl conformance`."""
    from sparserl_jax.bench import ranges
    from sparserl_jax.bench import run as runs
    from sparserl_jax.conformance import report
    from sparserl_jax.sparsity import method

    chosen = method(command.method)
    ranges.check_knob(command.sparsity, "--sparsity", chosen.coefficient)
    kept = report.check(chosen, command.sparsity, functools.partial(say, console))
    return runs.EXIT_OK if kept else runs.EXIT_CHECK_FAILED


def evaluate(command: Evaluate, console: Console) -> int:
    """`sparserl evaluate`."""
    from sparserl_jax.bench import evaluate as evaluation
    from sparserl_jax.bench import run as runs
    from sparserl_jax.bench import saved

    found = saved.find(command.path)
    if found.record is None or (command.episodes, command.seed, command.env) != (None, None, None):
        episodes = evaluation.EPISODES if command.episodes is None else command.episodes
        seed = 0 if command.seed is None else command.seed
        returns = evaluation.fresh(found, command.env, episodes, seed)
        say(console, *evaluation.fresh_lines(found, command.env, returns, seed))
        return runs.EXIT_OK
    compared = evaluation.reproduce(found)
    say(console, compared.line())
    return runs.EXIT_OK if compared.agrees else runs.EXIT_CHECK_FAILED


def collect(command: Collect, console: Console) -> int:
    """`sparserl collect`."""
    from sparserl_jax.bench import collect as collecting
    from sparserl_jax.bench import saved

    card = collecting.collect(
        saved.find(command.path),
        command.out,
        episodes=command.episodes,
        seed=command.seed,
        noise=command.noise,
        env=command.env,
    )
    say(console, collecting.line(card, command.out))
    return 0


def inspect(command: Inspect, console: Console) -> int:
    """`sparserl inspect`."""
    from sparserl_jax.bench import inspect as inspection
    from sparserl_jax.bench import saved

    inspection.show(saved.find(command.path), console)
    return 0


def export(command: Export, console: Console) -> int:
    """`sparserl export`."""
    from sparserl_jax.bench import export as exporting
    from sparserl_jax.bench import saved

    say(console, exporting.export(saved.find(command.path), command.out, command.format).line())
    return 0


def decompose(command: Decompose, console: Console) -> int:
    """`sparserl decompose`."""
    from sparserl_jax.bench import (
        beside,
        decompose_page,
        equal_rank,
        equal_rank_page,
        records,
        saved,
    )
    from sparserl_jax.bench import decompose as decomposing
    from sparserl_jax.deploy import low_rank

    rule, out = low_rank.rule(command.rule), command.out
    if equal_rank.is_suite(command.path):
        settings = equal_rank.Settings(
            rule, command.factors, command.episodes, command.seed, command.selection_episodes
        )
        folder = command.path if out is None else out
        beside.check_new(folder, equal_rank_page.FILES, command.replace)
        suite = records.read_configuration(command.path)["suite"]
        made = beside.made_by("decompose", command, suite)
        sections = equal_rank.compare(command.path, settings, flat(command.only))
        head = beside.head(f"{suite['title']}: dense and sparse policies at equal ranks", command.path)
        page = equal_rank_page.markdown(head, sections, settings, made)
        return _written(
            folder, equal_rank_page.FILES, page, equal_rank_page.comma_separated(sections), console
        )
    if command.only:
        raise UserError(f"--only chooses rows of a suite, and '{command.path}' is not the folder of one.")
    if command.replace:
        raise UserError(
            f"--replace makes the page of a suite anew, and '{command.path}' is not the folder of one."
        )
    if out is not None:
        decomposing.check_target(out)
    found = decomposing.decompose(
        saved.find(command.path),
        rule,
        command.factors,
        command.episodes,
        command.seed,
        command.selection_episodes,
    )
    decompose_page.show(found, console)
    if out is not None:
        decomposing.write(found, out)
        say(console, f"Decomposed policy: {out}, {out.stat().st_size:,} bytes, uncompressed")
    return 0


def danger(command: Danger, console: Console) -> int:
    """`sparserl danger`."""
    from sparserl_jax.bench import beside, records
    from sparserl_jax.bench import danger as dangers

    beside.check_new(command.path, dangers.FILES, command.replace)
    suite = records.read_configuration(command.path)["suite"]
    made = beside.made_by("danger", command, suite)
    sections = dangers.measure(command.path, command.states, command.draws, command.seed)
    page = dangers.markdown(beside.head(f"Danger: {suite['title']}", command.path), sections, made)
    return _written(command.path, dangers.FILES, page, dangers.comma_separated(sections), console)


def _written(folder: Path, files: tuple[str, str], page: str, numbers: str, console: Console) -> int:
    """Print a page and write it with its numbers; returns the exit code."""
    from sparserl_jax.bench import beside

    say(console, page)
    for path in beside.write(folder, dict(zip(files, (page, numbers), strict=True))):
        say(console, f"Written: {path}")
    return 0


def listing(command: List, console: Console) -> int:
    """`sparserl list`."""
    from sparserl_jax.bench.catalogue import lines

    say(console, *lines(command.what))
    return 0
