"""What a folder's configuration says its records must say: the other half of `sparserl check`.

Files prove a record's numbers only as far as they go. Which runs there must be, under which seeds, budget and recipe,
how many weights each method declares and what that costs follows from the suite, and is worked out again here. What
nothing can prove but running again: a curve, final returns, scores and hashes that were all rewritten to fit together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparserl_jax.agents.registry import algorithm
from sparserl_jax.bench import costs, policy, provenance, records, sources, tickets
from sparserl_jax.bench.plan import Planned
from sparserl_jax.bench.strict import from_table
from sparserl_jax.bench.suites import UNWRITTEN, Arm, Suite, Task
from sparserl_jax.bench.tuning import Tuning, frozen
from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import method as find_method
from sparserl_jax.sparsity.contract import Promise
from sparserl_jax.training.config import Evaluation, Schedule
from sparserl_jax.training.recipe import Recipe
from sparserl_jax.training.spaces import check_observations


def suite_of(content: dict[str, Any]) -> Suite:
    """The suite that `configuration.json` holds resolved; raises `UserError` where this version cannot read it."""
    where = records.CONFIGURATION
    plain = ("name", "title", "result", "steps", "warm_up", "num_envs", "dispatch")
    return Suite(
        **{key: content[key] for key in plain},
        agent=_agent(content["agent"], f"{where} agent"),
        schedule=from_table(Schedule, content["schedule"], f"{where} schedule"),
        matmul_precision=content.get("matmul_precision"),
        evaluation=from_table(Evaluation, content["evaluation"], f"{where} evaluation"),
        tasks=tuple(from_table(Task, task, f"{where} tasks", skip=UNWRITTEN) for task in content["tasks"]),
        arms=tuple(
            Arm(
                from_table(Recipe, arm["recipe"], f"{where} arms"),
                arm["name"],
                arm["role"],
                tuple(arm["sparsities"]),
                tuple(arm["seeds"]),
                tuple(arm["critic_sparsities"]),
                frozen(arm.get("overrides", {})),
                _tuning(arm.get("tuning")),
                width=arm.get("width"),
                agent=_agent(arm["agent"], f"{where} arms") if "agent" in arm else None,
                by_environment=tuple(
                    sorted((env, frozen(own)) for env, own in arm.get("by_environment", {}).items())
                ),
                **tickets.plain_fields(arm, f"{where} arms"),
            )
            for arm in content["arms"]
        ),
        budget=content.get("budget"),
    )


def _agent(content: dict[str, Any], where: str) -> Any:
    return from_table(algorithm(content["name"]).config, content, where)


def _tuning(content: dict[str, Any] | None) -> Tuning | None:
    return None if content is None else Tuning(**{**content, "seeds": tuple(content["seeds"])})


class Claims:
    """What the records of one folder must say. `problems`: what is wrong with its configuration itself."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.problems: list[str] = []
        self.planned: dict[str, Planned] = {}
        self.settings = settings
        self.layers: dict[Any, dict[str, LayerTable]] = {}
        self.promised: dict[Any, dict[str, Promise]] = {}
        try:
            content = {key: value for key, value in settings["suite"].items() if key != "title"}
            if records.digest(records.canonical(content).encode())[:12] != settings["suite_hash"]:
                self.problems.append(f"{records.CONFIGURATION}: the suite was changed, its hash is another")
            self.suite = suite_of(settings["suite"])
            for entry in (Planned(*run) for run in self.suite.runs()):
                self.planned[entry.folder.as_posix()] = entry
        except (UserError, KeyError, TypeError) as error:
            told = error if isinstance(error, UserError) else f"{error!r} is missing or of another form"
            self.problems.append(f"{records.CONFIGURATION}: this version cannot read it ({told})")
            return
        listed = settings["runs"]
        for run_id in self.planned:
            if run_id not in listed:
                self.problems.append(
                    f"{run_id}: the suite has this run, but {records.CONFIGURATION} does not list it"
                )
        for run_id in dict.fromkeys(listed):
            if run_id not in self.planned:
                self.problems.append(
                    f"{run_id}: {records.CONFIGURATION} lists it, but the suite has no such run"
                )
            elif listed.count(run_id) > 1:
                self.problems.append(f"{run_id}: {records.CONFIGURATION} lists it twice")

    def check(self, here: Path, run_id: str, record: dict[str, Any]) -> list[str]:
        """Problems of one record of valid form; `here`: its folder."""
        planned = self.planned.get(run_id)
        if planned is None:
            return []  # told above, once
        origin = record["provenance"]
        problems = _differences(
            origin["config"], records.config_of(planned), "provenance.config", closed=True
        )
        problems += _differences(record["result"], records.declared_of(self.suite, planned), "result")
        named = {kind: said["run_id"] for kind, said in origin.get("sources", {}).items()}
        if named != sources.of(planned):
            problems.append(
                f"it names {named or 'no'} sources, but the suite says {sources.of(planned) or 'none'}"
            )
        if run_id not in origin["program_members"]:
            problems.append("its program does not count it among its members")
        problems += [
            f"its program has the member {member}, which the suite has not"
            for member in origin["program_members"]
            if member not in self.planned
        ]
        problems += _timings(here, record)
        try:
            described = policy.load(here / "policy.npz").description
        except UserError:
            return problems  # told by the check of the files
        owner = {"run_id": run_id, "config_hash": origin["config_hash"], "env": planned.task.name}
        problems += _differences(described, owner, "policy.npz")
        return problems + self._counts(planned, record["result"], described)

    def _counts(self, planned: Planned, result: dict[str, Any], described: dict[str, Any]) -> list[str]:
        """Declared counts and costs, worked out again from the suite and the policy's spaces."""
        run = planned.run
        spaces = int(described["obs_dim"]), int(described["action_dim"])
        place = (planned.task.name, run.training.agent, *spaces)
        if place not in self.layers:
            image = policy.image(described)
            try:
                check_observations(run.training.agent, image, "policy.npz")
            except UserError as error:
                return [f"its network cannot have made it ({error})"]
            self.layers[place] = costs.layer_tables(run.training.agent, *spaces, image)
        layers = self.layers[place]
        key = (*place, run.recipe.method, run.recipe.source, *run.knobs.values())
        try:
            if key not in self.promised:
                self.promised[key] = costs.declared(run, layers)
        except UserError as error:
            return [f"its method cannot have made it ({error})"]
        for part in ("tensors", "realised_sparsity", "events"):
            if set(result[part]) != set(layers):
                return [
                    f"result.{part} is of {_listed(result[part])}, but its networks are {_listed(layers)}"
                ]
        promised, problems = self.promised[key], []
        budget = find_method(run.recipe.method).family.declares.budget
        said_budget = result.get("promise", records.EXACT)
        if said_budget != budget:
            problems.append(f'result.promise is "{said_budget}", but its method declares "{budget}"')
        for network, table in layers.items():
            expected = [
                ("/".join(layer.kernel), copy, list(layer.shape), layer.size) for layer, copy in table.tensors
            ]
            tensors = result["tensors"][network]
            if [(t["path"], t["copy"], t["shape"], t["size"]) for t in tensors] != expected:
                return [f"{network}: its tensors are not those of the suite's networks"]
            said, promise = [tensor["declared"] for tensor in tensors], list(promised[network].counts)
            if budget == "global":
                if sum(said) != sum(promise):
                    problems.append(
                        f"{network}: {sum(said)} weights declared in all, but its method declares {sum(promise)}"
                    )
                continue
            problems += [
                f"{network} {tensor['name']}: {tensor['declared']} weights declared, but its method declares {count}"
                for tensor, count in zip(tensors, promise, strict=True)
                if tensor["declared"] != count
            ]
        for network, happened in result["events"].items():
            most = promised[network].events
            if happened > most:
                problems.append(
                    f"{network}: {happened} topology events, but its method promises at most {most}"
                )
        counts = {network: [tensor["nnz"] for tensor in result["tensors"][network]] for network in layers}
        made = costs.costs(run, layers, counts, promised)
        return problems + _differences(result["costs"], made, "result.costs", "its weights give")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _differences(
    recorded: Any, expected: Any, where: str, source: str = "the suite says", closed: bool = False
) -> list[str]:
    """Values in which a record differs from what it must say. Values that it lacks are those of later versions;
    `closed`: it says nothing else, and lacks no table."""
    if isinstance(recorded, dict) and isinstance(expected, dict):
        odd = [key for key in recorded if key not in expected]
        lacking = [key for key in expected if key not in recorded and isinstance(expected[key], dict)]
        problems = [f"{where}.{key} is recorded, and {source} nothing of it" for key in odd if closed]
        problems += [f"{where}.{key} is missing" for key in lacking if closed]
        return problems + [
            problem
            for key in expected
            if key in recorded
            for problem in _differences(recorded[key], expected[key], f"{where}.{key}", source, closed)
        ]
    if recorded == expected:
        return []
    return [f"{where} is {json.dumps(recorded):.60}, but {source} {json.dumps(expected):.60}"]


