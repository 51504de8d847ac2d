"""Figures of the diagnostics, and the data behind them, from records."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sparserl_jax import cli
from sparserl_jax.bench import figures, plots_diagnostics, records, statistics, summary
from sparserl_jax.errors import UserError
from tests.bench import fake

NEW = (
    "q_bias", "dormant_actor_hidden_0", "dormant_critic_hidden_1", "turnover_actor", "overlap_critic",
    "critic_masked_grad_norm", "policy_distance",
)  # fmt: skip
ARMS = [
    {"recipe": "dense"},
    {"recipe": "dense", "name": "dense_aa", "role": "aa", "seeds_from": 100},
    {"recipe": "placebo", "sparsities": [0.95]},
    {"recipe": "set"},
]
ENV = "gymnax:Pendulum-v1"


def plan() -> Any:
    return fake.make_plan(arms=ARMS, seeds=3, environments=fake.SUITE["environments"][:1])


def with_diagnostics(outcome: Any) -> Any:
    """Made-up diagnostics; seed 1 of SET has no number from the middle on, and no policy distance is kept."""
    points = len(outcome.curve["env_step"])
    generator = np.random.default_rng(outcome.run.seed)
    added = {name: generator.uniform(0, 1, points).astype(np.float32) for name in NEW}
    added["q_bias"] = (added["q_bias"] - 0.5) * 10.0 ** generator.integers(0, 6, points)
    added["policy_distance"] = np.full(points, np.nan, np.float32)
    if outcome.run.recipe.name == "set" and outcome.run.seed == 1:
        added["q_bias"][points // 2 :] = np.inf
    return dataclasses.replace(outcome, curve={**outcome.curve, **added})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("diagnosed")
    fake.finished(root, plan(), change=with_diagnostics)
    return root


@pytest.fixture(scope="module")
def drawn(folder) -> tuple[Any, str]:
    """The figure at sparsity 0.6, and its CSV."""
    found = summary.summarise(folder)
    (block,) = found.blocks
    panel = figures.Panel(False, 0.6)
    return plots_diagnostics.figure_of(block, panel, plots_diagnostics.bands(block, found, folder), found)


def table(data: str) -> list[dict[str, str]]:
    return list(csv.DictReader(data.splitlines()))


def test_one_panel_per_diagnostic_that_has_values_in_the_order_of_the_documentation(drawn):
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes if axes.axison]
    assert titles == [
        "Q bias",
        "TD loss",
        "dormant units, actor hidden 0",
        "dormant units, critic hidden 1",
        "overlap with start, critic",
        "turnover, actor",
        "gradient norm, masked, critic",
    ]


def test_panels_show_the_sparsity_beside_dense_and_placebo_and_no_twin_of_dense(drawn):
    shown = {(line["arm"], line["sparsity"]) for line in table(drawn[1])}
    assert shown == {("dense", "0.0"), ("placebo", "0.95"), ("set", "0.6")}
    (legend,) = drawn[0].legends
    assert {text.get_text() for text in legend.get_texts()} == {"dense", "placebo (0.95)", "set"}


@pytest.mark.parametrize("name", ["q_bias", "turnover_actor"])
def test_data_are_interquartile_means_over_the_seeds_that_have_a_number(folder, drawn, name):
    curves = [
        records.read_curve(path)[name] for path in sorted(folder.glob("records/*/set-s0600-seed*/curve.csv"))
    ]
    assert len(curves) == 3
    lines = [line for line in table(drawn[1]) if line["arm"] == "set" and line["diagnostic"] == name]
    assert len(lines) == len(curves[0]) == 20
    for index, line in enumerate(lines):
        values = [curve[index] for curve in curves if curve[index] is not None]
        assert int(line["seeds"]) == len(values)
        iqm, lower, upper = (float(line[key]) for key in ("iqm", "lower", "upper"))
        assert iqm == pytest.approx(float(statistics.iqm(np.array(values)[:, None])))
        assert min(values) - 1e-9 <= lower <= iqm <= upper <= max(values) + 1e-9
        assert lower < upper or len(values) == 1
    assert {int(line["seeds"]) for line in lines} == ({2, 3} if name == "q_bias" else {3})


def test_values_of_many_orders_and_both_signs_are_shown_on_both_sides_of_zero(drawn):
    scales = {axes.get_title(loc="left"): axes.get_yscale() for axes in drawn[0].axes}
    assert scales["Q bias"] == "symlog" and scales["turnover, actor"] == "linear"


def test_command_draws_a_figure_per_sparsity_with_the_same_bytes_on_every_rerun(folder, tmp_path, capsys):
    seen = []
    for name in ("one", "two"):
        root = tmp_path / name
        shutil.copytree(folder, root)
        assert cli.run(["plot", str(root), "--diagnostics"]) == 0
        files = sorted((root / "plots").iterdir())
        seen.append({file.name: file.read_bytes() for file in files})
    assert seen[0] == seen[1]
    made = {name for name in seen[0] if name.startswith("diagnostics")}
    assert made == {
        f"diagnostics-gymnax-Pendulum-v1-s0{knob}.{suffix}"
        for knob in (600, 900)
        for suffix in ("png", "svg", "csv")
    }
    printed = capsys.readouterr().out
    assert all(name in printed for name in made)
    assert "learning_curves.png" in seen[0]


def test_without_the_flag_no_diagnostics_are_drawn(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "plain")
    assert cli.run(["plot", str(tmp_path / "plain")]) == 0
    assert not list((tmp_path / "plain" / "plots").glob("diagnostics*"))


def test_records_from_before_the_diagnostics_show_what_they_have(tmp_path):
    fake.finished(tmp_path, plan())
    found = summary.summarise(tmp_path)
    (block,) = found.blocks
    bands = plots_diagnostics.bands(block, found, tmp_path)
    assert {name for _, name in bands} == {"critic_loss"}
    made = plots_diagnostics.write(tmp_path, found)
    assert len(made) == 6 and all(path.stat().st_size > 0 for path in made)


def test_folder_without_a_finished_run_is_refused_in_a_sentence(folder, tmp_path):
    shutil.copyfile(folder / "configuration.json", tmp_path / "configuration.json")
    with pytest.raises(UserError, match="no finished run"):
        plots_diagnostics.write(tmp_path)


def test_columns_nobody_has_documented_are_not_drawn():
    names = {"turnover_critic", "turnover_actor", "q_bias", "return", "broken", "somebody_elses"}
    assert plots_diagnostics.names_of(names) == ["q_bias", "turnover_actor", "turnover_critic"]


def test_style_and_colours_are_those_of_the_other_figures(drawn):
    line = next(
        line for line in drawn[0].axes[0].lines if len(line.get_xdata()) == 20 and line.get_zorder() == 3
    )
    assert line.get_color() == figures.COLOURS["dense"]


def test_curves_count_updates_where_nothing_is_done_in_the_environment():
    tasks = [
        {"name": "own:Treatment-III", "dataset": "own:random?episodes=50"},
        {"name": "gymnax:Pendulum-v1"},
    ]
    drawn: Any = SimpleNamespace(settings={"suite": {"tasks": tasks}})
    assert [figures.steps_of(drawn, task["name"]) for task in tasks] == ["updates", "environment steps"]
