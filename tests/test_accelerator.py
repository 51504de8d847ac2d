"""The accelerator is found before anything is installed, and never lost silently afterwards."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sparserl_jax import accelerator
from sparserl_jax.accelerator import System, detect, main, unseen, verify

SMI = "nvidia-smi"


def machine(
    tmp_path: Path, smi: tuple[int, str] = (127, ""), files: dict[str, str] | None = None, **environ
) -> System:
    """A faked Linux machine: what nvidia-smi answers, which files exist below the root, the environment."""
    for name, text in (files or {}).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(command: Sequence[str]) -> tuple[int, str]:
        return smi if command[0] == SMI else (127, "")

    return System(root=tmp_path, environ=environ, run=run, name="Linux", machine="x86_64")


def card(driver: str, capability: str = "9.0", count: int = 1) -> tuple[int, str]:
    return 0, f"NVIDIA Made-up 1, {driver}, {capability}\n" * count


def pci(vendor: str, device: str = "0x1234", kind: str = "0x030200") -> dict[str, str]:
    folder = "sys/bus/pci/devices/0000:01:00.0"
    return {
        f"{folder}/vendor": vendor + "\n",
        f"{folder}/device": device + "\n",
        f"{folder}/class": kind + "\n",
    }


@pytest.mark.parametrize(
    ("driver", "capability", "accel"),
    [
        ("580.65.06", "9.0", "cuda13"),
        ("610.10", "7.5", "cuda13"),
        ("575.57.08", "9.0", "cuda12"),
        ("525.60.13", "8.0", "cuda12"),
        ("580.65.06", "7.0", "cuda12"),  # CUDA 13 has no code for Volta
    ],
)
def test_driver_and_capability_choose_the_cuda_generation(tmp_path, driver, capability, accel):
    choice = detect(system=machine(tmp_path, card(driver, capability)))
    assert (choice.accel, choice.problem) == (accel, None)
    assert driver in choice.why


@pytest.mark.parametrize(
    ("smi", "word"), [(card("470.256.02"), "too old"), (card("580.1", "3.5"), "compute capability")]
)
def test_gpu_no_wheel_can_use_is_refused_in_one_sentence(tmp_path, smi, word):
    problem = detect(system=machine(tmp_path, smi)).problem
    assert problem is not None and word in problem and "ACCEL=cpu" in problem and "\n" not in problem


def test_lowest_capability_of_several_gpus_counts(tmp_path):
    both = 0, card("580.1", "9.0")[1] + card("580.1", "7.0")[1]
    assert detect(system=machine(tmp_path, both)).accel == "cuda12"


def test_driver_file_and_device_file_replace_nvidia_smi(tmp_path):
    version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
    files = {"proc/driver/nvidia/version": version, "dev/nvidia0": "", "dev/nvidiactl": ""}
    assert detect(system=machine(tmp_path, files=files)).accel == "cuda13"


def test_host_driver_without_a_device_in_the_container_is_a_cpu(tmp_path):
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22\n"
    system = machine(tmp_path, files={"proc/driver/nvidia/version": version})
    assert detect(system=system) == accelerator.Choice("cpu", "no NVIDIA GPU, no TPU")


def test_driver_that_does_not_answer_is_an_error_not_a_cpu(tmp_path):
    problem = detect(system=machine(tmp_path, (9, ""), pci(accelerator.NVIDIA))).problem
    assert problem is not None and "driver" in problem


def test_card_without_any_driver_is_a_cpu_and_said(tmp_path):
    choice = detect(system=machine(tmp_path, files=pci(accelerator.NVIDIA)))
    assert choice.accel == "cpu" and choice.problem is None and "PCI" in choice.why


@pytest.mark.parametrize("environ", [{"CUDA_VISIBLE_DEVICES": ""}, {"JAX_PLATFORMS": "cpu"}])
def test_hiding_the_gpu_is_a_choice(tmp_path, environ):
    choice = detect(system=machine(tmp_path, card("580.1"), **environ))
    assert (choice.accel, choice.problem) == ("cpu", None)


@pytest.mark.parametrize(
    ("files", "environ"),
    [
        ({}, {"TPU_NAME": "mine"}),
        ({"dev/accel0": ""}, {}),
        (pci(accelerator.GOOGLE, "0x0063", "0x120000"), {}),
        ({"usr/lib/libtpu.so": ""}, {}),
    ],
)
def test_tpu_is_found(tmp_path, files, environ):
    assert detect(system=machine(tmp_path, files=files, **environ)).accel == "tpu"


@pytest.mark.parametrize(
    "files", [{}, {"dev/accel/accel0": ""}, pci(accelerator.GOOGLE, "0x0042", "0x020000")]
)
def test_other_devices_are_not_tpus(tmp_path, files):
    assert detect(system=machine(tmp_path, files=files)).accel == "cpu"


@pytest.mark.parametrize("accel", accelerator.ACCELERATORS)
def test_user_overrules_detection(tmp_path, accel):
    assert detect(accel, machine(tmp_path, card("470.1"))).accel == accel


def test_unknown_accelerator_is_refused(tmp_path):
    problem = detect("cuda11", machine(tmp_path)).problem
    assert problem is not None and "cuda11" in problem and "cuda12" in problem


def test_cuda_on_another_system_is_refused(tmp_path):
    system = System(tmp_path, {}, lambda command: card("580.1"), name="Windows", machine="AMD64")
    assert "Linux" in (detect(system=system).problem or "")


def test_gpu_that_jax_does_not_see_is_an_error(tmp_path):
    shown = machine(tmp_path, card("580.1"))
    problem = unseen(shown, backend="cpu")
    assert problem is not None and "cuda13" in problem and "\n" not in problem
    assert unseen(shown, backend="gpu") is None
    assert unseen(machine(tmp_path), backend="cpu") is None
    assert unseen(machine(tmp_path, card("580.1"), JAX_PLATFORMS="cpu"), backend="cpu") is None


def test_verify_refuses_another_backend_and_a_failing_one(tmp_path):
    def fails() -> tuple[str, int]:
        raise RuntimeError("no backend\nlong story")

    shown = machine(tmp_path, card("580.1", count=4))
    assert verify("cuda13", shown, lambda: ("cpu", 1)).problem is not None
    assert verify("cpu", shown, lambda: ("cpu", 1)).problem is None
    problem = verify("tpu", shown, fails).problem
    assert problem is not None and "no backend" in problem and "long story" not in problem
    seen = verify("cuda13", shown, lambda: ("gpu", 2))
    assert seen.problem is None and "2 gpu devices of 4" in seen.why


def test_command_line_prints_the_name_alone_on_stdout(tmp_path, capsys):
    assert main(["detect"], machine(tmp_path, card("580.1"))) == 0
    out, err = capsys.readouterr()
    assert out == "cuda13\n" and "580.1" in err


def test_command_line_refuses_with_code_two_and_one_line(tmp_path, capsys):
    assert main(["detect"], machine(tmp_path, card("400.1"))) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1


def test_runs_as_a_script_before_anything_is_installed():
    script = Path(accelerator.__file__)
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script), "detect", "cpu"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "cpu\n")


# ---- CPUs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "devices"),
    [
        ({}, str(accelerator.cores())),
        ({"JAX_NUM_CPU_DEVICES": "3"}, "3"),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, None),
    ],
)
def test_every_core_is_a_device_unless_the_user_says_otherwise(monkeypatch, given, devices):
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    accelerator.device_per_core()
    assert os.environ.get("JAX_NUM_CPU_DEVICES") == devices


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the choice is glibc's")
@pytest.mark.parametrize("by", ["its first thread", "another thread"])
def test_freed_memory_is_kept(by):
    """Pages that a process is given while it takes and frees 80 MiB in two pieces, twenty times: few if kept."""
    program = (
        "import resource, sys, threading, numpy as np\n"
        "from sparserl_jax import accelerator\n"
        "if sys.argv[1] == 'kept': accelerator.keep_freed_memory()\n"
        "def take(times):\n"
        "    for _ in range(times): [np.ones(5 << 20) for _ in range(2)]\n"
        "def work():\n"
        "    take(1)\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    take(20)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
        "if sys.argv[2] == 'another thread':\n"
        "    thread = threading.Thread(target=work)\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "else: work()\n"
    )

    def faults(way: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", program, way, by], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    kept, given_back = faults("kept"), faults("not")
    assert kept * 10 < given_back, (kept, given_back)


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),  # half a core
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ({}, None),
    ],
)
def test_a_container_has_the_cores_of_its_quota(tmp_path, files, most):
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert accelerator.cores(machine(tmp_path, files=files)) == (free if most is None else most)


JOB = "slurm/job_7"


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
        # A container sees its own group as the root; files that the system could drop count as free.
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "1000\n",
                "sys/fs/cgroup/memory.current": "700\n",
                "sys/fs/cgroup/memory.stat": "anon 500\ninactive_file 150\n",
            },
            450,
        ),
        # The limit may be of a group around that of the process.
        (
            {
                "proc/self/cgroup": f"0::/{JOB}/step_0\n",
                f"sys/fs/cgroup/{JOB}/step_0/memory.max": "max\n",
                f"sys/fs/cgroup/{JOB}/step_0/memory.current": "600\n",
                f"sys/fs/cgroup/{JOB}/memory.max": "1000\n",
                f"sys/fs/cgroup/{JOB}/memory.current": "900\n",
            },
            100,
        ),
        (
            {
                "proc/self/cgroup": f"4:memory:/{JOB}\n1:cpu,cpuacct:/\n",
                f"sys/fs/cgroup/memory/{JOB}/memory.limit_in_bytes": "1000\n",
                f"sys/fs/cgroup/memory/{JOB}/memory.usage_in_bytes": "1200\n",
            },
            0,
        ),
    ],
)
def test_a_job_has_the_memory_that_its_limit_leaves(tmp_path, files, left):
    assert accelerator.job_memory(machine(tmp_path, files=files)) == left
