"""What every test may rely on, however pytest was started."""

import gc
import os
import platform
import resource
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from sparserl_jax.bench import cache

# The usual tests draw the same examples every time: a red one says something about the change, not about luck. The long
# ones (`make test-properties`) draw new ones, and many.
settings.register_profile("usual", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("usual")


COMPILED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparserl_jax" / "tests"
"""Programs that tests compiled, for the tests after them, processes that they start, and the next `make test`."""

COMPILED_MOST = 4 << 30
"""Bytes of `COMPILED` at which it is begun anew."""


def pytest_configure(config: pytest.Config) -> None:
    """Two thirds of the time of the tests is XLA's: what was compiled is kept, unless the environment says otherwise.

    Before JAX is imported, for it reads these only then; started processes inherit them.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    if (
        not hasattr(config, "workerinput")
        and sum(path.stat().st_size for path in COMPILED.rglob("*-cache")) > COMPILED_MOST
    ):
        shutil.rmtree(COMPILED)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED / cache.able_to(platform.machine()))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.02"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_is_heard():
    """A shell starts background jobs with SIGINT ignored, and children inherit that: make it audible."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


ENOUGH = 2 << 30
"""Bytes of memory at which compiled programs are forgotten: hundreds of tests leave several gigabytes of them."""


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_do_not_pile_up():
    """Forget what was compiled once it fills the memory of a small machine; what is needed again is compiled again."""
    yield
    if resident() > ENOUGH:
        import jax

        jax.clear_caches()
        gc.collect()


def resident() -> int:
    """Bytes of memory this process holds; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return 0
