"""`sparserl compare`: the arms of several result folders in one table, or one sentence why they may not stand in it.

Refused is what would make a difference between arms mean something else than the arms: other environments or frozen
levels, another budget or agent, another evaluation, the same runs twice, records that do not pass the check. What
need not change a result's meaning (device, versions, commit, a method's own schedule) is stated under the table.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparserl_jax.bench import against, check, new_file, partial, records, reproduce, tables, verdicts
from sparserl_jax.bench import caption as captions
from sparserl_jax.bench import rows as rows_of
from sparserl_jax.bench.rows import Block, key_of
from sparserl_jax.bench.summary import (
    Summary,
    fallback_of,
    follows,
    known_of,
    levels_of,
    order,
    pooled,
    swept_of,
)
from sparserl_jax.errors import UserError

MARK = "comparison.json"
"""Names a folder that a comparison made, and its sources."""
CONTROLS = ("dense", "aa", "placebo")
BASELINES = ("dense", "tiny")
"""Roles, and methods, that every folder needs: two folders may hold the same runs of them."""
NAME = "comparison"
"""Name of the suite that several folders are together."""


@dataclasses.dataclass
class Source:
    """One folder: what it is called in the table, its configuration, and its records of the environments in use."""

    path: Path
    name: str
    settings: dict[str, Any]
    records: list[dict[str, Any]]

    @property
    def envs(self) -> list[str]:
        """Environments it has records of, in order."""
        return list(dict.fromkeys(record["result"]["env"] for record in self.records))

    @property
    def suite(self) -> dict[str, Any]:
        """Its resolved suite."""
        return self.settings["suite"]


def compare(folders: Sequence[Path], out: Path | None = None, arm: str | None = None) -> Summary:
    """One table of all folders' arms, with verdicts against the first folder's dense arm that there is.

    Args:
        folders: two or more, made by `sparserl bench` or `sparserl publish`.
        out: folder for the tables; nothing is written where it is None.
        arm: one that the table must have, as it is going to be held against.

    Raises:
        UserError: the folders may not be compared (which field, both values), `out` is not free, or
            there is no such arm.
    """
    sources = _load(folders)
    if out is not None:
        _free(out, sources)
    shared, left_out = _shared(sources)
    for other in sources[1:]:
        _refuse(sources[0], other, shared)
    for source in sources:
        source.records = [record for record in source.records if record["result"]["env"] in shared]
    dropped = _doubled(sources)
    _name_apart(sources)
    summary = _summary(sources, shared, [*left_out, *dropped])
    if arm is not None:
        against.blocks(summary, arm)
    if out is not None:
        tables.write(out, summary)
        said = {"sources": [{"folder": s.name, "suite_hash": s.settings["suite_hash"]} for s in sources]}
        records.write_atomic(out / MARK, (json.dumps(said, indent=1) + "\n").encode())
    return summary


def _load(folders: Sequence[Path]) -> list[Source]:
    """The folders with their sound records, named apart."""
    if len(folders) < 2:
        raise UserError("compare needs at least two folders, for example: runs/mine results/quick.")
    places = [folder.resolve() for folder in folders]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise UserError(
                f"'{folders[index]}' is given twice; a folder compared with itself tells nothing."
            )
    depth = 1
    while len({place.parts[-depth:] for place in places}) < len(places):
        depth += 1
    sources = []
    for folder, place in zip(folders, places, strict=True):
        problems = check.unsound(folder)
        if problems:
            raise UserError(
                f"'{folder}' does not pass the check ({problems[0]}; {len(problems)} problems in all); make it again, "
                "or leave it out."
            )
        settings, found = records.load_all(folder)
        if not found:
            raise UserError(f"'{folder}' has no record yet; finish it with `sparserl bench`.")
        if settings["suite"].get("search"):
            raise UserError(
                f"'{folder}' is a tuning, whose chosen trials look better than they are; put its tuned.toml into the "
                "suite, run that, and compare its folder."
            )
        _whole(folder, settings, found)
        sources.append(Source(folder, "/".join(place.parts[-depth:]), settings, found))
    return sources


def _whole(folder: Path, settings: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """Refuse rows of which some seeds are missing: which ones came first is no random choice."""
    broken = partial.broken_rows(settings["runs"], {record["run_id"] for record in found})
    for row, (there, every) in broken.items():
        raise UserError(
            f"'{folder}' has {there} of the {every} seeds of '{row}'; finish it with `sparserl bench`."
        )


def _shared(sources: list[Source]) -> tuple[list[str], list[str]]:
    """Environments that every folder has, and a sentence on the others."""
    shared = [env for env in sources[0].envs if all(env in source.envs for source in sources)]
    if not shared:
        lists = "; ".join(f"'{source.name}' has {', '.join(source.envs)}" for source in sources)
        raise UserError(f"the folders share no environment: {lists}.")
    alone: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        for env in source.envs:
            if env not in shared:
                alone[env].append(source.name)
    said = [f"{env} (only in {', '.join(names)})" for env, names in alone.items()]
    return shared, [f"Not compared, for not every folder has it: {'; '.join(said)}."] if said else []


def _refuse(first: Source, other: Source, shared: list[str]) -> None:
    """Raise on the first field in which two folders may not differ."""

    def same(field: str, mine: Any, theirs: Any) -> None:
        if mine != theirs:
            raise UserError(
                f"'{first.name}' and '{other.name}' may not be compared: {field} is {json.dumps(mine)} in "
                f"'{first.name}' and {json.dumps(theirs)} in '{other.name}'."
            )

    same("schema_version", first.settings["schema_version"], other.settings["schema_version"])
    for env in shared:
        mine, theirs = levels_of(first.settings, env), levels_of(other.settings, env)
        for level in mine:
            same(f"the frozen level '{level}' of {env}", mine[level], theirs[level])
    one, two = first.suite, other.suite
    for field in ("steps", "warm_up", "num_envs"):
        same(field, one[field], two[field])
    for field in sorted({*one["agent"], *two["agent"]}, key=lambda field: (field != "name", field)):
        same(f"agent.{field}", one["agent"].get(field), two["agent"].get(field))
    for field in ("source", "sha256"):  # of the networks that a training did not make itself
        same(f"start.{field}", *((suite.get("start") or {}).get(field) for suite in (one, two)))
    # The rest of the schedule belongs to methods; the size of the replay is everybody's.
    same("schedule.buffer_max", one["schedule"]["buffer_max"], two["schedule"]["buffer_max"])
    same("evaluation.interval", one["evaluation"]["interval"], two["evaluation"]["interval"])
    for env in shared:
        budgets = [_of(source, env)[0]["result"]["budget"] for source in (first, other)]
        for field in sorted({*budgets[0], *budgets[1]}):
            same(f"{field} on {env}", budgets[0].get(field), budgets[1].get(field))
        files = [source.settings.get("data", {}).get(env, {}).get("sha256") for source in (first, other)]
        same(f"the SHA-256 of the data of {env}", *files)


def _of(source: Source, env: str) -> list[dict[str, Any]]:
    return [record for record in source.records if record["result"]["env"] == env]


def _identity(record: dict[str, Any]) -> tuple[Any, ...]:
    """What a run's random key and its training depend on; two records that share it are the same run made twice."""
    result, config = record["result"], record["provenance"]["config"]
    trained = [config["training"][key] for key in ("agent", "schedule")]  # with the arm's own values
    what = records.canonical([*trained, *(config.get(key) for key in ("recipe", "ticket", "clone", "width"))])
    return result["env"], what, result["sparsity"], result["critic_sparsity"], result["seed"]


