"""The user pages: programs and commands run as printed, tables of keys are complete, links lead somewhere."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks import pages

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(DOCS).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
}
BLOCK = re.compile(r"(?:<!-- ([^>]*) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


class Block(NamedTuple):
    """One fenced block and the comment above it: `file: NAME`, `exit: N`, `not run: WHY`, or nothing."""

    note: str
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """Name under which the block is a file."""
        found = re.match(r"file: ([\w.]+)", self.note)
        return found.group(1) if found else None


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(note or "", language, text) for note, language, text in BLOCK.findall(PAGES[page])]


def commands(block: Block) -> list[list[str]]:
    """The command lines of a block, without comments."""
    return [words for line in block.text.splitlines() if (words := shlex.split(line, comments=True))]


def run(arguments: list[str], folder: Path, code: int = 0) -> str:
    """Run Python as a user would who stands in `folder`."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == code, f"{arguments}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
    return done.stdout + done.stderr


FIRST = ("getting-started", "your-sparsifier")
"""Pages that a user meets first; what the others print is run by `make test-long`."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=() if page in FIRST else pytest.mark.long) for page in PAGES]
)
def test_what_a_page_prints_runs_in_an_empty_folder(page, tmp_path: Path):
    own = blocks(page)
    for block in own:
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    for block in own:
        if block.note.startswith("not run: "):
            continue
        if block.language == "sh":
            expected = re.match(r"exit: (\d+)", block.note)
            for words in commands(block):
                assert words[0] == "sparserl", words
                run(
                    ["-m", "sparserl_jax.cli", *words[1:]],
                    tmp_path,
                    int(expected.group(1)) if expected else 0,
                )
        elif block.language == "python" and (
            block.file is None or "__main__" in block.text or block.file == "train_cart.py"
        ):
            name = block.file or "program.py"
            (tmp_path / name).write_text(block.text, encoding="utf-8")
            run([name], tmp_path)


def test_every_page_is_in_the_index():
    assert {"index", "getting-started", "your-environment", "your-sparsifier", "your-suite"} <= set(PAGES)
    for page in PAGES:
        assert page == "index" or f"]({page}.md)" in PAGES["index"], page


@pytest.mark.parametrize("page", list(PAGES))
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGES[page]):
        assert target.startswith("http") or ((DOCS / page).parent / target).exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("methods/")])
def test_places_in_the_code_are_there(page):
    places = re.findall(r"`(sparserl_jax(?:\.\w+)+)`", PAGES[page])
    assert places
    for place in places:
        assert pkgutil.resolve_name(place) is not None


@pytest.mark.parametrize("page", list(PAGES))
def test_every_command_exists(page):
    from sparserl_jax import arguments

    known = set(re.findall(r'subcommand\("([\w-]+)"\)', Path(arguments.__file__).read_text()))
    named = re.findall(r"(?:^|`)sparserl ([a-z-]+)", PAGES[page], flags=re.MULTILINE)
    assert set(named) <= known


def rows(text: str) -> dict[str, str]:
    """First column to second, of a table that follows."""
    table = text.split("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0].strip("`"): row[1] for row in cells}


FIELDS = re.compile(r"<!-- fields: ([\w.]+):(\w+)(?: except ([\w ]+?))?(?: plus ([\w ]+?))? -->\n")


def test_every_key_of_a_suite_is_listed_with_its_default():
    parts = FIELDS.split(PAGES["your-suite"])[1:]
    found = [parts[i : i + 5] for i in range(0, len(parts), 5)]
    assert [entry[1] for entry in found] == [
        "_SuiteTable",
        "TD3Config",
        "SACConfig",
        "DDPGConfig",
        "DQNConfig",
        "PPOConfig",
        "TD3BCConfig",
        "BCConfig",
        "Schedule",
        "Evaluation",
        "Task",
        "_ArmTable",
        "Recipe",
        "_TuneTable",
    ]
    for module, name, without, more, text in found:
        fields = {f.name: f for f in dataclasses.fields(getattr(importlib.import_module(module), name))}
        listed = rows(text)
        assert set(listed) == (set(fields) - set((without or "").split())) | set((more or "").split()), name
        for key, cell in listed.items():
            if key not in fields:
                continue
            default = fields[key].default
            if default is dataclasses.MISSING:
                assert cell == "required", (name, key)
            elif default is None:
                assert cell == "not set", (name, key)
            else:
                value = tomllib.loads(f"value = {cell.strip('`')}")["value"]
                assert (tuple(value) if isinstance(value, list) else value) == default, (name, key)


def test_every_column_of_a_curve_is_explained_as_the_code_explains_it():
    from sparserl_jax.training.diagnostics import COLUMNS

    listed = [f"| `{column.name}` | {column.unit or 'number'} | {column.meaning} |" for column in COLUMNS]
    assert "\n".join(listed) in PAGES["diagnostics"]


def test_the_sparsifier_is_a_screenful_and_its_promises_are_all_named():
    from sparserl_jax.conformance.report import PROMISES

    (own,) = [block for block in blocks("your-sparsifier") if block.file == "gradual.py"]
    lines = own.text.splitlines()
    code = [
        line
        for line in lines
        if line and not line.startswith(("import", "from", '"""')) and '"""' not in line
    ]
    assert len(code) <= 25
    names = rows(PAGES["your-sparsifier"].split("exit code 0 or 1.\n\n")[1])
    assert list(names) == [name for name, *_ in PROMISES]


@pytest.mark.slow
def test_the_environments_are_all_listed_as_they_are():
    from sparserl_jax import envs

    listed = rows(PAGES["environments"].split("(`sparserl list agents`).\n\n")[1])
    assert list(listed) == envs.names()
    for line in PAGES["environments"].splitlines():
        if line.startswith(("| `gymnax:", "| `own:", "| `brax:inverted_pendulum", "| `brax:hopper")):
            name, *numbers = [cell.strip() for cell in line.strip("|").split("|")]
            spec = envs.make(name.strip("`")).spec
            seen = " x ".join(map(str, spec.image or (spec.obs_dim,)))
            done = str(spec.action_dim) if spec.num_actions is None else f"one of {spec.num_actions}"
            assert numbers == [seen, done, str(spec.max_episode_steps)]


@pytest.mark.parametrize("page", pages.pages(), ids=lambda page: page.stem)
@pytest.mark.slow
def test_tables_of_published_results_are_made_from_the_records(page):
    text = page.read_text(encoding="utf-8")
    assert pages.renewed(text, page) == text, "renew it: make pages"


@pytest.mark.parametrize(
    "text",
    [
        "<!-- published: suite quick -->\nno end\n",
        "<!-- published: suite quick-sac -->\n<!-- end -->\n",
        "<!-- published: verdicts quick -->\nprose\n<!-- published: verdicts quick -->\n<!-- end -->\n",
        "<!-- published: rows quick gymnax:Pendulum-v1 st -->\n<!-- end -->\n",
        "<!-- published: rows quick gymnax:Pendulum-v0 set -->\n<!-- end -->\n",
        "<!-- published: against quick sat gymnax:Pendulum-v1 set -->\n<!-- end -->\n",
    ],
)
def test_a_block_that_would_not_be_renewed_or_would_swallow_a_page_is_refused(text):
    with pytest.raises(ValueError, match=r"page\.md: "):
        pages.renewed(text, ROOT / "docs/page.md")


@pytest.mark.parametrize("page", pages.handwritten(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_intervals_in_sentences_are_those_of_published_pages(page):
    assert pages.unfounded(page.read_text(encoding="utf-8")) == []


def test_an_interval_that_no_published_page_has_is_found():
    """fttpo_treatment has RigL at 0.9 at 3.62 [2.90, 4.12], with 17.6 % [14.2 %, 23.6 %] of its draws dangerous."""
    true = "it returns 3.6 [2.9,\n  4.1] of `fttpo_treatment`; 18 % [14, 24] are dangerous"
    assert len(list(pages.intervals(true))) == 2 and pages.unfounded(true) == []
    assert pages.unfounded(true.replace("3.6 [2.9,\n  4.1]", "-3.6 [-4.1, -2.9]")) == []
    assert pages.unfounded(true.replace("3.6 [2.9", "**3.7** [2.9")) == ["3.7** [2.9, 4.1]"]
    assert pages.unfounded(true.replace("18 % [14", "19% [14")) == ["19% [14, 24]"]
    assert pages.unfounded(true.replace("fttpo", "other")) == ["3.6 [2.9, 4.1]", "18 % [14, 24]"]
    assert pages.unfounded(true.replace("4.1]", "4.2]")) == ["3.6 [2.9, 4.2]"]
    assert pages.unfounded(true.replace("3.6", "3.61")) == ["3.61 [2.9, 4.1]"]


def test_rows_of_a_page_are_told_apart():
    text = "<!-- published: rows quick gymnax:Pendulum-v1 dense static -->\n<!-- end -->\n"
    lines = pages.renewed(text, ROOT / "docs/page.md").splitlines()
    assert lines[1].startswith("| method | sparsity | return") and len(lines) == 7
    assert [line.split(" | ")[:2] for line in lines[3:6]] == [
        ["| dense", "0"],
        ["| static", "0.8"],
        ["| static", "0.97"],
    ]


def test_the_tables_that_users_see_first_are_among_them():
    assert {"README", "reading-a-table"} <= {page.stem for page in pages.pages()}


def test_every_column_and_verdict_of_a_table_is_explained():
    from sparserl_jax.bench import tables, verdicts

    listed = rows(PAGES["reading-a-table"].split("## The columns\n\n")[1])
    named = {name.removesuffix(" [95 % CI]") for entry in listed for name in (entry, *entry.split(", "))}
    assert {name.removesuffix(" [95 % CI]") for name in tables.COLUMNS} <= named
    undecided = {f"undecided ({why})" for why in ("n seeds", "on the margin", "a single seed")}
    without = {verdicts.NOT_LEARNED, verdicts.SAME_SEEDS, "no verdict"}
    known = {"reference", "matched", "matched, but n of m failed", "worse", "uneven"} | undecided | without
    assert set(rows(PAGES["reading-a-table"].split("## Verdicts\n\n")[1])) == known
