"""What the suite compiles and measures: networks, batch sizes, numeric modes, and variants of convc."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from convc.codegen.cache import KernelCache
from convc.frontends import zoo
from convc.ir import DType, Graph, TensorType, Value
from convc.passes import Switches
from convc.planner import make_plan
from convc.program import Options, Plan

TARGET = "sm_90"
BATCHES = (32, 1, 256)
"""In order of what they tell: the throughput of a small server, a single image, the most that memory traffic allows."""

NETWORKS = (
    "resnet50",
    "mobilenet_v2",
    "resnet18",
    "vgg16",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "squeezenet1_1",
    "alexnet",
)

IMAGES = {"fp16": DType.FP16, "bf16": DType.BF16, "tf32": DType.FP32, "fp32": DType.FP32}
"""Numeric mode → element type of the images: that of the peers' images, so that nobody reads more bytes."""


@dataclass(frozen=True)
class Variant:
    """A way to compile: the optimisation level, and what is switched beside it."""

    opt: str = "fuse"
    disable: tuple[str, ...] = ()
    enable: tuple[str, ...] = ()

    @property
    def switches(self) -> Switches:
        return Switches.parse(self.opt, self.disable, None, self.enable)


VARIANTS = {
    "fused": Variant(),
    "unfused": Variant("fold"),
    "pointers": Variant(disable=("descriptors",)),
    "masked": Variant(disable=("zero-borders",)),
    "im2col": Variant(enable=("im2col",)),
    "early-launch": Variant(enable=("programmatic-launch",)),
    "unchained": Variant(disable=("back-to-back",)),
    "apart": Variant(disable=("last-block", "sibling-convolutions")),
    "whole-batch": Variant(disable=("l2-slices",)),
}
"""Name → variant. `fused` is what a user gets, `unfused` has folded batch normalisation alone; the others differ from
`fused` in one feature, or in rules whose worth the cost model is least sure of."""

STEPPED = "whole-batch"
"""The variant that is looked at kernel by kernel: every tensor is in memory as a whole."""
BASIC = ("fused", "unfused")
EVERY_VARIANT = ("resnet50", "mobilenet_v2", "resnet18", "vgg16")
"""Networks whose cells hold all variants."""


@dataclass(frozen=True)
class Case:
    """One compiled network."""

    network: str
    batch: int
    dtype: str = "fp16"
    variant: str = "fused"

    @property
    def name(self) -> str:
        return f"{self.network}-b{self.batch}-{self.dtype}-{self.variant}"

    @staticmethod
    def of(name: str) -> Case:
        """The case of a name. Raises ``ValueError``."""
        network, batch, dtype, variant = name.split("-", 3)
        return Case(network, int(batch[1:]), dtype, variant)

    @property
    def options(self) -> Options:
        return Options((TARGET,), self.dtype, self.batch, VARIANTS[self.variant].switches)

    def plan(self, weights: str = "random", cache: KernelCache | None = None) -> Plan:
        """Its plan for the kernels of a cache, by default the user's."""
        return make_plan(graph_of(self.network, self.dtype, weights), self.options, cache)


@cache
def graph_of(network: str, dtype: str, weights: str = "random") -> Graph:
    """A network of the zoo with seeded weights and a symbolic batch, whose images come in the type of the mode.

    weights: ``none`` for plans alone; no kernel depends on the weights' values.
    """
    return with_images(zoo.build(network, batch="N", weights=weights).graph, IMAGES[dtype])


def with_images(graph: Graph, dtype: DType) -> Graph:
    """The graph with its only input in another type, converted at once. The graph itself is changed."""
    (image,) = graph.graph_inputs
    if image.outputs[0].dtype is not dtype:
        converted = graph.add_input(
            f"{image.attributes['name']}_{dtype.value}", TensorType(dtype, image.outputs[0].shape)
        )
        widened = graph.add("Cast", [converted], {"dtype": image.outputs[0].dtype}, origins=["images"])
        graph.replace(Value(image.id), widened)
        graph.remove(image)
    return graph


def variants_of(network: str, dtype: str, batch: int) -> tuple[str, ...]:
    """The variants that a cell compares: all for the networks that tell most, in fp16."""
    if dtype != "fp16" or network not in EVERY_VARIANT:
        return BASIC
    sliced = (STEPPED,) if batch > 1 else ()
    return (*BASIC, *(name for name in VARIANTS if name not in (*BASIC, STEPPED)), *sliced)


def cell(network: str, dtype: str, batch: int) -> list[Case]:
    """The cases that are compared with each other."""
    return [Case(network, batch, dtype, variant) for variant in variants_of(network, dtype, batch)]


TUNED = (("resnet50", 1), ("mobilenet_v2", 1))
"""Networks and batch sizes whose tiles are measured. Every candidate is compared with float64 on the processor, which
takes minutes for more than one image."""

DTYPES_OF: dict[str, tuple[str, ...]] = {"resnet50": ("fp16", "bf16", "tf32")}
"""Networks that are measured in more than fp16."""


def all_cases(networks: tuple[str, ...] = NETWORKS, batches: tuple[int, ...] = BATCHES) -> Iterator[Case]:
    """Every case of some networks, the most telling first; each with the plan that is looked at kernel by kernel."""
    for network in networks:
        for dtype in DTYPES_OF.get(network, ("fp16",)):
            for batch in batches:
                compared = cell(network, dtype, batch)
                yield from compared
                if (stepped := Case(network, batch, dtype, STEPPED)) not in compared and dtype == "fp16":
                    yield stepped
