"""How Runs fall into Programs, what a member's randomness depends on, and how a Program is compiled."""

import collections
import dataclasses
import operator
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from sparserl_jax.agents.agent import Clock
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import METHODS
from sparserl_jax.training import RECIPES, Program, Run, group, recipe
from sparserl_jax.training.program import STAGES, clock_at
from sparserl_jax.training.recipe import Recipe
from sparserl_jax.training.stages import POOL, Stages
from tests.reference import probes, small


def run(name, of=None, sparsity=0.6, seed=0, arm=None):
    return Run(small.training() if of is None else of, recipe(name), sparsity, seed, arm or name)


# ---- grouping ------------------------------------------------------------------------------------------------------


def test_runs_are_grouped_by_length_of_target_and_keep_their_order():
    names = ["rlx2", "dense", "tiny_rvl", "set", "dense_rvl", "static", "rlx2_paper", "tiny", "rigl"]
    first, second = group([run(name, seed=seed) for seed in (1, 0) for name in names])
    long = ["rlx2", "tiny_rvl", "dense_rvl", "rlx2_paper"]
    short = ["dense", "set", "static", "tiny", "rigl"]
    assert [member.recipe.name for member in first.runs] == long * 2
    assert [member.recipe.name for member in second.runs] == short * 2
    assert [member.seed for member in first.runs] == [1] * 4 + [0] * 4
    assert (first.n_max, second.n_max) == (3, 1)


def test_every_recipe_of_the_family_and_every_knob_share_a_program_with_their_equals():
    known_ones = [known for known in RECIPES.values() if known.family == "drop_grow"]
    runs = [run(known.name, sparsity=knob) for known in known_ones for knob in (0.5, 0.9)]
    programs = group(runs)
    lengths = [known.n for known in known_ones]
    assert {program.n_max: len(program.runs) for program in programs} == {
        n: 2 * lengths.count(n) for n in lengths
    }
    assert len({program.family for program in programs}) == 1


def test_environments_periods_and_shapes_part_runs():
    base = small.training()
    other = [
        dataclasses.replace(base, env="tests.reference.probes:Acted"),
        dataclasses.replace(base, steps=600),
        dataclasses.replace(base, agent=dataclasses.replace(base.agent, hidden=(16, 17))),
        dataclasses.replace(base, schedule=dataclasses.replace(base.schedule, topology_interval=21)),
    ]
    programs = group([run("rlx2", of) for of in (base, *other, base)])
    assert [len(program.runs) for program in programs] == [2, 1, 1, 1, 1]


def test_two_objects_are_two_environments_even_under_one_name():
    one, two = probes.Acted(), probes.Acted()
    of = [small.training(env="mine", env_object=env) for env in (one, two, one)]
    programs = group([run("rlx2", training, seed=seed) for seed, training in enumerate(of)])
    assert [len(program.runs) for program in programs] == [2, 1]
    assert programs[0].env.user is one and programs[1].env.user is two


def test_why_is_one_sentence_that_names_what_members_share(program):
    assert "\n" not in program.why
    for word in ("4 members", "td3", "Drift", "drop_grow", "3 step"):
        assert word in program.why


# ---- names and keys ------------------------------------------------------------------------------------------------


def test_name_follows_from_the_membership_alone():
    assert small.program().name == small.program().name
    fewer = Program(small.program().runs[:-1])
    other = Program(small.program().runs[::-1])
    assert len({small.program().name, fewer.name, other.name}) == 3
    assert all(c.isalnum() or c in "-_" for c in small.program().name)


def test_name_of_a_program_on_an_object_lasts():
    """The folder of its checkpoints is called by it: it must not hold an address."""
    names = {
        group([run("rlx2", small.training(env="mine", env_object=env))])[0].name
        for env in (probes.Acted(), probes.Acted())
    }
    assert len(names) == 1


def test_object_that_cannot_be_copied_can_be_trained_on():
    class Uncopied(probes.Acted):
        def __deepcopy__(self, memo):
            raise AssertionError("nobody may copy a user's environment")

    (program,) = group([run("rlx2", small.training(env="mine", env_object=Uncopied()))])
    assert program.name and program.memory() > 0


