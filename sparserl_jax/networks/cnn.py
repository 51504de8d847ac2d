"""The network of MinAtar's agents (Young and Tian 2019): a small image, one convolution, dense layers.

    image [h, w, c] -> 16 windows of 3 x 3, stride 1, no padding -> ReLU -> dense layers with ReLU (128) -> head

The first dense layer reads all places of all channels. Its kernel is kept as [h, w, channels, units], so that the
inputs that belong to one channel are found where the channel is, by masks as by methods that remove it; its budget and
its cost are those of the matrix [h w channels, units] that it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable
from sparserl_jax.networks.laws import LAWS, dense

CHANNELS = 16
WINDOW = (3, 3)


def windows(image: jax.Array, window: tuple[int, int]) -> jax.Array:
    """Every window of images `[..., H, W, C]`, row by row in one vector: `[..., H - h + 1, W - w + 1, h * w * C]`."""
    rows, columns = window
    high, wide = image.shape[-3] - rows + 1, image.shape[-2] - columns + 1
    if (high, wide) == (1, 1):
        return image.reshape(*image.shape[:-3], 1, 1, -1)
    shifted = [image[..., i : i + high, j : j + wide, :] for i in range(rows) for j in range(columns)]
    return jnp.concatenate(shifted, axis=-1)


class Windows(nn.Module):
    """The same affine map of every window of an image `[..., H, W, C]`, to `[..., H - h + 1, W - w + 1, features]`:
    a convolution without padding, kernel `[h, w, C, features]`.

    Written as a product of matrices, which on CPUs takes as long as XLA's convolution when members have kernels of
    their own, and which a layer that reads the whole image is anyway.
    """

    features: int
    window: tuple[int, int]
    law: str

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        read = windows(image, self.window)
        fan_in = read.shape[-1]
        kernel_law, bias_law = LAWS[self.law](fan_in)

        def as_kernel(key: jax.Array, shape: Sequence[int]) -> jax.Array:
            return jnp.reshape(kernel_law(key, (fan_in, self.features), jnp.float32), shape)

        kernel = self.param("kernel", as_kernel, (*self.window, image.shape[-1], self.features))
        bias: Any = self.param("bias", bias_law, (self.features,))
        return read @ kernel.reshape(fan_in, self.features) + bias


class CNN(nn.Module):
    """Layers `conv, hidden_0 ... hidden_k, output` with ReLU between them; `law` is one of `laws.LAWS`.

    Maps flat images `[..., H * W * C]` to `[..., features_out]`; `image` is (H, W, C). Activations are sown as in
    `MLP`.
    """

    hidden: Sequence[int]
    features_out: int
    law: str = "fan_in_uniform"
    image: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(*x.shape[:-1], *self.image)
        x = nn.relu(Windows(CHANNELS, WINDOW, self.law, name="conv")(x))
        self.sow("intermediates", "conv_units", x)
        for index, width in enumerate(self.hidden):
            if index == 0:
                x = Windows(width, (x.shape[-3], x.shape[-2]), self.law, name="hidden_0")(x)[..., 0, 0, :]
            else:
                x = dense(width, x.shape[-1], self.law, f"hidden_{index}")(x)
            x = nn.relu(x)
            self.sow("intermediates", f"hidden_{index}_units", x)
        return dense(self.features_out, x.shape[-1], self.law, "output")(x)


def check(image: tuple[int, ...] | None, where: str) -> None:
    """Refuse what is no image, or too small for one window; `where` names what gives it."""
    if image is None:
        raise UserError(
            f"network 'cnn' reads images (height, width, channels), and the observations of {where} are none: choose "
            "'mlp' or 'simba', or give the shape as `image` in the environment's spec."
        )
    if any(side < own for side, own in zip(image, WINDOW, strict=False)):
        raise UserError(
            f"network 'cnn' has windows of {WINDOW[0]} x {WINDOW[1]}, and the images of {where} are "
            f"{image[0]} x {image[1]}: choose 'mlp' or 'simba'."
        )


def described(layers: LayerTable, image: tuple[int, ...]) -> LayerTable:
    """A derived table that says where the convolution is applied, and that what reads its whole output is dense."""
    conv, first, *rest = layers
    places = math.prod(side - own + 1 for side, own in zip(image, WINDOW, strict=False))
    conv = dataclasses.replace(conv, positions=places)
    return LayerTable((conv, dataclasses.replace(first, kind="dense"), *rest))
