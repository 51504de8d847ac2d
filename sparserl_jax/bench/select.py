"""Which programs of a plan `sparserl bench` takes up: divided, those asked for, without those that are published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from sparserl_jax.bench import only, paths, provenance, records, slices
from sparserl_jax.bench.plan import Plan
from sparserl_jax.errors import UserError


def select(
    plan: Plan,
    folder: Path,
    divided_as: Path | None = None,
    rows: Sequence[str] = (),
    skip_published: bool = False,
    elsewhere: Collection[str] = (),
) -> tuple[Plan, list[str]]:
    """The plan with the programs to take up, and what to say about the others.

    Args:
        folder: the suite's folder, whose records may come from divided programs.
        divided_as: see `slices.divide`.
        rows: what `--only` names.
        skip_published: leave out what `results/` has.
        elsewhere: runs that are finished on another machine, left out, too.

    Raises:
        UserError: unknown rows, a folder of another suite, or no `results/` to look into.
    """
    plan = slices.divide(plan, folder, divided_as)
    said = []
    if rows:
        plan = only.select(plan, rows)
        said += only.lines(plan, rows)
    if skip_published:
        root = paths.checkout()
        if root is None:
            raise UserError(
                "--skip-published: this is an installed package, not a checkout, and has no results/; leave it out."
            )
        plan, line = without_published(plan, root / "results")
        said.append(line)
    if elsewhere:
        runs = [run_id for program in plan.programs for run_id in slices.ids(plan, program)]
        done = set(elsewhere) & set(runs)
        plan = slices.without(plan, done)
        said.append(
            f"--skip-finished: {len(done)} of {len(runs)} runs are skipped: they are finished elsewhere"
        )
    return plan, said


def without_published(plan: Plan, results: Path) -> tuple[Plan, str]:
    """The plan without the runs that `results` holds sound records of under the same configuration, and why."""
    suite_hash, folder = plan.suite.hash(), results / plan.suite.name
    inside = [planned for program in plan.programs for planned in plan.of(program)]
    runs = [planned.folder.as_posix() for planned in inside]
    done = {run_id for run_id in runs if records.finished(folder, run_id, suite_hash)}
    if done and not records.same_data(folder, plan):
        return (
            plan,
            f"--skip-published: nothing is skipped: results/{plan.suite.name} learned from other data",
        )
    where = f"--skip-published: {len(done)} of {len(runs)} runs are skipped"
    if not done:
        return plan, f"{where}: {_why_none(folder, suite_hash)}"
    rows = Counter(
        f"{planned.arm.name}@{planned.run.knobs['actor']:g} on {planned.task.name}"
        for planned in inside
        if planned.folder.as_posix() in done
    )
    listed = ", ".join(f"{row} x{count}" for row, count in rows.items())
    told = f"{where}: results/{plan.suite.name} holds their records under this configuration, {suite_hash} ({listed})"
    return slices.without(plan, done), told + _elsewhere(plan, folder, done)


def _elsewhere(plan: Plan, folder: Path, done: Collection[str]) -> str:
    """That a table of published runs and new ones would mix kinds of devices; empty where it would not."""
    made, declared = provenance.collect(), plan.suite.matmul_precision
    here = provenance.computes_on(made if declared is None else {**made, "matmul_precision": declared})
    found = [records.read(folder / "records" / run_id)["provenance"] for run_id in sorted(done)]
    there = set(map(provenance.computes_on, found)) - {here}
    if not there:
        return ""
    return (
        f". CAUTION: they were computed on {', '.join(sorted(there))}, and this is {here}: one table of both compares "
        "devices, too; leave out --skip-published for a table of this device alone"
    )


def _why_none(folder: Path, suite_hash: str) -> str:
    if not (folder / records.CONFIGURATION).is_file():
        return f"nothing is published in results/{folder.name}"
    settings, _ = records.load_all(folder)
    if settings["suite_hash"] != suite_hash:
        return f"results/{folder.name} holds another configuration ({settings['suite_hash']}, and this is {suite_hash})"
    return f"results/{folder.name} holds none of them"
