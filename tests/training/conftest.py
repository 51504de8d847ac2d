"""One small Program and its undisturbed outcomes, shared by all tests of the training package."""

import pytest

from sparserl_jax.training import Program, execute
from tests.reference import small


@pytest.fixture(scope="session")
def program():
    return small.program()


@pytest.fixture(scope="session")
def compiled(program):
    """What `program.compile()` gives, for tests that execute it more than once."""
    return program.compile()


@pytest.fixture
def compiled_once(program, compiled, monkeypatch):
    """`program` is not compiled again, however often it is executed; others are."""
    compile = Program.compile
    monkeypatch.setattr(
        Program, "compile", lambda self, *_: compiled if self is program else compile(self, *_)
    )


@pytest.fixture(scope="session")
def outcomes(program, compiled):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "compile", lambda self, *_: compiled)
        return execute(program)


@pytest.fixture
def often(monkeypatch):
    """Checkpoints after every dispatch, however long they take."""
    from sparserl_jax.training import runner

    monkeypatch.setattr(runner, "CHECKPOINT_SHARE", float("inf"))
