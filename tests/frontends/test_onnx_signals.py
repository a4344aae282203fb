"""Fourier transforms against NumPy's, and short-time ones against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx_support import agree, floats, i64, model_of, one, ops_of

from convc import errors
from convc.frontends.onnx import import_onnx


def pairs(values: np.ndarray) -> np.ndarray:
    """Complex values with real and imaginary parts along a last axis."""
    return np.stack([values.real, values.imag], -1).astype(np.float32)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize("length", [None, 5, 9])
def test_transforms(opset: int, axis: int, length: int | None) -> None:
    """Of real and complex signals, forwards and back, cut or filled up to a length."""
    real, both = floats(2, 6, 7, 1), floats(2, 6, 7, 2)
    place, number = axis % 4, both[..., 0] + 1j * both[..., 1]
    known = [None if length is None else np.array(length)]
    form: dict[str, Any] = {"axis": axis} if opset < 20 else {}
    known += [np.array(axis)] if opset >= 20 else []
    cases = [
        (real, {"onesided": 1}, pairs(np.fft.rfft(real[..., 0].astype(np.float64), length, place))),
        (real, {}, pairs(np.fft.fft(real[..., 0], length, place))),
        (both, {}, pairs(np.fft.fft(number, length, place))),
        (both, {"inverse": 1}, pairs(np.fft.ifft(number, length, place))),
        (both, {"inverse": 1, "onesided": 1}, np.fft.irfft(number, length, place)[..., None].astype(np.float32)),
    ]
    for x, more, expected in cases:
        found = one("DFT", x, constants=known, opset=opset, expected=[expected], **form, **more)
        assert ops_of(found).count("MatMul") == 1


def test_the_batch_may_be_open() -> None:
    x = floats(3, 8, 1)
    expected = [pairs(np.fft.fft(x[..., 0]))]
    one("DFT", x, opset=17, shapes=[["N", 8, 1]], expected=expected)


@pytest.mark.parametrize("one_sided", [0, 1])
@pytest.mark.parametrize("given", ["window", "length", "both"])
def test_short_time_transforms(one_sided: int, given: str) -> None:
    window = None if given == "length" else np.hanning(16).astype(np.float32)
    length = None if given == "window" else np.array(16)
    known = [np.array(5), window, length]
    found = one("STFT", floats(2, 50, 1), constants=known if given != "window" else known[:2], onesided=one_sided)
    assert ops_of(found).count("Conv") == 1


def test_the_window_may_be_made_in_the_graph() -> None:
    nodes = [
        helper.make_node("HannWindow", ["size"], ["window"]),
        helper.make_node("STFT", ["x", "step", "window"], ["y"]),
    ]
    feeds = {"x": floats(1, 40, 1)}
    agree(model_of(nodes, feeds, {"size": np.array(8), "step": np.array(4)}), feeds)


WRONG: list[tuple[str, tuple[int, ...], list[np.ndarray | None], dict[str, Any], str]] = [
    ("DFT", (2, 6, 3), [], {}, "the signal has shape"),
    ("DFT", (2, 6, 2), [], {"onesided": 1}, "the signal has shape"),
    ("DFT", (2, 6, 1), [], {"axis": 2}, "axis 2 is outside"),
    ("DFT", (2, 6, 1), [i64(0)], {}, "length is 0"),
    ("STFT", (2, 6, 1), [np.array(0), np.ones(4, np.float32)], {}, "step is 0"),
    ("STFT", (2, 6, 1), [np.array(1), np.ones(4, np.float32), np.array(3)], {}, "the window has shape"),
    ("STFT", (2, 6, 1), [np.array(1)], {}, "length is 0"),
    ("DFT", (1, 40000, 1), [], {}, "bytes"),
]


@pytest.mark.parametrize(("op", "shape", "known", "form", "message"), WRONG)
def test_signals_that_do_not_fit(
    op: str, shape: tuple[int, ...], known: list[np.ndarray], form: dict[str, Any], message: str
) -> None:
    names = [f"c{i}" for i in range(len(known))]
    layer = helper.make_node(op, ["x", *names], ["y"], **form)
    model = model_of([layer], {"x": floats(*shape)}, dict(zip(names, known, strict=True)))
    with pytest.raises((errors.ShapeError, errors.LimitError), match=message):
        import_onnx(model)
