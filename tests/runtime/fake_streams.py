"""Streams, events and graphs of the fake driver.

By default everything happens at once. A `Lazy` schedule puts work off as a GPU may: what is queued on a stream waits
until somebody waits for it, or happens at any time before, in any order that streams and events leave open. A program
that orders its work too little then computes something else for some seed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LaunchRecord:
    """A launch as it was asked for: parameter values as integers (tensor maps as `MapRecord`), the two scratch pointers
    at the end. programmatic: whether it may begin before the launch in front of it has ended."""

    name: str
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    values: tuple[Any, ...]
    programmatic: bool = False


@dataclass(eq=False)
class Mark:
    """A point on a stream that an event has recorded. clock: milliseconds when it was reached."""

    stream: Stream
    reached: bool = False
    clock: float = 0.0


@dataclass(eq=False)
class Event:
    mark: Mark | None = None


@dataclass(eq=False)
class Stream:
    """after_launch: whether what was queued last is a launch of a kernel. queue: what has not happened yet."""

    capturing: list[LaunchRecord] | None = None
    after_launch: bool = False
    queue: deque[Work] = field(default_factory=deque)


@dataclass(eq=False)
class Work:
    """Something that a stream will do, when ``after`` has been reached. host: address in host memory that it uses."""

    action: Callable[[], None]
    after: Mark | None = None
    host: int = 0


@dataclass
class Graph:
    launches: list[LaunchRecord] = field(default_factory=list)


class Immediate:
    """Everything happens when it is queued."""

    def queue(self, stream: Stream | None, work: Work) -> None:
        work.action()

    def drain(self, stream: Stream | None) -> None: ...

    def finish(self, mark: Mark) -> None:
        assert mark.reached

    def drain_all(self) -> None: ...

    def uses(self, host: int) -> bool:
        return False


class Lazy:
    """Work happens as late as possible, or now and then a piece of it somewhat earlier. ``seed`` chooses how often, and
    which streams are slow."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._eagerness = self._random.choice((0.0, 0.5, 0.9))
        self._streams: dict[Stream, float] = {}

    def queue(self, stream: Stream | None, work: Work) -> None:
        if stream is None:
            self.drain_all()
            work.action()
            return
        self._streams.setdefault(stream, self._random.choice((0.01, 0.1, 1.0)))
        stream.queue.append(work)
        while self._random.random() < self._eagerness:
            self._step(*self._random.choices(list(self._streams), list(self._streams.values())))

    def _step(self, stream: Stream) -> None:
        """The next piece of work of a stream, if it need not wait."""
        if stream.queue and (stream.queue[0].after is None or stream.queue[0].after.reached):
            stream.queue.popleft().action()

    def drain(self, stream: Stream | None) -> None:
        if stream is None:
            self.drain_all()
            return
        while stream.queue:
            after = stream.queue[0].after
            if after is not None:
                self.finish(after)
            stream.queue.popleft().action()

    def finish(self, mark: Mark) -> None:
        """All that is in front of a mark, and what that waits for."""
        while not mark.reached:
            after = mark.stream.queue[0].after
            if after is not None:
                self.finish(after)
            mark.stream.queue.popleft().action()

    def drain_all(self) -> None:
        for stream in list(self._streams):
            self.drain(stream)

    def uses(self, host: int) -> bool:
        """Whether work that has not happened yet uses host memory at an address."""
        return any(work.host == host for stream in self._streams for work in stream.queue)
