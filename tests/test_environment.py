"""`make` counts the virtual environment as made only when it is, and refuses what cannot work in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Answers questions with the real Python, but only notes down what would install something.
FAKE = """#!/bin/sh
case "$1 $2" in
  "-m venv") echo venv >>"{log}"; mkdir -p "$3/bin"; touch "$3/pyvenv.cfg"; cp "$0" "$3/bin/python"; exit 0 ;;
  "-m pip") echo "pip $*" >>"{log}"; [ ! -e "{log}.no_pip" ] ;;
  "-m sparserl_jax.accelerator") echo "verify $4" >>"{log}"; [ ! -e "{log}.no_jax" ] ;;
  *) exec "{python}" "$@" ;;
esac
"""


class Workshop:
    """A faked Python, a log of what it was asked to do, and a place for the environment."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.venv = folder / "venv"
        self.python = folder / "python"
        self.script(FAKE.format(log=self.log, python=sys.executable))

    def script(self, text: str) -> None:
        self.python.write_text(text)
        self.python.chmod(0o755)

    def make(self, extra: str = "", accel: str = "cpu") -> tuple[int, list[str], str]:
        """Exit code, what was done, what was said."""
        self.log.unlink(missing_ok=True)
        command = ["sh", ".ci/environment", str(self.python), accel, str(self.venv)] + [extra] * bool(extra)
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        steps = self.log.read_text().splitlines() if self.log.exists() else []
        return done.returncode, [step.split()[0] for step in steps], done.stderr


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    if sys.version_info[:2] not in ((3, 11), (3, 12)) or not (ROOT / ".ci" / "environment").exists():
        pytest.skip("needs a checkout and a supported Python")
    return Workshop(tmp_path)


def test_environment_is_made_once(workshop):
    assert workshop.make()[:2] == (0, ["venv", "pip", "verify"])
    assert workshop.make()[:2] == (0, [])
    assert (workshop.venv / ".accel").read_text() == "cpu\n"


def test_extra_is_added_on_top_once(workshop):
    workshop.make()
    assert workshop.make("dev")[:2] == (0, ["pip", "verify"])
    assert workshop.make("dev")[:2] == workshop.make()[:2] == (0, [])


def test_environment_without_its_stamp_is_made_again(workshop):
    workshop.make()
    for stamp in workshop.venv.glob(".stamp-*"):
        stamp.unlink()
    assert workshop.make()[1] == ["venv", "pip", "verify"]


def test_other_accelerator_makes_it_again_and_forgets_the_old_stamp(workshop):
    workshop.make()
    assert workshop.make(accel="cuda12")[1] == ["venv", "pip", "verify"]
    assert workshop.make(accel="cpu")[1] == ["venv", "pip", "verify"]


def test_what_was_made_for_another_accelerator_is_not_thrown_away_unasked(workshop):
    """A job on a node with a GPU may run from it, while somebody types make on one without."""
    workshop.make(accel="cuda12")
    code, steps, said = workshop.make(accel="auto")
    assert (code, steps) == (2, []) and said.count("error: ") == 1
    assert "is made for cuda12, and this machine has cpu: say ACCEL=cpu to make it anew, or VENV=" in said
    assert (workshop.venv / ".accel").read_text() == "cuda12\n"
    workshop.make(accel="cpu")
    assert workshop.make(accel="auto")[:2] == (0, [])


def test_cleaning_removes_an_environment_only_if_make_made_it(tmp_path: Path):
    def cleaned(name: str, *files: str) -> bool:
        venv = tmp_path / name
        venv.mkdir()
        for file in ("pyvenv.cfg", *files):
            (venv / file).touch()
        lines = (ROOT / "Makefile").read_text().partition("\nclean:")[2].splitlines()
        command = lines[1].strip().removeprefix("@").replace("$(VENV)", str(venv))
        subprocess.run(["sh", "-c", command], check=True)
        return not venv.exists()

    assert cleaned("made", ".accel") and cleaned("half", ".unfinished") and not cleaned("foreign")


@pytest.mark.parametrize("broken", ["no_pip", "no_jax"])
def test_failed_installation_or_check_leaves_no_stamp(workshop, broken):
    flag = Path(f"{workshop.log}.{broken}")
    flag.touch()
    code, _, said = workshop.make()
    assert code == 2 and not list(workshop.venv.glob(".stamp-*"))
    assert ("error: " in said) == (broken == "no_pip")  # the accelerator check prints its own sentence
    flag.unlink()
    assert workshop.make()[:2] == (0, ["venv", "pip", "verify"])


def test_extra_that_cannot_be_installed_leaves_what_was_there(workshop):
    """Without a network `make test` fails, and `make bench` works as before."""
    workshop.make()
    Path(f"{workshop.log}.no_pip").touch()
    assert workshop.make("dev")[:2] == (2, ["pip"])
    assert workshop.make()[:2] == (0, [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\necho 3.9\n", "is Python 3.9, and sparserl_jax needs 3.11 or 3.12"),
        ("#!/bin/sh\necho 3.13\n", "is Python 3.13"),
        ("#!/bin/sh\nexit 127\n", "does not run"),
        ('#!/bin/sh\ncase "$2" in *venv*) exit 1 ;; *) echo 3.11 ;; esac\n', "has no venv module"),
    ],
)
def test_unsuitable_python_is_refused_in_one_sentence(workshop, text, words):
    workshop.script(text)
    code, steps, said = workshop.make()
    assert (code, steps) == (2, [])
    assert words in said and said.count("\n") == 1 and not workshop.venv.exists()


def test_folder_that_is_no_environment_is_not_cleared(workshop):
    workshop.venv.mkdir()
    (workshop.venv / "thesis.txt").write_text("years of work")
    (workshop.venv / "pyvenv.cfg").touch()  # an environment, but somebody else's
    code, steps, said = workshop.make()
    assert code == 2 and steps == [] and "not a virtual environment that make has made" in said
    assert (workshop.venv / "thesis.txt").exists()


def test_extras_are_those_of_the_package_several_at_once(workshop):
    assert workshop.make("dev, gymnasium")[:2] == (0, ["venv", "pip", "verify"])
    assert workshop.make("dev gymnasium")[:2] == workshop.make(" dev,gymnasium ")[:2] == (0, [])
    code, steps, said = workshop.make("mujoco")
    assert (code, steps) == (2, []) and "EXTRA: no extra mujoco; there are " in said and "gymnasium" in said
    assert said.count("\n") == 1


def test_a_place_with_a_blank_is_refused(workshop, tmp_path):
    workshop.venv = tmp_path / "my env"
    code, steps, said = workshop.make()
    assert (code, steps) == (2, []) and "has a blank in it" in said and not workshop.venv.exists()
