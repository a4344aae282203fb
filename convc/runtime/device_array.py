"""Arrays in a GPU's memory: taking those of other libraries, and giving out our own.

Both the DLPack protocol (``__dlpack__``) and ``__cuda_array_interface__`` are spoken.
"""

from __future__ import annotations

import ctypes
import math
import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import errors
from .dtypes import numpy_dtype
from .session import new_stream

if TYPE_CHECKING:
    from .driver import Device

CUDA, CUDA_MANAGED = 2, 13
LEGACY_STREAM = 1
_CODES = {"i": 0, "u": 1, "f": 2, "V": 4, "b": 6}
_PLAIN = {"bool", *(f"{kind}{8 * size}" for kind in ("int", "uint") for size in (1, 2, 4, 8))}
_PLAIN |= {"float16", "float32", "float64"}
"""The types that NumPy has by itself."""


class _Tensor(ctypes.Structure):
    """``DLTensor`` of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """``DLManagedTensor`` of dlpack.h."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))
_CapsuleDestructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)

_api = ctypes.pythonapi
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _CapsuleDestructor)(
    ("PyCapsule_New", _api)
)
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_rename_capsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _api))
# A capsule that is being destroyed has no references left: it is passed on as a bare address.
_dying_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_dying_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))

_NAME, _USED = b"dltensor", b"used_dltensor"


class DeviceView:
    """A dense array of someone else in GPU memory.

    Attributes:
        pointer: its address. shape, dtype: as in NumPy. stream: the stream it is being written on, None where the
            owner has already ordered its work. writeable: whether its owner lets others write to it.
    """

    def __init__(
        self,
        pointer: int,
        shape: tuple[int, ...],
        dtype: np.dtype,
        stream: int | None,
        release: Callable[[], None],
        writeable: bool = True,
    ) -> None:
        self.pointer, self.shape, self.dtype, self.stream = pointer, shape, dtype, stream
        self.nbytes, self.writeable = math.prod(shape) * dtype.itemsize, writeable
        weakref.finalize(self, release).atexit = False


def is_device_array(value: Any) -> bool:
    """Whether an object is an array in GPU memory."""
    if hasattr(value, "__dlpack_device__"):
        return value.__dlpack_device__()[0] in (CUDA, CUDA_MANAGED)
    return hasattr(value, "__cuda_array_interface__")


def view(value: Any, name: str, ordinal: int | None) -> DeviceView:
    """A view of an array in GPU memory. name: the input's. ordinal: the engine's GPU, None where it has none.

    Raises `InputError` for another GPU (which ``__cuda_array_interface__`` does not tell), a dtype that convc does not
    know, and gaps between elements.
    """
    if ordinal is None:
        raise errors.input_on_device(name, "the array is in GPU memory, but the engine does not run there; copy it")
    if not hasattr(value, "__dlpack__"):
        return _from_interface(value, name)
    _, found = value.__dlpack_device__()
    if found != ordinal:
        raise errors.input_on_device(name, f"the array is on GPU {found}, the engine on GPU {ordinal}; move it")
    try:
        capsule = value.__dlpack__(stream=LEGACY_STREAM)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise errors.input_on_device(name, f"the array does not let others read it ({error})") from error
    return _from_capsule(capsule, name)


def _from_capsule(capsule: Any, name: str) -> DeviceView:
    managed = _Managed.from_address(_capsule_pointer(capsule, _NAME))
    _rename_capsule(capsule, _USED)
    tensor, address = managed.tensor, ctypes.addressof(managed)

    def release() -> None:
        if managed.deleter:
            managed.deleter(_Managed.from_address(address))

    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else _dense(shape)
    dtype = _dtype(tensor.code, tensor.bits) if tensor.lanes == 1 else None
    pointer = (tensor.data or 0) + tensor.byte_offset
    taken = DeviceView(pointer, shape, dtype or np.dtype("V1"), LEGACY_STREAM, release)
    if dtype is None:
        raise errors.input_on_device(name, f"elements of DLPack code {tensor.code} with {tensor.bits} bits")
    _require_dense(shape, strides, name)
    return taken


def _from_interface(value: Any, name: str) -> DeviceView:
    interface = value.__cuda_array_interface__
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    if interface.get("mask") is not None:
        raise errors.input_on_device(name, "the array has a mask; fill in what it hides")
    if interface.get("strides") is not None:
        strides = tuple(stride / dtype.itemsize for stride in interface["strides"])
        _require_dense(shape, tuple(int(s) if s == int(s) else s for s in strides), name)
    pointer, read_only = interface["data"]
    # The closure keeps the owner alive as long as the view.
    return DeviceView(pointer or 0, shape, dtype, interface.get("stream"), lambda: _keep(value), not read_only)


