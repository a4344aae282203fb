"""Steps of the host: what has no kernel runs in NumPy between launches, on the plan's own memory."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from compiled import Arrays, Builder, Taking, integers
from onnx import TensorProto, helper, numpy_helper

import convc
from convc import errors
from convc.analysis.kernel_check import check_kernels
from convc.analysis.verify import verify
from convc.compiler import compile_plan
from convc.ir import Value
from convc.ir.dims import Dim
from convc.passes.slices import RULE as SLICES
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.runtime.network import CompiledNetwork

N = helper.make_node
RANDOM = np.random.default_rng(5)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(*nodes: onnx.NodeProto, outputs: dict[str, int], **constants: np.ndarray) -> onnx.ModelProto:
    """An ONNX network on ``x``, images of 3x8x8."""
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["N", 3, 8, 8])]
    results = [helper.make_tensor_value_info(name, element, None) for name, element in outputs.items()]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([*nodes], "heads", inputs, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def weights(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


BACKBONE = [
    N("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
    N("Relu", ["c1"], ["r1"], name="relu1"),
    N("Conv", ["r1", "w2"], ["c2"], name="conv2"),
]


def classifier() -> onnx.ModelProto:
    """A convolutional network that ends in the best class and the three best."""
    return model(
        *BACKBONE,
        N("GlobalAveragePool", ["c2"], ["p"], name="pool"),
        N("Flatten", ["p"], ["f"], name="flatten"),
        N("Gemm", ["f", "w3"], ["logits"], name="classes"),
        N("ArgMax", ["logits"], ["best"], name="best", axis=1),
        N("TopK", ["logits", "k"], ["values", "places"], name="top"),
        outputs={"logits": FLOAT, "best": INT64, "values": FLOAT, "places": INT64},
        w1=weights(8, 3, 3, 3),
        w2=weights(16, 8, 3, 3),
        w3=weights(16, 10),
        k=np.array([3]),
    )


def detector() -> onnx.ModelProto:
    """A detection head as exporters write it: boxes and scores by convolutions, suppression, and what was kept."""
    return model(
        *BACKBONE,
        N("Conv", ["c2", "wb"], ["b"], name="boxes"),
        N("Reshape", ["b", "as_boxes"], ["b3"], name="flat boxes"),
        N("Transpose", ["b3"], ["boxes3"], name="boxes last", perm=[0, 2, 1]),
        N("Conv", ["c2", "ws"], ["s"], name="scores"),
        N("Reshape", ["s", "as_scores"], ["s3"], name="flat scores"),
        N("Sigmoid", ["s3"], ["scores3"], name="sigmoid"),
        N("NonMaxSuppression", ["boxes3", "scores3", "most", "overlap", "least"], ["kept"], name="suppression"),
        N("Gather", ["kept", "two"], ["index"], name="index", axis=1),
        N("Gather", ["boxes3", "index"], ["found"], name="found", axis=1),
        N("ReduceSum", ["found", "along"], ["sum"], name="sum", keepdims=0),
        outputs={"kept": INT64, "found": FLOAT, "sum": FLOAT},
        w1=weights(8, 3, 3, 3),
        w2=weights(16, 8, 3, 3),
        wb=weights(4, 16, 1, 1),
        ws=weights(2, 16, 1, 1),
        as_boxes=np.array([1, 4, 36]),
        as_scores=np.array([1, 2, 36]),
        most=np.array([5]),
        overlap=np.array([0.3], np.float32),
        least=np.array([0.6], np.float32),
        two=np.array(2),
        along=np.array([1]),
    )


# -- whole networks, beside ONNX Runtime ------------------------------------------------------------------------------
@pytest.mark.parametrize(("dtype", "batch"), [("fp32", 2), ("fp16", 1)])
def test_classifier_with_its_best_classes(dtype: str, batch: int) -> None:
    assert verify(classifier(), "interpreter", dtype=dtype, batch=batch).ok
    plan = convc.plan(classifier(), target="interpreter", dtype=dtype, batch=batch)
    (program,) = plan.programs
    ((before, step),) = program.host_steps
    assert before == len(program.launches)
    assert set(plan.origins_of(step.region)) == {"top"}


def test_detector_with_its_suppression() -> None:
    network = detector()
    assert verify(network, "interpreter").ok
    compiled = convc.compile(network, target="interpreter", dtype="fp32")
    assert [spec.shape for spec in compiled.outputs] == [(-1, 3), (1, -1, 4), (1, 4)]
    x = RANDOM.standard_normal((1, 3, 8, 8)).astype(np.float32)
    kept, found, total = compiled.run({"x": x}).values()
    assert kept.shape[0] == found.shape[1] > 0
    np.testing.assert_array_equal(total, found.sum(axis=1))
    compiled.close()


def test_sizes_differ_from_run_to_run() -> None:
    with convc.compile(detector(), target="interpreter").engine("interpreter") as engine:
        runs = [engine.run({"x": scale * RANDOM.standard_normal((1, 3, 8, 8), np.float32)}) for scale in (1, 0, 2)]
    sizes = [len(found["kept"]) for found in runs]
    assert sizes[1] == 0 < min(sizes[0], sizes[2])
    assert [found["found"].shape for found in runs] == [(1, size, 4) for size in sizes]


# -- between kernels --------------------------------------------------------------------------------------------------
def conv(b: Builder, x: Value, filters: int, size: int = 1) -> Value:
    """A convolution with small whole numbers as weights that keeps the size of the images."""
    channels = int(b.graph.type(x).shape[1])
    w = b.constant(integers(RANDOM, (filters, channels, size, size), 1))
    pads = (size // 2,) * 4
    return b.add("Conv", x, w, pads=pads, strides=(1, 1), dilations=(1, 1))


def pool(b: Builder, x: Value) -> Value:
    window = {"kernel_shape": (2, 2), "strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0)}
    return b.add("MaxPool", x, **window)


def between(batch: int = 2) -> Builder:
    """Convolution, running sums on the host, convolution; sums of the input, and an output that the host writes."""
    b = Builder("between")
    x = b.input(integers(RANDOM, (batch, 4, 6, 6)))
    first = b.add("Relu", conv(b, x, 8, 3))
    sums = b.add("CumSum", first, axis=1)
    second = conv(b, sums, 4, 3)
    b.output(b.add("Add", second, b.add("CumSum", x, axis=3)))
    b.output(b.add("TopKIndices", second, axis=1, k=1))
    return b


def ran(network: CompiledNetwork, inputs: Arrays, device: str) -> list[np.ndarray]:
    with network.engine(device) as engine:
        return list(engine.run(inputs).values())


def agree(network: CompiledNetwork, inputs: Arrays) -> None:
    """The emitted kernels with the host between them give what the definitions give, to the bit: on whole numbers."""
    for found, expected in zip(ran(network, inputs, "interpreter"), ran(network, inputs, "numpy"), strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_between_convolutions(dtype: str) -> None:
    b = between()
    plan = make_plan(b.graph, Options(("interpreter",), dtype))
    steps = plan.programs[0].host_steps
    assert [before for before, _ in steps] == [1, 3]  # sums of the input wait for those of the convolution
    assert {plan.graph.node(id).op for id in steps[0][1].region.nodes} == {"CumSum"}
    agree(CompiledNetwork(compile_plan(plan)), b.inputs)


def test_what_crosses_to_kernels_is_stored_as_the_mode_says() -> None:
    """0.1 is no number of fp16: the host's result is rounded where a kernel reads it, and not on the way to an
    output."""
    b = Builder()
    x = b.input(np.full((1, 4, 2, 2), 0.1, np.float32))
    sums = b.add("CumSum", x, axis=1)
    b.output(pool(b, sums))
    b.output(b.add("CumSum", sums, axis=1))
    network = convc.compile(b.graph, target="interpreter", dtype="fp16")
    pooled, twice = ran(network, b.inputs, "interpreter")
    exact = np.cumsum(np.full(4, 0.1, np.float32), dtype=np.float32)
    np.testing.assert_array_equal(pooled[0, :, 0, 0], exact.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(twice[0, :, 0, 0], np.cumsum(exact, dtype=np.float32))


def test_kernels_are_checked_one_by_one() -> None:
    b = between()
    plan = make_plan(b.graph, Options(("interpreter",), "fp16"))
    network = CompiledNetwork(compile_plan(plan))
    checks = list(check_kernels(plan, network, "interpreter", b.inputs))
    assert len(checks) == len(plan.programs[0].launches) and all(check.ok for check in checks)
    assert all(check.accumulated_abs <= check.bound for check in checks)  # behind a step it counts anew
    network.close()


def test_a_plan_that_forgets_the_host_is_caught() -> None:
    """The block that the host reads last may be used again behind its step, and no sooner."""
    b = between()
    plan = make_plan(b.graph, Options(("interpreter",), "fp32"))
    (program,) = plan.programs
    step = program.host_steps[0][1]
    offsets = [
        (program.arena.offsets[block.id], block.nbytes)
        for block in (plan.layouts.blocks[plan.layouts.placements[v].block] for v in (*step.reads, *step.stores))
        if block.buffer == "arena"
    ]
    spans = sorted(offsets)
    assert len(spans) == 3  # two sums, one of them of the input
    assert all(start + size <= following for (start, size), (following, _) in pairwise(spans))


def test_two_targets_in_one_artifact(tmp_path: Path) -> None:
    b = between(1)
    network = convc.compile(b.graph, target="interpreter,sm_90", dtype="fp16")
    network.save(tmp_path / "both.convc")
    loaded = convc.load(tmp_path / "both.convc", verify=True)
    assert loaded.artifact.manifest.format[0] == 2
    assert [len(program.host_steps) for program in loaded.programs] == [2, 2]
    agree(loaded, b.inputs)


def test_in_parts_of_the_batch_the_host_takes_the_whole_batch() -> None:
    """What is in front of the host's step and behind it runs in slices."""
    b = Builder()
    y = b.input(integers(RANDOM, (4, 4, 6, 6)))
    for _ in range(2):
        y = b.add("Clip", conv(b, conv(b, y, 6, 3), 4, 3), min=-2.0, max=2.0)
        y = b.add("CumSum", y, axis=0)  # across the batch
    b.output(conv(b, conv(b, y, 6, 3), 4, 3))
    plan = make_plan(b.graph, Options(("interpreter",), policy=Taking(SLICES)))
    kinds = [type(entry).__name__ for entry in plan.programs[0].schedule]
    assert kinds == ["Stage", "HostStep", "Stage", "HostStep", "Stage"]
    agree(CompiledNetwork(compile_plan(plan)), b.inputs)


