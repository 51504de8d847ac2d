"""SimBa (Lee et al. 2024): residual blocks with layer normalisation, that grow without harm.

    x_0     = W x + b
    x_l+1   = x_l + merge_l(ReLU(hidden_l(LayerNorm(x_l))))       hidden_l: d -> 4 d,   merge_l: 4 d -> d
    output  = head(LayerNorm(x_L))

One block per entry of `hidden`, whose widths d are all the same: it is that of the stream they share. The authors have
one block of 128 in actors and two of 512 in critics, a law of initial weights per layer (orthogonal and He's) and
observations normalised by running moments; here actor and critic have equal sizes, weights follow the law of the
algorithm, and nothing normalises observations, as nothing does in this suite.

All weights may be masked, the normalisations never. The units that a method may remove are those of `hidden_l`, the 4 d
inside a block; a unit of the stream belongs to all layers at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax

from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable
from sparserl_jax.networks.laws import dense

EXPANSION = 4
STREAM = "stream"
"""Name of the unit group that all blocks read and add to."""


class SimBa(nn.Module):
    """Layers `embed, hidden_0, merge_0, ..., output`, normalisations `norm_0, ..., norm`; maps `[..., in]` to
    `[..., features_out]`. Activations inside the blocks are sown as in `MLP`."""

    hidden: Sequence[int]
    features_out: int
    law: str = "fan_in_uniform"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def normalised(x: jax.Array, name: str) -> jax.Array:
            return nn.LayerNorm(use_fast_variance=False, name=name)(x)

        x = dense(self.hidden[0], x.shape[-1], self.law, "embed")(x)
        for index, width in enumerate(self.hidden):
            inner = dense(EXPANSION * width, width, self.law, f"hidden_{index}")(
                normalised(x, f"norm_{index}")
            )
            inner = nn.relu(inner)
            self.sow("intermediates", f"hidden_{index}_units", inner)
            x = x + dense(width, EXPANSION * width, self.law, f"merge_{index}")(inner)
        return dense(self.features_out, x.shape[-1], self.law, "output")(normalised(x, "norm"))


def check(hidden: Sequence[int], where: str) -> None:
    """Refuse blocks of different widths; `where` names the setting."""
    if len(set(hidden)) != 1:
        raise UserError(
            f"{where} = {list(hidden)}: network 'simba' has one residual block per entry and all of one width; make "
            "them equal."
        )


def described(layers: LayerTable) -> LayerTable:
    """A derived table with the stream as what it is, and the normalisations in front of their layers."""

    def one(layer: Layer) -> Layer:
        *path, name, _ = layer.kernel
        if name == "embed":
            return dataclasses.replace(layer, outputs=STREAM)
        if name.startswith("merge_"):
            return dataclasses.replace(layer, outputs=STREAM)
        norm = "norm" if layer.output else f"norm_{name.rpartition('_')[2]}"
        return dataclasses.replace(layer, inputs=STREAM, norm=(*path, norm))

    return LayerTable(one(layer) for layer in layers)
