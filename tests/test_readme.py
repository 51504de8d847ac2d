"""The README's programs run as printed, and its table is the published one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Code blocks of one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(code: str, folder: Path) -> str:
    """Run a program of the README in an empty folder, as a user would."""
    file = folder / "program.py"
    file.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, file.name], cwd=folder, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_own_environment_example_runs_as_printed(tmp_path: Path) -> None:
    example = blocks("python")[1]
    assert len(example.splitlines()) <= 32
    out = run(example, tmp_path)
    assert "| set | 0.8 |" in out


@pytest.mark.slow
def test_the_five_line_example_runs(tmp_path: Path) -> None:
    five = blocks("python")[0].replace("steps=20_000", "steps=2_000").replace("seeds=4", "seeds=2")
    assert len([line for line in five.splitlines() if line]) <= 5
    assert "rigl" in run(five, tmp_path)


def test_every_command_it_names_exists() -> None:
    named = set(re.findall(r"^sparserl (\w+)", README, flags=re.MULTILINE))
    help_text = subprocess.run(
        [sys.executable, "-m", "sparserl_jax.cli", "--help"], capture_output=True, text=True, timeout=120
    ).stdout
    assert named
    assert all(command in help_text for command in named)
