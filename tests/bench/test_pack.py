"""Packed runs arrive elsewhere as they left; nothing damaged, foreign or different comes in."""

from __future__ import annotations

import functools
import gzip
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl_jax import cli
from sparserl_jax.bench import check, pack, rates, records, unpack
from sparserl_jax.errors import UserError
from tests.bench import fake, forge

SAMPLE = rates.Sample("1 x fast", "gymnax:Pendulum-v1", "td3", 6, 1e9, 2.0, 1.0)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder that packing takes along."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "networks.npz", "finished.json")
    }


@functools.cache
def source() -> Path:
    """A finished folder that no test changes."""
    folder = Path(tempfile.mkdtemp()) / "mini"
    fake.finished(folder, fake.make_plan(**fake.SMALL))
    (folder / "suite.toml").write_text("the suite's file")
    rates.store(folder, [SAMPLE])
    return folder


@functools.cache
def archive() -> bytes:
    """The source, packed."""
    file = Path(tempfile.mkdtemp()) / "x.tar.gz"
    assert pack.pack(source(), file) == [file]
    return file.read_bytes()


def rewritten(file: Path, change) -> None:
    """An archive whose members were changed: `change(list of (TarInfo, content)) -> list`."""
    with tarfile.open(fileobj=io.BytesIO(archive())) as old:
        members = [(info, (old.extractfile(info) or io.BytesIO()).read()) for info in old.getmembers()]
    with tarfile.open(file, "w:gz") as new:
        for info, data in change(members):
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))


def test_everything_but_unpublished_weights_arrives_and_passes_the_check(tmp_path: Path):
    (tmp_path / "x.tar.gz").write_bytes(archive())
    (found,) = unpack.unpack([tmp_path / "x.tar.gz"], tmp_path / "there")
    assert content(tmp_path / "there") == content(source())
    assert (len(found.new), found.known, found.present, found.total) == (6, (), 6, 6)
    assert check.check(tmp_path / "there") == []
    (again,) = unpack.unpack([tmp_path / "x.tar.gz"], tmp_path / "there")
    assert again.new == () and len(again.known) == 6 and "6 were there already" in again.line()


def test_runs_of_large_coefficients_arrive_too(tmp_path: Path):
    """Their names have a plus, `l0-c1e+06-seed000`."""
    arms = [{"recipe": "dense"}, {"recipe": "l0", "sparsities": [1e6]}]
    fake.finished(tmp_path / "x", fake.make_plan(**{**fake.SMALL, "arms": arms}))
    pack.pack(tmp_path / "x", tmp_path / "x.tar.gz")
    (found,) = unpack.unpack([tmp_path / "x.tar.gz"], tmp_path / "there")
    assert any("l0-c1e+06-seed" in name for name in found.new) and found.present == found.total


def test_nothing_to_unpack_is_told():
    with pytest.raises(UserError, match="give at least one archive"):
        unpack.unpack([])


def test_equal_folders_give_equal_archives_without_clock_user_or_machine(tmp_path: Path):
    copy = shutil.copytree(source(), tmp_path / "elsewhere")
    pack.pack(copy, tmp_path / "y.tar.gz")
    assert (tmp_path / "y.tar.gz").read_bytes() == archive()
    with tarfile.open(tmp_path / "y.tar.gz") as made:
        assert {(i.mtime, i.uid, i.gid, i.uname, i.gname) for i in made.getmembers()} == {(0, 0, 0, "", "")}
        assert made.getnames()[0] == pack.MANIFEST


