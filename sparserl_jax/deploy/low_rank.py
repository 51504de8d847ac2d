"""Low rank: weight matrices stored as products of thin ones.

A kernel is read as W [m, n], m weights per output unit and n output units (a convolution's [height, width, in, n] with
the first three axes merged). Of its singular value decomposition W = U diag(s) V^T the r largest values are kept; no
matrix of rank r is nearer to W, and what is lost is |W - W_r|_F^2 = sum of the other s_i^2 (Eckart and Young 1936).

    three   left U_r [m, r], scale s_r [1, r], right V_r^T [r, n]        r (m + n + 1) weights
    two     left U_r sqrt(s_r) [m, r], right sqrt(s_r) V_r^T [r, n]      r (m + n)
    plain   kernel W, where factors would not be smaller                 m n

In the parameters a decomposed layer holds `left`, `right` (and `scale`) in place of `kernel`; `acting` makes networks
compute with them, one thin product after the other. Compression is the share of weights saved, biases excluded. Factors
are dense: what a mask saves is another saving, of another form, and the two are never multiplied.

The decomposition of sparse policies is the idea of Goddla 2024 (arXiv 2403.06313); how ranks were chosen there is not
known to us, so the rules here are our own.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable, leaf, with_leaf
from sparserl_jax.networks.cnn import Windows, windows

FORM = "factors"
"""What a policy with factors among its parameters is called in its description."""
NEGLIGIBLE = 1e-3
"""Singular values at most this share of the largest do not count for the numerical rank."""
STEPS = 20
"""Rank fractions that a sweep tries: 1/20, 2/20, ... of a layer's full rank."""

Params = Mapping[str, Any]


def full_rank(layer: Layer) -> int:
    """The largest rank a layer's matrix can have."""
    return min(layer.fan_in, layer.units_out)


def stored_weights(layer: Layer, rank: int, factors: int) -> int:
    """Weights of a layer as `factors` (2 or 3) factors of one rank."""
    return rank * (layer.fan_in + layer.units_out + (factors == 3))


def is_smaller(layer: Layer, rank: int, factors: int) -> bool:
    """Whether factors of this rank have fewer weights than the plain matrix."""
    return stored_weights(layer, rank, factors) < layer.size


def matrices(layers: LayerTable, params: Params, masks: Params) -> list[np.ndarray]:
    """The live weights of every layer as a matrix, f64[m, n], zero outside the masks.

    Raises:
        UserError: weights that are not finite, or a layer with several copies.
    """
    found = []
    for layer in layers:
        if layer.stack:
            raise UserError(
                f"layer {layer.name} is a stack of {layer.copies} tensors; decompose a network without copies."
            )
        kernel = np.where(leaf(masks, layer.kernel), np.asarray(leaf(params, layer.kernel), np.float64), 0.0)
        if not np.isfinite(kernel).all():
            raise UserError(
                f"the weights of layer {layer.name} are not finite; decompose a policy that did not diverge."
            )
        found.append(kernel.reshape(layer.fan_in, layer.units_out))
    return found


def singular_values(layers: LayerTable, params: Params, masks: Params) -> list[np.ndarray]:
    """Singular values of every layer, f64[full rank], largest first."""
    return [np.linalg.svd(matrix, compute_uv=False) for matrix in matrices(layers, params, masks)]


# --- Ranks ---------------------------------------------------------------------------------------------------------


def rank_of_energy(values: np.ndarray, share: float) -> int:
    """Smallest r whose values hold `share` of the sum of all squares; 0 for a matrix of zeros."""
    energy = np.cumsum(np.square(values))
    return int(np.searchsorted(energy, share * energy[-1])) + 1 if energy[-1] > 0 else 0


def numerical_rank(values: np.ndarray, negligible: float = NEGLIGIBLE) -> int:
    """How many values exceed `negligible` times the largest."""
    return int(np.count_nonzero(values > negligible * values[0]))


def ranks_of_fraction(layers: LayerTable, fraction: float) -> tuple[int, ...]:
    """The same fraction of every layer's full rank, rounded up, at least 1."""
    # The guard keeps a fraction's rounding noise (0.15 * 20 is more than 3) from costing one more.
    return tuple(max(1, int(np.ceil(fraction * full_rank(layer) - 1e-9))) for layer in layers)


def sweep(layers: LayerTable, factors: int) -> list[tuple[int, ...]]:
    """Choices of ranks by a common fraction, fewest weights first, of those that store the same only one.

    Each of `STEPS` fractions is tried on all layers, and on the inner ones with the first and last kept whole: of a few
    observations or actions, a fraction of the rank is whole observations or actions lost. The last choice stores every
    layer plain.
    """
    whole = {layer.name for layer in layers if layer.output or layer in layers.first}
    found: dict[tuple[int | None, ...], tuple[int, ...]] = {}
    for step in range(1, STEPS + 1):
        every = ranks_of_fraction(layers, step / STEPS)
        pairs = list(zip(layers, every, strict=True))
        inner = tuple(full_rank(layer) if layer.name in whole else rank for layer, rank in pairs)
        for ranks in (every, inner):
            pairs = list(zip(layers, ranks, strict=True))
            stored = tuple(rank if is_smaller(layer, rank, factors) else None for layer, rank in pairs)
            found.setdefault(stored, ranks)
    return sorted(found.values(), key=lambda ranks: stored_layers(layers, ranks, factors).weights)


