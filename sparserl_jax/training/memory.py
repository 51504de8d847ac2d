"""Whether a population fits on the devices: by forecast before compiling, by XLA's own account after it."""

from __future__ import annotations

from typing import Any

import jax

from sparserl_jax.accelerator import give_back_freed_memory, job_memory
from sparserl_jax.errors import UserError
from sparserl_jax.training.sharding import Layout, devices

MAPPINGS = 30_000
"""Memory mappings from which compiled programs are forgotten. Linux gives a process 65,530 by default, a compiled
Program of a large update takes 3,500 of them on CPUs, and one that gets none ends the process without a word."""


SMALLER = "use fewer seeds per suite, a smaller buffer_max or narrower networks"
"""What to do where a population does not fit."""


def forget_compiled() -> None:
    """Before the next Program is compiled: let go of what JAX keeps of earlier ones, once that is much."""
    try:
        with open("/proc/self/maps", "rb") as lines:
            many = sum(1 for _ in lines) > MAPPINGS
    except OSError:
        return
    if many:
        jax.clear_caches()


def available(used: int | None = None) -> int | None:
    """Bytes that each of `used` local devices (default: all of them) offers: the least of their memory limits less what
    is in use, or on CPU its share of what the host, or the job's own limit, has left; None where neither is known."""
    local = devices()
    if local[0].platform == "cpu":
        give_back_freed_memory()  # what an earlier program held counts as free again
        free = of_host()
        return None if free is None else free // (used or len(local))
    offers = [_free(device) for device in local[:used]]  # a layout has the first ones
    known = [offer for offer in offers if offer is not None]
    return min(known, default=None)


def of_host() -> int | None:
    """Bytes that the host, or the job's own limit, has left; None where that is not known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            facts = dict(line.split(":", 1) for line in lines)
        free, of_job = int(facts["MemAvailable"].split()[0]) * 1024, job_memory()
    except (OSError, KeyError, ValueError):
        return None
    return min(free, free if of_job is None else of_job)


def _free(device: jax.Device) -> int | None:
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return None if limit is None else int(limit) - int(stats.get("bytes_in_use", 0))


def fits(program: Any, offered: int | None = None) -> bool:
    """Whether the forecast of a Program's population is no more than its devices have at hand, or it is not known;
    `offered` as of `check`."""
    offered = available(len(program.layout.devices)) if offered is None else offered
    return offered is None or program.memory() <= offered


def check(needed: int, layout: Layout, what: str, offered: int | None = None) -> None:
    """Refuse a population that does not fit.

    Args:
        needed: bytes of the population on each device.
        layout: of its members over the devices.
        what: name of the Program for the message.
        offered: bytes at hand on each device; default what those of the layout offer.

    Raises:
        UserError: with the bytes needed and the number of members that would fit.
    """
    offered = available(len(layout.devices)) if offered is None else offered
    if offered is None or needed <= offered:
        return
    fits = int(layout.held * offered // max(needed, 1)) * len(layout.devices)
    each = "" if len(layout.devices) == 1 else " on each"
    raise UserError(
        f"program {what} needs {needed / 1e9:.2f} GB{each} for {layout} and {offered / 1e9:.2f} GB are free: about "
        f"{fits} members fit; {SMALLER}."
    )


def check_checkpoint(needed: int, what: str) -> None:
    """Refuse a population on accelerators that the host's memory cannot hold: checkpoints pass through it, as copies of
    ours of which Orbax makes its own.

    Args:
        needed: bytes of the population on all devices together.
        what: name of the Program for the message.

    Raises:
        UserError: with the bytes needed and those at hand.
    """
    if devices()[0].platform == "cpu":
        return  # where the population is in the host's memory anyway
    give_back_freed_memory()  # that of an earlier program's checkpoints
    offered, needed = of_host(), 2 * needed
    if offered is None or needed <= offered:
        return
    raise UserError(
        f"program {what}: a checkpoint takes {needed / 1e9:.2f} GB of the host's memory and {offered / 1e9:.2f} GB are "
        "free; use fewer seeds per suite, or a smaller buffer_max."
    )


def exhausted(layout: Layout, what: str, error: str = "") -> str:
    """What to say where a device ran out of memory all the same: of its limit, other processes may hold a part.
    `error`: what JAX said, whose first line has the numbers."""
    said = f" ({error.strip().splitlines()[0].rstrip('.')})" if error.strip() else ""
    if layout.on_cpu:
        return f"program {what} ran out of memory with {layout}{said}; {SMALLER}, or end other programs."
    more = ", or let JAX have more of it (XLA_PYTHON_CLIENT_MEM_FRACTION=0.95)" if _pooled() else ""
    return (
        f"program {what} ran out of device memory with {layout}{said}; {SMALLER}, end other programs on the "
        f"device{more}."
    )


def _pooled() -> bool:
    """Whether JAX allocates a share of a device's memory in advance, which it does on GPUs."""
    return devices()[0].platform == "gpu"


def compiled_bytes(compiled: Any) -> int | None:
    """Bytes a compiled stage holds on each device at its peak by XLA's account (arguments, outputs not aliased,
    temporaries)."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )
