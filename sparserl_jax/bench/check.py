"""`sparserl check`: is every number in a folder what its files and its suite say, and is nothing missing or doubled?"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from sparserl_jax.bench import claims, partial, paths, policy, records, schema, single, sources
from sparserl_jax.errors import UserError
from sparserl_jax.layers import leaf
from sparserl_jax.training import datasets

TOLERANCE = 1e-9
"""Relative difference allowed between a recorded score and the one computed again: rounding of the sum only."""
ROUNDING = 1e-4
"""Relative difference allowed between the mean returns of data that two programs made alike."""


def check(folder: Path, repository: Path | None = None) -> list[str]:
    """Every problem found, one sentence each; an empty list means that the records hold what they claim. What tables
    say of sound records is `tables.differing`'s.

    Args:
        folder: one that `sparserl bench` or `sparserl publish` made.
        repository: work tree whose history must hold the commits that the records name; default: the checkout of
            this package where `folder` lies in its `results/`, else none.

    Raises:
        UserError: the folder is not one that `sparserl bench` made.
    """
    settings, found = records.load_all(folder)
    present = {str(record.get("run_id")) for record in found}
    missing = partial.problems(folder, settings["runs"], present)
    problems, sound = _unsound(folder, settings, found)
    repository = _publisher(folder) if repository is None else repository
    old = [] if repository is None else claims.commits(sound, repository)
    # A single training (`sparserl train`) and a search (`sparserl tune`) compare nothing.
    compares = settings["suite"]["name"] != single.SINGLE and not settings["suite"].get("search")
    alone = _alone(sound) if compares else []
    return [*missing, *problems, *old, *alone]


def unsound(folder: Path) -> list[str]:
    """The problems of what is there, without those of what is not: missing runs and a missing dense arm."""
    return _unsound(folder, *records.load_all(folder))[0]


def _unsound(
    folder: Path, settings: dict[str, Any], found: list[dict[str, Any]]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Problems, and the records of valid form."""
    # load_all follows the plan; a folder beside it would never be looked at.
    known, problems = set(settings["runs"]), []
    for path in sorted((folder / "records").glob("*/*/record.json")):
        run_id = path.parent.relative_to(folder / "records").as_posix()
        if run_id not in known and not path.parent.name.startswith("."):
            problems.append(f"{run_id}: the plan knows no such run")
    claim, sound = claims.Claims(settings), []
    problems += claim.problems
    for record, run_id in zip(found, [r for r in settings["runs"] if _has(folder, r)], strict=True):
        broken = schema.errors(record)
        if not broken:
            sound.append(record)
            broken = _record_problems(folder, run_id, record, settings)
            broken += claim.check(folder / "records" / run_id, run_id, record)
        problems.extend(f"{run_id}: {text}" for text in broken)
    return problems + _group_problems(folder, sound) + sources.problems(sound), sound


def _publisher(folder: Path) -> Path | None:
    """The checkout in whose `results/` a folder lies."""
    root = paths.checkout()
    return root if root is not None and folder.resolve().parent == (root / "results").resolve() else None


def verdict(folder: Path, problems: list[str]) -> str:
    """The last line about a folder: how many problems, or that there are none, what it admits to lack, and what could
    not be seen."""
    if problems:
        return f"{folder}: {len(problems)} problems."
    said = f"{folder}: every record is sound"
    settings, found = records.load_all(folder)
    missing, runs = partial.declared(folder), settings["runs"]
    if missing:
        said += (
            f"; {len(missing)} of {len(runs)} runs are missing, as {partial.MISSING} says "
            f"({partial.words(runs, set(runs) - set(missing))})"
        )
    unsealed = sum(not records.is_sealed(record) for record in found)
    if unsealed:
        said += f"; {unsealed} without a digest of their own (early versions wrote none), where a change may go unseen"
    return f"{said}."


