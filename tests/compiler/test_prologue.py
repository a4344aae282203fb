"""Elementwise operators in front of a convolution, computed as it loads its operand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import GROUPING, Builder, conv, evaluate, integers, planned, run, run_planned, same
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_checks import check_machine_code, emitted, reference_of
from small_networks import weights

import convc
from convc.analysis.explain import explain
from convc.ir import Dim, DType, Graph, TensorType, Value
from convc.ir.plan import Tile
from convc.ir.problem import Contraction, Statement
from convc.passes import Switches, fuse, prologue, tiling
from convc.passes.prologue import RULE
from convc.planner import make_plan, optimise
from convc.program import Options
from convc.targets import target

RANDOM = np.random.default_rng(5)
FEW = settings(settings.get_profile("shared-process"), max_examples=12)


def scaled(b: Builder, x: Value) -> Value:
    """relu(x·s + t), s and t per channel."""
    channels = int(b.graph.type(x).shape[1])
    s, t = (b.constant(integers(RANDOM, (channels, 1, 1))) for _ in range(2))
    return b.add("Relu", b.add("Add", b.add("Mul", x, s), t))


def launches(b: Builder, **options: Any) -> list[tuple[str, ...]]:
    network = convc.compile(b.graph, target="interpreter", dtype="fp32", **options)
    return [launch.rules for launch in network.plan.launches]


def conv_integer(b: Builder, x: Value) -> Value:
    """A 1x1 convolution of integers."""
    w = b.constant(weights(4, int(b.graph.type(x).shape[1]), 1, 1).astype(np.int8))
    return b.add("ConvInteger", x, w, strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), groups=1)


# -- 1x1 --------------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("channels", [16, 20, 65])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_scale_shift_and_relu(channels: int, stride: int, dtype: str) -> None:
    b = Builder()
    x = b.input(integers(RANDOM, (2, channels, 5, 7)))
    b.output(conv(b, scaled(b, x), integers(RANDOM, (24, channels, 1, 1), 1), strides=(stride, stride)))
    assert launches(b) == [("conv-prologue",)]
    same(run(b.graph, b.inputs, dtype=dtype), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
def test_a_gate_that_another_kernel_computes() -> None:
    b = Builder()
    x = b.input(integers(RANDOM, (2, 24, 6, 6)))
    largest = b.add("ReduceMax", x, axes=(2, 3), keepdims=True)
    gate = b.add("Relu", conv(b, largest, integers(RANDOM, (24, 24, 1, 1), 1)))
    b.output(b.add("Relu", conv(b, b.add("Mul", x, gate), integers(RANDOM, (8, 24, 1, 1), 1))))
    assert launches(b, disable=GROUPING)[-1] == ("conv-prologue", "conv-epilogue")
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
def test_two_tensors_of_the_same_size() -> None:
    b = Builder()
    x, y = (b.input(integers(RANDOM, (1, 17, 4, 4))) for _ in range(2))
    b.output(conv(b, b.add("Relu", b.add("Sub", x, y)), integers(RANDOM, (8, 17, 1, 1), 1)))
    assert launches(b) == [("conv-prologue",)]
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
def test_a_vector_along_the_channels_and_along_the_columns() -> None:
    """Batch normalisation takes it one way, an addition the other."""
    b = Builder()
    v, ones = b.input(integers(RANDOM, (16,), 9)), b.constant(np.ones(16, np.float32))
    x = b.add("BatchNormalization", b.input(integers(RANDOM, (1, 16, 3, 16))), ones, v, v, ones, epsilon=0.0)
    b.output(conv(b, b.add("Add", x, v), integers(RANDOM, (8, 16, 1, 1), 1)))
    assert launches(b, policy="always") == [("conv-prologue",)]
    same(run(b.graph, b.inputs, policy="always"), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
def test_only_the_epilogue_computes_with_integers() -> None:
    """Neither side reads a tensor, and the one in front has more operators."""
    b = Builder()
    x = b.add("Cast", b.input(RANDOM.integers(0, 256, (1, 16, 5, 5)).astype(np.uint8)), dtype=DType.FP32)
    x = b.add("Cast", b.add("Sub", x, b.constant(128.0)), dtype=DType.INT16)
    b.output(b.add("Cast", conv_integer(b, x), dtype=DType.FP32))
    assert launches(b, policy="always") == [("conv-prologue", "conv-epilogue")]
    same(run(b.graph, b.inputs, policy="always"), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
def test_lanes_past_the_channels_stay_zero_where_the_operator_makes_them_infinite() -> None:
    b = Builder()
    x = b.input(np.abs(integers(RANDOM, (1, 20, 3, 3))) + 1)
    b.output(conv(b, b.add("Reciprocal", x), np.zeros((4, 20, 1, 1), np.float32)))
    assert launches(b) == [("conv-prologue",)]
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


# -- windows, padding, groups -----------------------------------------------------------------------------------------
@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    size, dilation = draw(st.sampled_from([(3, 1), (3, 2), (5, 1), (2, 1), (1, 1)]))
    reach = (size - 1) * dilation + 1
    groups, depth = draw(st.sampled_from([(1, 1), (1, 3), (1, 5), (1, 16), (1, 21), (2, 16), (3, 17)]))
    spatial = tuple(max(2, reach - 1 + draw(st.integers(0, 4))) for _ in range(rank))
    return {
        "shape": (draw(st.integers(1, 3)), groups * depth, *spatial),
        "filters": groups * draw(st.sampled_from([1, 7, 16])),
        "size": size,
        "window": {
            "pads": tuple(draw(st.integers(1, reach)) for _ in range(2 * rank)),
            "strides": (draw(st.integers(1, 2)),) * rank,
            "dilations": (dilation,) * rank,
            "groups": groups,
        },
        "source": draw(st.sampled_from(["fp32", "uint8", "int8", "int16", "bool"])),
        "operand": draw(st.sampled_from(["", "channel", "image", "norm"])),
        "epilogue": draw(st.booleans()),
    }


def image(b: Builder, case: dict[str, Any]) -> Value:
    """A network input of the case's element type, as floats."""
    dtype = DType(case["source"])
    array = integers(RANDOM, case["shape"], 1)
    if dtype is DType.FP32:
        return b.input(array)
    return b.add("Cast", b.input(np.abs(array).astype(dtype.numpy)), dtype=DType.FP32)


