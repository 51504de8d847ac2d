"""The page that sets a paper's tables beside ours, as Markdown and CSV, and `sparserl paper`, which makes its runs."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparserl_jax.bench import (
    beside,
    figures,
    new_file,
    paths,
    plots,
    published,
    select,
    suites,
    summary,
    tables,
)
from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import run as runs
from sparserl_jax.bench.paper import Line, Source, sections, sources
from sparserl_jax.bench.published import Paper
from sparserl_jax.errors import UserError, suggest

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = (
    ("environment", ""),
    ("method", ""),
    ("sparsity, actor / critic", "returns"),
    ("coefficient", "arms"),
    ("sparsity, published", "outcome"),
    ("ours", "outcome"),
    ("saved by low rank, published", "low_rank"),
    ("ours", "low_rank"),
    ("published, % of dense", "returns"),
    ("ours, % of dense", "returns"),
    ("return, IQM [95 % CI]", ""),
    ("success", "success"),
    ("delta to dense [95 % CI]", ""),
    ("P(beats dense) [95 % CI]", "arms"),
    ("verdict", ""),
    ("seeds", ""),
    ("size, published", "size"),
    ("ours", "size"),
    ("training FLOPs, published", "training_flops"),
    ("ours", "training_flops"),
    ("FLOPs/action, published", "inference_flops"),
    ("ours", "inference_flops"),
    ("comparable", ""),
)
"""Columns of the page, and the field that a row of the paper must have for a column to be shown."""


def shown(paper: Paper) -> list[int]:
    """Indices of the columns of a paper's page: what it prints anywhere, and ours beside it."""
    rows = [row for table in paper.tables for row in table.rows]
    prints = {field for row in rows for field, value in vars(row).items() if value not in (None, {}, ())}
    prints |= {"success" for table in paper.tables if table.success is not None}
    return [index for index, (_, field) in enumerate(COLUMNS) if not field or field in prints]


def _number(value: float | None, show: str) -> str:
    return "" if value is None else format(value, show)


def cells(line: Line) -> list[str]:
    """One line of the page as text."""
    row, ours = line.published, line.ours
    text = tables.cells(ours) if ours is not None else [""] * len(tables.COLUMNS)
    said = (row.sparsity, row.critic_sparsity) if ours is None else (ours.sparsity, ours.critic_sparsity)
    level = " / ".join(f"{one:g}" for one in said if one is not None)
    swept = ours is not None and ours.outcome is not None
    comparable = f"no: {', '.join(line.differs)}" if line.differs else ""
    return [
        line.environment if ours is None else figures.short_name(line.environment),
        line.method,
        level,
        f"{ours.sparsity:g}" if ours is not None and swept else "",
        _number(row.outcome, ".2f"),
        "" if ours is None else _number(ours.came_out, ".3f"),
        _number(row.low_rank, ".2f"),
        _number(line.low_rank, ".3f"),
        _number(row.returns.get(line.method), ".1f"),
        _number(line.percent, ".1f"),
        text[2],
        _number(line.success, ".3f"),
        text[4],
        text[16],
        text[5],
        "" if ours is None else str(len(ours.seeds)),
        _number(row.size, ".3f"),
        _number(line.size, ".3f"),
        _number(row.training_flops, ".3f"),
        _number(line.training, ".3f"),
        _number(row.inference_flops, ".3f"),
        _number(line.inference, ".3f"),
        comparable,
    ]


