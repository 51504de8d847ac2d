"""Where a result came from: code, packages, device. No host names, no user names, no paths."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from sparserl_jax.bench import cache

PACKAGES = (
    "sparserl_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "gymnax",
    "gymnasium",
    "brax",
    "playground",
    "mujoco",
    "mujoco-mjx",
)
ACCELERATED = (
    "jax-cuda12-pjrt",
    "jax-cuda12-plugin",
    "jax-cuda13-pjrt",
    "jax-cuda13-plugin",
    "libtpu",
    "nvidia-cublas",
    "nvidia-cublas-cu12",
    "nvidia-cuda-nvcc",
    "nvidia-cuda-nvcc-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)
"""What computes on an accelerator; told where it is installed."""

VECTORS = ("avx512f", "avx2", "avx", "sve", "asimd")
"""Vector instructions as Linux calls them, the widest of a family first."""
STAMP, CODE = ".sparserl-commit.json", "sparserl_jax"
"""The file that names the commit of a copy without its git history, at the root of the copy, and the package's folder
there; see `bench/stamp.py`."""


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def repository(folder: Path | None = None) -> dict[str, Any]:
    """Commit, description and dirty flag of the checkout that holds this package, or of the stamp on a copy of one;
    nulls where there is neither.

    Published results and local runs do not make the tree dirty: they are the outcome of the code, not part of it. Nor
    do files that git does not know (a scheduler's log, an archive of runs), unless they may be code.
    """
    folder = folder or Path(__file__).resolve().parents[2]
    top = _git(folder, "rev-parse", "--show-toplevel")
    # A package installed inside somebody else's checkout must not claim that checkout's commit.
    ours = top is not None and _git(folder, "ls-files", "--error-unmatch", ".") is not None
    if not ours or (commit := _git(folder, "rev-parse", "HEAD")) is None:
        return _stamped(folder)
    outcome = (":(exclude,top)results", ":(exclude,top)runs")
    code = (":(top)sparserl_jax", ":(top)benchmarks", ":(top)*.py")
    found = (
        _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":/", *outcome),
        _git(folder, "ls-files", "--others", "--exclude-standard", "--", *code, *outcome),
    )
    return {
        "git_commit": commit,
        "git_describe": _git(folder, "describe", "--tags", "--always", "--dirty"),
        "git_dirty": None if None in found else any(found),
    }


def unclean(state: dict[str, Any]) -> str | None:
    """Why the commit of `repository`'s answer does not describe the code, in words; None if it does."""
    if state["git_dirty"] is None:
        return "git does not say whether the tree has uncommitted changes (`git status` failed, or took too long)."
    return "the git tree has uncommitted changes; commit them first." if state["git_dirty"] else None


def code_files(root: Path) -> dict[str, str]:
    """SHA-256 of every file below `root` that decides numbers: the package and the shipped suites."""
    found = [path for path in (root / CODE).rglob("*") if path.suffix in (".py", ".json")]
    found += (root / "benchmarks").rglob("*.toml")
    # A wheel's copies of the suites are no source.
    kept = [path for path in found if path.relative_to(root).parts[:2] != (CODE, "_data")]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(kept)
    }


def _stamped(folder: Path) -> dict[str, Any]:
    """What the stamp beside the package says, dirty where a file is not the stamped one; nulls without a stamp."""
    root = folder if (folder / STAMP).is_file() else folder.parent
    try:
        stamp = json.loads((root / STAMP).read_text(encoding="utf-8"))
        commit, describe, files = stamp["git_commit"], stamp["git_describe"], stamp["files"]
        if re.fullmatch("[0-9a-f]{40}", commit) is None:
            raise ValueError("no commit's name")
    except (OSError, ValueError, KeyError, TypeError):
        return {"git_commit": None, "git_describe": None, "git_dirty": None}
    return {"git_commit": commit, "git_describe": describe, "git_dirty": code_files(root) != files}


def head(folder: Path) -> str | None:
    """The commit a work tree stands at; None where `folder` is in none."""
    return _git(folder, "rev-parse", "HEAD")