def _settings(record: dict[str, Any]) -> tuple[str, str]:
    """Environment, and what a training is told but its schedule, knobs and seed."""
    config = record["provenance"]["config"]
    what = [config["training"]["agent"], *(config.get(key) for key in ("recipe", "ticket", "clone", "width"))]
    return record["result"]["env"], records.canonical(what)


def _control(record: dict[str, Any]) -> bool:
    return record["result"]["role"] in CONTROLS or record["result"]["method"] in BASELINES


def _doubled(sources: list[Source]) -> list[str]:
    """Refuse a method's runs that stand in two folders; of controls that are bit-identical keep the first folder's.

    A folder's own controls and baselines are no second helping of evidence: they stay, under their folder's name.
    """
    seen: dict[tuple[Any, ...], tuple[Source, dict[str, Any]]] = {}
    said = []
    for source in sources:
        twins: dict[str, set[str]] = defaultdict(
            set
        )  # rows of this folder: folders with the very same curves
        rows: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
        for record in source.records:
            rows[record["result"]["env"], *key_of(record)].append(record)
        gone: set[str] = set()
        for row in rows.values():
            found = [(record, *seen[key]) for record in row if (key := _identity(record)) in seen]
            for record, owner, before in found:
                result = record["result"]
                if not (_control(record) and _control(before)):
                    raise UserError(
                        f"'{owner.name}' and '{source.name}' may not be compared: seed {result['seed']} of arm "
                        f"'{before['result']['arm']}' in '{owner.name}' and of arm '{result['arm']}' in "
                        f"'{source.name}' are the same run (recipe '{result['recipe']}', sparsity "
                        f"{result['sparsity']:g}, {result['env']}); give one of them other seeds with 'seeds_from'."
                    )
            same = [record["files"]["curve"] == before["files"]["curve"] for record, _, before in found]
            if len(same) == len(row) and all(same):
                gone.update(record["run_id"] for record in row)
                twins[row[0]["result"]["arm"]].update(owner.name for _, owner, _ in found)
        for record in source.records:
            seen.setdefault(_identity(record), (source, record))
        source.records = [record for record in source.records if record["run_id"] not in gone]
        for arm, owners in twins.items():
            said.append(
                f"{arm} of {source.name} is identical to that of {', '.join(sorted(owners))}: shown once."
            )
    return said


