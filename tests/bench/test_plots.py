"""Where points of figures lie, which of them no other beats, and what a figure says of what it does not show."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure

from sparserl_jax.bench import columns, figures, plots, plots_rows
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
