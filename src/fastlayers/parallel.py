"""Layers made side by side: a pool of worker processes of our own, or any ``concurrent.futures`` executor."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import chain
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.sharedctypes import Synchronized
from types import FrameType
from typing import Protocol

from ._archive import TarLayer
from .errors import FastlayersError
from .layer import LayerDescriptor, LayerRecipe, LayerTask, Look, MeasuredLayer, make_layer, measure, split_recipe

__all__ = ["available_cores", "make_layers", "measure_each"]

_SMALL = 24 << 20  # bytes; an image below it is made sooner than a second process starts
_TABLES = 64 << 20  # bytes; tables of entries of all layers that are kept
_AHEAD = 64  # parts of layers that are measured ahead
_POLL = 0.1  # seconds between looks at the progress


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_each(recipes: Sequence[LayerRecipe], jobs: int) -> Generator[MeasuredLayer, None, None]:
    """Look at every entry of every layer, side by side and ahead of who asks; no file is opened.

    Tables of entries are kept as long as all of them take no more than 64 MiB.

    Raises:
        LayerError: something on disk cannot go into a layer.
    """
    parts = [split_recipe(recipe) for recipe in recipes]
    room = _TABLES
    threads = ThreadPoolExecutor(max(jobs, 1), thread_name_prefix="measure")
    try:
        tables = _measured(threads, chain.from_iterable(parts))
        for recipe, (_, *others) in zip(recipes, parts, strict=True):
            table = next(tables)
            for _ in others:
                table.add_layer(next(tables))
            room -= table.memory
            look = Look(*table.look())
            yield MeasuredLayer(recipe, table.size, table if room >= 0 else None, look)
    finally:
        threads.shutdown(cancel_futures=True)


def _measured(threads: Executor, recipes: Iterable[LayerRecipe]) -> Iterator[TarLayer]:
    """What is measured of each, in order; a few are measured ahead."""
    ahead: deque[Future[TarLayer]] = deque()
    for recipe in recipes:
        ahead.append(threads.submit(measure, recipe))
        if len(ahead) > _AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def make_layers(
    tasks: Sequence[LayerTask],
    sizes: Sequence[int],
    *,
    jobs: int,
    executor: Executor | None = None,
    waits: bool = False,
    progress: Callable[[int], object] = lambda done: None,
) -> Generator[tuple[int, LayerDescriptor], None, None]:
    """Make layers, the largest first, and give each with its index as soon as it is done.

    Closing the iterator early, or an error in one layer, stops the work on all.

    Args:
        tasks: what to make; how many threads work on each is decided here.
        sizes: bytes of each layer's tar.
        jobs: how many workers; with one, and for a small image, no process is started.
        waits: their sinks wait for others, so that also a small image has several workers; those that no core is there
            for are threads, as all of a small image's are.
        executor: takes the tasks instead of workers of our own; its processes must see the same files.
        progress: is told the bytes of tar that have been made so far, ten times a second.
    """
    total = sum(sizes)
    # A layer that is more than half of a worker's share would be waited for: what can be done beside each other is.
    tasks = [
        replace(task, threads=jobs if 2 * jobs * size > total else 1) for task, size in zip(tasks, sizes, strict=True)
    ]
    largest_first = sorted(range(len(tasks)), key=lambda i: (-sizes[i], i))
    crew: _Crew
    if executor is not None:
        crew = _Borrowed(executor)
    else:
        small = total < _SMALL
        at_once = 1 if small and not waits else min(jobs, len(tasks)) or 1
        # Who waits needs no core, so that of more workers than cores the rest are threads here.
        crew = _Workers(at_once, 1 if small else min(at_once, available_cores()) if waits else at_once)
    futures: dict[Future[LayerDescriptor], int] = {}
    try:
        futures = {crew.submit(tasks[i]): i for i in largest_first}
        finished = 0
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=_POLL, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=futures.__getitem__):
                i = futures[future]
                descriptor = future.result()
                finished += descriptor.tar_size
                yield i, descriptor
            progress(max(finished, crew.made()))
    except BrokenProcessPool:
        raise FastlayersError("a worker process died: it was killed, or ran out of memory") from None
    finally:
        crew.stop(list(futures))


class _Crew(Protocol):
    """Who does the tasks."""

    def submit(self, task: LayerTask) -> Future[LayerDescriptor]: ...

    def made(self) -> int:
        """Bytes made so far, as far as is known."""

    def stop(self, futures: Sequence[Future[LayerDescriptor]]) -> None:
        """End the work, done or not; returns when nobody works any more."""


class _Stopped(FastlayersError):
    """The work was ended from outside."""


class _Borrowed:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, task: LayerTask) -> Future[LayerDescriptor]:
        return self._executor.submit(make_layer, task)

    def made(self) -> int:
        return 0

    def stop(self, futures: Sequence[Future[LayerDescriptor]]) -> None:
        for future in futures:
            future.cancel()
        wait([future for future in futures if not future.cancelled()])


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Python's handlers of signals wait until the end.

    What they raise in the middle of starting a thread leaves one that the executor does not know of, and that nobody
    waits for. To block the signals is not enough: another thread takes them, and the handler runs here all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    held = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in held:
            signal.signal(number, lambda signum, frame: came.append((signum, frame)))
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        if came:
            signum, frame = came[0]
            held[signal.Signals(signum)](signum, frame)


class _Workers:
    """This process and others, which are started afresh, so that threads and locks of this one do no harm.

    A thread for each hands out the layers. One that finds room in this process makes its layer here, which is sooner
    than another process starts; this is how the first, and largest, one is made. Of ``jobs`` layers at once those are
    made here for which the other ``processes`` are too few.
    """

    def __init__(self, jobs: int, processes: int) -> None:
        self._threads = ThreadPoolExecutor(jobs, thread_name_prefix="layers")
        self._here = threading.Semaphore(jobs - processes + 1)
        self._counter = threading.Lock()
        self._made_here = 0
        self._stopped = False
        self._processes: ProcessPoolExecutor | None = None
        if processes > 1:
            context = multiprocessing.get_context("spawn")
            self._made = context.Value("Q", 0)
            # A byte, and no lock: a worker that is killed while it holds one would hold it for ever.
            self._stop = context.RawValue("B", 0)
            self._processes = ProcessPoolExecutor(
                processes - 1, mp_context=context, initializer=_start_worker, initargs=(self._made, self._stop)
            )

    def submit(self, task: LayerTask) -> Future[LayerDescriptor]:
        with _undisturbed():
            return self._threads.submit(self._make, task)

    def _make(self, task: LayerTask) -> LayerDescriptor:
        if self._here.acquire(blocking=False):
            try:
                return make_layer(task, self._tick)
            finally:
                self._here.release()
        assert self._processes is not None
        # Processes start here. They inherit the mask: the interrupt key reaches them too, and the first process alone
        # shall answer it and end the work in order.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            future = self._processes.submit(_work, task)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return future.result()

    def _tick(self, count: int) -> None:
        with self._counter:
            self._made_here += count
        if self._stopped:
            raise _Stopped

    def made(self) -> int:
        elsewhere = 0 if self._processes is None else int(self._made.get_obj().value)  # no lock, for the same reason
        return self._made_here + elsewhere

    def stop(self, futures: Sequence[Future[LayerDescriptor]]) -> None:
        self._stopped = True
        if self._processes is not None:
            self._stop.value = 1
        self._threads.shutdown(cancel_futures=True)
        if self._processes is not None:
            self._processes.shutdown()


# What a worker process shares with the first one; set once, when it starts.
_tick: Callable[[int], object]


def _start_worker(made: Synchronized[int], stop: ctypes.c_uint8) -> None:
    global _tick  # noqa: PLW0603
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:  # no worker outlives the process that it works for
        wait_for_any([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()

    def tick(count: int) -> None:
        with made.get_lock():
            made.value += count
        if stop.value:
            raise _Stopped

    _tick = tick


def _work(task: LayerTask) -> LayerDescriptor:
    return make_layer(task, _tick)
