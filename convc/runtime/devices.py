"""The names of devices: ``auto``, ``cuda``, ``cuda:N``, ``interpreter``, ``numpy``."""

from __future__ import annotations

import re

from .. import errors

DEVICES = ("auto", "cuda", "interpreter", "numpy")


def parse_device(device: str) -> tuple[str, int]:
    """Kind and number, which only GPUs have: ``cuda:1`` → ("cuda", 1), and 0 where it is left out.

    Raises:
        UsageError: no device's name.
    """
    kind, colon, ordinal = device.partition(":")
    if kind not in DEVICES or (colon and (kind != "cuda" or not re.fullmatch(r"\d{1,3}", ordinal, re.ASCII))):
        raise errors.one_of(device, (*DEVICES, "cuda:N"), "device")
    return kind, int(ordinal or 0)
