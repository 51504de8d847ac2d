"""What a running Program tells whoever watches it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives news of an execution; implementations draw bars, write logs, or do nothing."""

    def stage(self, program: str, text: str) -> None:
        """Something other than training goes on: compiling a stage, restoring, final evaluation."""

    def advance(self, program: str, step: int, steps: int) -> None:
        """Environment step `step` of `steps` has been reached."""

    def score(self, program: str, step: int, returns: list[float]) -> None:
        """Mean evaluation return of every member at `step`."""

    def warn(self, program: str, text: str) -> None:
        """A sentence the user should read."""


class Silent:
    """Progress that shows nothing."""

    def stage(self, program: str, text: str) -> None:
        """Ignored."""

    def advance(self, program: str, step: int, steps: int) -> None:
        """Ignored."""

    def score(self, program: str, step: int, returns: list[float]) -> None:
        """Ignored."""

    def warn(self, program: str, text: str) -> None:
        """Ignored."""
