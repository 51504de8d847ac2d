"""Which accelerator this machine shows, and whether JAX sees it.

Used twice: before anything is installed, as a plain script (`python -I sparserl_jax/accelerator.py detect`), to
choose the extra to install; and afterwards, by the harness and by `python -m sparserl_jax.accelerator verify`, to
make sure that a GPU or TPU which the system shows is the one JAX computes on. JAX alone falls back to the CPU with a
warning; here that is an error. Therefore this file imports nothing but the standard library at the top.

Thresholds are those of JAX's installation guide: CUDA 13 wheels need driver 580 and compute capability 7.5, CUDA 12
wheels driver 525 and compute capability 5.2.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ACCELERATORS = ("cpu", "cuda12", "cuda13", "tpu")
"""What `ACCEL=` may say, besides `auto`; also the names of the package's extras (cpu needs none)."""

CUDA13_DRIVER, CUDA12_DRIVER = 580, 525
CUDA13_CAPABILITY, CUDA12_CAPABILITY = 7.5, 5.2
NVIDIA, GOOGLE = "0x10de", "0x1ae0"
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Options of glibc's mallopt (malloc.h): when free memory at the top of the heap goes back to the system, how much a
heap may hold beyond what is asked for, and how many requests may be served by pages of their own."""
TPU_DEVICES = frozenset({"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"})
"""PCI device ids of TPU chips, as in JAX's own detector; Google's vendor id alone also marks network cards."""


def _run(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and standard output of a command; 127 where there is none, 124 where it hangs."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return 124, ""
    except OSError:
        return 127, ""
    return done.returncode, done.stdout


@dataclasses.dataclass(frozen=True)
class System:
    """What the detector may look at: a file system, an environment, commands. Tests pass a faked one."""

    root: Path = Path("/")
    environ: Mapping[str, str] = dataclasses.field(default_factory=lambda: os.environ)
    run: Callable[[Sequence[str]], tuple[int, str]] = _run
    name: str = platform.system()
    machine: str = platform.machine()

    def read(self, path: str) -> str:
        """Text of a file below the root, "" where it is missing or unreadable."""
        try:
            return (self.root / path).read_text(errors="replace")
        except OSError:
            return ""

    def glob(self, pattern: str) -> list[Path]:
        """Paths below the root that match."""
        return sorted(self.root.glob(pattern))


@dataclasses.dataclass(frozen=True)
class Nvidia:
    """NVIDIA GPUs a program could use: how many, their names, driver version, lowest compute capability if known."""

    count: int
    names: tuple[str, ...]
    driver: str
    capability: float | None


@dataclasses.dataclass(frozen=True)
class Choice:
    """The accelerator to install for and why; `problem` is a sentence for the user where there is no good choice."""

    accel: str
    why: str
    problem: str | None = None


def _nvidia(system: System) -> tuple[Nvidia | None, str]:
    """The usable NVIDIA GPUs, or None and a reason in words."""
    if system.environ.get("CUDA_VISIBLE_DEVICES", "x").strip() in ("", "-1", "none", "NoDevFiles"):
        return None, "CUDA_VISIBLE_DEVICES hides all GPUs"
    query = ("--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader")
    old_query = ("--query-gpu=name,driver_version", "--format=csv,noheader")
    found = 127
    for tool in ("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi"):
        for question in (query, old_query):  # drivers before 510 do not know compute_cap
            code, text = system.run((tool, *question))
            rows = [
                [cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.count(",")
            ]
            if code == 0 and rows:
                caps = [float(row[2]) for row in rows if len(row) > 2 and re.fullmatch(r"\d+\.\d+", row[2])]
                names = tuple(row[0] for row in rows)
                return Nvidia(len(rows), names, rows[0][1], min(caps, default=None)), ""
            found = code if code != 127 else found
    # A container may show the host's /proc/driver without the GPU itself: only device files make it usable.
    devices = [path for path in system.glob("dev/nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    version = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\b", system.read("proc/driver/nvidia/version"))
    if version and devices:
        return Nvidia(len(devices), ("NVIDIA GPU",) * len(devices), version[1], None), ""
    if found not in (0, 6, 127) and (devices or _pci(system, NVIDIA)):  # 6: the driver works and finds no GPU
        return None, "broken"
    if _pci(system, NVIDIA):
        return None, "an NVIDIA card is on the PCI bus, but no NVIDIA driver gives access to it"
    return None, "no NVIDIA GPU"


def _pci(system: System, vendor: str, devices: frozenset[str] | None = None) -> bool:
    """Whether a display card or accelerator of this vendor is on the PCI bus."""
    for path in system.glob("sys/bus/pci/devices/*/vendor"):
        if system.read(str(path.relative_to(system.root))).strip() != vendor:
            continue
        folder = path.parent.relative_to(system.root)
        if devices is not None:
            if system.read(str(folder / "device")).strip() in devices:
                return True
        elif system.read(str(folder / "class")).strip().startswith("0x03"):  # display and 3D controllers
            return True
    return False


def _tpu(system: System) -> str | None:
    """What shows that this is a TPU machine, or None."""
    for variable in ("TPU_NAME", "TPU_ACCELERATOR_TYPE"):
        if system.environ.get(variable):
            return f"{variable} is set"
    # Exactly accel<N>: the folder /dev/accel/ belongs to other makers' inference chips.
    if any(re.fullmatch(r"accel\d+", path.name) for path in system.glob("dev/accel*")):
        return "/dev/accel0 exists"
    if _pci(system, GOOGLE, TPU_DEVICES):
        return "a TPU chip is on the PCI bus"
    for library in ("usr/lib/libtpu.so", "lib/libtpu.so"):
        if (system.root / library).exists():
            return "libtpu.so is installed"
    return None


def detect(accel: str = "auto", system: System | None = None) -> Choice:
    """Choose the accelerator for which to install.

    Args:
      accel: `auto`, or one of ACCELERATORS to overrule what is found.
      system: what to look at; the real machine by default.

    Returns:
      A `Choice`; its `problem` is set (and `accel` is "cpu") where an accelerator is shown that no JAX wheel can
      use, or where `accel` is unknown.
    """
    system = System() if system is None else system
    if accel != "auto":
        if accel in ACCELERATORS:
            return Choice(accel, f"ACCEL={accel} was asked for")
        return Choice("cpu", "", f"unknown ACCEL '{accel}': say auto, {', '.join(ACCELERATORS)}.")
    if _wants_cpu(system):
        return Choice("cpu", "JAX_PLATFORMS=cpu was asked for")
    gpu, why = _nvidia(system)
    if gpu is not None:
        return _cuda(gpu, system)
    if why == "broken":
        return Choice(
            "cpu",
            "",
            "nvidia-smi is installed and an NVIDIA GPU is shown, but the driver does not answer: "
            "repair or reinstall the driver, or say ACCEL=cpu.",
        )
    tpu = _tpu(system)
    if tpu is not None:
        return Choice("tpu", tpu)
    return Choice("cpu", f"{why}, no TPU")


def _cuda(gpu: Nvidia, system: System) -> Choice:
    """The CUDA generation for a GPU, or the sentence saying why there is none."""
    shown = f"{gpu.count} x {gpu.names[0]}, driver {gpu.driver}"
    if system.name != "Linux" or system.machine not in ("x86_64", "aarch64"):
        problem = f"{shown} found, but JAX has CUDA wheels for Linux on x86_64 and aarch64 only (this is {system.name}"
        return Choice("cpu", shown, f"{problem} on {system.machine}): use WSL2 or Linux, or say ACCEL=cpu.")
    major = re.match(r"\d+", gpu.driver)
    driver = int(major[0]) if major else 0
    if driver < CUDA12_DRIVER:
        problem = f"the NVIDIA driver is too old ({shown}): install driver {CUDA12_DRIVER} or newer"
        return Choice("cpu", shown, f"{problem} (better {CUDA13_DRIVER}), or say ACCEL=cpu.")
    if gpu.capability is not None and gpu.capability < CUDA12_CAPABILITY:
        problem = f"{shown} has compute capability {gpu.capability}, and JAX needs {CUDA12_CAPABILITY}"
        return Choice("cpu", shown, f"{problem} or more: say ACCEL=cpu.")
    if driver >= CUDA13_DRIVER and (gpu.capability is None or gpu.capability >= CUDA13_CAPABILITY):
        return Choice("cuda13", shown)
    return Choice("cuda12", shown)


def _wants_cpu(system: System) -> bool:
    """Whether the user chose the CPU in JAX's own way."""
    return system.environ.get("JAX_PLATFORMS", "").strip().lower().split(",")[0] == "cpu"


