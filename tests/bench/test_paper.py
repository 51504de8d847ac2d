"""The page of a paper: published numbers beside ours, from whatever records there are, and what is missing."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest

from sparserl_jax import cli
from sparserl_jax.bench import paper, paper_page, published, records, suites
from sparserl_jax.errors import UserError
from tests.bench import fake

CONTENT = {
    "paper": "Small masks",
    "venue": "Nowhere 2020",
    "version": "main text",
    "unit": "% of dense",
    "suites": ["mini"],
    "protocol": {
        "steps": 4000,
        "seeds": 8,
        "environments": "a simulator",
        "versions": {"pendulum": "Pendulum-v0", "inverted_pendulum": "Balance-v2"},
    },
    "tables": [
        {
            "label": "Table 1",
            "title": "everything",
            "agent": "td3",
            "suites": ["mini"],
            "note": "A note.",
            "rows": [
                {"environment": "pendulum", "sparsity": 0.8, "returns": {"rlx2": 97.5}, "size": 0.25},
                {
                    "environment": "inverted_pendulum",
                    "sparsity": 0.7,
                    "critic_sparsity": 0.5,
                    "training_flops": 0.4,
                    "returns": {"rigl": 80.0, "rlx2": 99.5},
                },
                {"environment": "average", "returns": {"rlx2": 98.5}},
            ],
        },
        {"label": "Table 2", "title": "more", "agent": "td3", "suites": ["other"],
         "rows": [{"environment": "pendulum", "returns": {"set": 12.5}}]},
    ],
    "figures": [{"label": "Figure 1", "title": "a claim", "suites": ["other"]}],
}  # fmt: skip
TASKS = [
    {**fake.SUITE["environments"][0], "sparsity": 0.8},
    {**fake.SUITE["environments"][1], "sparsity": 0.7, "critic_sparsity": 0.5},
]
OPTIONS = {
    "sparsities": [],
    "environments": TASKS,
    "arms": [
        {"recipe": "dense"},
        {"recipe": "placebo", "sparsities": [0.95]},
        {"recipe": "rigl"},
        {"recipe": "rlx2"},
    ],
}


@pytest.fixture(scope="module")
def numbers() -> published.Paper:
    return published.parse(CONTENT, "small.toml")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("paper") / "runs"
    fake.finished(root / "mini-1", fake.make_plan(suites.parse(fake.table(**OPTIONS), "mini.toml")))
    return root


def lines(numbers: published.Paper, root: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    text = paper_page.comma_separated(numbers, paper.sources(numbers, [root]))
    return {
        (line["table"], paper.environment(line["environment"]), line["method"]): line
        for line in csv.DictReader(io.StringIO(text))
    }


def test_a_published_number_stands_beside_ours_of_the_same_method_and_place(numbers, runs):
    found = lines(numbers, runs)
    mine = found["Table 1", "inverted_pendulum", "rlx2"]
    assert float(mine["published_percent"]) == 99.5
    # The stand-in's returns: dense near z = 0.98, rlx2 near 0.98, on levels 20 to 1000.
    assert 95 < float(mine["percent"]) < 105
    assert float(mine["return_lower"]) <= float(mine["return_iqm"]) <= float(mine["return_upper"])
    assert mine["verdict"].startswith(("matched", "undecided")) and mine["seeds"] == "6"
    assert (mine["sparsity"], mine["critic_sparsity"]) == ("0.7", "0.5")
    assert mine["differs"] == "environment seeds"
    assert mine["published_training_flops"] == "0.4" and 0.3 < float(mine["training_flops"]) < 0.7
    # 4-16-16-1 and two of 5-16-16-1: (2 * 101 + 2 * 352) of (2 * 336 + 2 * 704) weights, as many targets.
    assert float(mine["size"]) == pytest.approx((0.3 * 336 + 0.5 * 704) / (336 + 704), abs=0.005)


def test_dense_stands_first_with_what_the_percentages_are_of(numbers, runs):
    found = lines(numbers, runs)
    dense = found["Table 1", "inverted_pendulum", "dense"]
    assert (dense["published_percent"], dense["percent"], dense["verdict"]) == ("", "100.0", "reference")
    assert float(found["Table 1", "inverted_pendulum", "rlx2"]["percent"]) == pytest.approx(
        100 * float(found["Table 1", "inverted_pendulum", "rlx2"]["return_iqm"]) / float(dense["return_iqm"])
    )


def test_no_ratio_where_a_return_is_not_positive_and_no_average_without_all(numbers, runs):
    found = lines(numbers, runs)
    assert found["Table 1", "pendulum", "rlx2"]["percent"] == ""
    assert found["Table 1", "pendulum", "rlx2"]["return_iqm"] != ""
    average = found["Table 1", "average", "rlx2"]
    assert (average["published_percent"], average["percent"]) == ("98.5", "")
    assert float(average["size"]) == pytest.approx(
        sum(float(found["Table 1", env, "rlx2"]["size"]) for env in ("pendulum", "inverted_pendulum")) / 2
    )


def test_what_was_never_published_or_never_run_stays_blank(numbers, runs):
    found = lines(numbers, runs)
    assert found["Table 1", "pendulum", "rlx2"]["published_training_flops"] == ""
    other = found["Table 2", "pendulum", "set"]
    assert other["published_percent"] == "12.5"
    assert not any(other[key] for key in ("percent", "return_iqm", "size", "seeds", "folder"))


def test_costs_stand_beside_the_method_whose_they_are(runs):
    table = {
        **CONTENT["tables"][0],
        "costs_of": ["rlx2"],
        "rows": [
            {"environment": "pendulum", "sparsity": 0.8, "returns": {"rigl": 1.0, "rlx2": 2.0}, "size": 0.25},
            {"environment": "average", "returns": {"rigl": 1.0, "rlx2": 2.0}, "size": 0.3},
        ],
    }
    found = lines(published.parse({**CONTENT, "tables": [table]}, "small.toml"), runs)
    for place, size in (("pendulum", "0.25"), ("average", "0.3")):
        assert found["Table 1", place, "rlx2"]["published_size"] == size
        assert found["Table 1", place, "rigl"]["published_size"] == ""
    nowhere = lines(published.parse({**CONTENT, "tables": [table]}, "small.toml"), runs / "nothing")
    assert [nowhere["Table 1", "pendulum", name]["published_size"] for name in ("rigl", "rlx2")] == [
        "",
        "0.25",
    ]


def test_a_page_of_somebody_else_is_not_overwritten_and_idle_options_are_refused(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["paper", "rlx2", "--step", "tables", "--out", "mine"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rlx2.md").write_text("# My notes\n")
    assert cli.run(words) == 2
    assert "'rlx2.md' there was not made by this command" in capsys.readouterr().err
    assert (tmp_path / "mine" / "rlx2.md").read_text() == "# My notes\n"
    (tmp_path / "mine" / "rlx2.md").unlink()
    for _ in range(2):  # its own page is made anew
        assert cli.run(words) == 0
    for idle in (["--budget", "short"], ["--suites", "rlx2_cpu"], ["--skip-published"]):
        assert cli.run([*words, *idle]) == 2
        assert "--step tables runs nothing" in capsys.readouterr().err
    assert cli.run([*words, "--suites", "nope"]) == 2
    assert "nope" in capsys.readouterr().err


def test_the_page_says_why_not_comparable_and_what_is_missing(numbers, runs, tmp_path):
    part = tmp_path / "runs"
    shutil.copytree(runs, part)
    for run in (part / "mini-1/records/gymnax-Pendulum-v1").glob("rlx2*"):
        shutil.rmtree(run)
    text = paper_page.markdown(numbers, paper.sources(numbers, [part]))
    assert "# Small masks (Nowhere 2020): published beside ours" in text
    assert (
        "ours differ in environments (gymnax:Pendulum-v1 for Pendulum-v0, brax:inverted_pendulum?backend=spring for "
        "Balance-v2 of a simulator); 6 seeds (published 8)." in text
    )
    assert "Missing: gymnax-Pendulum-v1: rlx2 (6 runs). `sparserl bench mini` goes on" in text
    assert "| pendulum | rlx2 | 0.8 |" in text  # published, without ours
    assert "No records yet: run `sparserl bench other`." in text
    assert "No values of it are in print. No records yet: run `sparserl bench other`." in text
    assert "A note." in text
    assert paper_page.markdown(numbers, paper.sources(numbers, [part])) == text


def test_rows_at_other_sparsities_are_not_taken_for_the_published_ones(numbers, tmp_path):
    tasks = [{**TASKS[0], "sparsity": 0.6}, TASKS[1]]
    plan = fake.make_plan(suites.parse(fake.table(**{**OPTIONS, "environments": tasks}), "mini.toml"))
    fake.finished(tmp_path / "mini-1", plan)
    found = lines(numbers, tmp_path)
    assert found["Table 1", "pendulum", "rlx2"]["return_iqm"] == ""
    assert found["Table 1", "inverted_pendulum", "rlx2"]["return_iqm"] != ""


def test_budgets_are_sections_of_their_own_and_doubles_count_once(numbers, runs, tmp_path):
    short = {
        "steps": 2000,
        "schedule": {**fake.SUITE["schedule"], "buffer_max": 1000},
        "evaluation": {"interval": 100, "episodes": 5, "final_episodes": 10},
    }
    table = fake.table(**OPTIONS, budget="paper", budgets={"short": short})
    shutil.copytree(runs, tmp_path / "runs")
    shutil.copytree(runs / "mini-1", tmp_path / "runs" / "copy")
    fake.finished(tmp_path / "runs/mini-2", fake.make_plan(suites.parse(table, "mini.toml", "short")))
    found = paper.sources(numbers, [tmp_path / "runs", tmp_path / "absent"])
    assert [(source.suite, source.budget) for source in found] == [("mini", ""), ("mini", " --budget short")]
    text = paper_page.markdown(numbers, found)
    assert text.count("## Table 1") == 2 and "2,000 steps per run (published 4,000)" in text


def test_environments_have_one_name_in_papers_and_suites():
    names = ("brax:hopper?backend=mjx", "gymnasium:Hopper-v5", "Hopper-v3", "hopper")
    assert {paper.environment(name) for name in names} == {"hopper"}
    assert paper.environment("my_pkg.envs:Swing-vain") == "swing-vain"
    assert paper.environment("gymnasium:Hopper-v5#medium") == "hopper"


GATES = {
    "paper": "Gates",
    "venue": "Nowhere 2021",
    "version": "the abstract",
    "unit": "shares of weights",
    "suites": ["mini"],
    "protocol": {"environments": "a robot", "versions": {"pendulum": "Swing-v0"}},
    "tables": [
        {"label": "Abstract", "title": "how far", "suites": ["mini"], "success": -100.0,
         "rows": [{"environment": "pendulum", "arms": ["l0"], "outcome": 0.36, "low_rank": 0.46}]},
    ],
}  # fmt: skip


def test_numbers_that_came_out_of_a_training_stand_beside_every_coefficient(tmp_path: Path):
    paper_of_gates = published.parse(GATES, "gates.toml")
    arms = [
        {"recipe": "dense"},
        {"recipe": "placebo", "sparsities": [0.95]},
        {"recipe": "l0", "sparsities": [0.1, 3.0]},
    ]
    options = {"sparsities": [], "environments": [fake.SUITE["environments"][0]], "arms": arms}
    folder = tmp_path / "mini-1"
    fake.finished(folder, fake.make_plan(suites.parse(fake.table(**options), "mini.toml")))
    (folder / "low_rank.csv").write_text(
        "environment,arm,sparsity,chosen_for,saved\n"
        "gymnax:Pendulum-v1,l0,3.0,dense,0.7\n"
        "gymnax:Pendulum-v1,l0,3.0,l0@3,0.25\n"
    )
    found = paper.sources(paper_of_gates, [tmp_path])
    lines = list(csv.DictReader(io.StringIO(paper_page.comma_separated(paper_of_gates, found))))
    assert [(line["method"], line["sparsity"]) for line in lines] == [
        ("dense", "0.0"),
        ("l0", "0.1"),
        ("l0", "3.0"),
    ]
    dense, weak, strong = lines
    assert [line["published_outcome"] for line in lines] == ["", "0.36", "0.36"]
    assert [line["low_rank"] for line in lines] == ["", "", "0.25"]
    every = {record["run_id"]: record["result"] for record in records.load_all(folder)[1]}
    mine = [result for run, result in every.items() if "/l0-c3-" in run]
    realised = sum(result["realised_sparsity"]["actor"] for result in mine) / len(mine)
    assert len(mine) == 6 and float(strong["outcome"]) == pytest.approx(realised)
    episodes = [value for result in mine for value in result["final_returns"]]
    assert float(strong["success"]) == sum(value > -100.0 for value in episodes) / len(episodes)
    text = paper_page.markdown(paper_of_gates, found)
    assert (
        "| environment | method | coefficient | sparsity, published | ours | saved by low rank, published |"
        in text
    )
    assert (
        "% of dense" not in text.partition("##")[2].partition("Not comparable")[0]
        and "size, published" not in text
    )
    assert (
        "with which settings the published runs were trained is not known; ours: 4,000 steps, 6 seeds."
        in text
    )
    assert dense["differs"] == weak["differs"] == "environment"
    assert "Not a result" not in text
    found[0] = dataclasses.replace(found[0], summary=dataclasses.replace(found[0].summary, result=False))
    assert "Not a result: the suite says" in paper_page.markdown(paper_of_gates, found)
    # A paper of returns has none of these columns.
    assert "coefficient" not in paper_page.markdown(published.parse(CONTENT, "small.toml"), [])


def test_the_command_writes_the_page_without_any_record(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paper_page.paths, "checkout", lambda: None)
    monkeypatch.setattr(paper_page.published.paths, "published_path", _shipped)
    assert cli.run(["paper", "rlx2", "--step", "tables"]) == 0
    text = (tmp_path / "runs/paper-rlx2/rlx2.md").read_text()
    assert "| hopper | rlx2 | 0.98 / 0.95 | 97.0 |  |" in text and "No records yet" in text
    assert "Page: runs/paper-rlx2/rlx2.md" in capsys.readouterr().out
    with pytest.raises(UserError, match="did you mean 'rlx2_table3'"):
        paper_page.wanted(published.find("rlx2"), ["rlx2_table"])


def test_the_command_runs_what_is_missing_and_stops_with_its_page(tmp_path, monkeypatch, numbers):
    file = tmp_path / "mini.toml"
    file.write_text("")
    plan = fake.make_plan(suites.parse(fake.table(**OPTIONS), "mini.toml"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paper_page.paths, "checkout", lambda: None)
    monkeypatch.setattr(paper_page.paths, "suite_path", lambda name: file)
    monkeypatch.setattr(paper_page.published, "find", lambda name: numbers)
    monkeypatch.setattr(paper_page.suites, "read", lambda path, budget: None)
    monkeypatch.setattr(paper_page.plans, "make", lambda suite: plan)
    run = paper_page.runs.run

    def half(plan, folder, console, **options):
        execute = fake.Execute(plan)

        def stops(program, **given):
            if len(execute.programs) == 3:
                raise paper_page.runs.Unfinished(3, "time budget")
            return execute(program, **given)

        return run(plan, folder, console, **{**options, "execute": stops})

    monkeypatch.setattr(paper_page.runs, "run", half)
    with pytest.raises(paper_page.runs.Unfinished):
        paper_page.execute("small", fake.quiet(), time_budget=60.0)
    text = (tmp_path / "runs/paper-small/small.md").read_text()
    assert "Missing: " in text and "rlx2 (6 runs)" in text

    monkeypatch.setattr(
        paper_page.runs,
        "run",
        lambda plan, folder, console, **options: run(
            plan, folder, console, **{**options, "execute": fake.Execute(plan)}
        ),
    )
    written = paper_page.execute("small", fake.quiet())
    assert [path.name for path in written] == ["small.md", "small.csv"]
    assert "Missing: " not in written[0].read_text()
    folder = paper_page.runs.folder_of(plan)
    assert (folder / "table.md").is_file()

    def nothing(*given, **options):
        raise AssertionError("all of it is published")

    (tmp_path / "results").mkdir()
    folder.rename(tmp_path / "results" / plan.suite.name)
    monkeypatch.setattr(paper_page.paths, "checkout", lambda: tmp_path)
    monkeypatch.setattr(paper_page.runs, "run", nothing)
    written = paper_page.execute("small", fake.quiet(), skip_published=True)
    assert "Missing: " not in written[0].read_text() and not folder.exists()


def _shipped(name: str) -> Path:
    return Path(paper_page.__file__).parents[2] / "benchmarks/published" / f"{name}.toml"


def test_size_counts_target_actors_where_there_are_any(runs):
    record = records.load_all(runs / "mini-1")[1][-1]
    tensors = record["result"]["tensors"]
    live, every = (
        {net: sum(tensor[key] for tensor in tensors[net]) for net in tensors} for key in ("nnz", "size")
    )
    td3 = (2 * live["actor"] + 2 * live["critic"]) / (2 * every["actor"] + 2 * every["critic"])
    sac = (live["actor"] + 2 * live["critic"]) / (every["actor"] + 2 * every["critic"])
    assert paper.size_share(record) == td3
    record["provenance"]["config"]["training"]["agent"]["name"] = "sac"
    assert paper.size_share(record) == sac != td3


def test_sizes_are_means_over_seeds(numbers, runs, tmp_path):
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    (source,) = [own for own in paper.sources(numbers, [root]) if not own.budget]
    found = paper.section(numbers, numbers.tables[0], source)
    line = next(line for line in found.lines if line.method == "rlx2" and line.ours is not None)
    mine = [record for record in source.summary.records if record["run_id"] in line.ours.runs]
    assert line.size == pytest.approx(np.mean([paper.size_share(record) for record in mine]))
    sparser = [{**record, "result": {**record["result"], "tensors": {
        net: [{**one, "nnz": 0} for one in every] for net, every in record["result"]["tensors"].items()
    }}} for record in mine[1:]]  # fmt: skip
    others = [record for record in source.summary.records if record not in mine[1:]]
    changed = dataclasses.replace(
        source, summary=dataclasses.replace(source.summary, records=(*others, *sparser))
    )
    again = paper.section(numbers, numbers.tables[0], changed)
    less = next(
        one for one in again.lines if (one.environment, one.method) == (line.environment, "rlx2") and one.ours
    )
    assert less.size == pytest.approx(line.size / len(mine))


def test_what_else_lies_in_runs_may_be_in_pieces(numbers, runs, tmp_path):
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    before = len(paper.sources(numbers, [root]))
    for name, text in (
        ("torn", "{"),
        ("odd", '{"suite": {}}'),
        ("list", "[]"),
        ("other", '{"suite": {"name": "x"}}'),
    ):
        (root / name).mkdir()
        (root / name / records.CONFIGURATION).write_text(text)
    assert len(paper.sources(numbers, [root])) == before
    (next(root.glob("mini-1/records/*/*")) / "record.json").write_text("{")
    with pytest.raises(UserError, match="mini-1'?: "):
        paper.sources(numbers, [root])


def test_no_episode_of_a_diverged_run_reached_its_goal():
    runs = [
        {"result": {"status": status, "final_returns": returns}}
        for status, returns in (("ok", [-5.0, -40.0]), ("diverged", [0.0, None]))
    ]
    assert paper.success_share(runs, -25.0) == 0.25