def network(case: dict[str, Any]) -> Builder:
    """A convolution behind operators that do not keep zero, over whole numbers, exact in every mode."""
    b = Builder()
    x = image(b, case)
    images, channels, *spatial = case["shape"]
    ones = (1,) * len(spatial)
    if case["operand"] == "channel":
        x = b.add("Mul", x, b.constant(weights(channels, *ones)))
    if case["operand"] == "image":
        x = b.add("Add", b.input(integers(RANDOM, (images, channels, *ones), 1)), x)
    if case["operand"] == "norm":
        parameters = [b.constant(weights(channels)) for _ in range(3)]
        x = b.add("BatchNormalization", x, *parameters, b.constant(np.ones(channels, np.float32)), epsilon=0.0)
    y = b.add("Sub", b.constant(1.0), x)
    groups = case["window"]["groups"]
    w = weights(case["filters"], channels // groups, *(case["size"],) * len(spatial))
    z = conv(b, y, w, weights(case["filters"]), **case["window"])
    if case["epilogue"]:
        z = b.add("Relu", b.add("Add", b.input(integers(RANDOM, b.graph.type(z).shape)), z))
    b.output(z)
    return b


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "tf32", "fp16", "bf16"])
@FEW
@given(cases())
def test_the_padding_stays_zero_under_windows(dtype: str, case: dict[str, Any]) -> None:
    b = network(case)
    plan = planned(b.graph, dtype=dtype)
    assert [region.rules[0] for region in plan.fused.regions if region.anchor is not None] == [RULE]
    assert len(plan.programs[0].launches) == 1
    found = run_planned(plan, b.inputs)
    same(found, reference_of(b))
    same(found, run(b.graph, b.inputs, dtype=dtype, disable=RULE))