def device_per_core() -> None:
    """Have JAX show every CPU core as a device; for programs, before they import jax. JAX_NUM_CPU_DEVICES and XLA_FLAGS
    that say otherwise hold.

    One device that splits every operation over the cores is slower: TD3 at 2x64, batch 128 makes 4,800 updates per
    second on two cores as one device and 11,700 as two (`python -m benchmarks.perf --sections ways`).
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(cores()))


def cores(system: System | None = None) -> int:
    """CPU cores this process may use: by its affinity and, in a container, by its quota of CPU time."""
    system = System() if system is None else system
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = system.read("sys/fs/cgroup/cpu.max").partition(" ")
    if not quota.isdigit():
        quota, period = (system.read(f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota.strip().isdigit() and period.strip().isdigit():  # "max" or -1: no limit
        count = min(count, max(1, int(quota) // int(period)))
    return count


def job_memory(system: System | None = None) -> int | None:
    """Bytes that a container's or a scheduler's limit leaves this process: of its control group and all around it, the
    least; what the system could drop of files counts as free. None without a limit."""
    system = System() if system is None else system
    left = []
    for line in system.read("proc/self/cgroup").splitlines():
        _, kinds, group = line.split(":", 2)
        if kinds == "":
            base, limit, used, idle = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in kinds.split(","):
            base, limit, used = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            idle = "total_inactive_file"
        else:
            continue
        names = [name for name in group.split("/") if name]
        for depth in range(len(names), -1, -1):
            place = "/".join([base, *names[:depth]])
            most, now = (system.read(f"{place}/{name}").strip() for name in (limit, used))
            if most.isdigit() and now.isdigit():
                stat = dict(line.split() for line in system.read(f"{place}/memory.stat").splitlines())
                left.append(max(0, int(most) - int(now) + int(stat.get(idle, 0))))
    return min(left, default=None)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, where it is glibc; for programs, at any time.

    XLA takes the temporary arrays of every call from malloc. Given back to the system each time, their pages are
    cleared anew in every call: with environments on the host, where each step is a call, 259 member updates/s in place
    of 376 (TD3 at 2x256, batch 256, 36 members in waves on two cores). Threads keep arenas of their own: cores that
    share one wait for each other (264). An arena is made of heaps of 64 MiB, of which an empty one is dropped whatever
    the threshold, unless the pad is as large: 200,000 pages a second in runs where that happens, few without.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            mallopt(option, value)


def give_back_freed_memory() -> None:
    """Give what is freed back to the system once, where the C library is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def unseen(system: System | None = None, backend: str | None = None) -> str | None:
    """The sentence to refuse with where the system shows an accelerator and JAX would compute on the CPU; else None.

    Args:
      system: what to look at; the real machine by default.
      backend: JAX's default backend ("cpu", "gpu", "tpu"); asked of JAX if None.
    """
    system = System() if system is None else system
    choice = detect("auto", system)
    if choice.accel == "cpu" and choice.problem is None:
        return None
    if backend is None:
        import jax

        backend = jax.default_backend()
    if backend != "cpu":
        return None
    if choice.problem is not None:
        return choice.problem.replace("say ACCEL=cpu", "set JAX_PLATFORMS=cpu")
    return (
        f"the system shows an accelerator ({choice.why}) but JAX sees only the CPU: install "
        f"sparserl_jax[{choice.accel}] (in a clone: make install ACCEL={choice.accel}), or set JAX_PLATFORMS=cpu "
        "to compute on the CPU on purpose."
    )


