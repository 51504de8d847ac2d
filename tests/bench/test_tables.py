"""Tables: from records only, the same bytes every time, and no verdict without assay sensitivity."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest

from sparserl_jax.bench import (
    caption,
    columns,
    plots,
    publish,
    records,
    remarks,
    statistics,
    summary,
    tables,
    verdicts,
)
from tests.bench import fake, forge


def rows(found: summary.Summary, env: int = 0) -> dict[tuple[str, float], summary.Row]:
    return {(row.arm, row.sparsity): row for row in found.blocks[env].rows}


def small(tmp_path: Path, quality: dict[str, float], **changes) -> summary.Summary:
    options = {
        "environments": fake.SUITE["environments"][:1],
        "arms": [{"recipe": "dense"}, {"recipe": "placebo", "sparsities": [0.95]}, {"recipe": "rlx2"}],
        "sparsities": [0.6],
        **changes,
    }
    fake.finished(tmp_path / "x", fake.make_plan(**options), quality=quality)
    return summary.summarise(tmp_path / "x")


@pytest.mark.slow
def test_tables_and_vector_plots_have_the_same_bytes_on_every_rerun(miniature: Path, tmp_path: Path):
    other = tmp_path / "copy"
    shutil.copytree(miniature, other)
    for root in (miniature, other):
        tables.write(root)
        plots.write(root)
    names = ["table.md", "table.csv", "table.tex", "reproduce.md"]
    figures = ("learning_curves", "returns_by_row", "return_versus_sparsity", "return_versus_bytes")
    names += [f"plots/{figure}.{kind}" for figure in figures for kind in ("csv", "svg", "png")]
    for name in names:
        assert (miniature / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
def test_the_worst_seed_and_the_tenth_percentile_stand_in_their_columns(whole: summary.Summary):
    for row in whole.blocks[0].rows:
        assert (row.worst, row.p10) == (row.returns.min(), np.percentile(row.returns, 10))
        cells = tables.cells(dataclasses.replace(row, worst=-50.0, p10=-40.0))
        shown = dict(zip(tables.COLUMNS, cells, strict=True))
        assert (shown["worst seed"], shown["p10"]) == ("-50.0", "-40.0")


def test_a_single_seed_has_no_interval(tmp_path: Path):
    """Resampling one run gives bounds that are the run itself: they would claim that nothing scatters."""
    found = small(tmp_path, {}, seeds=1)
    for row in found.blocks[0].rows:
        cells = dict(zip(tables.COLUMNS, tables.cells(row), strict=True))
        assert "[" not in "".join(cells.values()) and float(cells["return, IQM [95 % CI]"].replace(",", ""))
    lines = list(csv.DictReader(io.StringIO(tables.comma_separated(found))))
    for line in lines:
        assert line["return_iqm"] and line["z"]
        assert not any(line[f"{name}_{end}"] for name in ("return", "z") for end in ("lower", "upper"))


@pytest.mark.slow
def test_every_arm_has_a_row_with_the_declared_columns(whole: summary.Summary):
    text = tables.markdown(whole)
    for name in (
        "dense_aa (A/A)",
        "placebo (must lose)",
        "dense_rvl",
        "tiny",
        "static",
        "set",
        "rigl",
        "rlx2",
    ):
        assert f"| {name} |" in text
    assert all(tables.COLUMNS[index] in text for index in columns.WHOLE)
    assert "6 seeds per row, wide intervals" in text
    assert "## all environments" in text
    data = list(csv.DictReader(io.StringIO(tables.comma_separated(whole))))
    assert len(data) == 3 * 14
    assert {row["verdict"] for row in data if row["arm"] == "dense"} == {"reference"}


@pytest.mark.slow
def test_verdicts_follow_the_interval_of_the_difference(whole: summary.Summary):
    found = rows(whole)
    assert found["dense_aa", 0.0].verdict == "matched"
    assert found["placebo", 0.95].verdict == "worse"
    assert found["static", 0.9].verdict == "worse"
    for row in found.values():
        if row.comparison is not None:
            expected = "matched" if row.comparison.lower >= -0.03 else None
            expected = expected or ("worse" if row.comparison.upper < -0.03 else "undecided")
            assert row.verdict.startswith(expected)
            assert (expected == "undecided") == ("seeds)" in row.verdict or "margin" in row.verdict)


@pytest.mark.slow
def test_the_chance_to_beat_dense_counts_pairs_of_runs(whole: summary.Summary):
    for block in whole.blocks:
        dense = next(row for row in block.rows if row.role == "dense")
        assert dense.improvement is None
        for row in block.rows:
            if row is dense:
                continue
            pairs = [(a > b) + 0.5 * (a == b) for a in row.returns for b in dense.returns]
            assert float(row.improvement.value) == pytest.approx(sum(pairs) / len(pairs))
            assert 0 <= row.improvement.lower <= row.improvement.value <= row.improvement.upper <= 1
    assert whole.pooled is not None
    row = next(row for row in whole.pooled.rows if row.arm == "rlx2")
    parts = [r.improvement.value for b in whole.blocks for r in b.rows if r.key == row.key]
    assert float(row.improvement.value) == pytest.approx(np.mean(parts))
    assert f"| {float(row.improvement.value):.2f} [" in tables.markdown(whole)


@pytest.mark.slow
def test_sparse_arms_are_held_against_the_narrow_network_of_their_size(
    whole: summary.Summary, tmp_path: Path
):
    """tiny for one-step targets; an arm with multi-step targets has no opponent while there is no tiny_rvl."""
    found = rows(whole)
    for arm in ("static", "set", "rigl"):
        for knob in (0.6, 0.9):
            row, tiny = found[arm, knob], found["tiny", knob]
            assert row.tiny == "tiny"
            assert row.tiny_comparison.delta == pytest.approx(
                statistics.delta(row.z[:, None], tiny.z[:, None])
            )
    assert [found[key].tiny for key in (("rlx2", 0.9), ("dense", 0.0), ("tiny", 0.9), ("placebo", 0.95))] == [
        None
    ] * 4
    arms = [{"recipe": name} for name in ("dense", "tiny", "tiny_rvl", "rigl", "rlx2")]
    found = rows(small(tmp_path, {}, arms=arms))
    assert (found["rlx2", 0.6].tiny, found["rigl", 0.6].tiny) == ("tiny_rvl", "tiny")


@pytest.mark.slow
def test_one_line_says_up_to_which_sparsity_an_arm_is_matched(tmp_path: Path):
    def shift(outcome):
        # Certain verdicts: rlx2 loses at 0.8 only, rigl from 0.8 on, set everywhere, and by little.
        run, lost = outcome.run, 0.0
        if run.recipe.name == "rlx2":
            lost = 0.4 * (run.sparsity == 0.8)
        elif run.recipe.name == "rigl":
            lost = 0.4 * (run.sparsity >= 0.8)
        elif run.recipe.name == "set":
            lost = 0.4
        points = np.full(20, -150.0 - 1050 * (lost or 0.0) + run.seed * 0.01, np.float32)
        points = points if run.recipe.name != "placebo" else points - 1000
        return dataclasses.replace(outcome, curve={**outcome.curve, "return": points})

    options = {
        "environments": fake.SUITE["environments"][:1],
        "sparsities": [0.9, 0.6, 0.8],
        "arms": [
            {"recipe": "dense"},
            {"recipe": "placebo", "sparsities": [0.95]},
            *({"recipe": name} for name in ("dense_rvl", "set", "rigl", "rlx2")),
            {"recipe": "static"},
        ],
    }
    fake.finished(tmp_path / "x", fake.make_plan(**options), change=shift)
    found = summary.summarise(tmp_path / "x")
    line = "Largest sparsity matched, all smaller ones matched too: set none, rigl 0.6, rlx2 0.6, static 0.9."
    assert line in tables.markdown(found) and line in " ".join(tables.latex(found).split())
    assert "as papers count: set none, rigl 0.6, rlx2 0.6, static 0.9." in tables.markdown(found)
    options["environments"] = [{**options["environments"][0], "learned": -10.0, "reference": 0.0}]
    fake.finished(tmp_path / "y", fake.make_plan(**options), change=shift)
    assert "Largest sparsity" not in tables.markdown(summary.summarise(tmp_path / "y"))


@pytest.mark.slow
def test_costs_in_the_table_are_those_of_the_records(whole: summary.Summary):
    found = rows(whole)
    assert found["rlx2", 0.9].executed_ratio == 1.0 and found["rlx2", 0.9].training_ratio < 0.15
    assert found["tiny", 0.9].executed_ratio == found["tiny", 0.9].training_ratio
    assert found["tiny", 0.9].speed is None and found["rlx2", 0.9].speed > 0
    assert found["rlx2", 0.9].compression_parameters > found["rlx2", 0.9].compression_bytes > 1
    assert found["dense", 0.0].compression_bytes == 1.0


@pytest.mark.slow
def test_costs_that_differ_by_seed_are_told_by_their_mean(miniature: Path, tmp_path: Path):
    miniature = Path(shutil.copytree(miniature, tmp_path / "mini"))
    before = rows(summary.summarise(miniature))["rlx2", 0.9]
    runs = before.runs
    own = records.read(miniature / "records" / runs[0])["result"]["costs"]
    extra = {"actor_parameters": 10, "inference_flops": 100, "training_flops_theory": 10**6}
    for k, run in enumerate(runs):

        def more(record, k=k):
            for key, value in extra.items():
                record["result"]["costs"][key] += k * value

        forge.change(miniature, run, more)
    after = rows(summary.summarise(miniature))["rlx2", 0.9]
    mean = {key: own[key] + value * (len(runs) - 1) / 2 for key, value in extra.items()}
    assert after.compression_parameters == own["actor_parameters_dense"] / mean["actor_parameters"]
    assert after.inference_ratio == mean["inference_flops"] / own["inference_flops_dense"]
    assert after.training_ratio == mean["training_flops_theory"] / own["training_flops_dense"]
    assert (
        after.compression_bytes == before.compression_bytes and after.executed_ratio == before.executed_ratio
    )
    assert before.inference_ratio == own["inference_flops"] / own["inference_flops_dense"]


def test_no_verdict_when_dense_has_not_learned(tmp_path: Path):
    found = small(tmp_path, {"dense": 0.5, "placebo": 0.1, "rlx2": 0.5})
    assert found.blocks[0].reason.startswith("not learned at this budget: dense reached")
    assert rows(found)["rlx2", 0.6].verdict == "not learned at this budget"
    assert "**Not learned at this budget" in tables.markdown(found)


def test_no_verdict_when_the_placebo_is_as_good(tmp_path: Path):
    found = small(tmp_path, {"dense": 1.0, "placebo": 1.2, "rlx2": 1.0})
    assert "placebo arm 'placebo' is not worse" in found.blocks[0].reason
    assert rows(found)["rlx2", 0.6].verdict == "not learned at this budget"


@pytest.mark.slow
def test_a_placebo_must_be_known_to_lose_and_dense_must_itself_reach_the_level(whole: summary.Summary):
    """An undecided placebo is no worse one, and the upper end of dense's interval is not its return."""
    block = whole.blocks[0]

    def why(role: str, **changes) -> str | None:
        changed = [dataclasses.replace(r, **changes) if r.role == role else r for r in block.rows]
        return verdicts.reason(changed, block.levels)

    placebo = next(row for row in block.rows if row.role == "placebo").comparison
    assert why("placebo", comparison=placebo) is None
    for verdict in ("undecided", "matched"):
        told = why("placebo", comparison=placebo._replace(verdict=verdict))
        assert told is not None and "is not worse than dense" in told
    learned = np.float64(block.levels["learned"])
    assert why("dense", value=statistics.Interval(learned, learned - 9, learned + 9)) is None
    told = why("dense", value=statistics.Interval(learned - 1, learned - 9, learned + 9))
    assert told is not None and "dense reached" in told


