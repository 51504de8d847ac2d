"""`sparserl inspect`: what a trained policy is made of: layers, dead units, paths, bytes, and where it came from.

Paths are those of live weights, and of layer normalisations, each of which links all units that it reads; biases make
no path. A hidden unit is dead where no path leads to it from an input, or none from it to an output: it then passes
nothing on, or nobody reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sparserl_jax.accounting import sizes
from sparserl_jax.agents.registry import trained_by
from sparserl_jax.bench import costs, policy
from sparserl_jax.bench.saved import Saved
from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable, leaf

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ENDS = {
    "actor": ("observation", "action"),
    "critic": ("input", "value"),
    "value": ("observation", "value"),
    "policy": ("observation", "output"),
}
"""What goes into a network and what comes out of it; `policy`: an actor whose outputs are not its actions, and networks
that are not named here."""
FORMS = {
    "dense": "every weight, 32 bits",
    "bitmask": "live weights, one bit per weight",
    "csr8": "live weights row by row, narrowest indices",
    "csr32": "live weights row by row, 32-bit indices",
    "coo16": "live weights with narrowest coordinates",
    "coo32": "live weights with 32-bit coordinates",
    "entropy": "no file: the bound for a random mask",
    "raw_blob": "one file, cheapest form for each layer",
}


class LayerFacts(NamedTuple):
    """One tensor: its live weights, and the dead units among those it writes (None for the output layer).

    unfed: units that no input reaches. unread: units from which no output is reached. dead: either.
    """

    name: str
    shape: tuple[int, ...]
    live: int
    size: int
    unfed: int | None
    unread: int | None
    dead: int | None


class NetworkFacts(NamedTuple):
    """One copy of a network: its layers, and how many of its inputs and outputs a path of live weights connects."""

    name: str
    layers: list[LayerFacts]
    inputs: int
    inputs_used: int
    outputs: int
    outputs_driven: int

    @property
    def connected(self) -> bool:
        """Whether any path leads from an input to an output."""
        return self.inputs_used > 0


def _links(mask: Any, copy: int, shape: tuple[int, ...]) -> np.ndarray:
    """Which unit of a layer's output reads which of its input: bool[in, out] (a kernel's spatial axes are merged)."""
    kernel = np.asarray(mask, bool).reshape(-1, *shape)[copy]
    return kernel.any(axis=tuple(range(kernel.ndim - 2)))


def _linked(layer: Layer, units: np.ndarray) -> np.ndarray:
    """Those of the units that a layer reads, bool[in]; all of them for any where it normalises them: by their mean and
    deviation each depends on all others."""
    return units if layer.norm is None else np.full_like(units, units.any())


def network(name: str, layers: LayerTable, masks: Mapping[str, Any]) -> list[NetworkFacts]:
    """Facts about every copy of a network; what adds to a residual stream has no units of its own to report.

    Args:
        name: its name.
        layers: its tensors, in the order of the forward pass.
        masks: bool arrays in the structure of the parameters.
    """
    found = []
    for copy in range(layers[0].copies):
        links = [_links(leaf(masks, layer.kernel), copy, layer.shape) for layer in layers]
        start, end = layers[0].inputs, layers[-1].outputs
        fed = {start: np.ones(links[0].shape[0], bool)}  # units of each group that an input reaches
        for layer, link in zip(layers, links, strict=True):
            fed[layer.outputs] = _linked(layer, fed[layer.inputs]) @ link | fed.get(layer.outputs, False)
        read = {end: np.ones(links[-1].shape[1], bool)}  # units of each group from which an output is reached
        for layer, link in reversed(list(zip(layers, links, strict=True))):
            used = _linked(layer, link @ read[layer.outputs])
            read[layer.inputs] = used | read.get(layer.inputs, False)
        facts = []
        for layer in layers:
            here, there = fed[layer.outputs], read[layer.outputs]
            live = int(np.asarray(leaf(masks, layer.kernel)).reshape(layer.copies, -1)[copy].sum())
            dead = (int((~here).sum()), int((~there).sum()), int((~(here & there)).sum()))
            units = dead if layer in layers.hidden else (None, None, None)
            facts.append(LayerFacts(layer.name, layer.shape, live, layer.size, *units))
        label = f"{name}[{copy}]" if layers[0].stack else name
        ends = (fed[start].size, int(read[start].sum()), read[end].size, int(fed[end].sum()))
        found.append(NetworkFacts(label, facts, *ends))
    return found


def narrow(layers: LayerTable, masks: Mapping[str, Any]) -> LayerTable:
    """The same network without units whose every weight is masked, where the others are densely connected.

    A narrow network that was trained inside wide tensors is stored as what it is; any other table comes back as it is.
    """
    smaller = []
    for layer in layers:
        link = np.asarray(leaf(masks, layer.kernel), bool)
        window = tuple(range(len(layer.shape[:-2])))
        if layer.stack or not link.any():
            return layers
        # What the network is given and what it puts out stay, read or not.
        rows = link.any(axis=(*window, -1)) | (layer in layers.first)
        columns = link.any(axis=(*window, -2)) | layer.output
        if not (link == np.outer(rows, columns)).all():
            return layers
        shape = (*layer.shape[:-2], int(rows.sum()), int(columns.sum()))
        smaller.append(dataclasses.replace(layer, shape=shape))
    chained = all(a.units_out == b.units_in for a, b in zip(smaller, smaller[1:], strict=False))
    return LayerTable(smaller) if chained else layers


def storage(layers: LayerTable, masks: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Parameters and bytes in every form (see `accounting.sizes`): of the network under its masks, and dense."""
    table = narrow(layers, masks)
    live = [int(np.asarray(leaf(masks, layer.kernel)).sum()) for layer in layers]
    return sizes.sizes(table, live), sizes.sizes(layers)


