"""The layers of the DSL: methods of `Tensor`, grouped by what they do."""

from .tensor import Tensor

__all__ = ["Tensor"]