def test_what_is_too_large_for_one_goes_into_numbered_further_ones(tmp_path: Path):
    limit = len(archive()) // 2
    made = pack.pack(source(), tmp_path / "x.tar.gz", limit=limit)
    assert [path.name for path in made] == [f"x{n}.tar.gz" for n in ("", *(f".{i}" for i in range(2, 99)))][
        : len(made)
    ]
    assert len(made) >= 3 and all(path.stat().st_size <= limit for path in made)
    for path in reversed(made):  # in any order, one by one
        unpack.unpack([path], tmp_path / "there")
    assert content(tmp_path / "there") == content(source())
    # Packed again under a larger limit, the further ones are no longer true.
    assert pack.pack(source(), tmp_path / "x.tar.gz") == made[:1]
    assert [path.name for path in tmp_path.glob("*.gz")] == ["x.tar.gz"]
    with pytest.raises(UserError, match=r"run '.*' takes .* \(2,000\) \(and 5 others\)"):
        pack.pack(source(), tmp_path / "x.tar.gz", limit=2000)
    assert unpack.read(tmp_path / "x.tar.gz").runs.keys() == set(forge.run_ids(source()))


def test_a_run_that_no_archive_can_hold_keeps_no_other_from_leaving(tmp_path: Path):
    folder = shutil.copytree(source(), tmp_path / "mini")
    sizes = {run_id: sum(map(len, pack._files(folder, run_id).values())) for run_id in forge.run_ids(folder)}
    largest = max(sizes, key=lambda run_id: sizes[run_id])
    file = folder / "records" / largest / "timings.json"
    file.write_bytes(os.urandom(200_000))
    digest = records.digest(file.read_bytes())
    forge.change(folder, largest, lambda record: record["files"]["timings"].update(sha256=digest))
    with pytest.raises(UserError, match=f"run '{largest}' takes .* All else is packed"):
        pack.pack(folder, tmp_path / "x.tar.gz", limit=120_000)
    left = {run for path in tmp_path.glob("x*.tar.gz") for run in unpack.read(path).runs}
    assert left == set(sizes) - {largest}


def test_a_further_archive_is_seen_where_the_first_was_moved_away(tmp_path: Path):
    (tmp_path / "x.2.tar.gz").write_bytes(gzip.compress(b"not ours"))
    with pytest.raises(UserError, match=r"x\.2\.tar\.gz' exists and is no archive of this suite"):
        pack.pack(source(), tmp_path / "x.tar.gz")
    assert not (tmp_path / "x.tar.gz").exists()


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 5)), st.integers(30_000, 200_000))
@pytest.mark.slow
def test_any_set_of_finished_runs_survives_the_round_trip(kept, limit):
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folder = shutil.copytree(source(), place / "part")
        for index, run_id in enumerate(forge.run_ids(folder)):
            if index not in kept:
                shutil.rmtree(folder / "records" / run_id)
        made = pack.pack(folder, place / "x.tgz", limit=limit)
        assert all(path.stat().st_size <= limit for path in made) and bool(made) is bool(kept)
        if made:
            (found,) = unpack.unpack(made, place / "there")
            assert len(found.new) == len(kept) and content(place / "there") == content(folder)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_archive_is_refused_or_was_not_harmed(data):
    whole = archive()
    kind = data.draw(st.sampled_from(["flip", "cut", "append", "drop"]))
    place = data.draw(st.integers(0, len(whole) - 1))
    if kind == "flip":
        bit = 1 << data.draw(st.integers(0, 7))
        body = whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
    elif kind == "cut":
        body = whole[:place]
    elif kind == "append":
        body = whole + data.draw(st.binary(min_size=1, max_size=40))
    else:
        body = whole[:place] + whole[min(place + data.draw(st.integers(1, 5000)), len(whole)) :]
    with tempfile.TemporaryDirectory() as name:
        file, there = Path(name) / "x.tar.gz", Path(name) / "there"
        file.write_bytes(body)
        try:
            unpack.unpack([file], there)
        except UserError as error:
            assert "x.tar.gz" in str(error) and not there.exists()
        else:
            assert content(there) == content(source())


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/tmp/outside",
        "records/../../outside/record.json",
        "records/a/../record.json",
        "records/.hidden/x/record.json",
        "records/a/b/networks.npz",
        "records/a/b/c/record.json",
        "notes.txt",
    ],
)
def test_a_member_under_another_name_is_refused(name, tmp_path: Path):
    rewritten(tmp_path / "x.tar.gz", lambda members: [*members, (tarfile.TarInfo(name), b"x")])
    with pytest.raises(UserError, match="which is no file of a packed run"):
        unpack.unpack([tmp_path / "x.tar.gz"], tmp_path / "there")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_other_things_that_are_no_files_are_refused(kind, tmp_path: Path):
    def linked(members):
        info = tarfile.TarInfo("suite.toml")
        info.type, info.linkname = kind, "/etc/passwd"
        return [*[m for m in members if m[0].name != "suite.toml"], (info, b"")]

    rewritten(tmp_path / "x.tar.gz", linked)
    with pytest.raises(UserError, match="which is no file of a packed run"):
        unpack.unpack([tmp_path / "x.tar.gz"], tmp_path / "there")


