"""Arms that take masks or a policy from other arms' finished runs: declared, ordered, resumed, recorded, refused."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sparserl_jax.bench import (
    caption,
    check,
    only,
    policy,
    records,
    reproduce,
    schema,
    slices,
    sources,
    suites,
)
from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import run as runs
from sparserl_jax.errors import UserError
from sparserl_jax.layers import leaf
from tests.bench import fake

ENV = "gymnax-Pendulum-v1"
TICKET = {"recipe": "static", "name": "ticket", "ticket": {"arm": "rlx2"}}
RANDOM = {"recipe": "static", "name": "lot", "ticket": {"arm": "rlx2", "mask": "random", "weights": "random"}}
CLONE = {"recipe": "static", "name": "clone", "clone": "dense", "ticket": {"arm": "rlx2"}}
SMALL: dict[str, Any] = {
    **fake.SMALL,
    # Tickets first: the plan has to put them behind what they take from.
    "arms": [TICKET, RANDOM, CLONE, {"recipe": "dense"}, {"recipe": "rlx2"}],
}


def read(folder: Path, arm: str, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Record and masks of one run."""
    level = "s0000" if arm == "dense" else "s0800"
    here = folder / "records" / ENV / f"{arm}-{level}-seed{seed:03d}"
    return records.read(here), policy.load_masks(here / "masks.npz")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, plans.Plan, list[str]]:
    folder = tmp_path_factory.mktemp("tickets") / "x"
    plan = fake.make_plan(**SMALL)
    execute = fake.Execute(plan)
    runs.run(plan, folder, fake.quiet(), execute=execute)
    return folder, plan, execute.programs


def test_programs_run_after_those_they_take_from(made):
    _, plan, executed = made
    assert executed == [f"{ENV}-{kind}" for kind in ("n1", "n3", "n1-masks", "n1-masks-expert")]
    text = plans.lines(plan)
    assert "    after: the runs of rlx2, whose masks or policies it takes" in text
    assert "    after: the runs of dense, rlx2, whose masks or policies it takes" in text
    # Environment by environment, so that the first table block is finished first.
    two = fake.make_plan(**{**SMALL, "environments": fake.SUITE["environments"]})
    envs = [program.runs[0].training.env for program in two.programs]
    assert envs == sorted(envs, key=list(dict.fromkeys(envs)).index)


def test_a_ticket_has_the_masks_of_its_source_bit_for_bit_and_says_so(made):
    folder, _, _ = made
    for seed in (0, 1):
        record, masks = read(folder, "ticket", seed)
        source, theirs = read(folder, "rlx2", seed)
        ours = policy.flatten(masks, "_")
        assert all(np.array_equal(ours[name], mask) for name, mask in policy.flatten(theirs, "_").items())
        digest = source["files"]["masks"]["sha256"]
        assert record["provenance"]["sources"] == {
            "masks": {"run_id": f"{ENV}/rlx2-s0800-seed00{seed}", "sha256": digest}
        }
        assert record["provenance"]["config"]["ticket"] == {
            "arm": "rlx2",
            "mask": "final",
            "weights": "rewound",
        }
        assert not schema.errors(record) and "sources" not in source["provenance"]
    assert read(folder, "ticket", 0)[0]["provenance"]["config_hash"] == record["provenance"]["config_hash"]


def test_a_random_ticket_has_equal_counts_in_other_places(made):
    folder, plan, _ = made
    layers = plan.layers["gymnax:Pendulum-v1"]
    placed = []
    for seed in (0, 1):
        _, masks = read(folder, "lot", seed)
        _, theirs = read(folder, "rlx2", seed)
        for network, table in layers.items():
            for layer in table:
                mine, other = (np.asarray(leaf(tree[network], layer.kernel)) for tree in (masks, theirs))
                rows = (layer.copies, layer.size)
                assert np.array_equal(mine.reshape(rows).sum(1), other.reshape(rows).sum(1))
        assert mine.all() or not np.array_equal(mine, other)
        hidden = np.asarray(leaf(masks["critic"], layers["critic"][1].kernel))
        assert 0 < hidden.sum() < hidden.size
        placed.append(hidden)
    assert not np.array_equal(placed[0], placed[1]) and not np.array_equal(placed[0][0], placed[0][1])


def test_a_shuffled_mask_is_uniform_over_places():
    plan = fake.make_plan(**SMALL)
    table = plan.layers["gymnax:Pendulum-v1"]["actor"]
    masks: Any = {"mlp": {layer.name: {"kernel": np.zeros(layer.shape, bool)} for layer in table}}
    masks["mlp"]["hidden_0"]["kernel"][0, :12] = True  # 12 of 48
    total = np.zeros((3, 16))
    for seed in range(400):
        shuffled = sources.shuffled(masks, table, np.random.default_rng(seed))
        total += shuffled["mlp"]["hidden_0"]["kernel"]
    assert masks["mlp"]["hidden_0"]["kernel"][0, :12].all()  # the source is left alone
    # Binomial(400, 1/4): mean 100, standard deviation 8.7.
    assert total.sum() == 4800 and total.min() > 60 and total.max() < 140


