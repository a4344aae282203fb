"""The GPU as the suite uses it: one stream of convc's driver, events, a buffer whose writing empties the L2 cache."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from convc import errors
from convc.runtime.driver import Device, Driver

FLUSH_BYTES = 256 << 20
"""More than four times the L2 cache of an H200."""
FLUSH_US = FLUSH_BYTES / 4.8e6
"""The least that a flush can take: at the 4.8 TB/s of an H200's memory (NVIDIA's data sheet)."""
QUERY = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")


class Gpu:
    """A device that is current, with a stream. All work is enqueued on that stream."""

    def __init__(self, device: Device, stream: Any) -> None:
        self.device, self.driver, self.stream = device, device.driver, stream
        self._flush = 0
        self._byte = 0

    def synchronize(self) -> None:
        self.driver.synchronize(self.stream)

    def flush(self) -> None:
        """Writes more than the L2 cache holds, another byte each time."""
        if not self._flush:
            self._flush = self.device.allocate(FLUSH_BYTES, "the buffer that empties the cache")
        self._byte = (self._byte + 1) % 255
        self.driver.fill(self._flush, self._byte, FLUSH_BYTES, self.stream)

    def timed(self, work: Callable[[], None], count: int = 1) -> tuple[Any, Any, int]:
        """Enqueues work ``count`` times between two events; `elapsed_us` tells of it after a `synchronize`."""
        begin, end = self.driver.create_event(), self.driver.create_event()
        self.driver.record(begin, self.stream)
        for _ in range(count):
            work()
        self.driver.record(end, self.stream)
        return begin, end, count

    def elapsed_us(self, measured: tuple[Any, Any, int]) -> float:
        """Microseconds of one piece of the work; the events are given back."""
        begin, end, count = measured
        microseconds = self.driver.elapsed_us(begin, end) / count
        self.driver.destroy_event(begin)
        self.driver.destroy_event(end)
        return microseconds

    def close(self) -> None:
        """Gives everything back, as far as the driver lets us."""
        if self._flush:
            with suppress(errors.DeviceError):
                self.driver.free(self._flush)
        with suppress(errors.DeviceError):
            self.driver.destroy_stream(self.stream)


@contextmanager
def opened_gpu(driver: Driver | None = None) -> Iterator[Gpu]:
    """The first GPU. Raises `DeviceError` where there is none."""
    device = Device(driver or Driver())
    with device.current():
        gpu = Gpu(device, device.driver.create_stream())
        try:
            yield gpu
        finally:
            gpu.close()


def nvidia_smi(*fields: str) -> dict[str, str]:
    """What ``nvidia-smi`` says; only asked, nothing is set. Empty where it does not answer."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        values = [value.strip() for value in said.splitlines()[0].split(",")]
        return dict(zip(fields, values, strict=True))
    return {}


def state() -> dict[str, str]:
    """Clocks in MHz, power in W, temperature in °C."""
    return nvidia_smi(*QUERY)
