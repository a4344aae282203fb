"""The zoo against the figures of its papers, of torchvision and of the lectures."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from graph_reference import (
    evaluate,
    onnxruntime_outputs,
    outputs,
    random_inputs,
    relative_error,
    rounding_bound,
)
from zoo_figures import GMACS, PARAMS, SLOW, macs, reduced, shaped, sides, weights_without_biases

from convc import errors
from convc.frontends import dsl, zoo
from convc.frontends.export import export_onnx
from convc.frontends.zoo.segmentation import enlarged
from convc.ir.graph import Graph
from convc.ir.types import DType


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    return {row["name"]: row for row in zoo.describe()}


def test_the_list_is_complete_and_takes_less_than_two_seconds() -> None:
    zoo.describe()
    start = time.process_time()
    rows = zoo.describe()
    assert time.process_time() - start < 2
    assert [row["name"] for row in rows] == zoo.names()
    assert all(row.keys() == {"name", "input_shape", "params", "macs"} for row in rows)


@pytest.mark.parametrize("name", PARAMS)
def test_parameters(name: str, rows: dict[str, dict]) -> None:
    assert rows[name]["params"] == PARAMS[name]


@pytest.mark.parametrize("name", GMACS)
def test_multiply_accumulates(name: str, rows: dict[str, dict]) -> None:
    assert round(rows[name]["macs"] / 1e9, 3) == GMACS[name]


def test_drawn_weights_do_not_change_the_counts(rows: dict[str, dict]) -> None:
    net = zoo.build("resnet20")
    assert (net.params, net.macs) == (rows["resnet20"]["params"], rows["resnet20"]["macs"])


def test_alexnet_sides_and_first_layer() -> None:
    graph = shaped("alexnet")
    assert sides(graph, "Conv", "MaxPool") == [55, 27, 27, 13, 13, 13, 13, 6]
    assert sides(graph, "LRN") == [27, 13]
    first = next(graph.of_kind("Conv"))
    assert graph.type(graph.inputs(first)[1]).size == 34_848


def test_zfnet_sides() -> None:
    assert sides(shaped("zfnet"), "Conv", "MaxPool") == [111, 56, 26, 13, 13, 13, 13, 6]


@pytest.mark.parametrize(
    ("name", "weights", "millions"),
    [
        ("vgg11", 132_851_392, 133),
        ("vgg11_lrn", 132_851_392, 133),
        ("vgg13", 133_035_712, 133),
        ("vgg16_c", 133_625_536, 134),
        ("vgg16", 138_344_128, 138),
        ("vgg19", 143_652_544, 144),
    ],
)
def test_vgg_weights_without_biases(name: str, weights: int, millions: int) -> None:
    """Exact sums, which the paper's table 2 prints in millions."""
    assert weights_without_biases(shaped(name)) == weights
    assert round(weights / 1e6) == millions


def test_vgg16_activation_values() -> None:
    """The slides print "24M x 4 bytes, 93 MB", which is not the sum of their own rows."""
    graph = shaped("vgg16")
    values = sum(node.outputs[0].size for node in graph.of_kind("Input", "Conv", "MaxPool", "Gemm"))
    assert round(values / 1e6, 2) == 15.24
    assert round(values * 4 / 1e6, 1) == 61.0


def test_googlenet_modules() -> None:
    """The paper's table 1 prints 73, 88, 100, 119, 170 and 54, 71 for stages 4 and 5: its 5a is not 51.1.

    Its conv1 has 34 million and 2.7 thousand weights: a slip, 7x7 over three channels and 64 filters are 118 million
    and 9.4 thousand.
    """
    graph = shaped("googlenet")
    per_module: dict[str, int] = {}
    for node in graph.of_kind("Conv"):
        module = node.label.partition(".")[0].partition("_reduce")[0]
        per_module[module] = per_module.get(module, 0) + macs(graph, node)
    found = {module.removeprefix("inception_"): round(count / 1e6, 1) for module, count in per_module.items()}
    assert (round(found.pop("conv1")), round(found.pop("conv2"))) == (118, 360)
    assert (round(found.pop("3a")), round(found.pop("3b"))) == (128, 304)
    expected = {"4a": 73.6, "4b": 87.9, "4c": 99.9, "4d": 118.5, "4e": 170, "5a": 51.1, "5b": 70.7}
    assert {**found, "4e": round(found["4e"])} == expected


