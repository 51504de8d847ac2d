"""Running: one writer, one configuration, nothing done twice, and an orderly stop."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
from rich.console import Console

from sparserl_jax.bench import provenance, records, schema
from sparserl_jax.bench import run as runs
from sparserl_jax.bench.progress import Interrupt, Live
from sparserl_jax.errors import UserError
from sparserl_jax.training.runner import Stopped
from tests.bench import fake

SMALL = {"seeds": 2, "sparsities": [0.8], "arms": [{"recipe": "dense"}, {"recipe": "rlx2"}]}


def test_finished_records_are_skipped_and_only_their_programs(tmp_path: Path):
    plan = fake.make_plan(**SMALL)
    first = fake.Execute(plan)
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=first)
    assert len(first.programs) == 4
    again = fake.Execute(plan)
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=again)
    assert again.programs == []
    lost = tmp_path / "x/records/gymnax-Pendulum-v1/rlx2-s0800-seed001"
    kept = lost.with_name("rlx2-s0800-seed000") / "record.json"
    before = kept.stat().st_mtime_ns
    shutil.rmtree(lost)
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=again)
    assert again.programs == ["gymnax-Pendulum-v1-n3"]
    assert lost.is_dir() and kept.stat().st_mtime_ns == before


def test_whoever_carries_finished_runs_away_is_called_after_every_program(tmp_path: Path):
    """Records are there when it is called, and nobody is called for what was finished before."""
    plan, seen = fake.make_plan(**SMALL), []

    def after():
        seen.append(len(list((tmp_path / "x/records").glob("*/*/record.json"))))

    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan), after=after)
    assert seen == [2, 4, 6, 8]
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan), after=after)
    assert seen == [2, 4, 6, 8]


def test_a_record_of_another_configuration_is_not_finished_here(tmp_path: Path):
    plan = fake.make_plan(**SMALL)
    folder = runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))
    run_id = plan.runs[0].folder.as_posix()
    assert records.finished(folder, run_id, plan.suite.hash())
    assert not records.finished(folder, run_id, "0" * 12)


def test_a_damaged_record_is_made_again(tmp_path: Path):
    plan = fake.make_plan(**SMALL)
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))
    curve = tmp_path / "x/records/gymnax-Pendulum-v1/dense-s0000-seed000/curve.csv"
    good = curve.read_bytes()
    curve.write_bytes(good[:-10])
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))
    assert curve.read_bytes() == good


def test_checkpoints_go_only_when_all_records_are_there(tmp_path: Path):
    plan = fake.make_plan(**SMALL)
    execute = fake.Execute(plan)

    def leaves_checkpoint(program, *, folder, deadline, progress):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state").write_text("x")
        if program.name.startswith("brax"):
            raise Stopped("interrupted", 2000)
        return execute(program, folder=folder, deadline=deadline, progress=progress)

    with pytest.raises(runs.Unfinished) as stop:
        runs.run(plan, tmp_path / "x", fake.quiet(), execute=leaves_checkpoint)
    assert stop.value.code == 130
    left = [entry.name for entry in (tmp_path / "x/programs").iterdir()]
    assert left == ["brax-inverted_pendulum-backend-spring-n1"]


def origins(root: Path) -> list[tuple[bool | None, dict | None]]:
    """(dirty, resumed_from) of every record."""
    found = [json.loads(path.read_text()) for path in sorted(root.glob("records/*/*/record.json"))]
    assert not any(schema.errors(record) for record in found)
    return [(r["provenance"]["git_dirty"], r["provenance"].get("resumed_from")) for r in found]


def test_a_program_that_another_commit_began_says_so_and_counts_as_dirty(tmp_path: Path, monkeypatch):
    plan = fake.make_plan(**{**SMALL, "arms": SMALL["arms"][:1]})
    state = {"git_commit": "a" * 40, "git_describe": "a", "git_dirty": False}
    monkeypatch.setattr(provenance, "repository", lambda: dict(state))

    def stops(program, *, folder, deadline, progress):
        (folder / "checkpoint-1").mkdir()
        raise Stopped("interrupted", 2000)

    with pytest.raises(runs.Unfinished):
        runs.run(plan, tmp_path / "x", fake.quiet(), execute=stops)
    (entry,) = json.loads((tmp_path / "x/programs/gymnax-Pendulum-v1-n1/origin.json").read_text())
    stored = entry["origin"]
    machine = {"device_kind", "device_count", "cpu", "cpu_vectors"}
    options = {"python", "matmul_precision", "x64", "threefry_partitionable", "xla_flags"}
    assert set(stored) == {"git_commit", "git_dirty", "jax", "packages"} | machine | options
    assert {"brax", "flax", "optax"} <= set(stored["packages"])
    # The second program begins without a checkpoint: nothing of the first commit is in its results.
    state["git_commit"], out = "b" * 40, io.StringIO()
    runs.run(plan, tmp_path / "x", Console(file=out, width=300), execute=fake.Execute(plan))
    brax, gymnax = origins(tmp_path / "x")[:2], origins(tmp_path / "x")[2:]
    assert brax == [(False, None)] * 2 and gymnax == [(True, stored)] * 2
    assert "goes on from a checkpoint of other code" in out.getvalue()


@pytest.mark.parametrize("changed", ["cpu", "cpu_vectors"])
def test_only_where_the_processor_computes_another_one_is_another_machine(monkeypatch, changed):
    def told(**system) -> bool:
        found = {**provenance.collect(), "system": {**provenance.system(), **system}}
        other = {**found, "system": {**found["system"], changed: "another"}}
        return provenance.origin(found) != provenance.origin(other)

    assert told(platform="cpu") and not told(platform="gpu")


def test_what_computes_on_an_accelerator_is_told_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("sparserl_jax", "jax"))
    monkeypatch.setattr(provenance, "ACCELERATED", ("no-such-package",))
    assert set(provenance.collect()["packages"]) == {"sparserl_jax", "jax"}
    monkeypatch.setattr(provenance, "ACCELERATED", ("numpy", "no-such-package"))
    found = provenance.collect()
    assert set(found["packages"]) == {"sparserl_jax", "jax", "numpy"}
    another = {**found, "packages": {**found["packages"], "numpy": "another"}}
    assert provenance.origin(found) != provenance.origin(another)


@pytest.mark.parametrize(
    "option", ["matmul_precision", "x64", "threefry_partitionable", "xla_flags", "python"]
)
def test_a_changed_option_of_jax_is_another_origin(option):
    found = provenance.collect()
    assert provenance.origin({**found, option: "another"}) != provenance.origin(found)


def test_a_program_that_goes_on_with_another_number_of_devices_says_so(tmp_path: Path, monkeypatch):
    plan = fake.make_plan(**{**SMALL, "arms": SMALL["arms"][:1]})
    machine = provenance.system()
    monkeypatch.setattr(provenance, "system", lambda: dict(machine))

    def stops(program, *, folder, deadline, progress):
        (folder / "checkpoint-1").mkdir()
        raise Stopped("interrupted", 2000)

    with pytest.raises(runs.Unfinished):
        runs.run(plan, tmp_path / "x", fake.quiet(), execute=stops)
    machine["device_count"] += 3
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))
    begun = [before for _, before in origins(tmp_path / "x") if before is not None]
    assert [before["device_count"] for before in begun] == [machine["device_count"] - 3] * 2
    # Records made before the number was kept stay valid.
    path = next(p for p in tmp_path.glob("x/records/gymnax*/*/record.json"))
    record = json.loads(path.read_text())
    del record["provenance"]["resumed_from"]["device_count"], record["provenance"]["resumed_from"]["packages"]
    assert schema.errors(record) == []


def test_records_name_the_commit_that_was_there_before_the_training(tmp_path: Path, monkeypatch):
    plan = fake.make_plan(**SMALL)
    state = {"git_commit": "a" * 40, "git_describe": "a", "git_dirty": False}
    monkeypatch.setattr(provenance, "repository", lambda: dict(state))

    def commits(outcome):
        state["git_commit"] = "b" * 40
        return outcome

    for letter in ("a", "b"):  # collected anew by every call of run, within one process too
        runs.run(plan, tmp_path / letter, fake.quiet(), execute=fake.Execute(plan, commits))
        record = next((tmp_path / letter).glob("records/*/*/record.json"))
        assert json.loads(record.read_text())["provenance"]["git_commit"] == letter * 40


def test_a_folder_in_use_is_refused(tmp_path: Path):
    plan = fake.make_plan(**SMALL)
    with runs.locked(tmp_path / "x"), pytest.raises(UserError, match="in use by another run"):
        runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))


def test_a_file_system_without_locks_is_not_another_run(tmp_path: Path, monkeypatch):
    def locks(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(runs.fcntl, "flock", locks)
    with pytest.raises(UserError, match="its file system has no locks"), runs.locked(tmp_path / "x"):
        pass
    with pytest.raises(UserError, match="cannot write to"), runs.locked(tmp_path / ("x" * 300)):
        pass


@pytest.mark.parametrize(("commit", "dirty"), [("a", True), ("a", False), ("a", None), (None, None)])
def test_what_can_never_be_published_says_so_before_it_is_trained(tmp_path: Path, monkeypatch, commit, dirty):
    state = {"git_commit": commit and commit * 40, "git_describe": commit, "git_dirty": dirty}
    monkeypatch.setattr(provenance, "repository", lambda: dict(state))
    plan, out = fake.make_plan(**SMALL), io.StringIO()
    runs.run(plan, tmp_path / "x", Console(file=out, width=300), execute=fake.Execute(plan))
    assert ("what is trained now can never be published" in out.getvalue()) == (dirty is not False)


def test_a_folder_of_another_configuration_is_refused_and_left_alone(tmp_path: Path):
    fake.finished(tmp_path / "x", fake.make_plan(**SMALL))
    before = (tmp_path / "x" / records.CONFIGURATION).read_bytes()
    other = fake.make_plan(**SMALL, agent={"hidden": [16, 16], "batch_size": 64})
    with pytest.raises(
        UserError, match=r"another configuration \(suite\.agent\.batch_size is 32 there and 64 here\)"
    ):
        runs.run(other, tmp_path / "x", fake.quiet(), execute=fake.Execute(other))
    assert (tmp_path / "x" / records.CONFIGURATION).read_bytes() == before
    more = fake.make_plan(**{**SMALL, "seeds": 3})  # other runs, too: what is told is why
    with pytest.raises(
        UserError, match=r"\(suite\.arms\[0\]\.seeds is \[0, 1\] there and \[0, 1, 2\] here\)"
    ):
        runs.claim(tmp_path / "x", more)
    renamed = fake.make_plan(**SMALL, title="the same under another title")
    runs.run(renamed, tmp_path / "x", fake.quiet(), execute=fake.Execute(renamed))


def test_a_folder_with_other_files_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    plan = fake.make_plan(**SMALL)
    with pytest.raises(UserError, match=r"not empty and no suite made it \('thesis\.tex'\)"):
        runs.run(plan, tmp_path, fake.quiet(), execute=fake.Execute(plan))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_time_budget_has_its_own_exit_code(tmp_path: Path):
    plan = fake.make_plan(**SMALL)

    def slow(program, *, folder, deadline, progress):
        assert deadline is not None
        raise Stopped("time budget", 600)

    with pytest.raises(runs.Unfinished, match="time budget at step 600") as stop:
        runs.run(plan, tmp_path / "x", fake.quiet(), execute=slow, time_budget=5.0)
    assert stop.value.code == runs.EXIT_TIME_BUDGET == 3
    with pytest.raises(UserError, match="positive number of seconds"):
        runs.run(plan, tmp_path / "x", fake.quiet(), execute=slow, time_budget=0.0)

    def idle(program, **given):
        raise Stopped("time budget", 0, idle=True)

    with pytest.raises(runs.Unfinished, match=r"step 0 \(all of it went into compiling: give a larger"):
        runs.run(plan, tmp_path / "x", fake.quiet(), execute=idle, time_budget=5.0)
    first, execute = plan.programs[0].name, fake.Execute(plan)

    def one(program, **given):
        return execute(program, **given) if program.name == first else idle(program, **given)

    with pytest.raises(runs.Unfinished) as stop:  # the next call goes on well
        runs.run(plan, tmp_path / "y", fake.quiet(), execute=one, time_budget=5.0)
    assert "compiling" not in str(stop.value)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_the_end_of_a_job_wait_for_the_end_of_a_dispatch(tmp_path: Path, sent):
    plan = fake.make_plan(**SMALL)
    reached = []

    def trained(program, *, folder, deadline, progress):
        progress.advance(program.name, 0, 4000)
        os.kill(os.getpid(), sent)
        reached.append("the dispatch ended")
        try:
            progress.advance(program.name, 200, 4000)
        except KeyboardInterrupt:
            reached.append("checkpoint")
            raise Stopped("interrupted", 200) from None

    with pytest.raises(runs.Unfinished) as stop:
        runs.run(plan, tmp_path / "x", fake.quiet(), execute=trained)
    assert reached == ["the dispatch ended", "checkpoint"] and stop.value.code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_progress_speaks_in_lines_where_there_is_no_terminal():
    out = io.StringIO()
    with Live(Console(file=out, width=200), Interrupt(), total=8000) as live:
        live.begin("program 1/2", 2, 4000)
        live.spoke -= 60
        live.advance("p", 200, 4000)
        live.began, live.spoke = live.began - 10, live.spoke - 60
        live.score("p", 300, [5.0, math.nan, 3.0])
        assert live.note == "return 3 .. 5 .. 5; 1 diverged"
        live.score("p", 400, [3.0, 1.0, 2.0])
        live.advance("p", 400, 4000)
        live.warn("p", "one checkpoint was damaged")
        live.finish(4000)
    text = out.getvalue()
    assert "program 1/2: 2 members" in text
    assert "step 400 of 4,000; return 1 .. 2 .. 3; about" in text and "left" in text
    assert "note: one checkpoint was damaged" in text
