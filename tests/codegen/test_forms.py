"""The words for what a kernel's steps are."""

from __future__ import annotations

import pytest
from compiled import Builder, conv, planned
from small_networks import inside, kernel_case, weights

from convc.codegen.forms import contracted, form, multiplied

FORMS = {
    "conv3x3_bias_residual_relu": "convolution, prologue",
    "conv1x1": "matrix product",
    "conv1x1_prologue": "matrix product, prologue",
    "conv7x7_stem": "convolution, strided, few channels",
    "conv_grouped": "convolution, groups, prologue",
    "depthwise_multiplier": "depthwise convolution",
    "max_pool": "pooling",
    "lrn": "local response",
    "softmax": "softmax",
    "global_average": "reduction",
    "elementwise_chain": "pointwise",
}


@pytest.mark.parametrize("case", FORMS)
def test_forms_of_the_cases(case: str) -> None:
    problems = planned(kernel_case(case).graph, "sm_90", dtype="fp16").programs[0].problems
    assert FORMS[case] in [form(problem) for problem in problems]


@pytest.mark.parametrize(("dtype", "expected"), [("fp16", "fp16"), ("bf16", "bf16"), ("tf32", "tf32"), ("fp32", "")])
def test_what_tensor_cores_multiply(dtype: str, expected: str) -> None:
    problems = planned(kernel_case("conv1x1").graph, "sm_90", dtype=dtype).programs[0].problems
    assert [multiplied(found) for problem in problems if (found := contracted(problem))] == [expected]


@pytest.mark.parametrize(("stride", "expected"), [(1, "matrix product"), (2, "matrix product, strided")])
@pytest.mark.parametrize("bordered", [False, True])
def test_borders_around_a_tensor_are_no_stride(stride: int, expected: str, bordered: bool) -> None:
    """Lines of the result, or of what is read, may lie further apart for zeros around them."""
    b = Builder()
    x = inside(b, 2, 32, 15, 15)
    b.output(b.add("Abs", conv(b, x, weights(32, 32, 3, 3), pads=(1,) * 4) if bordered else x))
    y = conv(b, x, weights(64, 32, 1, 1), strides=(stride,) * 2)
    b.output(b.add("Abs", conv(b, y, weights(32, 64, 3, 3), pads=(1,) * 4) if bordered else y))
    problems = planned(b.graph, "sm_90", dtype="fp16").programs[0].problems
    assert expected in [form(problem) for problem in problems]
    other = {1: "matrix product, strided", 2: "matrix product"}[stride]
    assert other not in [form(problem) for problem in problems]