# -- only the host ----------------------------------------------------------------------------------------------------
def test_a_network_without_any_kernel() -> None:
    b = Builder()
    x = b.input(integers(RANDOM, (3, 4)))
    b.output(b.add("CumSum", x, axis=0))
    b.output(b.add("NonZero", x, count=Dim.symbol("found")))
    network = convc.compile(b.graph, target="interpreter")
    assert not network.plan.launches and len(network.plan.host_steps) == 1
    agree(network, b.inputs)


def test_empty_tensors() -> None:
    b = Builder()
    x = b.input(np.zeros((2, 0), np.float32))
    b.output(b.add("CumSum", x, axis=1))
    agree(convc.compile(b.graph, target="interpreter"), b.inputs)


@pytest.mark.parametrize(
    ("op", "dtype"), [("Equal", np.float64), ("Pow", np.float64), *(("Pow", d) for d in (np.int64, np.int32, np.uint8))]
)
def test_types_that_kernels_do_not_compute(op: str, dtype: type) -> None:
    b = Builder()
    x = b.input((RANDOM.integers(0, 2, (2, 3, 4))).astype(dtype))
    y = b.input((RANDOM.integers(0, 2, (2, 3, 4))).astype(dtype))
    b.output(b.add(op, x, b.add("Transpose", b.add("Transpose", y, perm=(0, 2, 1)), perm=(0, 2, 1))))
    network = convc.compile(b.graph, target="interpreter")
    assert network.plan.host_steps
    agree(network, b.inputs)


