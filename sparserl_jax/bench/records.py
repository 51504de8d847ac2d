"""Records: one folder per run with everything a table cell can be traced to.

    records/<environment>/<run id>/record.json     result, measured, provenance, and the sha256 of the other files
                                   curve.csv       evaluation points; carries no clock
                                   policy.npz      deployed actor          masks.npz   packed masks of every network
                                   timings.json    what was measured of the whole program
                                   networks.npz    weights of all networks, gates in them, to go on from; not published

`result` is a function of configuration, seed, program membership and device kind. A folder appears under its name only
when it is complete: it is written next to it and renamed.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparserl_jax.bench import costs, policy
from sparserl_jax.bench.plan import Plan, Planned
from sparserl_jax.bench.suites import Suite, plain
from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import method

SCHEMA_VERSION = "1.0"
CONFIGURATION = "configuration.json"
EXACT = "per_tensor"
"""The kind of budget whose declared counts hold exactly for every tensor; see `sparsity.contract.Promise`."""


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces; the same text for the same content."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def number(value: Any) -> float | None:
    """A finite float, or None: JSON knows no NaN."""
    value = float(value)
    return value if math.isfinite(value) else None


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def score_points(points: int) -> int:
    """Evaluation points in the last tenth, rounded up."""
    return -(-points // 10)


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of finite values, summed exactly; None if there are none or one of them is missing."""
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present and len(present) == len(values) else None


def scores(curve: Sequence[float | None], final_returns: Sequence[float | None]) -> dict[str, Any]:
    """The scores of a run from its evaluation points and its final episodes; the checker recomputes them with this."""
    window = score_points(len(curve)) if curve else 1
    return {
        "score": mean(curve[-window:]),
        "score_points": window,
        "final_score": mean(final_returns),
        "auc": mean(curve),
    }


def curve_text(curve: Mapping[str, Any]) -> str:
    """The curve as CSV: `env_step`, `update`, `return` first, then the diagnostics by name; empty cells for NaN."""
    lead = [name for name in ("env_step", "update", "return") if name in curve]
    names = lead + sorted(set(curve) - set(lead))
    columns = [np.asarray(curve[name]) for name in names]
    columns = [column.astype(np.int8) if column.dtype == bool else column for column in columns]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in zip(*(column.tolist() for column in columns), strict=True):
        writer.writerow("" if isinstance(v, float) and not math.isfinite(v) else repr(v) for v in row)
    return out.getvalue()