def layer_tables(described: Mapping[str, Any]) -> dict[str, LayerTable]:
    """LayerTables of all networks of the agent that a policy's description names."""
    config = dataclasses.replace(
        trained_by(described["agent"]).config(),
        hidden=tuple(described["hidden"]),
        network=described.get("network", "mlp"),
        **({"policy": described["policy"]} if "policy" in described else {}),
    )
    image = policy.image(described)
    return costs.layer_tables(config, described["obs_dim"], described["action_dim"], image)


def tables(saved: Saved) -> tuple[dict[str, LayerTable], dict[str, Any]]:
    """LayerTables and masks by network: of all networks where masks.npz lies beside the policy, else of the actor.

    Raises:
        UserError: the files do not hold what the policy's description says, or the policy is decomposed.
    """
    layers = layer_tables(saved.plain.description)
    masks = {"actor": saved.policy.masks}
    file = saved.folder / "masks.npz"
    if saved.record is not None and file.is_file():
        masks = {**policy.load_masks(file), **masks}
    layers = {name: table for name, table in layers.items() if name in masks}
    for name, table in layers.items():
        for layer in table:
            try:
                shape = np.shape(leaf(masks[name], layer.kernel))
            except (KeyError, TypeError):
                shape = None
            if shape != layer.stack + layer.shape:
                raise UserError(
                    f"'{saved.path}': the masks of the {name} do not fit its layers of "
                    f"{saved.policy.description['hidden']} units; "
                    "the files are damaged or of another version."
                )
    return layers, masks


def origin(saved: Saved) -> list[str]:
    """Where a policy came from: recipe, seed, score, commit."""
    described, record = saved.policy.description, saved.record
    sizes_text = " x ".join(str(width) for width in described["hidden"])
    kind = f", {described['network']}" if "network" in described else ""
    kind += f", {described['policy']} policy" if "policy" in described else ""
    network = f"{described['agent']}{kind}, hidden layers {sizes_text}, on {described['env']}"
    if record is None:
        return [f"{saved.path}: {network}", "no record beside it: recipe, seed and score are not known"]
    result, came = record["result"], record["provenance"]
    critic = result["critic_sparsity"]
    knob = f"sparsity {result['sparsity']:g}" + (
        f" (critic {critic:g})" if critic != result["sparsity"] else ""
    )
    commit = (came["git_commit"] or "unknown")[:12] + (
        " with uncommitted changes" if came["git_dirty"] else ""
    )
    budget = result["budget"]
    if result["status"] == "ok":
        window = f"mean of the last {result['score_points']} of {budget['points']} curve points"
        scored = f"score {result['score']:.6g} ({window})"
        scored += f", final score {result['final_score']:.6g} ({budget['final_episodes']} episodes)"
    else:
        scored = "diverged: no score"
    start = came["config"]["training"].get("start")
    begun = (
        [] if start is None else [f"started from the {' and '.join(start['networks'])} of {start['source']}"]
    )
    return [
        f"{record['run_id']}: {network}",
        f"recipe {result['recipe']} (method {result['method']}), {knob}, seed {result['seed']}, "
        f"{budget['env_steps']:,} steps, suite {result['suite']}",
        *begun,
        scored,
        f"commit {commit}, jax {came['packages']['jax']}, {came['system']['device_kind']}, {came['created_utc']}",
    ]