def edited(name: str, old: bytes, new: bytes):
    return lambda members: [
        (info, data.replace(old, new) if info.name.endswith(name) else data) for info, data in members
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda members: members[1:], "no readable manifest.json"),
        (lambda members: [*members, members[-1]], "twice"),
        (lambda members: members[:-1], "is not what its manifest says"),
        (edited("curve.csv", b"5", b"6"), "is not what its manifest says"),
        (edited("manifest.json", b'"format": 1', b'"format": 2'), "has format 2, and this version reads 1"),
        (edited("manifest.json", b'"files"', b'"sizes"'), "no readable manifest.json"),
        (edited("manifest.json", b'"suite_hash": "', b'"suite_hash": "0'), "not that of a suite"),
    ],
)
def test_an_archive_changed_by_hand_is_refused(change, sentence, tmp_path: Path):
    rewritten(tmp_path / "x.tar.gz", change)
    with pytest.raises(UserError, match=sentence):
        unpack.unpack([tmp_path / "x.tar.gz"], tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_record_that_was_changed_before_it_was_packed_is_not_packed(tmp_path: Path):
    folder = shutil.copytree(source(), tmp_path / "mini")
    first = forge.run_ids(folder)[0]
    with (folder / "records" / first / "curve.csv").open("a") as file:
        file.write("1,1,1,1,1\n")
    pack.pack(folder, tmp_path / "x.tar.gz")
    assert first not in unpack.read(tmp_path / "x.tar.gz").runs


def test_only_the_meant_suites_runs_are_packed(tmp_path: Path):
    assert pack.pack(source(), tmp_path / "x.tar.gz", "0" * 12) == []
    assert pack.pack(tmp_path / "nowhere", tmp_path / "x.tar.gz", "0" * 12) == []
    with pytest.raises(UserError, match=r"holds no configuration\.json"):
        pack.pack(tmp_path / "nowhere", tmp_path / "x.tar.gz")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_claims_more_than_there_is_room_for_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(unpack, "LARGEST", 10_000)
    (tmp_path / "x.tar.gz").write_bytes(archive())
    with pytest.raises(UserError, match="claim more than 10,000 bytes"):
        unpack.read(tmp_path / "x.tar.gz")


def test_a_different_record_is_never_replaced_and_nothing_else_comes_in(tmp_path: Path):
    folder = shutil.copytree(source(), tmp_path / "mini")
    ids = forge.run_ids(folder)
    shutil.rmtree(folder / "records" / ids[0])
    path = folder / "records" / ids[1] / "record.json"
    record = records.read(path.parent)
    record["provenance"]["created_utc"] = "2001-01-01T00:00:00Z"
    records.write_atomic(path, records.canonical(records.sealed(record)).encode())
    before = content(folder)
    (tmp_path / "x.tar.gz").write_bytes(archive())
    with pytest.raises(UserError, match=f"holds another record of run '{ids[1]}'.*nothing was unpacked"):
        unpack.unpack([tmp_path / "x.tar.gz"], folder)
    assert content(folder) == before
    # The same between two archives, of which neither is in the folder.
    pack.pack(folder, tmp_path / "y.tar.gz")
    with pytest.raises(UserError, match="hold different records of run"):
        unpack.unpack([tmp_path / "x.tar.gz", tmp_path / "y.tar.gz"], tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_folders_of_others_are_left_alone(tmp_path: Path):
    (tmp_path / "x.tar.gz").write_bytes(archive())
    fake.finished(tmp_path / "other", fake.make_plan(**fake.SMALL, agent={"hidden": [8], "batch_size": 32}))
    with pytest.raises(UserError, match="holds another configuration"):
        unpack.unpack([tmp_path / "x.tar.gz"], tmp_path / "other")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "x.tex").write_text("x")
    with pytest.raises(UserError, match="no suite made it"):
        unpack.unpack([tmp_path / "x.tar.gz"], tmp_path / "thesis")
    for name in ("x.txt", "nowhere/x.tar.gz", "theirs.tar.gz"):
        (tmp_path / "theirs.tar.gz").write_bytes(gzip.compress(b"not ours"))
        with pytest.raises(UserError, match="--pack"):
            pack.pack(source(), tmp_path / name)
    assert gzip.decompress((tmp_path / "theirs.tar.gz").read_bytes()) == b"not ours"


def test_an_archive_with_runs_that_the_folder_lacks_is_not_replaced(tmp_path: Path):
    file = tmp_path / "x.tar.gz"
    file.write_bytes(archive())
    folder = shutil.copytree(source(), tmp_path / "mini")
    assert pack.pack(folder, file) == [file]  # what it holds is all here
    lost = forge.run_ids(folder)[0]
    shutil.rmtree(folder / "records" / lost)
    before = file.read_bytes()
    settings_hash = records.load_all(source())[0]["suite_hash"]
    for attempt in (
        lambda: pack.pack(folder, file),
        lambda: pack.check_target(file, settings_hash, folder),
        lambda: pack.check_target(file, settings_hash, tmp_path / "fresh"),
    ):
        with pytest.raises(UserError, match=r"holds run '.*', which '.*' lacks; give another name"):
            attempt()
    assert file.read_bytes() == before
    assert pack.pack(folder, tmp_path / "y.tar.gz")


def test_an_archive_with_another_record_of_a_run_is_not_replaced(tmp_path: Path):
    file = tmp_path / "x.tar.gz"
    file.write_bytes(archive())
    folder = shutil.copytree(source(), tmp_path / "mini")
    run_id = forge.run_ids(folder)[0]
    forge.change(
        folder, run_id, lambda record: record["provenance"].update(created_utc="2020-01-01T00:00:00Z")
    )
    with pytest.raises(
        UserError, match=f"holds another record of run '{run_id}' than '.*'; give another name"
    ):
        pack.pack(folder, file)
    assert file.read_bytes() == archive()


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path, monkeypatch):
    touch = Path.touch

    def refused(path: Path, *given, **options):
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        touch(path, *given, **options)

    monkeypatch.setattr(Path, "touch", refused)
    with pytest.raises(UserError, match=r"--pack '.*x.tar.gz' cannot be written \(Permission denied\)"):
        pack.check_target(tmp_path / "x.tar.gz", "0" * 12, tmp_path / "fresh")


def test_a_file_is_no_folder_to_unpack_into(tmp_path: Path):
    (tmp_path / "x.tar.gz").write_bytes(archive())
    with pytest.raises(UserError, match="--into '.*' is a file; give a folder"):
        unpack.unpack([tmp_path / "x.tar.gz"], tmp_path / "x.tar.gz")


def test_the_command_line_unpacks_into_the_suites_folder(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.tar.gz").write_bytes(archive())
    assert cli.run(["unpack", "x.tar.gz"]) == 0
    name = f"mini-{records.load_all(source())[0]['suite_hash']}"
    assert content(tmp_path / "runs" / name) == content(source())
    assert "of its suite's runs it now has all of them" in capsys.readouterr().out
    assert cli.run(["unpack", "y.tar.gz"]) == 2
    assert "there is no archive 'y.tar.gz'" in capsys.readouterr().err
