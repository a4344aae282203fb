"""The other ways to run the same networks with torch: what convc is compared with.

- **eager**: channels-last, cuDNN's search for the fastest algorithm, batch normalisation by itself;
- **folded**: the same with batch normalisation folded, in float64;
- **fused-calls**: `folded`, with convolution, residual sum and ReLU in one call of cuDNN where that is faster;
- **inductor**: `folded` by ``torch.compile`` with frozen weights;
- **inductor-max**: the same with ``max-autotune``.

Each computes in the type of the numeric mode (tf32: fp32 with TF32 allowed) on images in that type, channels-last.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.experimental import optimization

from .graph_module import as_tensor

TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}
WARM_UPS = 3
TRIALS = 12


@dataclass(frozen=True)
class Peer:
    """A way to run a module. prepare: a private copy of the module and example images → a function of images.
    seconds: what preparing takes at most, roughly, on the GPU machine."""

    name: str
    prepare: Callable[[nn.Module, torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]
    seconds: float = 10.0


class Captured:
    """A prepared peer as a CUDA graph over fixed images; without a GPU it is called anew each time."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> None:
        self._images, self._function = images, function
        self._graph: torch.cuda.CUDAGraph | None = None
        if images.is_cuda:
            self._capture()
        else:
            self.output = function(images).clone()

    def _capture(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._function(self._images)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"):
            self.output = self._function(self._images)
        torch.cuda.synchronize()

    def replay(self) -> None:
        """One run on the current stream."""
        if self._graph is None:
            self.output.copy_(self._function(self._images))
        else:
            self._graph.replay()

    def poison(self) -> None:
        self.output.fill_(math.nan)

    def result(self) -> np.ndarray:
        """The output in fp32."""
        return self.output.float().cpu().numpy()

    def close(self) -> None:
        """Lets go of the graph's memory and of what ``torch.compile`` keeps."""
        self._graph = None
        torch._dynamo.reset()


def images_on(device: str, images: np.ndarray) -> torch.Tensor:
    """Images as a peer wants them: on the device, channels-last."""
    return as_tensor(images).to(device).contiguous(memory_format=torch.channels_last)


def allow_tf32(dtype: str) -> None:
    """TF32 in fp32 products for the mode of that name, and not for others; cuDNN searches among its algorithms."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    torch.backends.cudnn.benchmark = True


@torch.no_grad()
def prepared(peer: Peer, module: nn.Module, images: torch.Tensor) -> Captured:
    """module: in fp32, unfolded; it is not changed."""
    return Captured(torch.no_grad()(peer.prepare(copy.deepcopy(module), images)), images)


# -- the ways ---------------------------------------------------------------------------------------------------------
def lowered(module: nn.Module, images: torch.Tensor) -> nn.Module:
    """The module in the type and layout of the images."""
    return module.to(images.device, images.dtype).to(memory_format=torch.channels_last).eval()


def folded(module: nn.Module) -> nn.Module:
    """Batch normalisation folded into the convolutions in front of it, in float64."""
    return optimization.fuse(module.double()).float().eval()


def _inductor(module: nn.Module, images: torch.Tensor, mode: str) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch._inductor.config as config

    config.freezing = True
    compiled = torch.compile(lowered(folded(module), images), mode=mode, dynamic=False, fullgraph=True)
    compiled(images)
    return compiled


def _fused_calls(module: nn.Module, images: torch.Tensor) -> nn.Module:
    changed = with_fused_calls(lowered(folded(module), images))
    sites = [site for site in changed.modules() if isinstance(site, FusedCall)]
    for site in sites:
        site.undecided = images.is_cuda
    changed(images)
    return changed


PEERS = {
    peer.name: peer
    for peer in (
        Peer("eager", lowered),
        Peer("folded", lambda module, images: lowered(folded(module), images)),
        Peer("fused-calls", _fused_calls),
        Peer("inductor", lambda module, images: _inductor(module, images, "default"), 45.0),
        Peer("inductor-max", lambda m, images: _inductor(m, images, "max-autotune-no-cudagraphs"), 120.0),
    )
}
USUAL = ("eager", "folded", "fused-calls", "inductor")


# -- convolution, sum and ReLU in one call of cuDNN -------------------------------------------------------------------
class FusedCall(nn.Module):
    """relu(conv(x) [+ z]) in one call where that is the faster way, which the first run of it finds out."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.in_one, self.undecided = False, False

    def forward(self, x: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        if self.undecided:
            self.in_one, self.undecided = self._faster(x, z), False
        return self.one_call(x, z) if self.in_one else self.separate_calls(x, z)

    def separate_calls(self, x: torch.Tensor, z: torch.Tensor | None) -> torch.Tensor:
        y = self.conv(x)
        return F.relu(y if z is None else y.add_(z), inplace=True)

    def one_call(self, x: torch.Tensor, z: torch.Tensor | None) -> torch.Tensor:
        conv = self.conv
        geometry = (conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        if z is None:
            return torch.cudnn_convolution_relu(x, conv.weight, *geometry)
        return torch.cudnn_convolution_add_relu(x, conv.weight, z, 1.0, *geometry)

    def _faster(self, x: torch.Tensor, z: torch.Tensor | None) -> bool:
        try:
            return _milliseconds(lambda: self.one_call(x, z)) <= _milliseconds(lambda: self.separate_calls(x, z))
        except RuntimeError:  # cuDNN has no such call for this convolution
            return False


def _milliseconds(work: Callable[[], object]) -> float:
    """Time of one piece of work on the GPU, the work of many queued so that launching is not in it."""
    for _ in range(WARM_UPS):
        work()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(2_000_000)
    begin.record()
    for _ in range(TRIALS):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / TRIALS


@dataclass
class _Site:
    """relu(conv(x)) or relu(conv(x) + z) in a graph: what goes, and what the call reads."""

    conv: fx.Node
    relu: fx.Node
    add: fx.Node | None = None
    operands: list[fx.Node] = field(default_factory=list)


def with_fused_calls(module: nn.Module) -> fx.GraphModule:
    """The module with every such site as a `FusedCall`."""
    traced = module if isinstance(module, fx.GraphModule) else fx.symbolic_trace(module)
    layers = dict(traced.named_modules())
    for number, relu in enumerate(list(traced.graph.nodes)):
        site = _site(relu, layers)
        if site is None:
            continue
        traced.add_module(f"call{number}", FusedCall(layers[str(site.conv.target)]))  # type: ignore[arg-type]
        with traced.graph.inserting_before(relu):
            relu.replace_all_uses_with(traced.graph.call_module(f"call{number}", tuple(site.operands)))
        for node in (relu, site.add, site.conv):
            if node is not None:
                traced.graph.erase_node(node)
    traced.recompile()
    return traced


def _site(relu: fx.Node, layers: dict[str, nn.Module]) -> _Site | None:
    if relu.op != "call_function" or relu.target is not F.relu:
        return None
    last = relu.args[0]
    if not isinstance(last, fx.Node) or len(last.users) > 1:
        return None
    if _is_conv(last, layers):
        return _Site(last, relu, None, [last.args[0]])  # type: ignore[list-item]
    if last.op != "call_function" or last.target not in (torch.add, operator.add):
        return None
    for conv, other in (last.args[:2], last.args[1::-1]):
        if _is_conv(conv, layers) and isinstance(other, fx.Node):
            return _Site(conv, relu, last, [conv.args[0], other])  # type: ignore[arg-type,union-attr,list-item]
    return None


def _is_conv(node: object, layers: dict[str, nn.Module]) -> bool:
    """Whether a node is a convolution that one node alone reads."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.users) > 1:
        return False
    return isinstance(layers[str(node.target)], nn.Conv2d)
