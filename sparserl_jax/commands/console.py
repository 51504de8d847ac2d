"""Where commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Standard output; logs and pipes get room for the whole table."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=200)


def say(console: Console, *lines: str) -> None:
    """Lines as they are."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
