"""A policy as one C file: constants and functions, C99, no heap, nothing but <math.h> (`tanhf`) and <stdint.h>.

For multi-layer perceptrons, whose layers are stored as `deploy.blob` has them: dense, by bitmask, or by rows (CSR).
Hidden layers end in ReLU; what the outputs become is the `Head`. Sums are taken in another order than JAX takes them,
so actions agree to rounding, not to the bit; weights that are not stored are not multiplied, so a NaN in an observation
reaches the units that read it alone.

    #define POLICY_OBSERVATIONS 11
    #define POLICY_ACTIONS 3
    void policy_act(const float *observation, float *action);    /* real actions, in the environment's units */
    int policy_choose(const float *observation);                 /* of discrete actions: the number of one */

Nothing is kept between calls; on the stack lie two vectors as long as the widest layer.

With -DPOLICY_MAIN it is a program that reads observations from its input and prints actions.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sparserl_jax.deploy.blob import Tensor
from sparserl_jax.layers import Layer, LayerTable

FORMATS = ("dense", "bitmask", "csr8")
"""Formats that there is code for."""


class Head(NamedTuple):
    """What the outputs of a network become.

    squash: `tanh`, times `scale`; `clip`, the output as it is; `largest`, the number of the largest. All but the last
    are cut to [-1, 1] and stretched to [low, high]; outputs beyond the number of actions are for other uses, ignored.
    """

    squash: str
    scale: float = 1.0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


def source(layers: LayerTable, tensors: Sequence[Tensor], head: Head, about: Sequence[str]) -> str:
    """The file.

    Args:
        layers: a multi-layer perceptron, or what `low_rank.stored_layers` makes of one, in forward order.
        tensors: as filed, see `blob.encode`, in `FORMATS`.
        head: what acts.
        about: lines of the comment in front.
    """
    pairs = list(zip(layers, tensors, strict=True))
    widest = max(layer.units_out for layer in layers)
    parts = [
        "\n".join(["/*", *(f" * {line}".rstrip().replace("*/", "* /") for line in about), " */"]),
        "#include <math.h>\n#include <stdint.h>",
        _signature(layers, head),
        *(_constants(layer, tensor) for layer, tensor in pairs),
        *(_function(layer, tensor) for layer, tensor in pairs),
        _forward(layers, widest),
        _choose() if head.squash == "largest" else _act(head),
        _MAIN.replace("PRINT", _PRINT_CHOICE if head.squash == "largest" else _PRINT_ACTIONS),
    ]
    return "\n\n".join(parts) + "\n"


def _signature(layers: LayerTable, head: Head) -> str:
    observations = f"#define POLICY_OBSERVATIONS {layers[0].units_in}\n"
    if head.squash == "largest":
        choices = f"#define POLICY_CHOICES {layers[-1].units_out}\n\n"
        return f"{observations}{choices}int policy_choose(const float *observation);"
    actions = f"#define POLICY_ACTIONS {len(head.low)}\n\n"
    return f"{observations}{actions}void policy_act(const float *observation, float *action);"


def _name(layer: Layer) -> str:
    return layer.name.replace(".", "_")


def _number(value: float) -> str:
    # Nine digits tell every float32 from every other.
    text = f"{np.float32(value):.9g}"
    return f"{text}f" if any(sign in text for sign in ".e") else f"{text}.0f"


def _array(name: str, array: np.ndarray) -> str:
    """One constant array; C has none of length 0, so an empty one holds a zero that nobody reads."""
    real = array.dtype.kind == "f"
    values = array.tolist() or [0]
    text = ", ".join(_number(value) if real else str(value) for value in values)
    kind = "float" if real else f"uint{8 * array.itemsize}_t"
    lines = textwrap.fill(text, 116, initial_indent="    ", subsequent_indent="    ")
    return f"static const {kind} {name}[{len(values)}] = {{\n{lines}\n}};"


def _constants(layer: Layer, tensor: Tensor) -> str:
    arrays = tensor.arrays
    if _elementwise(layer):
        arrays = {"values": arrays["values"]}
    return "\n".join(_array(f"{_name(layer)}_{name}", array) for name, array in arrays.items())


def _elementwise(layer: Layer) -> bool:
    """Whether a layer is the scale between two factors (`low_rank.stored_layers`), which has no zeros to leave out."""
    return layer.name.endswith(".scale")


def _function(layer: Layer, tensor: Tensor) -> str:
    """`static void NAME(const float *x, float *y)` for one layer."""
    name, rows, columns = _name(layer), layer.units_out, layer.fan_in
    if _elementwise(layer):
        body = f"    for (int r = 0; r < {rows}; r++) y[r] = x[r] * {name}_values[r];"
        return f"static void {name}(const float *x, float *y) {{\n{body}\n}}"
    start = "0.0f" if layer.bias is None else f"{name}_bias[r]"
    # Between the factors of one layer there is no ReLU.
    hidden = not layer.output and not layer.outputs.endswith(".rank")
    # A NaN stays one.
    store = "y[r] = sum < 0.0f ? 0.0f : sum;" if hidden else "y[r] = sum;"
    everything = tensor.format == "dense" or (tensor.format == "bitmask" and "bits" not in tensor.arrays)
    form = _DENSE if everything else {"bitmask": _BITMASK, "csr8": _CSR}[tensor.format]
    return form % {"name": name, "rows": rows, "columns": columns, "start": start, "store": store}


# Eight sums side by side: a compiler may not reorder one sum, but it may do eight of them at once.
_DENSE = """\
static void %(name)s(const float *x, float *y) {
    const float *w = %(name)s_values;
    for (int r = 0; r < %(rows)d; r++, w += %(columns)d) {
        float part[8] = {0.0f}, sum = %(start)s;
        int c = 0;
        for (; c + 8 <= %(columns)d; c += 8)
            for (int j = 0; j < 8; j++) part[j] += w[c + j] * x[c + j];
        for (; c < %(columns)d; c++) sum += w[c] * x[c];
        sum += ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
        %(store)s
    }
}"""
_CSR = """\
static void %(name)s(const float *x, float *y) {
    for (int r = 0; r < %(rows)d; r++) {
        float sum = %(start)s;
        for (uint32_t k = %(name)s_pointers[r]; k < %(name)s_pointers[r + 1]; k++)
            sum += %(name)s_values[k] * x[%(name)s_columns[k]];
        %(store)s
    }
}"""
_BITMASK = """\
static void %(name)s(const float *x, float *y) {
    const float *w = %(name)s_values;
    uint32_t n = 0;
    for (int r = 0; r < %(rows)d; r++) {
        float sum = %(start)s;
        for (int c = 0; c < %(columns)d;) {
            if (!(n & 7) && c + 8 <= %(columns)d && !%(name)s_bits[n >> 3]) {
                c += 8, n += 8;
                continue;
            }
            if (%(name)s_bits[n >> 3] & (0x80 >> (n & 7))) sum += *w++ * x[c];
            c++, n++;
        }
        %(store)s
    }
}"""
_MAIN = """\
#ifdef POLICY_MAIN
#include <stdio.h>