def test_googlenet_sides_and_first_weights() -> None:
    graph = shaped("googlenet")
    assert sides(graph, "Concat") == [28, 28, 14, 14, 14, 14, 14, 7, 7]
    assert [node.outputs[0].shape[1] for node in graph.of_kind("Concat")] == [
        *(256, 480),
        *(512, 512, 512, 528, 832),
        *(832, 1024),
    ]
    first = next(graph.of_kind("Conv"))
    assert graph.type(graph.inputs(first)[1]).size == 9_408


@pytest.mark.parametrize(("depth", "billions"), [(18, 1.8), (34, 3.6), (50, 3.8), (101, 7.6), (152, 11.3)])
def test_resnet_of_the_paper(depth: int, billions: float) -> None:
    """The paper's table 1 counts convolutions and cuts: 3.66 · 10⁹ is 3.6 there, and 3.86 · 10⁹ is 3.8."""
    graph = shaped(f"resnet{depth}", stride_in_1x1=True)
    assert sum(macs(graph, node) for node in graph.nodes()) == pytest.approx(billions * 1e9, abs=0.1e9)


def test_resnet50_stride_is_where_it_was_asked_for() -> None:
    def strided(graph: Graph) -> set[tuple[object, ...]]:
        convolutions = [node for node in graph.of_kind("Conv") if node.attributes["strides"] == (2, 2)]
        return {graph.type(graph.inputs(node)[1]).shape[2:] for node in convolutions if "shortcut" not in node.label}

    assert strided(shaped("resnet50")) == {(7, 7), (3, 3)}
    assert strided(shaped("resnet50", stride_in_1x1=True)) == {(7, 7), (1, 1)}


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_resnet_cifar(depth: int, rows: dict[str, dict]) -> None:
    """6n + 2 layers with weights; the paper's parameter counts in millions, to what its table 6 prints."""
    graph = shaped(f"resnet{depth}")
    assert len(list(graph.of_kind("Conv", "Gemm"))) == depth
    millions = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}[depth]
    digits = 1 if depth == 110 else 2
    assert round(rows[f"resnet{depth}"]["params"] / 1e6, digits) == millions


def test_mobilenet_v1_of_the_paper(rows: dict[str, dict]) -> None:
    assert round(rows["mobilenet_v1"]["macs"] / 1e6) == 569
    assert round(rows["mobilenet_v1"]["params"] / 1e6, 1) == 4.2


def test_alphago_policy_has_a_bias_for_each_point() -> None:
    graph = shaped("alphago_policy")
    assert [node.outputs[0].shape for node in graph.graph_inputs] == [(1, 48, 19, 19)]
    assert len(list(graph.of_kind("Conv"))) == 13
    bias = next(graph.of_kind("Add"))
    assert graph.type(graph.inputs(bias)[1]).shape == (1, 19, 19)
    assert graph.graph_outputs[0].outputs[0].shape == (1, 361)


def test_alphago_probabilities_sum_to_one() -> None:
    graph = zoo.build("alphago_policy", filters=8).graph
    found = outputs(graph, evaluate(graph, random_inputs(graph)))["output"]
    assert found.shape == (1, 361) and found.sum() == pytest.approx(1, abs=361 * DType.FP32.epsilon)


@pytest.mark.parametrize(
    ("name", "units"), [("perceptron", [1]), ("linear_classifier", [10]), ("two_layer", [100, 10])]
)
def test_networks_without_convolutions(name: str, units: list[int]) -> None:
    """3 x 32 x 32 values are a vector of 3,072."""
    graph = shaped(name)
    (flat,) = graph.of_kind("Reshape")
    assert flat.outputs[0].shape == (1, 3072)
    assert [node.outputs[0].shape[1] for node in graph.of_kind("Gemm")] == units


def test_inception_v3_sides_and_channels() -> None:
    """The paper's table 1: 35 x 35 x 288, 17 x 17 x 768, 8 x 8 x 2048."""
    shapes = [node.outputs[0].shape[1:] for node in shaped("inception_v3").of_kind("Concat")]
    assert shapes == [
        *((256, 35, 35), (288, 35, 35), (288, 35, 35)),
        *((768, 17, 17),) * 5,
        *((1280, 8, 8), (2048, 8, 8), (2048, 8, 8)),
    ]


