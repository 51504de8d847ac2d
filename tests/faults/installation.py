"""Killing `.ci/environment` while it makes the virtual environment: a half-made one is never taken for made.

Nothing is installed: a stand-in answers for Python, and leaves files behind in the order in which `venv` and pip do.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# `stop PLACE` holds still where the file `stop` names the place; everything else is a question for the real Python.
PYTHON = """#!/bin/sh
stop() {{ if [ "$(cat "{here}/stop" 2>/dev/null)" = "$1" ]; then : >"{here}/reached"; exec sleep 600; fi; }}
venv="{here}/venv"
case "$1 $2" in
  "-m venv")
    echo venv >>"{here}/log"
    mkdir -p "$venv/bin" "$venv/lib"; stop "venv: folders made, no pyvenv.cfg"
    : >"$venv/pyvenv.cfg"; stop "venv: no Python in it"
    cp "$0" "$venv/bin/python"; stop "venv: no pip in it" ;;
  "-m pip")
    echo pip >>"{here}/log"
    echo half >"$venv/lib/packages"; stop "pip: packages half unpacked"
    case "$*" in *dev*) echo whole dev >"$venv/lib/packages" ;; *) echo whole >"$venv/lib/packages" ;; esac
    stop "pip: about to end"; [ ! -e "{here}/no-network" ] ;;
  "-m sparserl_jax.accelerator")
    echo verify >>"{here}/log"; stop "check of the accelerator"; grep -q whole "$venv/lib/packages" ;;
  *) exec "{python}" "$@" ;;
esac
"""
TOUCH = """#!/bin/sh
if [ "$(cat "{here}/stop" 2>/dev/null)" = "stamps: between two of them" ]; then
  {touch} "$1"; : >"{here}/reached"; exec sleep 600
fi
exec {touch} "$@"
"""

PLACES = (
    "venv: folders made, no pyvenv.cfg",
    "venv: no Python in it",
    "venv: no pip in it",
    "pip: packages half unpacked",
    "pip: about to end",
    "check of the accelerator",
    "stamps: between two of them",
)


class Workshop:
    """A place for an environment, and the tools that make it."""

    def __init__(self, folder: Path) -> None:
        self.here, self.venv = folder, folder / "venv"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tools").mkdir()
        self._script(folder / "python", PYTHON.format(here=folder, python=sys.executable))
        self._script(folder / "tools" / "touch", TOUCH.format(here=folder, touch=shutil.which("touch")))

    def _script(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def _start(self, extra: str) -> subprocess.Popen[str]:
        (self.here / "log").write_text("")
        command = ["sh", ".ci/environment", str(self.here / "python"), "cpu", str(self.venv)]
        return subprocess.Popen(
            command + [extra] * bool(extra),
            cwd=ROOT,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "PATH": f"{self.here / 'tools'}:{os.environ['PATH']}",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def make(self, extra: str = "") -> tuple[int, list[str], str]:
        """Run to the end: exit code, what was done, what was said."""
        process = self._start(extra)
        said, _ = process.communicate(timeout=120)
        return process.returncode, (self.here / "log").read_text().split(), said

    def kill_at(self, place: str, extra: str = "", limit: float = 60.0) -> bool:
        """Run until `place` is reached and kill the group; False if it ended without coming there."""
        reached = self.here / "reached"
        reached.unlink(missing_ok=True)
        (self.here / "stop").write_text(place)
        process, began = self._start(extra), time.monotonic()
        while process.poll() is None and not reached.exists() and time.monotonic() - began < limit:
            time.sleep(0.005)
        there = process.poll() is None and reached.exists()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        (self.here / "stop").unlink()
        return there

    @property
    def packages(self) -> str:
        """What is installed: nothing, `half`, `whole` or `whole dev`."""
        path = self.venv / "lib" / "packages"
        return path.read_text().strip() if path.exists() else ""


def kill_and_make_again(folder: Path, place: str, extra: str, on_top: bool) -> tuple[bool, list[str]]:
    """Whether the kill happened, and what is wrong after the command was run again.

    Args:
        extra: `dev`, or nothing.
        on_top: the environment without the extra is there already.
    """
    shop, problems = Workshop(folder), []
    if on_top and shop.make()[0] != 0:
        return False, ["the environment could not be made at all"]
    if not shop.kill_at(place, extra):
        return False, []
    # First somebody else's command: `make bench` after a killed `make test` must not run in half an environment.
    for asked in ("", extra):
        code, _, said = shop.make(asked)
        if code != 0:
            problems.append(f"{place}: ended with {code} when run again: {said.strip()[-200:]}")
        elif not shop.packages.startswith("whole"):
            problems.append(f"{place}: took a half-made environment for made")
    if extra and "dev" not in shop.packages:
        problems.append(f"{place}: the extra is missing")
    if shop.make(extra)[1]:
        problems.append(f"{place}: made it a third time")
    return True, problems