int main(void) {
    float observation[POLICY_OBSERVATIONS];
    for (;;) {
        for (int i = 0; i < POLICY_OBSERVATIONS; i++)
            if (scanf("%f", observation + i) != 1) return i > 0 || !feof(stdin);
        PRINT
        fflush(stdout);
    }
}
#endif"""

_PRINT_CHOICE = 'printf("%d\\n", policy_choose(observation));'
_PRINT_ACTIONS = """float action[POLICY_ACTIONS];
        policy_act(observation, action);
        for (int i = 0; i < POLICY_ACTIONS; i++) printf("%.9g%c", action[i], i + 1 < POLICY_ACTIONS ? ' ' : '\\n');"""


def _forward(layers: LayerTable, widest: int) -> str:
    """The whole network: layers write two buffers by turns; returns the one with the outputs."""
    lines, read = [], "observation"
    for index, layer in enumerate(layers):
        written = "ab"[index % 2]
        lines.append(f"    {_name(layer)}({read}, {written});")
        read = written
    calls = "\n".join(lines)
    return (
        f"#define POLICY_WIDEST {widest}\n\n"
        "static const float *outputs(const float *observation, float *a, float *b) {\n"
        f"{calls}\n    (void)b;\n    return {read};\n}}"
    )


_BUFFERS = """\
    float a[POLICY_WIDEST], b[POLICY_WIDEST];
    const float *y = outputs(observation, a, b);"""


def _act(head: Head) -> str:
    scale = "" if head.scale == 1.0 else f"{_number(head.scale)} * "
    low, high = np.asarray(head.low, np.float64), np.asarray(head.high, np.float64)
    value = "y[i]" if head.squash == "clip" else f"{scale}tanhf(y[i])"
    return "\n".join(
        [
            _array("low", low.astype(np.float32)),
            _array("high", high.astype(np.float32)),
            _array("centre", ((high + low) / 2).astype(np.float32)),
            _array("half", ((high - low) / 2).astype(np.float32)),
            "",
            "void policy_act(const float *observation, float *action) {",
            _BUFFERS,
            "    for (int i = 0; i < POLICY_ACTIONS; i++) {",
            f"        float u = {value};",
            "        u = u < -1.0f ? -1.0f : u > 1.0f ? 1.0f : u;",
            "        u = centre[i] + u * half[i];",
            "        action[i] = u < low[i] ? low[i] : u > high[i] ? high[i] : u;",
            "    }",
            "}",
        ]
    )


def _choose() -> str:
    return "\n".join(
        [
            "int policy_choose(const float *observation) {",
            _BUFFERS,
            "    int best = 0;",
            "    for (int i = 1; i < POLICY_CHOICES; i++)",
            "        if (y[i] > y[best]) best = i;",
            "    return best;",
            "}",
        ]
    )
