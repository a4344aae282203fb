"""Times of several ways to do the same work, side by side: the protocol of the suite.

- **warm**: blocks of at least `BLOCK_MS` of replays, interleaved ABCD…DCBA so that a drift of the clock hits all alike;
- **cold**: one replay behind a write of more than the L2 cache holds; the host runs ahead, launching is not in it;
- **host**: wall time from the launch to the end of the wait for it.

All times are in microseconds a replay.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .device import FLUSH_US, Gpu, state

Replay = Callable[[], None]
"""Enqueues one run on the stream of the GPU and waits for nothing."""


@dataclass(frozen=True)
class Effort:
    """How long is measured. budgets: for all contestants of a cell together."""

    block_ms: float = 20.0
    blocks: int = 15
    cold_samples: int = 100
    cold_budget_ms: float = 4000.0
    host_samples: int = 500
    host_budget_ms: float = 800.0


FULL = Effort()
SHORT = Effort(0.0, 3, 3, 0.0, 3, 0.0)
"""For exercising the suite where nothing is measured."""
LEAST_COLD, LEAST_HOST = 20, 30
MOST_REPLAYS = 100_000
"""Of a block, where the clock stands still."""


def measure(
    gpu: Gpu, contestants: Mapping[str, Replay], effort: Effort = FULL
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Times by contestant, and the state of the GPU before, under load and after."""
    gc.collect()
    gc.disable()
    try:
        before = state()
        warm = _warm(gpu, contestants, effort)
        speeds = {name: found["us"] for name, found in warm.items()}
        fastest = min(speeds, key=speeds.__getitem__)
        loaded = _loaded(gpu, contestants[fastest], int(warm[fastest]["replays"]))
        cold = _cold(gpu, contestants, speeds, effort)
        host = _host(gpu, contestants, speeds, effort)
        after = state()
    finally:
        gc.enable()
    times = {name: {"warm": warm[name], "cold": cold[name], "host": host[name]} for name in contestants}
    return times, {"before": before, "loaded": loaded, "after": after}


def _warm(gpu: Gpu, contestants: Mapping[str, Replay], effort: Effort) -> dict[str, dict[str, float]]:
    counts = {name: _block_size(gpu, replay, effort) for name, replay in contestants.items()}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(effort.blocks):
        pending = [(name, gpu.timed(contestants[name], counts[name])) for name in there_and_back(contestants, number)]
        gpu.synchronize()
        for name, measured in pending:
            samples[name].append(gpu.elapsed_us(measured))
    return {name: _spread(found) | {"replays": counts[name]} for name, found in samples.items()}


def _block_size(gpu: Gpu, replay: Replay, effort: Effort) -> int:
    """Replays that take `block_ms`; finding out also brings the clock up."""
    count = 2
    while True:
        measured = gpu.timed(replay, count)
        gpu.synchronize()
        took_ms = max(gpu.elapsed_us(measured) * count / 1e3, 1e-3)
        wanted = math.ceil(1.1 * count * effort.block_ms / took_ms)
        if took_ms >= effort.block_ms / 2 or count >= MOST_REPLAYS:
            return max(min(wanted, MOST_REPLAYS), 1)
        count = min(wanted, 10 * count)


def there_and_back(names: Mapping[str, Any] | Sequence[str], number: int) -> list[str]:
    """The names in their order, every other time backwards."""
    return list(names) if number % 2 == 0 else list(names)[::-1]


def _cold(
    gpu: Gpu, contestants: Mapping[str, Replay], speeds: Mapping[str, float], effort: Effort
) -> dict[str, dict[str, float]]:
    round_ms = (sum(speeds.values()) + len(speeds) * FLUSH_US) / 1e3
    count = min(effort.cold_samples, max(LEAST_COLD, int(effort.cold_budget_ms / round_ms)))
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(count):
        pending = []
        for name in there_and_back(contestants, number):
            gpu.flush()
            pending.append((name, gpu.timed(contestants[name])))
        gpu.synchronize()
        for name, measured in pending:
            samples[name].append(gpu.elapsed_us(measured))
    return {name: _spread(found) | {"us_p90": quantile(found, 0.9)} for name, found in samples.items()}


def _host(
    gpu: Gpu, contestants: Mapping[str, Replay], speeds: Mapping[str, float], effort: Effort
) -> dict[str, dict[str, float]]:
    result = {}
    for name, replay in contestants.items():
        affordable = int(1e3 * effort.host_budget_ms / len(contestants) / (speeds[name] + 10))
        samples = []
        for _ in range(min(effort.host_samples, max(LEAST_HOST, affordable))):
            gpu.synchronize()
            started = time.perf_counter()
            replay()
            gpu.synchronize()
            samples.append(1e6 * (time.perf_counter() - started))
        result[name] = {
            "us_p50": statistics.median(samples),
            "us_p99": quantile(samples, 0.99),
            "samples": len(samples),
        }
    return result


def _loaded(gpu: Gpu, replay: Replay, count: int) -> dict[str, str]:
    """The GPU's state while it works, on one block after the other until it has answered."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(state)
        while not asked.done():
            measured = gpu.timed(replay, count)
            gpu.synchronize()
            gpu.elapsed_us(measured)
        return asked.result()


def _spread(samples: Sequence[float]) -> dict[str, float]:
    return {"us": statistics.median(samples), "us_min": min(samples), "us_max": max(samples), "samples": len(samples)}


def quantile(samples: Sequence[float], part: float) -> float:
    """The sample that ``part`` of all samples do not exceed."""
    return sorted(samples)[min(len(samples) - 1, math.ceil(part * len(samples)) - 1)]
