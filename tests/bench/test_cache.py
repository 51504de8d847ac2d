"""A folder of compiled programs: found again by another process's eyes, with the same numbers, and only while asked."""

from __future__ import annotations

import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.bench import cache, provenance, rates, records
from sparserl_jax.bench import run as runs
from sparserl_jax.errors import UserError
from tests.bench import fake, trained


def compiled() -> np.ndarray:
    """A fresh compilation of the same small program."""

    def small(x):
        return jnp.tanh(x @ x) * 3.0

    x = jnp.arange(16.0).reshape(4, 4) / 16
    jax.clear_caches()
    return np.asarray(jax.jit(small)(x))


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.endswith("-cache")}


def test_programs_are_kept_in_the_folder_and_found_there(tmp_path: Path):
    plain = compiled()
    with cache.used(tmp_path / "new" / "cache"):
        first = compiled()
        kept = entries(tmp_path / "new/cache")
        assert any(name.startswith("jit_small-") for name in kept)
        np.testing.assert_array_equal(compiled(), first)
        assert entries(tmp_path / "new/cache") == kept
    np.testing.assert_array_equal(plain, first)


def test_outside_nothing_is_kept_and_the_configuration_is_as_before(tmp_path: Path):
    before = jax.config.jax_compilation_cache_dir
    with cache.used(None):
        assert jax.config.jax_compilation_cache_dir == before
    with cache.used(tmp_path), pytest.raises(RuntimeError), cache.used(tmp_path / "inner"):
        raise RuntimeError
    assert jax.config.jax_compilation_cache_dir == before
    compiled()
    assert entries(tmp_path) == set()


@pytest.mark.parametrize(
    ("platform", "own", "budget"),
    [
        ("cpu", None, None),
        ("gpu", None, None),
        ("gpu", "mine", None),
        ("cpu", None, 600.0),
        ("cpu", "mine", 600.0),
    ],
)
def test_on_accelerators_and_in_slices_programs_are_kept_unasked(
    tmp_path: Path, monkeypatch, request, platform, own, budget
):
    """A program that is compiled anew may be another one there, and a resumed run with it; in slices, compiling is most
    of the waiting. Whoever has JAX keep them already is left alone."""
    before = jax.config.jax_compilation_cache_dir
    request.addfinalizer(lambda: jax.config.update("jax_compilation_cache_dir", before))
    jax.config.update("jax_compilation_cache_dir", own)
    system = {**provenance.system(), "platform": platform}
    monkeypatch.setattr(provenance, "system", lambda: system)
    used: list[Path | None] = []
    monkeypatch.setattr(cache, "used", lambda folder: used.append(folder) or contextlib.nullcontext())
    plan = fake.make_plan()
    execute = fake.Execute(plan)

    def executed(program, *, rehearsed=None, **given):
        return execute(program, **given)

    runs.run(plan, tmp_path / "x", fake.quiet(), execute=executed, time_budget=budget, divide=True)
    kept = tmp_path / "x" / cache.FOLDER / cache.machine(system)
    assert used == [kept if (platform == "gpu" or budget) and own is None else None]


def test_every_kind_of_machine_has_a_folder_of_its_own():
    ours = provenance.system()
    assert cache.machine(ours) == cache.machine(dict(ours))
    others = [{**ours, name: "another"} for name in ("device_kind", "cpu", "os")]
    assert len({cache.machine(system) for system in [ours, *others]}) == 4


@pytest.mark.parametrize(
    ("flags", "vectors"),
    [
        ("flags\t\t: fpu sse2 avx avx2 avx512f avx512bw", "avx512f"),
        ("flags\t\t: fpu sse2 avx avx2", "avx2"),
        ("Features\t: fp asimd evtstrm", "asimd"),
        ("", None),
    ],
)
def test_processors_of_one_name_are_told_apart_by_their_vector_instructions(flags, vectors, monkeypatch):
    monkeypatch.setattr(cache, "abilities", lambda: flags)
    ours = provenance.system()
    named = f"{ours['cpu']} ({vectors})" if vectors else ours["cpu"]
    assert ours["cpu_vectors"] == vectors and provenance.processor(ours) == named
    assert rates.device_of({**ours, "platform": "cpu"}).startswith(f"{named}, ")
    older = {key: value for key, value in ours.items() if key != "cpu_vectors"}
    assert provenance.processor(older) == ours["cpu"]


def test_a_folder_that_cannot_be_is_told_in_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(UserError, match="--compilation-cache .* cannot be written"),
        cache.used(tmp_path / "file"),
    ):
        pass


@pytest.mark.slow
def test_results_from_found_programs_are_the_same_bit_for_bit(tmp_path: Path):
    found = []
    for name, folder in (("a", None), ("b", tmp_path / "cache"), ("c", tmp_path / "cache")):
        jax.clear_caches()
        with cache.used(folder):
            found.append([records.read(run) for run in sorted(trained.train(tmp_path / name).iterdir())])
    for plain, kept, again in zip(*found, strict=True):
        assert plain["result"] == kept["result"] == again["result"]
        assert plain["files"]["curve"] == again["files"]["curve"]