def _timings(here: Path, record: dict[str, Any]) -> list[str]:
    """The measured numbers of a record are those of its program's timings."""
    try:
        stored = json.loads((here / "timings.json").read_text(encoding="utf-8"))
        same = (stored["measured"], stored["members"], stored["program"]) == (
            record["measured"],
            record["provenance"]["program_members"],
            record["provenance"]["program"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return ["timings.json cannot be read"]
    return [] if same else ["what was measured, or its program, is not that of timings.json"]


def commits(found: list[dict[str, Any]], repository: Path) -> list[str]:
    """Problems with the code that published records come from: not committed, unknown here, or of another history.

    Nothing is reported where `repository` is no git work tree; a shallow clone cannot know old commits, so there only
    missing commits and uncommitted changes are reported.
    """
    if provenance.head(repository) is None:
        return []
    problems = []
    made: dict[str | None, list[str]] = {}
    for record in found:
        made.setdefault(record["provenance"]["git_commit"], []).append(record["run_id"])
    for commit, runs in made.items():
        several = f"{len(runs)} runs (e.g. {runs[0]})"
        if commit is None:
            problems.append(f"{several} name no commit")
        elif (fault := provenance.stale(commit, repository)) is not None:
            problems.append(f"{several} were made by commit {commit:.10}, which is {fault}")
    dirty = [record["run_id"] for record in found if record["provenance"]["git_dirty"] is not False]
    if dirty:
        problems.append(f"{len(dirty)} runs (e.g. {dirty[0]}) were made by code with uncommitted changes")
    return problems