def stale(commit: str, folder: Path) -> str | None:
    """What is wrong with a commit as the origin of published results, in words; None if HEAD descends from it."""
    if re.fullmatch("[0-9a-f]{40}", commit) is None:
        return "no commit's name"
    if _git(folder, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        shallow = _git(folder, "rev-parse", "--is-shallow-repository") == "true"
        return None if shallow else "unknown to this repository"
    if _git(folder, "merge-base", "--is-ancestor", commit, "HEAD") is None:
        return "no ancestor of HEAD: the code here did not grow out of it"
    return None


def _versions() -> dict[str, str | None]:
    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    accelerated = {name: found for name in ACCELERATED if (found := version(name)) is not None}
    return {name: version(name) for name in PACKAGES} | accelerated


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _vectors() -> str | None:
    """The widest vector instructions of the processor, by which compiled programs, and so last bits and speed, differ
    between machines of one name; None where they are not known."""
    flags = cache.abilities().split()
    return next((name for name in VECTORS if name in flags), None)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def system() -> dict[str, Any]:
    """Accelerator, processor, memory and operating system of this machine, without its name."""
    import jax

    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "cpu": _processor(),
        "cpu_vectors": _vectors(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "os": f"{platform.system()} {platform.machine()}",
    }


def physics(env: str) -> tuple[str, ...]:
    """Packages whose versions decide the numbers of an environment, by the name it is made by."""
    source = env.partition(":")[0]
    if source == "brax":
        return ("brax", "mujoco", "mujoco-mjx") if "backend=mjx" in env else ("brax",)
    known = {
        "gymnax": ("gymnax",),
        "gymnasium": ("gymnasium", "mujoco"),
        "playground": ("playground", "mujoco", "mujoco-mjx"),
    }
    return known.get(source, ())


def processor(system: dict[str, Any]) -> str:
    """The processor that `system` tells of, with its vector instructions, of which older records know nothing."""
    vectors = system.get("cpu_vectors")
    return system["cpu"] + (f" ({vectors})" if vectors else "")


def computes_on(made: dict[str, Any]) -> str:
    """The kind of device of a provenance, on an accelerator with the precision of its matrix products: what one table
    should not mix. On CPUs products are of float32, and processors differ in last bits alone."""
    system = made["system"]
    if system["platform"] == "cpu":
        return "CPUs"
    return f"{system['device_kind']} (matrix products: {made.get('matmul_precision') or 'default'})"


def now() -> str:
    """The time, UTC, in seconds."""
    moment = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return moment.isoformat().replace("+00:00", "Z")


def collect() -> dict[str, Any]:
    """Everything of the above, and the time.

    To be called before training: a commit made while it runs does not describe the code that was imported.
    """
    import jax

    from sparserl_jax.training.precision import spoken

    config: Any = jax.config  # its options are attributes made at run time
    precision = config.jax_default_matmul_precision or spoken(None)
    # XLA_FLAGS may name dump folders; only flags without a path are kept.
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "/" not in flag]
    return {
        **repository(),
        "python": platform.python_version(),
        "packages": _versions(),
        "system": system(),
        "matmul_precision": None if precision is None else str(precision),
        "x64": bool(config.jax_enable_x64),
        "threefry_partitionable": bool(config.jax_threefry_partitionable),
        "xla_flags": " ".join(flags),
        "created_utc": now(),
    }


OPTIONS = ("matmul_precision", "x64", "threefry_partitionable", "xla_flags")
"""Settings of JAX on which numbers depend, as `collect` names them."""


def origin(found: dict[str, Any]) -> dict[str, Any]:
    """The part of `collect`'s answer in which a resumed program must not differ from the one that began it."""
    system = found["system"]
    # The processor computes where there is no accelerator; elsewhere any will do.
    processor = {name: system[name] for name in ("cpu", "cpu_vectors")} if system["platform"] == "cpu" else {}
    return {
        "git_commit": found["git_commit"],
        "git_dirty": found["git_dirty"],
        "python": found["python"],
        "jax": found["packages"]["jax"],
        "packages": {
            name: found["packages"].get(name)
            for name in (*PACKAGES, *(name for name in ACCELERATED if name in found["packages"]))
            if name not in ("jax", CODE)
        },
        **{name: found[name] for name in OPTIONS},
        "device_kind": system["device_kind"],
        "device_count": system["device_count"],
        **processor,
    }
