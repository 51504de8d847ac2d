"""Finished runs as sources of others: which runs a program waits for, and what its members take from them.

The plan puts such programs behind those they take from and knows shapes only; the masks, or the policy to clone, are
read from the finished runs' files when the program is executed, checked against their records, and named with their
digests in the records of what came of them.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparserl_jax.bench import policy
from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable, leaf, with_leaf
from sparserl_jax.sparsity import Promise
from sparserl_jax.sparsity import method as find_method
from sparserl_jax.training.given import Given
from sparserl_jax.training.population import key_data, stack

if TYPE_CHECKING:
    from sparserl_jax.bench.plan import Plan, Planned

FILE = "sources.json"
"""Beside a program's checkpoints: what its members took."""
FILES = {"masks": ("masks", "masks.npz"), "expert": ("policy", policy.FILE)}
"""By what is taken: the file's name in a record, and on disk."""


def of(planned: Planned) -> dict[str, str]:
    """Run ids of what a run takes from, by what it takes: `masks`, `expert`."""
    taken = {"masks": planned.run.masks, "expert": planned.run.expert}
    place = planned.folder.parent
    return {kind: (place / source.run).as_posix() for kind, source in taken.items() if source is not None}


# ---- the plan ------------------------------------------------------------------------------------------------------


def ordered(programs: Iterable[Any]) -> tuple[Any, ...]:
    """Programs, within each environment those first that take nothing from others."""
    listed = list(programs)
    envs = list(dict.fromkeys(program.runs[0].training.env for program in listed))

    def place(program: Any) -> tuple[int, bool]:
        takes = any(run.masks is not None or run.expert is not None for run in program.runs)
        return envs.index(program.runs[0].training.env), takes

    return tuple(sorted(listed, key=place))


def check(runs: Sequence[Planned], promise: Callable[[Any], Mapping[str, Promise]], where: str) -> None:
    """Refuse tickets whose method would not keep the masks it is given, as they are, in every tensor."""
    places = {planned.folder.as_posix(): planned for planned in runs}
    for planned in runs:
        source = of(planned).get("masks")
        if source is None:
            continue
        other, method = places[source], find_method(planned.run.recipe.method)
        here = f"{where}, arm '{planned.arm.name}' on {planned.task.name}"
        mine, theirs = promise(planned.run), promise(other.run)
        moves = method.family.refresh is not None or any(promised.events for promised in mine.values())
        if method.family.adopt is None or moves:
            raise UserError(
                f"{here}: method '{method.name}' does not keep a given mask as it is; use the recipe 'static'."
            )
        if any(promised.narrow is not None for promised in mine.values()):
            raise UserError(
                f"{here}: '{method.name}' is a narrow network, whose first weights are drawn as one, not as those "
                "under a mask; use the recipe 'static'."
            )
        exact = find_method(other.run.recipe.method).family.declares.budget == "per_tensor"
        if not exact or any(list(mine[name].counts) != list(theirs[name].counts) for name in mine):
            raise UserError(
                f"{here}: '{method.name}' does not keep as many weights in every tensor as '{other.arm.name}', whose "
                "masks it takes; name an arm with equal counts."
            )


def check_programs(programs: Iterable[Any]) -> None:
    """Refuse to clone where environments run on the host: what the policy does is recorded inside compiled stages."""
    for program in programs:
        clones = [run.arm for run in program.runs if run.expert is not None]
        if clones and program.host:
            raise UserError(
                f"arm '{clones[0]}': {program.runs[0].training.env} runs on the host, where no policy can be cloned: "
                "choose an environment of gymnax or brax, or drop 'clone'."
            )


def lines(plan: Plan, program: Any) -> list[str]:
    """Which arms a program waits for."""
    waits = {
        source.run.partition("-")[0]  # names of arms have no hyphen
        for run in program.runs
        for source in (run.masks, run.expert)
        if source is not None
    }
    return (
        [f"    after: the runs of {', '.join(sorted(waits))}, whose masks or policies it takes"]
        if waits
        else []
    )


# ---- execution -----------------------------------------------------------------------------------------------------


def lacking(plan: Plan, program: Any, folders: Sequence[Path]) -> list[str]:
    """Runs that a program takes from and that no folder holds finished."""
    wanted = dict.fromkeys(run_id for planned in plan.of(program) for run_id in of(planned).values())
    return [run_id for run_id in wanted if _find(folders, run_id, plan.suite.hash()) is None]


def require(plan: Plan, folders: Sequence[Path]) -> None:
    """Refuse programs whose sources are neither finished nor made before them."""
    coming: set[str] = set()
    for program in plan.programs:
        absent = [run_id for run_id in lacking(plan, program, folders) if run_id not in coming]
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise UserError(
                f"{_names(plan, program)} takes masks or a policy from {absent[0]}{more}, which is not finished here: "
                "run that arm too, or name the folder that holds it with --sources."
            )
        coming |= {planned.folder.as_posix() for planned in plan.of(program)}


