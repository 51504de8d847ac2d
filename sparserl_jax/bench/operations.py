"""What kind of work the operations of a compiled stage are, and how long a trace says they took.

XLA fuses many operations into one; a fusion counts as the heaviest kind of work in it. Traces name operations on CPUs
and GPUs; of what a trace does not name nothing is said.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

MATRIX, RANDOM, GATHER = "matrix products", "random bits", "gathers and scatters"
ELEMENTWISE, COPY, CONTROL = "elementwise and reductions", "copies", "loops and branches"
UNKNOWN = "not in the compiled program"
KINDS = (MATRIX, GATHER, RANDOM, ELEMENTWISE, COPY, CONTROL, UNKNOWN)

_MATRIX = {"dot", "convolution"}
_RANDOM = {"rng", "rng-bit-generator", "rng-get-and-update-state"}
_GATHER = {"gather", "scatter", "dynamic-slice", "dynamic-update-slice"}
_COPY = {
    "copy",
    "copy-start",
    "copy-done",
    "transpose",
    "bitcast",
    "broadcast",
    "reshape",
    "concatenate",
    "slice",
    "pad",
}
_CONTROL = {"while", "conditional", "call", "tuple", "get-tuple-element", "async-start", "async-done"}
_SILENT = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "iota", "fusion"}
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?:\((?:[^()]|\([^()]*\))*\)|\S+) (?P<opcode>[a-z][\w\-]*)\("
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_GEMM = re.compile(r"gemm|matmul|cublas|cudnn\$conv", re.IGNORECASE)
_THREEFRY = re.compile(r"threefry|random_bits", re.IGNORECASE)


class Instruction(NamedTuple):
    """One line of a compiled program: its opcode, the computation it calls in place, and the rest of the line."""

    opcode: str
    calls: str | None
    text: str


def module_name(text: str) -> str:
    """Name of a compiled program, by which traces call it."""
    found = re.match(r"HloModule ([\w.\-]+)", text)
    return "" if found is None else found[1]


def kinds(text: str) -> dict[str, str]:
    """Kind of work of every operation of a compiled program, from its text (`compiled.as_text()`)."""
    computations: dict[str, list[Instruction]] = defaultdict(list)
    named: dict[str, Instruction] = {}
    inside = ""
    for line in text.splitlines():
        opened = _COMPUTATION.match(line)
        if opened is not None:
            inside = opened["name"]
            continue
        found = _INSTRUCTION.match(line)
        if found is not None:
            called = _CALLED.search(line)
            one = Instruction(found["opcode"], None if called is None else called[1], line)
            computations[inside].append(one)
            named[found["name"]] = one
    return {name: _kind(one, computations) for name, one in named.items()}


def _kind(one: Instruction, computations: Mapping[str, list[Instruction]]) -> str:
    if one.opcode in _CONTROL:
        return CONTROL
    parts = list(_parts(one, computations))
    opcodes = {part.opcode for part in parts}
    if opcodes & _MATRIX or (one.opcode == "custom-call" and _GEMM.search(one.text)):
        return MATRIX
    if opcodes & _RANDOM or any(_THREEFRY.search(part.text) for part in parts):
        return RANDOM
    if opcodes & _GATHER:
        return GATHER
    work = opcodes - _SILENT
    return COPY if work <= _COPY else ELEMENTWISE


def _parts(one: Instruction, computations: Mapping[str, list[Instruction]]) -> Iterable[Instruction]:
    """An instruction and, for fusions, what is fused in it."""
    yield one
    if one.opcode == "fusion" and one.calls is not None:
        for inner in computations.get(one.calls, ()):
            yield from _parts(inner, computations)


def spent(trace: Path, programs: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """Nanoseconds by program and kind of work that a trace attributes to operations.

    Args:
        trace: folder that `jax.profiler.trace` wrote.
        programs: by name of a compiled program, `kinds` of its operations.

    Time that an operation spends in operations it contains (a loop's body) counts for those alone; operations that run
    side by side on several cores or streams all count. Empty where the backend's trace names no operations.
    """
    import jax

    found: dict[str, dict[str, float]] = {}
    for file in sorted(trace.rglob("*.xplane.pb")):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                events = []
                for event in line.events:
                    facts = dict(event.stats)
                    name, module = facts.get("hlo_op"), facts.get("hlo_module")
                    if name is not None and module in programs:
                        events.append(
                            (float(event.start_ns), float(event.duration_ns), str(module), str(name))
                        )
                for module, name, nanoseconds in own_time(events):
                    kind = programs[module].get(name, UNKNOWN)
                    work = found.setdefault(module, {})
                    work[kind] = work.get(kind, 0.0) + nanoseconds
    return found


def own_time(events: Iterable[tuple[float, float, Any, Any]]) -> list[tuple[Any, Any, float]]:
    """(program, operation, own nanoseconds) of the events (start, duration, program, operation) of one line."""
    own: list[list[Any]] = []
    open_: list[tuple[float, int]] = []  # ends and places of the events around the present one
    for start, duration, module, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while open_ and open_[-1][0] <= start:
            open_.pop()
        if open_:
            own[open_[-1][1]][2] -= duration
        own.append([module, name, duration])
        open_.append((start + duration, len(own) - 1))
    return [(module, name, max(rest, 0.0)) for module, name, rest in own]
