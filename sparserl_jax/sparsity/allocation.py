"""Allocation: how many weights each tensor keeps at a given overall sparsity.

Counts are Python integers made on the host in float64, so that every run, device and batch of members agrees
on them. The number of zeros of a tensor is the truncated `int(S_l * n_l)`, as in the released RLx2 code; the
realised sparsity is therefore at most one weight per tensor below the requested one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable

Odds = Callable[[Layer], float]


def _er_odds(layer: Layer) -> float:
    """Erdos-Renyi density of a layer up to the common factor: (in + out) / (in * out), of channels where it is applied
    at many places."""
    inputs = layer.units_in if layer.kind == "conv" else layer.fan_in
    return (inputs + layer.units_out) / (inputs * layer.units_out)


def _erk_odds(layer: Layer) -> float:
    """Erdos-Renyi-kernel density up to the common factor (Evci et al. 2020): sum / product of a kernel's dimensions."""
    return sum(layer.shape) / layer.size if layer.kind == "conv" else _er_odds(layer)


def _solve(layers: LayerTable, sparsity: float, odds: Odds) -> list[float]:
    """Sparsity of every tensor: `1 - eps * odds`, and 0 for tensors that this would make denser than dense.

    `eps` is chosen so that the live weights of all tensors together are (1 - sparsity) of all weights; the
    densest tensors are made dense one group at a time until no density passes 1 (Evci et al. 2020; RLx2
    `sparse_set`).
    """
    tensors = [layer for layer, _ in layers.tensors]
    raw = [odds(layer) for layer in tensors]
    dense: set[int] = set()
    eps = 0.0
    while len(dense) < len(tensors):
        budget = divisor = 0.0
        for index, layer in enumerate(tensors):
            if index in dense:
                budget -= layer.size * sparsity
            else:
                budget += layer.size * (1 - sparsity)
                divisor += raw[index] * layer.size
        eps = budget / divisor
        largest = max(raw[index] for index in range(len(tensors)) if index not in dense)
        if eps * largest <= 1:
            break
        dense |= {index for index in range(len(tensors)) if raw[index] == largest}
    return [0.0 if index in dense else 1 - eps * raw[index] for index in range(len(tensors))]


def _uniform(layers: LayerTable, sparsity: float) -> list[float]:
    return [float(sparsity)] * len(layers.tensors)


def _er(layers: LayerTable, sparsity: float) -> list[float]:
    return _solve(layers, sparsity, _er_odds)


def _erk(layers: LayerTable, sparsity: float) -> list[float]:
    return _solve(layers, sparsity, _erk_odds)


Rule = Callable[[LayerTable, float], list[float]]


def _starved(layers: LayerTable, shares: list[float], minimum: int) -> list[int]:
    """Tensors whose share of the budget, in weights, is below what they need."""
    sizes = [layer.size for layer, _ in layers.tensors]
    # The tolerance covers rounding: a share meant to be exactly `minimum` is enough.
    return [i for i, s in enumerate(shares) if (1 - s) * sizes[i] < min(minimum, sizes[i]) - 1e-6]