def check_ranks(layers: LayerTable, ranks: Sequence[int], least: int = 0) -> None:
    """Refuse ranks that no matrix of these layers has, or below `least`; raises `UserError`.

    Rank 0 comes out of rules for a matrix of zeros; asked for, it would throw a layer away, so `least` is 1 there.
    """
    if len(ranks) != len(layers):
        names = ", ".join(layer.name for layer in layers)
        raise UserError(
            f"{len(ranks)} ranks were given for {len(layers)} layers ({names}): give one per layer."
        )
    for layer, rank in zip(layers, ranks, strict=True):
        if not least <= rank <= full_rank(layer):
            raise UserError(
                f"rank {rank} of layer {layers.describe(layer, 0)} is not between {least} and its full rank "
                f"{full_rank(layer)}; give one that is."
            )


class Rule(NamedTuple):
    """How ranks are chosen: `energy`, `numerical`, `fraction`, `z` or `rank`, and its number or numbers."""

    name: str
    value: float = 0.0
    ranks: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.name == "numerical":
            return self.name
        return f"{self.name}=" + (",".join(map(str, self.ranks)) if self.ranks else f"{self.value:g}")


RULES = "energy=0.99, numerical, fraction=0.25, z=0.05, rank=3,16,1 (one per layer)"
"""The rules as they are written."""
_WITHIN: dict[str, Callable[[float], bool]] = {
    "energy": lambda share: 0.0 < share <= 1.0,
    "fraction": lambda share: 0.0 < share <= 1.0,
    "z": lambda loss: 0.0 <= loss < float("inf"),
}


def rule(text: str) -> Rule:
    """The rule written as `text`; see `RULES`.

    Raises:
        UserError: there is no such rule, or a number is out of range.
    """
    name, equals, rest = text.strip().partition("=")
    try:
        if name == "numerical" and not equals:
            return Rule(name)
        if name == "rank":
            return Rule(name, ranks=tuple(int(part) for part in rest.split(",")))
        if name in _WITHIN and _WITHIN[name](float(rest)):
            return Rule(name, float(rest))
    except ValueError:
        pass
    raise UserError(
        f"'{text}' is no rule for ranks: write one of {RULES}; energy and fraction are in (0, 1], z is the loss that "
        "is accepted, at least 0."
    )


def choose(chosen: Rule, layers: LayerTable, values: Sequence[np.ndarray]) -> tuple[int, ...]:
    """A rank per layer from its singular values; for rules that need no episodes, all but `z`.

    Raises:
        UserError: ranks that do not fit the layers.
    """
    if chosen.name == "energy":
        return tuple(rank_of_energy(each, chosen.value) for each in values)
    if chosen.name == "numerical":
        return tuple(numerical_rank(each) for each in values)
    if chosen.name == "fraction":
        return ranks_of_fraction(layers, chosen.value)
    if chosen.name != "rank":
        raise ValueError(f"the rule {chosen.name} needs episodes")
    check_ranks(layers, chosen.ranks, least=1)
    return chosen.ranks


# --- Decomposition -------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """How one layer is stored.

    rank: that was chosen. factored: as factors; False: plain, because factors of this rank would not be smaller.
    weights: that are stored. error: |W - W_r|_F / |W|_F of what is stored, 0 where plain.
    """

    layer: Layer
    rank: int
    factored: bool
    weights: int
    error: float


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """A network with factors in place of kernels, and masks of the same structure (factors have no zeros to skip)."""

    factors: int
    params: dict[str, Any]
    masks: dict[str, Any]
    parts: tuple[Part, ...]
    error: float
    """|W - W_r|_F / |W|_F of all layers together."""

    @property
    def compression(self) -> float:
        """Share of the weights saved."""
        return 1 - sum(part.weights for part in self.parts) / sum(part.layer.size for part in self.parts)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank chosen for every layer, also where it is stored plain."""
        return tuple(part.rank for part in self.parts)