def _keep(_: Any) -> None: ...


def _require_dense(shape: tuple[int, ...], strides: Sequence[float], name: str) -> None:
    """strides: in elements, of which those of an array of other elements may be fractions."""
    steps = zip(shape, strides, _dense(shape), strict=True)
    if 0 not in shape and any(extent > 1 and found != dense for extent, found, dense in steps):
        what = f"the array's strides {list(strides)} are not those of a dense array; make it contiguous"
        raise errors.input_on_device(name, what)


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _dtype(code: int, bits: int) -> np.dtype | None:
    if code == _CODES["V"] and bits == 16:
        return numpy_dtype("bf16")
    kinds = {number: kind for kind, number in _CODES.items() if kind != "V"}
    with suppress(KeyError, TypeError):
        return np.dtype(f"{kinds[code]}{bits // 8}")
    return None


class DeviceArray:
    """An output in GPU memory, complete when it is given out. It can outlive its engine.

    Attributes:
        pointer: address in GPU memory. shape, dtype: as in NumPy; the array is dense. nbytes: its size.
    """

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Allocate. The device must be current. Raises `DeviceError`."""
        self.shape, self.dtype = shape, dtype
        self.nbytes = math.prod(shape) * dtype.itemsize
        self.pointer = device.allocate(self.nbytes, "an output")
        self._device = device
        weakref.finalize(self, _free, device, self.pointer).atexit = False

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype.name}, device='cuda:{self._device.ordinal}')"

    def numpy(self) -> np.ndarray:
        """A copy in host memory. Raises `DeviceError`."""
        host, driver = np.empty(self.shape, self.dtype), self._device.driver
        with self._device.current(), ExitStack() as undo:
            stream = new_stream(driver, undo)
            driver.to_host(host.ctypes.data, self.pointer, self.nbytes, stream)
            driver.synchronize(stream)
        return host

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype.name not in _PLAIN:
            raise AttributeError(f"__cuda_array_interface__ has no name for {self.dtype.name}; use __dlpack__")
        pointer = self.pointer if self.nbytes else 0
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (pointer, False), "strides": None, "version": 3}

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self._device.ordinal

    def __dlpack__(self, *, stream: Any = None, dl_device: Any = None, copy: Any = None, **_: Any) -> Any:
        """A DLPack capsule over this memory. The array is complete, so no stream has to wait.

        Raises ``BufferError`` where a copy or another device is asked for, and for types that DLPack has no name for.
        """
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError(f"{self!r} is given out where it lies; copy it with numpy()")
        if self.dtype.name not in (*_PLAIN, "bfloat16"):
            raise BufferError(f"DLPack has no name for {self.dtype.name} in the versions that are spoken here")
        managed = _Managed()
        extents = (ctypes.c_int64 * len(self.shape))(*self.shape)
        strides = (ctypes.c_int64 * len(self.shape))(*_dense(self.shape))
        tensor = managed.tensor
        tensor.data, tensor.ndim, tensor.lanes = self.pointer, len(self.shape), 1
        tensor.device_type, tensor.device_id = self.__dlpack_device__()
        tensor.code, tensor.bits = _CODES[self.dtype.kind], 8 * self.dtype.itemsize
        tensor.shape, tensor.strides, managed.deleter = extents, strides, _forget
        address = ctypes.addressof(managed)
        _EXPORTED[address] = (self, managed, extents, strides)
        return _new_capsule(address, _NAME, _destroy_capsule)


# What capsules refer to, by the address of the managed tensor, until the consumer calls its deleter.
_EXPORTED: dict[int, tuple[Any, ...]] = {}


@_Deleter
def _forget(managed: Any) -> None:
    _EXPORTED.pop(ctypes.addressof(managed.contents), None)


@_CapsuleDestructor
def _destroy_capsule(capsule: int) -> None:
    """A capsule that nobody consumed still holds its array."""
    if _dying_is_valid(capsule, _NAME):
        _EXPORTED.pop(_dying_pointer(capsule, _NAME), None)


def _free(device: Device, pointer: int) -> None:
    if os.getpid() == device.pid:
        with suppress(errors.DeviceError), device.current():
            device.driver.free(pointer)