def stem(size: int, batch: int = 1, pool: bool = True, filters: int = 64) -> Builder:
    """An image as bytes, its normalisation, and the beginning of a ResNet-18."""
    b = Builder("stem")
    x = b.input(np.arange(batch * 3 * size * size, dtype=np.uint8).reshape(batch, 3, size, size))
    y = b.add("Mul", b.add("Cast", x, dtype=DType.FP32), b.constant(1 / 255))
    mean, deviation = (np.array(v, np.float32).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    y = b.add("Div", b.add("Sub", y, b.constant(mean)), b.constant(deviation))
    w = np.random.default_rng(3).standard_normal((filters, 3, 7, 7)).astype(np.float32) / 12
    y = b.add("Relu", conv(b, y, w, weights(filters), strides=(2, 2), pads=(3,) * 4))
    if pool:
        window = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1,) * 4, "ceil_mode": False}
        y = b.add("MaxPool", y, dilations=(1, 1), **window)
    b.output(y)
    return b


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_stem_reads_the_bytes_of_an_image(pool: bool, dtype: str) -> None:
    b = stem(33, 2, pool, 16)
    plan = planned(b.graph, dtype=dtype)
    (launch,) = plan.programs[0].launches
    (problem,) = launch.problems
    assert isinstance(problem, Contraction) and problem.x.dtype is DType.UINT8
    assert plan.fused.graph.producer(problem.x.source).op == "Input"
    found, wanted = run_planned(plan, b.inputs)["y0"], evaluate(b.graph, b.inputs)["y0"]
    # Sums of 147 products of inputs up to 2.7 and weights of deviation 1/12, both rounded to the mode.
    unit = {"fp32": 2.0**-24 * np.sqrt(147), "fp16": 2.0**-11 * np.sqrt(2)}[dtype]
    assert np.abs(found - wanted).max() <= 8 * unit * 2.7 * np.sqrt(147) / 12 + 2.0**-11 * wanted.max()


# -- reasons ----------------------------------------------------------------------------------------------------------
def _before(op: str = "Exp", channels: int = 16) -> Callable[[Builder], Value]:
    return lambda b: b.add(op, b.input(integers(RANDOM, (1, channels, 5, 5))))


def _depthwise(b: Builder) -> None:
    b.output(conv(b, _before()(b), weights(16, 1, 3, 3), groups=16))


def _read_twice(b: Builder) -> None:
    y = b.output(_before()(b))
    b.output(conv(b, y, weights(4, 16, 1, 1)))


def _second_tensor(b: Builder) -> None:
    x, y = (b.input(integers(RANDOM, (1, 16, 5, 5))) for _ in range(2))
    b.output(conv(b, b.add("Add", x, y), weights(4, 16, 3, 3)))


def _pixel_constant(b: Builder) -> None:
    x = b.add("Mul", b.input(integers(RANDOM, (1, 16, 5, 5))), b.constant(weights(1, 1, 5, 5)))
    b.output(conv(b, x, weights(4, 16, 1, 1), pads=(1,) * 4))


def _many(b: Builder) -> None:
    x = b.input(integers(RANDOM, (1, 16, 5, 5)))
    for seed in range(6):
        x = b.add("Add", x, b.input(integers(RANDOM, (16, 1, 1 if seed else 5))))
    b.output(conv(b, x, weights(4, 16, 1, 1)))


def _broadcast_alone(b: Builder) -> None:
    x = b.add("Add", b.input(integers(RANDOM, (1, 16, 5, 1))), b.input(integers(RANDOM, (1, 16, 1, 5))))
    b.output(conv(b, x, weights(4, 16, 1, 1)))


def _flags(b: Builder) -> None:
    x = b.input(integers(RANDOM, (1, 16, 5, 5)))
    b.output(conv(b, b.add("Where", b.input(np.ones((1, 16, 5, 5), bool)), x, x), weights(4, 16, 1, 1)))


def _whole_numbers(b: Builder) -> None:
    x = b.add("Cast", b.input(integers(RANDOM, (1, 16, 5, 5))), dtype=DType.INT16)
    b.output(conv_integer(b, b.add("BitwiseNot", x)))


