"""Every published table is what its records give, to the byte: nobody edited it, and no statistic changed behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparserl_jax.bench import check, summary, tables

RESULTS = Path(__file__).resolve().parents[1] / "results"
FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/configuration.json"))


def test_there_are_published_results():
    assert {"quick", "quick_sac", "rlx2_cpu_levels"} <= set(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.slow
def test_tables_are_those_of_the_records(name: str):
    folder = RESULTS / name
    found = summary.summarise(folder)
    for file, make in tables.FILES.items():
        # No comparison of whole texts: a difference of two tables takes pytest minutes to show.
        assert (folder / file).read_text(encoding="utf-8") == make(found) or pytest.fail(
            f"{name}/{file} is not what its records give; `sparserl table results/{name}` makes it anew",
            pytrace=False,
        )


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.slow
def test_records_pass_the_check(name: str):
    """A promise that a method no longer makes would fail runs that kept the one they were made under."""
    assert not list(check.unsound(RESULTS / name))


@pytest.mark.slow
def test_a_caption_names_the_episodes_of_every_environment_and_counts_all_verdicts():
    """quick has 100 final episodes on Pendulum and 2 on the pole; its pooled rows are judged, too."""
    text = (RESULTS / "quick/table.md").read_text(encoding="utf-8")
    assert "at the end, 100 on gymnax:Pendulum-v1, 2 on brax:inverted_pendulum" in text
    found = summary.summarise(RESULTS / "quick")
    blocks = [*found.blocks, *([found.pooled] if found.pooled else [])]
    judged = [row for block in blocks for row in block.rows if row.verdict != "reference"]
    assert f"{len(judged)} comparisons were judged" in text and len(judged) == 45
