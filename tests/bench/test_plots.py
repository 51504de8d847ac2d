"""Where points of figures lie, which of them no other beats, and what a figure says of what it does not show."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from sparserl_jax.bench import columns, figures, plots, plots_rows, summary
from tests.bench.test_verdicts import DENSE_COSTS, LEVELS, block, dense, row


def test_points_of_one_size_are_set_apart_in_their_order_and_others_stay():
    places = plots._beside([1.0, 30.0, 30.1, 64.0, 30.0])
    assert places[0] == 1.0 and places[3] == 64.0
    three = [places[index] for index in (1, 4, 2)]
    assert three == sorted(three) and 27 < three[0] < three[1] < three[2] < 33
    many = plots._beside([1.0, *[8.0] * 30])
    assert len(set(many)) == 31 and max(many) / min(many[1:]) < 2 ** (0.13 * 3)


def test_the_front_is_what_no_other_point_beats():
    places, values = [1.0, 2.0, 2.0, 4.0, 8.0, 8.0], [5.0, 5.0, 3.0, 4.0, 4.0, 1.0]
    assert plots.front(places, values) == [1, 4]
    assert plots.front([1.0, 1.0], [2.0, 2.0]) == [0, 1]  # equals do not beat each other
    assert plots.front([], []) == []


def test_a_wider_network_is_as_small_as_its_bytes_say_beside_dense():
    """Its column in the table is beside dense of its own width, which has ten times the bytes."""
    whole, narrow = dense([1.0] * 5), row("static", [1.0] * 5, compression_bytes=20.0)
    wide = row(
        "static_6", [1.0] * 5, compression_bytes=20.0, width=6,
        dense_costs={**DENSE_COSTS, "actor_blob_bytes_dense": 4000},
    )  # fmt: skip
    assert plots._smaller(narrow, whole) == 20.0 and plots._smaller(wide, whole) == pytest.approx(2.0)
    assert plots._smaller(wide, None) == 20.0


def test_rows_further_down_are_counted_as_they_are_shown():
    low = [-3.0] * 5
    found = block(dense([1.0] * 5), row("lost", low), row("twin", low, role="aa"), row("good", [1.0] * 5))
    axes = Figure().add_subplot()
    axes.set_ylim(-4, 1)
    assert plots._cut(axes, found)
    assert [text.get_text() for text in axes.texts] == ["1 row further down"]
    assert axes.get_ylim()[0] == figures.floor(found)
    axes.set_ylim(-0.1, 1)
    assert not plots._cut(axes, found)


def test_a_row_of_which_a_seed_lies_below_the_axis_is_marked_and_told_whole():
    found = block(dense([1.0] * 20), row("lossy", [1.0] * 18 + [-9.0, 0.2]), row("good", [1.0] * 20))
    axes = Figure().add_subplot()
    plots_rows._draw(axes, found, ["dense", "lossy", "good", "placebo"])
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("<") == 1 and "matched, but 2 of 20 failed" in texts and plots_rows._cut(found)


def test_figures_of_near_sparsities_have_names_of_their_own():
    ends = [figures.Panel(False, knob).end for knob in (0.5, 0.95, 0.995, 0.9995, 0.9999)]
    assert ends == ["-s0500", "-s0950", "-s0995", "-s0.9995", "-s0.9999"]
    assert figures.Panel(True, 0.5).end == "-c0.5"


def test_a_heading_has_every_level_there_is():
    found = block(dense([1.0] * 5))
    only = {**dict.fromkeys(LEVELS), "failed": 0.5}
    assert columns.heading(dataclasses.replace(found, levels=only)) == "task (failed 0.5)"
    assert columns.heading(dataclasses.replace(found, levels=dict.fromkeys(LEVELS))) == "task"
    assert columns.heading(dataclasses.replace(found, levels={})) == "task"
    assert np.isfinite(figures.floor(found))


@pytest.mark.slow
def test_where_lines_are_many_a_panel_is_divided_and_dense_stands_in_every_part(
    miniature: Path, whole: summary.Summary, monkeypatch
):
    def panels() -> list[tuple[str, int]]:
        figure, _ = plots.learning_curves(whole, miniature)
        return [(axes.get_title("left"), len(axes.collections)) for axes in figure.axes if axes.lines]

    together = panels()
    assert len(together) == 4 and {bands for _, bands in together} == {8}  # 2 environments, 2 sparsities
    monkeypatch.setattr(plots, "CROWD", 7)
    monkeypatch.setattr(plots, "TOGETHER", 2)
    parts = panels()
    # dense and the placebo, and of dense_rvl, tiny, static, set, rigl and rlx2 two each time
    assert [bands for _, bands in parts] == 4 * [4, 4, 4]
    assert parts[0][0] == f"{together[0][0]} (1 of 3)" and parts[-1][0] == f"{together[-1][0]} (3 of 3)"
    monkeypatch.setattr(plots, "TOGETHER", 1)
    parts = panels()
    # dense_rvl alone is the same at both sparsities; the other five methods are not
    assert len(parts) == 2 * (1 + 2 * 5) and sum(title.endswith("dense") for title, _ in parts) == 2


@pytest.mark.slow
def test_a_band_that_leaves_the_axis_is_told(miniature: Path, whole: summary.Summary, monkeypatch):
    def text() -> str:
        figure, _ = plots.learning_curves(whole, miniature)
        return " ".join(" ".join(found.get_text() for found in figure.texts).split())

    sentence = "Bands that reach far above all lines are cut."
    assert sentence not in text()
    found = plots._curves(whole, miniature)
    first = next(iter(found.values()))
    first["upper"] = np.full_like(first["upper"], 1e6)
    monkeypatch.setattr(plots, "_curves", lambda *_: found)
    assert sentence in text()


@pytest.mark.slow
def test_whole_verdicts_stand_beside_their_rows(whole: summary.Summary):
    long = [dataclasses.replace(row, verdict="not learned at this budget") for row in whole.blocks[0].rows]
    found = dataclasses.replace(whole, blocks=[dataclasses.replace(whole.blocks[0], rows=long)])
    figure, _ = plots_rows.returns_by_row(found)
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        ends = [
            text.get_window_extent(renderer).x1 for text in axes.texts if text.get_text().startswith("not")
        ]
        assert len(ends) == len(long) and max(ends) <= figure.bbox.x1