# -- how steps are made -----------------------------------------------------------------------------------------------
def planned(b: Builder) -> Plan:
    return make_plan(b.graph, Options(("interpreter",), "fp32"))


def test_what_lies_between_two_hosted_operators_is_hosted() -> None:
    b = Builder()
    x = b.input(integers(RANDOM, (2, 4)))
    middle = b.add("Relu", b.add("Reshape", b.add("CumSum", x, axis=1), shape=(4, 2)))
    b.output(b.add("CumSum", middle, axis=0))
    plan = planned(b)
    assert not plan.programs[0].launches and len(plan.programs[0].host_steps) == 1
    reasons = plan.reasons_of(plan.fused.regions[0])
    assert reasons == ("CumSum: no kernel for it", errors.HOSTED_BETWEEN)


def test_a_value_for_the_host_alone_is_in_no_buffer() -> None:
    b = Builder()
    x = b.input(integers(RANDOM, (1, 4, 4, 4)))
    early = b.add("CumSum", conv(b, x, 4), axis=1)
    late = b.add("CumSum", conv(b, early, 4), axis=2)
    kept = b.add("Tan", early)
    b.output(b.add("Max", b.add("CumSum", late, axis=3), b.add("CumSum", kept, axis=0)))
    plan = planned(b)
    first, second = (step for _, step in plan.programs[0].host_steps)
    assert [plan.graph.node(value.node).op for value in first.stores] == ["CumSum"]
    assert kept not in plan.layouts.placements and kept.node in second.region.nodes
    agree(CompiledNetwork(compile_plan(plan)), b.inputs)


