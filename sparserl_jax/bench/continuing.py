"""`sparserl train --from`: runs that begin from the networks of a finished one.

A run's folder gives the weights and masks of all networks; a policy file gives the actor alone. Optimiser slots and
replay begin empty, targets as copies of the networks, and the schedule (topology, multi-step delay) anew; in the
warm-up the given actor acts, with exploration noise, where otherwise actions are random (DQN's epsilon begins anew, and
so does the deviation of PPO's actions: neither is part of a network). A method goes on from the masks it is given, so
these must keep as many weights in every tensor as it declares at the given sparsity, in the pattern it has, if any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sparserl_jax.agents.registry import trained_by
from sparserl_jax.bench import policy
from sparserl_jax.bench.paths import at_home
from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable, leaf
from sparserl_jax.sparsity import method as find_method
from sparserl_jax.sparsity import promised
from sparserl_jax.training.config import Run, Start
from sparserl_jax.training.population import events_of


def read(path: str | Path) -> Start:
    """The networks at `path`: a run's folder, or a policy file (of which only the actor is taken).

    Raises:
        UserError: there are none, they are damaged, or their training diverged.
    """
    # The plan asks this module whether networks fit, and records know the plan.
    from sparserl_jax.bench import records, saved

    found = saved.find(path)
    files = [found.folder / name for name in (policy.NETWORKS, "masks.npz")]
    # A file by its name means that file; a folder means all that is in it.
    if at_home(path).is_dir() and all(file.is_file() for file in files):
        params, masks = policy.load_networks(files[0]), policy.load_masks(files[1])
    else:
        files, params, masks = [found.path], {"actor": found.plain.params}, {"actor": found.plain.masks}
    if not policy.finite(params):
        raise UserError(f"'{found.name}' diverged: its weights are not finite; start from another run.")
    return Start(
        source=found.path.name if found.record is None else found.record["run_id"],
        env=found.policy.description["env"],
        agent=found.policy.description["agent"],
        sha256=records.digest(b"".join(file.read_bytes() for file in files)),
        networks=tuple(sorted(params)),
        arrays={name: (params[name], masks.get(name, {})) for name in params},
    )


def network(start: Start) -> str:
    """Kind of the given actor, by the name that its parameters lie under."""
    return next(iter(start.arrays["actor"][0]))


def hidden(start: Start) -> tuple[int, ...]:
    """Widths of the hidden layers of the given actor, or of the stream that its residual blocks read."""
    side = -2 if network(start) == "simba" else -1
    kernels = {
        name.split("/")[-2]: value.shape[side]
        for name, value in policy.flatten(start.arrays["actor"][0], "_").items()
        if name.endswith("/kernel")
    }
    widths = sorted(
        (int(name.rpartition("_")[2]), width) for name, width in kernels.items() if "hidden_" in name
    )
    return tuple(int(width) for _, width in widths)


def line(start: Start) -> str:
    """What is taken from where, in one line."""
    trained: Any = trained_by(start.agent).config
    if set(start.networks) < set(trained.NETWORKS):
        return f"starts from the actor of {start.source} alone: the critic starts fresh, and so do optimiser and replay"
    what = " and ".join(start.networks)
    return f"starts from {what} of {start.source}, targets copied from them: optimiser and replay start fresh"


def check(start: Start, run: Run, layers: dict[str, LayerTable]) -> None:
    """Refuse networks that are not those of `run`: agent, shapes, and the weights its method keeps in every tensor.

    Raises:
        UserError: the first thing that does not fit.
    """
    where = f"cannot start from '{start.source}' ({start.agent} on {start.env})"
    if start.agent != run.training.agent.name:
        raise UserError(
            f"{where}: this is a training of {run.training.agent.name}; give --agent {start.agent}."
        )
    for network in start.networks:
        params, masks = start.arrays[network]
        for kind, tree in (("weights", params), ("masks", masks)):
            ours = {"/".join(path): shape for path, shape in layers[network].shapes.items()}
            theirs = {name.partition("/")[2]: x.shape for name, x in policy.flatten(tree, "_").items()}
            if ours != theirs:
                odd = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))[0]
                raise UserError(
                    f"{where}: the {kind} of its {network} have {_text(theirs.get(odd))} at {odd}, and those of "
                    f"{run.training.env} with hidden layers {run.training.agent.hidden} have {_text(ours.get(odd))}."
                )
        _check_masks(where, network, masks, run, layers[network])


def _text(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else " x ".join(str(side) for side in shape)


def _check_masks(where: str, network: str, masks: Any, run: Run, layers: LayerTable) -> None:
    """The masks keep the declared counts, within the units that the method's network has."""
    knob, method = run.knobs[network], find_method(run.recipe.method)
    if method.family.adopt is None:
        raise UserError(
            f"{where}: methods of the family '{method.family.name}' cannot start from trained networks."
        )
    # What the method begins with: all weights, where it prunes on its way.
    promise = promised(method, layers, knob, events_of(run.training)[network], run.recipe.source)
    what = f"what {run.recipe.name} keeps at sparsity {knob:g}"
    kept = [
        int(np.asarray(leaf(masks, layer.kernel)).reshape(layer.copies, -1)[copy].sum())
        for layer, copy in layers.tensors
    ]
    begins, budget = promise.at(0), method.family.declares.budget
    if budget == "global" and sum(kept) != sum(begins):
        raise UserError(
            f"{where}: its {network} keeps {sum(kept):,} of {layers.weights:,} weights, {what} is {sum(begins):,}; "
            "give the recipe and sparsity of that run."
        )
    for (layer, _), live, count in zip(layers.tensors, kept, begins, strict=True):
        if live > count if budget in ("at_most", "none") else budget == "per_tensor" and live != count:
            raise UserError(
                f"{where}: its {network} keeps {live:,} of {layer.size:,} weights in {layer.name}, {what} is "
                f"{count:,}; give the recipe and sparsity of that run."
            )
    if method.family.misfit is not None:
        settings = method.settings(layers, knob, events_of(run.training)[network], run.recipe.source)
        wrong = method.family.misfit(masks, layers, settings)
        if wrong is not None:
            raise UserError(
                f"{where}: {run.recipe.name} keeps its masks in a pattern that those of its {network} do not have "
                f"({wrong}); give the recipe of that run."
            )
    for layer, own in zip(layers, promise.narrow or layers, strict=True):
        rows = np.arange(layer.units_in) < own.units_in
        columns = np.arange(layer.units_out) < own.units_out
        inside = not np.any(np.asarray(leaf(masks, layer.kernel)) & ~(rows[:, None] & columns))
        if layer.bias is not None:
            inside = inside and bool(np.all(np.asarray(leaf(masks, layer.bias)) == columns))
        if not inside:
            raise UserError(
                f"{where}: the masks of its {network} do not lie where those of {run.recipe.name} do in {layer.name}; "
                "give the recipe of that run."
            )