def test_no_verdict_without_a_placebo_arm_or_levels(tmp_path: Path):
    arms = [{"recipe": "dense"}, {"recipe": "rlx2"}]
    found = small(tmp_path / "a", {}, arms=arms)
    assert rows(found)["rlx2", 0.6].verdict == "no verdict"
    found = small(tmp_path / "b", {}, environments=[{"name": "gymnax:Pendulum-v1"}])
    assert rows(found)["rlx2", 0.6].verdict == "no verdict" and rows(found)["rlx2", 0.6].z is None
    assert found.pooled is None


def test_environments_without_verdicts_are_not_pooled(tmp_path: Path):
    environments = [fake.SUITE["environments"][0], {**fake.SUITE["environments"][1], "learned": 5000.0}]
    found = small(tmp_path, {"dense": 1.0, "placebo": 0.1}, environments=environments)
    assert found.blocks[0].reason is None and found.blocks[1].reason is not None
    assert found.pooled is None


def test_what_is_worse_on_one_environment_is_not_matched_on_all(tmp_path: Path):
    """The trimmed mean over 12 runs of which 6 are at 0.95 and 6 at 1 is 0.975: within the margin, but half is not."""
    ends = {"dense": (1.0, 1.0), "placebo": (0.1, 0.1), "rlx2": (0.95, 1.0)}
    tasks = fake.SUITE["environments"]

    def fix(outcome):
        index = [task["name"] for task in tasks].index(outcome.run.training.env)
        task, z = tasks[index], ends[outcome.run.recipe.name][index]
        end = np.float32(task["random"] + z * (task["reference"] - task["random"]))
        points = np.full_like(outcome.curve["return"], end)
        return dataclasses.replace(outcome, curve={**outcome.curve, "return": points})

    arms = [{"recipe": "dense"}, {"recipe": "placebo", "sparsities": [0.95]}, {"recipe": "rlx2"}]
    fake.finished(tmp_path / "x", fake.make_plan(arms=arms, sparsities=[0.6]), change=fix)
    found = summary.summarise(tmp_path / "x")
    assert [rows(found, index)["rlx2", 0.6].verdict for index in (0, 1)] == ["worse", "matched"]
    assert found.pooled is not None
    row = next(row for row in found.pooled.rows if row.arm == "rlx2")
    assert row.comparison is not None and row.comparison.lower == pytest.approx(-0.025, abs=1e-4)
    assert row.verdict == "uneven" and "rlx2 none" in (remarks.largest_matched(found.pooled) or "")


