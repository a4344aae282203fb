"""Networks of the zoo in fp32 on the GPU, by torch, as what results are compared with."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from convc.planner import bind_batch

from .cases import graph_of
from .graph_module import as_tensor, module_of

CHUNK = 64


@lru_cache(maxsize=1)
def module_in_fp32(network: str, dtype: str) -> torch.nn.Module:
    """The network's own graph, unfolded, in fp32, on the GPU where there is one."""
    return module_of(bind_batch(graph_of(network, dtype), 1)).float().to(device())


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@torch.no_grad()
def in_fp32(network: str, dtype: str, images: np.ndarray) -> np.ndarray:
    """Results for some images, without TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        module = module_in_fp32(network, dtype)
        parts = as_tensor(images).to(device()).float().split(CHUNK)
        return torch.cat([module(part) for part in parts]).cpu().numpy()
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
