"""From what a caller gives to one checked array per input. Nothing is cast and no shape is adapted.

Where the batch is dynamic, arrays hold any number of images up to the maximum, and all of them the same number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import errors
from .batch import images_of, shape_of
from .device_array import DeviceView, is_device_array, view
from .dtypes import numpy_dtype
from .manifest import FOUND_SIZE, TensorSpec

ALIGNMENT = 16
"""Bytes that kernels rely on arrays to begin at a multiple of."""


class InputBinder:
    """Binds arrays to the inputs of a network.

    specs: the inputs, in order. device: the ordinal of the GPU whose arrays are accepted where they are, None for none.
    max_batch: the most images that arrays may hold, 0 where the batch is not dynamic.
    """

    def __init__(self, specs: Sequence[TensorSpec], device: int | None, max_batch: int = 0) -> None:
        self._specs = specs
        self._names = [spec.name for spec in specs]
        self._known = set(self._names)
        self._inputs = [(spec, tuple(spec.shape), numpy_dtype(spec.dtype)) for spec in specs]
        self._device = device
        self._max_batch = max_batch

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
        bound = [self._one(given[spec.name], spec, shape, dtype) for spec, shape, dtype in self._inputs]
        if self._max_batch:
            self._require_same_images(bound)
        return bound

    def _require_same_images(self, bound: Sequence[Any]) -> None:
        images = images_of(self._specs, bound)
        for spec, array in zip(self._specs, bound, strict=True):
            if array.shape != shape_of(spec, images):
                first = next(other.name for other in self._specs if other.images)
                raise errors.images_differ(spec.name, array.shape[0] // spec.images, first, images)

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

    def _one(self, value: Any, spec: TensorSpec, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        name = spec.name
        array = value if isinstance(value, np.ndarray) else self._foreign(value, name, dtype)
        if array.dtype != dtype:
            raise errors.input_dtype(name, dtype.name, _spelled(array.dtype))
        if array.shape != shape:
            self._require_images(spec, array.shape)
        if isinstance(array, DeviceView):
            return array
        return array if array.flags.c_contiguous else np.asarray(array, order="C")

    def _require_images(self, spec: TensorSpec, found: tuple[int, ...]) -> None:
        """For a shape that is not that of the largest batch; sizes that are open are any from 1 on."""
        if FOUND_SIZE in spec.shape:
            fits = len(found) == len(spec.shape) and all(
                a in (b, FOUND_SIZE) for a, b in zip(spec.shape, found, strict=True)
            )
            if fits and 0 not in found:
                return
            raise errors.input_shape(spec.name, ["any" if size == FOUND_SIZE else size for size in spec.shape], found)
        if not spec.images or len(found) != len(spec.shape):
            raise errors.input_shape(spec.name, spec.shape, found)
        images, rest = divmod(found[0], spec.images)
        if rest or found[1:] != tuple(spec.shape[1:]) or not 1 <= images <= self._max_batch:
            raise errors.input_images(spec.name, spec.images, spec.shape[1:], self._max_batch, found)

    def _foreign(self, value: Any, name: str, dtype: np.dtype) -> Any:
        """NumPy scalars, and arrays of other libraries in host memory or on the engine's GPU."""
        if isinstance(value, np.generic):
            return np.asarray(value)
        try:
            on_device = is_device_array(value)
            if not on_device and hasattr(value, "__dlpack__"):
                return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise errors.input_not_array(name, f"{_kind(value)} ({error})", dtype.name) from error
        if on_device:
            return view(value, name, self._device)
        raise errors.input_not_array(name, _kind(value), dtype.name)


def _kind(value: Any) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")


def _spelled(dtype: np.dtype) -> str:
    """A dtype's name, with its byte order where that is foreign."""
    return dtype.name if dtype.isnative else f"{dtype.name} with swapped bytes"
