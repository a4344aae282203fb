"""Matrix products."""

from __future__ import annotations

from .builder import Operand
from .call import Call
from .registry import adapter


@adapter("MatMul")
def matmul(call: Call) -> Operand:
    return call.emit("MatMul", call.x, call.required(1))


@adapter("Gemm")
def gemm(call: Call) -> Operand:
    """alpha · A · B + beta · C; C broadcasts at every opset, whatever the old attribute ``broadcast`` says."""
    return call.emit(
        "Gemm",
        *call.operands,
        alpha=call.attr("alpha"),
        beta=call.attr("beta"),
        trans_a=call.flag("transA"),
        trans_b=call.flag("transB"),
    )