def explained(paper: Paper, columns: Sequence[int]) -> str:
    """What the columns of numbers are, published and ours."""
    fields = {COLUMNS[index][1] for index in columns}
    said = [f"Published numbers are {paper.unit}, point estimates, read from: {paper.version}."]
    if "returns" in fields:
        said.append(
            "Ours in % of dense is the ratio of interquartile means of returns (blank where one of them is not "
            "positive); size counts the weights of online and target networks, FLOPs live weights, by formula: "
            "training with masks executes the dense ones (2 per weight are counted here, by some papers one less per "
            "unit: shares differ by 1 %)."
        )
    if "outcome" in fields:
        said.append(
            "Sparsity of ours: share of the actor's weights that are zero as deployed, mean over seeds; every "
            "coefficient is a line, none of them chosen by its outcome."
        )
    if "low_rank" in fields:
        said.append(
            "Saved by low rank: share of the actor's weights, biases not counted, at the fewest weights that lose "
            "little on selection episodes; blank where `sparserl decompose` of the folder has not been run."
        )
    if "success" in fields:
        said.append(
            "Success: share of the final episodes of all seeds with a return above "
            + ", ".join(f"{t.success:g} ({t.label})" for t in paper.tables if t.success is not None)
            + "."
        )
    return " ".join([*said, "Verdicts are explained under each folder's own table."])


def heading(paper: Paper) -> str:
    """First line of the page, by which it is known."""
    return f"# {paper.paper} ({paper.venue}): published beside ours"


