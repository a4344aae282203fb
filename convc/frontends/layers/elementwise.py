"""Activations, arithmetic with broadcasting, softmax and local response normalisation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import errors
from ...ir.operator import REQUIRED, Kind, operators
from .base import Base, Operand

if TYPE_CHECKING:
    from .tensor import Tensor


class Elementwise(Base):
    """Layers that keep the shape."""

    def relu(self, *, name: str | None = None) -> Tensor:
        return self._unary("Relu", "relu", name)

    def leaky_relu(self, alpha: float = 0.01, *, name: str | None = None) -> Tensor:
        return self._unary("LeakyRelu", "leaky_relu", name, alpha=float(alpha))

    def prelu(self, slope: Operand | None = None, *, name: str | None = None) -> Tensor:
        """x where positive, slope · x elsewhere; slope: one number or [C], drawn from [0.1, 0.4] by default."""
        net = self.network
        name = net.unique("prelu", name)
        per_channel = (-1, *(1,) * (self.rank - 2))
        if slope is None:
            slope = net.weights.uniform(f"{name}.slope", (self._channels(name), *per_channel[1:]), 0.1, 0.4)
        elif not isinstance(slope, Base) and np.ndim(slope) == 1:
            slope = np.reshape(slope, per_channel)
        return net.add("PRelu", [self.value, self._operand(slope, f"{name}.slope")], name=name)

    def elu(self, alpha: float = 1.0, *, name: str | None = None) -> Tensor:
        return self._unary("Elu", "elu", name, alpha=float(alpha))

    def clip(self, low: float = -math.inf, high: float = math.inf, *, name: str | None = None) -> Tensor:
        return self._unary("Clip", "clip", name, min=float(low), max=float(high))

    def relu6(self, *, name: str | None = None) -> Tensor:
        return self._unary("Clip", "relu6", name, min=0.0, max=6.0)

    def sigmoid(self, *, name: str | None = None) -> Tensor:
        return self._unary("Sigmoid", "sigmoid", name)

    def hard_sigmoid(self, alpha: float = 1 / 6, beta: float = 0.5, *, name: str | None = None) -> Tensor:
        """max(0, min(1, alpha · x + beta)); the default slope is that of PyTorch and MobileNet-v3, not ONNX's 0.2."""
        return self._unary("HardSigmoid", "hard_sigmoid", name, alpha=float(alpha), beta=float(beta))

    def tanh(self, *, name: str | None = None) -> Tensor:
        return self._unary("Tanh", "tanh", name)

    def silu(self, *, name: str | None = None) -> Tensor:
        return self._unary("Silu", "silu", name)

    def gelu(self, approximate: str = "none", *, name: str | None = None) -> Tensor:
        """x · Φ(x), by the error function ("none") or its "tanh" approximation."""
        if approximate not in ("none", "tanh"):
            raise errors.one_of(approximate, ("none", "tanh"), "approximation of gelu:")
        return self._unary("Gelu", "gelu", name, approximate=approximate)

    def hard_swish(self, *, name: str | None = None) -> Tensor:
        return self._unary("HardSwish", "hard_swish", name)

    def activation(self, op: str, *, name: str | None = None, **attributes: Any) -> Tensor:
        """Any elementwise operator of one operand by its name in the IR, such as ``"Mish"`` or ``"Celu"``.

        Raises:
            UsageError: a name or an attribute that does not exist. ShapeError: one that is missing, or does not fit.
        """
        rows = {name: row for name, row in operators().items() if row.kind is Kind.ELEMENTWISE}
        if op not in rows:
            raise errors.one_of(op, rows, "activation")
        for attribute in attributes:
            if attribute not in rows[op].attributes:
                raise errors.one_of(attribute, rows[op].attributes, f"attribute of {op}:")
        for attribute, default in rows[op].attributes.items():
            if default is REQUIRED and attribute not in attributes:
                raise errors.wrong_attribute(op, attribute, "given", None)
        return self._unary(op, op.lower(), name, **attributes)

    def softmax(self, axis: int = 1, *, name: str | None = None) -> Tensor:
        name = self.network.unique("softmax", name)
        return self.network.add("Softmax", [self.value], {"axis": self._axis(axis, name)}, name=name)

    def log_softmax(self, axis: int = 1, *, name: str | None = None) -> Tensor:
        name = self.network.unique("log_softmax", name)
        return self.network.add("LogSoftmax", [self.value], {"axis": self._axis(axis, name)}, name=name)

    def lrn(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, *, name: str | None = None
    ) -> Tensor:
        """Local response normalisation across channels: x / (k + alpha/size · Σ x²)^beta.

        The constants are AlexNet's. As in PyTorch and ONNX, ``alpha`` is divided by ``size`` (the paper, Krizhevsky et
        al. 2012, does not divide).
        """
        attributes = {"size": size, "alpha": float(alpha), "beta": float(beta), "bias": float(k)}
        return self._unary("LRN", "lrn", name, **attributes)

    def dropout(self, rate: float = 0.5) -> Tensor:
        """The identity: dropout acts in training alone."""
        return self._same()

    def bias(self, value: np.ndarray | None = None, *, name: str | None = None) -> Tensor:
        """Adds a bias of its own to each channel and position; value: [C, H, W], drawn by default."""
        net = self.network
        name = net.unique("bias", name)
        shape = tuple(self._static(dim, name) for dim in self.shape[1:])
        full = f"{name}.value"
        constant = net.given(value, full, shape, lambda: net.weights.normal(full, shape, 0.1), name)
        return net.add("Add", [self.value, constant], name=name)

    # -- arithmetic ---------------------------------------------------------------------------------------------------
    def add(self, other: Operand, *, name: str | None = None) -> Tensor:
        """Sum with broadcasting; also ``+``."""
        return self._binary("Add", self, other, name)

    def mul(self, other: Operand, *, name: str | None = None) -> Tensor:
        """Product with broadcasting, a gate [N, C, 1, 1] for one; also ``*``."""
        return self._binary("Mul", self, other, name)

    def __add__(self, other: Operand) -> Tensor:
        return self._binary("Add", self, other)

    def __radd__(self, other: Operand) -> Tensor:
        return self._binary("Add", other, self)

    def __sub__(self, other: Operand) -> Tensor:
        return self._binary("Sub", self, other)

    def __rsub__(self, other: Operand) -> Tensor:
        return self._binary("Sub", other, self)

    def __mul__(self, other: Operand) -> Tensor:
        return self._binary("Mul", self, other)

    def __rmul__(self, other: Operand) -> Tensor:
        return self._binary("Mul", other, self)

    def __truediv__(self, other: Operand) -> Tensor:
        return self._binary("Div", self, other)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return self._binary("Div", other, self)

    __array_ufunc__ = None
    """An array on the left leaves the operation to the tensor instead of taking it apart."""

    def _binary(self, op: str, left: Operand, right: Operand, name: str | None = None) -> Tensor:
        name = self.network.unique(op.lower(), name)
        inputs = [self._operand(operand, f"{name}.operand") for operand in (left, right)]
        return self.network.add(op, inputs, name=name)
