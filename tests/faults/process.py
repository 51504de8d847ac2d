"""Starting the `sparserl` command of `tests.faults.driver`, and killing its process group."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import driver

ROOT = Path(__file__).resolve().parents[2]
SUITE = Path(__file__).with_name("suite.toml")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended: exit code (negative: the signal), whether it was killed by us, what it said."""

    code: int
    killed: bool
    said: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Bench:
    """`sparserl bench` of one suite into one folder.

    cache: folder of JAX's compilation cache, None for none. flags: more XLA flags.
    """

    folder: Path
    log: Path
    suite: Path = SUITE
    cache: Path | None = None
    flags: str = ""

    def start(self, hook: dict[str, Any] | None = None, cached: bool = True) -> subprocess.Popen[str]:
        """The process, in a group of its own."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
        environment["JAX_PLATFORMS"] = "cpu"
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {self.flags}".strip()
        if cached and self.cache is not None:
            environment["JAX_COMPILATION_CACHE_DIR"] = str(self.cache)
            environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
            environment["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
        command = [sys.executable, "-m", "tests.faults.driver", json.dumps(hook), str(self.log)]
        command += ["bench", str(self.suite), "--out", str(self.folder)]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def run(
        self,
        hook: dict[str, Any] | None = None,
        *,
        delay: float = 0.0,
        after: float | None = None,
        cached: bool = True,
        limit: float = 900.0,
        there: Callable[[], None] = lambda: None,
    ) -> Ended:
        """Run to the end, or kill `delay` seconds after the hook's place is reached, or `after` seconds from now.

        `there` is called at the place, before the kill.

        Raises:
            TimeoutError: neither happened within `limit` seconds.
        """
        began, process = time.monotonic(), self.start(hook, cached)
        late = threading.Event()

        def overdue() -> None:
            late.set()
            kill(process)

        timers = [threading.Timer(limit, overdue)]
        if after is not None:
            timers.append(threading.Timer(after, kill, [process]))
        for timer in timers:
            timer.start()
        said = []
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if driver.HERE in line:
                time.sleep(delay)
                try:
                    there()
                finally:
                    kill(process)
        code = process.wait()
        for timer in timers:
            timer.cancel()
        text = "".join(said)
        if late.is_set():
            raise TimeoutError(f"neither ended nor came to {hook} in {limit:.0f} s:\n{text[-2000:]}")
        return Ended(code, code == -signal.SIGKILL, text, time.monotonic() - began)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the whole group; nothing if it has ended."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