def test_a_clone_has_an_actor_only_and_names_its_expert(made):
    folder, _, _ = made
    record, masks = read(folder, "clone", 1)
    expert = read(folder, "dense", 1)[0]
    assert set(masks) == set(record["result"]["tensors"]) == {"actor"}
    assert record["result"]["agent"] == "behaviour_cloning" and not schema.errors(record)
    said = record["provenance"]["sources"]["expert"]
    assert said == {"run_id": f"{ENV}/dense-s0000-seed001", "sha256": expert["files"]["policy"]["sha256"]}
    costs, config = record["result"]["costs"], record["provenance"]["config"]
    live = sum(t["nnz"] for t in record["result"]["tensors"]["actor"])
    assert (
        costs["training_flops_theory"] == 3 * 2 * live * 32 * 3600
    )  # forward, backward twice; batch, updates
    assert config["training"]["schedule"]["buffer_max"] == config["training"]["warm_up"] == 400
    assert policy.load(folder / "records" / record["run_id"]).act(np.zeros((2, 3))).shape == (2, 1)


def test_keys_tell_what_is_shared(made):
    _, plan, _ = made
    of = {(p.arm.name, p.run.seed): p.run for p in plan.runs}
    assert of["ticket", 0].draw_name == of["rlx2", 0].key_name != of["ticket", 0].key_name
    assert of["lot", 0].draw_name == of["lot", 0].key_name
    assert of["clone", 1].draw_name == of["rlx2", 1].key_name
    assert len({run.key_name for run in of.values()}) == len(of)
    assert of["rlx2", 0].key_name == "gymnax:Pendulum-v1|rlx2|0.8|0.8|0"


def test_what_takes_nothing_keeps_its_hash_and_its_record():
    suite = fake.make_plan(**fake.SMALL).suite
    assert not {"ticket", "clone"} & {key for arm in suite.plain()["arms"] for key in arm}
    config = records.config_of(fake.make_plan(**fake.SMALL).runs[0])
    assert not {"ticket", "clone", "masks", "expert"} & set(config)


def test_the_caption_says_what_was_taken(made):
    folder, plan, _ = made
    settings, found = records.load_all(folder)
    said = " ".join(caption.caption(settings, found, []))
    assert "ticket: final masks of rlx2, frozen, their initial weights |" in said
    assert "lot: random masks with the counts of those of rlx2, frozen, new initial weights" in said
    assert "clone: final masks of rlx2, frozen, their initial weights; behaviour cloning of dense" in said
    assert "What those runs cost is in no number of these rows" in said


def test_the_command_of_a_row_says_where_its_sources_lie(made):
    settings = records.load_all(made[0])[0]
    ticket, plain = (
        reproduce.command(settings, "gymnax:Pendulum-v1", arm, 0.8, "results/mini/suite.toml")
        for arm in ("ticket", "rlx2")
    )
    assert ticket == (
        "sparserl bench results/mini/suite.toml --sources results/mini --only gymnax:Pendulum-v1/ticket@0.8"
    )
    assert "--sources" not in plain


def test_check_finds_masks_of_another_run(made, tmp_path: Path):
    folder, _, _ = made
    assert check.check(folder) == []
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    mine, other = (copy / "records" / ENV / f"{arm}-s0800-seed000" for arm in ("ticket", "lot"))
    record = records.read(mine)
    shutil.copy(other / "masks.npz", mine)
    shutil.copy(other / "policy.npz", mine)
    for name in ("masks", "policy"):
        record["files"][name]["sha256"] = records.digest((mine / f"{name}.npz").read_bytes())
    record["provenance"]["sources"]["masks"]["run_id"] = f"{ENV}/rlx2-s0800-seed001"
    (mine / "record.json").write_text(json.dumps(records.sealed(record)))
    told = " ".join(check.check(copy))
    assert "came from another run than" in told and "are not those of" in told and "the suite says" in told


def test_a_lost_run_is_made_again_from_the_same_masks(made, tmp_path: Path):
    folder, plan, _ = made
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    lost = copy / "records" / ENV / "ticket-s0800-seed001"
    before = records.read(lost)
    shutil.rmtree(lost)
    execute = fake.Execute(plan)
    runs.run(plan, copy, fake.quiet(), execute=execute)
    assert execute.programs == [f"{ENV}-n1-masks"]
    after = records.read(lost)
    assert after["files"]["masks"] == before["files"]["masks"]
    assert after["provenance"]["sources"] == before["provenance"]["sources"]


class Stopping(fake.Execute):
    """Stops in the first program of tickets, as if a checkpoint had been written."""

    seen: list[str]

    def __call__(self, program: Any, *, folder: Path, deadline: float | None, progress: Any) -> Any:
        if "masks" in program.name and not (folder / "checkpoint-000000002000").exists():
            (folder / "checkpoint-000000002000").mkdir(parents=True)
            raise runs.Unfinished(3, "stopped")
        return super().__call__(program, folder=folder, deadline=deadline, progress=progress)


def test_a_checkpoint_of_other_masks_is_thrown_away(tmp_path: Path):
    plan, folder = fake.make_plan(**SMALL), tmp_path / "x"
    with pytest.raises(runs.Unfinished):
        runs.run(plan, folder, fake.quiet(), execute=Stopping(plan))
    held = folder / "programs" / f"{ENV}-n1-masks"
    noted = json.loads((held / sources.FILE).read_text())
    assert [entry["sources"]["masks"]["run_id"] for entry in noted[:2]] == [
        f"{ENV}/rlx2-s0800-seed000",
        f"{ENV}/rlx2-s0800-seed001",
    ]
    _, told = sources.take(plan, plan.programs[2], [folder])
    warned: list[str] = []
    sources.forget(held, told, warned.append)
    assert not warned and (held / "checkpoint-000000002000").is_dir()
    told[0]["sources"]["masks"]["sha256"] = "0" * 64
    sources.forget(held, told, warned.append)
    assert len(warned) == 1 and "has changed" in warned[0] and not held.exists()


def test_masks_of_agents_without_a_critic_are_held_against_their_source_too(made):
    """Of DQN, say; those of a clone, which has no critic either, are a part of what the source has."""
    folder, _, _ = made
    record, clone = read(folder, "ticket", 0)[0], read(folder, "clone", 0)[0]
    del record["result"]["tensors"]["critic"]
    assert sources.problems([record]) == [] == sources.problems([clone])
    assert clone["files"]["masks"]["sha256"] != clone["provenance"]["sources"]["masks"]["sha256"]
    record["files"]["masks"]["sha256"] = "0" * 64
    assert len(sources.problems([record])) == 1 and "are not those of" in sources.problems([record])[0]


def test_rows_alone_need_their_sources_here_or_elsewhere(made, tmp_path: Path):
    folder, plan, _ = made
    alone = only.select(plan, ["ticket"])
    with pytest.raises(UserError) as error:
        runs.run(alone, tmp_path / "y", fake.quiet(), execute=fake.Execute(plan))
    assert "takes masks or a policy from gymnax-Pendulum-v1/rlx2-s0800-seed000 and 1 more" in str(error.value)
    assert "--sources" in str(error.value) and not (tmp_path / "y" / records.CONFIGURATION).exists()
    runs.run(alone, tmp_path / "y", fake.quiet(), execute=fake.Execute(plan), elsewhere=folder)
    record = read(tmp_path / "y", "ticket", 0)[0]
    assert record["provenance"]["sources"] == read(folder, "ticket", 0)[0]["provenance"]["sources"]


