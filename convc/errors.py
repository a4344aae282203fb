"""Every error that convc raises on purpose, and every message that a user may see with it.

A message says, as far as they apply, the file, the node, the operator, what was expected, what was found and what to
do. The classes say what kind of thing went wrong; the functions hold the wording.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

OUT_OF_MEMORY = 2
"""The `DeviceError.code` of memory that is used up: the driver's CUDA_ERROR_OUT_OF_MEMORY."""


class ConvcError(Exception):
    """Base of all errors of convc.

    Attributes:
        kind: a short stable word for machines.
        file, node: where it happened, if that is known.
        unsupported: operators that cannot be compiled (see `UnsupportedModelError`).
    """

    kind = "error"

    def __init__(self, message: str, *, file: str | None = None, node: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.node = node
        self.unsupported: list[Unsupported] = []

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, f"node {self.node!r}" if self.node else None) if part)
        text = f"{place}: {self.message}" if place else self.message
        return " ".join(text.split())

    def as_json(self) -> dict[str, Any]:
        """The ``error`` object of the command line's JSON."""
        return {
            "kind": self.kind,
            "message": str(self),
            "file": self.file,
            "node": self.node,
            "unsupported": [vars(entry) | {"nodes": list(entry.nodes)} for entry in self.unsupported],
        }


class LoadError(ConvcError):
    """A model file that cannot be read as one."""

    kind = "load"


class ShapeError(ConvcError):
    """Shapes, dtypes or attributes that do not fit together."""

    kind = "shape"


class LimitError(ConvcError):
    """Something larger than convc accepts."""

    kind = "limit"


class InputError(ConvcError):
    """An array given to a compiled network that does not fit its inputs."""

    kind = "input"


class UsageError(ConvcError):
    """An option or argument that convc does not know."""

    kind = "usage"


class DependentImagesError(UsageError):
    """A dynamic batch for a network that cannot be compiled once for all of them."""


class CompileError(ConvcError):
    """A kernel that could not be generated or compiled."""

    kind = "compile"


class PassError(ConvcError):
    """A pass broke an invariant of the graph: a bug in convc, or in a rule from outside."""

    kind = "pass"


class ArtifactError(ConvcError):
    """A compiled file that is damaged, of another version, or not one."""

    kind = "artifact"


class DeviceError(ConvcError):
    """A device that is missing, of another kind than compiled for, or failing.

    Attributes:
        code: the driver's error code, None where no driver call failed.
        sticky: whether the GPU stays unusable for this process.
    """

    kind = "device"
    code: int | None = None
    sticky = False


class OutputError(ConvcError):
    """A result that could not be written."""

    kind = "output"


@dataclass(frozen=True)
class Unsupported:
    """One operator that convc cannot compile, with the nodes that use it; ``reason`` where only some form of it is."""

    op: str
    domain: str
    nodes: tuple[str, ...]
    reason: str = ""


class UnsupportedModelError(ConvcError):
    """A model with operators, or forms of operators, that convc does not compile; it lists all of them.

    Attributes:
        deciding: inputs of the network whose values decide what some of the operators would be; given as constants,
            they may make them operators that convc compiles.
    """

    kind = "unsupported"

    def __init__(
        self, unsupported: Sequence[Unsupported], *, deciding: Iterable[str] = (), file: str | None = None
    ) -> None:
        super().__init__(_unsupported_message(unsupported), file=file)
        self.unsupported = list(unsupported)
        self.deciding = frozenset(deciding)


def _unsupported_message(entries: Sequence[Unsupported]) -> str:
    def described(entry: Unsupported) -> str:
        name = f"{entry.domain}::{entry.op}" if entry.domain else entry.op
        shown = ", ".join(repr(node) for node in entry.nodes[:3])
        more = f" and {len(entry.nodes) - 3} more" if len(entry.nodes) > 3 else ""
        reason = f": {entry.reason}" if entry.reason else ""
        return f"{name} (node {shown}{more}){reason}"

    return "unsupported: " + "; ".join(described(entry) for entry in entries)


def one_of(found: object, choices: Iterable[object], what: str) -> UsageError:
    """An option outside its choices."""
    return UsageError(f"unknown {what} {str(found)!r}; choose from {', '.join(str(choice) for choice in choices)}")


def other_target(asked: str | None, own: str, device: str) -> UsageError:
    return UsageError(
        f"tiles for {asked!r} cannot be measured on {device!r}, which runs {own!r}; leave out --target or use --prepare"
    )


def both_ways(name: str) -> UsageError:
    """A feature that is switched on and off at once."""
    return UsageError(f"the feature {name!r} is both enabled and disabled; name it once")


# -- frontends: ONNX ---------------------------------------------------------------------------------------------------
def file_unreadable(file: str, why: str) -> LoadError:
    """A model file that the system does not open."""
    return LoadError(f"cannot read the model: {why.lower()}", file=file)


def file_not_regular(file: str, is_folder: bool) -> LoadError:
    """A path that names a folder or a device."""
    return file_unreadable(file, "it is a directory" if is_folder else "it is not a regular file")


def file_empty(file: str) -> LoadError:
    """A file of no bytes."""
    return file_unreadable(file, "it is empty")


FOREIGN_FILES = {
    "git-lfs": ("a git-lfs pointer", "fetch the real file with 'git lfs pull'"),
    "html": ("an HTML page", "download the file itself, not the page about it"),
    "xml": ("an XML document", "download the model file itself"),
    "gzip": ("gzip data", "unpack it first with 'gunzip'"),
    "bzip2": ("bzip2 data", "unpack it first with 'bunzip2'"),
    "xz": ("xz data", "unpack it first with 'unxz'"),
    "zstandard": ("zstandard data", "unpack it first with 'unzstd'"),
    "zip": ("a zip archive", "unpack it first, or export the PyTorch model with torch.onnx.export"),
    "pickle": ("a Python pickle", "export the model with torch.onnx.export; pickles are never opened"),
    "hdf5": ("an HDF5 file", "export the Keras model as ONNX"),
    "unknown": (
        "bytes that are no valid protobuf message",
        "it may be truncated or of another kind; download or export it again",
    ),
}


