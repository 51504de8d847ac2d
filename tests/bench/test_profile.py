"""The summary of a profile: kinds of work in compiled programs, own time of nested operations, one real trace."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserl_jax import cli
from sparserl_jax.bench import operations, profiling
from sparserl_jax.bench.operations import CONTROL, COPY, ELEMENTWISE, GATHER, MATRIX, RANDOM
from sparserl_jax.errors import UserError
from tests.bench import fake

TEXT = """HloModule jit_train, is_scheduled=true, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

%inner (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  ROOT %t.1 = f32[4]{0} tanh(%a), metadata={op_name="jit(train)/tanh"}
}

%with_dot (p: f32[2,2]) -> f32[2,2] {
  %p = f32[2,2]{1,0} parameter(0)
  %d = f32[2,2]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %r = f32[2,2]{1,0} fusion(%d), kind=kLoop, calls=%inner
}

%bits (k: u32[2]) -> u32[8] {
  %k = u32[2]{0} parameter(0)
  ROOT %x = u32[8]{0} xor(%k, %k), metadata={op_name="jit(train)/vmap(threefry2x32)/xor"}
}

%moved (p.1: f32[2,2]) -> f32[4] {
  %p.1 = f32[2,2]{1,0} parameter(0)
  %tr = f32[2,2]{0,1} transpose(%p.1), dimensions={1,0}
  ROOT %b = f32[4]{0} bitcast(%tr)
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x.0 = f32[2]{0} parameter(0)
  %gather_fusion.3 = f32[2,2]{1,0} gather(%x.0), offset_dims={1}
  %fusion = f32[2,2]{1,0} fusion(%x.0), kind=kOutput, calls=%with_dot
  %fusion.1 = f32[4]{0} fusion(%x.0), kind=kLoop, calls=%inner
  %xor_fusion = u32[8]{0} fusion(%x.0), kind=kLoop, calls=%bits
  %copy_fusion = f32[4]{0} fusion(%x.0), kind=kLoop, calls=%moved
  %cublas-gemm.1 = (f32[2,2]{1,0}, s8[4]{0}) custom-call(%x.0, %x.0), custom_call_target="__cublas$gemm"
  %while.2 = (s32[], f32[2]{0}, /*index=2*/(f32[2]{0})) while(%x.0), condition=%c, body=%b
  ROOT %reduce = f32[] reduce(%x.0, %x.0), dimensions={0}, to_apply=%inner
}
"""


def test_a_fusion_is_the_heaviest_work_in_it():
    found = operations.kinds(TEXT)
    assert operations.module_name(TEXT) == "jit_train"
    assert {name: found[name] for name in ("fusion", "cublas-gemm.1")} == dict.fromkeys(
        ("fusion", "cublas-gemm.1"), MATRIX
    )
    assert found["fusion.1"] == found["reduce"] == ELEMENTWISE
    assert found["xor_fusion"] == RANDOM and found["gather_fusion.3"] == GATHER
    assert found["copy_fusion"] == COPY and found["while.2"] == CONTROL


def test_own_time_leaves_out_what_is_inside():
    # A loop of 10 with bodies of 4 and 3, one of which holds a 1; then something after it.
    events = [(0, 10, "m", "while"), (1, 4, "m", "a"), (2, 1, "m", "b"), (6, 3, "m", "c"), (10, 2, "m", "d")]
    found = {name: time for _, name, time in operations.own_time(events)}
    assert found == {"while": 3, "a": 3, "b": 1, "c": 3, "d": 2}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=12))
def test_own_times_of_events_side_by_side_add_up_to_the_time_they_cover(pieces):
    start, events, covered = 0, [], 0
    for gap, length in pieces:
        start += gap
        events += [(start, length, "m", "outer"), (start, max(length // 2, 1), "m", "inner")]
        start, covered = start + length, covered + length
    assert sum(time for *_, time in operations.own_time(events)) == covered


def test_a_real_trace_of_products_is_mostly_products(tmp_path: Path):
    def train(x):
        return jax.lax.fori_loop(0, 30, lambda _, y: jnp.tanh(x @ y), x)

    compiled = jax.jit(train).lower(jnp.ones((256, 256))).compile()
    x = jnp.full((256, 256), 0.01)
    compiled(x).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        compiled(x).block_until_ready()
    text = compiled.as_text()
    found = operations.spent(tmp_path, {operations.module_name(text): operations.kinds(text)})
    work = found["jit_train"]
    assert set(work) <= set(operations.KINDS)
    assert work[MATRIX] > 0.3 * sum(work.values())
    assert operations.spent(tmp_path, {"jit_other": {}}) == {}


def test_a_backend_whose_trace_names_nothing_is_said_to_do_so():
    stage = profiling.Stage(1.0, 0.5, 4, {})
    told = profiling.Profile("p", 3, "1 x device", 0.1, {"train": stage}).lines()
    assert "names no operations" in told[-1] and any("2.0 s" in line and "100 %" in line for line in told)
    work = profiling.Stage(1.0, 0.5, 4, {MATRIX: 750e6, COPY: 250e6})
    told = profiling.Profile("p", 3, "1 x device", 0.1, {"train": work}).lines()
    assert told[-1] == "work in train: 75 % matrix products, 25 % copies (of 1000.0 ms in the trace)"


def test_a_folder_with_something_in_it_is_refused_before_anything_is_compiled(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    plan = fake.make_plan(**fake.SMALL)
    with pytest.raises(UserError, match="not an empty folder"):
        profiling.profile(plan, tmp_path)
    with pytest.raises(UserError, match="give at least 1"):
        profiling.profile(plan, tmp_path / "new", 0)


@pytest.mark.slow
def test_the_command_profiles_one_program_of_a_suite(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["profile", "smoke", "--only", "dense", "--out", "trace", "--dispatches", "1"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n{stage} " in said for stage in ("warm_up", "train", "evaluate"))
    assert "work in train:" in said and "matrix products" in said
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