def check_data(plan: Plan, elsewhere: Iterable[Path]) -> None:
    """Refuse other folders whose runs learned from other files than those that are here."""
    from sparserl_jax.bench import records

    for folder in elsewhere:
        if (folder / records.CONFIGURATION).is_file() and not records.same_data(folder, plan):
            raise UserError(
                f"--sources '{folder}' holds runs that learned from other files than those here; bring back the files, "
                "or run those arms here, too."
            )


def _names(plan: Plan, program: Any) -> str:
    return ", ".join(dict.fromkeys(f"'{planned.arm.name}'" for planned in plan.of(program)))


def _find(folders: Sequence[Path], run_id: str, suite_hash: str) -> Path | None:
    """Folder of a finished run, its files as they were recorded."""
    from sparserl_jax.bench import records  # which knows the plan, and the plan this module

    held = (folder for folder in folders if records.finished(folder, run_id, suite_hash))
    return next((folder / "records" / run_id for folder in held), None)


def take(plan: Plan, program: Any, folders: Sequence[Path]) -> tuple[Any, list[dict[str, Any]]]:
    """A program with what its members take, and what each of their records shall say of it (mostly nothing).

    Raises:
        UserError: a source is not there.
    """
    from sparserl_jax.bench import records

    planned = plan.of(program)
    if not any(of(entry) for entry in planned):
        return program, [{} for _ in planned]
    masks, experts, said = [], [], []
    for entry in planned:
        about: dict[str, dict[str, str]] = {}
        for kind, run_id in of(entry).items():
            place = _find(folders, run_id, plan.suite.hash())
            if place is None:
                raise UserError(
                    f"'{run_id}' is not finished here, and '{entry.arm.name}' takes from it; run it first."
                )
            about[kind] = {
                "run_id": run_id,
                "sha256": records.read(place)["files"][FILES[kind][0]]["sha256"],
            }
            if kind == "masks":
                masks.append(_masks(plan, entry, policy.load_masks(place / FILES[kind][1])))
            else:
                experts.append(policy.load(place / FILES[kind][1]).params)
        said.append({"sources": about})
    given = Given(stack(masks) if masks else (), stack(experts) if experts else ())
    return dataclasses.replace(program, given=given), said


def _masks(plan: Plan, planned: Planned, found: dict[str, Any]) -> dict[str, Any]:
    """The masks that a run keeps: those found, or random ones with their counts."""
    layers = plan.layers_of(planned.run)
    wanted = {name: found[name] for name in planned.run.training.agent.NETWORKS}
    if planned.run.ticket is not None and planned.run.ticket.mask == "random":
        generator = np.random.default_rng(key_data("ticket", planned.run.key_name))
        return {name: shuffled(tree, layers[name], generator) for name, tree in wanted.items()}
    return wanted


def shuffled(masks: Any, layers: LayerTable, generator: np.random.Generator) -> Any:
    """Masks with the live weights of every tensor in uniformly random places; biases stay."""
    for layer in layers.maskable:
        rows = np.asarray(leaf(masks, layer.kernel)).reshape(layer.copies, layer.size)
        moved = np.stack([generator.permutation(row) for row in rows])
        masks = with_leaf(masks, layer.kernel, moved.reshape(layer.stack + layer.shape))
    return masks


def forget(checkpoints: Path, said: Sequence[Mapping[str, Any]], warn: Callable[[str], None]) -> None:
    """Throw away checkpoints whose members took something else than is there now: their sources were made again."""
    try:
        before = json.loads((checkpoints / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        before = None
    if before != list(said):
        shutil.rmtree(checkpoints, ignore_errors=True)
        warn("what its members take from finished runs has changed: it begins anew.")


def note(checkpoints: Path, said: Sequence[Mapping[str, Any]]) -> None:
    """Write down beside the checkpoints what the members took."""
    from sparserl_jax.bench import records

    if any(said):
        records.write_atomic(checkpoints / FILE, (json.dumps(list(said), indent=1) + "\n").encode())


# ---- check ---------------------------------------------------------------------------------------------------------


def problems(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Records whose sources, where they lie in the same folder, are not those that they were made from."""
    by_id, told = {record["run_id"]: record for record in found}, []
    for record in found:
        for kind, said in record["provenance"].get("sources", {}).items():
            other, file = by_id.get(said["run_id"]), FILES[kind][0]
            if other is not None and other["files"][file]["sha256"] != said["sha256"]:
                told.append(
                    f"{record['run_id']}: its {kind} came from another run than {said['run_id']} of this folder"
                )
            config = record["provenance"]["config"]
            # A clone has taken those of the actor alone.
            kept = (config.get("ticket") or {}).get("mask") == "final" and not config.get("clone")
            if kind == "masks" and kept and record["files"]["masks"]["sha256"] != said["sha256"]:
                told.append(f"{record['run_id']}: its masks are not those of {said['run_id']} any more")
    return told
