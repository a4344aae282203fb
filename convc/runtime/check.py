"""Whether a manifest holds together: every reference resolves, every offset lies inside its buffer.

The executors rely on this: they compute addresses from the manifest and check nothing again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from .dtypes import ITEMSIZE
from .manifest import (
    Binary,
    BufferArgument,
    HostTensor,
    IntegerArgument,
    KernelSpec,
    LaunchSpec,
    Manifest,
    Parameter,
    ProgramSpec,
    TensorMapArgument,
    TensorMapSpec,
    TensorSpec,
    WeightSpec,
    is_found,
)
from .tensor_maps import (
    CORNERS,
    MAX_BOX,
    MAX_EXTENT,
    MAX_PIXELS,
    MAX_STEP,
    MAX_STRIDE,
    STEP,
    SWIZZLES,
    DescriptorType,
    descriptor_type,
    span_bytes,
)
from .weights import ALIGN, SECTION, align

SECTION_NAME = re.compile(r"\w[\w.\-]*(/\w[\w.\-]*)*", re.ASCII)
SYMBOL = re.compile(r"[A-Za-z_]\w*", re.ASCII)
INTEGERS = {"i32": 1 << 31, "i64": 1 << 63}
GRID_LIMIT = (2**31 - 1, 65535, 65535)
THREAD_LIMIT = 1024
BYTE_LIMIT = 1 << 62
"""Bytes that no buffer has: more than any address space, and the end of one that begins anywhere fits 64 bits."""


class Inconsistent(Exception):
    """What does not hold, in words."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Inconsistent(what)


def check_manifest(manifest: Manifest, *, newer: bool = False) -> None:
    """Raise `Inconsistent` where a manifest contradicts itself.

    newer: the manifest is of a newer minor version, whose unknown fields may refer to more sections.
    """
    _check_names("section", (section.name for section in manifest.sections))
    for section in manifest.sections:
        require(SECTION_NAME.fullmatch(section.name) is not None, f"section name {section.name!r} is not allowed")
    _check_references(manifest, newer)
    for role, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        _check_names(role, (spec.name for spec in specs))
        for spec in specs:
            require(spec.dtype in ITEMSIZE, f"{role} {spec.name!r} has the unknown dtype {spec.dtype!r}")
            may_be_found = role == "output" and all(program.host_steps for program in manifest.programs)
            may_be_found = may_be_found or manifest.open is not None
            fits = may_be_found or not is_found(spec)
            require(fits, f"{role} {spec.name!r} has the shape {list(spec.shape)}")
            rows = spec.images * manifest.max_batch
            held = not spec.images or (rows > 0 and spec.shape[:1] == (rows,))
            require(held, f"{role} {spec.name!r} of {manifest.max_batch} images has the shape {list(spec.shape)}")
    dynamic = any(spec.images for spec in manifest.inputs)
    require(dynamic or not manifest.max_batch, f"no input holds the {manifest.max_batch} images of a batch")
    _check_weights(manifest.weights, manifest.weights_bytes)
    _check_constants(manifest)
    _check_names("program", (program.target for program in manifest.programs))
    for program in manifest.programs:
        _check_program(manifest, program)


def tensor_bytes(spec: TensorSpec) -> int:
    """Bytes of a dense input or output; none for one whose size the run finds out."""
    return 0 if is_found(spec) else math.prod(spec.shape) * ITEMSIZE[spec.dtype]


def buffer_sizes(manifest: Manifest, program: ProgramSpec) -> dict[str, int]:
    """Bytes of every buffer that a launch may name."""
    sizes = {"arena": program.arena_bytes, "weights": manifest.weights_bytes, "counters": program.counter_bytes}
    sizes |= {f"input:{i}": tensor_bytes(spec) for i, spec in enumerate(manifest.inputs)}
    return sizes | {f"output:{i}": tensor_bytes(spec) for i, spec in enumerate(manifest.outputs)}