def file_not_onnx(file: str | None, kind: str) -> LoadError:
    """A file of another kind, a key of `FOREIGN_FILES`."""
    found, remedy = FOREIGN_FILES[kind]
    return LoadError(f"not an ONNX model: found {found}; {remedy}", file=file)


def file_too_large(file: str, size: int, limit: int) -> LimitError:
    """A model file past the limit."""
    return LimitError(f"the file has {size} bytes, more than {limit}; store the weights as external data", file=file)


def model_without(what: str) -> LoadError:
    """A model that lacks a required part."""
    return LoadError(f"the model has no {what}; export it again")


def version_out_of_range(what: str, found: int, lowest: int, highest: int) -> LoadError:
    """An IR or operator set version that convc does not read."""
    return LoadError(f"{what} {found} is not supported; convc reads {lowest} to {highest}")


def domain_imported_twice(domain: str) -> LoadError:
    """Two versions of one operator set."""
    return LoadError(f"operator set {domain or 'ai.onnx'!r} is imported twice")


def duplicate_name(what: str, name: str) -> LoadError:
    """A name that must be unique and is not."""
    return LoadError(f"{what} {name!r} is defined twice; every value must have one definition")


def undefined_value(name: str, *, node: str | None = None) -> LoadError:
    """A name that is used and never defined."""
    return LoadError(f"value {name!r} is used but nothing defines it", node=node)


def cyclic_graph(nodes: Sequence[str]) -> LoadError:
    """Nodes that wait for each other."""
    return LoadError(f"the graph has a cycle through {', '.join(repr(node) for node in nodes[:3])}")


def recursive_function(name: str) -> LoadError:
    """A local function that calls itself."""
    return LoadError(f"local function {name!r} calls itself, directly or through others")


def too_many(what: str, found: int, limit: int) -> LimitError:
    """A count past its limit."""
    return LimitError(f"{found} {what}; convc accepts {limit}")


def tensor_too_large(shape: Sequence[object], size: int, limit: int) -> LimitError:
    """A tensor past the budget."""
    return LimitError(f"a tensor of shape {list(shape)} takes {size} bytes; the limit is {limit}")


def bad_tensor(name: str, what: str) -> LoadError:
    """Tensor data that contradicts its own description."""
    return LoadError(f"tensor {name!r}: {what}")


def payload_length(name: str, found: int, expected: int, unit: str) -> LoadError:
    """Tensor data of another length than its shape says."""
    return bad_tensor(name, f"holds {found} {unit} where its shape and element type need {expected}")


def element_type(name: str, code: str) -> LoadError:
    """An element type that convc does not have."""
    return bad_tensor(name, f"has element type {code}, which convc does not read")


def tensor_negative_size(name: str, dims: Sequence[int]) -> LoadError:
    """A shape with a size below 0."""
    return bad_tensor(name, f"has a negative size in its shape {list(dims)}")


def tensor_segmented(name: str) -> LoadError:
    """A tensor in pieces, which no exporter writes."""
    return bad_tensor(name, "is segmented")


def tensor_two_payloads(name: str) -> LoadError:
    """Data in two places."""
    return bad_tensor(name, "holds its data in two fields")


def tensor_other_field(name: str, found: str, expected: str) -> LoadError:
    """Data in the field of another element type."""
    return bad_tensor(name, f"holds its data in {found}; expected {expected}")


def tensor_out_of_range(name: str, dtype: object) -> LoadError:
    """A value that its element type does not have."""
    return bad_tensor(name, f"has a value outside the range of {dtype}")


def sparse_indices(name: str, shape: Sequence[int]) -> LoadError:
    """Indices of a sparse tensor that are not one row (or number) a value."""
    return bad_tensor(name, f"is sparse with indices of shape {list(shape)}")


def sparse_outside(name: str) -> LoadError:
    """An index of a sparse tensor outside it."""
    return bad_tensor(name, "is sparse with an index outside its shape")


def external_in_memory(name: str) -> LoadError:
    """External data of a model without a file."""
    return bad_tensor(name, "has external data, but the model was given in memory; give its path")


def external_key(name: str, key: str) -> LoadError:
    """An entry of external data that is unknown or repeated."""
    return bad_tensor(name, f"has external data with an unknown or repeated key {key!r}")


def external_number(name: str, key: str, text: str) -> LoadError:
    """An offset or length that is no byte count."""
    return bad_tensor(name, f"has external data with {key} {text[:40]!r}; expected a byte count")


def external_location(name: str, location: str) -> LoadError:
    """A location that is no plain relative path."""
    return bad_tensor(name, f"has external data at {location[:200]!r}; it must be a plain path below the model")


def external_refused(name: str, location: str, why: str) -> LoadError:
    """External data that the system does not open, links among them."""
    return bad_tensor(name, f"has external data in {location[:200]!r}, refused: {why.lower()}")


def external_not_plain(name: str) -> LoadError:
    """External data in a device or a file with several names."""
    return bad_tensor(name, "has external data that is not in a regular file with a single name")


def external_ends(name: str, end: int, size: int) -> LoadError:
    """External data past the end of its file."""
    return bad_tensor(name, f"has external data that ends at byte {end} of a file of {size}")


def _bad_declaration(name: str, what: str) -> LoadError:
    return LoadError(f"input {name!r} {what}")


def declared_without_name() -> LoadError:
    """A network input that nothing can refer to."""
    return _bad_declaration("", "has no name")


def declared_kind(name: str, kind: str) -> LoadError:
    """A network input that is no tensor."""
    return _bad_declaration(name, f"has {kind}; convc takes tensors only")


def declared_element_type(name: str, code: str) -> LoadError:
    """A network input of an element type that convc does not have."""
    return _bad_declaration(name, f"has element type {code}, which convc does not read")


def declared_without_shape(name: str) -> LoadError:
    """A network input of unknown rank."""
    return _bad_declaration(name, "has no shape; export the model with one (free sizes may have names)")


def declared_negative_size(name: str, size: int) -> LoadError:
    """A network input with a size below 0."""
    return _bad_declaration(name, f"has size {size}; give free sizes a name instead")


def declared_otherwise(name: str, declared: str, found: object) -> LoadError:
    """An input whose value is there already, of another type than declared."""
    return _bad_declaration(name, f"is declared as {declared}, but its value is {found}")


