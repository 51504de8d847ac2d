"""`--compilation-cache`: compiled programs kept in a folder, so that the next process need not compile them again.

JAX does the keeping; a program is found again by its operations, compiler options, versions and kind of device. Code
compiled for one processor may not run on another of the same name, so every kind of machine has its own folder inside.
A time budget keeps programs without being asked, in the suite's folder: its parts of equal size are one compilation,
and the next slice goes on where compiling is most of the waiting. So does a run on an accelerator, for there a program
that is compiled anew may be another one in its last bits (its fastest kernels are chosen by trial), and a resumed run
with it. Results are the same bit for bit (measured, and tested, on CPUs); nothing else keeps anything unless told to.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparserl_jax.errors import UserError

_OPTIONS: dict[str, Any] = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


FOLDER = "compiled"
"""Where a suite's folder keeps programs under a time budget and on accelerators."""


def abilities() -> str:
    """What the processor can do, in the words of the system; "" where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def able_to(*words: str) -> str:
    """Ten hexadecimal digits for what `words` say of a machine and for what its processor can do."""
    return hashlib.sha256("|".join([*words, abilities()]).encode()).hexdigest()[:10]


def machine(system: dict[str, Any]) -> str:
    """Name of the folder of this kind of machine; `system`: what `provenance.system` says of it."""
    words = (system["platform"], system["device_kind"], system["cpu"], system["os"])
    return f"{system['platform']}-{able_to(*words)}"


def wanted(system: dict[str, Any], sliced: bool) -> bool:
    """Whether programs are to be kept where nobody asked: under a time budget (`sliced`) and on accelerators, unless
    JAX keeps them already, in a folder of the user's."""
    import jax

    config: Any = jax.config  # its options are attributes made at run time
    return (sliced or system["platform"] != "cpu") and config.jax_compilation_cache_dir is None


@contextlib.contextmanager
def used(folder: Path | None) -> Iterator[None]:
    """Keep and find compiled programs in `folder` while the block runs; nothing for None.

    Raises:
        UserError: the folder cannot be made or written.
    """
    if folder is None:
        yield
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink(missing_ok=True)  # others begin at the same time
    except OSError as error:
        raise UserError(
            f"--compilation-cache '{folder}' cannot be written ({error.strerror}); give another folder."
        ) from None
    options = {**_OPTIONS, "jax_compilation_cache_dir": str(folder.resolve())}
    config: Any = jax.config
    before = {name: getattr(config, name) for name in options}
    try:
        for name, value in options.items():
            config.update(name, value)
        compilation_cache.reset_cache()  # one that is open already would stay where it is
        yield
    finally:
        for name, value in before.items():
            config.update(name, value)
        compilation_cache.reset_cache()
