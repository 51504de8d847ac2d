"""Publishing: copying a finished, checked suite into `results/`, and comparing this machine with what is there.

`results/` is read-only to runs; only `publish` writes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparserl_jax.bench import claims, paths, plots, policy, provenance, records, tables
from sparserl_jax.bench import partial as slices
from sparserl_jax.bench.caption import RESULT_FROM
from sparserl_jax.bench.check import check, unsound
from sparserl_jax.bench.single import SINGLE
from sparserl_jax.bench.summary import Row, Summary, key_of, levels_of, summarise
from sparserl_jax.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

COPIED = (records.CONFIGURATION, "suite.toml")


def results_folder() -> Path | None:
    """`results/` of the checkout this package is used from; None for an installed wheel."""
    root = paths.checkout()
    return None if root is None else root / "results"


def _same(source: Path, target: Path) -> bool:
    """Whether the results of two records are the same; what was measured and when may differ."""
    here, there = records.read(source), records.read(target)
    return here["result"] == there["result"] and here["files"]["curve"] == there["files"]["curve"]


def _state(settings_name: str, repository: Path) -> None:
    """Refuse code that is not committed: a published number must be traceable to a commit."""
    state = provenance.repository(repository)
    if state["git_commit"] is None:
        raise UserError(
            f"cannot publish '{settings_name}': no git commit describes the code; publish from a checkout."
        )
    if (why := provenance.unclean(state)) is not None:
        raise UserError(f"cannot publish '{settings_name}': {why}")


def publish(
    folder: Path, *, results: Path | None = None, replace: bool = False, partial: bool = False
) -> Path:
    """Copy a finished and checked folder to `results/<suite>`, with fresh tables and plots; returns that folder.

    Records of the same configuration that were published before and are not in `folder` stay.

    Args:
        folder: what `sparserl bench` made.
        results: the results folder; default that of the checkout.
        replace: overwrite published records whose results differ; what was measured on them goes with them
            (`low_rank.md`, `danger.md`, plots of diagnostics).
        partial: publish the whole rows of a suite that is not finished, where dense is there to compare them with.

    Raises:
        UserError: dirty tree, unfinished or unsound records, a suite that is no result, or differing records.
    """
    settings, found = records.load_all(folder)
    name = settings["suite"]["name"]
    results = results_folder() if results is None else results
    if results is None:
        raise UserError(
            f"cannot publish '{name}': this is an installed package, not a checkout; publish from a clone."
        )
    if not settings["suite"]["result"]:
        raise UserError(f"suite '{name}' is never a result (result = false); it cannot be published.")
    _state(name, results.parent)
    with _alone(results):
        return _publish(folder, settings, found, results / name, replace=replace, partial=partial)


@contextlib.contextmanager
def _alone(results: Path) -> Iterator[None]:
    """Keep other publishing out: both would build on what was there before, and the later would drop the earlier's."""
    place = os.open(results.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another `sparserl publish` is writing into '{results}'; wait for it.") from None
        except OSError as error:
            raise UserError(f"'{results}' cannot be locked ({error.strerror}).") from None
        yield
    finally:
        os.close(place)


def _publish(
    folder: Path,
    settings: dict[str, Any],
    found: list[dict[str, Any]],
    target: Path,
    *,
    replace: bool,
    partial: bool,
) -> Path:
    """`publish` of what has been read from `folder`, alone."""
    name, results = target.name, target.parent
    _put_back(target)
    earlier = _earlier(target, settings, [record["run_id"] for record in found])
    before = {record["run_id"]: record for record in earlier}
    every = [*found, *earlier]
    chosen = settings["runs"] if not partial else slices.publishable(settings, every)
    missing = len(settings["runs"]) - len(every)
    if missing and not partial:
        raise UserError(
            f"'{folder}' lacks {missing} of {len(settings['runs'])} runs; run the suite again, or publish its whole "
            "rows with --partial."
        )
    found = [record for record in found if record["run_id"] in chosen]
    if not found:
        raise UserError(f"'{folder}' has no whole row beside a whole dense one; run the suite again.")
    _enough_seeds(name, [record for record in every if record["run_id"] in chosen])
    problems = unsound(folder) if missing or before else check(folder)
    if problems:
        raise UserError(
            f"'{folder}' does not pass the check ({problems[0]}; {len(problems)} problems in all)."
        )
    dirty = [record["run_id"] for record in found if record["provenance"]["git_dirty"] is not False]
    if dirty:
        raise UserError(
            f"'{folder}' was made by code with uncommitted changes ({len(dirty)} runs, e.g. {dirty[0]}); "
            "commit and run it again."
        )
    unsealed = [record["run_id"] for record in found if not records.is_sealed(record)]
    if unsealed:
        raise UserError(
            f"'{folder}' has records without a digest of their own ({len(unsealed)} runs, e.g. {unsealed[0]}), where a "
            "change may go unseen; run them again."
        )
    stale = claims.commits(found, results.parent)
    if stale:
        raise UserError(f"cannot publish '{name}': {stale[0]}; publish from the branch that made it.")
    if not replace:
        _refuse_differing(folder, target, settings["runs"], before)
    staging = results / f".{name}.part"
    shutil.rmtree(staging, ignore_errors=True)
    for run_id in chosen:
        unpublished = shutil.ignore_patterns(policy.NETWORKS)
        source = target if run_id in before else folder
        shutil.copytree(source / "records" / run_id, staging / "records" / run_id, ignore=unpublished)
    slices.declare(staging, [run_id for run_id in settings["runs"] if run_id not in chosen])
    for file in COPIED:
        if (folder / file).is_file():
            shutil.copyfile(folder / file, staging / file)
    if missing or before:
        # What stands together only here has to be right together.
        problems = check(staging)
        if problems:
            shutil.rmtree(staging)
            raise UserError(f"'{folder}' and what is published of '{name}' do not fit: {problems[0]}.")
    summary = summarise(staging)
    tables.write(staging, summary)
    plots.write(staging, summary)
    _keep(target, staging)
    _replace(staging, target)
    return target


def _keep(target: Path, staging: Path) -> None:
    """Take over what else stands in the published folder: a hand-written page about the results, and what other
    commands measured of its runs, where they are the same."""
    from sparserl_jax.bench import danger, equal_rank_page

    before, after = (_levels(folder) for folder in (target, staging))
    # Ranks are chosen, and compared, on z.
    ranked = equal_rank_page.FILES if before == after else ()
    measured = [target / name for name in (*danger.FILES, *ranked)]
    measured = [path for path in (*measured, *target.glob("plots/diagnostics-*")) if path.is_file()]
    runs = [path.parent.relative_to(target) for path in (target / "records").glob("*/*/record.json")]
    true = all((staging / run).is_dir() and _same(staging / run, target / run) for run in runs)
    for path in (target / "README.md", *(measured if true else [])):
        if path.is_file():
            shutil.copyfile(path, staging / path.relative_to(target))


def _levels(folder: Path) -> list[Any]:
    """The levels that a folder declares of its environments; nothing where it is none of a suite."""
    if not (folder / records.CONFIGURATION).is_file():
        return []
    settings = records.read_configuration(folder)
    return [(task["name"], levels_of(settings, task["name"])) for task in settings["suite"]["tasks"]]


def _before(target: Path) -> Path:
    return target.with_name(f".{target.name}.before")


def _put_back(target: Path) -> None:
    """Bring back what was published where `_replace` was killed between its two steps."""
    if _before(target).exists() and not target.exists():
        _before(target).rename(target)


def _replace(staging: Path, target: Path) -> None:
    """Put a folder in the place of another; killed at any moment, one of the two is whole."""
    shutil.rmtree(_before(target), ignore_errors=True)
    if target.exists():
        target.rename(_before(target))
    staging.rename(target)
    shutil.rmtree(_before(target), ignore_errors=True)


def _earlier(target: Path, settings: dict[str, Any], present: list[str]) -> list[dict[str, Any]]:
    """Published records of the same configuration that are not `present` in the folder to publish."""
    if not (target / records.CONFIGURATION).is_file():
        return []
    theirs, found = records.load_all(target)
    if theirs["suite_hash"] != settings["suite_hash"]:
        return []
    return [record for record in found if record["run_id"] not in present]


def left_out(target: Path) -> list[str]:
    """What a published folder admits to lack, in a sentence; nothing where it is whole."""
    missing = slices.declared(target)
    if not missing:
        return []
    runs = records.load_all(target)[0]["runs"]
    told = slices.words(runs, set(runs) - set(missing))
    return [f"Not published, {len(missing)} of {len(runs)} runs: {told}."]


def _enough_seeds(name: str, found: list[dict[str, Any]]) -> None:
    """Fewer than five seeds are not called a result; nor is a single training outside a suite."""
    if name == SINGLE:
        raise UserError(
            "a single training is not a suite; write a suite file with a dense arm and publish that."
        )
    seeds = Counter((record["result"]["env"], *key_of(record)) for record in found)
    few = next((key for key, count in seeds.items() if count < RESULT_FROM), None)
    if few is not None:
        raise UserError(
            f"arm '{few[1]}' on {few[0]} has {seeds[few]} seeds; a result needs at least {RESULT_FROM}."
        )


def _refuse_differing(folder: Path, target: Path, runs: list[str], kept: Collection[str]) -> None:
    """Published records are never overwritten by different ones, nor dropped, without being asked; `kept`: those that
    stay as they are."""
    published = sorted((target / "records").glob("*/*/record.json")) if target.is_dir() else []
    ids = {path: path.parent.relative_to(target / "records").as_posix() for path in published}
    for run_id in ids.values():
        if run_id not in runs or not (run_id in kept or (folder / "records" / run_id).is_dir()):
            raise UserError(
                f"the published '{target.name}' has run '{run_id}', which '{folder}' lacks; use --replace."
            )
    for path, run_id in ids.items():
        if run_id not in kept and not _same(folder / "records" / run_id, path.parent):
            raise UserError(
                f"the published run '{run_id}' of '{target.name}' has another result; use --replace."
            )


def _published(summary: Summary) -> Summary | None:
    """The published summary of the same suite, if there is one."""
    results = results_folder()
    folder = None if results is None else results / summary.name
    if folder is None or not (folder / records.CONFIGURATION).is_file():
        return None
    return summarise(folder)


def _pairs(ours: Summary, theirs: Summary) -> list[tuple[str, Row, Row | None]]:
    there = {
        (block.env, row.arm, row.sparsity, row.critic_sparsity): row
        for block in theirs.blocks
        for row in block.rows
    }
    return [
        (block.env, row, there.get((block.env, row.arm, row.sparsity, row.critic_sparsity)))
        for block in ours.blocks
        for row in block.rows
    ]


HEADINGS = (
    "environment",
    "method",
    "sparsity",
    "this machine",
    "published",
    "intervals",
    "steps/s",
    "published",
)


SPEED = tables.COLUMNS.index("steps/s")


def beside_rows(ours: Summary, theirs: Summary) -> list[list[str]]:
    """*This machine* next to *published*, row by row."""
    rows = []
    for env, mine, other in _pairs(ours, theirs):
        mine_cells = tables.cells(mine)
        line = [env, mine_cells[0], mine_cells[1], mine_cells[2]]
        if other is None:
            rows.append([*line, "", "", mine_cells[SPEED], ""])
            continue
        overlap = mine.value.lower <= other.value.upper and other.value.lower <= mine.value.upper
        # A single run has no interval.
        met = "" if min(len(mine.seeds), len(other.seeds)) < 2 else "overlap" if overlap else "apart"
        other_cells = tables.cells(other)
        rows.append([*line, other_cells[2], met, mine_cells[SPEED], other_cells[SPEED]])
    return rows


def beside(root: Path, summary: Summary, console: Console | None = None) -> Path | None:
    """Write `beside.md` and print it: this machine next to the published results; None where nothing is published."""
    theirs = _published(summary)
    if theirs is None:
        if console is not None:
            console.print(f"Nothing is published for suite '{summary.name}' yet.", highlight=False)
        return None
    rows = beside_rows(summary, theirs)
    same = summary.suite_hash == theirs.suite_hash
    note = (
        f"Published: configuration {theirs.suite_hash}"
        + (
            ", the same as here. "
            if same
            else f", another one than here ({summary.suite_hash}): not comparable. "
        )
        + theirs.caption[-1]
    )
    lines = [f"# {summary.title}: this machine beside published", ""]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|" + "|".join(["---"] * len(HEADINGS)) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", note, "", f"This machine: {summary.caption[-1]}", ""]
    records.write_atomic(root / "beside.md", "\n".join(lines).encode())
    if console is not None:
        from rich.table import Table

        table = Table(title="This machine beside published", title_justify="left", title_style="bold")
        for heading in HEADINGS:
            table.add_column(heading)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print(note, style="dim", markup=False, highlight=False)
    return root / "beside.md"
