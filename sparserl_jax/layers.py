"""LayerTable: what a network's tensors are, said once.

Allocation, sparsifiers, accounting and export take a `LayerTable` as an argument and never guess from parameter names.
A table is static: it is made from shapes, before anything is compiled.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

Path = tuple[str, ...]
"""Keys from the root of a parameter dictionary to a leaf, e.g. `("hidden_0", "kernel")`."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """One weight tensor of a network, with its place in the parameter dictionary and in the graph of unit groups.

    `shape` is that of one copy: `(in, out)` for dense layers, `(height, width, in, out)` for convolutions, and for
    dense layers that read a whole image of so many channels. `stack` holds the axes in front of it in the parameters:
    `(2,)` in a twin critic, `()` otherwise; every copy counts as a tensor of its own. `law` is that of the initial
    weights: `fan_in_uniform` (any that scales with 1/sqrt(fan_in)), `orthogonal` (as a matrix [fan_in, out]; zero
    bias) or `xavier_uniform` (scales with 1/sqrt(fan_in + fan_out); zero bias).

    `inputs`, `outputs`: unit groups that it reads and writes; a group that several layers write is a residual stream.
    `positions`: places of an image that a convolution is applied at, None where nobody has said. `norm`: where scale
    and bias of a layer normalisation of what it reads lie, one of each per unit; they are never masked.
    """

    name: str
    kernel: Path
    bias: Path | None
    kind: str
    shape: tuple[int, ...]
    stack: tuple[int, ...] = ()
    inputs: str = ""
    outputs: str = ""
    output: bool = False
    maskable: bool = True
    law: str = "fan_in_uniform"
    positions: int | None = None
    norm: Path | None = None

    @property
    def size(self) -> int:
        """Weights of one copy."""
        return math.prod(self.shape)

    @property
    def copies(self) -> int:
        """Number of stacked copies."""
        return math.prod(self.stack)

    @property
    def units_in(self) -> int:
        """Units (dense) or channels (of an image) read by the layer."""
        return self.shape[-2]

    @property
    def units_out(self) -> int:
        """Units (dense) or channels (conv) written by the layer."""
        return self.shape[-1]

    @property
    def window(self) -> int:
        """Places of an image that one output unit reads; 1 for dense layers of units."""
        return math.prod(self.shape[:-2])

    @property
    def fan_in(self) -> int:
        """Weights that feed one output unit."""
        return math.prod(self.shape[:-1])


class LayerTable(tuple[Layer, ...]):
    """The layers of one network, in the order of the forward pass."""

    __slots__ = ()

    @property
    def maskable(self) -> LayerTable:
        """The layers whose weights may be masked."""
        return LayerTable(layer for layer in self if layer.maskable)

    @property
    def first(self) -> LayerTable:
        """The layers that read what the network is given: a unit group that no hidden layer writes."""
        written = {layer.outputs for layer in self if not layer.output}
        return LayerTable(layer for layer in self if layer.inputs not in written)

    @property
    def hidden(self) -> LayerTable:
        """The layers that alone write a group of hidden units, which are theirs to remove. Not among them: what writes
        the output, and what adds to a residual stream, whose units are no single layer's."""
        writers = collections.Counter(layer.outputs for layer in self)
        return LayerTable(layer for layer in self if not layer.output and writers[layer.outputs] == 1)

    @property
    def tensors(self) -> list[tuple[Layer, int]]:
        """Every maskable tensor as (layer, index of the copy): layer by layer, then copy by copy."""
        return [(layer, copy) for layer in self if layer.maskable for copy in range(layer.copies)]

    @property
    def weights(self) -> int:
        """Weights (no biases) of all copies of all layers."""
        return sum(layer.size * layer.copies for layer in self)

    @property
    def biases(self) -> int:
        """Values of all copies of all layers that are no weights: biases, and scales and biases of normalisations."""
        biases = sum(layer.units_out * layer.copies for layer in self if layer.bias is not None)
        return biases + sum(2 * layer.units_in * layer.copies for layer in self if layer.norm is not None)

    @property
    def shapes(self) -> dict[Path, tuple[int, ...]]:
        """Shape of every parameter of the network by its path, with all copies."""
        found = {}
        for layer in self:
            found[layer.kernel] = layer.stack + layer.shape
            if layer.bias is not None:
                found[layer.bias] = (*layer.stack, layer.units_out)
            if layer.norm is not None:
                for part in ("scale", "bias"):
                    found[(*layer.norm, part)] = (*layer.stack, layer.units_in)
        return found

    def describe(self, layer: Layer, copy: int) -> str:
        """Name of one tensor for messages, e.g. `hidden_0[1] (23, 256)`."""
        index = f"[{copy}]" if layer.stack else ""
        return f"{layer.name}{index} {layer.shape}"


def leaf(tree: Mapping[str, Any], path: Path) -> Any:
    """The leaf of a nested dictionary at `path`."""
    for key in path:
        tree = tree[key]
    return tree


def with_leaf(tree: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy of a nested dictionary with the leaf at `path` replaced by `value`."""
    key, rest = path[0], path[1:]
    return {**tree, key: with_leaf(tree[key], rest, value) if rest else value}


def _is_layer(node: Any) -> bool:
    return isinstance(node, Mapping) and "kernel" in node


def derive(
    init: Callable[..., Mapping[str, Any]],
    *example: Any,
) -> LayerTable:
    """LayerTable of a feed-forward network, read off the shapes its initialiser would produce.

    Modules lifted by `nn.vmap` or `nn.scan` return their parameters sorted by name; derive from the module inside and
    set `stack` on its layers.

    Args:
        init: `init(key, *example) -> params`; only traced (`jax.eval_shape`), never run.
        example: example inputs of `init` after the key.

    Returns:
        One `Layer` per sub-dictionary that holds a `kernel`, in the order in which the module made them (the order of
        the forward pass), chained: each layer reads the unit group the one before it writes; the first reads `input`,
        the last is the output layer.
    """
    found: list[tuple[Path, Mapping[str, Any]]] = []

    def walk(node: Any, path: Path) -> None:
        if _is_layer(node):
            found.append((path, {name: jax.typeof(value) for name, value in node.items()}))
        elif isinstance(node, Mapping):
            for key in node:
                walk(node[key], (*path, key))

    def trace(key: jax.Array, *inputs: Any) -> None:
        # Walked while tracing: leaving eval_shape would sort the dictionary keys and lose the order of the layers.
        walk(init(key, *inputs), ())

    # The key is made inside: made outside it would be computed, and compiled for.
    jax.eval_shape(lambda *inputs: trace(jax.random.key(0), *inputs), *example)
    layers = []
    for index, (path, node) in enumerate(found):
        kernel = node["kernel"]
        shape = tuple(kernel.shape)
        last = index == len(found) - 1
        layers.append(
            Layer(
                name=path[-1],
                kernel=(*path, "kernel"),
                bias=(*path, "bias") if "bias" in node else None,
                kind="dense" if len(shape) == 2 else "conv",
                shape=shape,
                inputs="input" if index == 0 else found[index - 1][0][-1],
                outputs=path[-1],
                output=last,
            )
        )
    return LayerTable(layers)