def read_curve(path: Path) -> dict[str, list[float | None]]:
    """Columns of a curve file; None for empty cells. Raises `UserError` for one that is missing or damaged."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        columns = {
            name: [float(row[index]) if row[index] else None for row in rows[1:]]
            for index, name in enumerate(rows[0])
        }
        if not {"env_step", "update", "return"} <= columns.keys():
            raise ValueError("columns are missing")
    except (OSError, ValueError, IndexError):
        raise UserError(
            f"'{path}' is missing or damaged; `sparserl check` says what else is, and a run whose folder is deleted is "
            "made again."
        ) from None
    return columns


def _tensors(layers: LayerTable, nnz: Sequence[int], declared: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{layer.name}[{copy}]" if layer.stack else layer.name,
            "path": "/".join(layer.kernel),
            "copy": copy,
            "shape": list(layer.shape),
            "size": layer.size,
            "nnz": int(kept),
            "declared": int(promised),
        }
        for (layer, copy), kept, promised in zip(layers.tensors, nnz, declared, strict=True)
    ]


def config_of(planned: Planned) -> dict[str, Any]:
    """Everything that decides the run's numbers except its seed and its place, the arm's own values among it."""
    run = planned.run
    config = plain(dataclasses.replace(run, training=run.effective, overrides=()))
    for key in ("seed", "arm", "masks", "expert"):  # the last two follow from the seed
        config.pop(key, None)
    return config


def declared_of(suite: Suite, planned: Planned) -> dict[str, Any]:
    """Fields of `result` that the suite decides before anything is run."""
    run = planned.run
    return {
        "suite": suite.name,
        "env": planned.task.name,
        "agent": run.training.agent.name,
        "arm": planned.arm.name,
        "role": planned.arm.role,
        "recipe": run.recipe.name,
        "method": run.recipe.method,
        "source": run.recipe.source,
        "sparsity": float(run.knobs["actor"]),
        "critic_sparsity": float(run.knobs["critic"]),
        "seed": run.seed,
        "budget": {
            "env_steps": suite.steps,
            "warm_up": suite.warm_up,
            "updates": run.training.updates,
            "num_envs": suite.num_envs,
            "batch_size": run.training.agent.batch_size,
            "points": suite.points,
            "episodes": run.training.evaluation.episodes,
            "final_episodes": run.training.evaluation.final_episodes,
            # Said only where they are so.
            **({"sampled": True} if run.training.evaluation.sampled else {}),
            **({} if run.training.dataset is None else {"dataset": run.training.dataset}),
        },
    }


def result_of(plan: Plan, planned: Planned, outcome: Any) -> dict[str, Any]:
    """The `result` part of a record."""
    suite, run, promised = plan.suite, planned.run, plan.promise(planned.run)
    layers, networks = plan.layers_of(run), run.training.agent.NETWORKS
    nnz = {network: [int(count) for count in outcome.nnz[network]] for network in networks}
    points = [number(value) for value in np.asarray(outcome.curve["return"])]
    final = [number(value) for value in np.asarray(outcome.final_returns)]
    diverged = outcome.status == "diverged"
    found = scores(points, final)
    budget = method(run.recipe.method).family.declares.budget
    if diverged:
        found.update(score=None, final_score=None, auc=None)
    return {
        **declared_of(suite, planned),
        # What the declared counts mean; said only where they are not exact for every tensor.
        **({} if budget == EXACT else {"promise": budget}),
        "status": outcome.status,
        **found,
        "final_returns": final,
        "realised_sparsity": {
            network: 1.0 - sum(nnz[network]) / layers[network].weights for network in networks
        },
        "tensors": {
            network: _tensors(layers[network], nnz[network], promised[network].counts) for network in networks
        },
        "episodes": int(outcome.episodes),
        "invalid_steps": int(outcome.invalid_steps),
        "events": {network: int(outcome.events[network]) for network in networks},
        "costs": costs.costs(run, layers, nnz, promised),
        **({} if outcome.data is None else {"data": outcome.data}),
    }


def measured_of(outcome: Any, members: int, training: Any) -> dict[str, Any]:
    """The `measured` part: seconds of the whole program, its throughput over all members, its evaluation share, and
    the length of one dispatch.

    `steps_per_second` counts environment steps with their updates, of all members together, compilation and
    evaluation left out.
    """
    raw = {key: plain_number(value) for key, value in dict(outcome.measured).items()}
    train, evaluate, warm_up = (
        float(raw.get(f"{key}_seconds") or 0.0) for key in ("train", "evaluate", "warm_up")
    )
    total = train + evaluate + warm_up
    return {
        **raw,
        "members": members,
        "steps_per_second": members * training.trained_steps / train if train > 0 else None,
        "dispatch_seconds": train * training.dispatch_steps / training.trained_steps if train > 0 else None,
        "evaluation_share": evaluate / total if total > 0 else None,
    }


def plain_number(value: Any) -> Any:
    """NumPy scalars as Python ones, non-finite numbers as None; text and booleans as they are."""
    if isinstance(value, np.generic):
        value = value.item()
    return number(value) if isinstance(value, float) else value


def description(plan: Plan, planned: Planned) -> dict[str, Any]:
    """What a policy file of a run says of its environment and network."""
    spec, agent = plan.specs[planned.task.name], planned.run.training.agent
    return {
        "env": planned.task.name,
        "agent": agent.name,
        "hidden": list(agent.hidden),
        "obs_dim": spec.obs_dim,
        "action_dim": spec.action_dim,
        "action_low": list(spec.action_low),
        "action_high": list(spec.action_high),
        **policy.kinds(spec, agent),
        "normalisation": None,
    }


def write(
    root: Path, plan: Plan, planned: Planned, outcome: Any, program: Any, provenance: Mapping[str, Any]
) -> Path:
    """Write the folder of one finished run under `root/records`; returns it. An existing folder is replaced."""
    config = config_of(planned)
    config_hash = digest(canonical(config).encode())[:12]
    members = [entry.folder.as_posix() for entry in plan.of(program)]
    final = root / "records" / planned.folder
    staging = final.with_name(f".{final.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    policy.save(
        staging / "policy.npz",
        outcome.params["actor"],
        outcome.masks["actor"],
        {**description(plan, planned), "config_hash": config_hash, "run_id": planned.folder.as_posix()},
    )
    policy.save_masks(staging / "masks.npz", outcome.masks)
    policy.save_networks(staging / policy.NETWORKS, outcome.params)
    (staging / "curve.csv").write_text(curve_text(outcome.curve), encoding="utf-8")
    measured = measured_of(outcome, len(members), planned.run.training)
    timings = {"program": program.name, "members": members, "measured": measured}
    (staging / "timings.json").write_text(
        json.dumps(timings, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    names = {"curve": "curve.csv", "policy": "policy.npz", "masks": "masks.npz", "timings": "timings.json"}
    record = {
        "schema_version": SCHEMA_VERSION,
        "run_id": planned.folder.as_posix(),
        "result": result_of(plan, planned, outcome),
        "measured": measured,
        "provenance": {
            **provenance,
            "suite_hash": plan.suite.hash(),
            "config_hash": config_hash,
            "config": config,
            "program": program.name,
            "program_members": members,
            **_tuning(planned),
            **_precision(planned),
            **_whole(plan, program),
        },
        "files": {
            key: {"path": name, "sha256": digest((staging / name).read_bytes())}
            for key, name in names.items()
        },
    }
    text = json.dumps(sealed(record), indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_atomic(staging / "record.json", text.encode())
    shutil.rmtree(final, ignore_errors=True)
    staging.replace(final)
    return final


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the digest of all its other fields."""
    body = {key: value for key, value in record.items() if key != "sha256"}
    return {**body, "sha256": digest(canonical(body).encode())}