def member(settings, index):
    return jax.tree.map(lambda leaf: leaf[index], settings)


def test_a_method_whose_settings_differ_in_shape_between_knobs_is_a_sentence(monkeypatch):
    def settings(layers, knob, events, source):
        own = METHODS["static"].settings(layers, knob, events, source)
        return own._replace(scale=np.ones(int(100 * (1 - knob)), np.float32))

    odd = METHODS["static"]._replace(name="odd", settings=settings)
    monkeypatch.setitem(METHODS, "odd", odd)
    mine = Recipe("odd", "odd")
    runs = [Run(small.training(), mine, knob, 0, "odd") for knob in (0.5, 0.5, 0.75)]
    (program,) = group(runs)
    with pytest.raises(UserError, match=r"'odd' differ .*actor 0.5, critic 0.5, released and actor 0.75"):
        _ = program.settings


def test_settings_and_keys_of_a_member_do_not_depend_on_its_companions():
    alone = [Program((one,)).settings for one in small.runs()]
    together = small.program().settings
    backwards = Program(tuple(small.runs()[::-1])).settings
    for index, settings in enumerate(alone):
        for place in (member(together, index), member(backwards, len(alone) - 1 - index)):
            jax.tree.map(np.testing.assert_array_equal, member(settings, 0), place)


def test_keys_differ_between_recipes_knobs_seeds_environments_and_purposes():
    runs = [
        run("rlx2"),
        run("rlx2_paper"),
        run("rlx2", sparsity=0.7),
        dataclasses.replace(run("rlx2"), critic_sparsity=0.7),
        run("rlx2", seed=1),
        run("rlx2", small.training(env="tests.reference.probes:Acted")),
    ]
    keys = [Program((one,)).settings.keys for one in runs]
    seen = {tuple(key[0].tolist()) for of_run in keys for key in of_run.values()}
    assert len(seen) == len(runs) * len(keys[0])


def test_key_does_not_depend_on_the_name_of_the_arm():
    """An arm is compared with itself under other seeds, not under another name."""
    ours, theirs = (Program((run("rlx2", arm=arm),)).settings for arm in ("one", "two"))
    jax.tree.map(np.testing.assert_array_equal, ours.keys, theirs.keys)


def test_evaluation_key_is_common_to_an_environment():
    settings = small.program().settings
    assert len({tuple(key) for key in settings.evaluation_key.tolist()}) == 1
    elsewhere = Program((run("rlx2", small.training(env="tests.reference.probes:Acted")),)).settings
    assert elsewhere.evaluation_key[0].tolist() != settings.evaluation_key[0].tolist()


# ---- memory and compilation ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_forecast_equals_the_bytes_of_the_population(program):
    compiled, _ = program.compile()
    population = compiled["init"](program.layout.place(program.settings))
    plain = [
        jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(population)
    ]
    assert program.memory() == sum(leaf.addressable_shards[0].data.nbytes for leaf in plain)
    assert all(leaf.shape[0] == program.layout.rows for leaf in plain)


def test_memory_is_forecast_without_allocating_it():
    enormous = dataclasses.replace(small.training().schedule, buffer_max=9_000_000, topology_interval=100_000)
    of = small.training(steps=9_000_000, warm_up=600, dispatch=None, schedule=enormous)
    program = small.program(of)
    assert program.memory() > program.layout.per_device * 9_000_000 * (2 + 1 + 1) * 4


def test_every_stage_is_compiled_and_counted(program):
    compiled, seconds = program.compile()
    assert set(compiled) == set(STAGES) <= set(seconds)
    assert program.compilations == len(STAGES)


def test_clock_starts_updates_when_the_warm_up_ends(program):
    clocks = [clock_at(program.training, step) for step in (0, 60, 90, 480)]
    assert [int(clock.update) for clock in clocks] == [0, 0, 30, 420]
    assert [int(clock.step) for clock in clocks] == [0, 60, 90, 480]