def folders(folder: Path) -> list[Path]:
    """What `sparserl check` looks at: `folder` itself, or, where it is none of a suite, every suite's folder in it.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}'; give one that `sparserl bench` or `publish` made.")
    if (folder / records.CONFIGURATION).is_file():
        return [folder]
    # Names with a leading dot are copies that were never finished.
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [
        path for path in inside if (path / records.CONFIGURATION).is_file() or (path / "records").is_dir()
    ]


def _has(folder: Path, run_id: str) -> bool:
    return (folder / "records" / run_id / "record.json").is_file()


def _record_problems(
    folder: Path, run_id: str, record: dict[str, Any], settings: dict[str, Any]
) -> list[str]:
    """Problems of one record of valid form."""
    result, origin = record["result"], record["provenance"]
    problems = []
    if not records.intact(record):
        problems.append("record.json was changed after it was written (sha256 differs)")
    if record["run_id"] != run_id:
        problems.append(f"says it is run {record['run_id']}")
    if not run_id.endswith(f"-seed{result['seed']:03d}"):
        problems.append(f"holds seed {result['seed']}, which its name denies")
    if origin["suite_hash"] != settings["suite_hash"]:
        problems.append(f"belongs to the configuration {origin['suite_hash']}, not {settings['suite_hash']}")
    if origin["config_hash"] != records.digest(records.canonical(origin["config"]).encode())[:12]:
        problems.append("its configuration does not give its configuration hash")
    claimed = settings.get("data", {}).get(result["env"])
    if claimed is not None and result.get("data") != claimed:
        problems.append(f"did not learn from the data that {records.CONFIGURATION} names ({claimed['name']})")
    here, harmed = folder / "records" / run_id, set()
    for entry in record["files"].values():
        path = here / entry["path"]
        if not path.is_file():
            problems.append(f"{entry['path']} is missing")
        elif records.digest(path.read_bytes()) != entry["sha256"]:
            problems.append(f"{entry['path']} was changed after it was recorded (sha256 differs)")
        else:
            continue
        harmed.add(entry["path"])
    # What a harmed file says is no longer of interest, and reading it may fail in any way.
    if "curve.csv" not in harmed:
        problems.extend(_curve_problems(here / "curve.csv", result))
    if not harmed & {"masks.npz", "policy.npz"}:
        problems.extend(_mask_problems(here, result))
    return problems


def _close(recorded: float | None, computed: float | None) -> bool:
    if recorded is None or computed is None:
        return recorded is computed
    return abs(recorded - computed) <= TOLERANCE * max(1.0, abs(recorded), abs(computed))


def _curve_problems(path: Path, result: dict[str, Any]) -> list[str]:
    """The curve has the declared points, and the scores follow from it and from the final returns."""
    try:
        curve = records.read_curve(path)
        points, steps = curve["return"], curve["env_step"]
    except (ValueError, IndexError, KeyError):
        return ["curve.csv cannot be read"]
    budget, problems = result["budget"], []
    if len(points) != budget["points"] or not steps or steps[-1] != budget["env_steps"]:
        problems.append(f"curve.csv does not have {budget['points']} points up to step {budget['env_steps']}")
    if len(result["final_returns"]) != budget["final_episodes"]:
        problems.append(
            f"final_returns has {len(result['final_returns'])} entries, not {budget['final_episodes']}"
        )
    if not problems:
        interval = budget["env_steps"] // budget["points"]
        due = [interval * (index + 1) for index in range(budget["points"])]
        if steps != due or curve["update"][-1] != budget["updates"]:
            problems.append("curve.csv has points at other steps or updates than its budget")
    if problems:
        return problems
    again = records.scores(points, result["final_returns"])
    if result["status"] == "diverged":
        again.update(score=None, final_score=None, auc=None)
        # A curve without the column cannot tell.
        if None not in [*points, *result["final_returns"]] and 1.0 not in curve.get("broken", [1.0]):
            problems.append(
                "status is diverged, but its curve and final returns are whole and no loss was broken"
            )
    for key, value in again.items():
        if not _close(result[key], value):
            problems.append(f"{key} is recorded as {result[key]} but its files give {value}")
    if result["status"] == "ok" and None in (result["score"], result["final_score"]):
        where = "the curve ends in" if result["score"] is None else "its final returns have"
        problems.append(f"status is ok but {where} missing values")
    return problems


def _mask_problems(here: Path, result: dict[str, Any]) -> list[str]:
    """Live weights counted in the stored masks equal the recorded and the declared ones; the policy obeys its mask."""
    try:
        masks = policy.load_masks(here / "masks.npz")
        deployed = policy.load(here / "policy.npz")
    except UserError as error:
        return [str(error)]
    problems = []
    promise = result.get("promise", records.EXACT)
    for network, tensors in result["tensors"].items():
        if network not in masks or network not in result["realised_sparsity"]:
            problems.append(f"{network}: its masks or its realised sparsity are missing")
            continue
        for tensor in tensors:
            try:
                count = _count(leaf(masks[network], tuple(tensor["path"].split("/"))), tensor)
            except (KeyError, ValueError, IndexError, TypeError):
                problems.append(f"{network} {tensor['name']}: masks.npz has no such tensor")
                continue
            if tensor["nnz"] != count:
                problems.append(
                    f"{network} {tensor['name']}: {tensor['nnz']} weights recorded, {count} in the mask"
                )
            exact, above = promise == records.EXACT, count > tensor["declared"]
            if (tensor["declared"] != count) if exact else (above and promise != "global"):
                at_most = "" if exact else "at most "
                problems.append(
                    f"{network} {tensor['name']}: {at_most}{tensor['declared']} weights declared, {count} in the mask"
                )
        kept, size = sum(t["nnz"] for t in tensors), sum(t["size"] for t in tensors)
        declared = sum(t["declared"] for t in tensors)
        if promise == "global" and declared != kept:
            problems.append(
                f"{network}: {declared} weights declared for all its tensors together, it has {kept}"
            )
        stored_size = sum(
            m.size for n, m in policy.flatten(masks[network], "_").items() if n.endswith("/kernel")
        )
        if stored_size != size:
            problems.append(f"{network}: its tensors hold {size} weights, its masks {stored_size}")
        if abs(result["realised_sparsity"][network] - (1 - kept / size)) > TOLERANCE:
            problems.append(f"{network}: the realised sparsity does not follow from its tensors")
    stored, acting = policy.flatten(masks["actor"], "_"), policy.flatten(deployed.masks, "_")
    if stored.keys() != acting.keys() or any(
        not np.array_equal(stored[name], acting[name]) for name in stored
    ):
        problems.append("policy.npz and masks.npz hold different masks of the actor")
    weights = policy.flatten(deployed.params, "_")
    if any(np.any(value[~acting[name]] != 0) for name, value in weights.items() if name in acting):
        problems.append("policy.npz has weights outside its mask")
    return problems


def _count(mask: np.ndarray, tensor: dict[str, Any]) -> int:
    """Live weights of one tensor: its copy of a possibly stacked mask."""
    return int(np.asarray(mask).reshape(-1, tensor["size"])[tensor["copy"]].sum())


def _content(path: Path) -> str:
    """A digest of a curve's numbers, however they are written; of one that cannot be read, which is told elsewhere, of
    its bytes."""
    try:
        return records.digest(records.canonical(records.read_curve(path)).encode())
    except ValueError:  # a UserError is one
        return records.digest(path.read_bytes()) if path.is_file() else path.as_posix()


def _group_problems(folder: Path, found: list[dict[str, Any]]) -> list[str]:
    """Problems between records: doubled seeds, copied numbers, unequal budgets."""
    problems = []
    seeds: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    curves: dict[tuple[str, str], list[str]] = defaultdict(list)
    budgets: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in found:
        result, run_id = record["result"], record["run_id"]
        key = tuple(result[name] for name in ("env", "arm", "sparsity", "critic_sparsity", "seed"))
        seeds[key].append(run_id)
        budgets[result["env"]][records.canonical(result["budget"])].append(run_id)
        if result["status"] == "ok":
            curves[result["env"], _content(folder / "records" / run_id / "curve.csv")].append(run_id)
    for key, ids in seeds.items():
        if len(ids) > 1:
            problems.append(f"{' and '.join(ids)}: the same arm and seed {key[-1]} twice")
    for ids in curves.values():
        if len(ids) > 1:
            problems.append(f"{' and '.join(ids)}: the very same curve under different names")
    problems += _data_problems(found)
    for env, groups in budgets.items():
        if len(groups) > 1:
            odd = min(groups.values(), key=len)
            problems.append(f"{env}: not all runs had the same budget (differs: {odd[0]})")
    return problems


def _data_problems(found: list[dict[str, Any]]) -> list[str]:
    """Runs of one environment (and of one seed, where every seed has data of its own) that learned from other data.

    A file is the same to the last bit. What is made in a training may differ by the rounding of differently compiled
    programs, but not by more.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in found:
        result = record["result"]
        if "data" in result:  # older records do not say
            own = result["data"]["name"].startswith(datasets.OWN)
            groups[result["env"], result["seed"] if own else None].append(record)
    problems = []
    for (env, seed), records_of in groups.items():
        first, *others = records_of
        odd = [
            r for r in others if not _same_data(first["result"]["data"], r["result"]["data"], seed is None)
        ]
        if odd:
            one, other = (record["result"]["data"]["sha256"][:12] for record in (first, odd[0]))
            problems.append(
                f"{env}: {first['run_id']} and {odd[0]['run_id']} learned from different data (sha256 {one} and "
                f"{other})"
            )
    return problems


def _same_data(one: dict[str, Any], other: dict[str, Any], of_a_file: bool) -> bool:
    if of_a_file or one["sha256"] == other["sha256"]:
        return bool(one == other)
    counts = [(data["name"], data["transitions"], data["episodes"]) for data in (one, other)]
    apart = abs(one["mean_return"] - other["mean_return"])
    return counts[0] == counts[1] and apart <= ROUNDING * max(1.0, abs(one["mean_return"]))


def _alone(found: list[dict[str, Any]]) -> list[str]:
    """Environments without a dense arm."""
    roles: dict[str, set[str]] = defaultdict(set)
    for record in found:
        roles[record["result"]["env"]].add(record["result"]["role"])
    return [f"{env}: there is no dense arm to compare with" for env in roles if "dense" not in roles[env]]
