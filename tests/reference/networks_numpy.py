"""The networks beyond the MLP re-stated in NumPy, float64, one loop per sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Layers = Mapping[str, Mapping[str, np.ndarray]]


def _dense(layer: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return x @ layer["kernel"].astype(np.float64) + layer["bias"]


def convolution(image: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[H, W, C] under a kernel [h, w, C, O] at stride 1 without padding: [H - h + 1, W - w + 1, O]."""
    high, wide = image.shape[0] - kernel.shape[0] + 1, image.shape[1] - kernel.shape[1] + 1
    out = np.zeros((high, wide, kernel.shape[3]))
    for y in range(high):
        for x in range(wide):
            for o in range(kernel.shape[3]):
                window = image[y : y + kernel.shape[0], x : x + kernel.shape[1]]
                out[y, x, o] = (window * kernel[..., o].astype(np.float64)).sum() + bias[o]
    return out


def cnn(params: Layers, obs: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    """Outputs [batch, out] for flat images [batch, H * W * C]."""
    found = []
    for flat in obs:
        x = np.maximum(convolution(flat.reshape(image), **params["conv"]), 0).reshape(-1)
        first = params["hidden_0"]
        x = np.maximum(x @ first["kernel"].reshape(x.size, -1).astype(np.float64) + first["bias"], 0)
        for name in sorted(set(params) - {"conv", "hidden_0", "output"}):
            x = np.maximum(_dense(params[name], x), 0)
        found.append(_dense(params["output"], x))
    return np.array(found)


def layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Over the last axis, with flax's epsilon."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * scale + bias


def simba(params: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """Outputs [batch, out] for inputs [batch, in]."""
    x = _dense(params["embed"], np.asarray(x, np.float64))
    for block in range(sum(name.startswith("hidden_") for name in params)):
        inner = _dense(params[f"hidden_{block}"], layer_norm(x, **params[f"norm_{block}"]))
        x = x + _dense(params[f"merge_{block}"], np.maximum(inner, 0))
    return _dense(params["output"], layer_norm(x, **params["norm"]))
