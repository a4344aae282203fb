"""Times that other work on the machine does not change much."""

from __future__ import annotations

import time
from collections.abc import Callable

MICROSECONDS_PER_RUN = 15
"""What a run may cost on the host."""


def fastest(
    action: Callable[[], object],
    enough: float,
    repeats: int = 50,
    attempts: int = 400,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of an action, undisturbed: the least mean of several runs, of as many attempts as it takes to be fast
    ``enough``; other work on the machine can only make it slower. clock: `time.thread_time` leaves that out.
    """
    least = float("inf")
    for _ in range(attempts):
        start = clock()
        for _ in range(repeats):
            action()
        least = min(least, (clock() - start) / repeats)
        if least <= enough:
            break
    return least