def test_diverged_runs_stay_in_at_the_random_level(tmp_path: Path):
    def diverge(outcome):
        if outcome.run.seed != 3 or outcome.run.arm != "rlx2":
            return outcome
        return dataclasses.replace(outcome, status="diverged", final_returns=np.full(10, np.nan, np.float32))

    options = {"environments": fake.SUITE["environments"][:1], "sparsities": [0.6]}
    fake.finished(tmp_path / "x", fake.make_plan(**options), change=diverge)
    row = rows(summary.summarise(tmp_path / "x"))["rlx2", 0.6]
    assert (row.diverged, row.worst, len(row.returns)) == (1, -1200.0, 6)
    assert row.failure_rate == pytest.approx(1 / 6)
    assert tables.cells(row)[8] == "17 % (1 div.)"


@pytest.mark.slow
def test_a_diverged_run_never_lifts_a_curve(tmp_path: Path):
    def diverge(outcome):
        if outcome.run.seed > 3 or outcome.run.arm != "rlx2":
            return outcome
        points = outcome.curve["return"].copy()
        points[10:] = np.nan
        return dataclasses.replace(outcome, status="diverged", curve={**outcome.curve, "return": points})

    def last(environment: dict, name: str) -> tuple[dict[str, str], str]:
        options = {"environments": [environment], "sparsities": [0.6]}
        fake.finished(tmp_path / name, fake.make_plan(**options), change=diverge)
        found = summary.summarise(tmp_path / name)
        _, data = plots.learning_curves(found, tmp_path / name)
        rows = [row for row in csv.DictReader(io.StringIO(data)) if row["arm"] == "rlx2"]
        return rows[-1], " ".join(found.caption)

    declared = fake.SUITE["environments"][0]
    row, caption = last(declared, "a")
    assert float(row["iqm"]) < -900 and row["seeds"] == "6"  # four of six runs at -1200
    assert "enters at the random policy's return." in caption
    row, caption = last({"name": declared["name"]}, "b")
    assert row["seeds"] == "2"
    assert "enters at the lowest return of any curve on its environment." in caption