def verify(
    accel: str, system: System | None = None, probe: Callable[[], tuple[str, int]] | None = None
) -> Choice:
    """Check, after installation, that JAX computes on `accel`.

    Args:
      accel: one of ACCELERATORS.
      system: what to look at; the real machine by default.
      probe: returns JAX's backend name and its number of devices, after one matrix product on it; for tests.

    Returns:
      A `Choice` whose `why` says what JAX sees and whose `problem` is a sentence where that is not `accel`.
    """
    system = System() if system is None else system
    wanted = {"cpu": "cpu", "tpu": "tpu"}.get(accel, "gpu")
    try:
        backend, count = (probe or _probe)()
    except Exception as error:  # JAX raises many kinds; all of them mean that it cannot compute here
        detail = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        return Choice(accel, "", f"JAX cannot compute on {accel} ({detail}): {_mend(accel)}")
    if backend != wanted:
        shown = "" if accel == "cpu" else f", although {accel} was chosen"
        return Choice(accel, f"JAX sees {backend}", f"JAX computes on the {backend}{shown}: {_mend(accel)}")
    why = f"JAX computes on {count} {backend} device{'s' * (count != 1)}"
    gpu = _nvidia(system)[0] if wanted == "gpu" else None
    if gpu is not None and gpu.count > count:
        why += f" of {gpu.count} the system shows (CUDA_VISIBLE_DEVICES or MIG)"
    return Choice(accel, why)