def test_a_time_budget_takes_nothing_up_before_its_sources(tmp_path: Path):
    plan, folder = fake.make_plan(**SMALL), tmp_path / "x"
    folder.mkdir()

    class Known:
        device = "x"

        @staticmethod
        def forecast(*work: Any) -> None:
            return None

    queue = slices.Slices(plan, folder, Known(), 100.0, 100.0, clock=lambda: 0.0)  # type: ignore[arg-type]
    queue.ready = lambda program: not sources.lacking(queue.plan, program, [folder])
    queue._finished = {p.folder.as_posix() for p in plan.runs if p.arm.name == "dense"}
    assert queue.next().name == f"{ENV}-n3"
    queue._finished |= {p.folder.as_posix() for p in plan.runs if p.arm.name == "rlx2"}
    assert queue.next() is None  # finished elsewhere, so its masks are not here


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        ([{**TICKET, "ticket": {"arm": "rlx3"}}], "did you mean 'rlx2'"),
        ([{**TICKET, "ticket": {"arm": "rlx2", "mask": "first"}}], "'mask' must be 'final' or 'random'"),
        ([{**TICKET, "ticket": {"arm": "rlx2", "weight": "random"}}], "did you mean 'weights'"),
        ([{**TICKET, "ticket": {}}], "the key 'arm' is missing"),
        ([{**TICKET, "ticket": "rlx2"}], "must be a table of settings"),
        ([{**TICKET, "ticket": {"arm": "lot"}}, RANDOM], "'lot' takes from other runs itself"),
        ([{**TICKET, "seeds_from": 7}], "its seed 7 is none of 'rlx2'"),
        ([{**TICKET, "sparsities": [0.5]}], "'rlx2' has no runs at its sparsity 0.5"),
        ([{**TICKET, "ticket": {"arm": "dense"}}], "'dense' has no runs at its sparsity 0.8"),
        ([{**TICKET, "recipe": "rigl"}], "does not keep a given mask as it is; use the recipe 'static'"),
        ([{**TICKET, "recipe": "sr_ste"}], "does not keep a given mask as it is; use the recipe 'static'"),
        ([{**TICKET, "set": {"dense_targets": True}}], "drop 'dense_targets'"),
        (
            [{"recipe": "tiny"}, {**TICKET, "ticket": {"arm": "tiny"}}],
            "does not keep as many weights in every tensor as 'tiny'",
        ),
        (
            [{"recipe": "tiny"}, {**TICKET, "recipe": "tiny", "ticket": {"arm": "tiny"}}],
            "'tiny' is a narrow network, whose first weights are drawn as one",
        ),
        ([{**CLONE, "clone": "dens"}], "did you mean 'dense'"),
        ([{**CLONE, "set": {"n": 3}}], "give it a recipe with n = 1 and a fixed buffer"),
        ([{**CLONE, "set": {"buffer": "dynamic"}}], "give it a recipe with n = 1 and a fixed buffer"),
        ([{**CLONE, "overrides": {"gamma": 0.9}}], "gamma"),
        (
            [
                {"recipe": "static", "name": "other", "agent": {"name": "sac"}},
                {**TICKET, "ticket": {"arm": "other"}},
            ],
            "'other' has an algorithm of its own, from which nothing is taken",
        ),
        (
            [{"recipe": "dense", "name": "other", "agent": {"name": "sac"}}, {**CLONE, "clone": "other"}],
            "'other' has an algorithm of its own, from which nothing is taken",
        ),
        ([{**TICKET, "name": "a"}, {**TICKET, "name": "b"}], "arms 'a' and 'b' are the same runs"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(arms: list[dict[str, Any]], sentence: str):
    table = {**SMALL, "arms": [*arms, {"recipe": "dense"}, {"recipe": "rlx2"}]}
    with pytest.raises(UserError) as error:
        fake.make_plan(**table)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_clones_are_of_td3_and_of_compiled_environments():
    with pytest.raises(UserError, match="clones are trained with TD3's actor, not that of sac"):
        fake.make_plan(**{**SMALL, "agent": {**fake.SUITE["agent"], "name": "sac"}})
    (program,) = [p for p in fake.make_plan(**SMALL).programs if p.name.endswith("expert")]
    hosted = fake.FakeProgram(program.runs, "hosted", host=True)
    with pytest.raises(UserError, match="no policy can be cloned"):
        sources.check_programs([hosted])


def test_a_search_leaves_tickets_out():
    tune = {"seeds": 2, "seeds_from": 900, "grid": {"learning_rate": [1e-3, 3e-4]}}
    with pytest.raises(UserError, match=r"\[tune\] cannot search 'ticket'"):
        suites.parse(fake.table(**SMALL, tune=tune), "mini.toml")
    suite = suites.parse(fake.table(**SMALL, tune={**tune, "arms": ["dense", "rlx2"]}), "mini.toml")
    assert suite.tune is not None


def test_a_changed_source_is_no_source(made, tmp_path: Path):
    folder, plan, _ = made
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    file = copy / "records" / ENV / "rlx2-s0800-seed000" / "masks.npz"
    file.write_bytes(file.read_bytes()[:-1])
    program = next(p for p in plan.programs if p.name.endswith("n1-masks"))
    assert sources.lacking(plan, program, [copy]) == [f"{ENV}/rlx2-s0800-seed000"]
    with pytest.raises(UserError, match="is not finished here"):
        sources.take(plan, program, [copy])
    out = io.StringIO()
    runs.run(plan, copy, Console(file=out, width=200), execute=fake.Execute(plan))  # mends it
    assert sources.lacking(plan, program, [copy]) == []


def test_sources_that_learned_from_other_files_are_refused(made, tmp_path: Path, monkeypatch):
    folder, plan, _ = made
    sources.check_data(plan, [folder, tmp_path / "nothing"])
    monkeypatch.setattr(records, "data_of", lambda plan: {"env": {"name": "d.npz", "sha256": "0" * 64}})
    with pytest.raises(UserError, match="--sources '.*' holds runs that learned from other files"):
        sources.check_data(plan, [folder])