@pytest.mark.slow
def test_the_luck_of_the_episodes_that_all_runs_share_is_told_as_a_standard_error(tmp_path: Path):
    """Returns of dense scatter by 60 and are means of two evaluations with 5 episodes; one run has none."""

    def final(outcome):
        if outcome.run.arm == "dense" and outcome.run.seed == 0:
            return dataclasses.replace(
                outcome, status="diverged", final_returns=np.full(4, np.nan, np.float32)
            )
        apart = 60.0 if outcome.run.arm == "dense" else 1.0
        return dataclasses.replace(outcome, final_returns=np.float32([-apart, -apart, apart, apart]))

    fake.finished(tmp_path / "x", fake.make_plan(environments=fake.SUITE["environments"][:1]), change=final)
    found = summary.summarise(tmp_path / "x")
    said = next(
        line for line in found.caption if line.startswith("All runs are evaluated on the same episodes")
    )
    assert said.endswith(f"by it: {found.blocks[0].env} 22.")  # 60 sqrt(4 / 3) / sqrt(10)


@pytest.mark.slow
def test_the_caption_says_what_is_counted_and_where_the_margin_lies(whole: summary.Summary):
    caption = " ".join(whole.caption)
    assert f"lower bound >= -{statistics.MARGIN:g}" in caption
    assert "executed the matrix products of the dense networks" in caption