REASONS: dict[str, tuple[str, Callable[[Builder], None]]] = {
    "depthwise": ("the convolution is depthwise", _depthwise),
    "several readers": ("several operators read it", _read_twice),
    "a second tensor": ("two tensors that vary from pixel to pixel", _second_tensor),
    "a constant image": ("two tensors that vary from pixel to pixel", _pixel_constant),
    "many tensors": ("it would read too many tensors", _many),
    "broadcast tensors": ("it would read no tensor of its operand's shape", _broadcast_alone),
    "bool": ("reads bool", _flags),
    "whole numbers": ("computes on int16", _whole_numbers),
}


def reasons(b: Builder, switches: Switches | None = None) -> list[str]:
    canonical, _ = optimise(b.graph, Options(("interpreter",)))
    return [d.reason for d in fuse(canonical, switches or Switches()).declines if d.rule == RULE]


@pytest.mark.parametrize("case", REASONS)
def test_declines_with_a_reason(case: str) -> None:
    reason, build = REASONS[case]
    b = Builder()
    build(b)
    assert any(reason in text for text in reasons(b)), reasons(b)


def test_declines_what_has_no_known_shape() -> None:
    """Plans have none; what calls the rule itself may."""
    graph = Graph("images")
    x = graph.add(
        "Relu", [graph.add_input("x", TensorType(DType.FP32, (Dim.symbol("N"), 16, 5, 5)))], {}, origins=["relu"]
    )
    attributes = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "groups": 1}
    y = graph.add("Conv", [x, graph.add_constant(weights(4, 16, 1, 1))], attributes, origins=["conv"])
    assert prologue.propose(graph, graph.node(y.node), {}) == "its shape is not known"


def test_declines_what_belongs_to_another_kernel() -> None:
    """The convolution in front takes the operator as its epilogue; nothing is said where there is none."""
    b = Builder()
    y = b.add("Exp", conv(b, b.input(integers(RANDOM, (1, 16, 5, 5))), weights(16, 16, 3, 3)))
    b.output(conv(b, y, weights(4, 16, 3, 3)))
    assert reasons(b) == ["it already belongs to another kernel"]


@pytest.mark.parametrize(("batch", "pays"), [(1, True), (64, False)])
def test_declines_where_computing_it_again_costs_more(batch: int, pays: bool) -> None:
    b = Builder()
    b.output(conv(b, scaled(b, b.input(np.zeros((batch, 64, 28, 28), np.float32))), weights(64, 64, 3, 3)))
    assert any("every position of the window is" in reason for reason in reasons(b)) != pays
    assert (RULE in make_plan(b.graph, Options(("sm_90",))).fused.regions[-1].rules) == pays


def test_bytes_of_an_image_are_read_by_the_stem_on_every_gpu() -> None:
    """One multiplication and one addition for each element pay at batch 1; with the division they would not."""
    b = stem(224)
    gpus = ("sm_80", "sm_90")
    assert [region.rules for region in make_plan(b.graph, Options(gpus)).fused.regions] == [
        ("conv-pool", RULE, "conv-epilogue")
    ]
    apart = make_plan(b.graph, Options(gpus, switches=Switches(disable=("merge-affine",))))
    assert len(apart.fused.regions) == 2


@pytest.mark.usefixtures("interpreters")
def test_switched_off() -> None:
    b = Builder()
    b.output(conv(b, b.add("Relu", b.input(integers(RANDOM, (1, 16, 5, 5)))), integers(RANDOM, (4, 16, 1, 1))))
    assert launches(b, disable=("conv-prologue", *GROUPING)) == [(), ()]
    assert reasons(b, Switches(disable=(RULE,))) == ["the rule is switched off"]
    same(run(b.graph, b.inputs, disable="conv-prologue"), run(b.graph, b.inputs))