def _ends(facts: NetworkFacts, actions: int) -> str:
    """In words: what is connected with what; `actions`: dimensions of an action."""
    name = facts.name.partition("[")[0]
    acts = name != "actor" or facts.outputs == actions
    start, end = ENDS.get(name if acts else "policy", ENDS["policy"])
    if not facts.connected:
        return f"no path leads from any {start} to any {end}: the {end}s are constant"
    return (
        f"{facts.inputs_used} of {facts.inputs} {start}s reach an {end}; "
        f"{facts.outputs_driven} of {facts.outputs} {end}s depend on an {start}"
    ).replace("an value", "a value")


def _layer_table(facts: list[NetworkFacts]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("layer", "shape", "live weights", "density", "dead units", "unfed", "unread"):
        table.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)

    def share(live: int, size: int) -> tuple[str, str]:
        return f"{live:,} of {size:,}", f"{100 * live / size:.1f} %"

    for one in facts:
        live, size = (sum(getattr(layer, key) for layer in one.layers) for key in ("live", "size"))
        table.add_row(one.name, "", *share(live, size), style="bold")
        for layer in one.layers:
            shape = " x ".join(str(side) for side in layer.shape)
            units = (
                ()
                if layer.dead is None
                else (f"{layer.dead} of {layer.shape[-1]}", layer.unfed, layer.unread)
            )
            cells = (f"  {layer.name}", shape, *share(layer.live, layer.size), *(str(unit) for unit in units))
            table.add_row(*cells, end_section=layer is one.layers[-1])
    return table


def _storage_table(kept: dict[str, int], full: dict[str, int]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("form", "bytes", "of dense", "what is stored"):
        table.add_column(column, justify="right" if column in ("bytes", "of dense") else "left", no_wrap=True)
    for form, meaning in FORMS.items():
        table.add_row(form, f"{kept[form]:,}", f"{100 * kept[form] / full['dense']:.1f} %", meaning)
    return table


def show(saved: Saved, console: Console) -> None:
    """Print everything above."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    layers, masks = tables(saved)
    first, *rest = origin(saved)
    say(first, "bold")
    for line in rest:
        say(line)
    if saved.changed:
        say("policy.npz was changed after it was recorded (sha256 differs)", "yellow")
    facts = [copy for name in layers for copy in network(name, layers[name], masks[name])]
    console.print(_layer_table(facts))
    say("dead units: unfed (no path from an input) or unread (no path to an output) or both", "dim")
    for one in facts:
        words = _ends(one, saved.policy.description["action_dim"])
        say(f"{one.name}: {words}", "" if one.connected else "yellow")
    table = narrow(layers["actor"], masks["actor"])
    if table != layers["actor"]:
        widths = " x ".join(str(layer.units_out) for layer in table.hidden)
        say(
            f"the actor is narrow: hidden layers {widths} inside wider tensors; its bytes are those of the narrow one"
        )
    kept, full = storage(layers["actor"], masks["actor"])
    say("")
    say(
        f"the actor has {kept['params']:,} parameters (dense: {full['params']:,}); with 32-bit values it takes",
        "bold",
    )
    console.print(_storage_table(kept, full))
    say(
        f"biases are included; the file {saved.path.name} has {saved.path.stat().st_size:,} bytes, uncompressed",
        "dim",
    )