def test_nasnet_sides_and_channels() -> None:
    cells = [node.outputs[0].shape[1:3] for node in shaped("nasnet_mobile").of_kind("Concat") if ".p" not in node.label]
    assert cells == [(44, 56), (88, 28), *((264, 28),) * 4, (352, 14), *((528, 14),) * 4, (704, 7), *((1056, 7),) * 4]


def test_yolo_v3_tiny(rows: dict[str, dict]) -> None:
    """Darknet's yolov3-tiny.weights: 8,858,734 less 6,368 running statistics; 5.56 · 10⁹ operations.

    The constants of the decoding count here: the cells of two grids and six anchors.
    """
    cells, anchors = 2 * (13**2 + 26**2), 2 * 6
    assert rows["yolo_v3_tiny"]["params"] == 8_858_734 - 6_368 + cells + anchors
    assert round(2 * rows["yolo_v3_tiny"]["macs"] / 1e9, 2) == 5.56
    assert shaped("yolo_v3_tiny").graph_outputs[0].outputs[0].shape == (1, 3 * (13**2 + 26**2), 85)


def test_yolo_boxes_lie_where_their_cells_do() -> None:
    """With weights of zero every box is in the middle of its cell, as large as its anchor."""
    graph = zoo.build("yolo_v3_tiny", size=64, weights="none").graph
    (boxes,) = outputs(graph, evaluate(graph, random_inputs(graph)))["output"]
    coarse, fine = boxes[:12].reshape(3, 2, 2, 85), boxes[12:].reshape(3, 4, 4, 85)
    assert (coarse[2, 1, 0, :4] == [16, 48, 344, 319]).all()
    assert (fine[0, 3, 1, :4] == [24, 56, 10, 14]).all()
    assert (boxes[:, 4:] == 0.5).all()


def test_unet_of_the_paper(rows: dict[str, dict]) -> None:
    """Figure 1: sides from 572 to 28 and up to 388, with copies cropped to what they are joined to."""
    graph = shaped("unet")
    assert sides(graph, "Conv") == [
        *(570, 568, 282, 280, 138, 136, 66, 64, 30, 28),
        *(54, 52, 102, 100, 198, 196, 390, 388, 388),
    ]
    assert sides(graph, "ConvTranspose") == [56, 104, 200, 392]
    assert [node.outputs[0].shape[1] for node in graph.of_kind("Concat")] == [1024, 512, 256, 128]
    down = sum(9 * k * (c + k) + 2 * k for c, k in ((1, 64), (64, 128), (128, 256), (256, 512), (512, 1024)))
    up = sum(4 * 2 * k * k + k + 9 * k * 3 * k + 2 * k for k in (512, 256, 128, 64))
    assert rows["unet"]["params"] == down + up + 2 * 64 + 2 == 31_030_658


def test_fcn_labels_every_pixel() -> None:
    graph = shaped("fcn8s")
    assert graph.graph_outputs[0].outputs[0].shape == (1, 21, 224, 224)
    assert sides(graph, "ConvTranspose") == [14, 28, 224]


def test_enlargement_is_bilinear() -> None:
    """Inside, a ramp stays a ramp: the transposed convolution interpolates."""
    net = dsl.Network()
    net.output(enlarged(net.input(2, 6, 6), 2, "up"))
    ramp = np.broadcast_to(np.arange(6, dtype=np.float32), (1, 2, 6, 6))
    found = outputs(net.graph, evaluate(net.graph, {"input": ramp}))["output"]
    assert np.diff(found[0, 1, 5, 1:-1]).tolist() == [0.5] * 9


def test_tiny_yolo_v2_of_darknet(rows: dict[str, dict]) -> None:
    """6.97 · 10⁹ operations, a grid of 13 x 13 with 5 boxes of 25 values."""
    assert round(2 * rows["tiny_yolo_v2"]["macs"] / 1e9, 2) == 6.97
    assert shaped("tiny_yolo_v2").graph_outputs[0].outputs[0].shape == (1, 125, 13, 13)


