"""Waiting for a network or an engine, in threads that nobody has to wait for, so that a signal ends a build."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

__all__ = ["attend", "attended", "background"]

T = TypeVar("T")

_POLL = 0.1  # seconds between looks at whether the work shall end


def background(call: Callable[[], T]) -> Future[T]:
    """Call in a thread that nobody has to wait for, not even the interpreter at its end."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="background", daemon=True).start()
    return future


def attend(future: Future[T], check: Callable[[], object]) -> T:
    """Wait for what another thread does, while this one looks whether the work shall end: ``check`` raises then."""
    while not wait([future], timeout=_POLL).done:
        check()
    return future.result()


def attended(call: Callable[[], T], check: Callable[[], object]) -> T:
    """Call in another thread, and :func:`attend` to it."""
    return attend(background(call), check)
