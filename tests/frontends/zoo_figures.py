"""What the zoo's networks are known to have, and networks of it to look at."""

from __future__ import annotations

from convc.frontends import dsl, zoo
from convc.ir.graph import Graph, Node

# Parameters: torchvision's own counts where it has the network; elsewhere as said beside them. A batch normalisation
# has two for each channel, as in PyTorch: running statistics, which Keras and Darknet list too, do not count.
PARAMS = {
    "lenet5": 61_706,
    "alexnet": 62_378_344,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "densenet121": 7_978_856,
    "squeezenet1_0": 1_248_424,
    "squeezenet1_1": 1_235_496,
    "mobilenet_v2": 3_504_872,
    "efficientnet_b0": 5_288_548,
    "wide_resnet50": 68_883_240,
    "wide_resnet101": 126_886_696,
    "resnext50": 25_028_904,
    "resnext101": 88_791_336,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "mobilenet_v3_large": 5_483_032,
    "mobilenet_v3_small": 2_542_856,
    "inception_v3": 23_834_568,  # torchvision's 27,161,264 without the 3,326,696 of its auxiliary head
    "se_resnet50": 28_088_024,  # timm's seresnet50
    "nasnet_mobile": 5_289_978,  # Keras: 5,326,716 less 36,738 running statistics
    "tiny_yolo_v2": 15_861_773,  # Darknet's yolov2-tiny-voc.weights: 15,867,885 less 6,112 running statistics
    "googlenet": 6_998_552,  # Caffe's bvlc_googlenet without its auxiliary heads
    "mobilenet_v1": 4_231_976,  # Keras: 4,253,864 less 21,888 running statistics
    # VGG-16's convolutions, 3x3 of 512 filters, and 1x1 for two scores and four coordinates of nine anchors.
    "faster_rcnn_rpn": 14_714_688 + 512 * (9 * 512 + 1) + 9 * (2 + 4) * (512 + 1),
    # 5x5 of 48 planes, eleven 3x3 of 192 filters, one filter with a bias for each point.
    "alphago_policy": 192 * (25 * 48 + 1) + 11 * 192 * (9 * 192 + 1) + 192 + 19 * 19,
    "linear_classifier": 3072 * 10 + 10,
    "two_layer": 3072 * 100 + 100 + 100 * 10 + 10,
    "perceptron": 3073,
    # VGG-16's convolutions, its dense layers as such, three layers of scores, three enlargements: the paper's 134 M.
    "fcn8s": 14_714_688 + 4096 * (49 * 512 + 1) + 4096 * 4097 + 21 * (4097 + 513 + 257) + 21 * 21 * (16 + 16 + 256),
    "espcn": 25 * 64 + 64 + 9 * 64 * 32 + 32 + 9 * 32 * 9 + 9,
}
# 10⁹ multiply-accumulates to three decimals, as torchvision publishes them.
GMACS = {
    "resnet18": 1.814,
    "resnet50": 4.089,
    "vgg16": 15.470,
    "mobilenet_v2": 0.301,
    "efficientnet_b0": 0.386,
    "densenet121": 2.834,
    "squeezenet1_0": 0.819,
    "squeezenet1_1": 0.349,
    "wide_resnet50": 11.398,
    "wide_resnet101": 22.753,
    "resnext50": 4.230,
    "resnext101": 16.414,
    "densenet161": 7.728,
    "densenet169": 3.360,
    "densenet201": 4.291,
    "mobilenet_v3_large": 0.217,
    "mobilenet_v3_small": 0.057,
    "inception_v3": 5.713,
    "nasnet_mobile": 0.564,  # the paper's table 3
}
# Smaller inputs that still reach every layer of the ImageNet networks.
REDUCED = {
    "alexnet": 67,
    "zfnet": 97,
    **dict.fromkeys(("vgg11", "vgg11_lrn", "vgg13", "vgg16_c", "vgg16", "vgg19"), 32),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "densenet121", "googlenet"), 64),
    **dict.fromkeys(("squeezenet1_0", "squeezenet1_1", "mobilenet_v1", "mobilenet_v2", "efficientnet_b0"), 64),
    **dict.fromkeys(("wide_resnet50", "wide_resnet101", "resnext50", "resnext101", "se_resnet50"), 64),
    **dict.fromkeys(("densenet161", "densenet169", "densenet201", "mobilenet_v3_large", "mobilenet_v3_small"), 64),
    **dict.fromkeys(("nasnet_mobile", "tiny_yolo_v2", "yolo_v3_tiny", "openpose"), 64),
    **{"fcn8s": 32, "inception_v3": 107, "faster_rcnn_rpn": 48, "espcn": 16},
}
# Networks whose kinds of layers others have too.
SLOW = {
    *("vgg13", "vgg16_c", "vgg16", "resnet34", "resnet101", "resnet44", "resnet56", "zfnet"),
    *("wide_resnet50", "wide_resnet101", "resnext101", "densenet161", "densenet169", "densenet201"),
    *("tiny_yolo_v2", "faster_rcnn_rpn", "fcn8s"),
}


def reduced(name: str, **options: object) -> dsl.Network:
    less: dict[str, object] = {"size": REDUCED[name]} if name in REDUCED else {}
    if name == "unet":
        less = {"size": 188, "filters": 8}
    return zoo.build(name, **less, **options)  # type: ignore[arg-type]


def shaped(name: str, **options: object) -> Graph:
    return zoo.build(name, weights="none", **options).graph  # type: ignore[arg-type]


def sides(graph: Graph, *ops: str) -> list[object]:
    return [node.outputs[0].shape[2] for node in graph.of_kind(*ops)]


def macs(graph: Graph, node: Node) -> int:
    return int(node.operator.macs(node.attributes, [graph.type(v) for v in graph.inputs(node)], node.outputs))


def weights_without_biases(graph: Graph) -> int:
    return sum(node.array.size for node in graph.of_kind("Constant") if node.label.endswith(".weight"))