def intact(record: Mapping[str, Any]) -> bool:
    """Whether a record is as it was written; older ones carry no digest and cannot tell."""
    return not is_sealed(record) or sealed(record)["sha256"] == record["sha256"]


def is_sealed(record: Mapping[str, Any]) -> bool:
    """Whether a record carries the digest of its other fields."""
    return "sha256" in record


def _tuning(planned: Planned) -> dict[str, Any]:
    """What finding the arm's values cost, where it says so."""
    tuned = planned.arm.tuning
    if tuned is None:
        return {}
    cost = {"n_trials": tuned.trials, "seeds": list(tuned.seeds), "space_sha256": tuned.space_sha256}
    return {"tuning": cost}


def _precision(planned: Planned) -> dict[str, Any]:
    """The precision of matrix products, where the suite declares it: it then overrules that of the process."""
    declared = planned.run.training.matmul_precision
    return {} if declared is None else {"matmul_precision": declared}


def _whole(plan: Plan, program: Any) -> dict[str, Any]:
    """The program that this one is a part of, where it was divided."""
    whole = plan.wholes.get(program.name)
    return {} if whole is None else {"part_of": {"program": whole[0], "members": whole[1]}}


def configuration(plan: Plan) -> dict[str, Any]:
    """What `configuration.json` of a folder holds: the resolved suite, every run it must contain, and which files they
    learn from, if any."""
    return {
        "schema_version": SCHEMA_VERSION,
        "suite_hash": plan.suite.hash(),
        "suite": plan.suite.plain(),
        "runs": [planned.folder.as_posix() for planned in plan.runs],
        **({"data": files} if (files := data_of(plan)) else {}),
    }


def data_of(plan: Plan) -> dict[str, Any]:
    """Datasets that were read from files, by environment."""
    return {task.name: task.logged.described() for task in plan.suite.tasks if task.logged is not None}


def same_data(folder: Path, plan: Plan) -> bool:
    """Whether the runs of a suite's folder learn from the files that a plan's do."""
    return bool(read_configuration(folder).get("data", {}) == data_of(plan))


def read(folder: Path) -> dict[str, Any]:
    """The record in a run's folder."""
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"), parse_constant=_refuse)
    if not isinstance(record, dict):
        raise ValueError("a record is a JSON object")
    return record


def _refuse(name: str) -> float:
    """Python's JSON would let NaN and infinities through."""
    raise ValueError(f"{name} is not JSON")


def finished(root: Path, run_id: str, suite_hash: str) -> bool:
    """Whether a run's record is complete, belongs to this configuration, and its files are those it names."""
    folder = root / "records" / run_id
    try:
        record = read(folder)
        return (
            intact(record)
            and record["provenance"]["suite_hash"] == suite_hash
            and all(
                digest((folder / entry["path"]).read_bytes()) == entry["sha256"]
                for entry in record["files"].values()
            )
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_configuration(root: Path) -> dict[str, Any]:
    """What a suite wrote of itself into the folder of its records."""
    try:
        settings = json.loads((root / CONFIGURATION).read_text(encoding="utf-8"))
    except OSError:
        raise UserError(
            f"'{root}' holds no {CONFIGURATION}; give a folder that `sparserl bench` made."
        ) from None
    except ValueError:
        raise UserError(f"'{root.name}/{CONFIGURATION}' is not valid JSON; run the suite again.") from None
    forms = {"schema_version": str, "suite_hash": str, "suite": dict, "runs": list}
    if (
        not isinstance(settings, dict)
        or any(not isinstance(settings.get(key), form) for key, form in forms.items())
        or not all(isinstance(run_id, str) for run_id in settings["runs"])
    ):
        raise UserError(
            f"'{root.name}/{CONFIGURATION}' is not what a suite writes ({', '.join(forms)}); run the suite again."
        )
    return settings


def load_all(root: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(configuration, records in the order of the plan); runs without a record are left out."""
    settings, found = read_configuration(root), []
    for run_id in settings["runs"]:
        folder = root / "records" / run_id
        if (folder / "record.json").is_file():
            try:
                found.append(read(folder))
            except ValueError:
                raise UserError(
                    f"record '{run_id}' is not valid JSON; move its folder away and run again."
                ) from None
    return settings, found
