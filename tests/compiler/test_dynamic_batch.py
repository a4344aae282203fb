"""One artifact at any batch: the emitted kernels compute the first images, whatever stands behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import APART, Builder, Retile, Taking, conv, evaluate, integers, retiled, same
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_cnns import BLOCKS, RandomCnn
from small_networks import weights
from test_flat import blocks

import convc
from convc import errors, nn
from convc.analysis.bounds import output_bounds
from convc.compiler import compile_plan
from convc.ir import Dim, DType, Graph, TensorType, Value
from convc.ir.images import Mixing, images_of
from convc.ir.plan import Tile
from convc.ir.problem import AxisReduction, Contraction, Problem, WindowReduction
from convc.passes import Launch
from convc.passes.fewer import fewer_programs
from convc.planner import make_plan
from convc.program import Options
from convc.runtime.dtypes import numpy_dtype
from convc.runtime.engine import Engine
from convc.runtime.manifest import TensorSpec
from convc.runtime.network import CompiledNetwork

pytestmark = pytest.mark.usefixtures("interpreters")
MOST = 4
N = Dim.symbol("N")


def residual(net: nn.Network) -> nn.Tensor:
    x = net.input(8, 8, 8, batch="N").conv(16, 3, padding=1, bias=False).batch_norm().relu()
    y = x.conv(32, 3, 2, 1, bias=False).batch_norm().relu().conv(32, 3, 1, 1, bias=False).batch_norm()
    y = (y + x.conv(32, 1, 2, bias=False).batch_norm()).relu().max_pool(3, 2, 1)
    return y.global_avg_pool().dense(10).softmax()


def gated(net: nn.Network) -> nn.Tensor:
    x = net.input(3, 9, 9, batch="N").conv(16, 3, 2, 1, bias=False).batch_norm().silu()
    y = x.depthwise(3, padding=1, bias=False).batch_norm().silu()
    gate = y.global_avg_pool().conv(4, 1).silu().conv(16, 1).sigmoid()
    return x + (y * gate).conv(16, 1, bias=False).batch_norm()


def inception(net: nn.Network) -> nn.Tensor:
    x = net.input(3, 8, 8, batch="N").conv(16, 3, padding=1).relu().lrn(5).max_pool(2)
    parts = [x.conv(8, 1).relu(), x.conv(8, 1).relu().conv(12, 3, padding=1).relu(), x.max_pool(3, 1, 1).conv(4, 1)]
    return nn.concat(parts).conv(8, 1).relu()


NETWORKS: dict[str, Callable[[nn.Network], nn.Tensor]] = {
    "residual": residual,
    "gated": gated,
    "inception": inception,
}


def graph_of(name: str) -> Graph:
    net = nn.Network(name)
    return net.output(NETWORKS[name](net)).graph


def poison(engine: Engine) -> None:
    """NaN in every image, and wherever kernels write; a run overwrites those that it has."""
    inputs = [f"input:{number}" for number in range(len(engine.inputs))]
    for name in (*inputs, *(f"output:{number}" for number in range(len(engine.outputs))), "arena"):
        engine.executor.buffer(name)[:] = 0xFF  # type: ignore[attr-defined]


def drawn(random: np.random.Generator, spec: TensorSpec) -> np.ndarray:
    values = integers(random, spec.shape)
    return (values if spec.dtype.startswith("fp") else np.abs(values)).astype(numpy_dtype(spec.dtype))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_number_of_images_behind_which_there_is_nothing_but_nan(name: str, dtype: str) -> None:
    graph = graph_of(name)
    network = convc.compile(graph, target="interpreter", dtype=dtype, batch="dynamic", max_batch=MOST)
    x = np.random.default_rng(0).standard_normal(network.inputs[0].shape).astype(np.float32)
    bounds = output_bounds(graph.bind({"N": MOST}), dtype, {"input": x}, 0)
    with network.engine("interpreter") as engine:
        whole = engine(x)
        wanted = evaluate(graph.bind({"N": MOST}), {"input": x})["output"]
        assert np.abs(whole - wanted).max() <= bounds["output"]
        assert name != "residual" or any(launch.fewer for launch in network.plan.launches)
        for count in (1, 2, 3, MOST, 1):
            poison(engine)
            np.testing.assert_array_equal(engine(x[:count]), whole[:count])


def opened(graph: Graph) -> Graph:
    """The graph with a symbolic batch instead of the one it has, shapes inferred anew."""
    batch = graph.graph_inputs[0].outputs[0].shape[0]
    new, values = Graph(graph.name), dict[Value, Value]()

    def first(shape: Any) -> tuple[Any, ...]:
        return (N, *shape[1:]) if shape and shape[0] == batch else tuple(shape)

    for node in graph.nodes():
        operands = [values[value] for value in graph.inputs(node)]
        if node.op == "Input":
            made = new.add_input(
                node.attributes["name"], TensorType(node.outputs[0].dtype, first(node.outputs[0].shape))
            )
        elif node.op == "Constant":
            assert node.payload is not None
            made = new.add_constant(node.payload)
        elif node.op == "Output":
            made = new.add_output(node.attributes["name"], *operands)
        else:
            sizes = {"Reshape": "shape", "Expand": "shape", "Slice": "sizes", "Resize": "sizes"}.get(node.op)
            changed = {sizes: first(node.attributes[sizes])} if sizes else {}
            made = new.add(node.operator, operands, {**node.attributes, **changed}, origins=node.origins)
        values |= {Value(node.id, i): Value(made.node, i) for i in range(len(node.outputs))}
    return new


def low(problem: Problem, tile: Tile) -> Tile:
    """Few rows, so that few images need few programs."""
    simple = type(problem) in (Problem, Contraction, WindowReduction, AxisReduction)
    return replace(tile, rows=min(tile.rows, 16)) if simple else tile


@settings(settings.get_profile("shared-process"), max_examples=12)
@given(
    st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=3), st.integers(0, 10**6), st.sampled_from(["fp32", "fp16"])
)
def test_random_networks(blocks: list[str], seed: int, dtype: str) -> None:
    """Exactly, because values are small whole numbers."""
    try:
        graph = opened(RandomCnn(seed, blocks).graph)
    except errors.ShapeError:
        assume(False)
    assume(not isinstance(images_of(graph), Mixing))
    plan = make_plan(graph, Options(("interpreter",), dtype, MOST, dynamic=True))
    plan = retiled(plan, low) if all(isinstance(entry, Launch) for entry in plan.programs[0].schedule) else plan
    network = CompiledNetwork(compile_plan(plan))
    random = np.random.default_rng(seed)
    inputs = {spec.name: drawn(random, spec) for spec in network.inputs}
    with network.engine("interpreter") as engine:
        for count in range(1, MOST + 1):
            poison(engine)
            given_images = {spec.name: inputs[spec.name][: count if spec.images else None] for spec in network.inputs}
            same(engine.run(given_images), evaluate(graph.bind({"N": count}), given_images))


@pytest.mark.parametrize("change", [blocks(16, 16, 32), blocks(16, 16, 32, split=2), low], ids=["flat", "split", "low"])
def test_zeros_around_images(change: Retile) -> None:
    """As many programs as write the zeros of the images that there are, and those that close the last one."""
    b = Builder()
    x = b.add("Neg", b.graph.add_input("x", TensorType(DType.FP32, (N, 32, 5, 6))))
    for _ in range(3):
        x = b.add("Clip", conv(b, x, weights(32, 32, 3, 3), weights(32), pads=(1,) * 4), min=-3.0, max=4.0)
    b.output(x)
    options = Options(("interpreter",), "fp16", MOST, switches=APART, policy=Taking("zero-borders"), dynamic=True)
    network = CompiledNetwork(compile_plan(retiled(make_plan(b.graph, options), change)))
    assert [bool(launch.fewer) for launch in network.plan.launches][1:] == [True] * 3
    images = integers(np.random.default_rng(0), (MOST, 32, 5, 6))
    with network.engine("interpreter") as engine:
        for count in range(1, MOST + 1):
            poison(engine)
            some = {"x": images[:count]}
            same(engine.run(some), evaluate(b.graph.bind({"N": count}), some))


def test_saved_and_loaded(tmp_path: Path) -> None:
    network = convc.compile(graph_of("residual"), target="interpreter", batch="dynamic", max_batch=MOST)
    network.save(tmp_path / "r.convc")
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 8)).astype(np.float32)
    with convc.load(tmp_path / "r.convc") as loaded:
        assert loaded.inputs[0].images == loaded.outputs[0].images == 1
        np.testing.assert_array_equal(loaded(x), network(x))
        with pytest.raises(errors.InputError, match="1 to 4"):
            loaded(np.zeros((5, 8, 8, 8), np.float32))
        np.testing.assert_array_equal(loaded(x), network(x))


@pytest.mark.parametrize("count", [1, 2, MOST])
def test_the_numpy_executor(count: int) -> None:
    graph = graph_of("gated")
    network = convc.compile(graph, target="", dtype="fp32", batch="dynamic", max_batch=MOST)
    x = np.random.default_rng(0).standard_normal((count, 3, 9, 9)).astype(np.float32)
    with network.engine("numpy") as engine:
        found = engine.run({"input": x})
    bound = output_bounds(graph.bind({"N": count}), "fp32", {"input": x}, 0)["output"]
    assert found["output"].shape == (count, 16, 5, 5)
    assert np.abs(found["output"] - evaluate(graph.bind({"N": count}), {"input": x})["output"]).max() <= bound


def test_outputs_that_hold_no_images_are_given_whole() -> None:
    b = Builder()
    x = b.graph.add_input("x", TensorType(DType.FP32, (N, 4)))
    scale = b.graph.add_input("scale", TensorType(DType.FP32, (4,)))
    b.output(b.add("Mul", x, scale))
    b.output(b.add("Neg", scale))
    network = convc.compile(b.graph, target="interpreter", dtype="fp32", batch="dynamic", max_batch=MOST)
    given_arrays = {"x": np.ones((2, 4), np.float32), "scale": np.arange(4, dtype=np.float32)}
    found = network.run(given_arrays)
    same(found, {"y0": np.tile(given_arrays["scale"], (2, 1)), "y1": -given_arrays["scale"]})


class TestRefusals:
    def test_operators_that_mix_images(self) -> None:
        b = Builder()
        x = b.graph.add_input("x", TensorType(DType.FP32, (N, 4)))
        b.output(b.add("Softmax", b.add("Neg", x), axis=0))
        with pytest.raises(errors.UsageError) as raised:
            convc.plan(b.graph, batch="dynamic", max_batch=8)
        assert raised.value.node is not None and raised.value.node.startswith("softmax")
        assert "Softmax gives for one image may depend on the others" in str(raised.value)
        assert "--batch 8" in str(raised.value)

    def test_a_batch_that_is_fixed(self) -> None:
        net = nn.Network("fixed")
        net.output(net.input(3, 8, 8, batch=2).relu())
        with pytest.raises(errors.UsageError, match=r"a dynamic batch does not apply.* fixed at 2"):
            convc.plan(net, batch="dynamic")

    @pytest.mark.parametrize(
        ("batch", "most", "said"),
        [("dynamic", 0, "found '0'"), ("any", None, "found 'any'"), (2, 4, "--max-batch 4 goes with --batch dynamic")],
    )
    def test_other_values(self, batch: Any, most: Any, said: str) -> None:
        with pytest.raises(errors.UsageError, match=said):
            convc.plan(graph_of("gated"), batch=batch, max_batch=most)


def test_kernels_are_those_of_the_largest_batch() -> None:
    """And most of the launches have grids for fewer images."""
    fixed = convc.plan("zoo:resnet18", "sm_90", batch=8)
    dynamic = convc.plan("zoo:resnet18", "sm_90", batch="dynamic", max_batch=8)
    (program,) = dynamic.programs
    assert [launch.kernel for launch in program.launches] == [launch.kernel for launch in fixed.programs[0].launches]
    single = [launch for launch in program.launches if len(launch.steps) == 1]
    pairs = [
        fewer_programs(step.work.problem, step.tile, launch.kernel.grid, dynamic.layouts, 8, dynamic.held)
        for launch in single
        for step in launch.steps
    ]
    assert 2 * sum(map(bool, pairs)) >= len(program.launches) and all(len(found) <= 3 for found in pairs)


def test_a_network_of_the_zoo_has_the_maximum_that_is_asked_for() -> None:
    assert convc.plan("zoo:lenet5", "interpreter", batch="dynamic").graph.graph_inputs[0].outputs[0].shape[0] == 32
    assert convc.plan("zoo:lenet5", "sm_90", batch="dynamic", max_batch=4).options.batch == 4