def branches(jaxpr):
    """Sizes of all `cond` in a jaxpr, however deep: operations in the larger branch."""

    def inner(equation):
        for value in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            if hasattr(value, "jaxpr"):
                yield value.jaxpr
            elif hasattr(value, "eqns"):
                yield value

    def size(jaxpr):
        return sum(1 + sum(map(size, inner(equation))) for equation in jaxpr.eqns)

    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            found.append(max(size(branch.jaxpr) for branch in equation.params["branches"]))
        for part in inner(equation):
            found += branches(part)
    return found


@pytest.fixture(scope="module")
def traced(program):
    """Jaxpr of the training stage over members, with the clock as it is, and with a clock per member."""
    stages = Stages(program.training, program.agent, program.env, program.n_max, program.keep_mean)
    population, members = program.shapes(), len(program.runs)
    clocks = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((members,), leaf.dtype), clock_at(program.training, 0)
    )
    batched = jax.vmap(stages.train, in_axes=(0, 0, 0))
    return (
        jax.make_jaxpr(program.stages["train"])(*program.arguments()["train"]).jaxpr,
        jax.make_jaxpr(batched)(population, program.settings, clocks).jaxpr,
    )


def test_topology_events_and_buffer_checks_stay_branches_over_members(traced):
    """One branch each for the events of critic and actor and for the buffer check; work is in them, not beside them."""
    large = [size for size in branches(traced[0]) if size > 50]
    assert len(large) == 3


def test_clock_with_a_member_axis_would_turn_every_branch_into_a_selection(traced):
    """What the test before this one guards against."""
    assert [size for size in branches(traced[1]) if size > 50] == []


def test_every_stage_lowers_for_accelerators_on_any_machine(program):
    for platform in ("cuda", "tpu"):
        exported = jax.export.export(
            program.stages["train"],
            platforms=(platform,),
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("cu_threefry2x32_ffi")],
        )(*program.arguments()["train"])
        assert exported.platforms == (platform,)


def test_initial_states_are_drawn_anew_for_every_dispatch_and_member(program):
    """Where resets are expensive, episodes of one dispatch begin at the states of one pool."""
    env = small.Drift()
    env.expensive_reset = True  # type: ignore[attr-defined]
    stages = Stages(program.training, program.agent, env, program.n_max, program.keep_mean)
    pool = jax.jit(lambda settings, step: stages._pool(settings, Clock(step, np.int32(0)))[1])
    members = [jax.tree.map(operator.itemgetter(member), program.settings) for member in (0, 1)]
    positions = [np.asarray(pool(settings, np.int32(step)))[:, 0] for settings in members for step in (0, 30)]
    assert all(len(set(one.tolist())) == POOL for one in positions)
    assert len(set(np.concatenate(positions).tolist())) == 4 * POOL
    np.testing.assert_array_equal(pool(members[0], np.int32(0))[:, 0], positions[0])


@pytest.mark.parametrize(("num_envs", "rows"), [(1, 16), (5, 4), (64, 3)])
def test_a_replay_that_is_emptied_keeps_a_batch_of_transitions_and_a_window(num_envs, rows):
    """Rows hold one transition of each parallel environment; windows here have three rows."""
    stages = object.__new__(Stages)
    agent = SimpleNamespace(batch_size=16)
    stages.training, stages.n_max = SimpleNamespace(agent=agent, num_envs=num_envs), 3  # type: ignore[assignment]
    stages.agent = SimpleNamespace(experience="steps")  # type: ignore[assignment]
    clock = Clock(np.int32(100 * num_envs), np.int32(7))
    replay = collections.namedtuple("Replay", ["left"])
    tally = collections.namedtuple("Tally", ["events"])
    member = collections.namedtuple("Member", ["replay", "tally"])(replay(np.int32(10)), tally({}))
    for reset, left in ((True, 100 - rows), (False, 10)):
        after = stages._account(member, clock, {"reset_replay": np.bool_(reset)})  # type: ignore[arg-type]
        assert int(after.replay.left) == left
