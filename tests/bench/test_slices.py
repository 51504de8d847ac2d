"""A time budget: what it takes up, how programs are divided, what is kept of that, and what is said at the end."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl_jax.bench import (
    check,
    only,
    provenance,
    rates,
    records,
    reproduce,
    schema,
    select,
    slices,
    suites,
    summary,
)
from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import run as runs
from sparserl_jax.errors import UserError
from sparserl_jax.training import memory
from sparserl_jax.training.runner import Stopped
from tests.bench import fake

PENDULUM, BRAX = (task["name"] for task in fake.SUITE["environments"])
SMALL = {"seeds": 6, "sparsities": [0.8], "arms": [{"recipe": "dense"}, {"recipe": "rigl"}]}
DEVICE = "1 x fast"


@dataclasses.dataclass(frozen=True)
class Named:
    """A fake program that is called after its members, as real ones are."""

    runs: tuple
    compilations: int = 4
    why: str = "they share everything"
    host: bool = False
    layout = fake.FakeProgram.layout

    @property
    def name(self) -> str:
        first = self.runs[0]
        seeds = "-".join(str(run.seed) for run in self.runs if run.arm == first.arm)
        return f"{plans.slug(first.training.env)}-n{first.recipe.n}-{seeds}"

    def memory(self) -> int:
        return 1000


def make_plan(**changes) -> plans.Plan:
    suite = suites.parse(fake.table(**{**SMALL, **changes}), "mini.toml")
    return plans.make(
        suite,
        group=lambda found: [Named(program.runs) for program in fake.group(found)],
        describe=fake.describe,
    )


class Machine:
    """A device with a clock: programs compile in 10 s, and a dispatch takes `fixed + each * members`."""

    def __init__(self, plan: plans.Plan, fixed: float = 0.0, each: float = 10.0) -> None:
        self.now, self.fixed, self.each = 1000.0, fixed, each
        self.execute = fake.Execute(plan)
        self.took: list[tuple[str, ...]] = []
        self.rehearsals = 0
        self.slices: slices.Slices | None = None

    def clock(self) -> float:
        return self.now

    def seconds(self, program) -> float:
        return self.fixed + self.each * len(program.runs)

    def __call__(self, program, *, folder, deadline, progress, rehearsed=None):
        self.now += 10.0
        seconds = self.seconds(program)
        if rehearsed is not None:
            self.now += 1.0
            self.rehearsals += 1
            rehearsed(seconds, 10.0)
        if self.now + seconds > deadline:
            (folder / "checkpoint-1").mkdir(parents=True)
            self.now = deadline
            raise Stopped("time budget", 2000)
        self.now += seconds
        self.execute.plan = self.slices.plan
        self.took.append(tuple(slices.ids(self.slices.plan, program)))
        measured = {"warm_up_seconds": 0.0, "train_seconds": seconds, "evaluate_seconds": 0.0}
        found = self.execute(program, folder=folder, deadline=deadline, progress=progress)
        return [dataclasses.replace(one, measured={**measured, "compile_seconds": 10.0}) for one in found]


def run(plan, folder: Path, machine: Machine, budget: float, monkeypatch, known=()) -> str | None:
    """One command with a time budget; what it says is left, None if nothing."""

    def made(plan, folder, rate, seconds, deadline):
        machine.slices = slices.Slices(plan, folder, rate, seconds, deadline, machine.clock)
        return machine.slices

    monkeypatch.setattr(runs, "Slices", made)
    monkeypatch.setattr(runs.time, "monotonic", machine.clock)
    monkeypatch.setattr(rates, "device_of", lambda system: DEVICE)
    monkeypatch.setattr(runs.paths, "checkout", lambda: None)  # published folders know nothing of this device
    try:
        runs.run(plan, folder, fake.quiet(), execute=machine, time_budget=budget, divide=True)
    except runs.Unfinished as stop:
        assert stop.code == runs.EXIT_TIME_BUDGET and str(stop).endswith("run again to go on.")
        return str(stop)
    return None


def seeds_of(members) -> set[str]:
    return {member.rpartition("seed")[2] for member in members}


def test_programs_are_divided_by_seeds_until_each_fits_and_the_rest_waits_for_the_next_slice(
    tmp_path: Path, monkeypatch
):
    plan = make_plan(environments=fake.SUITE["environments"][:1])  # one program: 2 rows x 6 seeds, 120 s
    machine = Machine(plan)
    left = run(plan, tmp_path / "x", machine, 100.0, monkeypatch)
    # Rehearsed whole (21 s gone), 120 s do not fit into what is left; 6 members, 70 s with compilation, do.
    assert [seeds_of(members) for members in machine.took] == [{"000", "001", "002"}]
    assert machine.rehearsals == 2
    assert left is not None and "6 runs in 1 programs are left, about 70 s on this device" in left
    stored = json.loads((tmp_path / "x" / slices.FILE).read_text())
    assert [seeds_of(group) for group in stored] == [{"000", "001", "002"}, {"003", "004", "005"}]

    again = Machine(plan)
    divided = slices.divide(plan, tmp_path / "x")
    assert run(divided, tmp_path / "x", again, 100.0, monkeypatch) is None
    assert [seeds_of(members) for members in again.took] == [{"003", "004", "005"}]
    assert again.rehearsals == 0  # its own environment was measured with as few members
    assert check.check(tmp_path / "x") == []


def test_programs_that_the_machine_cannot_hold_are_divided_by_seeds_and_stay_so(tmp_path: Path, monkeypatch):
    plan = make_plan(environments=fake.SUITE["environments"][:1])  # one program: 2 rows x 6 seeds
    monkeypatch.setattr(Named, "memory", lambda self: 1000 * len(self.runs))
    room = {"bytes": 7000}
    monkeypatch.setattr(memory, "available", lambda used=None: room["bytes"])
    parts, divided = slices.for_memory(plan, tmp_path / "x")
    assert divided and [len(program.runs) for program in parts.programs] == [6, 6]
    execute = fake.Execute(parts)

    def once(program, **given):
        if execute.programs:
            raise Stopped("interrupted", 0)
        return execute(program, **given)

    with pytest.raises(runs.Unfinished):
        runs.run(plan, tmp_path / "x", fake.quiet(), execute=once)
    room["bytes"] = (
        4000  # a smaller machine divides what has not begun further, and leaves what is finished alone
    )
    smaller, divided = slices.for_memory(slices.divide(plan, tmp_path / "x"), tmp_path / "x")
    assert divided and [len(program.runs) for program in smaller.programs] == [6, 4, 2]
    runs.check_machine(smaller, tmp_path / "x")
    room["bytes"] = 10**9  # and a larger one goes on as it was decided
    execute = fake.Execute(slices.divide(plan, tmp_path / "x"))
    runs.run(execute.plan, tmp_path / "x", fake.quiet(), execute=execute)
    found = records.load_all(tmp_path / "x")[1]
    halves = {frozenset(seeds_of(record["provenance"]["program_members"])) for record in found}
    assert halves == {frozenset({"000", "001", "002"}), frozenset({"003", "004", "005"})}
    assert len(found) == 12 and len(execute.programs) == 1
    assert check.check(tmp_path / "x") == []
    room["bytes"] = 1500  # not even one seed of both rows
    with pytest.raises(UserError, match="members fit"):
        runs.run(plan, tmp_path / "y", fake.quiet(), execute=execute)
    assert not (tmp_path / "y").exists()


def test_records_say_which_part_they_are_and_the_command_of_a_row_divides_again(tmp_path: Path, monkeypatch):
    plan = make_plan(environments=fake.SUITE["environments"][:1])
    assert run(plan, tmp_path / "x", Machine(plan), 100.0, monkeypatch)
    run(slices.divide(plan, tmp_path / "x"), tmp_path / "x", Machine(plan), 100.0, monkeypatch)
    _, found = records.load_all(tmp_path / "x")
    (whole,) = plan.programs
    for record in found:
        origin = record["provenance"]
        assert schema.errors(record) == [] and len(origin["program_members"]) == 6
        assert origin["part_of"] == {"program": whole.name, "members": 12}
        assert record["run_id"] in origin["program_members"]
    row = summary.summarise(tmp_path / "x").blocks[0].rows[1]
    pattern = reproduce.pattern(PENDULUM, "rigl", 0.8)
    assert row.command == f"sparserl bench suite.toml --divided-as . --only {pattern}"
    # What that command plans, in an empty folder, are the programs that the records name.
    chosen, _ = select.select(plan, tmp_path / "new", tmp_path / "x", [pattern], False)
    assert sorted(program.name for program in chosen.programs) == sorted(row.programs)
    assert runs.folder_of(chosen) == runs.folder_of(plan)
    with pytest.raises(UserError, match="--divided-as '.*' holds no records of this suite"):
        slices.divide(make_plan(seeds=4), tmp_path / "new", tmp_path / "x")


def test_an_undivided_folder_leaves_the_plan_as_it_is(tmp_path: Path):
    plan = make_plan()
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))
    assert slices.divide(plan, tmp_path / "x") is plan
    assert slices.divide(plan, tmp_path / "x", tmp_path / "x") is plan
    record = records.load_all(tmp_path / "x")[1][0]
    assert "part_of" not in record["provenance"]


def test_a_program_that_would_not_finish_is_not_begun_and_a_shorter_one_is(tmp_path: Path, monkeypatch):
    plan = make_plan(seeds=1)  # two environments, one program each
    machine = Machine(plan)
    machine.seconds = lambda program: 95.0 if "brax" in program.name else 30.0
    left = run(plan, tmp_path / "x", machine, 120.0, monkeypatch)
    assert [members[0].partition("/")[0] for members in machine.took] == ["gymnax-Pendulum-v1"]
    assert left is not None and left.startswith("time budget: 2 runs in 1 programs are left, about 2 min")
    assert not list((tmp_path / "x" / "programs").glob("*/checkpoint-*"))
    # With a fresh budget it fits, and what was measured of it is remembered.
    assert run(plan, tmp_path / "x", machine, 120.0, monkeypatch) is None
    assert machine.rehearsals == 2


def test_what_fits_into_no_budget_runs_to_the_deadline_and_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch
):
    plan = make_plan(seeds=1, environments=fake.SUITE["environments"][:1])
    machine = Machine(plan)
    machine.seconds = lambda program: 300.0
    left = run(plan, tmp_path / "x", machine, 100.0, monkeypatch)
    assert left is not None and left.startswith("time budget at step 2,000: 2 runs in 1 programs are left")
    assert list((tmp_path / "x" / "programs").glob("*/checkpoint-1"))
    resumed = Machine(plan)
    assert run(plan, tmp_path / "x", resumed, 100.0, monkeypatch) is None
    assert resumed.rehearsals == 0


def test_a_device_that_few_members_do_not_make_faster_is_found_out(tmp_path: Path, monkeypatch):
    """The first guess for a part is in proportion; the rehearsal of the part corrects it."""
    plan = make_plan(environments=fake.SUITE["environments"][:1])
    machine = Machine(plan, fixed=60.0, each=5.0)  # 120 s whole; 75 s for half; 65 s for one seed of each row
    while left := run(slices.divide(plan, tmp_path / "x"), tmp_path / "x", machine, 100.0, monkeypatch):
        assert len(machine.took) < 10, left
    assert sorted(itertools.chain(*machine.took)) == sorted(slices.ids(plan, plan.programs[0]))
    assert all(10 + machine.fixed + machine.each * len(members) <= 100 for members in machine.took)


def test_published_runs_are_left_out_by_identity_and_configuration(tmp_path: Path):
    plan = make_plan()
    results = tmp_path / "results"
    runs.run(plan, results / "mini", fake.quiet(), execute=fake.Execute(plan))
    none, line = select.without_published(plan, results)
    assert none.programs == () and "24 of 24 runs are skipped: results/mini holds their records" in line
    assert plan.suite.hash() in line and f"rigl@0.8 on {BRAX} x6" in line
    (results / "mini/records/gymnax-Pendulum-v1/rigl-s0800-seed002/curve.csv").write_text("harmed")
    some, _ = select.without_published(plan, results)
    (program,) = some.programs
    assert [run.id for run in program.runs] == ["rigl-s0800-seed002"]
    assert some.wholes[program.name] == (plan.programs[0].name, 12)
    other = make_plan(title="the same", seeds=4)
    same, line = select.without_published(other, results)
    assert same is other and f"holds another configuration ({plan.suite.hash()}" in line
    assert "nothing is published" in select.without_published(plan, tmp_path / "nowhere")[1]


def test_published_runs_of_another_kind_of_device_are_skipped_with_a_caution(tmp_path: Path, monkeypatch):
    plan = make_plan()
    fake.finished(tmp_path / "results" / plan.suite.name, plan)
    _, line = select.without_published(plan, tmp_path / "results")
    assert "CAUTION" not in line
    here = provenance.collect()
    gpu = {**here, "system": {**here["system"], "platform": "gpu", "device_kind": "NVIDIA H200"}}
    monkeypatch.setattr(provenance, "collect", lambda: {**gpu, "matmul_precision": "highest"})
    none, line = select.without_published(plan, tmp_path / "results")
    assert (
        not none.programs and "computed on CPUs, and this is NVIDIA H200 (matrix products: highest)" in line
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 8),
)
def test_parts_hold_every_member_once_in_order_and_equally_many_seeds(counts, parts):
    plan = _plan_of(tuple(counts))
    (program,) = plan.programs
    made = slices.cut(plan, program, parts)
    groups = [slices.ids(plan, one) for one in made]
    whole = slices.ids(plan, program)
    assert sorted(itertools.chain(*groups)) == sorted(whole)
    assert len(made) == min(parts, max(counts))
    for group in groups:
        assert group == [run_id for run_id in whole if run_id in set(group)]
    heights = [len(slices.by_seed(plan, one)) for one in made]
    assert max(heights) - min(heights) <= 1 and heights == sorted(heights, reverse=True)


def _plan_of(counts: tuple[int, ...]) -> plans.Plan:
    names = ("dense", "rigl", "set", "static")
    arms = [{"recipe": names[i], "seeds": count} for i, count in enumerate(counts)]
    return make_plan(arms=arms, environments=fake.SUITE["environments"][:1])


def test_on_an_accelerator_nothing_follows_for_other_numbers_of_members():
    samples = [rates.Sample(DEVICE, "env", "kind", n, 100.0 * n, 10.0, 3.0) for n in (4, 8)]
    rate = rates.Rates(DEVICE, samples, accelerated=True)
    told = {n: rate.forecast("env", "kind", n, 100.0 * n) for n in (2, 4, 6, 8, 9)}
    assert {n: one.sure for n, one in told.items() if one is not None and one.own} == {
        2: False,
        4: True,
        6: True,
        8: True,
        9: False,
    }


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_program_of_more_members_than_were_measured_is_rehearsed_on_an_accelerator(
    tmp_path: Path, monkeypatch, platform
):
    plan = make_plan(environments=fake.SUITE["environments"][:1])
    (program,) = plan.programs
    system = {**provenance.system(), "platform": platform}
    queue = slices.Slices(plan, tmp_path, rates.known(tmp_path, None, system), 100.0, time.monotonic() + 100)
    env, kind, members, work = queue._work(program)
    # One member took a fifth of the budget: twelve would, in proportion, take more than two of them.
    queue.known.add(rates.Sample(queue.known.device, env, kind, 1, work / members, 20.0, 1.0))
    taken = queue.next()
    if platform == "cpu":
        assert len(queue.plan.programs) > 1
    else:
        assert taken is program and queue.unsure(program) and queue.plan.programs == (program,)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.integers(1, 200), st.floats(0.1, 1e4), min_size=1, max_size=5),
    st.integers(1, 400),
)
def test_a_forecast_goes_through_what_was_measured(seconds, at):
    samples = [rates.Sample(DEVICE, "env", "kind", n, 100.0 * n, value, 3.0) for n, value in seconds.items()]
    rate = rates.Rates(DEVICE, [*samples, rates.Sample("2 x other", "env", "kind", at, 1.0, 1.0, 1e6)])
    for n, value in seconds.items():
        told = rate.forecast("env", "kind", n, 100.0 * n)
        assert told is not None and told.own and told.seconds == pytest.approx(3.0 + value)
    told, twice = rate.forecast("env", "kind", at, 100.0 * at), rate.forecast("env", "kind", at, 200.0 * at)
    assert told is not None and twice is not None
    assert told.sure is (at >= min(seconds)) and told.compile_seconds == 3.0
    assert twice.seconds - 3.0 == pytest.approx(2 * (told.seconds - 3.0))
    elsewhere = rate.forecast("another", "kind", at, 100.0 * at)
    larger = rate.forecast("env", "larger", at, 100.0 * at)
    for guess in (elsewhere, larger):
        assert guess is not None and not guess.own and not guess.sure
    assert rates.Rates(DEVICE).forecast("env", "kind", at, 1.0) is None


def test_rates_are_kept_merged_and_read_with_care(tmp_path: Path):
    one, two = (rates.Sample(DEVICE, "env", "kind", n, 1e9, 2.0, 1.0) for n in (1, 2))
    rates.store(tmp_path, [one])
    rates.merge(tmp_path, json.dumps([dataclasses.asdict(two), dataclasses.asdict(one)]).encode())
    assert rates.stored(tmp_path) == [one, two]
    for harm in (b"[", b"[{}]", b'[{"device": 1}]', b"{}", None):
        rates.merge(tmp_path, harm)
    assert rates.stored(tmp_path) == [one, two]
    (tmp_path / rates.FILE).write_text("garbage")
    assert rates.stored(tmp_path) == []


def test_a_slice_of_one_environment_leaves_the_division_of_the_others(tmp_path: Path, monkeypatch):
    plan = make_plan()
    other = only.select(plan, [f"{BRAX}/dense", f"{BRAX}/rigl"])
    run(other, tmp_path / "x", Machine(other), 100.0, monkeypatch)
    before = slices.decided(tmp_path / "x")
    assert len(before) > 1 and all(name.startswith("brax") for group in before for name in group)
    mine = only.select(slices.divide(plan, tmp_path / "x"), [f"{PENDULUM}/dense", f"{PENDULUM}/rigl"])
    run(mine, tmp_path / "x", Machine(mine), 100.0, monkeypatch)
    stored = slices.decided(tmp_path / "x")
    assert stored[: len(before)] == before and len(stored) > len(before)
    # Divided further, a group gives way to its parts.
    assert len({name for group in stored for name in group}) == sum(map(len, stored))


def test_only_selects_all_parts_of_a_row(tmp_path: Path, monkeypatch):
    plan = make_plan()
    run(plan, tmp_path / "x", Machine(plan), 100.0, monkeypatch)
    divided = slices.divide(plan, tmp_path / "x")
    chosen = only.select(divided, [f"{PENDULUM}/rigl"])
    assert 1 < len(chosen.programs) < len(divided.programs)
    assert {p.runs[0].training.env for p in chosen.programs} == {PENDULUM}
    text = "\n".join(plans.lines(chosen))
    assert text.count("part of: gymnax-Pendulum-v1") == len(chosen.programs)
