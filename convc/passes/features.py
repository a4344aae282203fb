"""Features of the kernels: forms of code that a target offers, each switched by its name beside the fusion rules.

A rule changes which operators share a kernel; a feature changes how kernels reach memory and follow each other, and
never what is computed. One that needs a GPU to be trusted is off until it has been measured on one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """A form of code: whether it is on unless switched, and what it does."""

    name: str
    default: bool
    text: str


FEATURES = {
    feature.name: feature
    for feature in (
        Feature(
            "host-steps", True, "operators without a kernel run on the host, between launches; off, they are refused"
        ),
        Feature("zero-borders", True, "tensors that padded convolutions read lie between zeros, which need no masks"),
        Feature("descriptors", True, "matrix operands come through tensor maps, by the copy engine (from sm_90 on)"),
        Feature("im2col", False, "convolutions in Gluon, whose tensor maps walk over windows (sm_90)"),
        Feature("programmatic-launch", False, "a kernel starts before its predecessor has ended (from sm_90 on)"),
    )
}