def test_openpose_of_six_stages() -> None:
    """52,311,446 parameters, as in the published model for COCO; maps of an eighth of the side."""
    net = zoo.build("openpose", stages=6, weights="none")
    assert net.params == 52_311_446
    assert [node.outputs[0].shape for node in net.graph.graph_outputs] == [(1, 38, 46, 46), (1, 19, 46, 46)]


def test_region_proposals_are_pairs_of_probabilities() -> None:
    graph = reduced("faster_rcnn_rpn").graph
    scores = outputs(graph, evaluate(graph, random_inputs(graph)))["scores"]
    assert scores.shape == (1, 18, 3, 3)
    assert scores.reshape(2, 9, 3, 3).sum(0) == pytest.approx(1, abs=4 * DType.FP32.epsilon)
    assert [node.outputs[0].shape for node in shaped("faster_rcnn_rpn").graph_outputs] == [
        (1, 18, 14, 14),
        (1, 36, 14, 14),
    ]


def test_lenet_of_both_digit_sizes() -> None:
    assert sides(shaped("lenet5"), "Conv", "AveragePool") == [28, 14, 10, 5, 1]
    assert sides(shaped("lenet5", size=28), "Conv", "AveragePool") == [28, 14, 10, 5, 1]


def test_convnetjs_shapes() -> None:
    graph = shaped("convnetjs_cifar10")
    assert [node.outputs[0].shape[1:] for node in graph.of_kind("MaxPool")] == [(16, 16, 16), (20, 8, 8), (20, 4, 4)]


@pytest.mark.parametrize("n", [1, 3, 5])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("k", [0, 2])
def test_classical_pattern(n: int, pool: bool, m: int, k: int) -> None:
    net = zoo.classical(n, pool, m, k, filters=4)
    found = [node.op for node in net.graph.nodes() if node.op in ("Conv", "Relu", "MaxPool", "Gemm", "Softmax")]
    expected = ["Conv", "Relu"] * n + ["MaxPool"] * pool
    assert found == expected * m + ["Gemm", "Relu"] * k + ["Gemm", "Softmax"]
    values = evaluate(net.graph, random_inputs(net.graph))
    assert outputs(net.graph, values)["output"].sum() == pytest.approx(1)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(errors.UsageError, match=r"'resnet51'.*resnet50"):
        zoo.build("resnet51")
    with pytest.raises(errors.UsageError, match=r"'depth'.*size, classes, stride_in_1x1"):
        zoo.build("resnet50", depth=3)
    with pytest.raises(errors.UsageError, match=r"'lots'.*random, none"):
        zoo.build("lenet5", weights="lots")


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "densenet121", "alphago_policy"])
def test_symbolic_batch(name: str) -> None:
    symbolic = zoo.build(name, "N", weights="none").graph
    assert {str(node.outputs[0].shape[0]) for node in symbolic.graph_inputs + symbolic.graph_outputs} == {"N"}
    assert symbolic.bind({"N": 4}).graph_outputs[0].outputs == shaped(name, batch=4).graph_outputs[0].outputs


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in zoo.names()]
)
def test_runs_as_onnx_runtime_runs_its_export(name: str) -> None:
    """Activations keep finite and of order one, and the exported model computes the same."""
    graph = reduced(name).graph
    inputs = random_inputs(graph)
    values = evaluate(graph, inputs)
    for node in graph.nodes():
        if node.op not in ("Constant", "Output", "Softmax") and "decode" not in node.label:
            size = np.sqrt(np.mean(np.square(values[graph.values(node)[0]].astype(np.float64))))
            assert 0.05 < size < 20, (node.label, size)
    found, expected = onnxruntime_outputs(export_onnx(graph), inputs), outputs(graph, values)
    bound = rounding_bound(graph, DType.FP32.epsilon)
    assert bound < 1e-3
    assert found.keys() == expected.keys()
    for output, array in expected.items():
        assert relative_error(found[output], array) < bound


def test_full_size_export_of_the_largest_network() -> None:
    model = export_onnx(zoo.build("vgg19", weights="none").graph)
    onnx.checker.check_model(model, full_check=True)
    assert sum(np.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == 1) == PARAMS["vgg19"]
