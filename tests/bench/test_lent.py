"""The whole way of a slice: train what fits, pack it, unpack elsewhere, check, publish, leave it out next time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import pytest

from sparserl_jax import cli
from sparserl_jax.bench import pack, paths, provenance, publish, records, slices, suites
from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import run as runs
from sparserl_jax.errors import UserError
from sparserl_jax.training.runner import Stopped
from tests.bench import fake
from tests.bench.test_publish import git

SUITE = """name = "lent"
steps = 240
warm_up = 80
seeds = 6
sparsities = [0.6]
[agent]
hidden = [8, 8]
batch_size = 16
[schedule]
topology_interval = 40
delay = 80
buffer_max = 200
buffer_min = 40
buffer_check = 40
[evaluation]
interval = 80
episodes = 2
final_episodes = 4
[[environments]]
name = "gymnax:Pendulum-v1"
[[arms]]
recipe = "dense"
[[arms]]
recipe = "rigl"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    """A committed checkout with the suite, whose `results/` is read and written; everything runs in `tmp_path`."""
    root = tmp_path / "home"
    root.mkdir()
    (root / "suite.toml").write_text(SUITE)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        git(root, *words)
    commit = provenance.head(root)
    state = {"git_commit": commit, "git_describe": commit[:7], "git_dirty": False}
    real = provenance.repository
    monkeypatch.setattr(provenance, "repository", lambda folder=None: real(folder) if folder else dict(state))
    monkeypatch.setattr(paths, "checkout", lambda: root)
    monkeypatch.chdir(tmp_path)
    return root


class Miniature:
    """Programs and their execution in miniature. executed: names of those that were executed; stop: the deadline comes
    in the middle of the next one."""

    def __init__(self, monkeypatch) -> None:
        self.executed: list[str] = []
        self.stop = False
        self.real = runs.run
        monkeypatch.setattr(plans, "make", fake.make_plan)
        monkeypatch.setattr(runs, "run", self.run)

    def run(self, plan, folder, console, **options):
        inner = fake.Execute(plan)

        def execute(program, *, rehearsed=None, **given):
            if rehearsed is not None:
                rehearsed(0.5, 0.1)
            if self.stop:
                raise Stopped("time budget", 80)
            self.executed.append(program.name)
            return inner(program, **given)

        return self.real(plan, folder, console, execute=execute, **options)


def test_a_slice_travels_and_is_published_and_is_not_run_again(
    home: Path, tmp_path: Path, monkeypatch, capsys
):
    miniature = Miniature(monkeypatch)
    there = ["bench", "home/suite.toml", "--time-budget", "10m", "--skip-published", "--out", "there"]
    assert cli.run([*there, "--pack", "x.tar.gz"]) == 0
    said = capsys.readouterr().out
    assert len(miniature.executed) == 1 and "nothing is published in results/lent" in said
    assert "its time is not known, it is rehearsed before it begins" in said
    assert "Packed: x.tar.gz" in said and "sparserl unpack x.tar.gz" in said
    # On the other machine: nothing but the archive.
    assert cli.run(["unpack", "x.tar.gz", "--into", "runs/lent"]) == 0
    assert cli.run(["check", "runs/lent"]) == 0
    target = publish.publish(Path("runs/lent"))
    assert target == home / "results/lent"
    for record in records.load_all(target)[1]:
        assert record == records.read(tmp_path / "there/records" / record["run_id"])
    assert (target / "suite.toml").read_text() == SUITE
    capsys.readouterr()
    # The next slice has nothing left to do.
    again = ["bench", "home/suite.toml", "--time-budget", "10m", "--skip-published", "--out", "new"]
    assert cli.run(again) == 0
    assert (
        len(miniature.executed) == 1
        and "12 of 12 runs are skipped: results/lent holds" in capsys.readouterr().out
    )
    assert not (tmp_path / "new").exists()


