"""Members over devices: the same results on any number of them, nothing exchanged, and copies nobody hears of."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserl_jax import training
from sparserl_jax.errors import UserError
from sparserl_jax.training import memory, sharding
from sparserl_jax.training.sharding import Layout
from tests.reference import small

ROOT = Path(__file__).parents[2]
DEVICES = 8


def layout(members, devices=DEVICES):
    """A layout on devices of which nothing but their number is asked."""
    return Layout(members, (None,) * devices)


@given(st.integers(1, 50), st.integers(1, 20))
def test_every_device_holds_equally_many_rows_and_no_device_more_than_it_must(members, devices):
    spread = layout(members, devices)
    assert spread.rows == spread.per_device * devices >= members
    assert (spread.per_device - 1) * devices < members


@given(st.integers(1, 30), st.integers(1, 12))
def test_rows_are_the_members_and_then_copies_of_them_and_the_copies_come_off_again(members, devices):
    spread = layout(members, devices)
    tree = {
        "x": np.arange(2.0 * members, dtype=np.float32).reshape(members, 2),
        "empty": np.zeros((members, 0)),
    }
    padded = spread.padded(tree)
    expected = [tree["x"][row % members] for row in range(spread.rows)]
    np.testing.assert_array_equal(padded["x"], expected)
    assert padded["empty"].shape == (spread.rows, 0)
    jax.tree.map(np.testing.assert_array_equal, spread.unpadded(padded), tree)
    assert padded["x"].dtype == np.float32


def test_typed_keys_and_shapes_are_padded_like_arrays():
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 3)
    padded = layout(3).padded(keys)
    assert padded.dtype == keys.dtype and padded.shape == (8,)
    np.testing.assert_array_equal(jax.random.key_data(padded)[3:6], jax.random.key_data(keys))
    back = layout(3).unpadded(padded)
    np.testing.assert_array_equal(jax.random.key_data(back), jax.random.key_data(keys))
    shape = jax.eval_shape(lambda: keys)
    assert layout(3).padded(shape).shape == (8,) and layout(3).padded(shape).dtype == keys.dtype


def test_one_device_changes_nothing():
    tree = {"x": np.ones((3, 2)), "key": jax.random.split(jax.random.key(0), 3)}
    assert layout(3, 1).padded(tree) is tree and layout(3, 1).unpadded(tree) is tree


def test_members_are_spread_over_as_few_devices_as_take_no_longer_than_all(monkeypatch):
    monkeypatch.setattr(sharding, "devices", lambda: list("abcd"))
    for members, used, rows in ((1, 1, 1), (2, 2, 2), (4, 4, 4), (5, 3, 6), (6, 3, 6), (7, 4, 8), (9, 3, 9)):
        found = Layout.of(members)
        assert found == Layout(members, tuple("abcd"[:used])) and found.rows == rows


def test_layout_says_in_words_where_members_are():
    assert str(layout(90, 1)) == "90 members"
    assert str(layout(7)) == "7 members on 8 devices, 1 padded"
    assert str(layout(16)) == "16 members on 8 devices"


def test_members_one_after_another_are_the_members_batched():
    def stage(member, settings, clock):
        return member @ member.T + clock * settings["s"], {"norm": (member**2).sum()}

    members = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
    given = (members, {"s": np.arange(3.0, dtype=np.float32)}, np.float32(2.0))
    alone = Layout(3, tuple(jax.local_devices()[:1]))
    loop = alone.stage(stage, 0, 0, None, one_by_one=True)
    batch = alone.stage(stage, 0, 0, None)
    assert " scan" in str(jax.make_jaxpr(loop)(*given)) and " scan" not in str(jax.make_jaxpr(batch)(*given))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), loop(*given), batch(*given))


@pytest.mark.long
def test_on_cpus_a_member_of_many_products_trains_alone_and_ends_as_in_a_batch(monkeypatch):
    """Alone it has the very bits it has among others: its arithmetic knows nothing of them."""
    batched = small.program()
    assert not batched.one_by_one
    monkeypatch.setattr("sparserl_jax.training.program.ALONE", 1)
    among = small.program()
    assert among.one_by_one
    ends = {outcome.run.id: outcome for outcome in training.execute(among)}
    for outcome in training.execute(batched):
        assert_close(small.result(ends[outcome.run.id]), small.result(outcome))
    (alone,) = training.execute(training.Program(among.runs[1:2]))
    jax.tree.map(np.testing.assert_array_equal, alone.params, ends[alone.run.id].params)


# ---- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("devices", "rows"), [(1, 4), (2, 2), (3, 2), (4, 1), (8, 1)])
def test_memory_is_forecast_per_device(program, devices, rows):
    spread = small.program()
    spread.__dict__.update(layout=layout(4, devices), _shapes=program.shapes())
    member = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.shapes())) // 4
    assert spread.memory() == member * rows


def test_memory_at_hand_is_what_the_fullest_device_has_left(monkeypatch):
    def gpu(limit, used):
        stats = None if limit is None else {"bytes_limit": limit, "bytes_in_use": used}
        return SimpleNamespace(platform="gpu", memory_stats=lambda: stats)

    for local, offered in (
        ([gpu(100, 10), gpu(100, 40), gpu(100, 0)], 60),
        ([gpu(None, 0), gpu(100, 25)], 75),
        ([gpu(None, 0)], None),
    ):
        monkeypatch.setattr(memory, "devices", lambda local=local: local)
        assert memory.available() == offered
    monkeypatch.setattr(memory, "devices", lambda: [gpu(100, 10), gpu(4, 0)])
    assert memory.available(1) == 90  # of a program that uses the first alone


def test_simulated_devices_share_the_memory_of_the_host(monkeypatch):
    monkeypatch.setattr(memory, "devices", lambda: [SimpleNamespace(platform="cpu")])
    alone = memory.available()
    monkeypatch.setattr(memory, "devices", lambda: [SimpleNamespace(platform="cpu")] * 8)
    assert alone is None or memory.available() < alone / 4
    assert alone is None or memory.available(1) > alone / 2  # of a program that uses one of them


def test_population_that_does_not_fit_is_told_how_many_members_all_devices_hold(monkeypatch):
    """11 members on 8 devices are 2 rows on each of 6: where 1.5 rows fit, 6 members do."""
    monkeypatch.setattr(sharding, "devices", lambda: [None] * 8)
    memory.check(2_000_000_000, Layout.of(11), "mine", offered=2_000_000_000)
    with pytest.raises(UserError) as error:
        memory.check(2_000_000_000, Layout.of(11), "mine", offered=1_500_000_000)
    for words in ("2.00 GB on each", "11 members on 6 devices, 1 padded", "1.50 GB", "about 6 members fit"):
        assert words in str(error.value)


def test_checkpoints_of_an_accelerator_must_fit_into_the_memory_of_the_host(monkeypatch):
    for platform, offered, fits in (("gpu", 1_500_000_000, False), ("gpu", None, True), ("cpu", 1, True)):
        monkeypatch.setattr(memory, "devices", lambda name=platform: [SimpleNamespace(platform=name)])
        monkeypatch.setattr(memory, "of_host", lambda offered=offered: offered)
        if fits:
            memory.check_checkpoint(2_000_000_000, "mine")
            continue
        with pytest.raises(UserError, match=r"mine: a checkpoint takes 2\.00 GB .* 1\.50 GB are free"):
            memory.check_checkpoint(1_000_000_000, "mine")  # written from a copy of a copy
        memory.check_checkpoint(750_000_000, "mine")


def test_a_full_accelerator_is_told_how_to_have_more_of_it(monkeypatch):
    said = "RESOURCE_EXHAUSTED: Used 21.95G of 15.48G hbm.\n\nTotal hbm usage: ..."
    for platform in ("gpu", "tpu"):
        monkeypatch.setattr(memory, "devices", lambda name=platform: [SimpleNamespace(platform=name)])
        text = memory.exhausted(SimpleNamespace(on_cpu=False), "mine", said)
        assert "mine ran out of device memory" in text and "Used 21.95G of 15.48G hbm);" in text
        assert ("XLA_PYTHON_CLIENT_MEM_FRACTION" in text) == (platform == "gpu") and "\n" not in text


# ---- a process with eight devices ----------------------------------------------------------------------------------


def execute(folder, ways, *members):
    """The process of `tests.reference.sharded`; its facts."""
    # Quicker compilation, of the same programs.
    flags = f"--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-m", "tests.reference.sharded", str(folder), ways, *map(str, members)],
        cwd=ROOT,
        env={
            **os.environ,
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def eleven(tmp_path_factory):
    """Eleven members, on eight devices and on one: folder and facts."""
    folder = tmp_path_factory.mktemp("eleven")
    return folder, execute(folder, "both", 11)


def results(folder, name):
    with np.load(folder / f"{name}.npz") as file:
        return {key: file[key] for key in file}


def assert_close(ours, theirs, tolerance=1e-5):
    """Masks, counts and moments exactly, values to 1e-5: products of other batch shapes are summed in other orders."""
    assert ours.keys() == theirs.keys() and len(ours) > 60
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype and array.shape == theirs[name].shape, name
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, theirs[name], rtol=tolerance, atol=tolerance, err_msg=name)
        else:
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["many", "many-one", "one-many"])
def test_uneven_population_on_eight_devices_ends_as_on_one_also_when_resumed_on_the_other(eleven, way):
    folder, _ = eleven
    assert_close(results(folder, f"11-{way}"), results(folder, "11-one"))


@pytest.mark.slow
def test_run_resumed_on_as_many_devices_is_undisturbed(eleven):
    folder, _ = eleven
    ours, theirs = results(folder, "11-many-many"), results(folder, "11-many")
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


@pytest.mark.slow
def test_copies_reach_no_outcome_no_count_no_curve_and_no_checkpoint(eleven):
    _, facts = eleven
    many = facts["11"]
    assert (many["devices"], many["rows"]) == (6, 12)
    assert many["outcomes"] == many["runs"] and len(set(many["runs"])) == 11
    assert many["measured_members"] == 11.0
    assert many["told"] == [11] * 4
    assert many["saved_at"] == 240 and many["saved_rows"] == many["noted"] == [11]


@pytest.mark.slow
def test_devices_exchange_nothing_and_topology_stays_in_branches(eleven):
    _, facts = eleven
    assert set(facts["11"]["collectives"]) == {"init", "warm_up", "train", "evaluate", "harvest"}
    assert not any(facts["11"]["collectives"].values())
    assert facts["exchanging"] == ["all-reduce"]  # what such a thing would be called
    assert facts["11"]["branches"] == facts["one"]["branches"] >= 3 and facts["11"]["events"] == 20


@pytest.mark.slow
def test_several_devices_cost_the_compilations_of_one_also_with_copies_and_a_resume(eleven):
    _, facts = eleven
    assert len(facts["11"]["compiled"]) == facts["11"]["planned"] == 5, facts["11"]["compiled"]


@pytest.mark.slow
def test_each_device_holds_its_share_once_because_the_state_is_donated(eleven):
    _, facts = eleven
    one, many = facts["one"], facts["11"]
    assert one["forecast"] * 2 == many["forecast"] * 11  # 2 rows instead of 11
    assert one["donated"] == one["forecast"] and many["donated"] == many["forecast"]
    assert many["forecast"] < many["peak"] < one["peak"] / 3


@pytest.mark.slow
def test_training_over_devices_lowers_for_accelerators(eleven):
    _, facts = eleven
    assert facts["11"]["exported"] == [6, 6]


@pytest.mark.long
def test_populations_that_fill_the_devices_or_leave_some_out_end_as_on_one(eleven, tmp_path):
    """Members do not depend on their companions, so the population of eleven is the oracle of three and eight."""
    folder, _ = eleven
    facts = execute(tmp_path, "many", 8, 3)
    assert (facts["8"]["devices"], facts["3"]["devices"]) == (8, 3)
    oracle = results(folder, "11-one")
    for members in (3, 8):
        runs = facts[f"{members}"]["runs"]
        expected = {name: array for name, array in oracle.items() if name.startswith(tuple(runs))}
        assert facts[f"{members}"]["outcomes"] == runs and len(runs) == members
        for way in ("many", "many-many"):
            assert_close(results(tmp_path, f"{members}-{way}"), expected)


@pytest.mark.long
def test_members_of_sac_end_on_eight_devices_as_on_one(tmp_path):
    """Log densities, and losses of their size, spread roundings further than TD3 does."""
    facts = execute(tmp_path, "both:sac", 3)
    assert (facts["3"]["devices"], facts["3"]["rows"], facts["3"]["exported"]) == (3, 3, [3, 3])
    assert not any(facts["3"]["collectives"].values())
    assert_close(results(tmp_path, "3-many"), results(tmp_path, "3-one"), tolerance=1e-3)
    for name, array in results(tmp_path, "3-many").items():
        np.testing.assert_array_equal(results(tmp_path, "3-many-many")[name], array, err_msg=name)


# ---- what reaches the host -----------------------------------------------------------------------------------------


def test_beside_the_state_that_stays_a_dispatch_gives_one_number_per_metric_and_member(program):
    population, metrics = jax.eval_shape(program.stages["train"], *program.arguments()["train"])
    given = program.arguments()["train"][0]
    assert jax.tree.map(lambda leaf: leaf.shape, population) == jax.tree.map(lambda leaf: leaf.shape, given)
    assert {"critic_loss", "actor_loss"} < set(metrics)
    assert {leaf.shape for leaf in jax.tree.leaves(metrics)} == {(program.layout.rows,)}
