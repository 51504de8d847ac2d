"""The command line; `sparserl --help` lists the commands.

Exit codes: 0 done; 1 `check` or `conformance` found problems, or `evaluate` other numbers than the record's; 2 a
mistake in the input, told in one sentence; 3 the time budget is used up (run again to go on); 130 Ctrl-C or SIGTERM
(run again to go on).
"""

from __future__ import annotations

import dataclasses
import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from sparserl_jax.accelerator import device_per_core, keep_freed_memory
from sparserl_jax.arguments import (
    Bench,
    Check,
    Collect,
    Command,
    Compare,
    Conformance,
    Danger,
    Datasets,
    Decompose,
    Evaluate,
    Export,
    Inspect,
    List,
    Paper,
    PlanSuite,
    Plot,
    Profile,
    Publish,
    Stamp,
    Table,
    Train,
    Tune,
    Unpack,
)
from sparserl_jax.bench.paths import at_home
from sparserl_jax.commands import read, train
from sparserl_jax.commands.console import console
from sparserl_jax.errors import ACCESS, DISK, PLACE, UserError

if TYPE_CHECKING:
    from rich.console import Console

_COMMANDS: dict[type, Callable[[Any, Console], int]] = {
    Bench: train.bench,
    PlanSuite: train.plan,
    Tune: train.tune,
    Profile: train.profile,
    Stamp: train.stamp,
    Unpack: train.unpack,
    Check: read.check,
    Publish: read.publish,
    Compare: read.compare,
    Paper: train.paper,
    Train: train.train,
    Evaluate: read.evaluate,
    Collect: read.collect,
    Datasets: train.datasets,
    Inspect: read.inspect,
    Export: read.export,
    Decompose: read.decompose,
    Danger: read.danger,
    Table: read.table,
    Plot: read.plot,
    Conformance: read.conformance,
    List: read.listing,
}


def _at_home(command: Any) -> Any:
    """A command with `~` in its paths expanded, which shells leave where it stands behind `--out=`."""

    def expanded(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(expanded, value))
        return at_home(value) if isinstance(value, Path) else value

    found = {field.name: getattr(command, field.name) for field in dataclasses.fields(command)}
    return dataclasses.replace(command, **{name: expanded(value) for name, value in found.items()})


def run(arguments: Sequence[str] | None = None) -> int:
    """Execute a command line; returns the exit code. Mistakes in the form of the arguments raise `SystemExit(2)`."""
    command = tyro.cli(Command, prog="sparserl", description="Sparse deep RL in JAX.", args=arguments)  # type: ignore[call-overload]
    from sparserl_jax.bench.progress import ended_as_interrupted
    from sparserl_jax.bench.run import EXIT_INTERRUPTED, EXIT_USER, Unfinished

    try:
        with ended_as_interrupted():
            return _COMMANDS[type(command)](_at_home(command), console())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    except Unfinished as stop:
        print(str(stop), file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno in ACCESS and error.filename is not None:
            told = f"'{error.filename}': {error.strerror}; allow it to be read and written, or choose another place."
        elif error.errno in PLACE and error.filename is not None:
            told = f"'...{str(error.filename)[-80:]}' leads nowhere ({error.strerror}); check the path."
        elif error.errno == errno.EISDIR and error.filename is not None:
            told = f"'{error.filename}' is a folder where a file is to be; move it away."
        elif error.errno in DISK:
            told = f"{error.strerror}: make room and run the same command again; what is finished is kept."
        else:
            raise
        print(f"error: {told}", file=sys.stderr)
        return EXIT_USER


def main() -> None:
    """Entry point of the console script."""
    device_per_core()
    keep_freed_memory()
    sys.exit(run())


if __name__ == "__main__":
    main()
