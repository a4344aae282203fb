"""The manifest of a compiled network: what the runtime must know, as typed records that map one to one to JSON.

Every size is in bytes and every offset counts from the start of its buffer, unless a field says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Annotated, Union

import msgspec
from msgspec import Meta, Struct

from .tensor_maps import MAX_RANK

FORMAT_MAJOR = 1
FORMAT_MINOR = 1
HOST_STEPS_MAJOR = 2
"""Major version of files with steps of the host, which a reader of version 1 would leave out."""

Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(gt=0)]
FOUND_SIZE = -1
Size = Annotated[int, Meta(ge=FOUND_SIZE)]
Text = Annotated[str, Meta(max_length=65536)]
Rank = 16


class Record(Struct, frozen=True, forbid_unknown_fields=False, omit_defaults=True):
    """Base of the records. Fields that a newer minor version added are ignored."""


class TensorSpec(Record, frozen=True):
    """An input or output of the network: dense, in ONNX order. A dimension of 0 elements is allowed; one of an output
    that only the run finds out is `FOUND_SIZE`: it is made by the host, and in no buffer. So are sizes of inputs and
    outputs where the manifest is `open`.

    images: rows of the first dimension that each image has where the batch is dynamic; ``shape`` is then that of
    `Manifest.max_batch` images. 0 where the tensor holds no images, and where the batch is not dynamic.
    """

    name: Text
    dtype: Text
    shape: Annotated[tuple[Size, ...], Meta(max_length=Rank)]
    images: Natural = 0


class WeightSpec(Record, frozen=True):
    """One tensor of the weights section and where it goes in the ``weights`` buffer."""

    name: Text
    offset: Natural
    nbytes: Natural


def written_sizes(shape: Iterable[object]) -> tuple[int, ...]:
    """A shape as a manifest has it: what is no number is a size that only the run finds out."""
    return tuple(int(size) if isinstance(size, Integral) else FOUND_SIZE for size in shape)


def is_found(spec: TensorSpec) -> bool:
    """Whether only the run finds out how large an output is."""
    return FOUND_SIZE in spec.shape


class ViewSpec(Record, frozen=True):
    """A constant of the graph as a strided view of a weight tensor: shape and strides in elements."""

    weight: Text
    dtype: Text
    shape: tuple[Natural, ...]
    strides: tuple[int, ...]


class BufferArgument(Record, frozen=True, tag="buffer"):
    """A pointer argument: ``buffer`` is ``arena``, ``weights``, ``counters``, ``input:I`` or ``output:I``."""

    buffer: Text
    offset: Natural = 0


class IntegerArgument(Record, frozen=True, tag="int"):
    """An ``i32`` argument."""

    value: int


class TensorMapArgument(Record, frozen=True, tag="tensor_map"):
    """A descriptor of an array in a buffer: where it begins, in bytes, and its shape and strides, in elements.

    The outermost dimension is first, and the innermost has stride 1. Of images that windows walk over (N, H, W, C):
    lower, upper: corners of the walk along the dimensions between, from the first and the last element; steps:
    elements from place to place, along all dimensions.
    """

    buffer: Text
    offset: Natural
    shape: Annotated[tuple[Positive, ...], Meta(max_length=MAX_RANK)]
    strides: Annotated[tuple[Positive, ...], Meta(max_length=MAX_RANK)]
    lower: Annotated[tuple[int, ...], Meta(max_length=MAX_RANK)] = ()
    upper: Annotated[tuple[int, ...], Meta(max_length=MAX_RANK)] = ()
    steps: Annotated[tuple[Positive, ...], Meta(max_length=MAX_RANK)] = ()


Argument = Union[BufferArgument, IntegerArgument, TensorMapArgument]


class Parameter(Record, frozen=True):
    """A kernel parameter in Triton's spelling: ``*fp16``, ``*i64``, ``i32``, ``tensordesc<fp16[128,64]>`` …

    align: bytes that the compiled code assumes every pointer to be a multiple of.
    """

    name: Text
    type: Text
    align: Positive = 16


class TensorMapSpec(Record, frozen=True):
    """How compiled code wants a descriptor encoded.

    swizzle: 0 for none, 1, 2, 3 for 32, 64, 128 bytes. elem_size: bytes. elem_type: Triton's number of the type.
    block_size: the box of one copy, in elements, outermost extent first; it divides the block of the parameter's type.
    """

    swizzle: Annotated[int, Meta(ge=0, le=3)]
    elem_size: Positive
    elem_type: Natural
    block_size: Annotated[tuple[Positive, ...], Meta(max_length=MAX_RANK)]


class Binary(Record, frozen=True):
    """A compiled kernel: the section that holds the cubin, how to launch it, and what the compiled code is like.

    tensor_maps: one per descriptor parameter, in order. programmatic_launch: the kernel waits by itself for the kernel
    before it, so that it may be launched before that one has finished. warnings: what ptxas said of the code's speed.
    """

    section: Text
    threads: Positive
    shared_bytes: Natural
    registers: Natural
    spill_bytes: Natural
    tensor_core_instructions: Natural
    global_scratch_bytes: Natural = 0
    global_scratch_align: Positive = 1
    tensor_maps: tuple[TensorMapSpec, ...] = ()
    programmatic_launch: bool = False
    warnings: tuple[Text, ...] = ()


class StepSpec(Record, frozen=True):
    """What a kernel does in one step, for who looks at its machine code.

    form: in words, such as ``convolution, strided``. rows, cols, depth: its tile. access: how a contraction reads its
    operands. channels: what a contraction sums over at each window position, otherwise 0. products: the type that
    tensor cores multiply, if they do.
    """

    form: Text
    rows: Positive
    cols: Positive
    depth: Positive
    access: Text = "pointers"
    channels: Natural = 0
    products: Text = ""


class KernelSpec(Record, frozen=True):
    """A distinct emitted kernel. ``source`` names the section with its Triton source; steps: what it does."""

    name: Text
    family: Text
    source: Text
    parameters: tuple[Parameter, ...]
    binary: Union[Binary, None] = None
    steps: tuple[StepSpec, ...] = ()


class LaunchSpec(Record, frozen=True):
    """One launch: which kernel (index), its grid and arguments, and what it stands for.

    origins: names of the user's nodes. rules: fusion rules applied. equation: what it computes. tile: the tile and why.
    The byte counts are of distinct bytes asked of each kind of memory, each once. regions: their numbers in the
    graph's text. fewer: where the batch is dynamic, programs along the grid's first dimension that are enough for so
    many images, as pairs (images, programs), the fewest first.
    """

    kernel: Natural
    grid: tuple[Positive, Positive, Positive]
    arguments: tuple[Argument, ...]
    origins: tuple[Text, ...] = ()
    rules: tuple[Text, ...] = ()
    equation: Text = ""
    tile: Text = ""
    activation_bytes: Natural = 0
    weight_bytes: Natural = 0
    workspace_bytes: Natural = 0
    macs: Natural = 0
    predicted_us: float = 0.0
    regions: tuple[Natural, ...] = ()
    fewer: tuple[tuple[Positive, Positive], ...] = ()


class HostTensor(Record, frozen=True):
    """A value that a step of the host reads from a buffer or puts there: output ``output`` of node ``node``.

    buffer, offset: where its first element is, in bytes. dtype: as it is stored. extents, strides: in elements, how it
    steps through the buffer; a dimension that steps unevenly is several extents.
    """

    node: Natural
    output: Natural
    buffer: Text
    offset: Natural
    dtype: Text
    extents: Annotated[tuple[Natural, ...], Meta(max_length=2 * Rank)]
    strides: Annotated[tuple[int, ...], Meta(max_length=2 * Rank)]


class HostStepSpec(Record, frozen=True):
    """What the host computes between two launches, with NumPy.

    before: the number of launches in front of it. nodes: of the graph's text, in order. reads, writes: what it takes
    from buffers and puts there; other values stay with the host. origins: names of the user's nodes. reasons: why it
    is not a kernel. predicted_us: of the waits and the copies; what NumPy takes is not in it. region: its number in the
    graph's text.
    """

    before: Natural
    nodes: tuple[Natural, ...]
    reads: tuple[HostTensor, ...]
    writes: tuple[HostTensor, ...]
    origins: tuple[Text, ...] = ()
    reasons: tuple[Text, ...] = ()
    predicted_us: float = 0.0
    region: Natural = 0


class ProgramSpec(Record, frozen=True):
    """The network for one target: kernels, launches in order, and the buffers that they need.

    host_steps: what the host does between the launches, in order.

    Counters are zero before the first launch of a run, and the launches leave them zero.
    min_driver: the CUDA version that the driver must support, as 1000 * major + 10 * minor; 0 where it is not known.
    """

    target: Text
    kernels: tuple[KernelSpec, ...]
    launches: tuple[LaunchSpec, ...]
    arena_bytes: Natural
    arena_lower_bound: Natural
    counter_bytes: Natural = 0
    min_driver: Natural = 0
    host_steps: tuple[HostStepSpec, ...] = ()


class OpenSpec(Record, frozen=True):
    """How a network whose sizes are open is compiled when they are known, besides what the manifest says.

    model: section with the ONNX model. dims: numbers that its open sizes have been given. batch: of a dynamic one the
    largest, otherwise 1. tuned: whether measured tiles are used.
    """

    model: Text
    targets: tuple[Text, ...]
    dims: dict[str, Natural] = {}
    batch: Positive = 1
    dynamic: bool = False
    tuned: bool = True


class SectionSpec(Record, frozen=True):
    """A blob in the file: offset from the first multiple of 64 after the manifest, length, SHA-256 (hexadecimal)."""

    name: Text
    offset: Natural
    nbytes: Natural
    sha256: Annotated[str, Meta(min_length=64, max_length=64)]


class Manifest(Record, frozen=True):
    """Everything about a compiled network except its blobs.

    graph: section with the graph's text. constants: label in that text → the view that holds it.
    programs: one per target. dtype: the numeric mode (fp32, tf32, fp16, bf16). policy: who chose among legal fusions.
    disabled, enabled: rules and features that were switched. max_batch: the most images that a run may have where the
    batch is dynamic, otherwise 0. open: there is a model instead of programs, which is compiled when sizes are known.
    """

    format: tuple[Natural, Natural]
    convc: Text
    triton: Text
    model: Text
    dtype: Text
    opt: Text
    disabled: tuple[Text, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[WeightSpec, ...]
    weights_bytes: Natural
    programs: tuple[ProgramSpec, ...]
    constants: dict[str, ViewSpec] = {}
    graph: Text = ""
    sections: tuple[SectionSpec, ...] = ()
    policy: Text = "cost-model"
    enabled: tuple[Text, ...] = ()
    max_batch: Natural = 0
    open: Union[OpenSpec, None] = None


def encode(manifest: Manifest) -> bytes:
    """The manifest as deterministic JSON."""
    return msgspec.json.encode(manifest, order="deterministic")


def decode(data: bytes) -> Manifest:
    """The manifest from JSON, strictly typed. Raises ``msgspec.DecodeError`` or ``msgspec.ValidationError``."""
    return msgspec.json.decode(data, type=Manifest)
