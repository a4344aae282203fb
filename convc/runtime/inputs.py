"""From what a caller gives to one checked array per input. Nothing is cast and no shape is adapted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import errors
from .device_array import DeviceView, is_device_array, view
from .dtypes import numpy_dtype
from .manifest import TensorSpec

ALIGNMENT = 16
"""Bytes that kernels rely on arrays to begin at a multiple of."""


class InputBinder:
    """Binds arrays to the inputs of a network.

    specs: the inputs, in order. device: the ordinal of the GPU whose arrays are accepted where they are, None for none.
    """

    def __init__(self, specs: Sequence[TensorSpec], device: int | None) -> None:
        self._names = [spec.name for spec in specs]
        self._known = set(self._names)
        self._inputs = [(spec.name, tuple(spec.shape), numpy_dtype(spec.dtype)) for spec in specs]
        self._device = device

    def by_position(self, values: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """Positional arrays, one per input in order, together with named ones. Raises `InputError`."""
        if len(values) > len(self._names):
            raise errors.too_many_inputs(len(values), self._names)
        given = dict(zip(self._names, values, strict=False))
        if not named:
            return given
        for name in named:
            if name in given:
                raise errors.repeated_input(name)
        return given | dict(named)

    def bind(self, given: Mapping[str, Any]) -> list[Any]:
        """C-contiguous arrays, or `DeviceView` objects, in the order of the inputs. Raises `InputError`."""
        for name in given:
            if name not in self._known:
                raise errors.unexpected_input(name, self._names)
        if len(given) != len(self._names):
            raise errors.missing_inputs([name for name in self._names if name not in given], self._names)
        return [self._one(given[name], name, shape, dtype) for name, shape, dtype in self._inputs]

    def bind_on_host(self, given: Mapping[str, Any]) -> list[np.ndarray]:
        """As `bind`, for arrays in host memory only."""
        bound = self.bind(given)
        for name, array in zip(self._names, bound, strict=True):
            if isinstance(array, DeviceView):
                raise errors.input_on_device(
                    name, "the array is in GPU memory; run the engine on it, nothing is copied"
                )
        return bound

    def bind_on_device(self, given: Mapping[str, Any]) -> list[DeviceView]:
        """As `bind`, for arrays in the GPU's memory only, which begin at multiples of 16 bytes."""
        views = []
        for name, array in zip(self._names, self.bind(given), strict=True):
            if not isinstance(array, DeviceView):
                raise errors.input_on_device(name, "the array is in host memory; move it to the GPU")
            if array.pointer % ALIGNMENT:
                what = (
                    f"the array begins at address {array.pointer:#x}, which is not a multiple of {ALIGNMENT}; copy it"
                )
                raise errors.input_on_device(name, what)
            views.append(array)
        return views

    def _one(self, value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        array = value if isinstance(value, np.ndarray) else self._foreign(value, name, dtype)
        if array.dtype != dtype:
            raise errors.input_dtype(name, dtype.name, _spelled(array.dtype))
        if array.shape != shape:
            raise errors.input_shape(name, shape, array.shape)
        if isinstance(array, DeviceView):
            return array
        return array if array.flags.c_contiguous else np.asarray(array, order="C")

    def _foreign(self, value: Any, name: str, dtype: np.dtype) -> Any:
        """NumPy scalars, and arrays of other libraries in host memory or on the engine's GPU."""
        if isinstance(value, np.generic):
            return np.asarray(value)
        if is_device_array(value):
            return view(value, name, self._device)
        if hasattr(value, "__dlpack__"):
            try:
                return np.from_dlpack(value)
            except (BufferError, RuntimeError, TypeError, ValueError) as error:
                raise errors.input_not_array(name, f"{_kind(value)} ({error})", dtype.name) from error
        raise errors.input_not_array(name, _kind(value), dtype.name)


def _kind(value: Any) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")


def _spelled(dtype: np.dtype) -> str:
    """A dtype's name, with its byte order where that is foreign."""
    return dtype.name if dtype.isnative else f"{dtype.name} with swapped bytes"