def _reachable(layers: LayerTable, rule: Rule, minimum: int) -> float:
    """Largest sparsity, rounded down to six digits, at which every tensor gets its minimum."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        starved = _starved(layers, rule(layers, middle), minimum)
        low, high = (low, middle) if starved else (middle, high)
    return math.floor(low * 1e6) / 1e6


def _counts(layers: LayerTable, sparsity: float, rule: Rule, minimum: int) -> list[int]:
    if not 0 <= sparsity <= 1:
        raise UserError(
            f"sparsity is {sparsity}: give the share of weights removed, a number from 0 to below 1."
        )
    shares = rule(layers, sparsity)
    starved = _starved(layers, shares, minimum)
    if starved:
        name = layers.describe(*layers.tensors[starved[0]])
        raise UserError(
            f"sparsity {sparsity} leaves tensor {name} fewer than {minimum} weight(s): "
            f"use at most {_reachable(layers, rule, minimum):.6f} for this network, or a wider one."
        )
    return [layer.size - int(s * layer.size) for (layer, _), s in zip(layers.tensors, shares, strict=True)]


def uniform(layers: LayerTable, sparsity: float, minimum: int = 1) -> list[int]:
    """Live weights per tensor when every tensor, the output layer included, has the same sparsity.

    Arguments, order, and errors as in `er`.
    """
    return _counts(layers, sparsity, _uniform, minimum)


def er(layers: LayerTable, sparsity: float, minimum: int = 1) -> list[int]:
    """Live weights per tensor by Erdos-Renyi densities, proportional to (in + out) / (in * out).

    Args:
        layers: tensors of one network; the copies of a stacked critic are solved jointly and come out equal.
        sparsity: share of all maskable weights removed, in [0, 1).
        minimum: weights that every tensor must keep.

    Returns:
        One integer per tensor, in the order of `layers.tensors`; the output layer takes part like any other.

    Raises:
        UserError: the sparsity is out of range or a tensor's share is below its minimum.
    """
    return _counts(layers, sparsity, _er, minimum)


def erk(layers: LayerTable, sparsity: float, minimum: int = 1) -> list[int]:
    """As `er`, but densities of convolutions also count the kernel's height and width: in and out of a convolution are
    then not all that its size depends on. Without convolutions they are the same."""
    return _counts(layers, sparsity, _erk, minimum)


def er_within(
    layers: LayerTable,
    sparsity: float,
    sparse: Callable[[Layer], bool],
    weight: Callable[[Layer], float] = lambda layer: 1.0,
    minimum: int = 1,
) -> list[int]:
    """As `er`, but only the layers of which `sparse` is true give weights away, for the others, too.

    Their densities are proportional to `weight(layer)` times the sum over the product of the kernel's sides, (in + out)
    / (in * out) of a dense layer, as `erk` has them; all other layers are dense.

    Raises:
        UserError: there is no such layer, or they cannot give so many away.
    """
    if not any(sparse(layer) for layer in layers.maskable):
        raise UserError(
            "no layer of this network may be sparse; give it a hidden layer, or choose another method."
        )

    def rule(layers: LayerTable, sparsity: float) -> list[float]:
        part = LayerTable(layer for layer in layers.maskable if sparse(layer))
        size = sum(layer.size for layer, _ in part.tensors)
        # Of layers that are asked for more than they have, `_solve` makes shares above 1: fewer than no weights.
        share = sparsity * sum(layer.size for layer, _ in layers.tensors) / size
        shares = iter(_solve(part, share, lambda layer: weight(layer) * _erk_odds(layer)))
        return [next(shares) if sparse(layer) else 0.0 for layer, _ in layers.tensors]

    return _counts(layers, sparsity, rule, minimum)


def narrowed(layers: LayerTable, width: int) -> dict[str, int]:
    """Units of every hidden group, by name, of the narrow network of this width: so many, or all that there are; of the
    channels of a convolution the share that this is of the widest dense group, rounded up."""
    widest = max(layer.units_out for layer in layers.hidden if layer.kind == "dense")

    def units(layer: Layer) -> int:
        share = -(-width * layer.units_out // widest)
        return min(share if layer.kind == "conv" else width, layer.units_out)

    return {layer.outputs: units(layer) for layer in layers.hidden}


def tiny_width(layers: LayerTable, nnz: int) -> int:
    """Smallest width, the same in every hidden group (see `narrowed`), at which the dense network has at least `nnz`
    weights.

    With two hidden layers of h units an actor has obs*h + h*h + h*act weights and each Q of a critic
    (obs + act)*h + h*h + h; biases are not counted, stacked copies are.

    Args:
        layers: the wide network; its number of layers, ends, copies and kernel windows are kept.
        nnz: weights of the sparse arm over all maskable tensors, e.g. `sum(er(layers, sparsity))`.

    Raises:
        UserError: `nnz` is below 1, or the network has no hidden units to narrow, or not enough of them.
    """
    if nnz < 1:
        raise UserError(f"a tiny network of {nnz} weights was asked for: give at least 1.")
    if not any(layer.kind == "dense" for layer in layers.hidden):
        raise UserError(
            "a network without hidden dense layers has no tiny counterpart: give it at least one hidden layer."
        )

    def weights(width: int) -> int:
        total, units = 0, narrowed(layers, width)
        for layer in layers.maskable:
            units_in = units.get(layer.inputs, layer.units_in)
            units_out = units.get(layer.outputs, layer.units_out)
            total += layer.copies * layer.window * units_in * units_out
        return total

    # What is in no block of a residual network cannot be narrowed; its narrowest may be larger than what was asked for.
    if len(layers.hidden) < sum(not layer.output for layer in layers) and weights(1) > nnz:
        raise UserError(
            f"a tiny network of {nnz:,} weights was asked for, and {weights(1):,} is the fewest that one with this "
            "residual stream has: choose a smaller sparsity, or a narrower stream."
        )
    width, widest = 1, max(layer.units_out for layer in layers.hidden)
    while weights(width) < nnz and width < widest:
        width += 1
    return width