def _check_names(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        require(name not in seen, f"{what} {name!r} is listed twice")
        seen.add(name)


def _check_references(manifest: Manifest, newer: bool) -> None:
    present = {section.name for section in manifest.sections}
    wanted = {kernel.source for program in manifest.programs for kernel in program.kernels}
    wanted |= {k.binary.section for program in manifest.programs for k in program.kernels if k.binary}
    wanted |= {manifest.graph} if manifest.graph else set()
    wanted |= {SECTION} if manifest.weights else set()
    wanted |= {manifest.open.model} if manifest.open else set()
    for name in sorted(wanted - present):
        raise Inconsistent(f"section {name!r} is missing")
    for name in sorted(present - wanted - {SECTION}):
        require(newer, f"section {name!r} is not referred to")


def _check_weights(weights: Sequence[WeightSpec], total: int) -> None:
    """Weights lie in order, each at the next multiple of 256: a claimed size is never more than what is there."""
    _check_names("weight", (spec.name for spec in weights))
    end = 0
    for spec in weights:
        require(spec.offset == end, f"weight {spec.name!r} is at offset {spec.offset}, expected {end}")
        end = align(spec.offset + spec.nbytes, ALIGN)
    require(total == end, f"the weights buffer has {total} bytes, expected {end}")


def _check_constants(manifest: Manifest) -> None:
    sizes = {spec.name: spec.nbytes for spec in manifest.weights}
    for label, view in manifest.constants.items():
        require(view.weight in sizes, f"constant {label!r} is a view of the unknown weight {view.weight!r}")
        require(view.dtype in ITEMSIZE, f"constant {label!r} has the unknown dtype {view.dtype!r}")
        require(len(view.shape) == len(view.strides), f"constant {label!r} has {len(view.strides)} strides")
        first, last = _extent(view.shape, view.strides)
        inside = first >= 0 and last * ITEMSIZE[view.dtype] <= sizes[view.weight]
        require(inside, f"constant {label!r} reaches outside of weight {view.weight!r}")


def _extent(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """The first element that strides reach, and one past the last."""
    if 0 in shape:
        return 0, 0
    reach = [(extent - 1) * stride for extent, stride in zip(shape, strides, strict=True)]
    return sum(min(r, 0) for r in reach), 1 + sum(max(r, 0) for r in reach)


def _check_program(manifest: Manifest, program: ProgramSpec) -> None:
    sizes = buffer_sizes(manifest, program)
    for name, nbytes in sizes.items():
        require(nbytes < BYTE_LIMIT, f"{program.target}: the buffer {name!r} has {nbytes} bytes")
    for kernel in program.kernels:
        _check_kernel(kernel, f"{program.target}: kernel {kernel.name!r}")
    for i, launch in enumerate(program.launches):
        where = f"{program.target}: launch {i}"
        require(launch.kernel < len(program.kernels), f"{where} names kernel {launch.kernel}, which is not there")
        _check_launch(launch, program.kernels[launch.kernel], sizes, where)
        _check_fewer(launch, manifest.max_batch, where)

    _check_host_steps(manifest, program, sizes)


def _check_host_steps(manifest: Manifest, program: ProgramSpec, sizes: dict[str, int]) -> None:
    """Steps lie in order between the launches, and what they touch inside the buffers. Whether they fit the graph is
    found out when it is read (`convc.runtime.host`)."""
    require(not program.host_steps or bool(manifest.graph), f"{program.target}: steps of the host without a graph")
    before = 0
    for i, step in enumerate(program.host_steps):
        where = f"{program.target}: step {i} of the host"
        ordered = before <= step.before <= len(program.launches)
        require(ordered, f"{where} is behind {step.before} launches, expected {before} to {len(program.launches)}")
        before = step.before
        require(bool(step.nodes) and len({*step.nodes}) == len(step.nodes), f"{where}: nodes {list(step.nodes)}")
        _check_names(f"{where}: tensor", (f"%{t.node}.{t.output}" for t in (*step.reads, *step.writes)))
        for tensor in (*step.reads, *step.writes):
            _check_host_tensor(tensor, sizes, f"{where}: %{tensor.node}.{tensor.output}")
        for tensor in step.writes:
            _check_host_write(tensor, f"{where}: %{tensor.node}.{tensor.output}")


def _check_host_tensor(tensor: HostTensor, sizes: dict[str, int], at: str) -> None:
    shared = tensor.buffer in sizes and tensor.buffer not in ("weights", "counters")
    require(shared, f"{at} names the buffer {tensor.buffer!r}, which is unknown or not the host's")
    require(tensor.dtype in ITEMSIZE, f"{at} has the unknown dtype {tensor.dtype!r}")
    require(len(tensor.extents) == len(tensor.strides), f"{at} has {len(tensor.strides)} strides")
    itemsize = ITEMSIZE[tensor.dtype]
    require(tensor.offset % itemsize == 0, f"{at}: offset {tensor.offset} is not a multiple of {itemsize}")
    begin, end = host_bytes(tensor)
    inside = begin >= 0 and end <= sizes[tensor.buffer]
    require(inside, f"{at} is at bytes {begin} to {end} of {tensor.buffer!r}, which has {sizes[tensor.buffer]}")


def _check_host_write(tensor: HostTensor, at: str) -> None:
    """What the host puts into a buffer covers its bytes: all from the first to the last are copied there."""
    require(not tensor.buffer.startswith("input:"), f"{at} is put into {tensor.buffer!r}")
    step = 1
    pairs = zip(tensor.strides, tensor.extents, strict=True)
    for stride, extent in sorted(pair for pair in pairs if pair[1] != 1) if 0 not in tensor.extents else ():
        require(stride == step, f"{at} is put where its strides {tensor.strides} leave gaps")
        step *= extent


def host_extent(tensor: HostTensor) -> tuple[int, int]:
    """The first element that a tensor touches, from its own place on, and one past the last."""
    return _extent(tensor.extents, tensor.strides)


def host_bytes(tensor: HostTensor) -> tuple[int, int]:
    """Where the first byte of a tensor is in its buffer, and one past the last."""
    first, last = host_extent(tensor)
    itemsize = ITEMSIZE[tensor.dtype]
    return tensor.offset + first * itemsize, tensor.offset + last * itemsize


def _check_fewer(launch: LaunchSpec, max_batch: int, where: str) -> None:
    """Fewer images than the most, in order, with no more programs than the whole grid has."""
    images = [images for images, _ in launch.fewer]
    fits = images == sorted(set(images)) and all(count < max_batch for count in images)
    require(fits, f"{where}: grids for {images} of {max_batch} images")
    programs = [programs for _, programs in launch.fewer]
    inside = programs == sorted(programs) and all(count <= launch.grid[0] for count in programs)
    require(inside, f"{where}: {programs} programs of {launch.grid[0]}")


def _check_kernel(kernel: KernelSpec, where: str) -> None:
    require(SYMBOL.fullmatch(kernel.name) is not None, f"{where}: the name is not a symbol")
    for parameter in kernel.parameters:
        plain = parameter.type.startswith("*") or parameter.type in INTEGERS
        known = plain or descriptor_type(parameter.type) is not None
        require(known, f"{where}: parameter {parameter.name!r} has the unknown type {parameter.type!r}")
    if kernel.binary:
        _check_binary(kernel.binary, kernel.parameters, where)


def _check_binary(binary: Binary, parameters: Sequence[Parameter], where: str) -> None:
    threads = binary.threads
    require(threads <= THREAD_LIMIT and threads % 32 == 0, f"{where}: {threads} threads")
    types = [(p.name, type) for p in parameters if (type := descriptor_type(p.type)) is not None]
    found = len(binary.tensor_maps)
    require(found == len(types), f"{where}: {found} tensor maps for {len(types)} descriptor parameters")
    for (name, type), spec in zip(types, binary.tensor_maps, strict=True):
        _check_map(spec, type, f"{where}: tensor map {name!r}")


def _check_map(spec: TensorMapSpec, type: DescriptorType, where: str) -> None:
    """What ``cuTensorMapEncodeTiled`` demands of the box, and that it is of the parameter's type."""
    found, element = (spec.elem_size, spec.elem_type), (type.element.itemsize, type.element.compiled)
    require(found == element, f"{where}: elements {found} are not those of {type.dtype}, {element}")
    box, block = spec.block_size, type.block
    divides = len(box) == len(block) and all(b % a == 0 for a, b in zip(box, block, strict=True))
    require(divides, f"{where}: the box {box} does not divide the block {block}")
    most = MAX_PIXELS if type.windows else MAX_BOX
    fits = max(box) <= most and box[-1] <= MAX_BOX
    require(fits, f"{where}: the box {box} has more than {MAX_BOX} elements along a dimension, or {MAX_PIXELS} pixels")
    inner, most = box[-1] * spec.elem_size, SWIZZLES[spec.swizzle]
    require(inner % STEP == 0, f"{where}: {inner} bytes of the innermost dimension are not a multiple of {STEP}")
    require(not most or inner <= most, f"{where}: {inner} bytes of the innermost dimension are swizzled by {most}")


def _check_launch(launch: LaunchSpec, kernel: KernelSpec, sizes: dict[str, int], where: str) -> None:
    for extent, limit in zip(launch.grid, GRID_LIMIT, strict=True):
        require(extent <= limit, f"{where}: the grid {launch.grid} is larger than {GRID_LIMIT}")
    scratch = math.prod(launch.grid) * (kernel.binary.global_scratch_bytes if kernel.binary else 0)
    require(scratch < BYTE_LIMIT, f"{where}: {scratch} bytes of scratch memory")
    found, expected = len(launch.arguments), len(kernel.parameters)
    require(found == expected, f"{where}: {found} arguments for the {expected} parameters of {kernel.name!r}")
    for parameter, argument in zip(kernel.parameters, launch.arguments, strict=True):
        at = f"{where}: argument {parameter.name!r} of {kernel.name!r}"
        if isinstance(argument, BufferArgument):
            _check_pointer(parameter, argument, sizes, at)
        elif isinstance(argument, TensorMapArgument):
            _check_array(parameter, argument, sizes, at)
        else:
            _check_integer(parameter, argument, at)


def _check_pointer(parameter: Parameter, argument: BufferArgument, sizes: dict[str, int], at: str) -> None:
    require(parameter.type.startswith("*"), f"{at} is a buffer, but the parameter is of type {parameter.type}")
    require(argument.buffer in sizes, f"{at} names the unknown buffer {argument.buffer!r}")
    size, offset = sizes[argument.buffer], argument.offset
    require(offset < size or offset == 0, f"{at}: offset {offset} in {argument.buffer!r} of {size} bytes")
    require(offset % parameter.align == 0, f"{at}: offset {offset} is not a multiple of {parameter.align}")


def _check_array(parameter: Parameter, argument: TensorMapArgument, sizes: dict[str, int], at: str) -> None:
    """What ``cuTensorMapEncodeTiled`` demands of the array, and that every element lies inside its buffer."""
    type = descriptor_type(parameter.type)
    require(type is not None, f"{at} is an array, but the parameter is of type {parameter.type}")
    assert type is not None
    require(argument.buffer in sizes, f"{at} names the unknown buffer {argument.buffer!r}")
    shape, strides, itemsize = argument.shape, argument.strides, type.element.itemsize
    ranks = {len(shape), len(strides), type.rank}
    require(len(ranks) == 1, f"{at}: shape {shape} and strides {strides} for a block {type.block}")
    require(max(shape) <= MAX_EXTENT, f"{at}: the shape {shape} has more than {MAX_EXTENT} elements along a dimension")
    _check_walk(type, argument, at)
    require(strides[-1] == 1, f"{at}: the innermost stride is {strides[-1]}, expected 1")
    steps = [argument.offset, *(stride * itemsize for stride in strides[:-1])]
    even = all(step % STEP == 0 for step in steps)
    require(even, f"{at}: offset and strides {steps} in bytes are not all multiples of {STEP}")
    require(max(steps[1:], default=0) < MAX_STRIDE, f"{at}: a stride of {max(steps[1:], default=0)} bytes is too large")
    size, end = sizes[argument.buffer], argument.offset + span_bytes(shape, strides, itemsize)
    require(end <= size, f"{at}: the array reaches byte {end} of {argument.buffer!r}, which has {size}")


def _check_walk(type: DescriptorType, argument: TensorMapArgument, at: str) -> None:
    """What ``cuTensorMapEncodeIm2col`` demands besides."""
    corners, steps = (*argument.lower, *argument.upper), argument.steps
    if not type.windows:
        require(not corners and not steps, f"{at} walks over windows, but the parameter is an array")
        return
    between = type.rank - 2
    found = len(argument.lower), len(argument.upper), len(steps)
    require(found == (between, between, type.rank), f"{at}: {found} corners and steps for {type.rank} dimensions")
    limit = CORNERS[type.rank]
    require(all(-limit <= corner < limit for corner in corners), f"{at}: corners {corners} reach further than {limit}")
    require(max(steps) <= MAX_STEP, f"{at}: steps {steps} are more than {MAX_STEP} elements")


def _check_integer(parameter: Parameter, argument: IntegerArgument, at: str) -> None:
    require(parameter.type in INTEGERS, f"{at} is an integer, but the parameter is of type {parameter.type}")
    bound = INTEGERS[parameter.type]
    require(-bound <= argument.value < bound, f"{at}: {argument.value} does not fit {parameter.type}")