@pytest.mark.slow
def test_an_unfinished_folder_says_so(miniature: Path, tmp_path: Path):
    other = Path(shutil.copytree(miniature, tmp_path / "copy"))
    shutil.rmtree(other / "records/gymnax-Pendulum-v1/rlx2-s0900-seed004")
    text = tables.markdown(summary.summarise(other))
    assert "INCOMPLETE: 1 of 168 runs" in text and "5 to 6 seeds" in text


def test_a_suite_that_is_no_result_says_so_everywhere(tmp_path: Path):
    found = small(tmp_path, {}, result=False, seeds=2)
    assert "NOT A RESULT" in tables.markdown(found) and "too few to be called a result" in tables.markdown(
        found
    )


@pytest.mark.slow
def test_latex_escapes_and_balances(whole: summary.Summary):
    text = tables.latex(whole)
    assert r"dense\_rvl" in text and text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3
    assert not any("_" in line.replace(r"\_", "") for line in text.splitlines() if "label" not in line)


@pytest.mark.slow
def test_this_machine_stands_beside_the_published_results(miniature: Path, tmp_path: Path, monkeypatch):
    found = summary.summarise(miniature)
    monkeypatch.setattr(publish, "results_folder", lambda: tmp_path)
    assert publish.beside(miniature, found) is None
    shutil.copytree(miniature, tmp_path / "mini")
    path = publish.beside(miniature, found)
    assert path is not None and path.parent == miniature
    text = path.read_text()
    assert "the same as here" in text and "overlap" in text and "apart" not in text
    assert records.CONFIGURATION in {entry.name for entry in (tmp_path / "mini").iterdir()}


@pytest.mark.slow
def test_the_screen_never_cuts_a_number(whole: summary.Summary):
    for width in (90, 130, 160, 200, 260):
        from rich.console import Console

        out = io.StringIO()
        tables.screen(whole, Console(file=out, width=width))
        assert "…" not in out.getvalue()


def test_gymnasium_and_its_physics_are_named_where_an_environment_is_gymnasiums():
    packages = {"jax": "0.10.0", "gymnasium": "1.4.0", "mujoco": "3.9.0", "optax": None}
    made = {"python": "3.11.7", "packages": packages}
    assert caption.versions(made, ["Pendulum-v1", "brax:hopper"]) == "Python 3.11.7, jax 0.10.0"
    both = caption.versions(made, ["Pendulum-v1", "gymnasium:Hopper-v5"])
    assert both == "Python 3.11.7, jax 0.10.0, gymnasium 1.4.0, mujoco 3.9.0"
