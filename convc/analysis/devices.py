"""What a command's DEVICE is: where a network runs, and for what its kernels are then compiled."""

from __future__ import annotations

from ..runtime.devices import parse_device


def resolved_device(device: str) -> str:
    """``auto`` made concrete: ``cuda`` where there is a GPU that convc compiles for, else ``interpreter``.

    Raises:
        UsageError: no device's name.
    """
    if parse_device(device)[0] != "auto":
        return device
    return "interpreter" if target_for(device) == "interpreter" else "cuda"


def target_for(device: str) -> str:
    """The target of the kernels that a device runs: of that GPU, ``interpreter`` where there is none that convc
    compiles for, none (``""``) where no kernel is needed. Raises `UsageError` as `resolved_device`."""
    from .. import api

    kind, ordinal = parse_device(device)
    if kind == "numpy":
        return ""
    return "interpreter" if kind == "interpreter" else api.present_target(ordinal)


def gpu_name(device: str) -> str | None:
    """What the driver calls a GPU; None for devices that are none. Raises `DeviceError` where it is not there."""
    from ..runtime.driver import Device, Driver

    kind, ordinal = parse_device(device)
    return Device(Driver(), ordinal).name if kind == "cuda" else None
