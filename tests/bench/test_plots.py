"""Where points of figures lie, and which of them no other beats."""

from __future__ import annotations

from sparserl_jax.bench import plots


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
