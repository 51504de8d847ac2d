"""Ctrl-C and SIGTERM (of a scheduler, with seconds of grace), held back where they would find the state in pieces."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], object]


@contextlib.contextmanager
def handled(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    """Signals have these handlers while the block runs. Outside the main thread, where signals do not arrive, nothing
    is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Hold signals back while the state is in pieces (buffers donated, step not counted, curve point not kept); what
    handles them otherwise is called at the end. A signal that nobody handles ends the process at once, as ever.
    """
    held: list[tuple[int, FrameType | None]] = []
    usual = {number: signal.getsignal(number) for number in SIGNALS}
    heard = {number: handler for number, handler in usual.items() if callable(handler)}
    with handled(dict.fromkeys(heard, lambda number, frame: held.append((number, frame)))):
        yield
    if held:
        heard[signal.Signals(held[0][0])](*held[0])
