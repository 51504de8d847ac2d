"""The short version of `make test-faults`: a handful of kills where they tell most, an occupied folder, a full disk."""

import os

import pytest

from tests.faults import compare, installation, places
from tests.faults.process import Bench

SMALL = Bench.suite.with_name("small.toml")


@pytest.mark.parametrize("place", installation.PLACES)
def test_environment_that_was_killed_half_made_is_made_again(tmp_path, place):
    for number, (extra, on_top) in enumerate((("", False), ("dev", False), ("dev", True))):
        if not (on_top and place.startswith("venv")):  # an extra is added without making it anew
            found = installation.kill_and_make_again(tmp_path / str(number), place, extra, on_top)
            assert found == (True, [])


KILLS = (
    {"half": "configuration.json", "call": 1},
    {"line": "dispatch", "call": 5, "at": 2},
    {"half": "complete.json", "call": 2},
    {"line": "record", "call": 2, "at": 0},
    {"half": "record.json", "call": 2},
    {"half": "table.md", "call": 1},
)
"""In the first file; in a dispatch; in a checkpoint, beside a complete one; between two records; in a record; in a
table."""


@pytest.mark.slow
def test_suite_killed_and_run_again_ends_as_if_nothing_had_happened(tmp_path):
    # Never optimised code compiles in a third of the time, and what is compared comes from the same code.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
    calm, killed = (
        Bench(tmp_path / name, tmp_path / f"{name}.log", SMALL, tmp_path / "cache", flags)
        for name in ("calm", "killed")
    )
    assert calm.run().code == 0
    assert compare.unfinished(calm.folder, calm.folder) == []
    assert compare.facts(calm.folder)["events"] > 0

    def second_process():
        """Another process is refused in one sentence, and what the first one has is left alone."""
        before = {path: path.stat().st_mtime_ns for path in killed.folder.rglob("*")}
        refused = killed.run()
        (sentence,) = [line for line in refused.said.splitlines() if "error" in line]
        assert refused.code == 2 and "is in use by another run" in sentence
        assert {path: path.stat().st_mtime_ns for path in killed.folder.rglob("*")} == before

    seen = []
    for number, hook in enumerate(KILLS):
        ended = killed.run(hook, there=second_process if number == 1 else lambda: None)
        assert ended.killed, ended.said
        assert compare.different(killed.folder, calm.folder) == []
        assert "note:" not in ended.said
        seen.append(len(compare.visible(killed.folder)))
    assert seen == [0, 0, 0, 1, 2, 4]
    (killed.folder / "table.md").unlink(missing_ok=True)
    full = killed.run({"fail": "table.md", "call": 1})
    assert full.code == 2 and "error: No space left on device: make room" in full.said
    assert "Traceback" not in full.said and not (killed.folder / "table.md").exists()
    assert killed.run().code == 0
    assert compare.unfinished(killed.folder, calm.folder) == []
    steps, problems = compare.redone(killed.log)
    assert problems == [] and steps <= 30


def test_every_place_is_drawn_from_its_seed_alone_and_the_round_has_them_all():
    import numpy as np

    lines = dict.fromkeys(("save", "dispatch", "evaluate", "record", "summary", "tables", "plots"), 9)
    lines |= {"final": 3, "outcomes": 9}
    assert set(places.ROUND) == set(places.PLACES)
    for draw in places.PLACES.values():
        shots = [[draw(np.random.default_rng(seed), lines, 9.0) for seed in range(30)] for _ in range(2)]
        assert shots[0] == shots[1]
        assert len({str(shot) for shot in shots[0]}) > 1 or draw is places.between_records
