"""A process that has imported Triton's interpreter once and forks the workers that `InterpreterExecutor` starts.

Importing Triton takes most of a second; a fork takes milliseconds. The workers are what they always are: processes of
their own that run `convc.runtime.interpreter_worker`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

PIPE = subprocess.PIPE


class Forked:
    """What `InterpreterExecutor` uses of a ``subprocess.Popen``."""

    def __init__(self, server: socket.socket, buffers: Sequence[int], error: int) -> None:
        request, self._requests = os.pipe()
        self._replies, reply = os.pipe()
        numbers = " ".join(map(str, buffers)).encode()
        socket.send_fds(server, [numbers or b"-"], [request, reply, error, *buffers])
        for descriptor in (request, reply):
            os.close(descriptor)
        server.recv(1)
        self.stdin = os.fdopen(self._requests, "wb")
        self.stdout = os.fdopen(self._replies, "rb")
        self.stderr = None

    def wait(self) -> int:
        return 0


class ForkServer:
    """Takes the place of the module ``subprocess`` in `convc.runtime.interpreter`."""

    PIPE = PIPE

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
        theirs.close()

    def Popen(self, command: Sequence[str], *, pass_fds: Sequence[int], stderr: Any, **_: Any) -> Forked:
        assert command[1:] == ["-m", "convc.runtime.interpreter_worker"]
        return Forked(self._socket, pass_fds, stderr.fileno())

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def serve(connection: socket.socket) -> None:
    """Forks a worker per request until the other side closes."""
    import triton  # noqa: F401

    from convc.runtime import interpreter_worker

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        numbers, received, _, _ = socket.recv_fds(connection, 4096, 253)
        if not numbers:
            return
        if os.fork() == 0:
            connection.close()
            _become_worker([] if numbers == b"-" else [int(n) for n in numbers.split()], received)
            interpreter_worker.main()
            os._exit(0)
        for descriptor in received:
            os.close(descriptor)
        connection.send(b"+")


def _become_worker(buffers: Sequence[int], received: Sequence[int]) -> None:
    """Moves the descriptors to the numbers by which the requests call them."""
    above = max([*buffers, *received, 2]) + 1
    moved = [_move_above(descriptor, above) for descriptor in received]
    for descriptor, number in zip(moved, (0, 1, 2, *buffers), strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _move_above(descriptor: int, least: int) -> int:
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, least)
    os.close(descriptor)
    return moved


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