def markdown(paper: Paper, found: Sequence[Source]) -> str:
    """The whole page."""
    columns = shown(paper)
    names = [COLUMNS[index][0] for index in columns]
    lines = [heading(paper), "", explained(paper, columns), ""]
    for part in sections(paper, found):
        beside = "nothing yet" if part.source is None else f"`{part.source.path.as_posix()}`"
        lines += [f"## {part.table.label}: {part.table.title}; beside {beside}", ""]
        for block in () if part.source is None else part.source.summary.blocks:
            if block.reason is not None:
                lines += [f"{figures.short_name(block.env)}: {block.reason}.", ""]
        lines += ["| " + " | ".join(names) + " |"]
        lines += ["|---|---|" + "---:|" * (len(names) - 3) + "---|"]
        for line in part.lines:
            texts = cells(line)
            lines += ["| " + " | ".join(texts[index] for index in columns) + " |"]
        lines += ["", *(text for said in part.said for text in (said, ""))]
        if part.source is not None:
            lines += [part.source.summary.caption[-1], ""]
    for figure in paper.figures:
        mine = [source for source in found if source.suite in figure.suites]
        where = ", ".join(f"`{source.path.as_posix()}`" for source in mine)
        told = (
            f"Ours: {where}."
            if mine
            else "No records yet: run "
            + ", ".join(f"`sparserl bench {name}`" for name in figure.suites)
            + "."
        )
        lines += [f"## {figure.label}: {figure.title}", "", f"No values of it are in print. {told}", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def comma_separated(paper: Paper, found: Sequence[Source]) -> str:
    """The lines of all tables in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        "table,agent,folder,environment,method,sparsity,critic_sparsity,published_percent,percent,return_iqm,"
        "return_lower,return_upper,delta,delta_lower,delta_upper,verdict,seeds,published_size,size,"
        "published_training_flops,training_flops,published_inference_flops,inference_flops,differs,"
        "published_outcome,outcome,published_low_rank,low_rank,success".split(",")
    )
    for part in sections(paper, found):
        for line in part.lines:
            row, ours = line.published, line.ours
            interval = (None,) * 3 if ours is None else tables.own(ours, ours.value)
            delta = tables.three(None if ours is None else ours.comparison)
            values = [
                part.table.label,
                part.table.agent,
                None if part.source is None else part.source.path.as_posix(),
                line.environment,
                line.method,
                row.sparsity if ours is None else ours.sparsity,
                row.critic_sparsity if ours is None else ours.critic_sparsity,
                row.returns.get(line.method),
                line.percent,
                *interval,
                *delta,
                None if ours is None else ours.verdict,
                None if ours is None else len(ours.seeds),
                row.size,
                line.size,
                row.training_flops,
                line.training,
                row.inference_flops,
                line.inference,
                " ".join(line.differs),
                row.outcome,
                None if ours is None else ours.realised,
                row.low_rank,
                line.low_rank,
                line.success,
            ]
            writer.writerow("" if v is None else repr(v) if isinstance(v, float) else v for v in values)
    return out.getvalue()


def check_target(name: str, paper: Paper, out: Path) -> None:
    """Refuse to write over files that are no page of this paper, or into what is no folder; raises `UserError`."""
    new_file.check_folder(out)
    page, numbers = out / f"{name}.md", out / f"{name}.csv"
    ours = page.is_file() and page.read_text(encoding="utf-8", errors="replace").startswith(heading(paper))
    for file in (page, numbers):
        if file.exists() and not ours:
            raise UserError(
                f"--out '{out}': '{file.name}' there was not made by this command; give another folder."
            )


def write(name: str, roots: Sequence[Path], out: Path) -> list[Path]:
    """Write `<name>.md` and `<name>.csv` from the records in `roots`; returns their paths."""
    paper = published.find(name)
    found = sources(paper, roots)
    made = {f"{name}.md": markdown(paper, found), f"{name}.csv": comma_separated(paper, found)}
    return beside.write(out, made)


def wanted(paper: Paper, chosen: Sequence[str]) -> list[str]:
    """The suites to run: all of the paper's, or the chosen ones in its order.

    Raises:
        UserError: one of them is none of the paper's.
    """
    known = {suite for table in paper.tables for suite in table.suites} | set(paper.suites)
    for name in chosen:
        if name not in known:
            raise suggest(name, sorted(known), "suite of the paper")
    return list(chosen or paper.suites)


def execute(
    name: str,
    console: Console,
    *,
    step: str = "run",
    chosen: Sequence[str] = (),
    budget: str | None = None,
    time_budget: float | None = None,
    skip_published: bool = False,
    out: Path | None = None,
) -> list[Path]:
    """Plan a paper's suites, run what is not finished, and write the page from whatever records there then are.

    Args:
        step: `plan` only prints, `tables` only writes the page, `run` does all of it.
        chosen: suites; default all of the paper's. budget: of these suites.
        time_budget: seconds for all of them together.
        skip_published: leave out what the checkout's results/ hold.
        out: folder of the page; default runs/paper-<name>.

    Raises:
        Unfinished: time budget or Ctrl-C; the page is written all the same.
    """
    paper = published.find(name)
    runs.check_budget(time_budget)
    suite_files = [paths.suite_path(suite) for suite in wanted(paper, chosen)]
    target = Path("runs") / f"paper-{name}" if out is None else out
    if step != "plan":
        check_target(name, paper, target)
    if step == "tables" and (chosen or budget is not None or time_budget is not None or skip_published):
        raise UserError(
            "--step tables runs nothing: leave out --suites, --budget, --time-budget and --skip-published."
        )
    deadline = None if time_budget is None else time.monotonic() + time_budget
    stopped: runs.Unfinished | None = None
    files = suite_files if step != "tables" else []
    made = [(file, plans.make(suites.read(file, budget))) for file in files]
    # Programs that `bench` has divided by seeds in the same folder stay divided.
    selected = [
        (file, *select.select(plan, runs.folder_of(plan), skip_published=skip_published))
        for file, plan in made
    ]
    made = [(file, plan) for file, plan, _ in selected]
    for line in (line for _, _, said in selected for line in said):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for _, plan in made:
        plans.show(plan, console)
    if step == "plan":
        return []
    for file, plan in made:
        if not plan.programs:
            continue
        folder = runs.folder_of(plan)
        left = None if deadline is None else max(deadline - time.monotonic(), 1e-3)
        try:
            runs.run(plan, folder, console, time_budget=left, suite_file=file)
        except runs.Unfinished as stop:
            stopped = stop
            break
        found = summary.summarise(folder)
        tables.write(folder, found)
        for said in plots.write_where_installed(folder, found):
            console.print(said, markup=False, highlight=False, soft_wrap=True)
    roots = [Path("runs")]
    root = paths.checkout()
    if root is not None:
        roots.insert(0, root / "results")
    written = write(name, roots, target)
    if stopped is not None:
        raise stopped
    return written
