"""What each sparsity method adds to the time of an update, next to a mask that never moves.

Every method is a single-method program of the same task, member count, network and batch, with an event every 1,000
ticks; one dispatch of it and one of `static` are timed in turns, and the ratio of the two is what the table shows. A
method that acts at its events alone should cost next to nothing; one that acts at every step shows what that costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.perf.workload import Workload, interleaved
from sparserl_jax.sparsity import METHODS

INTERVAL = 1000
HIDDEN, BATCH = 128, 128
MEMBERS = 2
KNOB = 0.875
"""A sparsity that is also N:M, 1:8."""
OTHER_KNOBS = {"redo": 0.0, "l1": 1e-4, "l2": 1e-4}
"""Of methods whose knob is no such sparsity."""

AT_EVERY_STEP = {
    *("l0", "l0_unit", "l1", "l2"),  # a penalty, or gates
    *("ste", "sr_ste", "top_kast"),  # a mask from the weights of every step
    *("nm", "nm_sr_ste", "rnm_like", "nm_inner"),
    "ds_td3",  # targets cut to their own largest weights
}
"""Methods that do something at every step, whose cost is shown without a guide."""


def measure(row: Callable[..., dict[str, Any]], repeats: int) -> list[dict[str, Any]]:
    """One row per method: time per update over that of `static`, beside `static` against itself."""

    def made(method: str) -> Workload:
        knob = OTHER_KNOBS.get(method, KNOB)
        return Workload(MEMBERS, method, interval=INTERVAL, hidden=HIDDEN, batch_size=BATCH, knob=knob)

    still = made("static")
    each = interleaved({"static": still}, repeats)["static"] / still.training.dispatch_steps
    size = f"TD3 2x{HIDDEN}, batch {BATCH}, {MEMBERS} members"
    rows = [row(f"{size}, static", each * 1e3, "ms per step", "")]
    for method in ["static", *(name for name in METHODS if name != "static")]:
        times = interleaved({"still": still, "method": made(method)}, repeats)
        ratios = times["method"] / times["still"]
        guide = "" if method in AT_EVERY_STEP else "at most 1.05"
        rows.append(row(f"{method} / static, an event every {INTERVAL} ticks", ratios, "ratio", guide))
    return rows