def _suffix(source: Source) -> str:
    return f" ({source.name})"


def _name_apart(sources: list[Source]) -> None:
    """Arms of one name get their folder's as suffix; only the first dense arm stays the reference. Another folder's is
    A/A if it is trained as that one is, else a method like any other."""
    owners: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        for record in source.records:
            owners[record["result"]["arm"]].add(source.name)
    holder = None
    for source in sources:
        if holder is None and any(record["result"]["role"] == "dense" for record in source.records):
            holder = source
    dense = {
        _settings(record)
        for record in (holder.records if holder is not None else [])
        if record["result"]["role"] == "dense"
    }
    for source in sources:
        other = {record["result"]["arm"] for record in source.records if _settings(record) not in dense}
        for index, record in enumerate(source.records):
            result = dict(record["result"])
            twin = result["arm"] not in other  # on all environments
            if len(owners[result["arm"]]) > 1:
                result["arm"] += _suffix(source)
            if result["role"] in ("dense", "aa") and source is not holder:
                result["role"] = "aa" if twin else "method"
            source.records[index] = {**record, "result": result}


def _declared(sources: list[Source]) -> list[dict[str, Any]]:
    """The arms as their suites declare them (their tuning, their own values), under the names of the table."""
    found: dict[str, dict[str, Any]] = {}
    for source in sources:
        arms = {arm["name"]: arm for arm in source.suite["arms"]}
        for record in source.records:
            name, role = record["result"]["arm"], record["result"]["role"]
            declared = arms.get(name.removesuffix(_suffix(source)), {})
            found.setdefault(name, {**declared, "name": name, "role": role})
    return list(found.values())


def _summary(sources: list[Source], shared: list[str], said: list[str]) -> Summary:
    first = sources[0]
    tasks = [next(task for task in first.suite["tasks"] if task["name"] == env) for env in shared]
    runs = [run for source in sources for run in _planned(source, shared)]
    settings = {
        "schema_version": first.settings["schema_version"],
        "suite_hash": " and ".join(source.settings["suite_hash"] for source in sources),
        "suite": {
            **first.suite,
            "name": NAME,
            "title": f"{', '.join(s.name for s in sources[:-1])} and {sources[-1].name} compared",
            "result": all(source.suite["result"] for source in sources),
            "tasks": tasks,
            "arms": _declared(sources),
        },
        "runs": runs,
    }
    blocks = [_block(sources, env, settings) for env in shared]
    found = [record for source in sources for record in source.records]
    together = pooled(blocks, settings)
    # Run ids repeat between folders, so each says for itself what it lacks.
    all_there = {**settings, "runs": [record["run_id"] for record in found]}
    lines = [
        line
        for source in sources
        for line in captions.incomplete(
            _planned(source, shared), {record["run_id"] for record in source.records}, f" of {source.name}"
        )
    ]
    lines += captions.caption(all_there, found, blocks, together)[:-1]
    lines += [_arms(sources), *said, *_differences(sources)]
    origins = []
    for source in sources:
        kind = "" if source.suite["result"] else " (not a result)"
        origins.append(
            f"{source.name}{kind}: {captions.origin(source.records)}; configuration {source.settings['suite_hash']}."
        )
    return Summary(
        name=NAME,
        suite_hash=settings["suite_hash"],
        title=settings["suite"]["title"],
        result=settings["suite"]["result"],
        blocks=tuple(blocks),
        pooled=together,
        caption=(*lines, *origins),
        settings=settings,
        records=tuple(found),
        origins=tuple(origins),
    )


def _arms(sources: list[Source]) -> str:
    """Which arms come from which folder, and which of them is the reference."""
    parts, reference = [], "There is no dense arm."
    for source in sources:
        names = dict.fromkeys(record["result"]["arm"] for record in source.records)
        parts.append(f"{', '.join(names)} from {source.name}")
        dense = [r["result"]["arm"] for r in source.records if r["result"]["role"] == "dense"]
        if dense:
            reference = f"Reference of all deltas and verdicts: {dense[0]} of {source.name}."
    return f"Arms: {'; '.join(parts)}. {reference}"


def _planned(source: Source, shared: list[str]) -> list[str]:
    """Runs that a folder should hold on the shared environments, less those shown from another folder."""
    folders = {record["run_id"].partition("/")[0] for record in source.records}
    present = {record["run_id"] for record in source.records}
    every = [run for run in source.settings["runs"] if run.partition("/")[0] in folders]
    missing = [run for run in every if not (source.path / "records" / run / "record.json").is_file()]
    return [run for run in every if run in present or run in missing]


def _block(sources: list[Source], env: str, settings: dict[str, Any]) -> Block:
    levels = levels_of(settings, env)
    places = {
        id(record): source.path / "records" / record["run_id"]
        for source in sources
        for record in _of(source, env)
    }
    every = [record for source in sources for record in _of(source, env)]
    fallback = fallback_of(levels, every, lambda record: places[id(record)])
    rows = []
    for source in sources:
        groups: dict[tuple[str, float, float], list[dict[str, Any]]] = defaultdict(list)
        for record in _of(source, env):
            groups[key_of(record)].append(record)
        file = source.path / reproduce.SUITE_FILE
        for key, group in groups.items():
            arm = key[0].removesuffix(_suffix(source))
            parts = reproduce.divided(group)
            command = reproduce.command(source.settings, env, arm, key[1], file.as_posix(), parts)
            own = follows(settings, key[0])
            rows.append(rows_of.row(group, levels, fallback, command, source.name, own))
    made = sorted(rows, key=lambda row: order(settings, row.key))
    return verdicts.block(env, made, levels, known_of(settings, env), swept_of(settings))


def _differences(sources: list[Source]) -> list[str]:
    """Sentences on what differs and is not refused."""
    made = [captions.made_on(source.records) for source in sources]
    fields: dict[str, list[str]] = {name: [own[name] for own in made] for name in made[0]}
    for name in ("matmul_precision", "x64"):
        fields[name] = [captions.distinct(str(r["provenance"][name]) for r in s.records) for s in sources]
    schedules = [source.suite["schedule"] for source in sources]
    for name in sorted({key for schedule in schedules for key in schedule}):
        fields[f"schedule.{name}"] = [str(schedule.get(name)) for schedule in schedules]
    fields["dispatch"] = [str(source.suite["dispatch"]) for source in sources]
    said = [
        f"{field} ({'; '.join(f'{s.name}: {v}' for s, v in zip(sources, values, strict=True))})"
        for field, values in fields.items()
        if len(set(values)) > 1
    ]
    return [f"The folders differ in {', '.join(said)}; such differences enter the deltas."] if said else []


def _free(out: Path, sources: list[Source]) -> None:
    """Refuse a folder inside a source, around one, or with somebody else's files."""
    place = out.resolve()
    for source in sources:
        inside = source.path.resolve()
        if place == inside or inside in place.parents or place in inside.parents:
            raise UserError(
                f"--out '{out}' and the source '{source.path}' lie within each other; give another folder."
            )
    new_file.check_folder(out)
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise UserError(f"--out '{out}' holds files that no comparison made; give another folder.")