def test_what_is_finished_leaves_although_the_command_ends_early(home: Path, monkeypatch, capsys):
    miniature = Miniature(monkeypatch)
    there = ["bench", "home/suite.toml", "--out", "there"]
    assert cli.run(there) == 0
    shutil.rmtree("there/records/gymnax-Pendulum-v1/rigl-s0600-seed005")
    miniature.stop = True
    capsys.readouterr()
    assert cli.run([*there, "--time-budget", "10m", "--pack", "x.tar.gz"]) == 3
    told = capsys.readouterr()
    assert "Packed: x.tar.gz" in told.out
    assert told.err.startswith("time budget at step 80: 1 runs in 1 programs are left")
    # What ends the command is told even where nothing can be packed any more.
    for error in (UserError("no room for an archive"), OSError(28, "no room for an archive")):

        def full(*given, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(pack, "pack", full)
            assert cli.run([*there, "--time-budget", "10m", "--pack", "x.tar.gz"]) == 3
        told = capsys.readouterr()
        assert "no room for an archive" in told.out and told.err.startswith("time budget at step 80")
    assert cli.run(["unpack", "x.tar.gz", "--into", "runs/lent"]) == 0
    assert "11 runs unpacked; of its suite's runs it now has 11 of 12 of them" in capsys.readouterr().out
    assert cli.run(["check", "runs/lent"]) == 1


def test_what_was_unpacked_but_not_published_is_left_out_by_its_list(home: Path, monkeypatch, capsys):
    """Rows are published whole; parts of them that are at home already must not be made again meanwhile."""
    miniature = Miniature(monkeypatch)
    assert cli.run(["bench", "home/suite.toml", "--out", "first"]) == 0
    for seed in (3, 4, 5):
        for row in ("dense-s0000", "rigl-s0600"):
            shutil.rmtree(f"first/records/gymnax-Pendulum-v1/{row}-seed00{seed}")
    assert pack.pack(Path("first"), Path("x.tar.gz"))
    assert cli.run(["unpack", "x.tar.gz", "--into", "runs/lent"]) == 0
    # Only the list travels.
    Path("second").mkdir()
    shutil.copy("runs/lent/finished.json", "second/finished.json")
    capsys.readouterr()
    slice_ = ["bench", "home/suite.toml", "--out", "second", "--time-budget", "10m", "--pack", "y.tar.gz"]
    assert cli.run([*slice_, "--skip-finished", "second/finished.json"]) == 0
    said = capsys.readouterr().out
    assert "--skip-finished: 6 of 12 runs are skipped" in said and "rehearsed" not in said
    ids = {path.parent.name for path in Path("second").glob("records/*/*/record.json")}
    assert {name[-3:] for name in ids} == {"003", "004", "005"} and len(miniature.executed) == 2
    assert cli.run(["unpack", "y.tar.gz", "--into", "runs/lent"]) == 0
    assert cli.run(["check", "runs/lent"]) == 0
    for harm, sentence in (
        ("{", "is no list"),
        ('{"runs": [], "suite_hash": "x", "rates": []}', "lists runs of"),
        (
            json.dumps(
                {**json.loads(Path("second/finished.json").read_text()), "data": {"e": {"sha256": "0"}}}
            ),
            "lists runs that learned from other files",
        ),
    ):
        Path("finished.json").write_text(harm)
        assert cli.run([*slice_, "--skip-finished", "finished.json"]) == 2
        assert sentence in capsys.readouterr().err


def test_a_name_no_archive_can_have_is_refused_before_anything_runs(home: Path, monkeypatch, capsys):
    miniature = Miniature(monkeypatch)
    assert cli.run(["bench", "home/suite.toml", "--out", "there", "--pack", "x.zip"]) == 2
    assert "ends in .tar.gz" in capsys.readouterr().err
    assert miniature.executed == [] and not Path("there").exists()


@pytest.mark.long
def test_real_parts_are_trained_packed_published_and_made_again_bit_for_bit(
    home: Path, tmp_path: Path, request
):
    before = (
        jax.config.jax_compilation_cache_dir
    )  # a cache of the tests' own, which slices would leave in use
    request.addfinalizer(lambda: jax.config.update("jax_compilation_cache_dir", before))
    jax.config.update("jax_compilation_cache_dir", None)
    plan = plans.make(suites.read(home / "suite.toml"))
    (program,) = plan.programs
    parts = [slices.ids(plan, one) for one in slices.cut(plan, program, 2)]
    (tmp_path / "there").mkdir()
    runs.claim(tmp_path / "there", plan)
    (tmp_path / "there" / slices.FILE).write_text(json.dumps(parts))
    bench = ["bench", "home/suite.toml", "--out"]
    assert cli.run([*bench, "there", "--time-budget", "30m", "--skip-published", "--pack", "x.tar.gz"]) == 0
    # Parts of equal size are one compilation, kept for the next slice.
    kept = [path.name.partition("-")[0] for path in Path("there/compiled").rglob("jit_*-cache")]
    assert kept.count("jit_train") == 1
    assert cli.run(["unpack", "x.tar.gz", "--into", "runs/lent"]) == 0
    assert cli.run(["check", "runs/lent"]) == 0
    target = publish.publish(Path("runs/lent"))
    (row,) = (line for line in (target / "reproduce.md").read_text().splitlines() if "| rigl |" in line)
    assert "--divided-as . --only" in row
    again = [*bench, "again", "--divided-as", "home/results/lent", "--only", "rigl"]
    assert cli.run([*again, "--compilation-cache", "there/compiled"]) == 0
    for record in records.load_all(target)[1]:
        twin = records.read(tmp_path / "again/records" / record["run_id"])
        assert twin["result"] == record["result"] and twin["files"]["curve"] == record["files"]["curve"]
        assert twin["provenance"]["program_members"] == record["provenance"]["program_members"]
        assert record["provenance"]["program_members"] in parts
