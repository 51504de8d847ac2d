"""The page that says how to make a row again names all on which its numbers depend."""

from __future__ import annotations

from pathlib import Path

from sparserl_jax.bench import reproduce, summary
from tests.bench import fake


def page(root: Path, **system) -> list[str]:
    """Lines about programs, of a folder that was computed on such a machine."""
    arms = [{"recipe": "dense"}, {"recipe": "rlx2"}]
    fake.finished(root, fake.make_plan(environments=fake.SUITE["environments"][:1], arms=arms))
    found = summary.summarise(root)
    for record in found.records:
        record["provenance"]["system"] |= system
        record["provenance"]["system"].pop("cpu_vectors", None)
    programs = {record["provenance"]["program"] for record in found.records}
    lines = reproduce.page(found).splitlines()
    return [line for line in lines for name in programs if line.startswith(f"| {name} |")]


def test_programs_say_on_how_many_devices_they_were_computed(tmp_path: Path):
    cpu = page(tmp_path / "cpu", platform="cpu", cpu="Abacus", cpu_count=4, device_count=3)
    assert cpu and all(line.endswith("` | 4 cores of Abacus, `JAX_NUM_CPU_DEVICES=3` |") for line in cpu)
    one = page(tmp_path / "one", platform="cpu", cpu="Abacus", cpu_count=1, device_count=1)
    assert one[0].endswith("` | 1 core of Abacus, `JAX_NUM_CPU_DEVICES=1` |")
    gpu = page(tmp_path / "gpu", platform="gpu", device_kind="Orrery", device_count=2)
    assert gpu[0].endswith("` | 2 x Orrery (matrix products: default) |")