def factorise(layer: Layer, matrix: np.ndarray, rank: int, factors: int) -> dict[str, np.ndarray]:
    """The nearest matrix of a rank as factors f32: `left` in the shape of the kernel with `rank` outputs, `right` in
    that of a layer (a 1 x 1 convolution) from `rank` to all outputs, and for three `scale`."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    if factors == 2:
        root = np.sqrt(values)
        left, right = left * root, root[:, None] * right
    one = (1,) * (len(layer.shape) - 2)
    found = {
        "left": left.reshape(*layer.shape[:-1], rank),
        "right": right.reshape(*one, rank, layer.units_out),
    }
    if factors == 3:
        found["scale"] = values.reshape(*one, 1, rank)
    return {name: value.astype(np.float32) for name, value in found.items()}


def decompose(
    layers: LayerTable, params: Params, masks: Params, ranks: Sequence[int], factors: int = 3
) -> Decomposition:
    """Store every layer as `factors` factors of its rank, or plain where that is not larger.

    Args:
        layers: the network, without stacks.
        params, masks: its weights and their masks, which mirror each other.
        ranks: one per layer, at most its full rank.
        factors: 2 or 3.

    Raises:
        UserError: ranks that do not fit, or weights that are not finite.
    """
    check_ranks(layers, ranks)
    new_params, new_masks = dict(params), dict(masks)
    parts, lost, energy = [], 0.0, 0.0
    for layer, rank, matrix in zip(layers, ranks, matrices(layers, params, masks), strict=True):
        size = float(np.sum(np.square(matrix)))
        energy += size
        if not is_smaller(layer, rank, factors):
            parts.append(Part(layer, rank, False, layer.size, 0.0))
            continue
        found = factorise(layer, matrix, rank, factors)
        dropped = float(np.sum(np.square(matrix - _product(found).reshape(matrix.shape))))
        lost += dropped
        error = np.sqrt(dropped / size) if size > 0 else 0.0
        parts.append(Part(layer, rank, True, stored_weights(layer, rank, factors), float(error)))
        place = layer.kernel[:-1]
        new_params = _replaced(new_params, place, found)
        new_masks = _replaced(new_masks, place, {name: np.ones(x.shape, bool) for name, x in found.items()})
    error = float(np.sqrt(lost / energy)) if energy > 0 else 0.0
    return Decomposition(factors, new_params, new_masks, tuple(parts), error)


def _replaced(tree: Params, place: tuple[str, ...], found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A copy of the tree with factors in place of the kernel at `place`."""
    node = leaf(tree, place)
    return with_leaf(tree, place, {**{k: v for k, v in node.items() if k != "kernel"}, **found})


def _product(found: Params) -> np.ndarray:
    """The kernel that factors stand for, f64."""
    left, right = (np.asarray(found[name], np.float64) for name in ("left", "right"))
    scale = np.asarray(found.get("scale", 1.0), np.float64).reshape(-1)
    return (left * scale) @ right.reshape(right.shape[-2:])


def multiplied_out(params: Params) -> dict[str, Any]:
    """The same parameters with plain kernels f32: the network the factors stand for, in its usual shapes."""
    if "left" in params:
        rest = {name: value for name, value in params.items() if name not in ("left", "scale", "right")}
        return {"kernel": _product(params).astype(np.float32), **rest}
    return {
        name: multiplied_out(value) if isinstance(value, Mapping) else value for name, value in params.items()
    }


def stored_layers(layers: LayerTable, ranks: Sequence[int], factors: int = 3) -> LayerTable:
    """LayerTable of what `decompose` stores: two or three layers for a factored one. Accounting counts it like any
    network; `scale` is a tensor [1, r], by convention a multiplication and an addition for every rank."""
    check_ranks(layers, ranks)
    found: list[Layer] = []
    for layer, rank in zip(layers, ranks, strict=True):
        if not is_smaller(layer, rank, factors):
            found.append(layer)
            continue
        one, middle = (1,) * (len(layer.shape) - 2), f"{layer.name}.rank"
        shapes = {"left": (*layer.shape[:-1], rank), "scale": (*one, 1, rank)}
        shapes["right"] = (*one, rank, layer.units_out)
        for name in ("left", "scale", "right") if factors == 3 else ("left", "right"):
            last = name == "right"
            found.append(
                dataclasses.replace(
                    layer,
                    name=f"{layer.name}.{name}",
                    kernel=(*layer.kernel[:-1], name),
                    bias=layer.bias if last else None,
                    shape=shapes[name],
                    norm=layer.norm if name == "left" else None,
                    inputs=layer.inputs if name == "left" else middle,
                    outputs=layer.outputs if last else middle,
                    output=layer.output and last,
                )
            )
    return LayerTable(found)


# --- Acting --------------------------------------------------------------------------------------------------------


def _factored(call: Callable[..., Any], arguments: Any, options: Any, context: Any) -> Any:
    """A layer whose parameters are factors: its own kind of layer with `left`, then the scale, then `right`."""
    module = context.module
    if context.method_name != "__call__" or not module.has_variable("params", "left"):
        return call(*arguments, **options)
    held = {name: module.get_variable("params", name) for name in module.variables["params"]}
    left, right = held["left"], held["right"]
    rank = left.shape[-1]
    if isinstance(module, Windows):
        (image,) = arguments
        x = windows(image, module.window) @ left.reshape(-1, rank)
    else:
        thin = module.clone(
            parent=None, name=None, features=rank, use_bias=False, kernel_init=nn.initializers.zeros
        )
        x = thin.apply({"params": {"kernel": left}}, *arguments)
    if "scale" in held:
        x = x * held["scale"].reshape(rank)
    x = x @ right.reshape(right.shape[-2:])
    return x + held["bias"] if "bias" in held else x


@contextlib.contextmanager
def acting() -> Iterator[None]:
    """Inside, Linen's layers that find factors among their parameters compute with them."""
    with nn.intercept_methods(_factored):
        yield
