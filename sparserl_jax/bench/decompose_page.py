"""What `sparserl decompose` prints: layers, returns before and after, and the bytes of every form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparserl_jax.bench.decompose import Outcome, Selection
from sparserl_jax.deploy import forms, low_rank

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def _tables(outcome: Outcome) -> tuple[Table, Table]:
    from rich import box
    from rich.table import Table

    found = outcome.decomposition
    layers, sizes = (Table(box=box.SIMPLE_HEAD, pad_edge=False) for _ in range(2))
    for column in ("layer", "shape", "rank", "of", "stored as", "weights", "of plain", "error"):
        layers.add_column(
            column, justify="left" if column in ("layer", "stored as") else "right", no_wrap=True
        )
    for layer, rank, factored, weights, error in found.parts:
        shape = (" x ".join(map(str, layer.shape)), str(rank), str(low_rank.full_rank(layer)))
        stored = forms.FACTORS[found.factors] if factored else "plain"
        layers.add_row(
            layer.name, *shape, stored, f"{weights:,}", f"{100 * weights / layer.size:.1f} %", f"{error:.4f}"
        )
    for column in ("form", "weights", "values", "indices", "biases", "bytes", "of dense", "FLOPs"):
        sizes.add_column(column, justify="left" if column == "form" else "right", no_wrap=True)
    dense = outcome.forms[0].blob.total
    for name, weights, blob, flops in outcome.forms:
        parts = (weights, blob.values, blob.indices + blob.pointers, blob.biases, blob.total)
        cells = (*(f"{part:,}" for part in parts), f"{100 * blob.total / dense:.1f} %", f"{flops:,}")
        sizes.add_row(name, *cells, end_section=name in ("dense", "raw_blob"))
    return layers, sizes


def lines(selection: Selection) -> list[str]:
    """How the rule z chose, in words."""
    ends, chosen = selection.ends, selection.chosen
    return [
        f"ranks chosen on {selection.episodes} selection episodes: of {len(selection.candidates)} choices the one of "
        f"fewest weights with z >= {selection.least:.3f}; undecomposed z {ends.z(selection.undecomposed):.3f} (return "
        f"{selection.undecomposed:.6g}), chosen z {chosen.z:.3f} (return {chosen.mean:.6g})",
        f"z is 0 at {ends.random:.6g} and 1 at {ends.reference:.6g}: {ends.source}",
    ]


def show(outcome: Outcome, console: Console) -> None:
    """Print layers, returns and forms."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    found = outcome.decomposition
    layers, sizes = _tables(outcome)
    say(f"{outcome.name}: rule {outcome.rule}, {forms.FACTORS[found.factors]}", "bold")
    if outcome.narrow:
        widths = " x ".join(map(str, outcome.policy.description["hidden"]))
        say(
            f"the actor is narrow: hidden layers {widths} inside wider tensors; all numbers are the narrow one's"
        )
    for line in [] if outcome.selection is None else lines(outcome.selection):
        say(line)
    console.print(layers)
    stored, plain = (sum(numbers) for numbers in zip(*((p.weights, p.layer.size) for p in found.parts)))
    say(
        f"compression {100 * found.compression:.1f} %: {stored:,} of {plain:,} weights, biases not counted; error "
        f"|W - W_r| / |W| of all layers {found.error:.4f}"
    )
    for part in found.parts:
        if not part.factored:
            would = low_rank.stored_weights(part.layer, part.rank, found.factors)
            say(
                f"{part.layer.name} stays plain: factors of rank {part.rank} would have {would:,} weights",
                "dim",
            )
    before, after = (returns.mean(dtype="float64") for returns in (outcome.before, outcome.after))
    say(
        f"return on {outcome.after.size} other episodes (those of `evaluate --seed {outcome.seed}`): undecomposed "
        f"{before:.6g}, decomposed {after:.6g}"
    )
    console.print(sizes)
    say(
        "a file is one of these forms: the savings of masks and of factors, which are dense, do not multiply; biases "
        "are included, FLOPs are those of one action that skips what is not stored",
        "dim",
    )
