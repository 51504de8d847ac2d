"""What is installed is what is declared, the wheel holds the package and its suites, and nothing names a machine."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
VERSIONS = {"py311": "3.11", "py312": "3.12"}


def pins(name: str) -> dict[str, str]:
    """Pinned versions of a constraints file, by canonical name."""
    lines = [
        line.split("#")[0].strip() for line in (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()
    ]
    found = {}
    for line in filter(None, lines):
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "==" and requirement.url is None, line
        found[canonicalize_name(requirement.name)] = pin.version
    return found


def shipped_files() -> list[Path]:
    """Files that are or could be committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for line in done.stdout.splitlines() if (path := ROOT / line).is_file()]


def test_console_script_and_extras_are_declared():
    assert PROJECT["scripts"] == {"sparserl": "sparserl_jax.cli:main"}
    optional = {"gymnasium", "playground", "offline"}
    assert set(EXTRAS) >= {"cuda12", "cuda13", "tpu", "dev"} | optional
    assert "six" in {
        Requirement(line).name for line in PROJECT["dependencies"]
    }  # gymnax forgets to declare it


@pytest.mark.parametrize("name", VERSIONS)
def test_constraints_satisfy_every_declared_range(name):
    pinned = pins(name)
    for line in PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra]:
        requirement = Requirement(line)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} has no pin in {name}"
        assert version in requirement.specifier, f"{requirement} against {version} in {name}"


def test_the_two_pythons_are_tested_with_two_generations_of_jax():
    assert {name: pins(name)["jax"].rsplit(".", 1)[0] for name in VERSIONS} == {
        "py311": "0.10",
        "py312": "0.11",
    }
    for name, version in VERSIONS.items():
        assert version + ".1" in Requirement(f"python{PROJECT['requires-python']}").specifier, name


def test_cpu_installation_draws_in_no_cuda():
    for line in PROJECT["dependencies"]:
        assert not re.search("cuda|nvidia|tpu", line), line


def test_every_third_party_import_is_declared():
    """The package imports only what it declares: a clean environment has nothing else to offer. An emulator whose wheel
    holds somebody's games is no extra of ours: who has the right to it installs it."""
    # An optional package that is not installed here cannot say under which name it is imported.
    provided = {"mujoco_playground": ["playground"], **importlib.metadata.packages_distributions()}
    lines = PROJECT["dependencies"] + [
        line for extra, lines in EXTRAS.items() if extra != "dev" for line in lines
    ]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    undeclared = {}
    for path in sorted((ROOT / "sparserl_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            else:
                continue
            for top in {name.partition(".")[0] for name in names} - {
                "sparserl_jax",
                *sys.stdlib_module_names,
            }:
                owners = {canonicalize_name(owner) for owner in provided.get(top, [top])}
                if top != "jaxlib" and not owners & declared:
                    undeclared[top] = str(path.relative_to(ROOT))
    assert undeclared.keys() <= {"gym_super_mario_bros", "nes_py"}, undeclared


def test_no_file_names_a_machine_or_a_package_registry():
    """Installing is a plain `pip install`, whatever mirror the user's pip knows; results carry nobody's paths."""
    hosts = [r"py[p]i\.(org|python)", "python[h]osted", r"anacond[a]\.(org|com)"]
    flags = [r"(?<!\w)--(extra-)?index-[u]rl", "find-[l]inks", "trusted-[h]ost"]
    places = ["/" + place + "/" for place in ("root", "work", r"opt/pypi\S*", "opt/wheels", r"tmp/v3\d\d")]
    homes = [r"/(home|Users)/" + r"\w+/"]
    forbidden = re.compile("|".join([*hosts, *flags, *(r"(?<![\w./*])" + place for place in places + homes)]))
    found = []
    for path in shipped_files():
        if path.suffix in {".png", ".npz", ".pdf", ".gz"} or path.stat().st_size > 5_000_000:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if match := forbidden.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not found


def test_wheel_holds_the_package_and_its_suites_only(tmp_path):
    """Built from the checkout, the wheel finds the shipped suites from any folder."""
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {name.split("/")[0] for name in names} == {
        "sparserl_jax",
        f"sparserl_jax-{PROJECT['version']}.dist-info",
    }
    assert "sparserl_jax/py.typed" in names and not [name for name in names if "__pycache__" in name]
    for suite in (ROOT / "benchmarks" / "suites").glob("*.toml"):
        assert f"sparserl_jax/_data/suites/{suite.name}" in names
    asked = [
        line.split('"')[1].removeprefix("shipped:")
        for suite in (ROOT / "benchmarks" / "suites").glob("*.toml")
        for line in suite.read_text(encoding="utf-8").splitlines()
        if line.startswith('dataset = "shipped:')
    ]
    assert asked and all(f"sparserl_jax/_data/datasets/{name}.npz" in names for name in asked)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from sparserl_jax.bench import paths\n"
        "assert paths.checkout() is None\n"
        "print(paths.suite_path('quick'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == str(
        tmp_path / "site" / "sparserl_jax" / "_data" / "suites" / "quick.toml"
    ), done.stderr