def unknown_constants(names: Iterable[str], known: Iterable[str]) -> UsageError:
    """Values given for inputs that the model does not have."""
    return UsageError(f"no such input: {', '.join(sorted(names))}; the model's inputs: {', '.join(known) or 'none'}")


def unknown_dims(names: Iterable[str], known: Iterable[str]) -> UsageError:
    """Values given to dimensions that the model does not have."""
    have = ", ".join(sorted(known)) or "none"
    return UsageError(f"no such dimension: {', '.join(sorted(names))}; the model's symbolic dimensions: {have}")


def bad_dim(name: str, value: object) -> UsageError:
    """A dimension bound to something else than a size."""
    return UsageError(f"dimension {name} must be an integer of 0 or more, not {value!r}")


def bad_attribute(name: str, what: str) -> LoadError:
    """An attribute that the operator does not have, lacks, or has with another type or value."""
    return LoadError(f"attribute {name!r} {what}")


def attribute_unknown(name: str, known: Iterable[str]) -> LoadError:
    """An attribute that the operator does not have, such as a misspelt one."""
    return bad_attribute(name, f"is not one of this operator's at this opset ({', '.join(sorted(known)) or 'none'})")


def attribute_missing(name: str) -> LoadError:
    """An attribute that the operator needs."""
    return bad_attribute(name, "is required and missing")


def attribute_repeated(name: str) -> LoadError:
    """An attribute given twice."""
    return bad_attribute(name, "is given twice")


def attribute_kind(name: str, kind: str) -> LoadError:
    """An attribute of a kind that no supported operator has."""
    return bad_attribute(name, f"has type {kind}, which convc does not read")


def kernel_contradicts(declared: Sequence[int], found: Sequence[int]) -> LoadError:
    """A kernel shape that is not the weight's."""
    return bad_attribute("kernel_shape", f"is {list(declared)}, but the weight's kernel is {list(found)}")


def auto_pad_unknown(mode: str) -> LoadError:
    """A padding mode that ONNX does not have."""
    return bad_attribute("auto_pad", f"is {mode!r}; expected NOTSET, VALID, SAME_UPPER or SAME_LOWER")


def pads_given_twice(mode: str) -> LoadError:
    """Explicit pads beside automatic ones."""
    return bad_attribute("pads", f"is given together with auto_pad={mode}")


def zero_step() -> LoadError:
    """A slice that never moves."""
    return bad_attribute("steps", "has a 0")


def attribute_type(name: str, found: str, expected: str) -> LoadError:
    """An attribute of the wrong type."""
    return bad_attribute(name, f"has type {found}; expected {expected}")


def attribute_length(name: str, found: int, expected: int) -> ShapeError:
    """A list attribute that does not fit the rank."""
    return ShapeError(f"{name} has {found} entries; expected {expected}")


def attribute_below(name: str, found: object, least: int) -> ShapeError:
    """A number below its least value."""
    return ShapeError(f"{name} is {found}; it must be at least {least}")


def operator_version(op: str, opset: int, since: int) -> LoadError:
    """An operator that its operator set does not have yet."""
    return LoadError(f"{op} exists from opset {since} on, and the model declares opset {opset}")


def operator_removed(op: str, opset: int, since: int) -> LoadError:
    """An operator that its operator set has no more."""
    return LoadError(f"{op} was removed in opset {since}, and the model declares opset {opset}")


def operator_too_old(op: str, opset: int, oldest: int) -> LoadError:
    """A form of an operator from before the oldest operator set that convc reads."""
    return LoadError(f"{op} of opset {opset} is older than convc reads ({oldest}); convert the model to a newer opset")


def operand_count(what: str, found: int, least: int, most: int) -> LoadError:
    """Too few or too many inputs or outputs."""
    bounds = f"{least}" if least == most else f"{least} to {most}"
    return LoadError(f"{found} {what}; expected {bounds}")


def operand_missing(op: str, position: int) -> LoadError:
    """A required input that is left out."""
    return LoadError(f"input {position} of {op} is required and is left out")


def operand_shape(what: str, found: object, expected: str) -> ShapeError:
    """An operand of the wrong shape."""
    return ShapeError(f"{what} has shape {found}; expected {expected}")


def axis_out_of_range(axis: int, rank: int) -> ShapeError:
    """An axis outside the rank."""
    return ShapeError(f"axis {axis} is outside a tensor of rank {rank}")


def axes_repeated(axes: Sequence[int]) -> ShapeError:
    """The same axis twice."""
    return ShapeError(f"axes {list(axes)} name one axis twice")


def index_out_of_range(index: int, size: int) -> ShapeError:
    """A constant index outside its axis."""
    return ShapeError(f"index {index} is outside an axis of size {size}")


def reshape_misfit(source: Sequence[object], target: Sequence[object]) -> ShapeError:
    """A reshape that does not keep the number of elements."""
    return ShapeError(f"cannot reshape {list(source)} to {list(target)}")


def split_misfit(sizes: Sequence[object], size: object) -> ShapeError:
    """Pieces that do not add up."""
    return ShapeError(f"pieces {list(sizes)} do not add up to the axis of size {size}")


def output_not_tensor(name: str) -> LoadError:
    """A network output that is a sequence."""
    return LoadError(f"output {name!r} is no tensor; convc gives tensors only")


def not_readable(what: str, error: BaseException) -> LoadError:
    """Anything unforeseen while reading a node or a model."""
    return LoadError(f"{what} could not be read: {type(error).__name__}: {str(error)[:200] or 'no detail'}")


FORM_RUNTIME = "its {what} is computed from the network's input values"
FORM_SYMBOLIC = "its {what} depends on the symbolic size {dim}; give that dimension a number"
FORM_SYMBOLIC_DATA = "a symbolic size is used as tensor data; give that dimension a number"
FORM_OUTPUT = "its output {position} is used"
FORM_ATTRIBUTE = "with {name}={value}"
FORM_TRAINING = "in training mode"
FORM_SEQUENCE = "on a sequence"
FORM_NOTHING = "of nothing"
FORM_NO_TURN = "a loop of no turns, whose result has no declared shape"
FORM_DTYPE = "on element type {dtype}"
FORM_NO_KERNEL = "no kernel for it"
FORM_COUNT = "the size of its result depends on the values"
HOSTED_FOUND_SIZE = "its sizes are known only when it runs"
HOSTED_BETWEEN = "the host has what it reads, and only the host reads what it makes"


