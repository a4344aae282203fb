"""Arrays for a network: seeded inputs, inputs from files, outputs to a file. Needs NumPy alone."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from .. import errors
from ..runtime.artifact import write_file
from ..runtime.batch import for_images
from ..runtime.dtypes import numpy_dtype
from ..runtime.manifest import FOUND_SIZE, TensorSpec


def random_inputs(
    inputs: Sequence[TensorSpec], seed: int = 0, beside: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Seeded inputs by name: normal deviates for floats, whole numbers below 8 (2 for bool) for the others.

    Of a dynamic batch they have the most images, or as many as the arrays ``beside`` them.
    """
    random = np.random.default_rng(seed)
    arrays = {}
    for spec in inputs:
        if FOUND_SIZE in spec.shape:
            if beside and spec.name in beside:
                continue
            raise errors.open_sizes_unknown(spec.name)
        spec = _beside(spec, inputs, beside or {})
        drawn: np.ndarray
        if spec.dtype.startswith(("fp", "bf")):
            drawn = random.standard_normal(spec.shape)
        else:
            drawn = random.integers(0, 2 if spec.dtype == "bool" else 8, spec.shape)
        arrays[spec.name] = drawn.astype(numpy_dtype(spec.dtype))
    return arrays


def _beside(spec: TensorSpec, inputs: Sequence[TensorSpec], given: Mapping[str, np.ndarray]) -> TensorSpec:
    """An input with as many images as the given arrays have."""
    for other in inputs:
        if other.images and other.name in given and given[other.name].ndim:
            return for_images(spec, len(given[other.name]) // other.images)
    return spec


def given_inputs(options: Iterable[str], inputs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """Arrays by input name from ``NAME=FILE.npy`` texts. Names may contain ``=``.

    Raises:
        UsageError: a text of another form, or a name given twice. InputError: an unknown name or an unreadable file.
    """
    dtypes = {spec.name: spec.dtype for spec in inputs}
    arrays: dict[str, np.ndarray] = {}
    for option in options:
        name, file = _divided(option, dtypes)
        if name not in dtypes:
            raise errors.unexpected_input(name, list(dtypes))
        if name in arrays:
            raise errors.input_option_repeated(name)
        arrays[name] = read_array(file, dtypes[name])
    return arrays


def _divided(option: str, names: Iterable[str]) -> tuple[str, str]:
    """A text at the ``=`` behind the longest known name, else at its first one."""
    known = [name for name in names if option.startswith(f"{name}=")]
    name, equals, file = option.partition("=")
    if known:
        name = max(known, key=len)
        file = option[len(name) + 1 :]
    if not equals or not file:
        raise errors.input_option(option)
    return name, file


def read_array(file: str, dtype: str) -> np.ndarray:
    """The array of an ``.npy`` file; pickled objects are refused. ``dtype`` bf16 is read from NumPy's two-byte void.

    Raises:
        InputError: a file that is missing, or not one array.
    """
    try:
        with Path(file).open("rb") as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise errors.input_file(file, getattr(error, "strerror", None) or str(error) or "it is too large") from error
    return array.view(numpy_dtype("bf16")) if dtype == "bf16" and array.dtype.str[1:] == "V2" else array


def write_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an ``.npz`` file, the whole file or nothing. Raises `OutputError`."""
    archive = io.BytesIO()
    # Not numpy.savez: it takes the names as keyword arguments, and a network may call its output "file".
    with zipfile.ZipFile(archive, "w") as entries:
        for name, array in arrays.items():
            with entries.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    write_file(Path(path), [archive.getbuffer()])