# -- conversions ------------------------------------------------------------------------------------------------------
NARROW = [DType.UINT8, DType.INT8, DType.INT16, DType.UINT16, DType.BOOL]


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", NARROW)
def test_conversions_between_floats_and_narrow_types(dtype: DType) -> None:
    """To whole numbers towards zero; to truth values anything but zero; back exactly."""
    b = Builder()
    least = 0.0 if dtype.numpy.kind == "u" else -100.0
    x = np.linspace(least, 120.0, 96, dtype=np.float32).reshape(2, 3, 4, 4)
    x[0, 0, 0, :3] = 0.0, 0.5, -0.0
    whole = b.add("Cast", b.add("Mul", b.input(x), b.constant(1.0)), dtype=dtype)
    b.output(whole)
    b.output(b.add("Neg", b.add("Cast", whole, dtype=DType.FP32)))
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
def test_conversions_between_whole_numbers_wrap_around() -> None:
    b = Builder()
    x = b.input(np.arange(-300, 300, 7, dtype=np.int16))
    for dtype in (DType.INT8, DType.UINT8, DType.BOOL, DType.UINT16):
        b.output(b.add("Cast", x, dtype=dtype))
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_conversions_of_doubles_have_no_kernel() -> None:
    b = Builder()
    b.output(b.add("Cast", b.input(np.ones((4,), np.float64)), dtype=DType.FP32))
    with pytest.raises(convc.UnsupportedModelError, match="Cast on fp64"):
        make_plan(b.graph, Options(("interpreter",), switches=Switches(disable=("host-steps",))))
    plan = make_plan(b.graph, Options(("interpreter",)))
    assert list(plan.fused.hosted.values()) == ["Cast on fp64"]


# -- text, counting, machine code -------------------------------------------------------------------------------------
def test_source_of_a_stem(golden: Callable[[str, str], None]) -> None:
    (problem,) = planned(stem(64, pool=False).graph, "sm_90", dtype="fp16").programs[0].problems
    kernel = emitted(problem, Tile(64, 64, 32, num_warps=4, num_stages=3))
    golden("kernels/conv7x7_prologue.py", kernel.source)


def test_traffic_counts_the_bytes_of_the_image_once() -> None:
    (launch,) = planned(stem(64, pool=False).graph, "sm_90", dtype="fp16").programs[0].launches
    assert launch.traffic.activations == 3 * 64 * 64 + 64 * 32 * 32 * 4
    assert launch.macs == 64 * 32 * 32 * 3 * 49


def test_a_prologue_costs_predicted_time() -> None:
    (problem,) = planned(stem(224, 8, pool=False).graph, "sm_90", dtype="fp16").programs[0].problems
    assert isinstance(problem, Contraction)
    more = (Statement(0, s.operator, s.attributes, s.arguments) for s in problem.prologue * 8)
    longer = type(problem)(**{**vars(problem), "prologue": tuple(more)})
    gpu = target("sm_90")
    assert tiling.ranked(longer, gpu)[0].predicted_us > tiling.ranked(problem, gpu)[0].predicted_us


def test_explain_names_the_rule() -> None:
    b = stem(64)
    plan = make_plan(b.graph, Options(("sm_90",), "fp16", switches=Switches(disable=("merge-affine",))))
    edges = {(edge.source.rstrip("0123456789"), edge.target.rstrip("0123456789")): edge for edge in explain(plan)}
    for pair in (("cast", "mul"), ("sub", "div"), ("div", "conv")):
        assert pair in edges and (edges[pair].fused, edges[pair].rule) == (True, RULE)


def _machine_code(dtype: str) -> Builder:
    b = Builder("prologues")
    for channels, extent, filters, groups in ((64, 28, 64, 1), (128, 14, 256, 2)):
        x = b.input(np.zeros((1, channels, extent, extent), np.float32))
        b.output(conv(b, scaled(b, x), weights(filters, channels // groups, 3, 3), pads=(1,) * 4, groups=groups))
    return b


@pytest.mark.parametrize("dtype", ["fp16", "tf32", "fp32"])
@pytest.mark.parametrize("build", [lambda dtype: stem(224), _machine_code], ids=["stem", "windows"])
def test_no_spills_and_tensor_cores(build: Callable[[str], Builder], dtype: str, tmp_path: Path) -> None:
    plan = planned(build(dtype).graph, "sm_80", "sm_90", dtype=dtype)
    assert all(RULE in region.rules for region in plan.fused.regions)
    check_machine_code(plan, tmp_path, len(plan.fused.regions), tensor_cores=dtype != "fp32")
