"""The processes that run kernels in Triton's interpreter: started when they are needed, kept, and used again.

Starting one takes more than a second, nearly all of it the import of Triton. A child that is idle takes the next
network of this process, its buffers handed over with the message. Each network in use has a child of its own. A child
is used again only where everything that it was asked was answered, without a failure, and it has given its memory back.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import tempfile
import threading

from ..workers import command, read_message, write_message
from .interpreter_worker import Finished, Range, Release, Reply, Setup

MOST_IDLE = 2
"""Idle children that a process keeps; an idle child also ends by itself after a while."""

ENDING_S = 5.0
"""Seconds that a child has to end which has closed its end."""


class Child:
    """A process of its own that runs one network at a time; see `convc.runtime.interpreter_worker`."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (a pipe that nobody reads would block the child)
        with theirs:
            self._process = subprocess.Popen(
                command("convc.runtime.interpreter_worker"),
                stdin=theirs.fileno(),
                stdout=self._said,
                stderr=self._said,
                env=os.environ | {"TRITON_INTERPRET": "1"},
            )
        self._replies = self._socket.makefile("rb")
        self._requests = self._socket.makefile("wb")
        self._heard = 0
        self._sound = True
        self.used = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def sound(self) -> bool:
        """Whether it has answered everything that it was asked, without a failure."""
        return self._sound

    def ask(self, message: Setup | Range | Release, memory: int | None = None) -> Reply | None:
        """The answer, or None where the child has ended. memory: the descriptor that a `Setup` goes with."""
        sound, self._sound = self._sound, False  # until it has answered, even where this is interrupted
        try:
            if memory is not None:
                self._heard = os.fstat(self._said.fileno()).st_size
                socket.send_fds(self._socket, [b"\0"], [memory])
            write_message(self._requests, message)
            reply = read_message(self._replies, Reply)
        except OSError:
            return None
        self._sound = sound and isinstance(reply, Finished)
        return reply

    def last_words(self) -> str:
        """The last line that a child that has ended wrote since its network was set up."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_S)  # it says why behind having closed its end
        self._said.seek(self._heard)
        said = self._said.read().decode(errors="replace").strip().splitlines()
        return said[-1] if said else "the process ended"

    def release(self) -> bool:
        """Has it forget its network. Whether it can take another one."""
        self.used = True
        return self._sound and isinstance(self.ask(Release()), Finished)

    def abandon(self) -> None:
        """Closes this process's ends, whoever else holds them."""
        for stream in (self._replies, self._requests, self._socket, self._said):
            with contextlib.suppress(OSError):  # what was to be written has no reader any more
                stream.close()

    def close(self) -> None:
        """Ends the process: at once where it may be busy with what nobody waits for."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # reaches it even where a forked process holds a copy
        if not self._sound:
            self._process.kill()
        self._process.wait()
        self.abandon()


_idle: list[Child] = []
_lock = threading.Lock()


def taken(setup: Setup, memory: int) -> tuple[Child, Reply | None]:
    """A child that was told of a network, and its answer: an idle one, or a new one where there is none alive."""
    while (child := _from_idle()) is not None:
        reply = child.ask(setup, memory)
        if reply is not None:
            return child, reply
        child.close()
    child = Child()
    return child, child.ask(setup, memory)


def _from_idle() -> Child | None:
    with _lock:
        return _idle.pop() if _idle else None


def give_back(child: Child) -> None:
    """Keeps a child that is as good as new for the next network, and ends any other."""
    if child.release():
        with _lock:
            if len(_idle) < MOST_IDLE:
                _idle.append(child)
                return
    child.close()


def idle() -> list[int]:
    """The process ids of the idle children."""
    with _lock:
        return [child.pid for child in _idle]


def close_idle() -> None:
    """Ends the idle children."""
    while (child := _from_idle()) is not None:
        child.close()


def _after_fork() -> None:
    """Idle children stay with the process that started them."""
    global _lock
    _lock = threading.Lock()  # another thread may have held it
    for child in _idle:
        child.abandon()
    _idle.clear()


atexit.register(close_idle)
os.register_at_fork(after_in_child=_after_fork)
