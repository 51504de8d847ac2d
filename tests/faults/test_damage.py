"""Harmed records are recognised and made again; full disks end with one sentence and take nothing away."""

import errno
import os
import resource
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import cli
from sparserl_jax.bench import check, records
from sparserl_jax.bench import run as runs
from sparserl_jax.errors import UserError
from sparserl_jax.training import checkpoint
from tests.bench import fake

SUITE = {"seeds": 1, "sparsities": [0.8], "arms": [{"recipe": "dense"}, {"recipe": "rlx2"}]}
SUITE["environments"] = fake.SUITE["environments"][:1]
RUN = "gymnax-Pendulum-v1/rlx2-s0800-seed000"
FILES = ("record.json", "curve.csv", "policy.npz", "masks.npz", "timings.json")


# ---- records -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan():
    return fake.make_plan(**SUITE)


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "x"
    fake.finished(folder, plan)
    assert check.check(folder) == []
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "x")


def is_recognised(folder, plan):
    """Neither a restart nor `sparserl check` takes the record for sound."""
    if records.finished(folder, RUN, plan.suite.hash()):
        return False
    try:
        return check.check(folder) != []
    except UserError as error:
        return RUN in str(error)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("configuration.json", "{}", "is not what a suite writes"),
        ("configuration.json", "[]", "is not what a suite writes"),
        (f"records/{RUN}/record.json", "[]", "is not valid JSON"),
        (f"records/{RUN}/record.json", "{}", "has a damaged record"),
        (f"records/{RUN}/curve.csv", "env_step,update,return\n1,2\n", "is missing or damaged"),
        (f"records/{RUN}/curve.csv", "env_step,update\n1,2\n", "is missing or damaged"),
        (f"records/{RUN}/curve.csv", None, "is missing or damaged"),
    ],
)
def test_tables_and_figures_of_damaged_folders_end_with_one_sentence(folder, capsys, name, content, sentence):
    path = folder / name
    path.unlink() if content is None else path.write_text(content)
    command = "plot" if name.endswith("csv") else "table"
    assert cli.run([command, str(folder)]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"suite": 1}'])
def test_a_folder_with_a_damaged_configuration_is_no_place_to_go_on(folder, plan, content):
    (folder / "configuration.json").write_text(content)
    with pytest.raises(UserError, match="holds a damaged configuration"):
        runs.claim(folder, plan)
    assert (folder / "configuration.json").read_text() == content


@pytest.mark.parametrize("name", FILES)
def test_record_with_any_file_missing_or_cut_is_recognised(folder, plan, name):
    path = folder / "records" / RUN / name
    content = path.read_bytes()
    for rest in (None, content[:-3], content[: len(content) // 2], b""):
        path.unlink(missing_ok=True)
        if rest is not None:
            path.write_bytes(rest)
        assert is_recognised(folder, plan), rest if rest is None else len(rest)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.slow
def test_record_with_any_bit_flipped_is_recognised(folder, plan, whole, name):
    path, rng = folder / "records" / RUN / name, np.random.default_rng(0)
    content = path.read_bytes()
    for place in rng.integers(0, len(content), 60):
        harmed = bytearray(content)
        harmed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(harmed))
        try:  # white space between the fields carries nothing
            same = name == "record.json" and records.read(path.parent) == records.read(
                whole / "records" / RUN
            )
        except ValueError:
            same = False
        assert same or is_recognised(folder, plan), (place, content[place - 20 : place + 20])


def test_harmed_record_is_made_again_as_it_was_and_no_other_is_touched(folder, plan, whole):
    here = folder / "records" / RUN
    other = folder / "records" / RUN.replace("rlx2-s0800", "dense-s0000") / "record.json"
    before = other.stat().st_mtime_ns
    for name in FILES:
        content = (here / name).read_bytes()
        (here / name).write_bytes(content[: len(content) // 2])
        runs.run(plan, folder, fake.quiet(), execute=fake.Execute(plan))
        assert check.check(folder) == []
        for kept in ("curve.csv", "policy.npz", "masks.npz"):
            assert (here / kept).read_bytes() == (whole / "records" / RUN / kept).read_bytes()
        assert records.read(here)["result"] == records.read(whole / "records" / RUN)["result"]
    assert other.stat().st_mtime_ns == before


# ---- full disks ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_files():
    """No file may grow beyond this number of bytes, whoever in the process writes it, Python or not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def one_sentence(error):
    return "\n" not in str(error) and "make room and run the same command again" in str(error)


def test_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path, small_files, capfd):
    rng = np.random.default_rng(0)
    state = {"weights": jnp.asarray(rng.random(100_000), jnp.float32)}
    checkpoint.save(tmp_path, 1, state, {})
    small_files(100_000)
    with pytest.raises(UserError, match="checkpoint of step 2 .*File too large") as refused:
        checkpoint.save(tmp_path, 2, state, {})
    small_files(10_000_000)
    assert one_sentence(refused.value)
    assert capfd.readouterr() == ("", "")  # the sentence is all there is to read
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-000000000001"]
    step, found, _ = checkpoint.restore(tmp_path, state)
    assert step == 1
    np.testing.assert_array_equal(found["weights"], state["weights"])


def test_checkpoint_says_so_when_the_disk_is_full_and_other_errors_are_not_hidden(tmp_path, monkeypatch):
    def fails(*arguments):
        raise failure

    monkeypatch.setattr(checkpoint, "_write", fails)
    failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save(tmp_path, 1, {}, {})
    failure = TypeError("a mistake of ours")
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, 1, {}, {})


@pytest.mark.parametrize("name", FILES)
def test_record_that_does_not_fit_is_not_there_and_is_made_when_there_is_room(
    plan, whole, tmp_path, monkeypatch, small_files, name
):
    folder = tmp_path / "x"
    sizes = {path.name: path.stat().st_size for path in (whole / "records" / RUN).iterdir()}
    write = records.write

    def full(root, *arguments):
        small_files(sizes[name] - 1)
        try:
            return write(root, *arguments)
        finally:
            small_files(10_000_000)

    monkeypatch.setattr(records, "write", full)
    with pytest.raises(OSError) as refused:
        runs.run(plan, folder, fake.quiet(), execute=fake.Execute(plan))
    assert refused.value.errno == errno.EFBIG
    assert [path for path in (folder / "records").glob("*/*") if not path.name.startswith(".")] == []
    monkeypatch.undo()
    runs.run(plan, folder, fake.quiet(), execute=fake.Execute(plan))
    assert check.check(folder) == []
    assert [path for path in folder.rglob(".*") if path.name != ".lock"] == []


def test_command_line_says_in_one_sentence_that_a_disk_is_full_or_a_place_closed(
    monkeypatch, capsys, tmp_path
):
    def fails(command, console):
        raise OSError(number, os.strerror(number), "/some/place")

    monkeypatch.setitem(cli._COMMANDS, cli.Check, fails)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert cli.run(["check", str(tmp_path)]) == runs.EXIT_USER
        said = capsys.readouterr().err
        assert said.startswith(f"error: {os.strerror(number)}: ") and said.count("\n") == 1
    for number in (errno.EACCES, errno.EPERM, errno.EROFS):
        assert cli.run(["check", str(tmp_path)]) == runs.EXIT_USER
        said = capsys.readouterr().err
        assert said.startswith(f"error: '/some/place': {os.strerror(number)}; ") and said.count("\n") == 1
    number = errno.EIO
    with pytest.raises(OSError, match=os.strerror(number)):
        cli.run(["check", str(tmp_path)])