def _mend(accel: str) -> str:
    """What to do when JAX does not see the accelerator."""
    if accel == "cpu":
        return "set JAX_PLATFORMS=cpu, or leave ACCEL=auto."
    other = {"cuda13": "try ACCEL=cuda12, ", "cuda12": "try ACCEL=cuda13, "}.get(accel, "")
    return f"look for a JAX_PLATFORMS or LD_LIBRARY_PATH that hides it, {other}or say ACCEL=cpu."


def _probe() -> tuple[str, int]:
    """JAX's default backend and its number of devices, after one matrix product on it."""
    import jax
    import jax.numpy as jnp

    ones = jnp.ones((8, 8))
    if float((ones @ ones).sum()) != 512.0:
        raise RuntimeError("a product of ones came out wrong")
    return jax.default_backend(), jax.device_count()


def main(arguments: Sequence[str] | None = None, system: System | None = None) -> int:
    """`detect [ACCEL]` prints the choice (the name on stdout, the reason on stderr); `verify ACCEL` checks JAX.

    Returns 0, or 2 after one sentence on stderr.
    """
    parser = argparse.ArgumentParser(prog="accelerator", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("detect", help="print the accelerator to install for")
    one.add_argument("accel", nargs="?", default="auto", help=f"auto (default), {', '.join(ACCELERATORS)}")
    two = commands.add_parser("verify", help="check that JAX computes on it")
    two.add_argument("accel", choices=ACCELERATORS)
    asked = parser.parse_args(arguments)
    if asked.command == "detect":
        choice = detect(asked.accel, system)
    else:
        if (
            asked.accel == "cpu"
        ):  # chosen on purpose, or nothing else is here: say so to JAX, which then stays silent
            os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ.setdefault(
            "XLA_PYTHON_CLIENT_PREALLOCATE", "false"
        )  # a check must not take the GPU's memory
        choice = verify(asked.accel, system)
    if choice.problem is not None:
        print(f"error: {choice.problem}", file=sys.stderr)
        return 2
    print(f"accelerator: {choice.accel} ({choice.why})", file=sys.stderr)
    if asked.command == "detect":
        print(choice.accel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