# -- Runtime: the artifact -------------------------------------------------------------------------------------------

RESTART = "restart the process"


def not_an_artifact(what: str, file: str | None) -> ArtifactError:
    """A file that convc did not write, or that cannot be read."""
    return ArtifactError(f"not a compiled network: {what}", file=file)


def damaged(section: str, what: str, file: str | None = None) -> ArtifactError:
    """A part of a compiled file that contradicts the rest."""
    return ArtifactError(f"section {section!r}: {what}; the file is damaged, compile the model again", file=file)


def format_version(found: tuple[int, int], supported: Iterable[int], file: str | None = None) -> ArtifactError:
    """A compiled file of another major version."""
    return ArtifactError(
        f"format version {found[0]}.{found[1]}, but this convc reads {' and '.join(f'{m}.x' for m in supported)}; "
        "compile the model again with this convc, or load it with the convc that wrote it",
        file=file,
    )


def not_written(path: object, reason: object) -> OutputError:
    """A file that could not be written; nothing was left behind."""
    return OutputError(f"cannot write: {reason}", file=str(path))


# -- Runtime: inputs -------------------------------------------------------------------------------------------------


def too_many_inputs(found: int, names: Sequence[str]) -> InputError:
    return InputError(f"{found} arrays given, but the network has {len(names)} inputs: {_names(names)}")


def missing_inputs(missing: Sequence[str], names: Sequence[str]) -> InputError:
    return InputError(f"no array for input {_names(missing)}; the network's inputs are {_names(names)}")


def unexpected_input(name: str, names: Sequence[str]) -> InputError:
    return InputError(f"the network has no input {name!r}; its inputs are {_names(names)}")


def repeated_input(name: str) -> InputError:
    return InputError(f"input {name!r} is given twice, by position and by name")


def input_not_array(name: str, found: str, dtype: str) -> InputError:
    return InputError(
        f"input {name!r}: expected an array, found {found}; convert it with numpy.asarray(value, dtype={dtype!r})"
    )


def input_dtype(name: str, expected: str, found: str) -> InputError:
    return InputError(
        f"input {name!r}: expected dtype {expected}, found {found}; "
        f"nothing is cast silently, use array.astype({expected!r})"
    )


def input_shape(name: str, expected: Sequence[object], found: Sequence[int]) -> InputError:
    """``expected``: sizes, or the names of those that are free."""
    shown = f"[{', '.join(map(str, expected))}]"
    if len(expected) != len(found):
        what = f"expected {len(expected)} dimensions {shown}, found {len(found)} {list(found)}"
    else:
        what = f"expected shape {shown}, found {list(found)}"
    return InputError(f"input {name!r}: {what}; give an array of that shape, or compile the model for this one")


def input_images(name: str, rows: int, rest: Sequence[int], most: int, found: Sequence[int]) -> InputError:
    """An array that does not hold from 1 to ``most`` images of ``rows`` rows each."""
    shape = ", ".join(["N" if rows == 1 else f"{rows}*N", *map(str, rest)])
    return InputError(
        f"input {name!r}: expected shape [{shape}] with a batch N of 1 to {most}, found {list(found)}; "
        "run larger batches in parts, or compile with a larger --max-batch"
    )


def images_differ(name: str, found: int, other: str, expected: int) -> InputError:
    """Arrays of one run that hold different numbers of images."""
    return InputError(
        f"input {name!r}: expected {expected} images, as input {other!r} has, found {found}; "
        "give the same number with every input"
    )


def input_on_device(name: str, what: str) -> InputError:
    """An array in a GPU's memory that cannot be used where it is."""
    return InputError(f"input {name!r}: {what}")


def outputs_overlap(output: str, other: str) -> InputError:
    """Two arrays that a network is bound to share memory, and one of them is written."""
    return InputError(f"output {output!r} shares memory with {other}; kernels read while others write, give it its own")


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


# -- Runtime: the engine and devices -----------------------------------------------------------------------------------


def engine_closed() -> ConvcError:
    return UsageError("the engine is closed; load the network again")


def engine_forked(made: int, here: int) -> ConvcError:
    return UsageError(
        f"the engine belongs to process {made} and cannot run in its fork {here}; load the network in each process"
    )


def no_stepping(device: str) -> DeviceError:
    """A device whose memory cannot be read between two launches."""
    return DeviceError(f"kernels cannot be compared one by one on {device}; use cuda, interpreter or numpy")


def no_program(found: str, programs: Iterable[str]) -> DeviceError:
    return DeviceError(f"the network is not compiled for {found!r}; it holds {_names(programs)}")


def no_target(file: str | None) -> UsageError:
    """A network without programs, where its launches are looked at."""
    return UsageError("the network is compiled for no target: it has no launches; compile it for one", file=file)


def not_interpreted(kernel: str, target: str) -> DeviceError:
    return DeviceError(
        f"kernel {kernel!r} of the program for {target!r} is written in Gluon, which Triton's interpreter cannot run; "
        "compile for target 'interpreter', or without enable='im2col'"
    )


def executor_missing(device: str, reason: object) -> DeviceError:
    return DeviceError(f"device {device!r} cannot be used here: {reason}")


def no_bindings(reason: object) -> DeviceError:
    return DeviceError(f"CUDA needs the package cuda-bindings ({reason}); install it with: pip install 'convc[cuda]'")


def no_driver(reason: object) -> DeviceError:
    return DeviceError(
        f"no CUDA driver found ({reason}); install the NVIDIA driver, or use device='interpreter' or 'numpy'"
    )


def old_driver(found: int | None, needed: int) -> DeviceError:
    here = "the CUDA driver here is older" if found is None else f"the driver here supports CUDA {_cuda(found)}"
    return DeviceError(f"a driver for CUDA {_cuda(needed)} or newer is needed, but {here}; update the NVIDIA driver")


