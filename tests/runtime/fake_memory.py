"""Memory of the fake driver: host memory between guard bands, copies that really copy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fake_streams import Immediate, Lazy, Stream, Work

OUT_OF_MEMORY, NO_DEVICE, INVALID_VALUE, INVALID_IMAGE, NO_BINARY, ILLEGAL_ADDRESS = 2, 100, 1, 200, 209, 700
GUARD = 512


class Status(Exception):
    """An error code on its way out of a fake function."""


@dataclass
class Allocation:
    memory: Any
    pointer: int
    nbytes: int

    @property
    def intact(self) -> bool:
        """Whether the bands before and after still hold what was put there."""
        before = ctypes.string_at(self.pointer - GUARD, GUARD)
        after = ctypes.string_at(self.pointer + self.nbytes, GUARD)
        return before == after == b"\xa5" * GUARD


class Memory:
    """The functions of the driver that are about memory. The driver's own state is that of `fake_driver.FakeDriver`."""

    allocations: dict[int, Allocation]
    host_memory: dict[int, Any]
    schedule: Immediate | Lazy
    violations: list[str]
    memory_size: int
    used: int
    _stuck: int

    # -- Memory

    def _cuMemAlloc(self, nbytes: int) -> int:
        if nbytes <= 0:
            raise Status(INVALID_VALUE)
        if self.used + nbytes > self.memory_size:
            raise Status(OUT_OF_MEMORY)
        memory = (ctypes.c_char * (nbytes + 3 * GUARD))()
        pointer = (ctypes.addressof(memory) + 2 * GUARD - 1) // GUARD * GUARD
        ctypes.memset(pointer - GUARD, 0xA5, nbytes + 2 * GUARD)
        ctypes.memset(pointer, 0xFF, nbytes)
        self.allocations[pointer] = Allocation(memory, pointer, nbytes)
        return pointer

    def _cuMemFree(self, pointer: int) -> None:
        self.schedule.drain_all()
        if not self.allocations[pointer].intact:
            self.violations.append("a guard band was overwritten")
        del self.allocations[pointer]

    def _cuMemHostAlloc(self, nbytes: int, flags: int) -> int:
        if nbytes <= 0 or flags:
            raise Status(INVALID_VALUE)
        memory = (ctypes.c_char * nbytes)()
        self.host_memory[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def _cuMemFreeHost(self, pointer: int) -> None:
        if self.schedule.uses(pointer):
            self.violations.append("page-locked memory was freed before it was used")
        del self.host_memory[pointer]

    def _cuMemGetInfo(self) -> tuple[int, int]:
        return self.memory_size - self.used, self.memory_size

    def _inside(self, pointer: int, nbytes: int) -> bool:
        live = self.allocations.values()
        return any(a.pointer <= pointer and pointer + nbytes <= a.pointer + a.nbytes for a in live)

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            self.violations.append(what)
            self._stuck = ILLEGAL_ADDRESS
            raise Status(ILLEGAL_ADDRESS)

    def _cuMemsetD8Async(self, pointer: int, value: int, nbytes: int, stream: Stream | None) -> None:
        self._require(self._inside(pointer, nbytes), "memset outside of memory")
        self._queue(stream, lambda: ctypes.memset(pointer, value, nbytes))

    def _cuMemcpyHtoDAsync(self, pointer: int, host: int, nbytes: int, stream: Stream | None) -> None:
        """Memory that is not page-locked is read before the call returns."""
        self._require(self._inside(pointer, nbytes), "copy to outside of memory")
        if host in self.host_memory:
            self._queue(stream, lambda: ctypes.memmove(pointer, host, nbytes), host)
        else:
            data = ctypes.string_at(host, nbytes)
            self._queue(stream, lambda: ctypes.memmove(pointer, data, nbytes))

    def _cuMemcpyDtoHAsync(self, host: int, pointer: int, nbytes: int, stream: Stream | None) -> None:
        self._require(self._inside(pointer, nbytes), "copy from outside of memory")
        self._queue(stream, lambda: ctypes.memmove(host, pointer, nbytes), host)

    def _cuMemcpyDtoDAsync(self, target: int, source: int, nbytes: int, stream: Stream | None) -> None:
        self._require(self._inside(target, nbytes) and self._inside(source, nbytes), "copy outside of memory")
        self._queue(stream, lambda: ctypes.memmove(target, source, nbytes))

    def _queue(self, stream: Stream | None, action: Callable[[], Any], host: int = 0) -> None:
        if stream is not None:
            stream.after_launch = False
        self.schedule.queue(stream, Work(action, host=host))