def test_as_few_steps_as_turns() -> None:
    """Three branches whose operators without a kernel are at different depths: the first ones wait for the last."""
    b = Builder()
    x = b.input(integers(RANDOM, (1, 4, 4, 4)))
    deep = b.add("CumSum", b.add("Relu", conv(b, b.add("Relu", conv(b, x, 4)), 4)), axis=1)
    for value in (b.add("CumSum", x, axis=1), b.add("CumSum", b.add("Relu", conv(b, x, 4)), axis=1), deep):
        b.output(value)
    plan = planned(b)
    assert len(plan.programs[0].host_steps) == 1
    agree(CompiledNetwork(compile_plan(plan)), b.inputs)


def test_nothing_changes_without_them() -> None:
    b = Builder()
    x = b.input(integers(RANDOM, (2, 4, 6, 6)))
    b.output(b.add("Softmax", b.add("Relu", conv(b, x, 4, 3)), axis=1))
    network = convc.compile(b.graph, target="interpreter")
    assert not network.plan.host_steps and network.artifact.manifest.format[0] == 1
    plain = convc.compile(b.graph, target="interpreter", disable="host-steps")
    assert plain.plan == network.plan


# -- failures ---------------------------------------------------------------------------------------------------------
def test_an_operator_that_fails_leaves_the_engine_usable() -> None:
    b = Builder()
    x = b.input(integers(RANDOM, (1, 4, 2, 2)))
    image = b.input(np.array([0]))
    region = b.constant(np.array([[0, 0, 1, 1]], np.float32))
    b.output(b.add("RoiAlign", b.add("Relu", pool(b, x)), region, image, output_height=1, output_width=1))
    with convc.compile(b.graph, target="interpreter").engine("interpreter") as engine:
        expected = engine.run(b.inputs)
        with pytest.raises(errors.ConvcError, match="9"):
            engine.run(b.inputs | {"x1": np.array([9])})
        for name, found in engine.run(b.inputs).items():
            np.testing.assert_array_equal(found, expected[name])


def test_any_batch_up_to_a_maximum(tmp_path: Path) -> None:
    """Images behind those that are given are computed too, on the host as in kernels, and never seen."""
    network = convc.compile(classifier(), target="interpreter", dtype="fp32", batch="dynamic", max_batch=3)
    assert network.plan.host_steps
    x = RANDOM.standard_normal((3, 3, 8, 8)).astype(np.float32)
    with network.engine("interpreter") as engine:
        whole = engine.run({"x": x})
        for images in (1, 2):
            for name, found in engine.run({"x": x[:images]}).items():
                np.testing.assert_array_equal(found, whole[name][:images])