def _cuda(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def no_device(ordinal: int, count: int) -> DeviceError:
    have = "the driver sees no GPU" if count == 0 else f"the driver sees {count} (0 to {count - 1})"
    return DeviceError(f"there is no GPU number {ordinal}: {have}; check CUDA_VISIBLE_DEVICES")


def no_binary(built: Sequence[str], present: str, name: str, model: str) -> DeviceError:
    return DeviceError(
        f"the network is compiled for {', '.join(built) or 'no GPU'}, but this GPU ({name}) is {present}; "
        f"rebuild it with: convc compile {model or 'MODEL'} --target {present} -o FILE.convc"
    )


def out_of_memory(what: str, asked: int, free: int, total: int) -> DeviceError:
    error = DeviceError(
        f"out of GPU memory for {what}: {asked} bytes asked, {free} of {total} bytes free; "
        "use a smaller batch or free memory on the GPU"
    )
    error.code = OUT_OF_MEMORY
    return error


def out_of_host_memory(what: str, asked: int) -> DeviceError:
    error = DeviceError(f"no page-locked host memory left for {what}: {asked} bytes asked; run the batches one by one")
    error.code = OUT_OF_MEMORY
    return error


def no_shared_memory(asked: int, why: object) -> DeviceError:
    """The interpreter's buffers do not fit."""
    error = DeviceError(f"no memory left for the buffers of the network: {asked} bytes asked ({why})")
    error.code = OUT_OF_MEMORY
    return error


def over_limit(kernel: str, what: str, found: int, limit: int) -> DeviceError:
    return DeviceError(f"kernel {kernel!r} needs {found} {what}, but this GPU allows {limit}")


def not_loadable(kernel: str, error: object, driver: int) -> DeviceError:
    return DeviceError(
        f"kernel {kernel!r} could not be loaded by the driver (CUDA {_cuda(driver)}): {error}; "
        "update the NVIDIA driver or compile the model again"
    )


def driver_call(call: str, code: int, name: str, text: str) -> DeviceError:
    """A driver call that failed. Sticky codes are those after which the process cannot use the GPU any more."""
    sticky = code in STICKY_CODES
    error = DeviceError(f"{call} failed: {name} ({code}), {text}" + (f"; {RESTART}" if sticky else ""))
    error.code, error.sticky = code, sticky
    return error


def no_clock(device: str) -> DeviceError:
    return DeviceError(f"kernels can only be timed on a GPU, not on {device!r}; use device='cuda'")


def nothing_to_tune_on(device: str) -> DeviceError:
    """No GPU, and the interpreter was not asked for."""
    return DeviceError(
        f"no GPU that convc compiles for on {device!r}, so there is nothing to measure; --prepare --target TARGET "
        "compiles the candidates for one, --device interpreter shows without one that it works"
    )


def found_size_bound(name: str) -> DeviceError:
    """Memory of the caller's for an output whose size nobody knows yet."""
    return DeviceError(f"output {name!r} has a size that only the run finds out: it cannot be bound; call the engine")


def no_binding(device: str) -> DeviceError:
    return DeviceError(
        f"only an engine on a GPU can be bound to arrays there, not one on {device!r}; use device='cuda'"
    )


def engine_dead(cause: object) -> DeviceError:
    error = DeviceError(f"the engine is unusable since an earlier failure ({cause}); {RESTART}")
    error.sticky = True
    return error


STICKY_CODES = frozenset({214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721})


# -- frontends: the DSL and the zoo -----------------------------------------------------------------------------------
def duplicate_layer(layer: str, network: str) -> UsageError:
    """A name that is taken."""
    return UsageError(f"network {network!r} already has a layer of this name; choose another", node=layer)


def foreign_tensor(tensor: str, owner: str, network: str) -> UsageError:
    """A tensor used in a network that it is not part of."""
    return UsageError(f"{tensor!r} belongs to network {owner!r} and cannot be used in {network!r}", node=tensor)


def weight_misfit(layer: str, part: str, expected: Iterable[int], found: Iterable[int]) -> ShapeError:
    """Given weights of the wrong shape."""
    return ShapeError(f"{part} should have shape {_listed(expected)}, but {_listed(found)} was given", node=layer)


def groups_misfit(layer: str, channels: int, filters: int, groups: int) -> ShapeError:
    """Channels or filters that the groups do not divide."""
    return ShapeError(
        f"{groups} groups do not divide {channels} input channels and {filters} filters evenly", node=layer
    )


def no_units(layer: str, what: str, found: object, least: int = 1) -> ShapeError:
    """A layer of no filters, units or groups, or of a window without elements."""
    return ShapeError(f"{what} should be {least} or more, found {found}", node=layer)


def no_axis(layer: str, axis: int, shape: Iterable[object]) -> ShapeError:
    """An axis that the input does not have."""
    return ShapeError(f"axis {axis} does not exist in an input of shape {_listed(tuple(shape))}", node=layer)


def blocks_misfit(layer: str, shape: Iterable[object], block: int, axis: int) -> ShapeError:
    """Channels or sides that do not come apart into blocks."""
    whole = f"channels are no multiple of {block}²" if axis == 1 else f"sides are no multiples of {block}"
    return ShapeError(f"an input of shape {_listed(tuple(shape))} does not come apart: its {whole}", node=layer)


def nothing_to_concatenate() -> UsageError:
    """A concatenation of no tensors."""
    return UsageError("concat takes one tensor at least")


def wrong_length(layer: str, what: str, found: Iterable[int], lengths: Sequence[int]) -> ShapeError:
    """A tuple of as many numbers as fits no reading of it."""
    choices = " or ".join(str(length) for length in lengths)
    return ShapeError(f"{what} {tuple(found)} should have {choices} numbers for this input's rank", node=layer)


def same_needs_sizes(layer: str, extent: object) -> ShapeError:
    """Padding that follows from a size which is not known."""
    return ShapeError(f'padding "same" with a stride needs a numeric input size, found {extent}', node=layer)


def does_not_fit(
    layer: str, extent: Iterable[object], kernel: Iterable[int], stride: Iterable[int], pads: Iterable[int]
) -> ShapeError:
    """Windows that do not cover their input evenly, in a strict network."""
    return ShapeError(
        f"does not fit: {_listed(kernel)} windows with stride {_listed(stride)} and padding {tuple(pads)} leave part "
        f"of the {_listed(extent)} input unread; change the padding, or build without strict=True",
        node=layer,
    )


def needs_channels(layer: str, shape: Iterable[object]) -> ShapeError:
    """An input without a channel axis."""
    return ShapeError(f"expected an input of shape [N, C] or [N, C, spatial ...], found {_listed(shape)}", node=layer)


def needs_positions(layer: str, shape: Iterable[object]) -> ShapeError:
    """A window over an input without spatial axes."""
    return ShapeError(f"expected an input of shape [N, C, spatial ...], found {_listed(shape)}", node=layer)


def needs_number(layer: str, dim: object, shape: Iterable[object]) -> ShapeError:
    """A symbolic dimension where weights depend on it."""
    return ShapeError(f"dimension {dim} of the input {_listed(shape)} must be a number here", node=layer)


def at_layer(error: ShapeError, layer: str, shapes: Sequence[Sequence[object]]) -> ShapeError:
    """``error`` with the layer that it happened in and, where they are not mentioned yet, the shapes of its inputs."""
    listed = [_listed(tuple(shape)) for shape in shapes]
    if not all(shape in error.message for shape in listed):
        error.message += f" (inputs {', '.join(listed)})"
    error.node = error.node or layer
    return error


def parts_misfit(layer: str, shape: Iterable[object], axis: int, parts: Iterable[int]) -> ShapeError:
    """Parts that do not add up."""
    return ShapeError(f"parts {tuple(parts)} do not add up to axis {axis} of {_listed(shape)}", node=layer)


def bad_slice(layer: str, shape: Iterable[object]) -> ShapeError:
    """An index that is not a range for each axis."""
    return ShapeError(f"slicing {_listed(shape)} takes one range for each axis at most, such as x[:, 0:8]", node=layer)


# -- frontends: ONNX export -------------------------------------------------------------------------------------------
def opset_out_of_range(found: int, least: int, newest: int) -> UsageError:
    """An opset that the exporter does not write."""
    return UsageError(f"opset {found} cannot be written; choose one from {least} to {newest}")


def needs_opset(layer: str, what: str, least: int, found: int) -> UsageError:
    """A form of an operator that is younger than the opset asked for."""
    return UsageError(f"{what} needs opset {least} or newer, but opset {found} was asked for", node=layer)


def no_onnx_form(layer: str, what: str) -> UsageError:
    """A form of an operator that no opset has."""
    return UsageError(f"ONNX has no form for {what}", node=layer)


def too_large_for_onnx(size: int, limit: int) -> LimitError:
    """More weights than one ONNX file holds."""
    return LimitError(f"{size} bytes of weights do not fit into an ONNX file, which holds {limit}")


def cannot_express(layer: str, dim: object) -> ShapeError:
    """A dimension that no input of the graph shows."""
    return ShapeError(f"dimension {dim} cannot be computed from the shapes of the graph's inputs", node=layer)


# -- ir: operators ----------------------------------------------------------------------------------------------------
def wrong_input_count(op: str, expected: str, found: int) -> ShapeError:
    """Too many or too few inputs."""
    return ShapeError(f"{op} expects {expected} input(s), found {found}")


def wrong_dtype(op: str, what: str, expected: str, found: object) -> ShapeError:
    """An element type that an operator does not take."""
    return ShapeError(f"{op} expects {what} of type {expected}, found {found}")


def dtypes_differ(op: str, found: Sequence[object]) -> ShapeError:
    """Inputs that must have one element type and do not."""
    return ShapeError(f"{op} expects inputs of one element type, found {', '.join(str(dtype) for dtype in found)}")


def wrong_rank(op: str, what: str, expected: str, found: object) -> ShapeError:
    """A tensor of the wrong number of dimensions."""
    return ShapeError(f"{op} expects {what} of rank {expected}, found {found}")


def wrong_dimension(op: str, what: str, expected: object, found: object) -> ShapeError:
    """A dimension, or a shape, that does not match."""
    return ShapeError(f"{op} expects {what} to be {expected}, found {found}")


def not_broadcastable(op: str, shapes: Sequence[object]) -> ShapeError:
    """Shapes that do not broadcast."""
    return ShapeError(f"{op} expects shapes that broadcast together, found {' and '.join(map(_listed, shapes))}")


def not_divisible(op: str, what: str, groups: int, found: object, name: str = "groups") -> ShapeError:
    """Channels or filters that a number of groups, the attribute ``name``, does not divide."""
    return ShapeError(f"{op} expects {name}={groups} to divide the {what}, found {found} {what}")


def wrong_attribute(op: str, name: str, expected: str, found: object) -> ShapeError:
    """An attribute value outside what the operator allows."""
    return ShapeError(f"{op} expects attribute {name} to be {expected}, found {found!r}")


def window_too_large(op: str, axis: int, window: object, padded: object) -> ShapeError:
    """A kernel that does not fit into the padded input once."""
    return ShapeError(
        f"{op} expects its window to fit into the padded input, found a window of {window} (kernel with dilation) "
        f"over {padded} on spatial axis {axis}"
    )


def elements_differ(op: str, source: Sequence[object], target: Sequence[object]) -> ShapeError:
    """A reshape that changes the number of elements."""
    return ShapeError(f"{op} expects as many elements as it reads, found {_listed(source)} into {_listed(target)}")


def slice_outside(op: str, axis: int, start: object, size: object, step: object, extent: object) -> ShapeError:
    """A slice that reads outside its tensor."""
    return ShapeError(
        f"{op} expects indices in 0..{extent}-1 on axis {axis}, found start {start}, size {size}, step {step}"
    )


def index_outside(op: str, axis: int, extent: int, found: object) -> ShapeError:
    """A gathered index outside its tensor."""
    return ShapeError(f"{op} expects indices in -{extent}..{extent - 1} on axis {axis}, found {found}")


def _listed(shape: object) -> str:
    return f"[{', '.join(str(dim) for dim in shape)}]" if isinstance(shape, (tuple, list)) else str(shape)


# -- ir: text, invariants ---------------------------------------------------------------------------------------------
def constant_without_data(digest: str) -> LoadError:
    """A constant of which only the digest was read."""
    return LoadError(f"the data of constant @{digest} was not given: pass it in `constants` when parsing the text")


def bad_graph_text(line: int, expected: str, found: str) -> LoadError:
    """A line that is not the text form of a graph."""
    return LoadError(f"line {line} of the graph's text: expected {expected}, found {found!r}")


def broken_invariant(stage: str, invariant: str, label: str | None, found: str) -> PassError:
    """A graph that does not keep what its stage promises."""
    return PassError(f"expected of a graph at stage {stage!r}: {invariant}; found {found}", node=label)


# -- rules and policies from outside ----------------------------------------------------------------------------------
def bad_rule_name(name: object) -> UsageError:
    """A name that `--disable` could not take."""
    return UsageError(f"a rule's name is lower-case words joined by hyphens, such as 'fold-scale'; found {name!r}")


def rule_without_function(name: str) -> UsageError:
    """A rule that does nothing."""
    return UsageError(f"rule {name!r} needs a rewrite or a proposer")


def duplicate_rule(name: str) -> UsageError:
    """A name that is taken."""
    return UsageError(f"a rule named {name!r} exists already; give this one another name")


def bad_entry_point(group: str, name: str, why: str) -> UsageError:
    """An installed package that supplies something unusable."""
    return UsageError(f"entry point {name!r} of the group {group!r} in an installed package: {why}")


def not_a_policy(found: object) -> UsageError:
    """An object that cannot decide."""
    return UsageError(
        f"a policy is a name, or an object with a name and a method refusal(choice, graph); found {found!r}"
    )


def bad_offer(rule: str, found: str) -> PassError:
    """A fusion that no kernel could be."""
    return PassError(f"the rule {rule!r}, registered from outside, offered {found}")


def rule_broke(rule: str, why: str, label: str | None) -> PassError:
    """A rewrite from outside left a broken graph."""
    return PassError(f"the rule {rule!r}, registered from outside, broke the graph: {why}", node=label)


# -- compiling --------------------------------------------------------------------------------------------------------
def kernel_failed(label: str, kernel: str, capability: int, reason: str, source: object) -> CompileError:
    """Triton or ptxas refused a kernel. source: the file that holds its text, None where it could not be written."""
    kept = f"; its source is kept in {source}" if source is not None else ""
    return CompileError(f"kernel {kernel} did not compile for sm_{capability}: {reason}{kept}", node=label)


def too_much_shared(label: str, kernel: str, target: str, needed: int, limit: int) -> CompileError:
    """A kernel whose blocks could not be launched, with every tile that was tried."""
    return CompileError(
        f"kernel {kernel} needs {needed} bytes of shared memory in a block, and {target} has {limit}; disable the "
        "rules that made it (convc explain), or compile for another GPU",
        node=label,
    )


def no_compiler() -> CompileError:
    """Triton is not installed."""
    return CompileError("kernels are compiled with Triton, which is not installed: pip install triton")


def no_disassembler() -> CompileError:
    """Machine code is to be read where Triton, which ships the tool for it, is not installed."""
    return CompileError("machine code is read by nvdisasm, which Triton ships, and it is not there: pip install triton")


def not_disassembled(capability: int, said: str) -> CompileError:
    """Machine code that the tool cannot read."""
    reason = " ".join(said.split())[:500] or "it did not say why"
    return CompileError(f"nvdisasm cannot read the machine code for sm_{capability}: {reason}")


def nothing_compiled(targets: Iterable[str]) -> UsageError:
    """Machine code is to be checked where none is."""
    return UsageError(
        f"there is no machine code to check for {_names(targets)}; name a GPU, such as --target sm_90",
    )


def kernel_not_packed(label: str, kernel: str, capability: int, directory: object) -> CompileError:
    """A kernel that was not compiled beforehand, where nothing is compiled."""
    return CompileError(
        f"kernel {kernel} for sm_{capability} is not among the compiled kernels in {directory}; this pack was made for "
        "other networks, batch sizes, options or another version of convc: pack again with them",
        node=label,
    )


def not_a_pack(directory: object, why: object) -> UsageError:
    """A directory that should hold compiled kernels."""
    return UsageError(f"{directory}: no pack of compiled kernels: {why}")


def other_pack(directory: object, found: str, expected: str) -> UsageError:
    """A pack that another version of convc asked for."""
    return UsageError(f"{directory}: these kernels were packed by convc {found}, this is {expected}: pack again")


def unbound_dimensions(names: Sequence[str]) -> ShapeError:
    """Symbolic dimensions other than the batch."""
    listed = ", ".join(repr(name) for name in names)
    return ShapeError(
        f"dimensions of unknown size: {listed}; expected only a symbolic batch; give the others numbers: "
        f"--dims {names[0]}=224, or dims={{{names[0]!r}: 224}} in Python"
    )


def interpreter_failed(label: str | None, reason: str) -> DeviceError:
    """A kernel failed in Triton's interpreter, or the process that runs it did."""
    return DeviceError(f"the interpreter failed: {reason}", node=label)


def host_step_failed(origins: Sequence[str], why: object) -> DeviceError:
    """Something that the host computes between launches failed."""
    shown = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else str(why)
    return DeviceError(f"the host could not compute it: {shown}", node=", ".join(origins[:3]) or None)


# -- verification -----------------------------------------------------------------------------------------------------
def no_reference(reason: str) -> UsageError:
    """There is nothing to compare with."""
    return UsageError(f"no reference to verify against: {reason}")


# -- command line -----------------------------------------------------------------------------------------------------
def bad_usage(what: str, command: str) -> UsageError:
    """What the parser of the command line says."""
    return UsageError(f"{what.rstrip('.')}; see {command} --help")


def dynamic_batch(command: str) -> UsageError:
    """A dynamic batch for a command that needs a number."""
    return UsageError(f"{command} needs one batch, not a dynamic one; give a number, such as --batch 1")


def images_mixed(node: str, reason: str, batch: int) -> DependentImagesError:
    """A dynamic batch for a network in which images of a batch are not independent."""
    return DependentImagesError(
        f"a dynamic batch needs images that do not depend on each other, but {reason}; compile for one size, such as "
        f"--batch {batch}",
        node=node,
    )


def other_sizes(found: Sequence[str], expected: Sequence[str]) -> UsageError:
    """Sizes by other names than those that are open."""
    return UsageError(f"expected sizes named {_names(expected)}, found {_names(found)}")


def size_of_batch(name: str, most: int, found: int) -> InputError:
    """A batch beyond the maximum."""
    return InputError(
        f"the batch {name!r} is {found}, expected 1 to {most}; run larger batches in parts, or compile with a larger "
        "--max-batch"
    )


def open_with_outside_data(names: Sequence[str]) -> UsageError:
    """A model with open sizes whose weights lie in other files, so that it cannot be kept."""
    return UsageError(
        f"the sizes {_names(names)} are open, and the model's weights lie in other files; give the sizes numbers "
        f"(--dims {names[0]}=224), or put the weights into the model"
    )


def open_sizes_unknown(name: str) -> UsageError:
    """An array is to be drawn for an input whose sizes nobody said."""
    return UsageError(
        f"sizes of input {name!r} are open; give an array (--input {name}=FILE.npy), or numbers for the sizes (--dims "
        "NAME=SIZE)"
    )


def own_executor_of_open(names: Sequence[str]) -> UsageError:
    """An executor, which runs one program, for a network that has one for each size."""
    return UsageError(
        f"the sizes {_names(names)} are open, and an executor runs one program; give it to the engine of a network for "
        "certain sizes, as specialised returns it"
    )


def nothing_compiled_yet(file: str | None) -> UsageError:
    """A network whose sizes are open, where a compiled one is looked at."""
    return UsageError(
        "the sizes of this network are open, and it holds nothing compiled; give the model, with numbers for them "
        "(--dims NAME=SIZE)",
        file=file,
    )


def bad_dims(text: str) -> UsageError:
    """A ``--dims`` of another form."""
    return UsageError(f"--dims takes NAME=SIZE,..., found {text!r}")


def open_without_compiler(model: str) -> DeviceError:
    """An engine for a network whose sizes are open, which has no kernels yet."""
    return DeviceError(f"the sizes of {model!r} are open: nothing is compiled yet; open it with convc.load")


def no_compiler_for_sizes(file: str, error: ImportError) -> CompileError:
    """A network whose sizes are open, where there is no compiler."""
    return CompileError(
        f"the sizes of this network are open, it is compiled when they are known, and the compiler is not installed "
        f"({error}): pip install convc",
        file=file,
    )


def max_batch_alone(found: int) -> UsageError:
    """A maximum for a batch that is not dynamic."""
    return UsageError(f"--max-batch {found} goes with --batch dynamic; give both, or --batch {found} alone")


def bad_batch(text: str, option: str = "--batch", other: str = "dynamic") -> UsageError:
    """A batch that is no size. other: what the option takes beside sizes."""
    beside = f", or {other}" if other else ""
    return UsageError(f"{option} takes a whole number of 1 or more{beside}, found {text!r}")


def bad_jobs(text: str) -> UsageError:
    """A number of processes that is none."""
    return UsageError(f"CONVC_JOBS takes a whole number of 1 or more, found {text!r}")


def fixed_batch(file: str, found: object, asked: int | str) -> UsageError:
    """A batch for a model that has one already."""
    batch = f"a {asked} batch" if isinstance(asked, str) else f"a batch of {asked}"
    return UsageError(f"{batch} does not apply: the model's first dimension is fixed at {found}", file=file)


def compiled_already(file: str) -> UsageError:
    """A compiled network where a model is needed."""
    return UsageError("this is a compiled network already; give the model that it was compiled from", file=file)


def decided_already(option: str, file: str) -> UsageError:
    """An option that says how to compile, for what is compiled."""
    return UsageError(f"{option} does not apply to a compiled network; it was decided when compiling", file=file)


def stage_not_kept(after: str, file: str) -> UsageError:
    """An early stage of a compiled network."""
    return UsageError(f"a compiled network keeps its last graph only, not that after {after!r}", file=file)


def input_option(text: str) -> UsageError:
    """An ``--input`` of another form."""
    return UsageError(f"--input takes NAME=FILE.npy, found {text!r}")


def input_option_repeated(name: str) -> UsageError:
    """Two files for one input."""
    return UsageError(f"--input {name!r} is given twice")


def input_file(file: str, why: str) -> InputError:
    """A file that holds no array."""
    return InputError(f"cannot read an array: {why}; write one with numpy.save", file=file)


def output_suffix(file: str, suffixes: Sequence[str]) -> UsageError:
    """An output file of a kind that the command does not write."""
    return UsageError(f"cannot tell the kind of file to write; end its name in {', '.join(suffixes)}", file=file)


def interrupted() -> ConvcError:
    """The user stopped it."""
    return ConvcError("interrupted")


def reader_gone() -> OutputError:
    """A pipe whose other end was closed."""
    return OutputError("the reader of standard output is gone")


def system_refused(error: OSError) -> OutputError:
    """Standard output, or another file of the system, that does not do what is asked of it."""
    file = None if error.filename is None else str(error.filename)
    return OutputError(f"the system refused: {error.strerror or error}", file=file)


def no_memory(error: MemoryError) -> LimitError:
    """Memory of the host that ran out."""
    detail = f" ({str(error)[:300]})" if str(error) else ""
    return LimitError(f"there is not enough memory{detail}; smaller inputs or a smaller --batch need less")


def unforeseen(error: BaseException) -> ConvcError:
    """A bug in convc."""
    detail = f": {str(error)[:300]}" if str(error) else ""
    return ConvcError(f"{type(error).__name__}{detail}; this should not happen: run convc -vv ... for the traceback")


# -- ablation and benchmarks ------------------------------------------------------------------------------------------
def one_target(names: Iterable[str]) -> UsageError:
    """Several targets where figures of one are compared."""
    return UsageError(f"this command compares figures for one target, found {', '.join(names)}; give one")


def charts_missing() -> UsageError:
    """The library that draws charts is not installed."""
    return UsageError("charts are drawn with matplotlib, which is not installed; pip install 'convc[report]'")
