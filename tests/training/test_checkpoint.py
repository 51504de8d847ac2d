"""A checkpoint is used only when it is complete and unharmed; else the one before it is, and the user is told."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.errors import UserError
from sparserl_jax.training import checkpoint


def state(number):
    rng = np.random.default_rng(number)
    return {
        "weights": jnp.asarray(rng.normal(size=(20, 30)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=(3, 1, 2)), jnp.float16),
        "empty": jnp.zeros((4, 0), jnp.float16),
        "mask": jnp.asarray(rng.random(70) < 0.5),
        "flags": jnp.asarray(rng.integers(0, 2**16, 9), jnp.uint16),
        "scalar": jnp.int32(number),
        "bad": jnp.asarray([np.nan, np.inf, -0.0, 1e-45], jnp.float32),
        "key": jax.random.key(number),
        "keys": jax.random.split(jax.random.key(number), 3),
        "other_kind": jax.random.key(number, impl="rbg"),
    }


LIKE = jax.eval_shape(lambda: state(0))


def bits(tree):
    plain = jax.tree.map(
        lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf,
        tree,
    )
    return jax.tree.map(lambda leaf: (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()), plain)


def restored(folder):
    warnings = []
    found = checkpoint.restore(folder, LIKE, warnings.append)
    return found, warnings


def newest(folder):
    return max(folder.glob("checkpoint-*"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    checkpoint.save(folder, 10, state(10), {"curve": {"x": [1.0, 0.1, float("nan")]}, "word": "ten"})
    checkpoint.save(folder, 20, state(20), {"word": "twenty"})
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


def expect(folder, step):
    (found, tree, notes), warnings = restored(folder)
    assert found == step
    assert bits(tree) == bits(state(step))
    assert jax.tree.structure(tree) == jax.tree.structure(LIKE)
    assert notes["word"] == {10: "ten", 20: "twenty"}[step]
    return warnings


def test_newest_checkpoint_comes_back_bit_for_bit_with_its_notes(folder):
    assert expect(folder, 20) == []


def test_keys_come_back_as_keys(folder):
    (_, tree, _), _ = restored(folder)
    assert tree["key"].dtype == LIKE["key"].dtype
    assert tree["keys"].shape == (3,)


def test_notes_keep_every_number_even_those_json_does_not_know(folder):
    shutil.rmtree(newest(folder))
    (_, _, notes), _ = restored(folder)
    np.testing.assert_array_equal(notes["curve"]["x"], [1.0, 0.1, np.nan])


def test_nothing_is_restored_from_an_empty_or_missing_folder(tmp_path):
    assert restored(tmp_path) == (None, [])
    assert restored(tmp_path / "missing") == (None, [])


def says_so(warnings):
    assert len(warnings) == 1
    assert "checkpoint-000000000020" in warnings[0] and "before it" in warnings[0]
    assert "\n" not in warnings[0]


def test_checkpoint_without_its_mark_of_completion_is_passed_over(folder):
    (newest(folder) / checkpoint.DONE).unlink()
    says_so(expect(folder, 10))


def files_of(folder):
    return sorted(path for path in newest(folder).rglob("*") if path.is_file())


def test_checkpoint_with_any_file_missing_or_cut_is_never_restored_wrongly(folder):
    for path in files_of(folder):
        whole = path.read_bytes()
        for half in (None, whole[: len(whole) // 2], b""):
            path.unlink()
            if half is not None:
                path.write_bytes(half)
            (found, tree, _), warnings = restored(folder)
            assert bits(tree) == bits(state(found)), path
            assert (found, len(warnings)) in {(20, 0), (10, 1)}, path
            path.write_bytes(whole)
    assert expect(folder, 20) == []


@pytest.mark.slow
def test_checkpoint_with_any_bit_flipped_is_never_restored_wrongly(folder):
    rng = np.random.default_rng(0)
    for path in files_of(folder):
        whole = path.read_bytes()
        for place in (0, len(whole) - 1, *rng.integers(0, len(whole), 4)):
            harmed = bytearray(whole)
            harmed[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(harmed))
            (found, tree, notes), warnings = restored(folder)
            assert bits(tree) == bits(state(found)), (path, place)
            assert notes["word"] == {10: "ten", 20: "twenty"}[found], (path, place)
            assert (found, len(warnings)) in {(20, 0), (10, 1)}, (path, place)
            path.write_bytes(whole)


def test_flipped_bit_in_the_largest_file_falls_back_and_says_so(folder):
    path = max(files_of(folder), key=lambda path: path.stat().st_size)
    harmed = bytearray(path.read_bytes())
    harmed[len(harmed) // 2] ^= 16
    path.write_bytes(bytes(harmed))
    says_so(expect(folder, 10))


def test_checkpoint_of_other_shapes_is_passed_over(folder):
    checkpoint.save(folder, 20, {**state(20), "mask": jnp.zeros(71, bool)}, {"word": "twenty"})
    says_so(expect(folder, 10))


def test_nobody_begins_anew_beside_checkpoints_that_are_all_harmed(folder):
    for place in folder.glob("checkpoint-*"):
        (place / checkpoint.DONE).write_text("{")
    with pytest.raises(UserError, match=r"020 and checkpoint-0*010 in .* cannot be used .* move them away"):
        restored(folder)
    assert len(list(folder.glob("checkpoint-*"))) == 2


def test_saving_a_step_again_replaces_it(folder):
    checkpoint.save(folder, 20, state(21), {"word": "again"})
    (step, tree, notes), warnings = restored(folder)
    assert (step, notes["word"], warnings) == (20, "again", [])
    assert bits(tree) == bits(state(21))


@pytest.mark.parametrize("dies_at", [0, 1])
def test_a_crash_while_a_step_is_saved_again_leaves_one_of_the_two(folder, monkeypatch, dies_at):
    """Killed before or behind the rename that puts the new one in the place of the old."""
    rename, done = type(folder).rename, []

    def killed(path, target):
        if path.name == checkpoint.UNFINISHED and dies_at == 0:
            raise KeyboardInterrupt
        rename(path, target)
        done.append(target.name)
        if path.name == checkpoint.UNFINISHED:
            raise KeyboardInterrupt

    monkeypatch.setattr(type(folder), "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(folder, 20, state(21), {"word": "again"})
    monkeypatch.undo()
    assert done[0].endswith(".before")
    (step, tree, notes), warnings = restored(folder)
    assert (step, warnings) == (20, []) and notes["word"] in ("twenty", "again")
    checkpoint.save(folder, 20, state(22), {"word": "at last"})
    assert restored(folder)[0][2]["word"] == "at last"
    assert [place.name[-2:] for place in sorted(folder.glob("checkpoint-*"))] == ["10", "20"]


def test_one_older_good_checkpoint_stays_and_the_rest_goes(folder):
    checkpoint.save(folder, 30, state(30), {"word": "thirty"})
    assert [place.name[-2:] for place in sorted(folder.glob("checkpoint-*"))] == ["20", "30"]


def test_after_a_fall_back_the_harmed_checkpoint_does_not_take_the_place_of_a_good_one(folder):
    (newest(folder) / checkpoint.DONE).unlink()
    checkpoint.save(folder, 15, state(15), {"word": "fifteen"})
    (step, tree, _), warnings = restored(folder)
    assert (step, warnings) == (15, [])
    (newest(folder) / checkpoint.DONE).unlink()
    (step, tree, _), _ = restored(folder)
    assert step == 10
    assert bits(tree) == bits(state(10))
