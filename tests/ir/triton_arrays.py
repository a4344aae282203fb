"""Run in a process of its own with TRITON_INTERPRET=1: applies the kernels of a module to NumPy arrays.

usage: triton_arrays.py KERNELS.py IN.npz OUT.npz

Each kernel ``k`` reads x, y and z and writes one fp32 array, which OUT.npz holds under its name.
"""

from __future__ import annotations

import importlib.util
import sys

import numpy as np


class ElementType:
    """What Triton asks of an argument's dtype: a name like torch's, and to be hashable."""

    def __init__(self, dtype: np.dtype) -> None:
        self.name = dtype.name
        self.itemsize = dtype.itemsize
        self.is_floating_point = dtype.kind == "f"

    def __str__(self) -> str:
        return f"torch.{self.name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ElementType) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


class HostTensor:
    """A NumPy array as a kernel argument; its memory is already the host's, so that every copy is itself."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.dtype = ElementType(array.dtype)
        self.shape = array.shape

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def untyped_storage(self) -> HostTensor:
        return self

    def cpu(self) -> HostTensor:
        return self

    def new_empty(self, size: int, device: str) -> HostTensor:
        return HostTensor(self.array)

    def set_(self, *geometry: object) -> None:
        pass

    def copy_(self, other: HostTensor) -> None:
        assert other.array is self.array

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return self.shape

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self.array.itemsize for step in self.array.strides)


def main(kernels: str, inputs: str, outputs: str) -> None:
    spec = importlib.util.spec_from_file_location("kernels", kernels)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arrays = dict(np.load(inputs))
    results = {}
    for name in module.NAMES:
        results[name] = np.zeros_like(arrays["x"])
        with np.errstate(all="ignore"):
            tensors = [HostTensor(array) for array in (*arrays.values(), results[name])]
            getattr(module, name)[(1,)](*tensors, size=arrays["x"].size)
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
