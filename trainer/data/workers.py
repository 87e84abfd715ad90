"""Looking at many pictures in parallel: results in the order of the pictures, whatever the number of processes."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

from .examination import Examiner, PrepareSettings, Refusal, Taken
from .sources import Source

_AHEAD = 3  # pictures that each process has on its table


def examine_all(sources: Sequence[Source], settings: PrepareSettings) -> Iterator[Taken | Refusal]:
    """Examine pictures in `settings.workers` processes, or in this one if that is 1; results in order.

    Picture i goes to process i modulo their number. A picture that kills its process (a fault in a decoder) is refused
    and the process started again. Raises ValueError for settings that cannot be used.
    """
    if settings.workers <= 1:
        examiner = Examiner(settings)
        yield from map(examiner.examine, sources)
        return
    workers = [_Worker(settings) for _ in range(min(settings.workers, len(sources)))]
    try:
        sent = 0
        for number in range(len(sources)):
            while sent < min(len(sources), number + _AHEAD * len(workers)):
                workers[sent % len(workers)].give(sources[sent])
                sent += 1
            yield workers[number % len(workers)].result()
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """One process that examines the pictures it is given, in order."""

    def __init__(self, settings: PrepareSettings) -> None:
        self._settings = settings
        self._given: deque[Source] = deque()
        self._start()

    def give(self, source: Source) -> None:
        self._given.append(source)
        self._connection.send(source)

    def result(self) -> Taken | Refusal:
        """The outcome of the picture given first."""
        try:
            outcome = self._connection.recv()
        except (EOFError, ConnectionResetError):
            return self._after_death()
        self._given.popleft()
        return outcome

    def stop(self) -> None:
        self._connection.close()  # on which the process ends
        self._process.terminate()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # forking with a detector's threads in the parent can hang
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._settings), daemon=True)
        self._process.start()
        other.close()  # so that the end of either process is seen by the other
        try:
            complaint = self._connection.recv()
        except (EOFError, ConnectionResetError):
            complaint = "a process for reading pictures ended at once; try --workers 1"
        if complaint is not None:
            raise ValueError(complaint)

    def _after_death(self) -> Refusal:
        self._process.join()
        code = self._process.exitcode  # negative: the signal
        culprit = self._given.popleft()
        self._start()
        for source in self._given:
            self._connection.send(source)
        return Refusal(culprit.name, "unreadable picture", f"the process reading it died ({code})")


def _serve(connection: Connection, settings: PrepareSettings) -> None:
    """The life of a worker: until its parent closes the connection, or dies."""
    import torch

    torch.set_num_threads(1)
    try:
        examiner = Examiner(settings)
    except ValueError as error:
        connection.send(str(error))
        return
    connection.send(None)
    try:
        while True:
            connection.send(examiner.examine(connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return
